//go:build !gmoe_kernels && gmoe_cuda && cgo && linux && (amd64 || arm64)

package driver

// image is empty in a build without build.mk.
var image string
