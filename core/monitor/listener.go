package monitor

import (
	"net"
	"sync"
	"sync/atomic"
)

// maxConnections bounds what clients can make the process hold: each connection costs two
// goroutines and some tens of kilobytes.
const maxConnections = 64

// boundedListener closes connections beyond maxConnections as soon as they are accepted.
type boundedListener struct {
	*net.TCPListener
	open    atomic.Int64
	refused *atomic.Int64
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		connection, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) > maxConnections {
			l.open.Add(-1)
			l.refused.Add(1)
			_ = connection.Close()
			continue
		}
		return &countedConn{Conn: connection, open: &l.open}, nil
	}
}

// Close also ends the listening of children that were forked meanwhile: they have
// inherited the socket, and would keep the port taken.
func (l *boundedListener) Close() error {
	if raw, err := l.SyscallConn(); err == nil {
		_ = raw.Control(endListening)
	}
	return l.TCPListener.Close()
}

type countedConn struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}
