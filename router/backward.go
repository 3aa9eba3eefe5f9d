package router

import (
	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// Backward computes the exact gradients of [Forward] through gates, temperature,
// centroids, projection and bias; the choice is piecewise constant and has none. Shapes,
// dtypes and which tensors may be nil: gmoe_router_backward in genesis_moe.h. A
// temperature below its floor has gradient 0. Only what is wanted is computed.
func Backward(e *core.Engine, a *core.RouterBackwardArgs) error {
	s, err := checkBackward(a, e.Device)
	if err != nil {
		return err
	}
	e.Counters.RouterCalls.Add(1)
	if session := e.Session(); session != nil {
		return session.RouterBackward(a)
	}
	if err := checkIndex("top_k_index", a.TopKIndex); err != nil {
		return err
	}
	library, err := blas.Default()
	if err != nil {
		return err
	}
	if s.compute == core.Float64 {
		err = backward[float64](e, library, a, s)
	} else {
		err = backward[float32](e, library, a, s)
	}
	if err == nil {
		count(e, s, 2)
	}
	return err
}

// checkIndex refuses negative experts. Those past the last are absent slots.
func checkIndex(name string, t *core.Tensor) error {
	for i := range t.Shape[0] {
		for j := range t.Shape[1] {
			if expert := loadIndex(t, i*t.Stride(0)+j*t.Stride(1)); expert < 0 {
				return core.Invalidf(name, "%d at [%d, %d], want 0 or more", expert, i, j)
			}
		}
	}
	return nil
}

// gradients is one backward pass. With z = W x, the length a = |z|+eps, b = |c|+eps and
// the cosine s = <z,c>/(a b), a gradient dl of the logits gives, for cosine binding,
//
//	dz_t = sum_e q_te c_e - r_t z_t      q_te = dl_te/(a_t b_e)   r_t = sum_e dl_te s_te / (a_t |z_t|)
//	dc_e = sum_t q_te z_t - v_e c_e                               v_e = sum_t dl_te s_te / (b_e |c_e|)
//
// (r = 0 where z = 0, v = 0 where c = 0), and with linear logits q = dl, r = v = 0. Then
// dx = W^T dz and dW = sum_t dz_t x_t^T.
type gradients[F blas.Float] struct {
	*core.RouterBackwardArgs
	shapes
	parameters[F]
	engine  *core.Engine
	library *blas.Library

	states                        reader[F]
	logits, gradLogits, gradGates reader[F]

	q, z, dz matrix[F] // [T, E], [T, D], [T, D]
	partial  []float64 // [blocks, 2E+1] sums over a block of dl, dl s, and the temperature's gradient
	pool     []backwardWorker[F]
}

// backwardWorker is the scratch of one worker.
type backwardWorker[F blas.Float] struct {
	scorer                      scorer[F]
	gates                       gates[F]
	logits, gradLogits, gradRow []F // blocks that cannot be read in place
	rows, lengths, pull         []F // a block of grad_hidden_states; per row 1/a and r
	weights, gradWeights        []F
	chosen                      []int32
}

func backward[F blas.Float](e *core.Engine, library *blas.Library, a *core.RouterBackwardArgs, s shapes) error {
	shared := e.Scratch(parametersSize[F](s))
	defer e.Release(shared)
	g := gradients[F]{
		RouterBackwardArgs: a, shapes: s, engine: e, library: library,
		parameters: loadParameters[F](shared, &a.Options, s, inputs{a.HiddenStates, a.Projection, a.Centroids, a.Bias, nil}),
		states:     newReader[F](a.HiddenStates), logits: newReader[F](a.Logits),
	}
	if a.GradLogits != nil {
		g.gradLogits = newReader[F](a.GradLogits)
	}
	if a.GradTopKWeights != nil {
		g.gradGates = newReader[F](a.GradTopKWeights)
	}
	scratch := e.Scratch(g.scratchSize())
	defer e.Release(scratch)
	g.allocate(scratch)

	e.ParallelFor(2*s.forwardCost(), blocks(s.tokens), func(worker, task int) { g.block(&g.pool[worker], task) })
	sums := g.reduce()
	if a.GradBias != nil {
		store(a.GradBias, 0, a.GradBias.Stride(0), convert[F](sums[:s.experts]))
	}
	if a.GradTemperature != nil {
		store(a.GradTemperature, 0, 1, convert[F](sums[2*s.experts:]))
	}
	if a.GradCentroids != nil {
		g.centroidGradient(sums[s.experts : 2*s.experts])
	}
	if a.GradProjection != nil {
		g.outer(a.GradProjection, g.dz, g.width, g.states, g.hidden, nil)
	}
	return nil
}

func convert[F blas.Float](x []float64) []F {
	y := make([]F, len(x))
	for i, v := range x {
		y[i] = F(v)
	}
	return y
}

// wantsTokens reports whether dz is needed, wantsZ whether z is.
func (g *gradients[F]) wantsTokens() bool {
	return g.GradHiddenStates != nil || g.GradProjection != nil
}

func (g *gradients[F]) wantsZ() bool {
	return g.GradCentroids != nil || g.cosine && g.wantsTokens()
}

func (g *gradients[F]) workers() int { return max(1, min(g.engine.NumThreads, blocks(g.tokens))) }

func (g *gradients[F]) scratchSize() int {
	rows := blockRows(g.tokens)
	perWorker := scorerSize(g.shapes, g.states) + core.ScratchSize[F](g.experts) +
		3*core.ScratchSize[F](rows*g.experts) + core.ScratchSize[F](rows*g.hidden) + 2*core.ScratchSize[F](rows) +
		2*core.ScratchSize[F](g.slots) + core.ScratchSize[int32](g.slots)
	return g.workers()*perWorker + core.ScratchSize[F](g.tokens*g.experts) + 2*core.ScratchSize[F](g.tokens*g.width) +
		core.ScratchSize[float64]((blocks(g.tokens)+1)*(2*g.experts+1))
}

func (g *gradients[F]) allocate(s *core.Scratch) {
	rows := blockRows(g.tokens)
	g.q = matrix[F]{core.Take[F](s, g.tokens*g.experts), g.experts}
	g.partial = core.Take[float64](s, (blocks(g.tokens)+1)*(2*g.experts+1))
	if g.projected {
		g.z = matrix[F]{core.Take[F](s, g.tokens*g.width), g.width}
		g.dz = matrix[F]{core.Take[F](s, g.tokens*g.width), g.width}
	}
	temperature := loadScalar[F](usedTemperature(&g.Options, g.Temperature), 1)
	g.pool = make([]backwardWorker[F], g.workers())
	for i := range g.pool {
		g.pool[i] = backwardWorker[F]{
			scorer: newScorer(s, g.shapes, &g.parameters, g.library, g.states),
			gates:  newGates[F](s, &g.Options, g.experts, temperature),
			logits: core.Take[F](s, rows*g.experts), gradLogits: core.Take[F](s, rows*g.experts), gradRow: core.Take[F](s, rows*g.experts),
			rows: core.Take[F](s, rows*g.hidden), lengths: core.Take[F](s, rows), pull: core.Take[F](s, rows),
			weights: core.Take[F](s, g.slots), gradWeights: core.Take[F](s, g.slots), chosen: core.Take[int32](s, g.slots),
		}
	}
}

// block computes q and, where wanted, dz and dx of one block of tokens.
func (g *gradients[F]) block(w *backwardWorker[F], task int) {
	from := task * blockRows(g.tokens)
	rows := min(blockRows(g.tokens), g.tokens-from)
	var z matrix[F]
	if g.wantsZ() {
		z = w.scorer.project(from, rows, g.z.from(from).data)
	}
	logits := g.logits.block(w.logits, from, rows, 0, g.experts)
	sums := g.partial[(task+1)*(2*g.experts+1):][:2*g.experts+1]
	clear(sums)
	for i := range rows {
		gradRow := g.q.row(from+i, g.experts)
		row := logits.row(i, g.experts)
		sums[2*g.experts] += g.logitsGradient(w, gradRow, row, from+i)
		for e, v := range gradRow {
			sums[e] += float64(v)
		}
		if g.cosine && g.wantsZ() {
			w.pull[i] = g.cosineGradient(gradRow, row, z.row(i, g.width), sums[g.experts:2*g.experts])
		}
	}
	if !g.wantsTokens() {
		return
	}
	states := newWriter[F](g.GradHiddenStates)
	dx := matrix[F]{w.rows, g.hidden}
	if states.direct {
		dx = states.whole.from(from)
	}
	dz := dx
	if g.projected {
		dz = g.dz.from(from)
	}
	multiply(g.library, rows, g.width, g.experts, g.q.from(from), g.centroids, dz)
	if g.cosine {
		for i := range rows {
			axpy(dz.row(i, g.width), -w.pull[i], z.row(i, g.width))
		}
	}
	if g.GradHiddenStates == nil {
		return
	}
	if g.projected {
		multiply(g.library, rows, g.hidden, g.width, dz, g.projection, dx)
	}
	states.flush(dx, from, rows, 0, g.hidden)
}

// logitsGradient fills grad with dl of one token and returns the temperature's.
func (g *gradients[F]) logitsGradient(w *backwardWorker[F], grad, logits []F, token int) float64 {
	if g.GradLogits != nil {
		copy(grad, g.gradLogits.block(w.gradRow, token, 1, 0, g.experts).row(0, g.experts))
	} else {
		clear(grad)
	}
	if g.GradTopKWeights == nil {
		return 0
	}
	upstream := g.gradGates.block(w.weights, token, 1, 0, g.slots).row(0, g.slots)
	present := 0
	for slot := range g.slots {
		expert := loadIndex(g.TopKIndex, int64(token)*g.TopKIndex.Stride(0)+int64(slot)*g.TopKIndex.Stride(1))
		if expert < int64(g.experts) {
			w.chosen[present], w.gradWeights[present] = int32(expert), upstream[slot]
			present++
		}
	}
	return w.gates.backward(grad, w.gradWeights[:present], logits, w.chosen[:present], w.weights)
}

// cosineGradient turns dl of one token into q, adds dl s to the sums by expert, and
// returns r.
func (g *gradients[F]) cosineGradient(grad, logits, z []F, sums []float64) F {
	length := norm(z)
	scale, along := 1/(length+g.epsilon), F(0)
	for e, n := range g.norms {
		part := grad[e] * (logits[e] + 1)
		sums[e] += float64(part)
		along += part
		grad[e] *= scale / (n + g.epsilon)
	}
	if length == 0 {
		return 0
	}
	return along * scale / length
}

// reduce sums the partial sums in the order of the blocks.
func (g *gradients[F]) reduce() []float64 {
	n := 2*g.experts + 1
	sums := g.partial[:n]
	clear(sums)
	for task := range blocks(g.tokens) {
		for i, v := range g.partial[(task+1)*n:][:n] {
			sums[i] += v
		}
	}
	return sums
}

// centroidGradient is q^T z - v c.
func (g *gradients[F]) centroidGradient(alongs []float64) {
	var pull []F
	if g.cosine {
		pull = make([]F, g.experts)
		for e, n := range g.norms {
			if n > 0 {
				pull[e] = F(alongs[e] / (float64(n+g.epsilon) * float64(n)))
			}
		}
	}
	z := g.states
	if g.projected {
		z = reader[F]{whole: g.z, direct: true}
	}
	g.outer(g.GradCentroids, g.q, g.experts, z, g.width, pull)
}

// outer writes sum_t left_t right_t^T to out [m, n], minus pull times the centroids if
// there is a pull. Tasks are columns of out: each sums over all tokens in order.
func (g *gradients[F]) outer(out *core.Tensor, left matrix[F], m int, right reader[F], n int, pull []F) {
	const tokensAtOnce = 512
	columns := columnsPerTask(n)
	tasks := (n + columns - 1) / columns
	workers := max(1, min(g.engine.NumThreads, tasks))
	target := newWriter[F](out)
	chunk := g.tokens
	if !right.direct {
		chunk = min(chunk, tokensAtOnce)
	}
	result, buffer := target.bufferSize(m, columns), right.bufferSize(chunk, columns)
	scratch := g.engine.Scratch(workers * (core.ScratchSize[F](result) + core.ScratchSize[F](buffer)))
	defer g.engine.Release(scratch)
	results, buffers := make([][]F, workers), make([][]F, workers)
	for i := range workers {
		results[i], buffers[i] = core.Take[F](scratch, result), core.Take[F](scratch, buffer)
	}
	g.parallel(tasks, m*n, func(worker, task int) {
		column := task * columns
		width := min(columns, n-column)
		c := target.place(results[worker], 0, m, column, width)
		if g.tokens == 0 {
			for i := range m {
				clear(c.row(i, width))
			}
		}
		beta := F(0)
		for from := 0; from < g.tokens; from += chunk {
			count := min(chunk, g.tokens-from)
			b := right.block(buffers[worker], from, count, column, width)
			accumulateOuter(g.library, m, width, count, left.from(from), b, beta, c)
			beta = 1
		}
		for i, by := range pull {
			axpy(c.row(i, width), -by, g.centroids.row(i, column+width)[column:])
		}
		target.flush(c, 0, m, column, width)
	})
}

// columnsPerTask depends on the shape only, as results must.
func columnsPerTask(n int) int { return min(256, max(16, (n/8+15)/16*16)) }

// parallel runs tasks on the calling thread when all of them together are too
// little work to wake others for.
func (g *gradients[F]) parallel(tasks, elements int, do func(worker, task int)) {
	const tooLittle = 1 << 20 // multiplications
	if elements*g.tokens < tooLittle {
		for task := range tasks {
			do(0, task)
		}
		return
	}
	g.engine.ParallelFor(2*float64(elements)*float64(g.tokens)/flopsPerNanosecond, tasks, do)
}
