package monitor

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// Monitor is a console: a server, and the runs that it shows. It is safe for concurrent use.
type Monitor struct {
	options  Options
	state    state
	hub      hub
	server   *http.Server
	listener *boundedListener
	own      *Stream // of Log

	idleScrape *scrape // what /metrics says before the first run

	lines   atomic.Int64
	bad     atomic.Int64
	panics  atomic.Int64
	refused atomic.Int64  // connections
	news    chan struct{} // for publish
	done    chan struct{}
	stop    sync.Once
	tasks   sync.WaitGroup
}

// Stats count what the console took in and what it turned away.
type Stats struct {
	Lines              int64 `json:"lines"`
	BadLines           int64 `json:"bad_lines"`
	Clients            int   `json:"clients"`
	DroppedFrames      int64 `json:"dropped_frames"`      // that clients were too slow for
	RefusedClients     int64 `json:"refused_clients"`     // beyond those that may watch at a time
	RefusedConnections int64 `json:"refused_connections"` // beyond those that may be open at a time
	Panics             int64 `json:"panics"`              // of the console, each a bug
}

// Start opens the address and serves the console until [Monitor.Stop].
func Start(o Options) (*Monitor, error) {
	o, err := o.checked()
	if err != nil {
		return nil, err
	}
	opened, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, core.Invalidf("address", "%q cannot be listened on: %v", o.Address, err)
	}
	m := &Monitor{options: o, news: make(chan struct{}, 1), done: make(chan struct{})}
	m.state = state{boot: rand.Text(), version: o.Version, now: time.Now}
	m.idleScrape = newScrape(o.Version)
	m.hub.clients = map[chan []byte]struct{}{}
	m.listener = &boundedListener{TCPListener: opened.(*net.TCPListener), refused: &m.refused}
	m.own = m.Stream()
	m.server = &http.Server{
		Handler:           newGuard(o, opened.Addr().(*net.TCPAddr), m.routes()),
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      writeTimeout, // which streams extend
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		// Go answers "OPTIONS *" by itself otherwise, whatever the Host.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0), // a scanner must not fill the host's log
	}
	m.run(func() { _ = m.server.Serve(m.listener) })
	m.run(m.publish)
	return m, nil
}

// run starts a task that ends with the console. A panic of the console must not
// end the host's process.
func (m *Monitor) run(task func()) {
	m.tasks.Go(func() {
		defer func() {
			if recover() != nil {
				m.panics.Add(1)
			}
		}()
		task()
	})
}

// tell wakes publish, if there is something for it to do: whoever watches wants a frame, or lines wait for the
// registry. It does not wait.
func (m *Monitor) tell(pending int) {
	if m.hub.len() == 0 && pending < mostPending/4 {
		return
	}
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// publish makes a frame when there is news, but not more than one an interval. It has no clock of its own: an
// idle host is not woken, and one that logs about once an interval gets its frame in the same waking moment
// as its line, which is most of what a frame costs.
func (m *Monitor) publish() {
	var last time.Time
	for {
		select {
		case <-m.news:
		case <-m.done:
			return
		}
		m.feedMetrics()
		if m.hub.len() == 0 {
			continue
		}
		// A host's rhythm is not exact: a line that comes a little early is not made to wait.
		if wait := m.options.Interval - time.Since(last); wait > m.options.Interval/8 && !m.sleep(wait) {
			return
		}
		select { // what came meanwhile is in this frame
		case <-m.news:
		default:
		}
		if m.publishOnce() {
			last = time.Now()
		}
	}
}

// publishOnce sends what has changed, if anything has.
func (m *Monitor) publishOnce() bool {
	frame, err := m.state.frame(m.Stats())
	if err != nil || frame == nil {
		return false
	}
	m.hub.publish(event("frame", frame)) // made once for all clients
	return true
}

// URL is where the console is, with the port that was taken. A token is not in it.
func (m *Monitor) URL() string {
	address := m.listener.Addr().(*net.TCPAddr)
	host, _, _ := net.SplitHostPort(m.options.Address)
	if address.IP.IsUnspecified() {
		host = "127.0.0.1" // one of the addresses that it stands for
	}
	return "http://" + net.JoinHostPort(host, portOf(address)) + "/"
}

// Log shows a line that the host wrote as JSON, of the kinds of package record. A line of kind
// "run" begins a new run.
func (m *Monitor) Log(line []byte) error {
	decoded, err := record.DecodeShown(line)
	if err != nil {
		m.bad.Add(1)
		return core.Invalidf("line", "%v", err)
	}
	return m.own.Write(decoded)
}

// Stats counts what happened since the start.
func (m *Monitor) Stats() Stats {
	return Stats{
		Lines: m.lines.Load(), BadLines: m.bad.Load(), Clients: m.hub.len(),
		DroppedFrames: m.hub.dropped.Load(), RefusedClients: m.hub.refused.Load(),
		RefusedConnections: m.refused.Load(), Panics: m.panics.Load(),
	}
}

// Stop closes the address and every connection, and waits for the console's tasks.
func (m *Monitor) Stop() error {
	var err error
	m.stop.Do(func() {
		close(m.done)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err = m.server.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
			err = m.server.Close()
		}
		m.tasks.Wait()
	})
	return err
}
