package core

// WorkRate is what an operation's work of one expert follows from: its rows, which on a GPU only the device knows.
type WorkRate struct {
	Rows  uint64 // counted of each row: 1 forward, 0 backward
	FLOPs uint64 // of each row
	Bytes uint64 // of each row
	Once  uint64 // bytes of an expert that has a row at all
}

// Of is the work of an expert with so many rows.
func (r WorkRate) Of(rows int) Work {
	if rows == 0 {
		return Work{}
	}
	n := uint64(rows)
	return Work{Rows: n * r.Rows, FLOPs: n * r.FLOPs, Bytes: r.Once + n*r.Bytes}
}

// WorkRate is that of the forward pass: an expert reads its weights once, and of each row x, z and y.
func (a *ExpertsForwardArgs) WorkRate() WorkRate {
	hidden, gateUp, intermediate := uint64(a.HiddenStates.Shape[1]), uint64(a.GateUpProj.Shape[1]), uint64(a.DownProj.Shape[2])
	element := uint64(a.HiddenStates.DType.Size())
	weights, row := (gateUp+intermediate)*hidden, 2*hidden
	if a.PreActivation != nil {
		row += gateUp
	}
	once := weights * uint64(a.GateUpProj.DType.Size())
	for _, scale := range []*Tensor{a.GateUpScale, a.DownScale} {
		if scale != nil {
			once += uint64(scale.Shape[1]*scale.Shape[2]) * uint64(scale.DType.Size())
		}
	}
	return WorkRate{Rows: 1, FLOPs: 2 * weights, Bytes: row * element, Once: once}
}

// WorkRate is that of the backward pass: of the gradients that are wanted.
func (a *ExpertsBackwardArgs) WorkRate() WorkRate {
	hidden, gateUp, intermediate := uint64(a.HiddenStates.Shape[1]), uint64(a.GateUpProj.Shape[1]), uint64(a.DownProj.Shape[2])
	element := uint64(a.HiddenStates.DType.Size())
	var weights, products, row uint64 // elements of an expert's weights, of its products and of each row
	add := func(wanted bool, matrix, more uint64) {
		if wanted {
			products, weights, row = products+matrix, weights+matrix, row+more
		}
	}
	wide, narrow := gateUp*hidden, intermediate*hidden
	derivatives := a.GradTopKWeights != nil || a.GradHiddenStates != nil || a.GradGateUpProj != nil || a.GradGateUpBias != nil
	add(derivatives, narrow, gateUp+hidden)
	add(a.GradHiddenStates != nil, wide, hidden)
	add(a.GradGateUpProj != nil, wide, hidden)
	add(a.GradDownProj != nil, narrow, 0)
	return WorkRate{FLOPs: 2 * products, Bytes: row * element, Once: weights * element}
}
