package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/capi/internal/contract"
)

// Programs built against the recorded contract run with this library, unless GMOE_ABI_VERSION says otherwise.
func TestABIRecorded(t *testing.T) {
	text, err := os.ReadFile("abi.json")
	require.NoError(t, err)
	recorded, err := contract.Parse(text)
	require.NoError(t, err)
	now, err := contract.Read(tool("CC", "cc"), top+"/include")
	require.NoError(t, err)

	changes := contract.Compare(recorded, now)
	require.GreaterOrEqual(t, now.ABIVersion, recorded.ABIVersion)
	if now.ABIVersion == recorded.ABIVersion {
		require.Empty(t, changes.Breaking, "this breaks programs built before; undo it, or raise GMOE_ABI_VERSION")
	}
	if len(changes.Breaking)+len(changes.Added) > 0 {
		t.Logf("capi/abi.json is behind the header: run make abi\n%q", append(changes.Breaking, changes.Added...))
	}
}
