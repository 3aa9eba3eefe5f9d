//go:build !unix

package core

// obtainable does not know, and hopes.
func obtainable(int) bool { return true }
