//go:build gmoe_inject_panic

package main

import "github.com/genesis-moe/genesis-moe/core"

// A library built with this tag has a backend that panics, so that a test can see
// what a panic looks like to the host. A release is never built with it.
func init() { core.Register(panicking{}) }

type panicking struct{}

func (panicking) Name() string { return "panicking" }

func (panicking) DeviceType() core.DeviceType { return 3 }

func (panicking) DeviceCount() int { panic("injected for the test") }

func (panicking) Open(int32) (core.Session, error) { panic("injected for the test") }

func (panicking) Describe() map[string]any { return nil }
