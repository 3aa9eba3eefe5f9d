package energy

import "time"

// alarm wakes one goroutine when it is time.
type alarm interface {
	// set says when to ring next: instead of when it was to, and once.
	set(after time.Duration)
	// wait returns when it rings; false once it is closed.
	wait() bool
	close()
}

// timerAlarm is an alarm wherever Go runs.
type timerAlarm struct {
	timer *time.Timer
	done  chan struct{}
}

func newTimerAlarm() alarm {
	return timerAlarm{timer: time.NewTimer(time.Hour), done: make(chan struct{})}
}

func (a timerAlarm) set(after time.Duration) { a.timer.Reset(after) }

func (a timerAlarm) wait() bool {
	select {
	case <-a.timer.C:
		return true
	case <-a.done:
		return false
	}
}

func (a timerAlarm) close() {
	a.timer.Stop()
	close(a.done)
}
