package cuda

// The parameters of the kernels for many small experts; kernels/experts_small_params.h says what each field is.

type smallTable struct {
	index                   uintptr
	tokenStride, slotStride int64
	narrow                  int32
	tokens, slots, experts  int32
	groups, groupTokens     int32
	routing                 expertsMatrix
	table, present, arrived uintptr
	columnTiles, _          int32
}

type smallGateUpParams struct {
	table      smallTable
	activation expertsActivation
	x          expertsMatrix
	weights    expertsStack
	bias, h    expertsMatrix
	depth, _   int32
}

type smallDownParams struct {
	table                 smallTable
	h                     expertsMatrix
	weights               expertsStack
	output                expertsMatrix
	partial               uintptr
	columns, intermediate int32
	parts, part           int32
	vector, _             int32
}
