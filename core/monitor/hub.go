package monitor

import (
	"sync"
	"sync/atomic"
)

// maxClients bounds the streams of events that are open at a time.
const maxClients = 16

// hub hands frames, as events, to clients. Each client has a mailbox for one frame: one that reads more
// slowly than frames come finds the newest in it, and those it missed are counted. So
// a client that reads nothing costs one frame, which all share.
type hub struct {
	mutex   sync.Mutex
	clients map[chan []byte]struct{}
	dropped atomic.Int64
	refused atomic.Int64
}

// join adds a client; nil when there are too many.
func (h *hub) join() chan []byte {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if len(h.clients) == maxClients {
		h.refused.Add(1)
		return nil
	}
	mailbox := make(chan []byte, 1)
	h.clients[mailbox] = struct{}{}
	return mailbox
}

func (h *hub) leave(mailbox chan []byte) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	delete(h.clients, mailbox)
}

func (h *hub) len() int {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return len(h.clients)
}

// publish never waits for a client. Only it fills mailboxes, so the send has room.
func (h *hub) publish(frame []byte) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	for mailbox := range h.clients {
		select {
		case <-mailbox:
			h.dropped.Add(1)
		default:
		}
		mailbox <- frame
	}
}
