// Command record writes capi/abi.json from include/genesis_moe.h. It refuses to write a
// contract that breaks callers of the recorded one unless GMOE_ABI_VERSION was raised.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/genesis-moe/genesis-moe/capi/internal/contract"
)

func main() {
	if err := run("capi/abi.json", "include"); err != nil {
		fmt.Fprintln(os.Stderr, "abi:", err)
		os.Exit(1)
	}
}

func run(path, include string) error {
	compiler := "cc"
	if name := os.Getenv("CC"); name != "" {
		compiler = name
	}
	now, err := contract.Read(compiler, include)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the first time
	case err != nil:
		return err
	default:
		recorded, err := contract.Parse(text)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		changes := contract.Compare(recorded, now)
		if len(changes.Breaking) > 0 && now.ABIVersion <= recorded.ABIVersion {
			return fmt.Errorf("callers built against %s would break; undo this or raise GMOE_ABI_VERSION above %d:\n  %s",
				path, recorded.ABIVersion, strings.Join(changes.Breaking, "\n  "))
		}
		for _, line := range append(changes.Breaking, changes.Added...) {
			fmt.Println(line)
		}
	}
	return os.WriteFile(path, now.Text(), 0o644)
}
