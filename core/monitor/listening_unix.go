//go:build unix

package monitor

import "syscall"

// endListening ends it for every process that holds the socket.
func endListening(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RD) }
