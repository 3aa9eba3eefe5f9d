package blas

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDefaultIsKept(t *testing.T) {
	first, err := Default()
	require.NoError(t, err)
	second, err := Default()
	require.NoError(t, err)
	require.Same(t, first, second)
	require.NotEmpty(t, first.Name())
	last := Tried()[len(Tried())-1]
	require.Equal(t, first.Path(), last.Path)
	require.Contains(t, last.Outcome, "opened")
}

func TestOwnDirectoryIsThatOfTheProgram(t *testing.T) {
	program, err := os.Executable()
	require.NoError(t, err)
	require.Equal(t, filepath.Dir(program), ownDirectory())
}
