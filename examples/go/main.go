// Command go trains a Mixture-of-Experts layer in Go: a regression whose answer depends on
// which of four kinds a token is. It prints the loss as it falls and how the experts share
// the tokens. It needs no C compiler, no C header and no build tag:
//
//	go get github.com/genesis-moe/genesis-moe/router github.com/genesis-moe/genesis-moe/experts
//	CGO_ENABLED=0 go run .
package main

import (
	"fmt"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"os"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/experts"
	"github.com/genesis-moe/genesis-moe/router"
)

const (
	tokens, hidden, numExperts, intermediate, topK = 256, 16, 8, 24, 2

	steps        = 300
	learningRate = 0.01
)

func main() {
	if _, _, err := train(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// train returns the mean squared error of the first and of the last step.
func train(out io.Writer) (first, last float32, err error) {
	engine, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		return 0, 0, err
	}
	defer engine.Close()

	random := rand.New(rand.NewPCG(1, 2))
	layer, data := newLayer(engine, random), newData(random)
	gradient := make([]float32, tokens*hidden)
	for step := 1; step <= steps; step++ {
		states, target := data.batch()
		output, err := layer.forward(states)
		if err != nil {
			return 0, 0, err
		}
		last = lossOf(output, target, gradient)
		if step == 1 {
			first = last
		}
		if err := layer.backward(states, gradient); err != nil {
			return 0, 0, err
		}
		if err := layer.step(step); err != nil {
			return 0, 0, err
		}
		if step == 1 || step%100 == 0 {
			fmt.Fprintf(out, "step %3d  loss %.4f  loads %d\n", step, last, layer.counts)
		}
	}
	return first, last, nil
}

// layer owns the parameters, the prices, and what a forward pass leaves for the backward pass.
type layer struct {
	engine                          *core.Engine
	options                         core.RouterOptions
	centroids, gateUpProj, downProj *parameter
	price, weights, logits          []float32
	preActivation, gradWeights      []float32
	index, counts                   []int64
}

func newLayer(engine *core.Engine, random *rand.Rand) *layer {
	options := core.DefaultRouterOptions()
	options.TopK = topK
	return &layer{
		engine: engine, options: options,
		centroids:     newParameter(random, 1, numExperts, hidden),
		gateUpProj:    newParameter(random, 0.25, numExperts, 2*intermediate, hidden),
		downProj:      newParameter(random, 0.2, numExperts, hidden, intermediate),
		price:         make([]float32, numExperts),
		weights:       make([]float32, tokens*topK),
		logits:        make([]float32, tokens*numExperts),
		preActivation: make([]float32, tokens*topK*2*intermediate),
		gradWeights:   make([]float32, tokens*topK),
		index:         make([]int64, tokens*topK),
		counts:        make([]int64, numExperts),
	}
}

// temperature makes the gates of a token's two experts differ.
var temperature = core.FromSlice([]float32{0.2}, 1)

func (l *layer) forward(states *core.Tensor) ([]float32, error) {
	err := router.Forward(l.engine, &core.RouterForwardArgs{
		Options: l.options, HiddenStates: states, Centroids: l.centroids.tensor(), Temperature: temperature,
		Price:     core.FromSlice(l.price, numExperts),
		TopKIndex: core.FromSlice(l.index, tokens, topK), TopKWeights: core.FromSlice(l.weights, tokens, topK),
		Logits: core.FromSlice(l.logits, tokens, numExperts), Counts: core.FromSlice(l.counts, numExperts),
	})
	if err != nil {
		return nil, err
	}
	output := make([]float32, tokens*hidden)
	return output, experts.Forward(l.engine, &core.ExpertsForwardArgs{
		Options: core.DefaultExpertsOptions(), HiddenStates: states,
		TopKIndex: core.FromSlice(l.index, tokens, topK), TopKWeights: core.FromSlice(l.weights, tokens, topK),
		GateUpProj: l.gateUpProj.tensor(), DownProj: l.downProj.tensor(),
		Output:        core.FromSlice(output, tokens, hidden),
		PreActivation: core.FromSlice(l.preActivation, tokens*topK, 2*intermediate),
	})
}

// backward fills the parameters' gradients from that of the output, [tokens, hidden].
func (l *layer) backward(states *core.Tensor, gradient []float32) error {
	err := experts.Backward(l.engine, &core.ExpertsBackwardArgs{
		Options: core.DefaultExpertsOptions(), GradOutput: core.FromSlice(gradient, tokens, hidden), HiddenStates: states,
		TopKIndex: core.FromSlice(l.index, tokens, topK), TopKWeights: core.FromSlice(l.weights, tokens, topK),
		GateUpProj: l.gateUpProj.tensor(), DownProj: l.downProj.tensor(),
		PreActivation:   core.FromSlice(l.preActivation, tokens*topK, 2*intermediate),
		GradTopKWeights: core.FromSlice(l.gradWeights, tokens, topK),
		GradGateUpProj:  l.gateUpProj.gradTensor(), GradDownProj: l.downProj.gradTensor(),
	})
	if err != nil {
		return err
	}
	return router.Backward(l.engine, &core.RouterBackwardArgs{
		Options: l.options, HiddenStates: states, Centroids: l.centroids.tensor(), Temperature: temperature,
		Logits: core.FromSlice(l.logits, tokens, numExperts), TopKIndex: core.FromSlice(l.index, tokens, topK),
		GradTopKWeights: core.FromSlice(l.gradWeights, tokens, topK), GradCentroids: l.centroids.gradTensor(),
	})
}

// step moves the parameters, then the prices towards balanced loads.
func (l *layer) step(step int) error {
	for _, p := range []*parameter{l.centroids, l.gateUpProj, l.downProj} {
		p.step(step)
	}
	return router.Update(l.engine, &core.RouterUpdateArgs{
		Options: l.options, Counts: core.FromSlice(l.counts, numExperts), NumTokens: tokens,
		Rate: 0.02, StepLimit: 0.02, Price: core.FromSlice(l.price, numExperts),
	})
}

// parameter is a tensor with its gradient and the state of Adam (Kingma and Ba, 2015).
type parameter struct {
	shape                         []int64
	value, gradient, mean, square []float32
}

func newParameter(random *rand.Rand, deviation float64, shape ...int64) *parameter {
	n := int64(1)
	for _, size := range shape {
		n *= size
	}
	return &parameter{shape, normal(random, int(n), deviation), make([]float32, n), make([]float32, n), make([]float32, n)}
}

func (p *parameter) tensor() *core.Tensor     { return core.FromSlice(p.value, p.shape...) }
func (p *parameter) gradTensor() *core.Tensor { return core.FromSlice(p.gradient, p.shape...) }

func (p *parameter) step(step int) {
	unbiasMean := 1 - float32(math.Pow(0.9, float64(step)))
	unbiasSquare := 1 - float32(math.Pow(0.999, float64(step)))
	for i, g := range p.gradient {
		p.mean[i] += 0.1 * (g - p.mean[i])
		p.square[i] += 0.001 * (g*g - p.square[i])
		p.value[i] -= learningRate * p.mean[i] / unbiasMean / (float32(math.Sqrt(float64(p.square[i]/unbiasSquare))) + 1e-8)
	}
}

// data makes tokens near one of four centres; the target is the token, turned in its kind's own way.
type data struct {
	random  *rand.Rand
	centres []float32
}

func newData(random *rand.Rand) data { return data{random, normal(random, 4*hidden, 1)} }

func (d data) batch() (states *core.Tensor, target []float32) {
	x := normal(d.random, tokens*hidden, 0.5)
	target = make([]float32, tokens*hidden)
	for t := range tokens {
		kind, row := d.random.IntN(4), x[t*hidden:][:hidden]
		for h := range row {
			row[h] += d.centres[kind*hidden+h]
		}
		for h := range row {
			target[t*hidden+h] = row[(h+3*kind)%hidden]
		}
	}
	return core.FromSlice(x, tokens, hidden), target
}

func normal(random *rand.Rand, n int, deviation float64) []float32 {
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(random.NormFloat64() * deviation)
	}
	return values
}

// lossOf is the mean squared error; it fills the gradient in the output.
func lossOf(output, target, gradient []float32) float32 {
	n, sum := float32(len(output)), float32(0)
	for i := range output {
		difference := output[i] - target[i]
		sum += difference * difference
		gradient[i] = 2 * difference / n
	}
	return sum / n
}
