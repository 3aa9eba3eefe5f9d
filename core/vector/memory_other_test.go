//go:build !linux

package vector

import (
	"testing"

	"github.com/genesis-moe/genesis-moe/core"
)

// region makes plain memory where there is no way to guard it.
type region struct{}

func newRegion(*testing.T) *region { return &region{} }

func take[E float32 | core.BF16 | core.E4M3](_ *region, n int, _ bool) []E { return make([]E, n) }
