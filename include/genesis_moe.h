/* genesis_moe.h - the contract of libgenesis_moe.
 *
 * A Mixture-of-Experts layer as a library: Hamiltonian routing, expert dispatch
 * and counters of the work done, for any host language.
 *
 * Rules that hold for every function
 *   Status     Every function that can fail returns a gmoe_status. On anything but
 *              GMOE_OK, gmoe_last_error() of the same thread says which argument,
 *              which value, and what was expected. Outputs are then unspecified.
 *   Tensors    const DLTensor * is borrowed for the call. Any strides are accepted
 *              for inputs; outputs must not overlap themselves, each other or an
 *              input. Callers allocate outputs. Sizes are 64-bit throughout.
 *   Structs    Options and arguments start with struct_size and are initialised by
 *              their _INIT macro; fields are only ever appended. A larger struct, of
 *              a newer header, is accepted as long as the fields that this library
 *              does not know are 0; else UNSUPPORTED. reserved must be 0.
 *   State      The library keeps none of the model: parameters, prices and gaps
 *              are tensors of the caller.
 *   Threads    A handle is immutable once created; any number of threads may run
 *              operations on one engine at once. Destroying a handle is exclusive.
 *              A handle is a ticket, not an address; none is given out twice.
 *              Results do not depend on the number of threads.
 *   fork()     A child of a process that has used the library gets GMOE_FORKED
 *              from every call: the Go runtime does not survive a fork.
 *   Streams    void *stream is a CUstream (NULL: the legacy default stream); it is
 *              ignored for CPU tensors.
 *   Workspace  On a GPU the scratch memory of an operation is the caller's, so that an
 *              operation neither allocates nor waits and a CUDA graph can hold it. Fill
 *              in the arguments, ask the operation's _workspace_size function, allocate
 *              that much on the device, aligned to 256 bytes, and put it into workspace
 *              and workspace_size. It is in use until the stream has passed the
 *              operation. On the CPU the size is 0 and both are ignored.
 *
 * Names in the shape comments: T tokens, H hidden size, E experts, I intermediate
 * size, K slots per token, D router width (d_r), R = T*K rows, C clans, N inner nodes.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef GENESIS_MOE_H_
#define GENESIS_MOE_H_

#include <stddef.h>
#include <stdint.h>

#include "dlpack.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a struct, enum or function changes incompatibly. */
#define GMOE_ABI_VERSION 1u

typedef int32_t gmoe_status;
enum {
  GMOE_OK = 0,
  GMOE_INVALID_ARGUMENT = 1, /* a value, shape, dtype or pointer is wrong */
  GMOE_INVALID_HANDLE = 2,   /* NULL, destroyed, or not one of ours */
  GMOE_UNSUPPORTED = 3,      /* valid, but this build or device cannot do it */
  GMOE_OUT_OF_MEMORY = 4,
  GMOE_NO_DEVICE = 5,        /* the device asked for is not there */
  GMOE_DRIVER = 6,           /* a driver or BLAS call failed */
  GMOE_ABI_MISMATCH = 7,     /* the caller was compiled against another ABI */
  GMOE_FORKED = 8,           /* called in a forked child */
  GMOE_INTERNAL = 9          /* a bug of ours; the message carries the cause */
};

/* ------------------------------------------------------------- the library */

/* The ABI version of the loaded library; equals GMOE_ABI_VERSION when it fits. */
uint32_t gmoe_abi_version(void);

/* The release, such as "0.1.0". Static; never freed. */
const char *gmoe_version(void);

/* The name of a status, such as "INVALID_ARGUMENT". Static; never NULL. */
const char *gmoe_status_name(gmoe_status status);

/* What went wrong in this thread's last failing call. Never NULL; valid until the
 * next call of this thread that fails. */
const char *gmoe_last_error(void);

/* Counts usable devices of a DLPack device type (kDLCPU: 1; kDLCUDA: 0 without a
 * driver, which is GMOE_OK and prints nothing). out: NULL is INVALID_ARGUMENT.
 * Asking for kDLCUDA initialises the driver and creates no context. */
gmoe_status gmoe_device_count(int32_t device_type, int32_t *out);

/* Describes what was found and where, as a JSON object: version, processor and
 * instruction sets, threads, BLAS (each place tried and the outcome), CUDA driver,
 * NVML. Writes at most capacity bytes, NUL included, into buffer (which may be NULL
 * when capacity is 0) and the size needed, NUL included, into *needed (may be NULL).
 * A buffer that is too small is INVALID_ARGUMENT and holds a cut text. */
gmoe_status gmoe_doctor(char *buffer, size_t capacity, size_t *needed);

/* -------------------------------------------------------------- the engine */

/* A device, its worker threads, scratch memory and counters. On the CPU, operations of experts and routers that take a
 * thread about a millisecond or more run on the calling thread's team in the process' OpenMP runtime (libgomp, libomp,
 * libiomp5), where one had been loaded when the newest engine was created, num_threads is the size of its teams, and
 * it is clear which one the host uses: it is the only one, or PyTorch's. All else runs on threads of the library's
 * own, as everything does with GENESIS_MOE_THREADS=own. */
typedef struct gmoe_engine gmoe_engine;

typedef struct {
  uint32_t struct_size;
  uint32_t abi_version;
  int32_t device_type; /* kDLCPU or kDLCUDA */
  int32_t device_id;
  int32_t num_threads; /* 0: as many as the process may use */
} gmoe_engine_options;
#define GMOE_ENGINE_OPTIONS_INIT {(uint32_t)sizeof(gmoe_engine_options), GMOE_ABI_VERSION, 1, 0, 0}

/* Creates an engine. options: NULL means the defaults (the CPU, all threads). */
gmoe_status gmoe_engine_create(const gmoe_engine_options *options, gmoe_engine **out);

/* Destroys an engine; NULL is fine. No operation may be running on it. A handle
 * that was destroyed before is recognised and gives INVALID_HANDLE. */
gmoe_status gmoe_engine_destroy(gmoe_engine *engine);

/* Work done on an engine since it was created. A GPU's counts of rows stay on the GPU: of
 * its work calls and tokens are counted, not expert_rows, flops and bytes. */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t router_calls;
  uint64_t experts_calls;
  uint64_t tokens;       /* rows given to gmoe_experts_forward */
  uint64_t expert_rows;  /* token-expert pairs computed forward */
  uint64_t flops;        /* multiplications and additions in matrix products */
  uint64_t bytes;        /* bytes of weights, rows and gradients read and written */
  uint64_t scratch_bytes; /* scratch memory held now */
} gmoe_counters;
#define GMOE_COUNTERS_INIT {(uint32_t)sizeof(gmoe_counters), 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_engine_counters(gmoe_engine *engine, gmoe_counters *out);

/* The work of each expert of a layer since the engine was created, for operations whose
 * options named that layer, 1 to 4096: out[3e], out[3e+1], out[3e+2] are expert e's rows
 * computed forward, its FLOPs and the bytes that it read and wrote, forward and backward.
 * *experts (may be NULL) gets the number of experts counted so far, 0 when none were;
 * capacity is how many out has room for, and fewer than that number is INVALID_ARGUMENT.
 * out may be NULL with capacity 0. On a GPU a small launch behind each operation adds to sums on the device:
 * reading them waits for the legacy default stream, and says nothing of what other streams have still to do. A layer
 * that is captured into a graph before it was ever run is not counted. */
gmoe_status gmoe_engine_expert_work(gmoe_engine *engine, int32_t layer, uint64_t *out, size_t capacity,
                                    size_t *experts);

/* -------------------------------------------------------------- the router */

/* How scores become a routing. */
enum {
  GMOE_ROUTER_HAMILTONIAN = 0, /* binding energy u, price mu; gates softmax(-u/T_g) */
  GMOE_ROUTER_MIXTRAL = 1,     /* softmax over linear logits, top-k */
  GMOE_ROUTER_DEEPSEEK = 2     /* sigmoid scores, groups, bias for the choice only */
};
enum {
  GMOE_BINDING_COSINE = 0, /* u = 1 - <z,c> / ((|z|+eps)(|c|+eps)) */
  GMOE_BINDING_DOT = 1     /* u = -<z,c> - bias */
};
enum {
  GMOE_SOLVER_PRICE = 0, /* causal: mu is a buffer from earlier steps */
  GMOE_SOLVER_BATCH = 1  /* the optimum of H over this batch; NOT causal */
};

/* Describes a router. Fields of other modes are ignored; a field outside its range
 * is INVALID_ARGUMENT naming it. */
typedef struct {
  uint32_t struct_size;
  int32_t mode;              /* GMOE_ROUTER_* */
  int32_t binding;           /* GMOE_BINDING_*; hamiltonian only */
  int32_t solver;            /* GMOE_SOLVER_*; hamiltonian only */
  int32_t top_k;             /* k; with budgeted the most experts a token may have (k_max) */
  int32_t budgeted;          /* 1: S_t = {e : f_te - min f <= gap}, hamiltonian only */
  int32_t normalize_top_k;   /* mixtral, deepseek: divide the k weights by their sum */
  int32_t num_groups;        /* deepseek n_group; 1: no groups */
  int32_t top_k_groups;      /* deepseek topk_group */
  float scaling_factor;      /* mixtral, deepseek: weights are multiplied by it */
  float epsilon;             /* cosine: eps, default 1e-2 */
  float temperature_floor;   /* T_g is max(temperature, this), default 0.01 */
  float entropy_temperature; /* tau > 0 of E_entropy, default 0.1 */
  float load_penalty;        /* lambda > 0 of E_cost, default 10 */
} gmoe_router_options;
#define GMOE_ROUTER_OPTIONS_INIT \
  {(uint32_t)sizeof(gmoe_router_options), 0, 0, 0, 2, 0, 1, 1, 1, 1.0f, 1e-2f, 1e-2f, 0.1f, 10.0f}

/* One pass over the tokens.
 *
 * In mode hamiltonian a price of +Inf closes an expert: it is reserved for a clan to come,
 * and never chosen. At least top_k experts are open. gmoe_router_update leaves a closed one
 * as it is, and gmoe_router_report_compute leaves it out of everything. Its centroid, which
 * must be finite, has no gradient from the gates. Solver batch reads no price, and so knows
 * no closed experts. A price of NaN or -Inf is INVALID_ARGUMENT; on CUDA, where values are
 * not read back, it makes the gates NaN, and slots for which no expert is open are absent.
 *
 * dtype X is the dtype of hidden_states: float32, bfloat16 or float64. Parameters
 * may be X or float32; with float64 hidden_states everything floating is float64
 * (the reference path); else floating outputs are float32. */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  const gmoe_router_options *options;
  /* inputs */
  const DLTensor *hidden_states; /* [T, H] */
  const DLTensor *projection;    /* [D, H] W, or NULL for the identity (D = H); hamiltonian only */
  const DLTensor *centroids;     /* [E, D] c_e; mixtral, deepseek: the gate's weight [E, H] */
  const DLTensor *bias;          /* [E] added to the logits (dot, mixtral), or NULL */
  const DLTensor *price;         /* [E] mu; deepseek: the correction bias for the choice; NULL: zeros */
  const DLTensor *temperature;   /* [1] T_g; hamiltonian; NULL: 1 */
  const DLTensor *gap;           /* [1] theta >= 0; required when budgeted */
  /* outputs; NULL where not wanted, except the first two */
  const DLTensor *top_k_index;   /* [T, K] int32 or int64; K = top_k; absent slots hold E */
  const DLTensor *top_k_weights; /* [T, K] gates; absent slots hold 0. Best slot first */
  const DLTensor *logits;        /* [T, E] -u (hamiltonian) or the linear logits */
  const DLTensor *counts;        /* [E] int64: tokens that chose each expert */
  const DLTensor *price_out;     /* [E] solver batch: the mu of this batch */
  void *stream;
  void *workspace;         /* device memory; NULL on the CPU */
  uint64_t workspace_size; /* its bytes */
} gmoe_router_forward_args;
#define GMOE_ROUTER_FORWARD_ARGS_INIT \
  {(uint32_t)sizeof(gmoe_router_forward_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_router_forward(gmoe_engine *engine, const gmoe_router_forward_args *args);

/* The bytes of workspace that these arguments need, to *out: 0 on the CPU. Nothing is
 * launched; workspace itself is not looked at. The errors are the operation's. So it is
 * for the functions of this name below. */
gmoe_status gmoe_router_forward_workspace_size(gmoe_engine *engine, const gmoe_router_forward_args *args,
                                               uint64_t *out);

/* Exact gradients through gates, temperature, centroids, projection and bias; the
 * selection is piecewise constant and has none. Inputs as in forward. */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  const gmoe_router_options *options;
  const DLTensor *hidden_states;      /* [T, H] */
  const DLTensor *projection;         /* [D, H] or NULL */
  const DLTensor *centroids;          /* [E, D] */
  const DLTensor *bias;               /* [E] or NULL */
  const DLTensor *temperature;        /* [1] or NULL */
  const DLTensor *logits;             /* [T, E] of forward */
  const DLTensor *top_k_index;        /* [T, K] of forward */
  const DLTensor *grad_top_k_weights; /* [T, K], or NULL for zeros */
  const DLTensor *grad_logits;        /* [T, E] (an auxiliary loss), or NULL for zeros */
  /* outputs; NULL where not wanted; each has the shape and dtype of its input */
  const DLTensor *grad_hidden_states;
  const DLTensor *grad_projection;
  const DLTensor *grad_centroids;
  const DLTensor *grad_bias;
  const DLTensor *grad_temperature;
  void *stream;
  void *workspace;         /* device memory; NULL on the CPU */
  uint64_t workspace_size; /* its bytes */
} gmoe_router_backward_args;
#define GMOE_ROUTER_BACKWARD_ARGS_INIT \
  {(uint32_t)sizeof(gmoe_router_backward_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_router_backward(gmoe_engine *engine, const gmoe_router_backward_args *args);
gmoe_status gmoe_router_backward_workspace_size(gmoe_engine *engine, const gmoe_router_backward_args *args,
                                                uint64_t *out);

/* After the optimiser's step: moves prices towards balance and the gap towards its
 * budget, from the hard counts of the whole global batch.
 *   hamiltonian: mu_e += clip(rate * ((l_e/mean(l) - 1) - mu_e/lambda), +-step_limit), recentred,
 *                over the experts that are open; a price of +Inf stays
 *                gap  += gap_rate * (budget - sum(l)/num_tokens), kept >= 0 (budgeted)
 *   deepseek:    price_e += rate * sign(mean(l) - l_e)
 *   mixtral:     nothing to do; GMOE_OK. num_tokens = 0 leaves everything unchanged. */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  const gmoe_router_options *options;
  const DLTensor *counts; /* [E] int64, summed over all ranks and micro-batches */
  int64_t num_tokens;     /* tokens that those counts come from */
  double rate;            /* eta: 0.02 hamiltonian, 1e-3 deepseek; 0 freezes */
  double step_limit;      /* 0.02 */
  double budget;          /* experts per token wanted; budgeted only, 1 <= budget <= top_k */
  double gap_rate;        /* eta_th, default 0.01 */
  const DLTensor *price;  /* [E] in and out; float32 or float64 */
  const DLTensor *gap;    /* [1] in and out; budgeted only, else NULL */
  void *stream;
  void *workspace;         /* device memory; NULL on the CPU */
  uint64_t workspace_size; /* its bytes */
} gmoe_router_update_args;
#define GMOE_ROUTER_UPDATE_ARGS_INIT \
  {(uint32_t)sizeof(gmoe_router_update_args), 0, 0, 0, 0, 0.02, 0.02, 0.0, 0.01, 0, 0, 0, 0, 0}
gmoe_status gmoe_router_update(gmoe_engine *engine, const gmoe_router_update_args *args);
gmoe_status gmoe_router_update_workspace_size(gmoe_engine *engine, const gmoe_router_update_args *args, uint64_t *out);

/* The terms of H and how the routing looks, from one forward's outputs. */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  double energy_bind;       /* (1/T) sum p u */
  double energy_entropy;    /* -(tau/T) sum s(p) */
  double energy_cost;       /* (lambda/2) sum pi (rho/pi - 1)^2 */
  double energy;            /* their sum: H */
  double max_violation;     /* max_e l_e/mean(l) - 1 */
  double load_cv;           /* standard deviation of l over its mean */
  double dead_share;        /* share of experts with no token */
  double token_entropy;     /* mean over tokens of the entropy of softmax(logits), nats */
  double marginal_entropy;  /* entropy of the mean of those distributions, nats */
  double price_min, price_max;
  double top_k_margin;      /* mean gap in f between the last chosen and the first not chosen */
  double mean_active;       /* mean |S_t| */
  double churn;             /* share of slots of previous_index that changed; -1 without it */
  int64_t non_finite_tokens; /* tokens whose logits hold a NaN or infinity */
} gmoe_router_report;
#define GMOE_ROUTER_REPORT_INIT {(uint32_t)sizeof(gmoe_router_report), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  const gmoe_router_options *options;
  const DLTensor *logits;         /* [T, E] of forward */
  const DLTensor *top_k_index;    /* [T, K] of forward */
  const DLTensor *price;          /* [E] used in forward, or NULL */
  const DLTensor *previous_index; /* [T, K] of an earlier forward of the same tokens, or NULL */
  void *stream;
  void *workspace;         /* device memory; NULL on the CPU */
  uint64_t workspace_size; /* its bytes */
} gmoe_router_report_args;
#define GMOE_ROUTER_REPORT_ARGS_INIT {(uint32_t)sizeof(gmoe_router_report_args), 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_router_report_compute(gmoe_engine *engine, const gmoe_router_report_args *args,
                                       gmoe_router_report *out);
gmoe_status gmoe_router_report_workspace_size(gmoe_engine *engine, const gmoe_router_report_args *args, uint64_t *out);

/* --------------------------------------------------------------- the clans */

/* Experts that split where the data is dense. The router chooses among C clans, each a centroid
 * with a price; the experts' weights lie in E_max slots. A clan begins with one slot. A split puts
 * a hyperplane in the place of a leaf of the clan's tree and a copy of the leaf's expert on either
 * side: a token still has one expert of the clan, with the clan's gate, so the layer computes
 * what it did, at the same cost, until training moves the copies apart.
 *
 *   gmoe_router_forward -> top_k_index (clans) -> gmoe_clans_descend -> slot_index -> gmoe_experts_forward
 *
 * Trees, hyperplanes and statistics are tensors of the caller, of fixed shapes. A clan that is
 * not in use has a price of +Inf (gmoe_router_forward). */
typedef struct {
  uint32_t struct_size;
  int32_t num_slots; /* E_max >= 1 */
} gmoe_clans_options;
#define GMOE_CLANS_OPTIONS_INIT {(uint32_t)sizeof(gmoe_clans_options), 1}

/* Finds each chosen clan's slot.
 *
 * A number of 0 or more in root and children is a slot; one below 0 is the inner node ~number, so
 * -1 is node 0. At a node a token x goes to child 1 when <direction, x> >= threshold, else to child
 * 0, which is also where a NaN goes. Every inner node is below one clan or one node at most; those
 * that are below none are free, and what they hold does not matter. A slot or node that is not
 * there, or a node reached twice (as in a circle), is INVALID_ARGUMENT with its number and place on
 * the CPU. On CUDA, where values are not read back, a token that meets one gets an absent slot.
 *
 * dtype X is that of hidden_states: float32, bfloat16 or float64. */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  const gmoe_clans_options *options;
  /* inputs */
  const DLTensor *hidden_states; /* [T, H] what the layer is given, not its projection */
  const DLTensor *clan_index;    /* [T, K] int32 or int64: top_k_index of the router; C or more is absent */
  const DLTensor *root;          /* [C] int32: where each clan's tree begins */
  const DLTensor *children;      /* [N, 2] int32, or NULL when there are no inner nodes */
  const DLTensor *direction;     /* [N, H] float32, or float64 when X is; NULL with children */
  const DLTensor *threshold;     /* [N] of the dtype of direction; NULL with children */
  /* outputs */
  const DLTensor *slot_index;  /* [T, K] of the dtype of clan_index; absent slots hold E_max */
  const DLTensor *slot_counts; /* [E_max] int64: tokens of each slot; NULL where not wanted */
  void *stream;
  void *workspace;         /* device memory; NULL on the CPU */
  uint64_t workspace_size; /* its bytes */
} gmoe_clans_descend_args;
#define GMOE_CLANS_DESCEND_ARGS_INIT {(uint32_t)sizeof(gmoe_clans_descend_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_clans_descend(gmoe_engine *engine, const gmoe_clans_descend_args *args);
gmoe_status gmoe_clans_descend_workspace_size(gmoe_engine *engine, const gmoe_clans_descend_args *args, uint64_t *out);

enum { GMOE_CLANS_HISTOGRAM_BINS = 64 };

/* Adds what each slot's tokens say about splitting it to sums of the caller, so that batches
 * and ranks are summed by adding. With d = x - mean and a = axis of the token's slot,
 *   tokens += 1, sum += x, square += |d|^2, power += <d, a> d, binding_sum += binding,
 *   histogram[bin] += 1, where 64 equal bins cover [-1, 1) of <d, a>/scale and the outer take the rest.
 * power, scaled to length 1, is the next axis of a power iteration for the first principal
 * direction. A token whose numbers are not finite, or whose |d|^2 is not, adds to skipped only; so
 * does every token of a slot whose mean or axis is not finite. A slot adds its tokens in their
 * order: bit for bit the same for every number of threads, and for a batch given in two parts.
 *
 * Everything but hidden_states, slot_index and binding is float64. On CUDA num_slots is at most 512
 * and hidden_states are not float64; so it is for gmoe_clans_descend. */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  const gmoe_clans_options *options;
  /* inputs */
  const DLTensor *hidden_states; /* [T, H] float32, bfloat16 or float64 */
  const DLTensor *slot_index;    /* [T, K] int32 or int64; E_max or more is absent */
  const DLTensor *binding;       /* [T, K] u of the chosen, float32 or float64; for binding_sum, else NULL */
  const DLTensor *mean;          /* [E_max, H] the centre to measure from; NULL: zeros */
  const DLTensor *axis;          /* [E_max, H] of length 1; for power and histogram, else NULL */
  const DLTensor *scale;         /* [E_max] finite, > 0: the half width of histogram, else NULL */
  /* in and out: added to; NULL where not wanted */
  const DLTensor *tokens;      /* [E_max] */
  const DLTensor *skipped;     /* [E_max] */
  const DLTensor *sum;         /* [E_max, H] */
  const DLTensor *square;      /* [E_max] */
  const DLTensor *power;       /* [E_max, H] */
  const DLTensor *binding_sum; /* [E_max] */
  const DLTensor *histogram;   /* [E_max, 64] */
  void *stream;
  void *workspace;         /* device memory; NULL on the CPU */
  uint64_t workspace_size; /* its bytes */
} gmoe_clans_observe_args;
#define GMOE_CLANS_OBSERVE_ARGS_INIT \
  {(uint32_t)sizeof(gmoe_clans_observe_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_clans_observe(gmoe_engine *engine, const gmoe_clans_observe_args *args);
gmoe_status gmoe_clans_observe_workspace_size(gmoe_engine *engine, const gmoe_clans_observe_args *args, uint64_t *out);

/* ------------------------------------------------------------- the experts */

/* With z = gate_up_proj[e] x (+ bias), split into gate g and up u:
 * act(g) * u when gated, act(z) when not. The clipped ones are gated only and compute
 * with g' = min(g, limit) and u' = clamp(u, -limit, limit). */
enum {
  GMOE_ACTIVATION_SILU = 0,
  GMOE_ACTIVATION_GELU = 1,         /* exact, with erf */
  GMOE_ACTIVATION_GELU_TANH = 2,
  GMOE_ACTIVATION_RELU = 3,
  GMOE_ACTIVATION_RELU_SQUARED = 4,
  GMOE_ACTIVATION_QUICK_GELU = 5,   /* g sigmoid(1.702 g) */
  GMOE_ACTIVATION_SIGMOID = 6,
  GMOE_ACTIVATION_TANH = 7,
  GMOE_ACTIVATION_IDENTITY = 8,
  GMOE_ACTIVATION_CLIPPED_SWIGLU = 9, /* (u' + 1) g' sigmoid(alpha g'), as in gpt-oss */
  GMOE_ACTIVATION_CLIPPED_SILU = 10   /* u' g' sigmoid(g'), as in DeepSeek-V4 */
};

typedef struct {
  uint32_t struct_size;
  int32_t activation;  /* GMOE_ACTIVATION_* */
  int32_t gated;       /* 1: gate_up_proj has 2I rows; 0: it is up_proj with I rows */
  int32_t interleaved; /* 1: rows alternate gate, up; 0: all gate rows, then all up rows */
  float alpha;         /* CLIPPED_SWIGLU, default 1.702 */
  float limit;         /* CLIPPED_SWIGLU and CLIPPED_SILU, default 7 */
  int32_t layer;       /* n > 0: the work is also counted for each expert: gmoe_engine_expert_work */
} gmoe_experts_options;
#define GMOE_EXPERTS_OPTIONS_INIT {(uint32_t)sizeof(gmoe_experts_options), 0, 1, 0, 1.702f, 7.0f, 0}

/* y_t = sum over slots k of w_tk * (down_proj[e] act(gate_up_proj[e] x_t + b) + b'), e = index_tk.
 *
 * Z is 2I when gated, else I. Floating tensors share one dtype X (float32, bfloat16
 * with float32 accumulation, or float64), except top_k_weights: float32, or float64
 * with float64. A layout with the last two axes of a weight exchanged ([E, H, 2I])
 * is passed as the same shape with other strides. An index >= E is absent: skipped.
 * A negative index is INVALID_ARGUMENT on the CPU and absent on CUDA, where indices are not
 * read back. A token with no expert gets zeros.
 *
 * Weights in 8 bits, for inference: gate_up_proj and down_proj may both be float8_e4m3fn (no
 * infinity; 448 is the largest), with a float32 scale for each block of 128 x 128 of what they hold:
 * W[e][i][j] = gate_up_proj[e][i][j] * gate_up_scale[e][i/128][j/128], as DeepSeek-V3's
 * weight_scale_inv. Activations are then rounded too: each row of hidden_states, and of h = act(...),
 * by blocks of 128 neighbouring columns, in float32:
 *   s = max |x| / 448, or 1 where that is 0;   x' = s * e4m3(x / s), to nearest, ties to even
 * Products of two e4m3 are exact and summed in float32 (the opt-in kernels for Hopper keep some 14 bits of
 * the sum over a block); the sum over a block of 128 columns is multiplied
 * by (s of the row's block * scale of the weight's), and the blocks are summed. Biases, weights
 * of the routing and output are as with other dtypes. What is not finite among a row's numbers makes its block
 * NaN. With float64 the numbers are rounded to float32 first, and sums are float64. pre_activation must be
 * NULL: such weights have no backward pass. On CUDA the fastest kernels want sizes that are multiples of 128, and weights
 * whose last axis has stride 1. */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  const gmoe_experts_options *options;
  /* inputs */
  const DLTensor *hidden_states; /* [T, H] */
  const DLTensor *top_k_index;   /* [T, K] int32 or int64 */
  const DLTensor *top_k_weights; /* [T, K] */
  const DLTensor *gate_up_proj;  /* [E, Z, H] */
  const DLTensor *gate_up_bias;  /* [E, Z] or NULL */
  const DLTensor *down_proj;     /* [E, H, I] */
  const DLTensor *down_bias;     /* [E, H] or NULL */
  /* outputs */
  const DLTensor *output;         /* [T, H] */
  const DLTensor *pre_activation; /* [T*K, Z] z, rows sorted by expert, for backward; NULL for inference.
                                     Rows past the present slots are left alone */
  void *stream;
  void *workspace;         /* device memory; NULL on the CPU */
  uint64_t workspace_size; /* its bytes */
  /* of weights in float8_e4m3fn, any strides; else NULL */
  const DLTensor *gate_up_scale; /* [E, ceil(Z/128), ceil(H/128)] float32 */
  const DLTensor *down_scale;    /* [E, ceil(H/128), ceil(I/128)] float32 */
} gmoe_experts_forward_args;
#define GMOE_EXPERTS_FORWARD_ARGS_INIT \
  {(uint32_t)sizeof(gmoe_experts_forward_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_experts_forward(gmoe_engine *engine, const gmoe_experts_forward_args *args);
gmoe_status gmoe_experts_forward_workspace_size(gmoe_engine *engine, const gmoe_experts_forward_args *args,
                                                uint64_t *out);

/* Gradients of forward. Inputs as there, with the pre_activation that it wrote. Every
 * element of every wanted output is written: zeros for experts without a token. */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  const gmoe_experts_options *options;
  const DLTensor *grad_output;    /* [T, H] */
  const DLTensor *hidden_states;  /* [T, H] */
  const DLTensor *top_k_index;    /* [T, K] */
  const DLTensor *top_k_weights;  /* [T, K] */
  const DLTensor *gate_up_proj;   /* [E, Z, H] */
  const DLTensor *down_proj;      /* [E, H, I] */
  const DLTensor *down_bias;      /* [E, H] or NULL: needed for grad_top_k_weights */
  const DLTensor *pre_activation; /* [T*K, Z] of forward */
  /* outputs; NULL where not wanted */
  const DLTensor *grad_hidden_states; /* [T, H] */
  const DLTensor *grad_top_k_weights; /* [T, K] dtype of top_k_weights; absent slots 0 */
  const DLTensor *grad_gate_up_proj;  /* [E, Z, H] */
  const DLTensor *grad_gate_up_bias;  /* [E, Z] */
  const DLTensor *grad_down_proj;     /* [E, H, I] */
  const DLTensor *grad_down_bias;     /* [E, H] */
  void *stream;
  void *workspace;         /* device memory; NULL on the CPU */
  uint64_t workspace_size; /* its bytes */
} gmoe_experts_backward_args;
#define GMOE_EXPERTS_BACKWARD_ARGS_INIT \
  {(uint32_t)sizeof(gmoe_experts_backward_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_experts_backward(gmoe_engine *engine, const gmoe_experts_backward_args *args);
gmoe_status gmoe_experts_backward_workspace_size(gmoe_engine *engine, const gmoe_experts_backward_args *args,
                                                 uint64_t *out);

/* Makes weights in float8_e4m3fn, with a scale for each block of 128 x 128, of weights in another
 * dtype: scale = max |w| of the block / 448, or 1 where that is 0, and quantized = e4m3(w / scale), to
 * nearest, ties to even, both in float32 arithmetic. R rows and C columns of E matrices: gate_up_proj has
 * R = Z, C = H, and down_proj R = H, C = I. A weight that is not finite as a float32 is
 * INVALID_ARGUMENT naming it and its place on the CPU; on CUDA, where values are not read back, the
 * scale of its block is NaN. */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  const DLTensor *weight;    /* [E, R, C] float32, bfloat16 or, on the CPU, float64 */
  const DLTensor *quantized; /* [E, R, C] float8_e4m3fn; out */
  const DLTensor *scale;     /* [E, ceil(R/128), ceil(C/128)] float32; out */
  void *stream;
  void *workspace;         /* device memory; NULL on the CPU */
  uint64_t workspace_size; /* its bytes */
} gmoe_experts_quantize_args;
#define GMOE_EXPERTS_QUANTIZE_ARGS_INIT {(uint32_t)sizeof(gmoe_experts_quantize_args), 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_experts_quantize(gmoe_engine *engine, const gmoe_experts_quantize_args *args);
gmoe_status gmoe_experts_quantize_workspace_size(gmoe_engine *engine, const gmoe_experts_quantize_args *args,
                                                 uint64_t *out);

/* --------------------------------------------------------------- the meter */

/* Meters the energy of the process's devices. It begins to poll when it is first used, from
 * a thread of its own, and stops when it is destroyed. */
typedef struct gmoe_meter gmoe_meter;

/* What energies come from, best first. The best that is there is taken, of the first four;
 * the others are used when asked for. */
enum {
  GMOE_SOURCE_BEST = 0,
  GMOE_SOURCE_NVML_COUNTER = 1,      /* the GPUs' counters of energy */
  GMOE_SOURCE_NVML_INTEGRATED = 2,   /* the GPUs' power, integrated */
  GMOE_SOURCE_RAPL = 3,              /* the processor packages' counters */
  GMOE_SOURCE_ESTIMATE_TDP_LOAD = 4, /* rated power x load: modelled; needs rated_watts */
  GMOE_SOURCE_REPLAY = 5,            /* a trace: synthetic */
  GMOE_SOURCE_MOCK = 6,              /* an invented load: synthetic */
  GMOE_SOURCE_NONE = 7               /* no values */
};
enum { GMOE_QUALITY_NONE = 0, GMOE_QUALITY_MEASURED = 1, GMOE_QUALITY_MODELLED = 2, GMOE_QUALITY_SYNTHETIC = 3 };

typedef struct {
  uint32_t struct_size;
  int32_t source;          /* GMOE_SOURCE_* */
  const char *devices;     /* GPUs: UUIDs or NVML indices, comma-separated; NULL: those of
                              CUDA_VISIBLE_DEVICES as it was at load time, or all */
  const char *sysfs_root;  /* where RAPL is looked for; NULL: /sys */
  const char *replay_path; /* the trace of GMOE_SOURCE_REPLAY */
  const char *trace_path;  /* every reading is written there for a later replay; NULL: nowhere */
  double poll_seconds;     /* between readings while it is learned when a counter updates, 0.001
                              to 0.1; 0: 0.02. With a trace_path it stays so */
  double idle_watts;       /* power without work, all devices; 0: not known */
  double rated_watts;      /* GMOE_SOURCE_ESTIMATE_TDP_LOAD; 0: not known */
} gmoe_meter_options;
#define GMOE_METER_OPTIONS_INIT {(uint32_t)sizeof(gmoe_meter_options), 0, 0, 0, 0, 0, 0, 0, 0}

/* Creates a meter; nothing is polled yet. options: NULL means the best source that is
 * there. Where none is, the meter is of GMOE_SOURCE_NONE and knows no values; a source
 * that was asked for and is not there is NO_DEVICE. */
gmoe_status gmoe_meter_create(const gmoe_meter_options *options, gmoe_meter **out);

/* Stops and destroys a meter; NULL is fine. A recorder that uses it must be destroyed before. */
gmoe_status gmoe_meter_destroy(gmoe_meter *meter);

/* Opens a window by a name that no open window of the meter has. Windows nest and overlap.
 * Work on a GPU is asynchronous: synchronize the stream before begin and end. */
gmoe_status gmoe_meter_begin(gmoe_meter *meter, const char *name);

typedef struct {
  uint32_t struct_size;
  int32_t source;            /* GMOE_SOURCE_* */
  int32_t quality;           /* GMOE_QUALITY_* */
  int32_t settled;           /* 1: the sensors have updated since; 0: the end is extrapolated */
  int32_t low_resolution;    /* 1: fewer than ten updates of the sensors in the window */
  int32_t incomplete;        /* 1: a device was lost: at least this much */
  double seconds;            /* the length of the window */
  double joules;             /* all devices; NaN: not known */
  double uncertainty_joules; /* the worst error that timing allows; NaN: no bound */
} gmoe_meter_reading;
#define GMOE_METER_READING_INIT {(uint32_t)sizeof(gmoe_meter_reading), 0, 0, 0, 0, 0, 0, 0, 0}

/* Closes a window and reads it. wait_seconds, 0 to 60: how long to wait at most for the
 * sensors' next update (a tenth of a second for a GPU), which makes the reading sharper. */
gmoe_status gmoe_meter_end(gmoe_meter *meter, const char *name, double wait_seconds, gmoe_meter_reading *out);

/* Describes the meter as a JSON object: meter (source, quality, update period, note), devices,
 * and power: of each device the watts of the moment, the limit and the joules since the meter
 * began. Buffer, capacity and needed as for gmoe_doctor. */
gmoe_status gmoe_meter_describe(gmoe_meter *meter, char *buffer, size_t capacity, size_t *needed);

/* ------------------------------------------------------------ the recorder */

/* Records a run: completes the steps that the host logs with their energies, and keeps them in a
 * file of JSON lines, in metrics, and in the monitors attached. */
typedef struct gmoe_recorder gmoe_recorder;

typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  gmoe_meter *meter;       /* NULL: none; it must outlive the recorder */
  const char *path;        /* of the file, which must not exist; NULL: none */
  const char *run;         /* JSON: the header of the run (name, router, layers, shape, labels); NULL: {} */
  const char *calibration; /* JSON: prices of work, to divide the energy; NULL: it is not divided */
} gmoe_recorder_options;
#define GMOE_RECORDER_OPTIONS_INIT {(uint32_t)sizeof(gmoe_recorder_options), 0, 0, 0, 0, 0}

/* Creates a recorder and writes the first line. */
gmoe_status gmoe_recorder_create(const gmoe_recorder_options *options, gmoe_recorder **out);

/* Logs one line, a JSON object of kind step, names, baseline, trace or event; the fields are
 * those of Go's package core/energy/record. A step is what ran since the step before. Does not
 * wait for the disk or the meter. */
gmoe_status gmoe_recorder_log(gmoe_recorder *recorder, const char *line);

/* Begins the next step now: what ran since the last one belongs to none. */
gmoe_status gmoe_recorder_mark(gmoe_recorder *recorder);

/* Waits until everything logged is written; reports what went wrong with the file. */
gmoe_status gmoe_recorder_flush(gmoe_recorder *recorder);

/* The run's metrics in the text format of Prometheus. Buffer, capacity and needed as for gmoe_doctor. */
gmoe_status gmoe_recorder_metrics(gmoe_recorder *recorder, char *buffer, size_t capacity, size_t *needed);

/* Writes what waits and the last line, closes the file and destroys the recorder; NULL is fine.
 * The recorder is gone also when the file could not be written and this fails. */
gmoe_status gmoe_recorder_destroy(gmoe_recorder *recorder);

/* Writes the steps of a run's file as CSV. */
gmoe_status gmoe_record_csv(const char *path, const char *csv_path);

/* -------------------------------------------------------------- the console */

/* A page that shows runs: power, energy, loss, the experts at work. The library serves
 * it over HTTP, only to be looked at: GET, no request has an effect, and a client that
 * reads slowly or asks without pause delays no call of the host. */
typedef struct gmoe_monitor gmoe_monitor;

typedef struct {
  uint32_t struct_size;
  uint32_t abi_version;
  const char *address;  /* host:port; NULL: "127.0.0.1:9460". Port 0 takes a free one */
  const char *token;    /* what clients must show, at least 16 printable characters, or NULL */
  const char *hosts;    /* further names in the Host header, separated by commas, or NULL */
  int32_t allow_remote; /* 1: address may be one that other machines reach; then token is required */
  int32_t interval_milliseconds; /* between updates of the page, 50 to 60000; 0: 250 */
} gmoe_monitor_options;
#define GMOE_MONITOR_OPTIONS_INIT {(uint32_t)sizeof(gmoe_monitor_options), GMOE_ABI_VERSION, 0, 0, 0, 0, 0}

/* Opens the address and serves the console in threads of its own until gmoe_monitor_stop.
 * options: NULL means the defaults. An address that is taken, or that needs allow_remote
 * and a token, is INVALID_ARGUMENT. */
gmoe_status gmoe_monitor_start(const gmoe_monitor_options *options, gmoe_monitor **out);

/* The address of the page, such as "http://127.0.0.1:9460/", with the port that was taken.
 * buffer, capacity and needed as in gmoe_doctor. */
gmoe_status gmoe_monitor_url(gmoe_monitor *monitor, char *buffer, size_t capacity, size_t *needed);

/* Shows one line of a run: length bytes of JSON as in a file of records. A line of kind
 * "run" begins a run. The text is read during the call. */
gmoe_status gmoe_monitor_log(gmoe_monitor *monitor, const char *line, size_t length);

/* Shows the run of a recorder from now on: what it wrote at its beginning, then every line as
 * it is made. Several recorders may be attached; either may end first. */
gmoe_status gmoe_monitor_attach(gmoe_monitor *monitor, gmoe_recorder *recorder);

typedef struct {
  uint32_t struct_size;
  int32_t follow; /* 1: another process is writing the file; show what it appends */
  double speed;   /* play the run in its own time, so many times as fast; 0: all at once */
} gmoe_monitor_file_options;
#define GMOE_MONITOR_FILE_OPTIONS_INIT {(uint32_t)sizeof(gmoe_monitor_file_options), 0, 0.0}

/* Shows the run in a file of records beside the others, as a replay unless it is followed.
 * The file is opened here and read in the background. options: NULL means the defaults. */
gmoe_status gmoe_monitor_open(gmoe_monitor *monitor, const char *path, const gmoe_monitor_file_options *options);

/* Stops serving: closes the address and every connection. The handle is then invalid;
 * NULL is fine. */
gmoe_status gmoe_monitor_stop(gmoe_monitor *monitor);

#ifdef __cplusplus
}
#endif
#endif /* GENESIS_MOE_H_ */
