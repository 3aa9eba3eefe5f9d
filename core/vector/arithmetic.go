package vector

// Add adds x to y: y[i] += x[i]. x may be y. x is at least as long as y.
func Add(y, x []float32) { add(y, x[:len(y)]) }

// Axpy adds a multiple of x to y: y[i] += a*x[i]. x may be y. x is at least as
// long as y.
func Axpy(y []float32, a float32, x []float32) { axpy(y, a, x[:len(y)]) }

// Scale writes a multiple of x to y: y[i] = a*x[i]. x may be y. x is at least as
// long as y.
func Scale(y []float32, a float32, x []float32) { scale(y, a, x[:len(y)]) }

// Dot is the sum of x[i]*y[i], accumulated in float32 over several partial sums.
// y is at least as long as x.
func Dot(x, y []float32) float32 { return dot(x, y[:len(x)]) }

// WeightedSum combines rows of len(y) elements into one: y[i] = sum over k, in
// order, of weights[k]*rows[k][i]. With no rows, y is zero. There are as many
// weights as rows.
func WeightedSum(y []float32, rows []*float32, weights []float32) {
	weightedSum(y, rows, weights[:len(rows)])
}

// Zero writes zeros. Long slices go past the caches, as nobody is about to read
// what was just zeroed.
func Zero(y []float32) { zero(y) }
