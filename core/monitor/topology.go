package monitor

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// maxExperts bounds the experts of all layers that are shown; a header that claims more
// gets its first layers shown.
const maxExperts = 1 << 16

// topology is the layers and experts of a run, and what each has had.
type topology struct {
	layers  map[int]*layer
	experts int // of all layers
	version int // raised when what layerView says has changed
}

type layer struct {
	record.Layer
	free    []bool // slots that hold no expert
	names   []string
	prefers [][]string
	given   []bool
	last    record.LayerStep // its terms; its slices are not kept
	now     []int64          // tokens of the last step
	total   []int64          // and of the run
	joules  []float64        // of the run
	quality record.Quality   // of joules
}

// layerView is what changes rarely: sent when a page asks for the whole state.
type layerView struct {
	Layer   int        `json:"layer"`
	Name    string     `json:"name"`
	Experts int        `json:"experts"`
	TopK    int        `json:"top_k"`
	Names   []string   `json:"names"`
	Given   []bool     `json:"given,omitempty"`
	Prefers [][]string `json:"prefers,omitempty"`
	Clans   []int      `json:"clans,omitempty"`
	Free    []int      `json:"free,omitempty"`
}

// layerTerms is a layer's part of the last step's report.
type layerTerms struct {
	Layer        int      `json:"layer"`
	Bind         *float64 `json:"bind"`
	Entropy      *float64 `json:"entropy"`
	Cost         *float64 `json:"cost"`
	Hamiltonian  *float64 `json:"h"`
	MaxViolation *float64 `json:"max_violation"`
	MeanActive   *float64 `json:"mean_active"`
	Active       int      `json:"active"` // experts with a token in the last step
}

// grids are one number for each expert, layer after layer, as 16-bit little-endian integers, of which
// JSON has the base64. A frame of 60 layers x 128 experts takes 61 KB this way and costs no
// formatting of numbers.
type grids struct {
	Now    []byte         `json:"now"`    // load in the last step, in 1/256 of balance; 0: IDLE
	Run    []byte         `json:"run"`    // load over the run, likewise
	Energy []byte         `json:"energy"` // share of the layer's dynamic energy over the run, of 65535; empty: not attributed
	Label  record.Quality `json:"energy_quality,omitempty"`
}

func newTopology(layers []record.Layer) *topology {
	t := &topology{layers: map[int]*layer{}, version: 1}
	for _, as := range layers {
		l := t.grow(as.Layer, as.Experts, as)
		for _, slot := range as.Free {
			if l != nil && slot >= 0 && slot < l.Experts {
				l.free[slot] = true
			}
		}
	}
	return t
}

// grow makes sure that a layer is there with so many experts; nil when that is too many.
func (t *topology) grow(number, experts int, as record.Layer) *layer {
	l := t.layers[number]
	have := 0
	if l != nil {
		have = l.Experts
	}
	if experts < 0 || t.experts+max(experts-have, 0) > maxExperts {
		return l
	}
	if l == nil {
		as.Layer, as.Experts = number, 0
		as.Name, as.Clans, as.Free = clip(as.Name), slices.Clone(as.Clans), nil
		l = &layer{Layer: as}
		t.layers[number] = l
		t.version++
	}
	if experts > l.Experts {
		t.experts += experts - l.Experts
		l.Experts = experts
		l.free = append(l.free, make([]bool, experts-len(l.free))...)
		l.now = append(l.now, make([]int64, experts-len(l.now))...)
		l.total = append(l.total, make([]int64, experts-len(l.total))...)
		l.names = append(l.names, make([]string, experts-len(l.names))...)
		t.version++
	}
	return l
}

// step takes in one layer's part of a step.
func (t *topology) step(s *record.LayerStep) {
	l := t.grow(s.Layer, max(len(s.Tokens), len(s.Joules)), record.Layer{})
	if l == nil {
		return
	}
	for e := range l.now {
		l.now[e] = 0
		if e < len(s.Tokens) {
			l.now[e] = max(s.Tokens[e], 0)
			l.total[e] += l.now[e]
		}
		if l.free[e] && l.now[e] > 0 { // what works is there, whoever forgot to say so
			l.free[e] = false
			t.version++
		}
	}
	if len(s.Joules) > 0 {
		l.joules = append(l.joules, make([]float64, max(l.Experts-len(l.joules), 0))...)
		for e, joules := range s.Joules[:min(len(s.Joules), len(l.joules))] {
			if finite(joules) {
				l.joules[e] += joules
			}
		}
		l.quality = s.JoulesQuality
	}
	// The router is asked for its report in some steps only: the terms stay until the next.
	l.last.Bind, l.last.Entropy = newer(s.Bind, l.last.Bind), newer(s.Entropy, l.last.Entropy)
	l.last.Cost, l.last.Hamiltonian = newer(s.Cost, l.last.Cost), newer(s.Hamiltonian, l.last.Hamiltonian)
	l.last.MaxViolation = newer(t.maxViolation(s), l.last.MaxViolation)
	l.last.MeanActive = newer(s.MeanActive, l.last.MeanActive)
}

// maxViolation is the largest load over the mean, minus 1: as reported, else from the tokens.
func (t *topology) maxViolation(s *record.LayerStep) *float64 {
	l := t.layers[s.Layer]
	if s.MaxViolation != nil || l == nil {
		return s.MaxViolation
	}
	most, sum := 0.0, 0.0
	for _, n := range s.Tokens {
		most, sum = max(most, float64(n)), sum+max(float64(n), 0)
	}
	if sum == 0 {
		return nil
	}
	violation := most*float64(l.living())/sum - 1
	return &violation
}

// living is the number of experts that are there, free slots not counted.
func (l *layer) living() int {
	n := l.Experts
	for _, free := range l.free {
		if free {
			n--
		}
	}
	return n
}

func (t *topology) names(n *record.Names) {
	l := t.grow(n.Layer, len(n.Names), record.Layer{})
	if l == nil {
		return
	}
	for e := range l.names {
		l.names[e] = ""
		if e < len(n.Names) {
			l.names[e] = clip(n.Names[e])
		}
	}
	l.given, l.prefers = slices.Clone(n.Given), nil
	for _, tokens := range n.Tokens {
		few := make([]string, 0, 8)
		for _, token := range tokens[:min(len(tokens), 8)] {
			few = append(few, clip(token))
		}
		l.prefers = append(l.prefers, few)
	}
	t.version++
}

// split notes that an expert has got a child.
func (t *topology) split(number, expert, child int) {
	l := t.layers[number]
	if l == nil || expert < 0 || child < 0 || expert >= l.Experts || child > l.Experts {
		return
	}
	if t.grow(number, child+1, record.Layer{}); child >= l.Experts {
		return
	}
	for len(l.Clans) < l.Experts {
		l.Clans = append(l.Clans, -1)
	}
	l.Clans[child], l.free[child] = expert, false
	t.version++
}

// leave notes that an expert is no more its clan's: it has one of its own, or it has died.
func (t *topology) leave(number, expert int, died bool) {
	l := t.layers[number]
	if l == nil || expert < 0 || expert >= l.Experts {
		return
	}
	if expert < len(l.Clans) {
		l.Clans[expert] = -1
	}
	l.free[expert] = died
	t.version++
}

// sorted is the layers in the order of their numbers.
func (t *topology) sorted() []*layer {
	layers := make([]*layer, 0, len(t.layers))
	for _, number := range slices.Sorted(maps.Keys(t.layers)) {
		layers = append(layers, t.layers[number])
	}
	return layers
}

func (t *topology) views() []layerView {
	views := make([]layerView, 0, len(t.layers))
	for _, l := range t.sorted() {
		var free []int
		for slot, is := range l.free {
			if is {
				free = append(free, slot)
			}
		}
		views = append(views, layerView{
			l.Layer.Layer, l.Name, l.Experts, l.TopK,
			slices.Clone(l.names), slices.Clone(l.given), slices.Clone(l.prefers), slices.Clone(l.Clans), free,
		})
	}
	return views
}

func (t *topology) terms() []layerTerms {
	terms := make([]layerTerms, 0, len(t.layers))
	for _, l := range t.sorted() {
		active := 0
		for _, tokens := range l.now {
			if tokens > 0 {
				active++
			}
		}
		terms = append(terms, layerTerms{
			l.Layer.Layer, l.last.Bind, l.last.Entropy, l.last.Cost, l.last.Hamiltonian,
			l.last.MaxViolation, l.last.MeanActive, active,
		})
	}
	return terms
}

func (t *topology) grids() grids {
	size := 2 * t.experts
	g := grids{Now: make([]byte, 0, size), Run: make([]byte, 0, size), Energy: make([]byte, 0, size)}
	for _, l := range t.sorted() {
		g.Now = appendLoads(g.Now, l.now, l.living())
		g.Run = appendLoads(g.Run, l.total, l.living())
		g.Energy = appendShares(g.Energy, l.joules, l.Experts)
		if len(g.Energy) > 0 && sumOf(l.joules) > 0 {
			g.Label = l.quality
		}
	}
	if g.Label == "" {
		g.Energy = g.Energy[:0]
	}
	return g
}

// appendLoads writes each expert's tokens over the mean of those that are there, in 1/256. What
// had a token is never 0, which means that it had none.
func appendLoads(text []byte, tokens []int64, living int) []byte {
	scale := 256 * float64(living) / float64(max(sumOf(tokens), 1))
	for _, n := range tokens {
		load := 0.0
		if n > 0 {
			load = max(scale*float64(n), 1)
		}
		text = binary.LittleEndian.AppendUint16(text, uint16(min(load, 65535)))
	}
	return text
}

// appendShares writes each expert's share of the joules of its layer, of 65535.
func appendShares(text []byte, joules []float64, experts int) []byte {
	scale := 0.0
	if sum := sumOf(joules); sum > 0 {
		scale = 65535 / sum
	}
	for e := range experts {
		share := 0.0
		if e < len(joules) {
			share = min(max(scale*joules[e], 0), 65535)
		}
		text = binary.LittleEndian.AppendUint16(text, uint16(share+0.5))
	}
	return text
}

func sumOf[N int64 | float64](values []N) (sum N) {
	for _, value := range values {
		sum += value
	}
	return sum
}

func newer(value, older *float64) *float64 {
	if value == nil || !finite(*value) {
		return older
	}
	copied := *value
	return &copied
}

func finiteOr0(value float64) float64 {
	if finite(value) {
		return value
	}
	return 0
}

func finite(value float64) bool { return !math.IsNaN(value) && !math.IsInf(value, 0) }

// clip bounds a text of the host's that is kept and sent again and again.
func clip(text string) string {
	const most = 96
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
