// Package hopper has the tiles of the experts' kernels for Hopper: the launches and the table of what
// they take (cuda/kernels/RESOURCES.md) read them from here. cuda/kernels/experts_hopper_params.h has the
// same numbers.
package hopper

// What a block is made of.
const (
	Threads = 384 // one warpgroup fills, two multiply
	Rows    = 128 // of a tile
	Depth   = 64  // of a stage
)

// A product, by the name in its kernels'.
const (
	GateUp             = "gate_up"
	Project            = "project"
	ActivationGradient = "activation_gradient"
	WeightGradient     = "weight_gradient"
)

// Columns is the table of tiles, by product and by the columns of its result: the widest multiplies most for
// each byte that it reads from shared memory, a narrower one computes less that is thrown away. The kernel
// of activation gradients has too much besides its sums for the wide one's registers.
func Columns(product string, columns int) int {
	const wide, narrow = 256, 128
	halfEmpty := (columns+narrow-1)/narrow%2 == 1 // the last wide tile
	if product == ActivationGradient || halfEmpty && columns < 4*wide {
		return narrow
	}
	return wide
}

// Stages is how many stages the ring of a tile has.
func Stages(columns int) int {
	if columns == 256 {
		return 4
	}
	return 6
}

// SharedBytes is the dynamic shared memory of a block: the ring, two barriers a stage, and room to
// begin at a multiple of 1024.
func SharedBytes(columns int) int { return Stages(columns)*((Rows+columns)*2*Depth+16) + 1024 }
