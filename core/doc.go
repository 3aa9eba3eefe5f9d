// Package core is the vocabulary that all rooms of genesis-moe share: the
// strided [Tensor] view, element types and devices, errors that name an
// argument, the [Engine] that work runs on, the [Backend] registry, and the
// arguments of the operations.
//
// It imports none of the packages that do the work.
package core
