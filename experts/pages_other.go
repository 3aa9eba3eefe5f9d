//go:build !linux

package experts

import "unsafe"

// preferHugePages does nothing where pages cannot be asked for.
func preferHugePages(unsafe.Pointer, int) {}
