package cuda

// The parameters of the experts' kernels for Hopper; kernels/experts_hopper_params.h says what each
// field is.

type hopperMap [16]uint64

type hopperGateUpParams struct {
	rowsMap, weightsMap hopperMap
	of                  expertsGateUpParams
	hScale              expertsMatrix
	_                   [24]byte
}

type hopperProjectParams struct {
	rowsMap, weightsMap hopperMap
	of                  expertsProjectParams
	_                   [32]byte
}

type hopperActivationGradientParams struct {
	rowsMap, weightsMap hopperMap
	of                  expertsActivationGradientParams
	_                   [8]byte
}
