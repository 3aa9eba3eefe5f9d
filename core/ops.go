package core

// Stream is a CUstream, 0 for the legacy default one. It is a number and not a
// pointer because CUDA gives 1 and 2 special meanings, and the Go runtime aborts the
// process when it meets such a value where a pointer should be.
type Stream uintptr

// Workspace is the scratch memory that a caller lends to one call, on the device of its
// tensors. The CPU needs none. Its address is a number: the host cannot read it.
type Workspace struct {
	Base uintptr
	Size uint64 // bytes
}

// RouterMode says how scores become a routing.
type RouterMode int32

// The router modes.
const (
	// Hamiltonian binds tokens to centroids by an energy u, priced by mu.
	Hamiltonian RouterMode = 0
	// Mixtral takes a softmax over linear logits and its top k.
	Mixtral RouterMode = 1
	// DeepSeek takes sigmoid scores, groups, and a bias for the choice only.
	DeepSeek RouterMode = 2
)

// Binding says how a token binds to a centroid.
type Binding int32

// The bindings.
const (
	Cosine Binding = 0
	Dot    Binding = 1
)

// Solver says where the prices come from.
type Solver int32

// The solvers.
const (
	// Price takes mu from earlier steps: causal, the default.
	Price Solver = 0
	// Batch finds the optimum of H over the batch: not causal.
	Batch Solver = 1
)

// RouterOptions describes a router. See genesis_moe.h for each field.
type RouterOptions struct {
	Mode               RouterMode
	Binding            Binding
	Solver             Solver
	TopK               int
	Budgeted           bool
	NormalizeTopK      bool
	NumGroups          int
	TopKGroups         int
	ScalingFactor      float32
	Epsilon            float32
	TemperatureFloor   float32
	EntropyTemperature float32
	LoadPenalty        float32
}

// DefaultRouterOptions are those of GMOE_ROUTER_OPTIONS_INIT.
func DefaultRouterOptions() RouterOptions {
	return RouterOptions{
		TopK: 2, NormalizeTopK: true, NumGroups: 1, TopKGroups: 1, ScalingFactor: 1,
		Epsilon: 1e-2, TemperatureFloor: 1e-2, EntropyTemperature: 0.1, LoadPenalty: 10,
	}
}

// RouterForwardArgs are the arguments of a router's forward pass. Shapes, dtypes
// and which tensors may be nil: gmoe_router_forward in genesis_moe.h.
type RouterForwardArgs struct {
	Options RouterOptions

	HiddenStates, Projection, Centroids, Bias, Price, Temperature, Gap *Tensor

	TopKIndex, TopKWeights, Logits, Counts, PriceOut *Tensor

	Stream    Stream
	Workspace Workspace
}

// RouterBackwardArgs are the arguments of a router's backward pass; see
// gmoe_router_backward in genesis_moe.h.
type RouterBackwardArgs struct {
	Options RouterOptions

	HiddenStates, Projection, Centroids, Bias, Temperature *Tensor
	Logits, TopKIndex, GradTopKWeights, GradLogits         *Tensor

	GradHiddenStates, GradProjection, GradCentroids, GradBias, GradTemperature *Tensor

	Stream    Stream
	Workspace Workspace
}

// RouterUpdateArgs are the arguments of the step that moves prices and gap; see
// gmoe_router_update in genesis_moe.h.
type RouterUpdateArgs struct {
	Options RouterOptions

	Counts    *Tensor
	NumTokens int64

	Rate, StepLimit, Budget, GapRate float64

	Price, Gap *Tensor

	Stream    Stream
	Workspace Workspace
}

// RouterReportArgs are the inputs of a report; see gmoe_router_report_compute.
type RouterReportArgs struct {
	Options RouterOptions

	Logits, TopKIndex, Price, PreviousIndex *Tensor

	Stream    Stream
	Workspace Workspace
}

// RouterReport holds the terms of H and how a routing looks; see gmoe_router_report.
type RouterReport struct {
	EnergyBind, EnergyEntropy, EnergyCost, Energy float64
	MaxViolation, LoadCV, DeadShare               float64
	TokenEntropy, MarginalEntropy                 float64
	PriceMin, PriceMax                            float64
	TopKMargin, MeanActive, Churn                 float64
	NonFiniteTokens                               int64
}

// ClansOptions describes the slots that clans share. See genesis_moe.h.
type ClansOptions struct {
	NumSlots int // E_max: experts that memory is reserved for
}

// ClansDescendArgs are the arguments of the step from chosen clans to their slots; see
// gmoe_clans_descend in genesis_moe.h.
type ClansDescendArgs struct {
	Options ClansOptions

	HiddenStates, ClanIndex, Root, Children, Direction, Threshold *Tensor

	SlotIndex, SlotCounts *Tensor

	Stream    Stream
	Workspace Workspace
}

// ClansObserveArgs are the arguments of the statistics that growth is decided by; see
// gmoe_clans_observe in genesis_moe.h.
type ClansObserveArgs struct {
	Options ClansOptions

	HiddenStates, SlotIndex, Binding, Mean, Axis, Scale *Tensor

	Tokens, Skipped, Sum, Square, Power, BindingSum, Histogram *Tensor

	Stream    Stream
	Workspace Workspace
}

// Activation is the nonlinearity of an expert.
type Activation int32

// The activations, numbered as in genesis_moe.h.
const (
	SiLU          Activation = 0
	GELU          Activation = 1
	GELUTanh      Activation = 2
	ReLU          Activation = 3
	ReLUSquared   Activation = 4
	QuickGELU     Activation = 5
	Sigmoid       Activation = 6
	Tanh          Activation = 7
	Identity      Activation = 8
	ClippedSwiGLU Activation = 9
	ClippedSiLU   Activation = 10
)

// Clipped reports whether an activation is a function of gate and up together.
func (a Activation) Clipped() bool { return a == ClippedSwiGLU || a == ClippedSiLU }

// ExpertsOptions describes the experts' network. See genesis_moe.h.
type ExpertsOptions struct {
	Activation  Activation
	Gated       bool
	Interleaved bool
	Alpha       float32
	Limit       float32
	// Layer, from 1 to MaxLayer, names the layer whose experts' work the engine's ledger counts; 0
	// counts it in the engine's sums alone.
	Layer int32
}

// DefaultExpertsOptions are those of GMOE_EXPERTS_OPTIONS_INIT: SwiGLU.
func DefaultExpertsOptions() ExpertsOptions {
	return ExpertsOptions{Gated: true, Alpha: 1.702, Limit: 7}
}

// ExpertsForwardArgs are the arguments of gmoe_experts_forward.
type ExpertsForwardArgs struct {
	Options ExpertsOptions

	HiddenStates, TopKIndex, TopKWeights       *Tensor
	GateUpProj, GateUpBias, DownProj, DownBias *Tensor
	Output, PreActivation                      *Tensor

	Stream    Stream
	Workspace Workspace

	GateUpScale, DownScale *Tensor // of weights in Float8E4M3, else nil
}

// ExpertsBackwardArgs are the arguments of gmoe_experts_backward.
type ExpertsBackwardArgs struct {
	Options ExpertsOptions

	GradOutput, HiddenStates, TopKIndex, TopKWeights *Tensor
	GateUpProj, DownProj, DownBias, PreActivation    *Tensor

	GradHiddenStates, GradTopKWeights *Tensor
	GradGateUpProj, GradGateUpBias    *Tensor
	GradDownProj, GradDownBias        *Tensor

	Stream    Stream
	Workspace Workspace
}

// ScaleBlock is how many rows and columns of a weight in Float8E4M3 share a scale, and how many
// neighbours in a row of activations that is rounded beside it.
const ScaleBlock = 128

// ScaleBlocks is how many blocks cover so many rows or columns.
func ScaleBlocks(n int64) int64 { return n/ScaleBlock + min(n%ScaleBlock, 1) }

// ExpertsQuantizeArgs are the arguments of gmoe_experts_quantize.
type ExpertsQuantizeArgs struct {
	Weight, Quantized, Scale *Tensor

	Stream    Stream
	Workspace Workspace
}
