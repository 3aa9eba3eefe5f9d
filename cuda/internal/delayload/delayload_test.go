//go:build linux && (amd64 || arm64)

package delayload

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/stretchr/testify/require"
)

// In this program, which has no driver yet, the functions of NVML say so; with a
// library that has one of them, that one is called and the others are missing. The
// order matters: a library that is open stays open.
func TestSlots(t *testing.T) {
	require.Empty(t, NVML.Path())
	require.Empty(t, NVML.Missing())
	library := nvml.New()
	_, status := library.SystemGetDriverVersion()
	require.Equal(t, nvml.ERROR_UNINITIALIZED, status, "before it is loaded")

	folder := t.TempDir()
	NVML.file = filepath.Join(folder, "libnvidia-ml.so.1")
	require.ErrorContains(t, NVML.Open(), "libnvidia-ml.so.1: cannot open")

	source := filepath.Join(folder, "fake.c")
	require.NoError(t, os.WriteFile(source, []byte(`
int nvmlSystemGetDriverVersion(char *version, unsigned size) { (void)size; version[0] = '7'; return 0; }`), 0o600))
	text, err := exec.Command("cc", "-shared", "-fPIC", "-o", NVML.file, source).CombinedOutput()
	require.NoError(t, err, string(text))
	require.NoError(t, NVML.Open(), "opening is tried again")
	require.NoError(t, NVML.Open())
	require.Equal(t, NVML.file, NVML.Path())

	version, status := library.SystemGetDriverVersion()
	require.Equal(t, nvml.SUCCESS, status)
	require.Equal(t, "7", version)
	_, status = library.DeviceGetCount()
	require.Equal(t, nvml.ERROR_FUNCTION_NOT_FOUND, status)
	require.Contains(t, NVML.Missing(), "nvmlDeviceGetCount_v2")
	require.NotContains(t, NVML.Missing(), "nvmlSystemGetDriverVersion")
}
