//go:build packages && wheel

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// environment is an empty Python environment below build, as hard links into uv's cache need a common
// file system: torch alone has 4 GB.
func environment(t *testing.T, name string) (programs string) {
	t.Helper()
	folder := absolute(t, "../build/extras/"+name)
	require.NoError(t, os.RemoveAll(folder))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	run(t, command("", nil, absolute(t, "../.venv/bin/uv"), "venv", "-q", "--python", absolute(t, "../.venv/bin/python"), folder))
	return folder + "/bin/"
}

// installExtra installs the wheel with an extra. It is resolved anew, to versions that requirements.txt pins,
// out of uv's cache; from the index where the cache has not all.
func installExtra(t *testing.T, programs, extra string) {
	t.Helper()
	install := []string{
		"pip", "install", "-q", "--python", programs + "python", "--constraint", absolute(t, "../requirements.txt"),
		"genesis-moe[" + extra + "] @ file://" + dist(t, "*.whl"),
	}
	uv := absolute(t, "../.venv/bin/uv")
	if _, err := output(command("", nil, uv, append(install, "--offline")...)); err != nil {
		run(t, command("", nil, uv, install...))
	}
}

// says runs a program that must fail without a traceback, and returns what it printed on standard error.
func says(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	_, err := c.Output()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode(), "%s", exit.Stderr)
	require.NotContains(t, string(exit.Stderr), "Traceback")
	return string(exit.Stderr)
}

const withTorch = `
import importlib.util
for package in ("transformers", "matplotlib", "rich"):
    assert importlib.util.find_spec(package) is None, package
import torch
import genesis_moe as gm

assert gm.library_path().startswith(gm.__path__[0])
torch.manual_seed(0)
layer = gm.MoE(hidden_size=16, intermediate_size=32, num_experts=4, top_k=2, budget=1.25)
optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
x = torch.randn(64, 16)
losses = []
for step in range(20):
    loss = (layer(x) - x.flip(-1)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    gm.step(layer, progress=step / 20)
    losses.append(loss.item())
assert losses[-1] < 0.9 * losses[0], losses
assert 1 <= next(iter(gm.report(layer).values())).mean_active <= 2
try:
    gm.inject(layer)
except ImportError as error:
    print(error)
`

const withTransformers = `
import importlib.util
assert importlib.util.find_spec("matplotlib") is None  # rich comes with transformers
import torch
from transformers import MixtralConfig, MixtralForCausalLM
import genesis_moe as gm

torch.manual_seed(0)
config = MixtralConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, num_local_experts=4)
model = MixtralForCausalLM(config).eval()
tokens = torch.randint(0, 64, (2, 8))
with torch.no_grad():
    model.set_experts_implementation("eager")
    eager = model(tokens).logits
    assert gm.engine_counters()["experts_calls"] == 0
    model.set_experts_implementation("genesis_moe")
    torch.testing.assert_close(model(tokens).logits, eager)
    assert gm.engine_counters()["experts_calls"] == 2
    gm.inject(model, router="hamiltonian")
    assert model(tokens).logits.isfinite().all()
assert len(gm.report(model)) == 2
`

// Each extra, in an environment that has no other, does what it promises; without it the error names it.
func TestWheelExtras(t *testing.T) {
	record := absolute(t, "../bench/compare/compare.json")
	redraw := func(programs, out string) *exec.Cmd {
		return command(out, nil, programs+"genesis-moe", "compare", "--from-json", record, "--out", out)
	}
	t.Run("torch, then plots", func(t *testing.T) {
		programs := environment(t, "torch")
		installExtra(t, programs, "torch")
		require.Equal(t, "genesis_moe.inject needs transformers, which is not installed: pip install 'torch>=2.6' 'transformers>=5.7'\n",
			run(t, command(t.TempDir(), nil, programs+"python", "-c", withTorch)))
		require.Equal(t, "genesis-moe: bench needs transformers, which is not installed: pip install 'torch>=2.6' 'transformers>=5.7'\n",
			says(t, command(t.TempDir(), nil, programs+"genesis-moe", "bench", "layer", "--quick")))
		bare := t.TempDir()
		said, err := redraw(programs, bare).CombinedOutput()
		require.NoError(t, err, "%s", said)
		require.Contains(t, string(said), "No figures; for them: pip install 'matplotlib>=3.8' 'rich>=13'")
		require.FileExists(t, bare+"/table.md")

		installExtra(t, programs, "plots")
		drawn := t.TempDir()
		run(t, redraw(programs, drawn))
		figures, err := filepath.Glob(drawn + "/figures/*.png")
		require.NoError(t, err)
		require.NotEmpty(t, figures)
	})
	t.Run("transformers", func(t *testing.T) {
		programs := environment(t, "transformers")
		installExtra(t, programs, "transformers")
		run(t, command(t.TempDir(), nil, programs+"python", "-c", withTransformers))
	})
	t.Run("plots", func(t *testing.T) {
		programs := environment(t, "plots")
		installExtra(t, programs, "plots")
		run(t, command(t.TempDir(), nil, programs+"python", "-c", "import matplotlib.pyplot, rich.progress"))
		require.Equal(t, "genesis-moe: compare needs torch, which is not installed: pip install 'torch>=2.6'\n",
			says(t, redraw(programs, t.TempDir())))
	})
}
