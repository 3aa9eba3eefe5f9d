package router

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// benchmarkModes are the routers of H = 1024, E = 64, k = 8.
func benchmarkModes() map[string]recipe {
	base := recipe{dtype: core.Float32, hidden: 1024, experts: 64, price: true, temperature: 0.3, seed: 1, options: core.DefaultRouterOptions()}
	base.options.TopK = 8
	modes := map[string]recipe{}
	add := func(name string, change func(*recipe)) {
		r := base
		change(&r)
		modes[name] = r
	}
	add("hamiltonian", func(r *recipe) { r.width = 64 })
	add("hamiltonian-bf16", func(r *recipe) { r.width, r.dtype = 64, core.BFloat16 })
	add("hamiltonian-H", func(*recipe) {})
	add("hamiltonian-dot", func(r *recipe) { r.options.Binding = core.Dot })
	add("hamiltonian-budgeted", func(r *recipe) { r.width, r.options.Budgeted, r.gap = 64, true, 0.1 })
	add("hamiltonian-batch", func(r *recipe) { r.width, r.options.Solver = 64, core.Batch })
	add("mixtral", func(r *recipe) { r.options.Mode, r.temperature = core.Mixtral, 0 })
	add("olmoe", func(r *recipe) { r.options.Mode, r.options.NormalizeTopK, r.temperature = core.Mixtral, false, 0 })
	add("deepseek", func(r *recipe) {
		r.options.Mode, r.options.NumGroups, r.options.TopKGroups, r.temperature = core.DeepSeek, 8, 4, 0
	})
	return modes
}

func BenchmarkRouter(b *testing.B) {
	engine := newEngine(b, 0)
	for _, tokens := range []int64{1, 16, 2048} {
		for name, r := range benchmarkModes() {
			r.tokens = tokens
			c := r.build()
			require.NoError(b, Forward(engine, &c.RouterForwardArgs))
			backward := c.backward(rand.New(rand.NewPCG(1, 1)), compact)
			b.Run(fmt.Sprintf("forward/T=%d/%s", tokens, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					require.NoError(b, Forward(engine, &c.RouterForwardArgs))
				}
			})
			b.Run(fmt.Sprintf("backward/T=%d/%s", tokens, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					require.NoError(b, Backward(engine, backward))
				}
			})
		}
	}
}
