package cuda

// The parameters of the experts' kernels for few tokens; kernels/experts_decode_params.h says what each
// field is.

type decodePlan struct {
	index                    uintptr
	tokenStride, slotStride  int64
	narrow                   int32
	tokens, slots, experts   int32
	offset, pairRow, arrived uintptr
	columnTiles, _           int32
}

type decodeGateUpParams struct {
	plan       decodePlan
	activation expertsActivation
	x          expertsMatrix
	weights    expertsStack
	bias, h    expertsMatrix
	depth, _   int32

	xScale       expertsMatrix
	weightsScale expertsStack
}

type decodeDownParams struct {
	plan                  decodePlan
	h                     expertsMatrix
	weights               expertsStack
	bias, routing, output expertsMatrix
	partial               uintptr
	columns, depth        int32
	parts, part           int32
	hScale                expertsMatrix
	weightsScale          expertsStack
}
