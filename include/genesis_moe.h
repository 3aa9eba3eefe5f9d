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
 *
 * Names in the shape comments: T tokens, H hidden size, E experts, I intermediate
 * size, K slots per token, D router width (d_r), R = T*K rows.
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

/* A device, its worker threads, scratch memory and counters. */
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

/* Work done on an engine since it was created. */
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
} gmoe_router_forward_args;
#define GMOE_ROUTER_FORWARD_ARGS_INIT \
  {(uint32_t)sizeof(gmoe_router_forward_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_router_forward(gmoe_engine *engine, const gmoe_router_forward_args *args);

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
} gmoe_router_backward_args;
#define GMOE_ROUTER_BACKWARD_ARGS_INIT \
  {(uint32_t)sizeof(gmoe_router_backward_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_router_backward(gmoe_engine *engine, const gmoe_router_backward_args *args);

/* After the optimiser's step: moves prices towards balance and the gap towards its
 * budget, from the hard counts of the whole global batch.
 *   hamiltonian: mu_e += clip(rate * ((l_e/mean(l) - 1) - mu_e/lambda), +-step_limit), recentred
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
} gmoe_router_update_args;
#define GMOE_ROUTER_UPDATE_ARGS_INIT \
  {(uint32_t)sizeof(gmoe_router_update_args), 0, 0, 0, 0, 0.02, 0.02, 0.0, 0.01, 0, 0, 0}
gmoe_status gmoe_router_update(gmoe_engine *engine, const gmoe_router_update_args *args);

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
} gmoe_router_report_args;
#define GMOE_ROUTER_REPORT_ARGS_INIT {(uint32_t)sizeof(gmoe_router_report_args), 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_router_report_compute(gmoe_engine *engine, const gmoe_router_report_args *args,
                                       gmoe_router_report *out);

/* ------------------------------------------------------------- the experts */

/* With z = gate_up_proj[e] x (+ bias), split into gate g and up u:
 * all but the last two compute act(g) * u when gated, act(z) when not. */
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
  /* gpt-oss: g' = min(g, limit), u' = clamp(u, -limit, limit): (u' + 1) g' sigmoid(alpha g'); gated only */
  GMOE_ACTIVATION_CLIPPED_SWIGLU = 9
};

typedef struct {
  uint32_t struct_size;
  int32_t activation;  /* GMOE_ACTIVATION_* */
  int32_t gated;       /* 1: gate_up_proj has 2I rows; 0: it is up_proj with I rows */
  int32_t interleaved; /* 1: rows alternate gate, up; 0: all gate rows, then all up rows */
  float alpha;         /* CLIPPED_SWIGLU, default 1.702 */
  float limit;         /* CLIPPED_SWIGLU, default 7 */
} gmoe_experts_options;
#define GMOE_EXPERTS_OPTIONS_INIT {(uint32_t)sizeof(gmoe_experts_options), 0, 1, 0, 1.702f, 7.0f}

/* y_t = sum over slots k of w_tk * (down_proj[e] act(gate_up_proj[e] x_t + b) + b'), e = index_tk.
 *
 * Z is 2I when gated, else I. Floating tensors share one dtype X (float32, bfloat16
 * with float32 accumulation, or float64), except top_k_weights: float32, or float64
 * with float64. A layout with the last two axes of a weight exchanged ([E, H, 2I])
 * is passed as the same shape with other strides. An index >= E is absent: skipped.
 * A negative index is INVALID_ARGUMENT. A token with no expert gets zeros. */
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
} gmoe_experts_forward_args;
#define GMOE_EXPERTS_FORWARD_ARGS_INIT {(uint32_t)sizeof(gmoe_experts_forward_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_experts_forward(gmoe_engine *engine, const gmoe_experts_forward_args *args);

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
} gmoe_experts_backward_args;
#define GMOE_EXPERTS_BACKWARD_ARGS_INIT \
  {(uint32_t)sizeof(gmoe_experts_backward_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
gmoe_status gmoe_experts_backward(gmoe_engine *engine, const gmoe_experts_backward_args *args);

#ifdef __cplusplus
}
#endif
#endif /* GENESIS_MOE_H_ */
