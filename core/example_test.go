package core_test

import (
	"fmt"

	"github.com/genesis-moe/genesis-moe/core"
)

func ExampleFromSlice() {
	hiddenStates := core.FromSlice([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
	fmt.Println(hiddenStates.DType, hiddenStates.Device, hiddenStates.Shape, hiddenStates.Stride(0))
	fmt.Println(core.Slice[float32](hiddenStates, hiddenStates.Stride(0), 3)) // the second row
	// Output:
	// float32 cpu [2 3] 3
	// [4 5 6]
}

func ExampleCheckArgument() {
	centroids := core.FromSlice(make([]float32, 8*64), 8, 64)
	err := core.CheckArgument(core.Argument{Name: "centroids", Tensor: centroids}, core.Want{
		Shape: []int64{8, 32}, DTypes: []core.DType{core.Float32}, Device: core.Device{Type: core.CPU}, Text: "[E, D]",
	})
	fmt.Println(err)
	// Output: centroids: shape [8, 64], want [8, 32]: [E, D]
}

func ExampleEngine_Parallel() {
	engine, err := core.NewEngine(core.EngineOptions{NumThreads: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer engine.Close()
	squares := make([]int, 5)
	engine.Parallel(len(squares), func(worker, task int) { squares[task] = task * task })
	fmt.Println(squares)
	// Output: [0 1 4 9 16]
}

func ExampleTake() {
	engine, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer engine.Close()
	scratch := engine.Scratch(core.ScratchSize[float32](100) + core.ScratchSize[int32](10))
	defer engine.Release(scratch)
	gathered, offsets := core.Take[float32](scratch, 100), core.Take[int32](scratch, 10)
	fmt.Println(len(gathered), len(offsets))
	// Output: 100 10
}
