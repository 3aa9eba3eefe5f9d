// Package handle gives out the opaque handles of the C ABI.
package handle

import "sync"

// Table maps handles to values. A handle is a ticket, not an address: its upper 16
// bits hold the table's mark, its lower 48 bits a number that is never given out
// twice. So a handle that was destroyed, or never was one, is recognised without
// reading memory; and dereferencing one by mistake faults at once, because no
// processor maps an address of that form. It is safe for concurrent use.
type Table[T any] struct {
	mark   uint64
	mutex  sync.RWMutex
	last   uint64
	values map[uintptr]T
}

const numberBits = 48

// NewTable makes an empty table. Marks tell the kinds of handles apart; bit 15 is
// clear and bit 14 set, which keeps handles out of every address space.
func NewTable[T any](mark uint16) *Table[T] {
	if mark>>14 != 1 {
		panic("handle: the mark must have bit 15 clear and bit 14 set")
	}
	return &Table[T]{mark: uint64(mark) << numberBits, values: map[uintptr]T{}}
}

// Add keeps a value and returns its handle.
func (t *Table[T]) Add(value T) uintptr {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.last++
	h := uintptr(t.mark | t.last)
	t.values[h] = value
	return h
}

// Get returns the value of a handle, or false when the handle is not a live one.
func (t *Table[T]) Get(h uintptr) (T, bool) {
	t.mutex.RLock()
	value, ok := t.values[h]
	t.mutex.RUnlock()
	return value, ok
}

// Remove takes a value out; its handle is never valid again. Of several threads
// that remove one handle, one gets the value and the others false.
func (t *Table[T]) Remove(h uintptr) (T, bool) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	value, ok := t.values[h]
	delete(t.values, h)
	return value, ok
}

// Len is the number of live handles.
func (t *Table[T]) Len() int {
	t.mutex.RLock()
	defer t.mutex.RUnlock()
	return len(t.values)
}
