package monitor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

func file(t *testing.T, lines ...record.Line) string {
	path := filepath.Join(t.TempDir(), "run.jsonl")
	grow(t, path, lines...)
	return path
}

func grow(t *testing.T, path string, lines ...record.Line) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	for _, line := range lines {
		require.NoError(t, json.NewEncoder(f).Encode(line))
	}
	require.NoError(t, f.Close())
}

func TestAReplayedRunSaysThatItIsOne(t *testing.T) {
	m := start(t, Options{})
	require.NoError(t, m.Open(file(t, header("old", 1, 2), step(1, []int64{1, 0}), step(2, []int64{1, 1})), FileOptions{}))
	require.Eventually(t, func() bool { return look(t, m)["state"] == "ended" }, 5*time.Second, time.Millisecond)
	r := look(t, m)
	require.Equal(t, "replayed", r["mode"])
	require.Contains(t, r["events"].([]any)[0].(map[string]any)["message"], "no end line")
}

func TestAReplayKeepsTime(t *testing.T) {
	m := start(t, Options{})
	begin := time.Now()
	require.NoError(t, m.Open(file(t, header("old", 1, 2), step(1), step(3)), FileOptions{Speed: 10}))
	require.Eventually(t, func() bool { return look(t, m)["state"] == "ended" }, 5*time.Second, time.Millisecond)
	require.GreaterOrEqual(t, time.Since(begin), 200*time.Millisecond, "two seconds, ten times as fast")
}

func TestAFollowedRunGoesOn(t *testing.T) {
	m := start(t, Options{})
	path := file(t, header("other process", 1, 2), step(1))
	require.NoError(t, m.Open(path, FileOptions{Follow: true}))
	require.Eventually(t, func() bool { r := look(t, m); return r != nil && r["step"] == 1.0 }, 5*time.Second, time.Millisecond)
	grow(t, path, step(2))
	require.Eventually(t, func() bool { return look(t, m)["step"] == 2.0 }, 5*time.Second, time.Millisecond)
	r := look(t, m)
	require.Equal(t, "followed", r["mode"])
	require.Equal(t, "running", r["state"])
}

func TestFilesThatCannotBeShown(t *testing.T) {
	m := start(t, Options{})
	for name, test := range map[string]struct {
		content string
		said    string
	}{
		"empty":        {"", "no file of records"},
		"something":    {"hello\n", "line 1"},
		"another kind": {`{"kind":"step"}` + "\n", "line 1"},
		"a newer one":  {`{"kind":"run","schema":7}` + "\n", "schema: 7"},
	} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(test.content), 0o600))
		require.ErrorContains(t, m.Open(path, FileOptions{}), test.said, name)
	}
	require.ErrorContains(t, m.Open(t.TempDir(), FileOptions{}), "no regular file")
	require.ErrorContains(t, m.Open("/nowhere/run.jsonl", FileOptions{}), "no such file")
	require.ErrorContains(t, m.Open("/dev/null", FileOptions{Speed: -1}), "speed: -1")
	require.ErrorContains(t, m.Open("/dev/null", FileOptions{Speed: 1, Follow: true}), "own speed")
	require.Empty(t, m.state.runs)
}

// A damaged line is left out and counted.
func TestADamagedLine(t *testing.T) {
	m := start(t, Options{})
	path := file(t, header("old", 1, 2), step(1))
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = f.WriteString("{\"kind\":\"step\",\"t\":\"x\"}\n\x00\x01\n")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	grow(t, path, step(5))
	require.NoError(t, m.Open(path, FileOptions{}))
	require.Eventually(t, func() bool { return look(t, m)["step"] == 5.0 }, 5*time.Second, time.Millisecond)
	require.Equal(t, int64(2), m.Stats().BadLines)
}
