package cuda

// The parameters of the kernels that make float8_e4m3fn; kernels/experts_quantize_params.h says what each field is.

type quantizeRowsParams struct {
	source, quantized, scale expertsMatrix
	count                    uintptr
	rows, columns            int32
	vector, _                int32
}

type quantizeWeightsParams struct {
	source, quantized, scale      expertsStack
	experts, rows, columns        int32
	sourceVector, quantizedVector int32
	_                             int32
}
