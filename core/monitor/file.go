package monitor

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// FileOptions say how a file of records is shown.
type FileOptions struct {
	// Follow keeps reading as another process appends.
	Follow bool
	// Speed plays a run in its own time, so many times as fast. 0 shows all of it at once.
	Speed float64
}

// Open shows the run in a file of JSON lines. That the file is there and begins as one is
// checked at once; the rest is read meanwhile, and a line that cannot be read is counted
// and left out.
func (m *Monitor) Open(path string, o FileOptions) error {
	if o.Speed < 0 || !finite(o.Speed) {
		return core.Invalidf("speed", "%v, want 0 (all at once) or more", o.Speed)
	}
	if o.Follow && o.Speed != 0 {
		return core.Invalidf("speed", "%v, want 0 with follow: a file that is being written has its own speed", o.Speed)
	}
	file, err := os.Open(path)
	if err != nil {
		return core.Invalidf("path", "%v", err)
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = file.Close()
		return core.Invalidf("path", "%q is no regular file", path)
	}
	s := &Stream{monitor: m, mode: Replayed}
	var source io.Reader = file
	if o.Follow {
		s.mode = Followed
		source = &tail{file, m.done}
	}
	lines := record.NewReader(source)
	if !o.Follow {
		first, err := lines.Next()
		if err != nil {
			_ = file.Close()
			return core.Invalidf("path", "%q is no file of records: %v", path, err)
		}
		_ = s.Write(first)
	}
	m.run(func() {
		defer file.Close() //nolint:errcheck // it was only read
		m.play(s, lines, o.Speed)
	})
	return nil
}

// play shows lines until there are no more.
func (m *Monitor) play(s *Stream, lines *record.Reader, speed float64) {
	begin, offset := time.Now(), -1.0
	for {
		before := lines.Offset()
		line, err := lines.Next()
		if err != nil {
			if errors.Is(err, io.EOF) || lines.Offset() == before { // the end, or a disk that fails
				s.finish()
				return
			}
			m.bad.Add(1)
			continue
		}
		if seconds, ok := secondsOf(line); ok && speed > 0 && finite(seconds) {
			if offset < 0 {
				offset = seconds
			}
			due := begin.Add(time.Duration((seconds - offset) / speed * float64(time.Second)))
			if !m.sleep(time.Until(due)) {
				return
			}
		}
		_ = s.Write(line)
		select {
		case <-m.done:
			return
		default:
		}
	}
}

// sleep waits; false when the console was stopped meanwhile.
func (m *Monitor) sleep(d time.Duration) bool {
	select {
	case <-time.After(max(d, 0)):
		return true
	case <-m.done:
		return false
	}
}

// tail reads a file that grows: at its end it waits for more.
type tail struct {
	file *os.File
	done <-chan struct{}
}

func (t *tail) Read(buffer []byte) (int, error) {
	for {
		n, err := t.file.Read(buffer)
		if n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
		select {
		case <-t.done:
			return 0, io.EOF
		case <-time.After(200 * time.Millisecond):
		}
	}
}
