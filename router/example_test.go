package router_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/router"
)

// Three tokens, two experts, one expert a token: each goes where its direction points.
func ExampleForward() {
	engine, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	options := core.DefaultRouterOptions()
	options.TopK = 1
	index, weights, counts := make([]int64, 3), make([]float32, 3), make([]int64, 2)
	err = router.Forward(engine, &core.RouterForwardArgs{
		Options:      options,
		HiddenStates: core.FromSlice([]float32{1, 0, 0, 1, 1, 0.1}, 3, 2),
		Centroids:    core.FromSlice([]float32{1, 0, 0, 1}, 2, 2),
		TopKIndex:    core.FromSlice(index, 3, 1),
		TopKWeights:  core.FromSlice(weights, 3, 1),
		Counts:       core.FromSlice(counts, 2),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("experts", index, "weights", weights, "loads", counts)
	// Output: experts [0 1 0] weights [1 1 1] loads [2 1]
}

// An error names the argument, its value and what was expected.
func ExampleForward_error() {
	engine, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	err = router.Forward(engine, &core.RouterForwardArgs{
		Options:      core.DefaultRouterOptions(), // two experts a token
		HiddenStates: core.FromSlice(make([]float32, 6), 3, 2),
		Centroids:    core.FromSlice(make([]float32, 2), 1, 2), // but one expert
		TopKIndex:    core.FromSlice(make([]int64, 6), 3, 2),
		TopKWeights:  core.FromSlice(make([]float32, 6), 3, 2),
	})
	var refusal *core.Error
	fmt.Println(errors.As(err, &refusal) && refusal.Code == core.InvalidArgument)
	fmt.Println(err)
	// Output:
	// true
	// options.top_k: 2, want 1 to the 1 experts
}

// The crowded expert becomes dearer, the idle one cheaper.
func ExampleUpdate() {
	engine, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	options := core.DefaultRouterOptions()
	options.TopK = 1
	price := []float32{0, 0}
	err = router.Update(engine, &core.RouterUpdateArgs{
		Options:   options,
		Counts:    core.FromSlice([]int64{9, 1}, 2),
		NumTokens: 10,
		Rate:      0.02,
		StepLimit: 0.02,
		Price:     core.FromSlice(price, 2),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.3f\n", price)
	// Output: [0.016 -0.016]
}

// The gradient of a gate reaches the centroids of the experts that it was taken over.
func ExampleBackward() {
	engine, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	options := core.DefaultRouterOptions()
	options.Binding = core.Dot
	states := core.FromSlice([]float32{1, 2}, 1, 2)
	centroids := core.FromSlice([]float32{1, 0, 0, 1, -1, 0}, 3, 2)
	index, weights := core.FromSlice(make([]int64, 2), 1, 2), core.FromSlice(make([]float32, 2), 1, 2)
	logits := core.FromSlice(make([]float32, 3), 1, 3)
	err = router.Forward(engine, &core.RouterForwardArgs{
		Options: options, HiddenStates: states, Centroids: centroids,
		TopKIndex: index, TopKWeights: weights, Logits: logits,
	})
	if err != nil {
		log.Fatal(err)
	}
	gradient := make([]float32, 6)
	err = router.Backward(engine, &core.RouterBackwardArgs{
		Options: options, HiddenStates: states, Centroids: centroids, Logits: logits, TopKIndex: index,
		GradTopKWeights: core.FromSlice([]float32{1, 0}, 1, 2), // of the best expert's gate
		GradCentroids:   core.FromSlice(gradient, 3, 2),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("gates %.3f\n", core.Slice[float32](weights, 0, 2))
	fmt.Printf("gradients of the centroids %.3f %.3f %.0f\n", gradient[0:2], gradient[2:4], gradient[4:6])
	// Output:
	// gates [0.731 0.269]
	// gradients of the centroids [-0.197 -0.393] [0.197 0.393] [0 0]
}

// A routing that gives one of two experts everything.
func ExampleReport() {
	engine, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	options := core.DefaultRouterOptions()
	options.TopK = 1
	report, err := router.Report(engine, &core.RouterReportArgs{
		Options:   options,
		Logits:    core.FromSlice([]float32{0, -1, 0, -0.5}, 2, 2),
		TopKIndex: core.FromSlice([]int64{0, 0}, 2, 1),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("MaxVio", report.MaxViolation, "dead", report.DeadShare, "margin", report.TopKMargin)
	// Output: MaxVio 1 dead 0.5 margin 0.75
}
