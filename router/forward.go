package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// Forward routes tokens: logits, chosen experts, gates and counts. Shapes, dtypes
// and which tensors may be nil: gmoe_router_forward in genesis_moe.h. A price, gap or
// temperature that is NaN, and a negative gap, are refused.
func Forward(e *core.Engine, a *core.RouterForwardArgs) error {
	s, err := checkForward(a, e.Device)
	if err != nil {
		return err
	}
	e.Counters.RouterCalls.Add(1)
	if session := e.Session(); session != nil {
		return session.RouterForward(a)
	}
	library, err := blas.Default()
	if err != nil {
		return err
	}
	if s.compute == core.Float64 {
		err = forward[float64](e, library, a, s)
	} else {
		err = forward[float32](e, library, a, s)
	}
	if err == nil {
		count(e, s, 1)
	}
	return err
}

// count adds the matrix products of passes over the tokens, and the bytes of hidden
// states and parameters that they read or write, to the engine's counters.
func count(e *core.Engine, s shapes, passes int) {
	perToken := s.products()
	size := 4
	if s.compute == core.Float64 {
		size = 8
	}
	e.Counters.FLOPs.Add(uint64(2 * passes * perToken * s.tokens))
	e.Counters.Bytes.Add(uint64(passes * size * (perToken + s.tokens*(s.hidden+s.experts))))
}

// blockRows is the number of tokens of one task. It depends on their number only, so
// that results do not depend on the threads.
func blockRows(tokens int) int {
	if tokens < 512 {
		return 32
	}
	return 128
}

func blocks(tokens int) int {
	rows := blockRows(tokens)
	return (tokens + rows - 1) / rows
}

// scorer computes the logits of blocks of tokens. One worker has one.
type scorer[F blas.Float] struct {
	shapes
	*parameters[F]
	library *blas.Library
	states  reader[F]
	buffer  []F // hidden states that cannot be read in place
	z       []F // projected tokens
}

func scorerSize[F blas.Float](s shapes, states reader[F]) int {
	rows := blockRows(s.tokens)
	size := core.ScratchSize[F](states.bufferSize(rows, s.hidden))
	if s.projected {
		size += core.ScratchSize[F](rows * s.width)
	}
	return size
}

func newScorer[F blas.Float](scratch *core.Scratch, s shapes, p *parameters[F], library *blas.Library, states reader[F]) scorer[F] {
	rows := blockRows(s.tokens)
	c := scorer[F]{shapes: s, parameters: p, library: library, states: states}
	c.buffer = core.Take[F](scratch, states.bufferSize(rows, s.hidden))
	if s.projected {
		c.z = core.Take[F](scratch, rows*s.width)
	}
	return c
}

// project is z = W x of tokens [first, first+rows): x itself without a projection.
func (c *scorer[F]) project(first, rows int, z []F) matrix[F] {
	x := c.states.block(c.buffer, first, rows, 0, c.hidden)
	if !c.projected {
		return x
	}
	m := matrix[F]{z[:rows*c.width], c.width}
	multiplyTransposed(c.library, rows, c.width, c.hidden, x, c.projection, m)
	return m
}

// score fills rows of logits.
func (c *scorer[F]) score(first, rows int, logits matrix[F]) {
	z := c.project(first, rows, c.z)
	multiplyTransposed(c.library, rows, c.experts, c.width, z, c.centroids, logits)
	for i := range rows {
		c.parameters.logits(logits.row(i, c.experts), z.row(i, c.width))
	}
}

// forwardWorker is what one worker needs to route blocks of tokens.
type forwardWorker[F blas.Float] struct {
	scorer  scorer[F]
	chooser chooser[F]
	gates   gates[F]
	logits  []F // a block of them, where they cannot be written in place
	weights []F // [K]
	counts  []int64
}

func forward[F blas.Float](e *core.Engine, library *blas.Library, a *core.RouterForwardArgs, s shapes) error {
	o := &a.Options
	shared := e.Scratch(parametersSize[F](s) + core.ScratchSize[F](s.experts))
	defer e.Release(shared)
	p := loadParameters[F](shared, o, s, inputs{a.HiddenStates, a.Projection, a.Centroids, a.Bias, a.Temperature})
	price := loadVector[F](shared, usedPrice(o, a.Price))
	gap := loadScalar[F](usedGap(o, a.Gap), 0)
	temperature := loadScalar[F](usedTemperature(o, a.Temperature), 1)
	if err := checkState(o, price, gap, temperature); err != nil {
		return err
	}

	states, rows := newReader[F](a.HiddenStates), blockRows(s.tokens)
	workers := make([]forwardWorker[F], max(1, min(e.NumThreads, blocks(s.tokens))))
	scratch := e.Scratch(len(workers) * (scorerSize(s, states) + chooserSize[F](o, s.experts) +
		core.ScratchSize[F](s.experts) + core.ScratchSize[F](rows*s.experts) + core.ScratchSize[F](s.slots) +
		core.ScratchSize[int64](s.experts)))
	defer e.Release(scratch)
	for i := range workers {
		workers[i] = forwardWorker[F]{
			scorer:  newScorer(scratch, s, &p, library, states),
			chooser: newChooser(scratch, o, s.experts, price, gap),
			gates:   newGates[F](scratch, o, s.experts, temperature),
			logits:  core.Take[F](scratch, rows*s.experts), weights: core.Take[F](scratch, s.slots),
			counts: core.Take[int64](scratch, s.experts),
		}
		clear(workers[i].counts)
	}

	if o.Mode == core.Hamiltonian && o.Solver == core.Batch {
		if err := routeBatch(e, a, s, workers); err != nil {
			return err
		}
	} else {
		logitsOut := newWriter[F](a.Logits)
		forBlocks(e, s, func(worker, from, n int) {
			w := &workers[worker]
			logits := logitsOut.place(w.logits, from, n, 0, s.experts)
			w.scorer.score(from, n, logits)
			logitsOut.flush(logits, from, n, 0, s.experts)
			w.route(a, s, from, n, logits)
		})
	}
	if a.Counts != nil {
		storeCounts(a.Counts, workers)
	}
	return nil
}

// forBlocks runs do on all blocks of tokens [from, from+n).
func forBlocks(e *core.Engine, s shapes, do func(worker, from, n int)) {
	rows := blockRows(s.tokens)
	e.ParallelFor(s.forwardCost(), blocks(s.tokens), func(worker, task int) {
		do(worker, task*rows, min(rows, s.tokens-task*rows))
	})
}

const flopsPerNanosecond = 80 // of one thread, about

// forwardCost estimates how many nanoseconds a pass over the tokens takes one thread.
func (s *shapes) forwardCost() float64 {
	const perLogit = 30 // it is ranked, and has a share in the gates and in what is written
	return float64(s.tokens) * (2*float64(s.products())/flopsPerNanosecond + perLogit*float64(s.experts))
}

// routeBatch scores all tokens, finds the prices of this batch, and then routes.
func routeBatch[F blas.Float](e *core.Engine, a *core.RouterForwardArgs, s shapes, workers []forwardWorker[F]) error {
	scratch := e.Scratch(core.ScratchSize[F](s.tokens*s.experts) + core.ScratchSize[F](s.experts))
	defer e.Release(scratch)
	logits := matrix[F]{core.Take[F](scratch, s.tokens*s.experts), s.experts}
	price := core.Take[F](scratch, s.experts)
	logitsOut := newWriter[F](a.Logits)
	forBlocks(e, s, func(worker, from, n int) {
		block := logits.from(from)
		workers[worker].scorer.score(from, n, block)
		logitsOut.copyFrom(block, from, n, s.experts)
	})
	if err := solveBatch(e, &a.Options, s, logits, price); err != nil {
		return err
	}
	forBlocks(e, s, func(worker, from, n int) {
		workers[worker].chooser.price = price
		workers[worker].route(a, s, from, n, logits.from(from))
	})
	if a.PriceOut != nil {
		store(a.PriceOut, 0, a.PriceOut.Stride(0), price)
	}
	return nil
}

// storeCounts sums the workers' counts.
func storeCounts[F blas.Float](out *core.Tensor, workers []forwardWorker[F]) {
	for expert := range out.Shape[0] {
		sum := int64(0)
		for i := range workers {
			sum += workers[i].counts[expert]
		}
		*(*int64)(out.At(expert * out.Stride(0))) = sum
	}
}

// route chooses experts and gates of tokens [from, from+rows) with these logits.
func (w *forwardWorker[F]) route(a *core.RouterForwardArgs, s shapes, from, rows int, logits matrix[F]) {
	for i := range rows {
		token := int64(from + i)
		row := logits.row(i, s.experts)
		chosen := w.chooser.choose(row)
		w.gates.forward(w.weights[:len(chosen)], row, chosen)
		clear(w.weights[len(chosen):])
		store(a.TopKWeights, token*a.TopKWeights.Stride(0), a.TopKWeights.Stride(1), w.weights)
		index, stride := token*a.TopKIndex.Stride(0), a.TopKIndex.Stride(1)
		for slot := range s.slots {
			expert := s.experts // absent
			if slot < len(chosen) {
				expert = int(chosen[slot])
				w.counts[expert]++
			}
			storeIndex(a.TopKIndex, index+int64(slot)*stride, int64(expert))
		}
	}
}

// checkState refuses values with which no token could be routed well. An infinite
// price may bar an expert from all tokens, not force it on them, and experts that are
// closed so must leave top_k others.
func checkState[F blas.Float](o *core.RouterOptions, price []F, gap, temperature F) error {
	forced := math.Inf(-1)
	if o.Mode == core.DeepSeek {
		forced = math.Inf(1)
	}
	closed := 0
	for e, mu := range price {
		if mu != mu || float64(mu) == forced {
			return core.Invalidf("price", "%v for expert %d, want a number (or %v, which bars the expert)", mu, e, -forced)
		}
		if isClosed(o, mu) {
			closed++
		}
	}
	if open := len(price) - closed; closed > 0 && open < o.TopK {
		return core.Invalidf("price", "+Inf, which closes an expert, for %d of %d; want at least top_k = %d open ones", closed, len(price), o.TopK)
	}
	if !(gap >= 0) {
		return core.Invalidf("gap", "%v, want at least 0", gap)
	}
	if math.IsNaN(float64(temperature)) {
		return core.Invalidf("temperature", "is NaN, want a number")
	}
	return nil
}
