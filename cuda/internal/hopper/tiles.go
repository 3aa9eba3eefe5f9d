// Package hopper has the tiles of the experts' kernels for Hopper: the launches and the table of what
// they take (cuda/kernels/RESOURCES.md) read them from here. cuda/kernels/experts_hopper_params.h has the
// same numbers.
package hopper

// What a block is made of.
const (
	Threads = 384 // one warpgroup fills, two multiply
	Rows    = 128 // of a tile
	Half    = 64  // rows that a warpgroup multiplies at a time
	Depth   = 64  // of a stage, in bfloat16
	Cluster = 2   // blocks that share weights in the products over rows
	Span    = Cluster * Rows

	LineBytes = 128 // of a stage's depth
)

// A product, by the name in its kernels'.
const (
	GateUp             = "gate_up"
	Project            = "project"
	ActivationGradient = "activation_gradient"
	WeightGradient     = "weight_gradient"
)

// Wide is the tile that both warpgroups work on; the others are one warpgroup's each, in turns.
const Wide = 256

// table is which tiles the kernels of a product have, the best first where the depth is long. A wide tile
// reads least from shared memory and from the L2 cache for what it multiplies, but nothing is multiplied
// while its epilogue runs. The sums of gates and ups leave no registers for the epilogue of 192 columns, nor do
// those of activation gradients for that of more than 128.
var table = map[string][]int{
	GateUp:             {Wide, 128},
	Project:            {Wide, 192, 128},
	ActivationGradient: {128},
	WeightGradient:     {Wide, 128},
}

// longDepth is from where on an epilogue does not matter: 32 stages multiply ten times as long.
const longDepth = 2048

// Columns is the width of the tiles of a product with so many columns and such a depth: the first of the
// table whose columns beyond the last one cost no more than a twelfth of the work, else the one with
// fewest.
func Columns(product string, columns, depth int) int {
	best := 0
	for _, width := range table[product] {
		if width == Wide && depth < longDepth {
			continue
		}
		if computed := padded(columns, width); 12*computed <= 13*columns {
			return width
		} else if best == 0 || computed < padded(columns, best) {
			best = width
		}
	}
	return best
}

func padded(columns, width int) int { return (columns + width - 1) / width * width }

// Box is how many columns of weights that lie along the depth are fetched at a time.
func Box(columns int) int {
	if columns == 192 {
		return 96
	}
	return 64
}

// Stages is how many stages the ring of a tile has.
func Stages(columns int) int {
	switch columns {
	case Wide:
		return 4
	case 192:
		return 5
	}
	return 6
}

// SharedBytes is the dynamic shared memory of a block: the ring, two barriers a stage and one for each
// multiplying warpgroup, and room to begin at a multiple of 1024.
func SharedBytes(columns int) int { return Stages(columns)*((Rows+columns)*2*Depth+16) + 16 + 1024 }

// In float8_e4m3fn there is one tile, with the scales of its rows and columns in each stage.
const (
	ScaledColumns = Wide
	scaleBytes    = 1024
)

// ScaledSharedBytes is [SharedBytes] of that tile.
var ScaledSharedBytes = SharedBytes(ScaledColumns) + Stages(ScaledColumns)*scaleBytes

// Group is how many spans are visited for a column of tiles before the next column. Where an expert's weights fit
// the L2 cache they stay there while its spans pass, one after the other. Where they do not, spans share what
// is read of them: so many that the tiles of a moment are about as many spans as columns.
func Group(weightBytes, l2Bytes int) int {
	if weightBytes <= l2Bytes {
		return 1
	}
	return 8
}

// PlainGroup is the size of groups where the order is to be plain.
const PlainGroup = 4

// Place is tile number t of so many rows and columns of them, in groups of rows: tile_place of
// cuda/kernels/experts_schedule.h.
func Place(t, rows, columns, group int) (row, column int) {
	first := t / (group * columns) * group
	within, count := t-first*columns, min(group, rows-first)
	return first + within%count, within / count
}
