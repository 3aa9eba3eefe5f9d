// Command resources makes cuda/kernels/RESOURCES.md: what each kernel takes of a Hopper
// GPU, from the compiler's logs and from the machine code, and refuses kernels that spill
// registers or touch local memory. Run it by make kernel-resources; with -check, as make
// check-kernels does, it compares the file instead of writing it, and assembles what other GPUs compile.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const table = "cuda/kernels/RESOURCES.md"

func main() {
	log.SetFlags(0)
	check := flag.Bool("check", false, "compare with "+table+" and write nothing")
	cuobjdump := flag.String("cuobjdump", ".tools/sass/nvidia/cu13/bin/cuobjdump", "the disassembler")
	ptxas := flag.String("ptxas", ".tools/nvcc/nvidia/cu13/bin/ptxas", "the assembler, for -check")
	folder := flag.String("kernels", "build/kernels", "where the compiled kernels and their logs are")
	flag.Parse()
	kernels, err := read(*folder, *cuobjdump)
	if err != nil {
		log.Fatal(err)
	}
	if *check {
		if err := assemble(*folder, *cuobjdump, *ptxas); err != nil {
			log.Fatal(err)
		}
	}
	text := render(kernels)
	if !*check {
		if err := os.WriteFile(table, text, 0o644); err != nil {
			log.Fatal(err)
		}
	} else if committed, err := os.ReadFile(table); err != nil || !bytes.Equal(committed, text) {
		log.Fatalf("%s is not what these kernels take: run make kernel-resources", table)
	}
	failed := false
	for _, k := range kernels {
		if problem := k.problem(); problem != "" {
			log.Printf("%s: %s", k.name, problem)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
	fmt.Printf("%d kernels: none spills registers or touches local memory\n", len(kernels))
}

// read gathers the kernels of all source files, in the order of their names.
func read(folder, cuobjdump string) ([]kernel, error) {
	sources, err := filepath.Glob("cuda/kernels/*.cu")
	if err != nil {
		return nil, err
	}
	var all []kernel
	for _, path := range sources {
		source := strings.TrimSuffix(filepath.Base(path), ".cu")
		text, err := os.ReadFile(filepath.Join(folder, source+".log"))
		if err != nil {
			return nil, fmt.Errorf("%s is not compiled: run make build: %w", path, err)
		}
		found := parseLog(string(text))
		if len(found) == 0 {
			return nil, fmt.Errorf("the compiler's log of %s names no kernel: run make build", path)
		}
		code, err := disassemble(cuobjdump, filepath.Join(folder, source+".fatbin"))
		if err != nil {
			return nil, err
		}
		for i := range found {
			found[i].source = source + ".cu"
			found[i].instructions = count(code, found[i].name)
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b kernel) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// disassemble gives the machine code of a fat binary. cuobjdump finds nvdisasm beside itself
// by the path.
func disassemble(cuobjdump, fatbin string) (string, error) {
	return dump(cuobjdump, "--dump-sass", fatbin)
}

// dump is what cuobjdump prints of a file.
func dump(cuobjdump, what, file string) (string, error) {
	command := exec.Command(cuobjdump, what, file)
	command.Env = append(os.Environ(), "PATH="+filepath.Dir(cuobjdump)+string(os.PathListSeparator)+os.Getenv("PATH"))
	text, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s %s: %w", cuobjdump, what, file, err)
	}
	return string(text), nil
}

func render(kernels []kernel) []byte {
	var b bytes.Buffer
	b.WriteString(`# What the kernels take

Of compute capability 9.0 (sm_90a, nvcc 13.0.88): made by ` + "`make kernel-resources`" + `, compared by
` + "`make check-kernels`" + `. Static shared memory; what a launch asks for comes on top. Spills and local
memory are refused, so there is no column for them. Matrix: products on the tensor cores (HMMA, HGMMA, QGMMA); bulk:
copies of tiles by the tensor memory accelerator (UTMALDG).

| kernel | source | registers | shared bytes | instructions | matrix | bulk |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
`)
	for _, k := range kernels {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d |\n", k.name, k.source, k.registers, k.sharedBytes, k.instructions.all, k.instructions.matrix, k.instructions.bulk)
	}
	b.WriteString(hopperTables(kernels))
	b.WriteString(portableTable(kernels))
	b.WriteString(decodeTable())
	b.WriteString(smallTable())
	return b.Bytes()
}
