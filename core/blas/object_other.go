//go:build !(linux || darwin || freebsd || netbsd)

package blas

import (
	"runtime"

	"github.com/genesis-moe/genesis-moe/core"
)

// object stands for a shared library, which is not opened on this system.
type object struct{ wasLoaded bool }

func openObject(string, bool) (object, error) {
	return object{}, core.Errorf(core.Unsupported, "no BLAS is opened on %s", runtime.GOOS)
}

func (object) symbol(string) uintptr { return 0 }
func ownDirectory() string           { return "." }
func fileOf(uintptr) string          { return "" }
func callC(uintptr, uintptr) uintptr { return 0 }
