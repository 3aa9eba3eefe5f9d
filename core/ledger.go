package core

import "sync"

// MaxLayer is the highest number of a layer whose work is counted apart.
const MaxLayer = 4096

// Work is what one expert has done since its engine was created.
type Work struct {
	Rows  uint64 // computed forward
	FLOPs uint64 // multiplications and additions in matrix products, forward and backward
	Bytes uint64 // of weights, rows and gradients read and written
}

// Ledger counts the work of each expert of each layer. It is safe for concurrent use. A call of
// an operation locks a layer once, at its end, for as long as adding a few numbers takes.
type Ledger struct {
	mutex  sync.RWMutex
	layers map[int32]*layerWork
}

type layerWork struct {
	mutex   sync.Mutex
	experts []Work
}

// Add adds to a layer's experts what count says of each.
func (l *Ledger) Add(layer int32, experts int, count func(expert int) Work) {
	work := l.layer(layer)
	if work == nil {
		work = l.newLayer(layer)
	}
	work.mutex.Lock()
	defer work.mutex.Unlock()
	for len(work.experts) < experts {
		work.experts = append(work.experts, Work{})
	}
	for e := range experts {
		add := count(e)
		work.experts[e].Rows += add.Rows
		work.experts[e].FLOPs += add.FLOPs
		work.experts[e].Bytes += add.Bytes
	}
}

// Layer is a copy of what a layer's experts have done; empty when nothing was counted.
func (l *Ledger) Layer(layer int32) []Work {
	work := l.layer(layer)
	if work == nil {
		return nil
	}
	work.mutex.Lock()
	defer work.mutex.Unlock()
	return append([]Work(nil), work.experts...)
}

func (l *Ledger) layer(layer int32) *layerWork {
	l.mutex.RLock()
	defer l.mutex.RUnlock()
	return l.layers[layer]
}

func (l *Ledger) newLayer(layer int32) *layerWork {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.layers == nil {
		l.layers = map[int32]*layerWork{}
	}
	if l.layers[layer] == nil {
		l.layers[layer] = &layerWork{}
	}
	return l.layers[layer]
}
