package monitor

import (
	"net"
	"net/http"
	"strconv"
)

// maxAnswers bounds the answers that are being sent at a time, and so what clients that
// do not take theirs can hold.
const maxAnswers = 8

// routes answers the addresses of the console. Every file of the page is one that was
// built in, looked up by its whole name: no part of a request reaches the file system.
func (m *Monitor) routes() http.Handler {
	files := pageFiles()
	sending := make(chan struct{}, maxAnswers)
	routes := map[string]http.HandlerFunc{
		"/api/stream":   m.serveStream,
		"/api/snapshot": bounded(sending, m.serveAnswer(&answer{build: m.state.snapshot})),
		"/api/history":  bounded(sending, m.serveAnswer(&answer{build: m.state.history})),
		"/api/traces":   bounded(sending, m.serveAnswer(&answer{build: m.state.traces})),
		"/metrics":      bounded(sending, m.serveAnswer(&answer{build: m.metricsText, kind: "text/plain; version=0.0.4; charset=utf-8"})),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if serve, ok := routes[r.URL.Path]; ok {
			serve(w, r)
			return
		}
		if file, ok := files[r.URL.Path]; ok {
			file.serve(w, r)
			return
		}
		refuse(w, http.StatusNotFound, "nothing here; the console is at /")
	})
}

func bounded(sending chan struct{}, serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case sending <- struct{}{}:
			defer func() { <-sending }()
			serve(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusServiceUnavailable, "too many answers are being sent")
		}
	}
}

func portOf(address *net.TCPAddr) string { return strconv.Itoa(address.Port) }
