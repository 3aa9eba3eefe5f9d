//go:build !amd64 || purego

package vector

import "testing"

// onEachLevel runs a test on the twins, which is all there is.
func onEachLevel(t *testing.T, test func(t *testing.T)) { t.Run("portable", test) }
