package decode

// Small reports whether experts are many and small, and better multiplied as one wide network: the columns that
// all of them have are less than twice those of the tiles that a token's own would need, whose width is a
// multiple of Side; less than 1.5 times where there are more than a few tokens, and products cost more
// than launches.
func Small(tokens, gateUp, experts, slots, intermediate int) bool {
	const fewest, widest = 8, 256
	times := 4
	if tokens > Tokens {
		times = 3
	}
	return experts >= fewest && 0 < intermediate && intermediate <= widest && 2*experts*gateUp < times*slots*up(gateUp, Side)*Side
}

// SmallLayer is a forward pass of such experts: one network with so many columns.
type SmallLayer struct {
	Hidden, Columns, Tokens int
	ElementBytes            int
	Gated                   bool
}

// SmallSchedule is how its work is cut, from shapes alone.
type SmallSchedule struct {
	Groups      int // of tokens
	Parts, Part int // of the last product's depth
}

// GroupTokens is how many tokens are multiplied at once.
func (l SmallLayer) GroupTokens() int {
	if l.ElementBytes == 2 {
		return 64
	}
	return 16
}

// GateUpTiles and ColumnTiles are how many tiles of columns the results of the two products have.
func (l SmallLayer) GateUpTiles() int {
	width := Side
	if l.Gated {
		width /= 2
	}
	return up(l.Columns, width)
}

// ColumnTiles is how many tiles of columns the output has.
func (l SmallLayer) ColumnTiles() int { return up(l.Hidden, Side) }

// Schedule cuts the work for so many multiprocessors.
func (l SmallLayer) Schedule(multiProcessors int) SmallSchedule {
	s := SmallSchedule{Groups: up(l.Tokens, l.GroupTokens())}
	stage := StageBytes / Side / l.ElementBytes
	s.Parts, s.Part = parts(s.Groups*l.ColumnTiles(), l.Columns, stage, BlocksOfProcessor*max(1, multiProcessors))
	return s
}
