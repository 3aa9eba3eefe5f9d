//go:build !unix

package monitor

// endListening has nothing to do where processes do not fork.
func endListening(uintptr) {}
