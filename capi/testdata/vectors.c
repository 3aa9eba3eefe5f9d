/* The test vectors through the C functions, in float64, float32 and bfloat16. */
#include <math.h>

#include "check.h"
#include "vectors.h"
#include "vectors_data.h"

enum dtype { FLOAT64, FLOAT32, BFLOAT16 };
static const double tolerances[] = {TOLERANCE_FLOAT64, TOLERANCE_FLOAT32, TOLERANCE_BFLOAT16};

static gmoe_engine *engine;
static const char *now; /* the case, for messages */
static enum dtype dtype;

/* Where a struct keeps what the files call by name. */
struct field {
  const char *name;
  size_t offset;
  char kind; /* i int32, l int64, f float, d double, t tensor */
};
#define FIELD(type, name, kind) {#name, offsetof(type, name), kind}

#define ROUTER(name, kind) FIELD(gmoe_router_options, name, kind)
static const struct field router_options[] = {
    ROUTER(mode, 'i'),
    ROUTER(binding, 'i'),
    ROUTER(solver, 'i'),
    ROUTER(top_k, 'i'),
    ROUTER(budgeted, 'i'),
    ROUTER(normalize_top_k, 'i'),
    ROUTER(num_groups, 'i'),
    ROUTER(top_k_groups, 'i'),
    ROUTER(scaling_factor, 'f'),
    ROUTER(epsilon, 'f'),
    ROUTER(temperature_floor, 'f'),
    ROUTER(entropy_temperature, 'f'),
    ROUTER(load_penalty, 'f'),
    {NULL, 0, 0},
};

#define EXPERTS(name, kind) FIELD(gmoe_experts_options, name, kind)
static const struct field experts_options[] = {
    EXPERTS(activation, 'i'), EXPERTS(gated, 'i'), EXPERTS(interleaved, 'i'),
    EXPERTS(alpha, 'f'),      EXPERTS(limit, 'f'), {NULL, 0, 0},
};

#define ROUTE(name) FIELD(gmoe_router_forward_args, name, 't')
static const struct field router_forward[] = {
    ROUTE(hidden_states), ROUTE(projection), ROUTE(centroids),   ROUTE(bias),          ROUTE(price),
    ROUTE(temperature),   ROUTE(gap),        ROUTE(top_k_index), ROUTE(top_k_weights), ROUTE(logits),
    ROUTE(counts),        ROUTE(price_out),  {NULL, 0, 0},
};

#define ROUTE_BACK(name) FIELD(gmoe_router_backward_args, name, 't')
static const struct field router_backward[] = {
    ROUTE_BACK(hidden_states),
    ROUTE_BACK(projection),
    ROUTE_BACK(centroids),
    ROUTE_BACK(bias),
    ROUTE_BACK(temperature),
    ROUTE_BACK(logits),
    ROUTE_BACK(top_k_index),
    ROUTE_BACK(grad_top_k_weights),
    ROUTE_BACK(grad_logits),
    ROUTE_BACK(grad_hidden_states),
    ROUTE_BACK(grad_projection),
    ROUTE_BACK(grad_centroids),
    ROUTE_BACK(grad_bias),
    ROUTE_BACK(grad_temperature),
    {NULL, 0, 0},
};

#define UPDATE(name, kind) FIELD(gmoe_router_update_args, name, kind)
static const struct field router_update[] = {
    UPDATE(counts, 't'),     UPDATE(num_tokens, 'l'), UPDATE(rate, 'd'),
    UPDATE(step_limit, 'd'), UPDATE(budget, 'd'),     UPDATE(gap_rate, 'd'),
    UPDATE(price, 't'),      UPDATE(gap, 't'),        {NULL, 0, 0},
};

#define REPORT(name) FIELD(gmoe_router_report_args, name, 't')
static const struct field router_report[] = {
    REPORT(logits), REPORT(top_k_index), REPORT(price), REPORT(previous_index), {NULL, 0, 0},
};

#define REPORTED(name) FIELD(gmoe_router_report, name, 'd')
static const struct field report_numbers[] = {
    REPORTED(energy_bind), REPORTED(energy_entropy), REPORTED(energy_cost),
    REPORTED(energy),      REPORTED(max_violation),  REPORTED(load_cv),
    REPORTED(dead_share),  REPORTED(token_entropy),  REPORTED(marginal_entropy),
    REPORTED(price_min),   REPORTED(price_max),      REPORTED(top_k_margin),
    REPORTED(mean_active), REPORTED(churn),          FIELD(gmoe_router_report, non_finite_tokens, 'l'),
    {NULL, 0, 0},
};

#define FFN(name) FIELD(gmoe_experts_forward_args, name, 't')
static const struct field experts_forward[] = {
    FFN(hidden_states), FFN(top_k_index), FFN(top_k_weights),  FFN(gate_up_proj),  FFN(gate_up_bias), FFN(down_proj),
    FFN(down_bias),     FFN(output),      FFN(pre_activation), FFN(gate_up_scale), FFN(down_scale),   {NULL, 0, 0},
};

#define QUANTIZE(name) FIELD(gmoe_experts_quantize_args, name, 't')
static const struct field experts_quantize[] = {QUANTIZE(weight), QUANTIZE(quantized), QUANTIZE(scale), {NULL, 0, 0}};

#define FFN_BACK(name) FIELD(gmoe_experts_backward_args, name, 't')
static const struct field experts_backward[] = {
    FFN_BACK(grad_output),        FFN_BACK(hidden_states),     FFN_BACK(top_k_index),
    FFN_BACK(top_k_weights),      FFN_BACK(gate_up_proj),      FFN_BACK(down_proj),
    FFN_BACK(down_bias),          FFN_BACK(pre_activation),    FFN_BACK(grad_hidden_states),
    FFN_BACK(grad_top_k_weights), FFN_BACK(grad_gate_up_proj), FFN_BACK(grad_gate_up_bias),
    FFN_BACK(grad_down_proj),     FFN_BACK(grad_down_bias),    {NULL, 0, 0},
};

static const struct field clans_options[] = {FIELD(gmoe_clans_options, num_slots, 'i'), {NULL, 0, 0}};

#define DESCEND(name) FIELD(gmoe_clans_descend_args, name, 't')
static const struct field clans_descend[] = {
    DESCEND(hidden_states), DESCEND(clan_index), DESCEND(root),        DESCEND(children), DESCEND(direction),
    DESCEND(threshold),     DESCEND(slot_index), DESCEND(slot_counts), {NULL, 0, 0},
};

#define OBSERVE(name) FIELD(gmoe_clans_observe_args, name, 't')
static const struct field clans_observe[] = {
    OBSERVE(hidden_states), OBSERVE(slot_index),  OBSERVE(binding),   OBSERVE(mean), OBSERVE(axis),
    OBSERVE(scale),         OBSERVE(tokens),      OBSERVE(skipped),   OBSERVE(sum),  OBSERVE(square),
    OBSERVE(power),         OBSERVE(binding_sum), OBSERVE(histogram), {NULL, 0, 0},
};

static void *find(void *of, const struct field *fields, const char *name, char *kind) {
  for (; fields->name != NULL; fields++)
    if (strcmp(fields->name, name) == 0) {
      *kind = fields->kind;
      return (char *)of + fields->offset;
    }
  return NULL;
}

static void set_numbers(void *of, const struct field *fields, const struct vector_number *numbers) {
  for (; numbers->name != NULL; numbers++) {
    char kind = 0;
    void *at = find(of, fields, numbers->name, &kind);
    if (kind == 'i') *(int32_t *)at = (int32_t)numbers->value;
    if (kind == 'l') *(int64_t *)at = (int64_t)numbers->value;
    if (kind == 'f') *(float *)at = (float)numbers->value;
    if (kind == 'd') *(double *)at = numbers->value;
  }
}

/* The tensors of the case at hand. */
static struct {
  DLTensor tensor;
  double memory[1024]; /* of 8 bytes: enough for any element */
} pool[48];
static int used;

/* Float32 beside bfloat16 hidden states. */
static int is_wide(const char *name) {
  static const char *const wide[] = {"bias",   "price",     "temperature", "gap",       "top_k_weights",
                                     "logits", "price_out", "direction",   "threshold", "binding"};
  if (strncmp(name, "grad_", 5) == 0) name += 5;
  for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
    if (strcmp(name, wide[i]) == 0) return 1;
  return 0;
}

/* The number that 8 bits of float8_e4m3fn are. */
static double e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const double magnitude = exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
  if ((bits & 0x7f) == 0x7f) return NAN;
  return bits & 0x80 ? -magnitude : magnitude;
}

static double load(const DLTensor *t, size_t i) {
  if (t->dtype.bits == 8) return e4m3(((uint8_t *)t->data)[i]);
  if (t->dtype.code == kDLInt) return t->dtype.bits == 32 ? ((int32_t *)t->data)[i] : (double)((int64_t *)t->data)[i];
  if (t->dtype.bits == 64) return ((double *)t->data)[i];
  if (t->dtype.bits == 32) return ((float *)t->data)[i];
  const uint32_t word = (uint32_t)((uint16_t *)t->data)[i] << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

static void store(const DLTensor *t, size_t i, double value) {
  if (t->dtype.code == kDLInt && t->dtype.bits == 32)
    ((int32_t *)t->data)[i] = (int32_t)value;
  else if (t->dtype.code == kDLInt)
    ((int64_t *)t->data)[i] = (int64_t)value;
  else if (t->dtype.bits == 64)
    ((double *)t->data)[i] = value;
  else if (t->dtype.bits == 32)
    ((float *)t->data)[i] = (float)value;
  else if (t->dtype.bits == 8) {
    uint8_t bits = 0;
    while (e4m3(bits) != value) bits++; /* exact for what the files hold */
    ((uint8_t *)t->data)[i] = bits;
  } else {
    const float narrow = (float)value; /* exact for what the files hold */
    uint32_t word;
    memcpy(&word, &narrow, sizeof word);
    ((uint16_t *)t->data)[i] = (uint16_t)(word >> 16);
  }
}

/* Sets the tensors that the struct has a field for: to their values, or to zeros for outputs. */
static void set_tensors(void *of, const struct field *fields, const struct vector_tensor *tensors, int with_values) {
  for (; tensors->name != NULL; tensors++) {
    char kind = 0;
    const DLTensor **at = find(of, fields, tensors->name, &kind);
    DLTensor *t;
    if (at == NULL) continue;
    if (used == sizeof pool / sizeof *pool || tensors->elements > sizeof pool->memory / sizeof *pool->memory) abort();
    t = &pool[used].tensor;
    memset(pool[used].memory, 0, sizeof pool->memory);
    *t = tensor(pool[used].memory, kDLFloat, 64, tensors->ndim, (int64_t *)tensors->shape);
    used++;
    if (tensors->dtype == 'i' || tensors->dtype == 'l') {
      t->dtype.code = kDLInt;
      t->dtype.bits = tensors->dtype == 'i' ? 32 : 64;
    } else if (tensors->dtype == 'd') {
      t->dtype.bits = 64;
    } else if (tensors->dtype == 'e') {
      t->dtype.code = kDLFloat8_e4m3fn;
      t->dtype.bits = 8;
    } else if (tensors->dtype == 'f') {
      t->dtype.bits = 32;
    } else if (dtype == FLOAT32 || (dtype == BFLOAT16 && is_wide(tensors->name))) {
      t->dtype.bits = 32;
    } else if (dtype == BFLOAT16) {
      t->dtype.code = kDLBfloat;
      t->dtype.bits = 16;
    }
    for (size_t i = 0; with_values && i < tensors->elements; i++) store(t, i, tensors->values[i]);
    *at = t;
  }
}

static void require_agreement(void *of, const struct field *fields, const struct vector_tensor *want,
                              double price_out_tolerance) {
  for (; want->name != NULL; want++) {
    char kind = 0;
    const DLTensor *got = *(const DLTensor **)find(of, fields, want->name, &kind);
    double largest = 1, tolerance = tolerances[dtype];
    if (want->dtype != 0) tolerance = want->dtype == 'd' ? TOLERANCE_FLOAT64 : 0;
    if (strcmp(want->name, "price_out") == 0) tolerance = price_out_tolerance;
    for (size_t i = 0; i < want->elements; i++) largest = fmax(largest, fabs(want->values[i]));
    for (size_t i = 0; i < want->elements; i++)
      if (!(fabs(load(got, i) - want->values[i]) <= tolerance * largest)) {
        fprintf(stderr, "%s, dtype %d: %s[%d] is %.9g, want %.9g\n", now, (int)dtype, want->name, (int)i, load(got, i),
                want->values[i]);
        exit(1);
      }
  }
}

static void succeed(gmoe_status status) {
  if (status == GMOE_OK) return;
  fprintf(stderr, "%s, dtype %d: %s: %s\n", now, (int)dtype, gmoe_status_name(status), gmoe_last_error());
  exit(1);
}

static gmoe_status route(const struct vector_case *c, gmoe_router_forward_args *args, gmoe_router_options *options) {
  const gmoe_router_forward_args empty = GMOE_ROUTER_FORWARD_ARGS_INIT;
  const gmoe_router_options defaults = GMOE_ROUTER_OPTIONS_INIT;
  *args = empty, *options = defaults;
  args->options = options;
  set_numbers(options, router_options, c->options);
  set_tensors(args, router_forward, c->inputs, 1);
  set_tensors(args, router_forward, c->outputs, 0);
  return gmoe_router_forward(engine, args);
}

static void pass_router(const struct vector_case *c) {
  gmoe_router_forward_args forward;
  gmoe_router_backward_args backward = GMOE_ROUTER_BACKWARD_ARGS_INIT;
  gmoe_router_options options;
  succeed(route(c, &forward, &options));
  require_agreement(&forward, router_forward, c->outputs, c->price_out_tolerance);
  backward.options = &options;
  backward.logits = forward.logits;
  backward.top_k_index = forward.top_k_index;
  set_tensors(&backward, router_backward, c->inputs, 1);
  set_tensors(&backward, router_backward, c->grad_outputs, 1);
  set_tensors(&backward, router_backward, c->grad_inputs, 0);
  succeed(gmoe_router_backward(engine, &backward));
  require_agreement(&backward, router_backward, c->grad_inputs, 0);
}

static gmoe_status run(const struct vector_case *c, gmoe_experts_forward_args *args, gmoe_experts_options *options) {
  const gmoe_experts_forward_args empty = GMOE_EXPERTS_FORWARD_ARGS_INIT;
  const gmoe_experts_options defaults = GMOE_EXPERTS_OPTIONS_INIT;
  *args = empty, *options = defaults;
  args->options = options;
  set_numbers(options, experts_options, c->options);
  set_tensors(args, experts_forward, c->inputs, 1);
  set_tensors(args, experts_forward, c->outputs, 0);
  return gmoe_experts_forward(engine, args);
}

static void pass_experts(const struct vector_case *c) {
  gmoe_experts_forward_args forward;
  gmoe_experts_backward_args backward = GMOE_EXPERTS_BACKWARD_ARGS_INIT;
  gmoe_experts_options options;
  succeed(run(c, &forward, &options));
  require_agreement(&forward, experts_forward, c->outputs, 0);
  backward.options = &options;
  backward.pre_activation = forward.pre_activation;
  set_tensors(&backward, experts_backward, c->inputs, 1);
  set_tensors(&backward, experts_backward, c->grad_outputs, 1);
  set_tensors(&backward, experts_backward, c->grad_inputs, 0);
  succeed(gmoe_experts_backward(engine, &backward));
  require_agreement(&backward, experts_backward, c->grad_inputs, 0);
}

static gmoe_status quantize(const struct vector_case *c, gmoe_experts_quantize_args *args) {
  const gmoe_experts_quantize_args empty = GMOE_EXPERTS_QUANTIZE_ARGS_INIT;
  *args = empty;
  set_tensors(args, experts_quantize, c->inputs, 1);
  set_tensors(args, experts_quantize, c->outputs, 0);
  return gmoe_experts_quantize(engine, args);
}

static void pass_e4m3(const struct vector_case *c) {
  gmoe_experts_forward_args forward;
  gmoe_experts_quantize_args made;
  gmoe_experts_options options;
  if (strcmp(c->operation, "quantize") == 0) {
    succeed(quantize(c, &made));
    require_agreement(&made, experts_quantize, c->outputs, 0);
  } else {
    succeed(run(c, &forward, &options));
    require_agreement(&forward, experts_forward, c->outputs, 0);
  }
}

static gmoe_status update(const struct vector_case *c, gmoe_router_update_args *args, gmoe_router_options *options) {
  const gmoe_router_update_args empty = GMOE_ROUTER_UPDATE_ARGS_INIT;
  const gmoe_router_options defaults = GMOE_ROUTER_OPTIONS_INIT;
  *args = empty, *options = defaults;
  args->options = options;
  set_numbers(options, router_options, c->options);
  set_numbers(args, router_update, c->numbers);
  set_tensors(args, router_update, c->inputs, 1);
  return gmoe_router_update(engine, args);
}

static void pass_update(const struct vector_case *c) {
  gmoe_router_update_args args;
  gmoe_router_options options;
  succeed(update(c, &args, &options));
  require_agreement(&args, router_update, c->outputs, 0);
}

static gmoe_status report(const struct vector_case *c, gmoe_router_report *out) {
  const gmoe_router_report empty = GMOE_ROUTER_REPORT_INIT;
  gmoe_router_report_args args = GMOE_ROUTER_REPORT_ARGS_INIT;
  gmoe_router_options options = GMOE_ROUTER_OPTIONS_INIT;
  *out = empty;
  args.options = &options;
  set_numbers(&options, router_options, c->options);
  set_tensors(&args, router_report, c->inputs, 1);
  return gmoe_router_report_compute(engine, &args, out);
}

static void pass_report(const struct vector_case *c) {
  gmoe_router_report out;
  succeed(report(c, &out));
  for (const struct vector_number *want = c->numbers; want->name != NULL; want++) {
    char kind = 0;
    const void *at = find(&out, report_numbers, want->name, &kind);
    const double got = kind == 'l' ? (double)*(const int64_t *)at : *(const double *)at;
    if (!(fabs(got - want->value) <= tolerances[dtype] * fmax(1, fabs(want->value)))) {
      fprintf(stderr, "%s, dtype %d: %s is %.12g, want %.12g\n", now, (int)dtype, want->name, got, want->value);
      exit(1);
    }
  }
}

static gmoe_status descend(const struct vector_case *c, gmoe_clans_descend_args *args, gmoe_clans_options *options) {
  const gmoe_clans_descend_args empty = GMOE_CLANS_DESCEND_ARGS_INIT;
  const gmoe_clans_options defaults = GMOE_CLANS_OPTIONS_INIT;
  *args = empty, *options = defaults;
  args->options = options;
  set_numbers(options, clans_options, c->options);
  set_tensors(args, clans_descend, c->inputs, 1);
  set_tensors(args, clans_descend, c->outputs, 0);
  return gmoe_clans_descend(engine, args);
}

static gmoe_status observe(const struct vector_case *c, gmoe_clans_observe_args *args, gmoe_clans_options *options) {
  const gmoe_clans_observe_args empty = GMOE_CLANS_OBSERVE_ARGS_INIT;
  const gmoe_clans_options defaults = GMOE_CLANS_OPTIONS_INIT;
  *args = empty, *options = defaults;
  args->options = options;
  set_numbers(options, clans_options, c->options);
  set_tensors(args, clans_observe, c->inputs, 1);
  return gmoe_clans_observe(engine, args);
}

static void pass_clans(const struct vector_case *c) {
  gmoe_clans_descend_args descent;
  gmoe_clans_observe_args seen;
  gmoe_clans_options options;
  if (strcmp(c->operation, "descend") == 0) {
    succeed(descend(c, &descent, &options));
    require_agreement(&descent, clans_descend, c->outputs, 0);
  } else {
    succeed(observe(c, &seen, &options));
    require_agreement(&seen, clans_observe, c->outputs, 0);
  }
}

static void refuse(const struct vector_case *c) {
  gmoe_status status = GMOE_INTERNAL;
  gmoe_router_options router;
  gmoe_experts_options experts;
  gmoe_router_forward_args route_args;
  gmoe_experts_forward_args run_args;
  gmoe_router_update_args update_args;
  gmoe_router_report out;
  gmoe_clans_descend_args descend_args;
  gmoe_clans_observe_args observe_args;
  gmoe_experts_quantize_args quantize_args;
  gmoe_clans_options clans;
  if (strcmp(c->operation, "router") == 0) status = route(c, &route_args, &router);
  if (strcmp(c->operation, "experts") == 0) status = run(c, &run_args, &experts);
  if (strcmp(c->operation, "quantize") == 0) status = quantize(c, &quantize_args);
  if (strcmp(c->operation, "update") == 0) status = update(c, &update_args, &router);
  if (strcmp(c->operation, "report") == 0) status = report(c, &out);
  if (strcmp(c->operation, "descend") == 0) status = descend(c, &descend_args, &clans);
  if (strcmp(c->operation, "observe") == 0) status = observe(c, &observe_args, &clans);
  if (status != c->status || strstr(gmoe_last_error(), c->names) == NULL) {
    fprintf(stderr, "%s: %s: %s\n want %s that names %s\n", now, gmoe_status_name(status), gmoe_last_error(),
            gmoe_status_name(c->status), c->names);
    exit(1);
  }
}

static void each(const struct vector_case *cases, size_t n, enum dtype last, void (*pass)(const struct vector_case *)) {
  for (size_t i = 0; i < n; i++)
    for (dtype = FLOAT64; dtype <= last; dtype++) {
      now = cases[i].name;
      used = 0;
      pass(&cases[i]);
    }
}
#define EACH(cases, last, pass) each(cases, sizeof(cases) / sizeof *(cases), last, pass)

int main(void) {
  OK(gmoe_engine_create(NULL, &engine));
  EACH(router_cases, BFLOAT16, pass_router);
  EACH(experts_cases, BFLOAT16, pass_experts);
  EACH(update_cases, FLOAT32, pass_update);
  EACH(report_cases, FLOAT32, pass_report);
  EACH(clans_cases, BFLOAT16, pass_clans);
  EACH(e4m3_cases, BFLOAT16, pass_e4m3);
  EACH(refused_cases, FLOAT32, refuse);
  OK(gmoe_engine_destroy(engine));
  printf("%d cases\n", (int)(sizeof router_cases / sizeof *router_cases + sizeof experts_cases / sizeof *experts_cases +
                             sizeof update_cases / sizeof *update_cases + sizeof report_cases / sizeof *report_cases +
                             sizeof clans_cases / sizeof *clans_cases + sizeof e4m3_cases / sizeof *e4m3_cases +
                             sizeof refused_cases / sizeof *refused_cases));
  return 0;
}
