// Package decode has the schedule of the experts' kernels for few tokens: the launches and the table of what
// they take (cuda/kernels/RESOURCES.md) read it from here. cuda/kernels/experts_decode_params.h has the same
// numbers.
package decode

// What the kernels are made for.
const (
	Tokens = 64   // at most
	Pairs  = 1024 // T*K at most: each block sorts them for itself

	Side              = 128        // rows of a weight that a block multiplies at a time
	StageBytes        = Side * 128 // of weights, that one stage of the ring brings
	RingBytes         = 72 << 10   // dynamic shared memory
	BlocksOfProcessor = 2
)

// Layer is a forward pass.
type Layer struct {
	Hidden, Intermediate, Experts, Slots, Tokens int
	ElementBytes                                 int
	Gated                                        bool
	Across                                       bool // the first weight lies across the depth
}

// Schedule is how the two products are cut into units of work, from shapes alone: what a token gets does not
// depend on the other tokens of a call.
type Schedule struct {
	Cut                    int // how many ways a block of the first kernel cuts each stage's depth
	Parts, Part            int // into which the second kernel cuts the depth, and elements of one
	GateUpUnits, DownUnits int // at most, whatever the routing
}

// ColumnTiles is how many tiles of columns the second product's result has.
func (l Layer) ColumnTiles() int { return up(l.Hidden, Side) }

// Active is the most experts that can have a token.
func (l Layer) Active() int { return min(l.Experts, l.Tokens*l.Slots) }

// GateUpTiles is how many tiles each expert's first weight has.
func (l Layer) GateUpTiles(cut int) int {
	columns := Side / cut
	if l.Gated {
		columns /= 2
	}
	return up(l.Intermediate, columns)
}

// stage is how many elements of the depth a stage brings of each row.
func (l Layer) stage(cut int) int { return 128 * cut / l.ElementBytes }

// groupRows is the rows of an expert that are multiplied at once, and gateUpRows those in the first product.
func (l Layer) groupRows(cut int) int {
	if l.ElementBytes == 4 {
		return 16
	}
	return 64 / cut
}

func (l Layer) gateUpRows(cut int) int {
	if l.ElementBytes == 1 {
		return 32
	}
	return l.groupRows(cut)
}

// groups bounds how many groups of so many rows any routing makes.
func (l Layer) groups(rows int) int { return l.Active() + l.Tokens*l.Slots/rows }

// Schedule cuts the work for so many multiprocessors.
func (l Layer) Schedule(multiProcessors int) Schedule {
	blocks := BlocksOfProcessor * max(1, multiProcessors)
	s := Schedule{Cut: 1}
	// float32, and weights across the depth, have no kernel for the other one.
	if l.ElementBytes == 4 || l.Across || cost(l.Active()*l.GateUpTiles(2), up(l.Hidden, l.stage(2)), blocks) < cost(l.Active()*l.GateUpTiles(1), up(l.Hidden, l.stage(1)), blocks) {
		s.Cut = 2
	}
	s.Parts, s.Part = parts(l.Active()*l.ColumnTiles(), l.Intermediate, l.stage(1), blocks)
	s.GateUpUnits = l.groups(l.gateUpRows(s.Cut)) * l.GateUpTiles(s.Cut)
	s.DownUnits = l.groups(l.groupRows(1)) * l.ColumnTiles() * s.Parts
	return s
}

// parts is into how many parts the depth of so many units is best cut, and the elements of one, whole stages.
func parts(units, depth, stage, blocks int) (count, part int) {
	const most = 16
	steps, best := up(depth, stage), 0
	for n := 1; n <= min(steps, most); n++ {
		if c := cost(units*n, up(steps, n), blocks); best == 0 || c < best {
			best, part = c, up(steps, n)*stage
		}
	}
	return up(depth, part), part
}

// cost counts the steps that the busiest block takes, with two for each unit to begin.
func cost(units, steps, blocks int) int {
	const begin = 2
	return up(units, blocks) * (steps + begin)
}

func up(n, each int) int { return (n + each - 1) / each }
