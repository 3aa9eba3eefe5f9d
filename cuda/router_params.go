package cuda

// The parameters of the router's kernels, as kernels/router_params.h has them.

type routerView struct {
	data        uintptr
	row, column int64
	dtype       int32
	vectors     int32
}

type routerOptions struct {
	mode, cosine, slots, budgeted, normalizeTopK                              int32
	groups, topKGroups                                                        int32
	scalingFactor, epsilon, temperatureFloor, entropyTemperature, loadPenalty float32
}

// routerBatchState is read and written on the device only: its size is what counts.
type routerBatchState struct {
	_ [2 * routerMaxExperts]float64 // prices and residuals
	_ [3]float64
	_ [4]int32
}

type routerPrepareParams struct {
	centroids, counts   routerView
	norms, price, state uintptr
	width               int64
	experts, _          int32
}

type routerProductParams struct {
	a, b, out, along routerView
	pull, partial    uintptr
	m, n, k, split   int64
	splits, _        int32
}

type routerForwardParams struct {
	z, centroids                  routerView
	bias, price, temperature, gap routerView
	topKIndex, topKWeights        routerView
	logits, counts                routerView
	norms, scores                 uintptr
	tokens, width                 int64
	options                       routerOptions
	experts, _                    int32
}

type routerBatchParams struct {
	scores, theta, partial, price uintptr
	priceOut                      routerView
	state                         uintptr
	tokens, tokensPerBlock        int64
	options                       routerOptions
	experts, iterations           int32
}

type routerGradientParams struct {
	z, logits, topKIndex          routerView
	gradWeights, gradLogits       routerView
	temperature                   routerView
	norms, q, pull, partial       uintptr
	tokens, tokensPerBlock, width int64
	options                       routerOptions
	experts, _                    int32
}

type routerSumsParams struct {
	partial, norms, pull      uintptr
	gradBias, gradTemperature routerView
	blocks                    int64
	epsilon                   float32
	experts                   int32
}

type routerUpdateParams struct {
	counts, price, gap               routerView
	rate, stepLimit, budget, gapRate float64
	tokens                           int64
	options                          routerOptions
	experts, _                       int32
}

type routerReportParams struct {
	logits, topKIndex, price, previous routerView
	active, partial, result            uintptr
	tokens, tokensPerBlock, blocks     int64
	options                            routerOptions
	experts, _                         int32
}
