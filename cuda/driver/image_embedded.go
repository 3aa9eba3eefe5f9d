//go:build gmoe_kernels && gmoe_cuda && cgo && linux && (amd64 || arm64)

package driver

import _ "embed"

// image is the compiled kernels; empty when there was no nvcc. The file is
// build/genesis_moe.fatbin: cuda/build.mk tells Go so by an overlay.
//
//go:embed genesis_moe.fatbin
var image string
