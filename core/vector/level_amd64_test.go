//go:build !purego

package vector

import "testing"

// onEachLevel runs a test on every instruction set that this machine has.
func onEachLevel(t *testing.T, test func(t *testing.T)) {
	found := active
	defer func() { active = found }()
	for l, name := range map[level]string{portable: "portable", avx2: "avx2", avx512: "avx512"} {
		if l > found {
			continue
		}
		active = l
		t.Run(name, test)
	}
}
