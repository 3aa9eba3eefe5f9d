package core

import (
	"slices"
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
// with [Engine.Release]. It panics with an [OutOfMemory] error when the system
// refuses that much.
func (e *Engine) Scratch(bytes int) *Scratch {
	words := bytes/8 + 16
	s := e.scratch.take(words)
	s.used = 0
	if len(s.words) < words {
		if !obtainable(words * 8) {
			e.Release(s)
			panic(Errorf(OutOfMemory, "scratch memory: the system refuses %d bytes", bytes))
		}
		e.Counters.ScratchBytes.Add(uint64(words-len(s.words)) * 8)
		s.words = nil // freed before its successor is made
		s.words = make([]uint64, words)
	}
	return s
}

// take removes the smallest free scratch that is large enough, else the largest,
// which then grows least; a new one if none is free.
func (p *scratchPool) take(words int) *Scratch {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if len(p.free) == 0 {
		return &Scratch{}
	}
	best := 0
	for i, s := range p.free {
		have, size := len(p.free[best].words), len(s.words)
		if have < words && size > have || size >= words && size < have {
			best = i
		}
	}
	s := p.free[best]
	p.free = slices.Delete(p.free, best, best+1)
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
