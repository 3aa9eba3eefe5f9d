// Command gen writes the assembly of package vector, with avo. Run it with go
// generate in core/vector. Its argument, if any, is another folder to write to,
// for the check that what is committed is what it writes.
package main

import (
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
)

// kernels are the generated files: name and what writes it for one machine.
var kernels = []struct {
	name  string
	write func(*machine)
	sets  []bool // wide or not
}{
	{"gemm_nt", gemmNT, both},
	{"gemm_nn", gemmNN, both},
	{"gemm_tn", gemmTN, both},
	{"arithmetic", arithmetic, both},
	{"bf16", conversions, both},
	{"e4m3", eights, both},
	{"exp", exponentials, both},
	{"swiglu", swiGLU, both},
	{"halves", halves, []bool{true}},
}

var both = []bool{false, true}

func main() {
	out := ".."
	if len(os.Args) > 1 {
		out = os.Args[1]
	}
	generate(out)
}

// generate writes all files to a folder.
func generate(out string) {
	for _, kernel := range kernels {
		for _, wide := range kernel.sets {
			m := &machine{Context: build.NewContext(), wide: wide, constants: map[string]operand.Mem{}, encodings: map[*ir.Instruction]encoding{}}
			m.ConstraintExpr("!purego")
			kernel.write(m)
			file, err := m.Result()
			if err != nil {
				log.Fatalf("%s: %v", kernel.name, err)
			}
			if err := pass.Compile.Execute(file); err != nil {
				log.Fatalf("%s %s: %v", kernel.name, m.suffix(), err)
			}
			m.encode(file)
			for _, f := range file.Functions() {
				if !wide && slices.ContainsFunc(f.ISA, func(set string) bool { return strings.HasPrefix(set, "AVX512") }) {
					log.Fatalf("%s: needs %v, which AVX2 machines lack: does it use more than 16 registers?", f.Name, f.ISA)
				}
			}
			config := printer.Config{Name: "core/vector/gen", Pkg: "vector"}
			set := map[bool]string{false: "avx2", true: "avx512"}[wide]
			for extension, print := range map[string]printer.Printer{
				".s": printer.NewGoAsm(config), ".go": printer.NewStubs(config),
			} {
				text, err := print.Print(file)
				if err != nil {
					log.Fatalf("%s: %v", kernel.name, err)
				}
				path := filepath.Join(out, "zz_generated_"+kernel.name+"_"+set+"_amd64"+extension)
				if err := os.WriteFile(path, text, 0o644); err != nil {
					log.Fatal(err)
				}
			}
		}
	}
}
