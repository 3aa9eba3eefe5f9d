//go:build !linux

package experts

import "github.com/genesis-moe/genesis-moe/core"

// preferHugePages does nothing where pages cannot be asked for.
func preferHugePages(...*core.Tensor) {}
