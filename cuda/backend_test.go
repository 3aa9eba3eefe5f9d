package cuda

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// Importing the package registers the backend, which never fails where it counts and
// never opens a device it cannot work on.
func TestBackend(t *testing.T) {
	backends := core.Backends()
	require.Len(t, backends, 1)
	require.Equal(t, core.CUDA, backends[0].DeviceType())
	require.GreaterOrEqual(t, core.DeviceCount(core.CUDA), 0)

	_, err := core.NewEngine(core.EngineOptions{Device: core.Device{Type: core.CUDA}})
	var typed *core.Error
	require.ErrorAs(t, err, &typed)
	if core.DeviceCount(core.CUDA) > 0 {
		require.Equal(t, core.Unsupported, typed.Code)
		_, err = core.NewEngine(core.EngineOptions{Device: core.Device{Type: core.CUDA, ID: 4000}})
		require.ErrorContains(t, err, "device_id: 4000")
	} else {
		require.Contains(t, []core.Code{core.NoDevice, core.DriverFailed}, typed.Code)
		require.ErrorContains(t, err, "cuda: ")
	}

	text, err := json.Marshal(backends[0].Describe())
	require.NoError(t, err)
	require.Contains(t, string(text), `"devices":[`)
}
