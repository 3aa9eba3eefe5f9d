//go:build unix

package core

import "syscall"

// obtainable asks the system whether it would give this many bytes. The Go runtime
// does not survive a refusal, and the process that hosts it would end with it.
func obtainable(bytes int) bool {
	memory, err := syscall.Mmap(-1, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return false
	}
	return syscall.Munmap(memory) == nil
}
