package monitor

import (
	"slices"
	"strconv"
)

// series is a history of bounded length: rows of numbers in the order of time, NaN where a
// number is not known. When it is full it merges neighbours in pairs, and from then on
// as many new rows into one: an hour and a week take the same memory, the whole run
// stays in view, and only its detail fades.
type series struct {
	merge    []mergeRule
	capacity int // rows; even
	rows     []float64
	stride   int       // added rows that make one row
	open     []float64 // the row being merged
	merged   int       // how many are in it
}

// mergeRule says what becomes of a column when rows are merged.
type mergeRule int

const (
	mergeLast mergeRule = iota // counters and clocks
	mergeMean                  // measured quantities; of those that are known
)

func newSeries(capacity int, merge []mergeRule) *series {
	return &series{merge: merge, capacity: capacity, stride: 1, open: make([]float64, len(merge))}
}

// add appends a row, which has a value for every column.
func (s *series) add(row []float64) {
	if s.merged == 0 {
		copy(s.open, row)
	} else {
		s.fold(s.open, row, float64(s.merged), 1)
	}
	s.merged++
	if s.merged < s.stride {
		return
	}
	s.rows = append(s.rows, s.open...)
	s.merged = 0
	if s.len() == s.capacity {
		s.halve()
	}
}

func (s *series) len() int { return len(s.rows) / len(s.merge) }

// fold merges a row into another; the weights are how many added rows each stands for.
func (s *series) fold(into, from []float64, weightInto, weightFrom float64) {
	for c, rule := range s.merge {
		switch {
		case !finite(from[c]) && rule == mergeMean:
		case !finite(into[c]) || rule == mergeLast:
			into[c] = from[c]
		default:
			into[c] += (from[c] - into[c]) * weightFrom / (weightInto + weightFrom)
		}
	}
}

func (s *series) halve() {
	width := len(s.merge)
	for pair := range s.len() / 2 {
		into := s.rows[pair*width : (pair+1)*width]
		first, second := s.rows[2*pair*width:(2*pair+1)*width], s.rows[(2*pair+1)*width:(2*pair+2)*width]
		copy(into, first)
		s.fold(into, second, 1, 1)
	}
	s.rows = s.rows[:len(s.rows)/2]
	s.stride *= 2
}

func (s *series) reset() {
	s.rows, s.merged, s.stride = s.rows[:0], 0, 1
}

// clone is a copy to be written out.
func (s *series) clone() series {
	copied := *s
	copied.rows, copied.open = slices.Clone(s.rows), slices.Clone(s.open)
	return copied
}

// MarshalJSON writes the rows, the unfinished one included, as an array of arrays.
func (s series) MarshalJSON() ([]byte, error) {
	rows := s.rows
	if s.merged > 0 {
		rows = append(rows, s.open...)
	}
	text := append(make([]byte, 0, 10*len(rows)+2), '[')
	for c, value := range rows {
		switch {
		case c == 0:
			text = append(text, '[')
		case c%len(s.merge) == 0:
			text = append(text, "],["...)
		default:
			text = append(text, ',')
		}
		if finite(value) {
			text = strconv.AppendFloat(text, value, 'g', 9, 64)
		} else {
			text = append(text, "null"...)
		}
	}
	if len(rows) > 0 {
		text = append(text, ']')
	}
	return append(text, ']'), nil
}
