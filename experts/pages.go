package experts

import "github.com/genesis-moe/genesis-moe/core"

// hugePage is the size of a large page, in bytes.
const hugePage = 2 << 20

// expectWrites prepares the memory of outputs that are about to be written whole.
func expectWrites(outputs ...*core.Tensor) {
	for _, t := range outputs {
		if t != nil && t.IsCompact() && t.Elements() > 0 {
			preferHugePages(t.At(0), int(t.Elements())*t.DType.Size())
		}
	}
}
