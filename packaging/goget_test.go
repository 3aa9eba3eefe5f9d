//go:build packages

package packaging

import (
	"archive/zip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module, release = "github.com/genesis-moe/genesis-moe", "v0.1.0"

// A Go program outside this repository gets the module from a proxy and runs with no C
// compiler, no header and no build tag.
func TestGoGet(t *testing.T) {
	proxy, program := t.TempDir(), t.TempDir()
	serveModule(t, proxy)
	text, err := os.ReadFile("../examples/go/main.go")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(program, "main.go"), text, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(program, "go.mod"), []byte("module example.com/program\n\ngo 1.26.0\n"), 0o600))

	cache := strings.TrimSpace(run(t, command("", nil, "go", "env", "GOMODCACHE")))
	environment := []string{
		"CGO_ENABLED=0", "CC=/no/compiler", "GOFLAGS=-modcacherw -trimpath", "GOWORK=off", "GONOSUMDB=*", "GOPRIVATE=",
		"GOMODCACHE=" + t.TempDir(), "GOPROXY=file://" + proxy + ",file://" + cache + "/cache/download",
	}
	run(t, command(program, environment, "go", "get", module+"/router@"+release, module+"/experts@"+release))
	run(t, command(program, environment, "go", "build", "-o", "program", "."))
	require.Contains(t, run(t, command(program, nil, filepath.Join(program, "program"))), "step 300")
}

// serveModule lays the working tree out as a Go module proxy does.
func serveModule(t *testing.T, proxy string) {
	t.Helper()
	folder := filepath.Join(proxy, module, "@v")
	require.NoError(t, os.MkdirAll(folder, 0o700))
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	mod, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	write("list", release+"\n")
	write(release+".info", `{"Version":"`+release+`"}`)
	write(release+".mod", string(mod))

	files := strings.Split(run(t, command("..", nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")), "\x00")
	nested := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "/go.mod") {
			nested[filepath.Dir(name)] = true
		}
	}
	archive, err := os.Create(filepath.Join(folder, release+".zip"))
	require.NoError(t, err)
	defer archive.Close()
	zipped := zip.NewWriter(archive)
	for _, name := range files {
		content, err := os.ReadFile(filepath.Join("..", name))
		if name == "" || isNested(name, nested) || os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		entry, err := zipped.Create(module + "@" + release + "/" + name)
		require.NoError(t, err)
		_, err = entry.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, zipped.Close())
}

// isNested reports whether a file belongs to another module within this one.
func isNested(name string, nested map[string]bool) bool {
	for folder := filepath.Dir(name); folder != "."; folder = filepath.Dir(folder) {
		if nested[folder] {
			return true
		}
	}
	return false
}
