package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ampere is the oldest GPU that the kernels are for. It and all others but Hopper compile the PTX of compute_80 when they
// load a module, so an instruction that they lack would show on a user's machine first.
const ampere = "sm_80"

// assemble compiles the PTX of every fat binary for that GPU, as its driver would.
func assemble(folder, cuobjdump, ptxas string) error {
	fatbins, err := filepath.Glob(filepath.Join(folder, "*.fatbin"))
	if err != nil {
		return err
	}
	if len(fatbins) == 0 {
		return fmt.Errorf("%s: no fat binary: run make build", folder)
	}
	work, err := os.MkdirTemp("", "gmoe-ptx")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, fatbin := range fatbins {
		text, err := dump(cuobjdump, "--dump-ptx", fatbin)
		if err != nil {
			return err
		}
		ptx, err := module(text)
		if err != nil {
			return fmt.Errorf("%s: %w", fatbin, err)
		}
		file := filepath.Join(work, "module.ptx")
		if err := os.WriteFile(file, []byte(ptx), 0o644); err != nil {
			return err
		}
		// Nothing is launched: optimised or not, the same instructions are accepted.
		command := exec.Command(ptxas, "-arch="+ampere, "-O0", "-o", filepath.Join(work, "module.cubin"), file)
		if said, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: its PTX is no code for %s: %w\n%s", fatbin, ampere, err, said)
		}
	}
	fmt.Printf("%d modules: their PTX assembles for %s\n", len(fatbins), ampere)
	return nil
}

// module is the PTX of compute_80 in what cuobjdump prints, of which a fat binary has one.
func module(text string) (string, error) {
	var found []string
	for _, part := range strings.Split(text, "Fatbin ptx code:")[1:] {
		header, ptx, ok := strings.Cut(part, "\n.version")
		if ok && strings.Contains(header, "arch = "+ampere) {
			found = append(found, ".version"+ptx)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d modules of PTX for %s, want 1", len(found), ampere)
	}
	return found[0], nil
}
