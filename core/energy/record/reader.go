package record

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxLine bounds a line: 60 layers of 512 experts with everything stay well below.
const MaxLine = 16 << 20

// Decode reads one line. It takes any bytes: what is not a line is an error.
func Decode(line []byte) (Line, error) { return decode(line, false) }

// DecodeShown is Decode without what no console shows: the FLOPs and bytes of experts.
func DecodeShown(line []byte) (Line, error) { return decode(line, true) }

func decode(line []byte, shown bool) (Line, error) {
	if len(line) > MaxLine {
		return Line{}, fmt.Errorf("a line of %d bytes, want at most %d", len(line), MaxLine)
	}
	if s, ok := decodeStep(line, shown); ok {
		return Line{Kind: KindStep, Step: s}, nil
	}
	var l Line
	if err := json.Unmarshal(line, &l); err != nil {
		return Line{}, err
	}
	if l.Run != nil && (l.Run.Schema < 1 || l.Run.Schema > Schema) {
		return Line{}, fmt.Errorf("schema: %d, want 1 to %d: the run is of a newer genesis-moe", l.Run.Schema, Schema)
	}
	return l, nil
}

// Reader reads the lines of a run, in order.
type Reader struct {
	in     *bufio.Reader
	number int
	offset int64
}

// NewReader makes a reader of a run's file.
func NewReader(r io.Reader) *Reader { return &Reader{in: bufio.NewReaderSize(r, 64<<10)} }

// Offset is how many bytes the whole lines read so far took: where to go on when the
// file has grown.
func (r *Reader) Offset() int64 { return r.offset }

// Next is the next line; io.EOF at the end, which a last line without its newline is too: a run
// that was killed may leave one. The error of a damaged line names its number; the reader can go on after it.
func (r *Reader) Next() (Line, error) {
	for {
		text, err := r.line()
		if err != nil {
			return Line{}, err
		}
		r.number++
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		l, err := Decode(text)
		if err != nil {
			return Line{}, fmt.Errorf("line %d: %w", r.number, err)
		}
		if r.number == 1 && l.Kind != KindRun {
			return Line{}, fmt.Errorf("line 1: kind %q, want %q: not the record of a run", l.Kind, KindRun)
		}
		return l, nil
	}
}

// line reads up to a newline, and no more than a line may hold.
func (r *Reader) line() ([]byte, error) {
	var whole []byte
	length := int64(0)
	for {
		part, err := r.in.ReadSlice('\n')
		length += int64(len(part))
		if len(whole)+len(part) <= MaxLine {
			whole = append(whole, part...)
		} else if len(whole) <= MaxLine {
			whole = make([]byte, MaxLine+1) // too long: Decode says so
		}
		switch {
		case err == nil:
			r.offset += length
			return whole, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err // io.EOF: what came before it is not a whole line
		}
	}
}
