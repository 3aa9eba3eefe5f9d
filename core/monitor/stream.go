package monitor

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

const (
	writeTimeout = 10 * time.Second // for a client to take what was written
	heartbeat    = 5 * time.Second  // between signs of life
)

// serveStream sends frames as server-sent events until the client or the console goes.
// Frames are numbered: a client that sees a gap asks for the history again.
func (m *Monitor) serveStream(w http.ResponseWriter, r *http.Request) {
	mailbox := m.hub.join()
	if mailbox == nil {
		w.Header().Set("Retry-After", "5")
		refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("%d clients are watching already", maxClients))
		return
	}
	defer m.hub.leave(mailbox)
	w.Header().Set("Content-Type", "text/event-stream")
	alive := time.NewTicker(heartbeat)
	defer alive.Stop()
	answer := http.NewResponseController(w)
	send := func(text []byte) bool {
		_ = answer.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, _ = w.Write(text)
		return answer.Flush() == nil
	}
	going := send(event("hello", fmt.Appendf(nil, `{"boot":%q}`, m.state.boot)))
	m.tell(0)
	for going {
		select {
		case frame := <-mailbox:
			going = send(frame)
		case <-alive.C:
			going = send(event("alive", []byte("{}")))
		case <-r.Context().Done():
			return
		case <-m.done:
			return
		}
	}
}

// event is a server-sent event, of JSON of one line.
func event(name string, data []byte) []byte {
	return slices.Concat([]byte("event: "), []byte(name), []byte("\ndata: "), data, []byte("\n\n"))
}
