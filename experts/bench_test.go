package experts

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/genesis-moe/genesis-moe/core"
)

// BenchmarkLayer runs both passes on the shapes that the project reports. It measures
// the passes alone: memory is allocated once.
func BenchmarkLayer(b *testing.B) {
	e := engine(b, 0)
	for _, s := range []struct{ h, i, e, k int }{{1024, 2048, 8, 2}, {1024, 512, 64, 8}, {576, 1536, 8, 2}} {
		for _, tokens := range []int{1, 16, 64, 512, 2048} {
			c := swiGLUTrial(tokens, s.k, s.h, s.e, s.i, core.Float32)
			name := fmt.Sprintf("H=%d/I=%d/E=%d/k=%d/T=%d", s.h, s.i, s.e, s.k, tokens)
			var forward *core.ExpertsForwardArgs
			var backward *core.ExpertsBackwardArgs
			prepare := func() {
				if forward == nil {
					forward, backward = c.uniform()
				}
			}
			flops := 6 * float64(tokens*s.k) * float64(s.h*s.i)
			b.Run(name+"/forward", func(b *testing.B) {
				prepare()
				for b.Loop() {
					if err := Forward(e, forward); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
			b.Run(name+"/backward", func(b *testing.B) {
				prepare()
				for b.Loop() {
					if err := Backward(e, backward); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(2*flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

// BenchmarkSmallExperts is a prompt through experts as calibration makes them: a dozen neurons each, a third of them
// for each token, and one set of weights after the other, as layers have them.
func BenchmarkSmallExperts(b *testing.B) {
	const tokens, slots, hidden, experts, intermediate, layers = 256, 99, 576, 98, 12, 16
	r := rand.New(rand.NewPCG(1, 1))
	var calls []*core.ExpertsForwardArgs
	for range layers {
		a, _ := swiGLUTrial(tokens, slots, hidden, experts, intermediate, core.Float32).uniform()
		a.PreActivation = nil
		a.DownProj.Strides = []int64{hidden * intermediate, 1, hidden} // a row for each neuron
		calls = append(calls, a)
	}
	index, rows := make([]int64, tokens*slots), 0
	for pair := range index {
		index[pair] = experts
		if expert := pair % slots; expert < experts && r.IntN(3) == 0 {
			index[pair] = int64(expert)
			rows++
		}
	}
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			e := engine(b, threads)
			for call := 0; b.Loop(); call++ {
				a := calls[call%layers]
				a.TopKIndex = core.FromSlice(index, tokens, slots)
				if err := Forward(e, a); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(6*float64(rows*hidden*intermediate)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
}

// uniform presents a trial without a reference: random numbers, compact tensors.
func (c trial) uniform() (*core.ExpertsForwardArgs, *core.ExpertsBackwardArgs) {
	r := rand.New(rand.NewPCG(1, 1))
	t, k, h, e, i := int64(c.t), int64(c.k), int64(c.h), int64(c.e), int64(c.i)
	numbers := func(shape ...int64) *core.Tensor {
		n := int64(1)
		for _, s := range shape {
			n *= s
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = r.Float32() - 0.5
		}
		return core.FromSlice(v, shape...)
	}
	x, dy := numbers(t, h), numbers(t, h)
	index, weights := core.FromSlice(c.route(r), t, k), numbers(t, k)
	gateUp, down, z := numbers(e, 2*i, h), numbers(e, h, i), numbers(t*k, 2*i)
	return &core.ExpertsForwardArgs{
		Options: c.options, HiddenStates: x, TopKIndex: index, TopKWeights: weights,
		GateUpProj: gateUp, DownProj: down, Output: numbers(t, h), PreActivation: z,
	}, &core.ExpertsBackwardArgs{
		Options: c.options, GradOutput: dy, HiddenStates: x, TopKIndex: index, TopKWeights: weights,
		GateUpProj: gateUp, DownProj: down, PreActivation: z, GradHiddenStates: numbers(t, h),
		GradTopKWeights: numbers(t, k), GradGateUpProj: numbers(e, 2*i, h), GradDownProj: numbers(e, h, i),
	}
}
