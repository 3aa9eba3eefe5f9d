package monitor

import (
	"fmt"
	"net/http"
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
	send := func(event string, data []byte) bool {
		answer := http.NewResponseController(w)
		_ = answer.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, _ = fmt.Fprintf(w, "event: %s\ndata: ", event)
		_, _ = w.Write(data) // JSON of one line
		_, _ = w.Write([]byte("\n\n"))
		return answer.Flush() == nil
	}
	going := send("hello", fmt.Appendf(nil, `{"boot":%q}`, m.state.boot))
	for going {
		select {
		case frame := <-mailbox:
			going = send("frame", frame)
		case <-alive.C:
			going = send("alive", []byte("{}"))
		case <-r.Context().Done():
			return
		case <-m.done:
			return
		}
	}
}
