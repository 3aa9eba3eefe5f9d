package cuda

// The parameters of the experts' kernels; kernels/experts_params.h says what each field is.

type expertsMatrix struct {
	data        uintptr
	row, column int64
}

type expertsStack struct {
	data                uintptr
	expert, row, column int64
}

type expertsActivation struct {
	kind, gated, interleaved, intermediate int32
	alpha, limit                           float32
}

type expertsProduct struct {
	tiles, tileCount, rowPair uintptr
	rows                      expertsMatrix
	weights                   expertsStack
	columns, depth            int32
	slots, columnTiles        int32
	halves                    int32
	rowsVector, weightsVector int32
	group, backwards          int32
	_                         int32
	rowsScale                 expertsMatrix
	weightsScale              expertsStack
}

type expertsGateUpParams struct {
	product                expertsProduct
	activation             expertsActivation
	bias, preActivation, h expertsMatrix
}

type expertsProjectParams struct {
	product      expertsProduct
	bias, output expertsMatrix
}

type expertsActivationGradientParams struct {
	product                        expertsProduct
	activation                     expertsActivation
	rowPair                        uintptr
	weights, preActivation, dz, wh expertsMatrix
	partial                        uintptr
}

type expertsWeightGradientParams struct {
	offset, rowPair  uintptr
	a, b             expertsMatrix
	gradient         expertsStack
	m, n             int32
	slots, experts   int32
	aOfTokens        int32
	bOfTokens        int32
	aVector, bVector int32
	mTiles, nTiles   int32
	backwards, _     int32
}

type expertsBiasGradientParams struct {
	offset, rowPair           uintptr
	source, weights, gradient expertsMatrix
	columns, slots, experts   int32
	_                         int32
}

type expertsCombineParams struct {
	pairRow               uintptr
	rows, weights, output expertsMatrix
	tokens, hidden        int32
	slots, _              int32
}

type expertsRoutingGradientParams struct {
	pairRow, offset, partial       uintptr
	downBias, gradOutput, gradient expertsMatrix
	pairs, slots, experts, hidden  int32
	parts, _                       int32
}
