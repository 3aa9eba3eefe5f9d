//go:build !cgo

package blas

const throughC = false
