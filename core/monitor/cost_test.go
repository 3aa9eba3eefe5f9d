package monitor

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// wide is the console at the size that it is made for, 60 layers of 128 experts, with all that a step can tell of them.
func wide(r *rand.Rand, number int64) record.Line {
	tokens := make([][]int64, 60)
	for l := range tokens {
		tokens[l] = make([]int64, 128)
		for e := range tokens[l] {
			tokens[l][e] = int64(r.IntN(200)) * int64(r.IntN(4)) / 3
		}
	}
	line := step(number, tokens...)
	for i := range line.Step.Layers {
		l := &line.Step.Layers[i]
		bind, entropy, cost := r.Float64(), -r.Float64(), r.Float64()
		sum := bind + entropy + cost
		l.Bind, l.Entropy, l.Cost, l.Hamiltonian, l.JoulesQuality = &bind, &entropy, &cost, &sum, record.Modelled
		for _, n := range l.Tokens {
			l.Joules = append(l.Joules, float64(n)*r.Float64()/100)
			l.FLOPs = append(l.FLOPs, n*6*2048*1024)
			l.Bytes = append(l.Bytes, n*4096)
		}
	}
	return line
}

func BenchmarkWrite(b *testing.B) {
	m := start(b, Options{})
	s := m.Stream()
	_ = s.Write(header("wide", 60, 128))
	line := wide(rand.New(rand.NewPCG(1, 1)), 1)
	for b.Loop() {
		_ = s.Write(line)
	}
}

func BenchmarkLog(b *testing.B) {
	m := start(b, Options{})
	logged(b, m, header("wide", 60, 128))
	text, _ := json.Marshal(wide(rand.New(rand.NewPCG(1, 1)), 1))
	b.Log(len(text))
	for b.Loop() {
		_ = m.Log(text)
	}
}

func BenchmarkFrame(b *testing.B) {
	m := start(b, Options{Interval: 1e10})
	s := m.Stream()
	_ = s.Write(header("wide", 60, 128))
	line := wide(rand.New(rand.NewPCG(1, 1)), 1)
	_ = s.Write(line)
	n := 0
	for b.Loop() {
		m.state.runs[0].changed = true
		f, _ := m.state.frame(m.Stats())
		n = len(f)
	}
	b.Log(n)
}

func BenchmarkFeed(b *testing.B) {
	m := start(b, Options{Interval: 1e10})
	s := m.Stream()
	_ = s.Write(header("wide", 60, 128))
	line := wide(rand.New(rand.NewPCG(1, 1)), 1)
	for b.Loop() {
		_ = s.Write(line)
		m.feedMetrics()
	}
}

func BenchmarkMarshal(b *testing.B) {
	line := wide(rand.New(rand.NewPCG(1, 1)), 1)
	for b.Loop() {
		_, _ = json.Marshal(line)
	}
}
