package record

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"strings"
)

// decodeStep reads a line of kind step several times as fast as encoding/json, which looks at every byte of the
// experts' numbers four times over: a step of 60 layers of 128 experts has 30,000 of them. It takes the layers out
// and leaves the rest to encoding/json. It is false for all that it does not expect, faults included; what it takes means
// the same to encoding/json, which a fuzz target checks.
//
// A number of joules of an expert may differ from what encoding/json reads in its last bit. shown leaves out what no
// console shows: FLOPs and bytes.
func decodeStep(line []byte, shown bool) (*Step, bool) {
	d := stepDecoder{text: line, shown: shown}
	from, to, layers := d.object()
	if d.failed || from < 0 {
		return nil, false
	}
	rest := make([]byte, 0, len(line)-(to-from)+4)
	rest = append(append(append(rest, line[:from]...), "null"...), line[to:]...)
	var s Step
	if json.Unmarshal(rest, &s) != nil || s.Kind != KindStep {
		return nil, false
	}
	s.Layers = layers
	return &s, true
}

// stepDecoder reads text from position at. Once it has failed it only moves on.
type stepDecoder struct {
	text   []byte
	at     int
	failed bool
	shown  bool
}

// object finds the one field "layers" of the line's object: its value is text[from:to]. from is -1 when there is none.
func (d *stepDecoder) object() (from, to int, layers []LayerStep) {
	from = -1
	d.expect('{')
	for first := true; !d.failed && !d.closes('}', first); first = false {
		key := d.key()
		switch {
		case string(key) == "layers" && from < 0:
			d.space()
			from = d.at
			layers = d.layers()
			to = d.at
		case strings.EqualFold(string(key), "layers"): // encoding/json takes it for the field too
			d.failed = true
		default:
			d.skip()
		}
	}
	return from, to, layers
}

func (d *stepDecoder) layers() []LayerStep {
	layers := []LayerStep{}
	d.expect('[')
	for first := true; !d.failed && !d.closes(']', first); first = false {
		layers = append(layers, LayerStep{})
		d.layer(&layers[len(layers)-1])
	}
	return layers
}

func (d *stepDecoder) layer(l *LayerStep) {
	var seen [13]bool
	once := func(field int) {
		d.failed = d.failed || seen[field]
		seen[field] = true
	}
	d.expect('{')
	for first := true; !d.failed && !d.closes('}', first); first = false {
		switch string(d.key()) {
		case "layer":
			once(0)
			l.Layer = int(d.integer())
		case "bind":
			once(1)
			l.Bind = d.number()
		case "entropy":
			once(2)
			l.Entropy = d.number()
		case "cost":
			once(3)
			l.Cost = d.number()
		case "h":
			once(4)
			l.Hamiltonian = d.number()
		case "max_violation":
			once(5)
			l.MaxViolation = d.number()
		case "mean_active":
			once(6)
			l.MeanActive = d.number()
		case "token_entropy":
			once(7)
			l.TokenEntropy = d.number()
		case "tokens":
			once(8)
			l.Tokens = list(d, (*stepDecoder).integer)
		case "flops":
			once(9)
			l.FLOPs = d.unlessShown()
		case "bytes":
			once(10)
			l.Bytes = d.unlessShown()
		case "joules":
			once(11)
			l.Joules = list(d, (*stepDecoder).roughly)
		case "joules_quality":
			once(12)
			d.space()
			l.JoulesQuality = Quality(d.word())
		default:
			d.failed = true
		}
	}
}

// unlessShown reads integers, or passes over them.
func (d *stepDecoder) unlessShown() []int64 {
	if !d.shown {
		return list(d, (*stepDecoder).integer)
	}
	if d.null() {
		return nil
	}
	// Whether they are well-formed is not looked at: nobody sees them.
	d.expect('[')
	end := bytes.IndexByte(d.text[d.at:], ']')
	d.failed = d.failed || end < 0
	d.at += end + 1
	return nil
}

// list reads an array of numbers, or null.
func list[N int64 | float64](d *stepDecoder, element func(*stepDecoder) N) []N {
	if d.null() {
		return nil
	}
	d.expect('[')
	// Room for what comes: the commas before the array's end.
	end := bytes.IndexByte(d.text[d.at:], ']')
	if d.failed || end < 0 {
		d.failed = true
		return nil
	}
	numbers := make([]N, 0, bytes.Count(d.text[d.at:d.at+end], []byte{','})+1)
	for first := true; !d.failed && !d.closes(']', first); first = false {
		numbers = append(numbers, element(d))
		for d.at < len(d.text) && d.text[d.at] == ',' && !d.failed { // what closes does, without the calls
			d.at++
			numbers = append(numbers, element(d))
		}
	}
	return numbers
}

// number is a number, or nil for null.
func (d *stepDecoder) number() *float64 {
	if d.null() {
		return nil
	}
	value := d.float()
	return &value
}

// integer reads an integer of at most 18 digits.
func (d *stepDecoder) integer() int64 {
	d.space()
	negative := d.at < len(d.text) && d.text[d.at] == '-'
	if negative {
		d.at++
	}
	begin, value := d.at, int64(0)
	for d.at < len(d.text) && d.text[d.at]-'0' <= 9 {
		value = 10*value + int64(d.text[d.at]-'0')
		d.at++
	}
	digits := d.at - begin
	if digits == 0 || digits > 18 || digits > 1 && d.text[begin] == '0' {
		d.failed = true
	}
	if negative {
		return -value
	}
	return value
}

func (d *stepDecoder) float() float64 {
	d.space()
	begin := d.at
	if d.at < len(d.text) && d.text[d.at] == '-' {
		d.at++
	}
	whole := d.digits()
	d.failed = d.failed || whole == 0 || whole > 1 && d.text[d.at-whole] == '0'
	if d.at < len(d.text) && d.text[d.at] == '.' {
		d.at++
		d.failed = d.digits() == 0 || d.failed
	}
	if d.at < len(d.text) && d.text[d.at]|0x20 == 'e' {
		d.at++
		if d.at < len(d.text) && (d.text[d.at] == '+' || d.text[d.at] == '-') {
			d.at++
		}
		d.failed = d.digits() == 0 || d.failed
	}
	value, err := strconv.ParseFloat(string(d.text[begin:d.at]), 64)
	d.failed = d.failed || err != nil
	return value
}

// roughly reads a number to within a unit in the last place, in half the time: most have 17 digits.
func (d *stepDecoder) roughly() float64 {
	d.space()
	begin, mantissa, exponent := d.at, uint64(0), 0
	whole := d.mantissa(&mantissa)
	leading := whole > 1 && d.text[d.at-whole] == '0'
	if whole > 0 && d.at < len(d.text) && d.text[d.at] == '.' {
		d.at++
		exponent = d.mantissa(&mantissa)
		whole += exponent
		leading = leading || exponent == 0
	}
	if whole == 0 || leading || whole > 19 || exponent > 22 || d.at == len(d.text) || d.text[d.at] != ',' && d.text[d.at] != ']' {
		d.at = begin // a sign, an exponent, a space, more digits, or a fault
		return d.float()
	}
	return float64(mantissa) / powersOfTen[exponent]
}

// mantissa appends digits to a number, and returns how many.
func (d *stepDecoder) mantissa(to *uint64) int {
	begin := d.at
	for len(d.text)-d.at >= 8 {
		eight, ok := eightDigits(binary.LittleEndian.Uint64(d.text[d.at:]))
		if !ok {
			break
		}
		*to = 100000000**to + eight
		d.at += 8
	}
	for d.at < len(d.text) && d.text[d.at]-'0' <= 9 {
		*to = 10**to + uint64(d.text[d.at]-'0')
		d.at++
	}
	return d.at - begin
}

// eightDigits is the number that eight bytes of text say, if all are digits: neighbours are added up, then pairs, then fours.
func eightDigits(text uint64) (number uint64, ok bool) {
	digits := text - 0x3030303030303030
	if (digits|(text+0x4646464646464646))&0x8080808080808080 != 0 {
		return 0, false
	}
	digits = (digits*10 + digits>>8) & 0x00ff00ff00ff00ff
	digits = (digits*100 + digits>>16) & 0x0000ffff0000ffff
	return (digits*10000 + digits>>32) & 0xffffffff, true
}

// powersOfTen are exact.
var powersOfTen = func() (p [23]float64) {
	for i := range p {
		p[i], _ = strconv.ParseFloat("1e"+strconv.Itoa(i), 64)
	}
	return p
}()

func (d *stepDecoder) digits() int {
	begin := d.at
	for d.at < len(d.text) && d.text[d.at]-'0' <= 9 {
		d.at++
	}
	return d.at - begin
}

// key reads a field's name and the colon.
func (d *stepDecoder) key() []byte {
	d.space()
	key := d.word()
	d.expect(':')
	return key
}

// word reads a string of printable ASCII without escapes.
func (d *stepDecoder) word() []byte {
	d.expect('"')
	begin := d.at
	for d.at < len(d.text) && d.text[d.at] != '"' {
		if c := d.text[d.at]; c < ' ' || c > '~' || c == '\\' {
			d.failed = true
		}
		d.at++
	}
	word := d.text[begin:d.at]
	d.expect('"')
	return word
}

// skip passes over a value; whether it is one encoding/json sees.
func (d *stepDecoder) skip() {
	depth := 0
	for d.at < len(d.text) {
		switch d.text[d.at] {
		case '"':
			d.skipString()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return
			}
			depth--
		case ',':
			if depth == 0 {
				return
			}
		}
		d.at++
	}
	d.failed = true
}

func (d *stepDecoder) skipString() {
	for d.at++; d.at < len(d.text); d.at++ {
		switch d.text[d.at] {
		case '\\':
			d.at++
		case '"':
			d.at++
			return
		}
	}
	d.failed = true
}

// closes takes the end of an object or array, or the comma before the next element.
func (d *stepDecoder) closes(end byte, first bool) bool {
	d.space()
	if d.at < len(d.text) && d.text[d.at] == end {
		d.at++
		return true
	}
	if !first {
		d.expect(',')
	}
	return false
}

func (d *stepDecoder) null() bool {
	d.space()
	if bytes.HasPrefix(d.text[d.at:], []byte("null")) {
		d.at += len("null")
		return true
	}
	return false
}

func (d *stepDecoder) space() {
	for d.at < len(d.text) {
		switch d.text[d.at] {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return
		}
	}
}

func (d *stepDecoder) expect(c byte) {
	d.space()
	if d.at >= len(d.text) || d.text[d.at] != c {
		d.failed = true
		return
	}
	d.at++
}
