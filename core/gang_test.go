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
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // helpers do not run before the caller sleeps
	before := runtime.NumGoroutine()
	engine(t, 3).Parallel(2, func(worker, _ int) { require.Zero(t, worker) })
	require.Greater(t, runtime.NumGoroutine(), before, "the helper has begun: is it waited for?")
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "the helper does not end")
	}
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
	require.True(t, Spin(func() bool { return true }))
	start := time.Now()
	require.False(t, Spin(func() bool { return false }))
	if runtime.GOMAXPROCS(0) > 1 {
		require.Greater(t, time.Since(start), spinTime)
	}
	looks := 0
	require.True(t, Spin(func() bool { looks++; return looks == 7 }))
	require.Equal(t, 7, looks)
}
