package core

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A call does not wait for a goroutine that finds nothing left to begin.
func TestParallelDoesNotWaitForLateWorkers(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // helpers do not run before the caller sleeps, or is preempted
	e := engine(t, 3)
	late := false
	for range 20 {
		before := runtime.NumGoroutine()
		e.Parallel(2, func(int, int) {})
		late = late || runtime.NumGoroutine() > before
		for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			require.True(t, time.Now().Before(end), "the helper does not end")
		}
	}
	require.True(t, late, "all helpers had ended: are they waited for?")
}

func TestParallelWaitsForWorkersThatAreAtIt(t *testing.T) {
	e := engine(t, 2)
	for _, late := range []time.Duration{0, spinTime / 4, 20 * spinTime} {
		var ended atomic.Bool
		begun := make(chan struct{})
		e.Parallel(2, func(_, task int) {
			if task == 1 {
				close(begun)
				time.Sleep(late)
				ended.Store(true)
				return
			}
			<-begun
		})
		require.True(t, ended.Load(), "%v", late)
	}
}

func TestSpin(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	e := engine(t, 2)
	require.True(t, e.Spin(func() bool { return true }))
	start := time.Now()
	require.False(t, e.Spin(func() bool { return false }))
	require.GreaterOrEqual(t, time.Since(start), spinTime)
	looks := 0
	require.True(t, e.Spin(func() bool { looks++; return looks == 7 }))
	require.Equal(t, 7, looks)
	looks = 0
	require.False(t, engine(t, 3).Spin(func() bool { looks++; return looks == 7 }), "more threads than can run")
	require.Equal(t, 1, looks)
}

// Long work runs on the host's team, short work does not.
func TestParallelForUsesTheTeam(t *testing.T) {
	defer SetTeam(nil)
	e := engine(t, 2)
	for _, has := range []bool{true, false} {
		regions := 0
		SetTeam(func(n int, work func(worker int)) bool {
			require.Equal(t, 2, n)
			regions++
			if has {
				work(1)
				work(0)
			}
			return has
		})
		for i, nanoseconds := range []float64{0, longWork - 1, longWork, 1e12} {
			var sum atomic.Int64
			e.ParallelFor(nanoseconds, 4, func(_, task int) { sum.Add(int64(task + 1)) })
			require.EqualValues(t, 10, sum.Load())
			require.Equal(t, max(0, i-1), regions, "%v ns", nanoseconds)
		}
	}
}
