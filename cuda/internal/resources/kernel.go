package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// kernel is what one kernel takes.
type kernel struct {
	name, source           string
	registers, sharedBytes int
	stackBytes, spillBytes int
	losses                 []string // what the compiler says of it
	instructions           instructions
}

// instructions counts those of a kernel's machine code.
type instructions struct {
	all, matrix, bulk, local int // bulk: tiles copied by the tensor memory accelerator; local: on local memory
}

// problem says why a kernel is not accepted; empty when it is.
func (k kernel) problem() string {
	switch {
	case k.spillBytes > 0:
		return fmt.Sprintf("spills %d bytes of registers", k.spillBytes)
	case k.stackBytes > 0 || k.instructions.local > 0:
		return fmt.Sprintf("has %d bytes of stack and %d instructions on local memory", k.stackBytes, k.instructions.local)
	case len(k.losses) > 0:
		return k.losses[0]
	case k.instructions.all == 0:
		return "has no machine code for sm_90a"
	}
	return ""
}

var (
	entry      = regexp.MustCompile(`Compiling entry function '(\w+)' for 'sm_90a'`)
	properties = regexp.MustCompile(`(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads`)
	used       = regexp.MustCompile(`Used (\d+) registers`)
	shared     = regexp.MustCompile(`(\d+) bytes smem`)
	loss       = regexp.MustCompile(`(Potential Performance Loss: .*|setmaxnreg ignored.*) in (?:the )?function '(\w+)'`)
)

// parseLog reads what ptxas says with -v.
func parseLog(text string) []kernel {
	var found []kernel
	losses := map[string][]string{} // they come before the kernels
	for line := range strings.Lines(text) {
		if m := loss.FindStringSubmatch(line); m != nil {
			losses[m[2]] = append(losses[m[2]], m[1])
		}
		if m := entry.FindStringSubmatch(line); m != nil {
			found = append(found, kernel{name: m[1]})
		}
		if len(found) == 0 {
			continue
		}
		k := &found[len(found)-1]
		if m := properties.FindStringSubmatch(line); m != nil {
			k.stackBytes, k.spillBytes = number(m[1]), number(m[2])+number(m[3])
		}
		if m := used.FindStringSubmatch(line); m != nil {
			k.registers = number(m[1])
		}
		if m := shared.FindStringSubmatch(line); m != nil {
			k.sharedBytes = number(m[1])
		}
	}
	for i := range found {
		found[i].losses = losses[found[i].name]
	}
	return found
}

func number(text string) int {
	n, _ := strconv.Atoi(text) // the patterns match digits only
	return n
}

var instruction = regexp.MustCompile(`^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)`)

// count counts the instructions of a kernel in what cuobjdump prints.
func count(code, name string) (n instructions) {
	inside := false
	for line := range strings.Lines(code) {
		if _, function, found := strings.Cut(line, "Function : "); found {
			inside = strings.TrimSpace(function) == name
		}
		m := instruction.FindStringSubmatch(line)
		if !inside || m == nil {
			continue
		}
		n.all++
		switch m[1] {
		case "HMMA", "HGMMA", "QGMMA":
			n.matrix++
		case "UTMALDG":
			n.bulk++
		case "LDL", "STL":
			n.local++
		}
	}
	return n
}
