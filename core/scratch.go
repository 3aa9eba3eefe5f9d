package core

import (
	"sync"
	"unsafe"
)

// Scratch is memory that an operation borrows from its engine and gives back.
// Its contents are whatever the last user left.
type Scratch struct {
	words []uint64
	used  int
}

// scratchPool keeps the scratch of finished operations for the next ones: as many
// as ever ran at once.
type scratchPool struct {
	mutex sync.Mutex
	free  []*Scratch
}

// Scratch borrows at least the given number of bytes, aligned to 64. Return it
// with [Engine.Release].
func (e *Engine) Scratch(bytes int) *Scratch {
	e.scratch.mutex.Lock()
	var s *Scratch
	if n := len(e.scratch.free); n > 0 {
		s, e.scratch.free = e.scratch.free[n-1], e.scratch.free[:n-1]
	}
	e.scratch.mutex.Unlock()
	if s == nil {
		s = &Scratch{}
	}
	s.used = 0
	if words := bytes/8 + 16; len(s.words) < words {
		e.Counters.ScratchBytes.Add(uint64(words-len(s.words)) * 8)
		s.words = make([]uint64, words)
	}
	return s
}

// Release gives scratch back to its engine.
func (e *Engine) Release(s *Scratch) {
	e.scratch.mutex.Lock()
	e.scratch.free = append(e.scratch.free, s)
	e.scratch.mutex.Unlock()
}

func (p *scratchPool) drop() {
	p.mutex.Lock()
	p.free = nil
	p.mutex.Unlock()
}

// Take cuts n elements off the scratch, aligned to 64 bytes. Borrow the sum of
// [ScratchSize] of all that is taken; it panics when that was too little.
func Take[E Element](s *Scratch, n int) []E {
	if n == 0 {
		return nil
	}
	base := uintptr(unsafe.Pointer(unsafe.SliceData(s.words)))
	start := int((base+uintptr(s.used)+63)&^63 - base)
	var e E
	end := start + n*int(unsafe.Sizeof(e))
	if end > len(s.words)*8 {
		panic("core: scratch was borrowed too small")
	}
	s.used = end
	return unsafe.Slice((*E)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(s.words)), start)), n)
}

// ScratchSize is the number of bytes to borrow for n elements of a [Take].
func ScratchSize[E Element](n int) int {
	var e E
	return n*int(unsafe.Sizeof(e)) + 64
}
