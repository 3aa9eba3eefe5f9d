package experts

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core/vector"
)

// zeroRows fills rows [i0, i1) of an expert's matrix with zeros.
func zeroRows[S stored](g *stack[S], expert, i0, i1 int) {
	rows, columns, row, column := i1-i0, g.columns, g.row, g.column
	if rows == 0 || columns == 0 {
		return
	}
	first := g.at(expert, i0, 0)
	if row < column {
		rows, columns, row, column = columns, rows, column, row
	}
	if column == 1 && row == columns {
		rows, columns = 1, rows*columns
	}
	for i := range rows {
		line := offset(first, i*row)
		if column == 1 {
			zero(unsafe.Slice(line, columns))
			continue
		}
		for j := range columns {
			*offset(line, j*column) = 0
		}
	}
}

// zero writes zeros, past the caches where there are many.
func zero[S stored](y []S) {
	var s S
	bytes := uintptr(len(y)) * unsafe.Sizeof(s)
	address := unsafe.Pointer(unsafe.SliceData(y))
	if bytes%4 != 0 || uintptr(address)%4 != 0 {
		clear(y)
		return
	}
	vector.Zero(unsafe.Slice((*float32)(address), bytes/4))
}
