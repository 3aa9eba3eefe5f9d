package experts_test

import (
	"fmt"
	"log"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/experts"
)

// Two tokens of two numbers and two experts; each token has one of them.
func ExampleForward() {
	engine, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	output := make([]float32, 4)
	err = experts.Forward(engine, &core.ExpertsForwardArgs{
		Options:      core.DefaultExpertsOptions(), // silu(gate) * up
		HiddenStates: core.FromSlice([]float32{1, 2, 3, 4}, 2, 2),
		TopKIndex:    core.FromSlice([]int64{0, 1}, 2, 1),
		TopKWeights:  core.FromSlice([]float32{1, 1}, 2, 1),
		GateUpProj:   core.FromSlice([]float32{1, 0, 0, 1, 2, 0, 0, 2}, 2, 2, 2), // rows gate, up
		DownProj:     core.FromSlice([]float32{1, 1, -1, -1}, 2, 2, 1),
		Output:       core.FromSlice(output, 2, 2),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.4f\n", output) // silu(1)*2 for the first token, -silu(6)*8 for the second
	// Output: [1.4621 1.4621 -47.8813 -47.8813]
}

// Weights that are kept as [E, H, 2I] are passed as they lie, with other strides.
func ExampleForward_strides() {
	engine, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	const hidden, rows = 2, 2
	gateUp := core.FromSlice([]float32{1, 3, 2, 4}, 1, rows, hidden) // memory is [1, hidden, rows]
	gateUp.Strides = []int64{hidden * rows, 1, rows}
	output := make([]float32, 2)
	err = experts.Forward(engine, &core.ExpertsForwardArgs{
		Options:      core.ExpertsOptions{Activation: core.Identity, Gated: true}, // gate * up
		HiddenStates: core.FromSlice([]float32{1, 1}, 1, hidden),
		TopKIndex:    core.FromSlice([]int64{0}, 1, 1),
		TopKWeights:  core.FromSlice([]float32{1}, 1, 1),
		GateUpProj:   gateUp,
		DownProj:     core.FromSlice([]float32{1, 10}, 1, hidden, 1),
		Output:       core.FromSlice(output, 1, hidden),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(output) // gate 1+2, up 3+4
	// Output: [21 210]
}

// The backward pass takes the pre-activation that the forward pass wrote.
func ExampleBackward() {
	engine, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	options := core.ExpertsOptions{Activation: core.Identity, Gated: false}
	states := core.FromSlice([]float32{3}, 1, 1)
	index, weights := core.FromSlice([]int64{1}, 1, 1), core.FromSlice([]float32{0.5}, 1, 1)
	up, down := core.FromSlice([]float32{1, 2}, 2, 1, 1), core.FromSlice([]float32{1, 5}, 2, 1, 1)
	output, z := core.FromSlice(make([]float32, 1), 1, 1), core.FromSlice(make([]float32, 1), 1, 1)
	err = experts.Forward(engine, &core.ExpertsForwardArgs{
		Options: options, HiddenStates: states, TopKIndex: index, TopKWeights: weights,
		GateUpProj: up, DownProj: down, Output: output, PreActivation: z,
	})
	if err != nil {
		log.Fatal(err)
	}
	gradUp, gradWeights := make([]float32, 2), make([]float32, 1)
	err = experts.Backward(engine, &core.ExpertsBackwardArgs{
		Options: options, HiddenStates: states, TopKIndex: index, TopKWeights: weights,
		GateUpProj: up, DownProj: down, PreActivation: z,
		GradOutput:      core.FromSlice([]float32{1}, 1, 1),
		GradTopKWeights: core.FromSlice(gradWeights, 1, 1),
		GradGateUpProj:  core.FromSlice(gradUp, 2, 1, 1),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("y", core.Slice[float32](output, 0, 1), "dy/dw", gradWeights, "dy/dup", gradUp)
	// Output: y [15] dy/dw [30] dy/dup [0 7.5]
}
