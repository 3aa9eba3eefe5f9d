package contract

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const header = `#ifndef H_
#define H_
#include <stdint.h>
#define GMOE_ABI_VERSION 3u
typedef int32_t gmoe_status;
enum { GMOE_OK = 0, GMOE_BAD = 1 };
typedef struct gmoe_engine gmoe_engine;
typedef void (*gmoe_callback)(int32_t code, const char *text, void *ctx);
typedef struct {
  uint32_t struct_size;
  int32_t mode;
  double rate;
  float epsilon;
} gmoe_options;
typedef struct {
  int64_t low, high;
} gmoe_range;
gmoe_status gmoe_open(const gmoe_options *options, gmoe_engine **out);
gmoe_status gmoe_watch(gmoe_engine *engine, gmoe_callback call, void *ctx);
#endif
`

func read(t *testing.T, text string) Contract {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "genesis_moe.h"), []byte(text), 0o600))
	c, err := Read("cc", folder)
	require.NoError(t, err)
	return c
}

func TestRead(t *testing.T) {
	require.Equal(t, Contract{
		ABIVersion: 3,
		Functions: map[string]string{
			"gmoe_open":  "gmoe_status (const gmoe_options *, gmoe_engine **)",
			"gmoe_watch": "gmoe_status (gmoe_engine *, gmoe_callback, void *)",
		},
		Structs: map[string]Struct{
			"gmoe_options": {24, []Field{
				{"struct_size", "uint32_t", 0, 4},
				{"mode", "int32_t", 4, 4},
				{"rate", "double", 8, 8},
				{"epsilon", "float", 16, 4},
			}},
			"gmoe_range": {16, []Field{{"low", "int64_t", 0, 8}, {"high", "int64_t", 8, 8}}},
		},
		Types: map[string]string{
			"gmoe_status":   "int32_t",
			"gmoe_engine":   "struct gmoe_engine",
			"gmoe_callback": "void (*)(int32_t, const char *, void *)",
		},
		Enumerators: map[string]int64{"GMOE_OK": 0, "GMOE_BAD": 1},
	}, read(t, header))
}

func TestCompare(t *testing.T) {
	for _, c := range []struct{ name, from, to, breaking, added string }{
		{"nothing", "", "", "", ""},
		{"a comment", "#include", "/* new */ #include", "", ""},
		{"a function more", "#endif\n", "gmoe_status gmoe_close(void);\n#endif\n", "", "function gmoe_close"},
		{"a function less", "gmoe_status gmoe_open", "static gmoe_status gone", "function gmoe_open: removed", ""},
		{"another parameter", "gmoe_callback call, void *ctx);", "gmoe_callback call, int64_t ctx);", "function gmoe_watch: was", ""},
		{"another callback", "int32_t code", "int64_t code", "type gmoe_callback: was", ""},
		{"another status", "typedef int32_t gmoe_status", "typedef int64_t gmoe_status", "type gmoe_status: was int32_t, is int64_t", ""},
		{"an enumerator more", "GMOE_BAD = 1", "GMOE_BAD = 1, GMOE_WORSE", "", "enumerator GMOE_WORSE"},
		{"an enumerator in between", "GMOE_BAD = 1", "GMOE_NEW, GMOE_BAD", "enumerator GMOE_BAD: was 1, is 2", "enumerator GMOE_NEW"},
		{"fields exchanged", "int32_t mode;\n  double rate;", "double rate;\n  int32_t mode;", "struct gmoe_options: field 1 was", ""},
		{"a field less", "  int32_t mode;\n", "", "struct gmoe_options: field 1 was", ""},
		{"another type of field", "double rate", "int64_t rate", "field 2 was double rate at 8, 8 bytes, is int64_t rate", ""},
		{"a field in the padding", "float epsilon;", "float epsilon;\n  int32_t more;", "lies in what was padding", ""},
		{"a field past the padding", "float epsilon;", "float epsilon;\n  int64_t more;", "", "struct gmoe_options: field more"},
		{"a field where no struct_size is", "low, high;", "low, high, more;", "does not begin with struct_size", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Contains(t, header, c.from)
			changes := Compare(read(t, header), read(t, strings.Replace(header, c.from, c.to, 1)))
			requireMention(t, c.breaking, changes.Breaking)
			requireMention(t, c.added, changes.Added)
		})
	}
}

func requireMention(t *testing.T, want string, lines []string) {
	t.Helper()
	if want == "" {
		require.Empty(t, lines)
		return
	}
	require.Contains(t, strings.Join(lines, "\n"), want)
}

func TestTextIsRead(t *testing.T) {
	c := read(t, header)
	again, err := Parse(c.Text())
	require.NoError(t, err)
	require.Equal(t, c, again)
	require.Contains(t, string(c.Text()), `{"name": "rate", "type": "double", "offset": 8, "size": 8}`)
}

func TestHeaderThatDoesNotCompile(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "genesis_moe.h"), []byte("int gmoe_open(;\n"), 0o600))
	_, err := Read("cc", folder)
	require.ErrorContains(t, err, "error:")
}

// The command keeps a breaking change out of the record until the version is raised.
func TestRecord(t *testing.T) {
	folder := t.TempDir()
	command := filepath.Join(folder, "record")
	text, err := exec.Command("go", "build", "-o", command, "./record").CombinedOutput()
	require.NoError(t, err, string(text))
	for _, name := range []string{"capi", "include"} {
		require.NoError(t, os.Mkdir(filepath.Join(folder, name), 0o700))
	}
	record := func(text string) (string, error) {
		require.NoError(t, os.WriteFile(filepath.Join(folder, "include/genesis_moe.h"), []byte(text), 0o600))
		run := exec.Command(command)
		run.Dir = folder
		said, err := run.CombinedOutput()
		return string(said), err
	}
	_, err = record(header)
	require.NoError(t, err)
	broken := strings.Replace(header, "GMOE_BAD = 1", "GMOE_BAD = 2", 1)
	said, err := record(broken)
	require.Error(t, err)
	require.Contains(t, said, "enumerator GMOE_BAD: was 1, is 2")
	require.Contains(t, said, "raise GMOE_ABI_VERSION above 3")
	_, err = record(strings.Replace(broken, "GMOE_ABI_VERSION 3u", "GMOE_ABI_VERSION 4u", 1))
	require.NoError(t, err)
}
