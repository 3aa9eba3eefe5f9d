package vector

// Exp writes the exponential of x to y, within 2 units in the last place,
// subnormal results included. x may be y. x is at least as long as y.
func Exp(y, x []float32) { exp(y, x[:len(y)]) }

// Softmax writes exp(x - max x) / sum exp(x - max x) to y. x may be y. x is at
// least as long as y. As in torch, a NaN or +Inf among x, or nothing but -Inf,
// makes all of y NaN.
func Softmax(y, x []float32) { softmax(y, x[:len(y)]) }
