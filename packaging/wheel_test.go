//go:build packages && wheel

package packaging

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// dist is the one file that make wheel has left for a pattern.
func dist(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob("../dist/" + pattern)
	require.NoError(t, err)
	require.Len(t, found, 1, "run make wheel")
	return absolute(t, found[0])
}

func TestWheelContents(t *testing.T) {
	wheel := dist(t, "*.whl")
	require.Equal(t, "genesis_moe-0.1.0-py3-none-manylinux_2_28_x86_64.whl", filepath.Base(wheel))
	opened, err := zip.OpenReader(wheel)
	require.NoError(t, err)
	defer opened.Close()
	var names []string
	for _, file := range opened.File {
		names = append(names, file.Name)
	}
	for _, name := range []string{
		"genesis_moe/lib/libgenesis_moe.so", "genesis_moe/include/genesis_moe.h", "genesis_moe/include/genesis_moe.hpp",
		"genesis_moe/include/dlpack.h", "genesis_moe/py.typed",
		"genesis_moe-0.1.0.dist-info/licenses/licences/LICENSE", "genesis_moe-0.1.0.dist-info/licenses/licences/NOTICE",
		"genesis_moe-0.1.0.dist-info/licenses/licences/LICENSE-go", "genesis_moe-0.1.0.dist-info/licenses/licences/LICENSE-openblas",
		"genesis_moe-0.1.0.dist-info/entry_points.txt",
	} {
		require.Contains(t, names, name)
	}
	require.Contains(t, strings.Join(names, "\n"), "genesis_moe/lib/libscipy_openblas")
	require.NotContains(t, strings.Join(names, "\n"), "tests/")
}

// Nothing in the wheel needs a newer glibc than its tag says.
func TestWheelPlatform(t *testing.T) {
	said := run(t, command("", nil, tool(t, "auditwheel"), "show", dist(t, "*.whl")))
	flat := strings.Join(strings.Fields(said), " ")
	require.Regexp(t, `is consistent with the following platform tag: "manylinux_2_([0-9]|1[0-9]|2[0-8])_x86_64"`, flat)
}

const withNumPy = `
import sys
import numpy as np, genesis_moe as gm
assert "torch" not in sys.modules
y = gm.functional.experts(np.ones((1, 2), np.float32), np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32),
                          np.ones((1, 2, 2), np.float32), np.ones((1, 2, 1), np.float32))
assert abs(y[0, 0] - 2 * 2 / (1 + np.exp(-2))) < 1e-5, y
found = gm.doctor()
package = gm.__path__[0]
assert found["library"].startswith(package) and found["blas"]["path"].startswith(package), found
assert found["version"] == gm.__version__
try:
    gm.MoE
except ImportError as error:
    print(error)
`

// Installed into an environment with nothing but NumPy, by the oldest and the newest Python.
func TestWheelWithoutTorch(t *testing.T) {
	uv := absolute(t, "../.venv/bin/uv")
	pythons, err := filepath.Glob("../.tools/pythons/*/bin/python")
	require.NoError(t, err)
	require.NotEmpty(t, pythons, "run make test-packages")
	wheel := dist(t, "*.whl")
	for _, python := range pythons {
		python := absolute(t, python)
		genesisMoE := filepath.Join(filepath.Dir(python), "genesis-moe")
		t.Run(filepath.Base(filepath.Dir(filepath.Dir(python))), func(t *testing.T) {
			run(t, command("", nil, uv, "pip", "install", "--offline", "--reinstall", "--no-deps", "--python", python, wheel))
			said := run(t, command(t.TempDir(), nil, python, "-c", withNumPy))
			require.Contains(t, said, "pip install 'torch>=2.6'")

			page := run(t, command(t.TempDir(), nil, genesisMoE, "doctor"))
			require.Contains(t, page, "found    the library, genesis-moe 0.1.0")
			require.Contains(t, page, "found    a fast BLAS, OpenBLAS")
			require.Contains(t, page, "missing  torch: ")
			for _, arguments := range [][]string{
				{"compare", "--demo"},
				{"mitosis"},
				{"bench", "layer"},
				{"calibrate-energy", "--out", "x"},
				{"calibrate", "x", "--texts", absolute(t, "../README.md"), "--out", "y"},
			} {
				said := says(t, command(t.TempDir(), nil, genesisMoE, arguments...))
				require.Regexp(t, "^genesis-moe: .* needs (torch|transformers), which is not installed: pip install '(torch|transformers)[>=]", said)
			}
		})
	}
}

// The source distribution holds all that building the library needs, and no library.
func TestSourceDistribution(t *testing.T) {
	archive, err := os.Open(dist(t, "*.tar.gz"))
	require.NoError(t, err)
	defer archive.Close()
	plain, err := gzip.NewReader(archive)
	require.NoError(t, err)
	names := map[string]bool{}
	for files := tar.NewReader(plain); ; {
		file, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		names[strings.TrimPrefix(file.Name, "genesis_moe-0.1.0/")] = true
		require.False(t, strings.HasSuffix(file.Name, ".so"), file.Name)
	}
	for _, name := range []string{
		"pyproject.toml", "hatch_build.py", "licences/LICENSE", "src/genesis_moe/__init__.py", "go/go.mod", "go/go.sum",
		"go/capi/build.mk", "go/capi/exports.map", "go/capi/shim.c", "go/include/genesis_moe.h", "go/router/forward.go",
	} {
		require.True(t, names[name], name)
	}
}

// Where no wheel fits, pip builds the library out of the source distribution.
func TestSourceDistributionBuilds(t *testing.T) {
	folder, python := t.TempDir(), absolute(t, "../.venv/bin/python")
	run(t, command("", nil, absolute(t, "../.venv/bin/uv"), "pip", "install", "-q", "--offline", "--no-deps", "--no-build-isolation",
		"--python", python, "--target", folder, dist(t, "*.tar.gz")))
	program := `
import numpy as np, genesis_moe as gm
y = gm.functional.experts(np.ones((1, 2), np.float32), np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32),
                          np.ones((1, 2, 2), np.float32), np.ones((1, 2, 1), np.float32))
assert abs(y[0, 0] - 2 * 2 / (1 + np.exp(-2))) < 1e-5, y
print(gm.doctor()["library"])
`
	said := run(t, command(folder, []string{"PYTHONPATH=" + folder}, python, "-c", program))
	require.Equal(t, folder+"/genesis_moe/lib/libgenesis_moe.so\n", said)
	require.FileExists(t, folder+"/genesis_moe/include/genesis_moe.h")
}
