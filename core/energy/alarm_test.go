package energy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAlarm(t *testing.T) {
	for name, open := range map[string]func() alarm{"of this system": newAlarm, "of Go": newTimerAlarm} {
		t.Run(name, func(t *testing.T) {
			a := open()
			rings := func() <-chan bool {
				rang := make(chan bool, 1)
				go func() { rang <- a.wait() }()
				return rang
			}
			a.set(0)
			require.True(t, <-rings(), "a time that is past rings at once")

			a.set(time.Hour)
			waiting := rings()
			a.set(time.Millisecond) // the one set last counts, also for who waits
			select {
			case rang := <-waiting:
				require.True(t, rang)
			case <-time.After(10 * time.Second):
				t.Fatal("no ring")
			}

			waiting = rings()
			select {
			case <-waiting:
				t.Fatal("it rang twice")
			case <-time.After(20 * time.Millisecond):
			}
			a.close()
			require.False(t, <-waiting, "who waits is released")
			a.set(time.Millisecond) // no harm
		})
	}
}
