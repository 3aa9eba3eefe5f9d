package monitor

import (
	"cmp"
	"net/http"
	"sync"
	"time"
)

// answer keeps the last built body of an address, so that clients who ask without pause
// neither hold the lock that training takes nor make much garbage.
type answer struct {
	mutex sync.Mutex
	build func(Stats) ([]byte, error)
	kind  string // its content type; "" is JSON
	body  []byte
	built time.Time
}

// answerAge is how old an answer may be: less than the time between two frames.
const answerAge = 100 * time.Millisecond

func (m *Monitor) serveAnswer(a *answer) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		a.mutex.Lock()
		if a.body == nil || time.Since(a.built) > answerAge {
			body, err := a.build(m.Stats())
			if err != nil {
				a.mutex.Unlock()
				refuse(w, http.StatusInternalServerError, "the state could not be written: "+err.Error())
				return
			}
			a.body, a.built = body, time.Now()
		}
		body := a.body
		a.mutex.Unlock()
		w.Header().Set("Content-Type", cmp.Or(a.kind, "application/json"))
		_, _ = w.Write(body)
	}
}
