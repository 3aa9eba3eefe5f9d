package energy

import (
	"fmt"
	"time"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// start takes the first readings, and lets a goroutine take the others.
func (m *Meter) start() {
	if m.started || m.closed {
		return
	}
	m.started = true
	m.poll()
	if m.options.Clock != nil || len(m.probes) == 0 {
		return
	}
	m.alarm, m.stopped = newAlarm(), make(chan struct{})
	m.schedule()
	go func() {
		defer close(m.stopped)
		for m.alarm.wait() {
			m.Poll()
		}
	}()
}

// next is when to poll: each wake of the sampler costs the host far more than a reading does.
func (m *Meter) next() time.Duration {
	now := m.clock()
	next := now + gaugePeriod
	for _, p := range m.probes {
		switch {
		case p.lost:
		case m.tracer != nil:
			next = min(next, now+m.options.PollPeriod)
		default:
			next = min(next, p.track.next(now, len(m.waiting) > 0))
		}
	}
	return next
}

// schedule sets the alarm for the next poll.
func (m *Meter) schedule() {
	m.due = m.next()
	if m.alarm != nil {
		m.alarm.set(m.due - m.clock())
	}
}

// hasten brings the next poll forward where a mark that has come asks for it.
func (m *Meter) hasten() {
	if m.next() < m.due {
		m.schedule()
	}
}

// Poll reads the sensors now. Only a meter with a clock of its caller needs it.
func (m *Meter) Poll() {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.closed {
		return
	}
	m.start()
	m.poll()
	m.schedule()
}

func (m *Meter) poll() {
	for _, p := range m.probes {
		m.read(p)
	}
	m.settleWaiting()
}

// settleWaiting fixes the marks that have become certain, and tells who waits for them.
func (m *Meter) settleWaiting() {
	now := m.clock()
	left := m.waiting[:0]
	for _, mark := range m.waiting {
		if !m.settle(mark, now) {
			left = append(left, mark)
		}
	}
	if len(left) < len(m.waiting) {
		clear(m.waiting[len(left):])
		m.waiting = left
		m.announce()
	}
}

// announce wakes who waits for marks to settle.
func (m *Meter) announce() {
	close(m.settled)
	m.settled = make(chan struct{})
}

func (m *Meter) read(p *probe) {
	before := m.clock()
	sample, err := p.sensor.Read()
	after := m.clock()
	if err != nil {
		p.failing = true
		if !p.lost && after-p.good > lostAfter {
			p.lost = true
			p.track.lose()
			m.event(record.MeterLost, p, fmt.Sprintf("no reading for %.1f s: %v", seconds(after-p.good), err))
		}
		return
	}
	if p.lost {
		m.event(record.MeterBack, p, fmt.Sprintf("readings again after %.1f s", seconds(after-p.good)))
	}
	p.answered, p.failing, p.lost, p.good = true, false, false, after
	if m.tracer != nil {
		m.tracer.write(p, after, sample)
	}
	switch p.track.observe(before, after, sample) {
	case wrapped:
		m.event(record.CounterWrapped, p, "the counter passed its highest value; nothing is lost")
	case reset:
		m.event(record.CounterReset, p, "the counter began anew; energy that was not counted meanwhile is in the uncertainty")
	}
	m.gauge(p, after)
}

// gauge looks at power and limit now and then, where the sensor has them.
func (m *Meter) gauge(p *probe, now time.Duration) {
	g, ok := p.sensor.(Gauge)
	if !ok || p.gauged && now-p.gaugedAt < gaugePeriod {
		return
	}
	p.gauged, p.gaugedAt = true, now
	before := m.clock()
	p.watts, p.limit = g.Power()
	if p.check != nil && p.watts != nil {
		if message := p.check.observe(before, m.clock(), *p.watts, p.track); message != "" {
			m.event(record.MeterDisagrees, p, message)
		}
	}
}

func (m *Meter) event(kind record.EventKind, p *probe, message string) {
	for _, hear := range m.hear {
		hear(record.Event{Seconds: seconds(m.clock()), Event: kind, Device: p.traits.Device.Device, Message: message})
	}
}
