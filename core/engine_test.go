package core

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func engine(t testing.TB, threads int) *Engine {
	t.Helper()
	e, err := NewEngine(EngineOptions{NumThreads: threads})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

func TestNewEngine(t *testing.T) {
	require.Equal(t, runtime.GOMAXPROCS(0), engine(t, 0).NumThreads)
	require.Equal(t, Device{Type: CPU}, engine(t, 3).Device)
	require.Nil(t, engine(t, 1).Session())
	for want, options := range map[string]EngineOptions{
		"num_threads: -1, want 0 (all) to 4096":                             {NumThreads: -1},
		"num_threads: 4097, want 0 (all) to 4096":                           {NumThreads: 4097},
		"device_id: 1, want 0: there is one CPU device":                     {Device: Device{CPU, 1}},
		"device_type: DeviceType(99), but this build has no backend for it": {Device: Device{99, 0}},
	} {
		_, err := NewEngine(options)
		require.EqualError(t, err, want)
		require.IsType(t, &Error{}, err)
	}
}

func TestParallelRunsEveryTaskOnce(t *testing.T) {
	for _, threads := range []int{1, 2, 5} {
		e := engine(t, threads)
		for _, tasks := range []int{-1, 0, 1, 2, 3, 100} {
			runs := make([]int, max(0, tasks)) // one writer each: the race detector watches
			busy := make([]atomic.Bool, threads)
			e.Parallel(tasks, func(worker, task int) {
				if !busy[worker].CompareAndSwap(false, true) {
					panic("two tasks on one worker")
				}
				runs[task]++
				busy[worker].Store(false)
			})
			for task, n := range runs {
				require.Equal(t, 1, n, "threads %d, task %d", threads, task)
			}
		}
	}
}

func TestParallelUsesItsWorkersAtOnce(t *testing.T) {
	var together sync.WaitGroup
	together.Add(4)
	engine(t, 4).Parallel(4, func(int, int) {
		together.Done()
		together.Wait() // returns only if all four run at the same time
	})
}

func TestParallelNests(t *testing.T) {
	e := engine(t, 3)
	var sum atomic.Int64
	e.Parallel(4, func(_, i int) {
		e.Parallel(5, func(_, j int) { sum.Add(int64(10*i + j)) })
	})
	require.EqualValues(t, 5*10*(0+1+2+3)+4*(0+1+2+3+4), sum.Load())
}

func TestParallelRaisesPanicsInItsCaller(t *testing.T) {
	cause := errors.New("broken")
	require.PanicsWithValue(t, cause, func() {
		engine(t, 1).Parallel(3, func(_, task int) { panic(cause) })
	})
	e := engine(t, 4)
	for _, bad := range []int{0, 7, 99} {
		func() {
			defer func() {
				raised, ok := recover().(*TaskPanic)
				require.True(t, ok)
				require.ErrorIs(t, raised, cause)
				require.ErrorContains(t, raised, "broken (raised at ")
				require.Regexp(t, `engine_test\.go:\d+$`, raised.Site)
			}()
			e.Parallel(100, func(_, task int) {
				if task == bad {
					panic(cause)
				}
			})
		}()
	}
	require.Panics(t, func() { e.Parallel(9, func(_, task int) { _ = []int{}[task] }) })
	e.Parallel(9, func(int, int) {}) // and it goes on
}

func TestTaskPanicOfANonError(t *testing.T) {
	p := &TaskPanic{Cause: 7, Site: "x.go:1"}
	require.EqualError(t, p, "7 (raised at x.go:1)")
	require.NoError(t, p.Unwrap())
}

func BenchmarkParallel(b *testing.B) {
	e := engine(b, 0)
	b.ReportAllocs()
	for b.Loop() {
		e.Parallel(e.NumThreads, func(int, int) {})
	}
}
