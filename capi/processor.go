package main

import (
	"bufio"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
)

// processor is what the doctor says of the CPU.
type processor struct {
	Model           string   `json:"model"`
	InstructionSets []string `json:"instruction_sets"`
	Cores           int      `json:"usable_cores"` // those that the process may run on
}

// instructionSets are the ones that decide which kernels run, in the kernel's
// spelling: x86 first, then arm.
var instructionSets = []string{
	"avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16",
	"avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8",
	"asimd", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme",
}

func readProcessor() processor {
	p := processor{Model: runtime.GOARCH, InstructionSets: []string{}}
	if file, err := os.Open("/proc/cpuinfo"); err == nil {
		defer file.Close()
		p = parseProcessor(file)
	}
	p.Cores = runtime.NumCPU()
	return p
}

// parseProcessor reads the first processor of Linux's /proc/cpuinfo.
func parseProcessor(file io.Reader) processor {
	p := processor{Model: runtime.GOARCH, InstructionSets: []string{}}
	lines := bufio.NewScanner(file)
	for lines.Scan() && lines.Text() != "" {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch strings.TrimSpace(key) {
		case "model name":
			p.Model = strings.TrimSpace(value)
		case "flags", "Features":
			flags := strings.Fields(value)
			for _, set := range instructionSets {
				if slices.Contains(flags, set) {
					p.InstructionSets = append(p.InstructionSets, set)
				}
			}
		}
	}
	return p
}
