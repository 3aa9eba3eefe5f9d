/* Wrong arguments of every kind are statuses with a message, never a crash. */
#include "check.h"

static gmoe_engine *engine;

static void nulls(void) {
  struct layer l;
  gmoe_counters counters = GMOE_COUNTERS_INIT;
  gmoe_router_report report = GMOE_ROUTER_REPORT_INIT;
  gmoe_router_report_args report_args = GMOE_ROUTER_REPORT_ARGS_INIT;
  gmoe_experts_quantize_args quantize = GMOE_EXPERTS_QUANTIZE_ARGS_INIT;
  layer_init(&l, 1);
  FAILS(gmoe_device_count(kDLCPU, NULL), GMOE_INVALID_ARGUMENT, "out: is NULL");
  FAILS(gmoe_engine_create(NULL, NULL), GMOE_INVALID_ARGUMENT, "out: is NULL");
  FAILS(gmoe_engine_counters(engine, NULL), GMOE_INVALID_ARGUMENT, "out: is NULL");
  FAILS(gmoe_engine_counters(NULL, &counters), GMOE_INVALID_HANDLE, "engine: 0x0");
  FAILS(gmoe_router_forward(engine, NULL), GMOE_INVALID_ARGUMENT, "args: is NULL");
  FAILS(gmoe_router_backward(engine, NULL), GMOE_INVALID_ARGUMENT, "args: is NULL");
  FAILS(gmoe_router_update(engine, NULL), GMOE_INVALID_ARGUMENT, "args: is NULL");
  FAILS(gmoe_router_report_compute(engine, NULL, &report), GMOE_INVALID_ARGUMENT, "args: is NULL");
  FAILS(gmoe_router_report_compute(engine, &report_args, NULL), GMOE_INVALID_ARGUMENT, "out: is NULL");
  FAILS(gmoe_experts_forward(engine, NULL), GMOE_INVALID_ARGUMENT, "args: is NULL");
  FAILS(gmoe_experts_backward(engine, NULL), GMOE_INVALID_ARGUMENT, "args: is NULL");
  FAILS(gmoe_experts_quantize(engine, NULL), GMOE_INVALID_ARGUMENT, "args: is NULL");
  FAILS(gmoe_experts_quantize(engine, &quantize), GMOE_INVALID_ARGUMENT, "weight: is missing");
  FAILS(gmoe_router_forward(NULL, &l.route), GMOE_INVALID_HANDLE, "engine");
  OK(gmoe_engine_destroy(NULL));
  l.route.options = NULL;
  FAILS(gmoe_router_forward(engine, &l.route), GMOE_INVALID_ARGUMENT, "options: is NULL");
  l.route.options = &l.router;
  l.route.hidden_states = NULL;
  FAILS(gmoe_router_forward(engine, &l.route), GMOE_INVALID_ARGUMENT, "hidden_states");
  l.forward.output = NULL;
  FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_INVALID_ARGUMENT, "output");
}

/* Small numbers where pointers belong: the Go runtime would abort on them. */
static void not_addresses(void) {
  struct layer l;
  gmoe_counters *const one = (gmoe_counters *)1;
  size_t needed;
  layer_init(&l, 1);
  FAILS(gmoe_engine_counters(engine, one), GMOE_INVALID_ARGUMENT, "out: 0x1 is not an address");
  FAILS(gmoe_router_forward(engine, (const gmoe_router_forward_args *)16), GMOE_INVALID_ARGUMENT, "args: 0x10");
  FAILS(gmoe_engine_create((const gmoe_engine_options *)8, &engine), GMOE_INVALID_ARGUMENT, "options: 0x8");
  FAILS(gmoe_doctor(NULL, 10, &needed), GMOE_INVALID_ARGUMENT, "buffer: is NULL");
  FAILS(gmoe_doctor((char *)5, 10, &needed), GMOE_INVALID_ARGUMENT, "buffer: 0x5");
  l.forward.hidden_states = (const DLTensor *)8;
  FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_INVALID_ARGUMENT, "hidden_states: pointer 0x8");
  l.forward.hidden_states = (const DLTensor *)((char *)&l.x + 1);
  FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_INVALID_ARGUMENT, "not an address aligned to 8");
  layer_init(&l, 1);
  l.x.data = (void *)2;
  FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_INVALID_ARGUMENT, "hidden_states: data 0x2");
}

static void structs(void) {
  struct layer l;
  gmoe_engine *other = NULL;
  gmoe_engine_options options = GMOE_ENGINE_OPTIONS_INIT;
  gmoe_counters counters = GMOE_COUNTERS_INIT;
  uint64_t size = 7;
  struct {
    gmoe_engine_options known;
    uint32_t later;
  } newer = {GMOE_ENGINE_OPTIONS_INIT, 0};
  layer_init(&l, 1);
  options.struct_size = 4;
  FAILS(gmoe_engine_create(&options, &other), GMOE_INVALID_ARGUMENT, "options: struct_size 4, want 20");
  options.struct_size = 0xffffffffu;
  FAILS(gmoe_engine_create(&options, &other), GMOE_INVALID_ARGUMENT, "struct_size 4294967295, want 20");
  options.struct_size = sizeof options;
  options.abi_version = 7;
  FAILS(gmoe_engine_create(&options, &other), GMOE_ABI_MISMATCH, "abi_version: 7, want 1");
  options.abi_version = GMOE_ABI_VERSION;
  options.device_type = 99;
  FAILS(gmoe_engine_create(&options, &other), GMOE_INVALID_ARGUMENT, "device_type: 99");
  options.device_type = kDLCPU;
  options.device_id = 1;
  FAILS(gmoe_engine_create(&options, &other), GMOE_NO_DEVICE, "device_id: 1");
  options.device_id = 0;
  options.num_threads = -3;
  FAILS(gmoe_engine_create(&options, &other), GMOE_INVALID_ARGUMENT, "num_threads: -3");
  CHECK(other == NULL);
  newer.known.struct_size = sizeof newer;
  OK(gmoe_engine_create(&newer.known, &other));
  OK(gmoe_engine_destroy(other));
  newer.later = 1;
  FAILS(gmoe_engine_create(&newer.known, &other), GMOE_UNSUPPORTED, "newer version");
  counters.struct_size = 0;
  FAILS(gmoe_engine_counters(engine, &counters), GMOE_INVALID_ARGUMENT, "out: struct_size 0, want 64");
  l.forward.struct_size = 95;
  FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_INVALID_ARGUMENT, "args: struct_size 95, want 128");
  l.forward.struct_size = 96; /* of the header before there was a workspace */
  l.forward.workspace_size = 1;
  OK(gmoe_experts_forward(engine, &l.forward));
  l.forward.struct_size = 112; /* of the header before weights could be e4m3 */
  l.forward.gate_up_scale = (const DLTensor *)8;
  OK(gmoe_experts_forward(engine, &l.forward));
  l.forward.gate_up_scale = NULL;
  l.forward.struct_size = sizeof l.forward;
  OK(gmoe_experts_forward_workspace_size(engine, &l.forward, &size));
  CHECK(size == 0); /* on the CPU */
  FAILS(gmoe_experts_forward_workspace_size(engine, &l.forward, NULL), GMOE_INVALID_ARGUMENT, "out: is NULL");
  FAILS(gmoe_router_report_workspace_size(NULL, NULL, &size), GMOE_INVALID_ARGUMENT, "args: is NULL");
  l.experts.struct_size = 7;
  FAILS(gmoe_experts_forward_workspace_size(engine, &l.forward, &size), GMOE_INVALID_ARGUMENT,
        "options: struct_size 7");
  FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_INVALID_ARGUMENT, "options: struct_size 7");
  l.route.reserved = 5;
  FAILS(gmoe_router_forward(engine, &l.route), GMOE_INVALID_ARGUMENT, "reserved is 5");
}

static void tensors(void) {
  struct layer l;
  int64_t strides[2] = {0, 1}, wrong[2] = {T, H + 1};
  const struct {
    const char *what;
    int32_t ndim, device;
    uint8_t code, bits;
    uint16_t lanes;
  } garbage[] = {
      {"hidden_states: ndim -1", -1, kDLCPU, kDLFloat, 32, 1},
      {"hidden_states: ndim 2147483647", 2147483647, kDLCPU, kDLFloat, 32, 1},
      {"hidden_states: shape", 1, kDLCPU, kDLFloat, 32, 1},
      {"lanes", 2, kDLCPU, kDLFloat, 32, 4},
      {"code 9", 2, kDLCPU, 9, 32, 1},
      {"16 bits", 2, kDLCPU, kDLFloat, 16, 1},
      {"device_type 3", 2, kDLCUDAHost, kDLFloat, 32, 1},
      {"cuda", 2, kDLCUDA, kDLFloat, 32, 1},
  };
  for (size_t i = 0; i < sizeof garbage / sizeof garbage[0]; i++) {
    layer_init(&l, 1);
    l.x.ndim = garbage[i].ndim;
    l.x.device.device_type = garbage[i].device;
    l.x.dtype.code = garbage[i].code, l.x.dtype.bits = garbage[i].bits, l.x.dtype.lanes = garbage[i].lanes;
    FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_INVALID_ARGUMENT, garbage[i].what);
    FAILS(gmoe_router_forward(engine, &l.route), GMOE_INVALID_ARGUMENT, garbage[i].what);
  }
  layer_init(&l, 1);
  l.x.shape = wrong;
  FAILS(gmoe_router_forward(engine, &l.route), GMOE_INVALID_ARGUMENT, "centroids");
  layer_init(&l, 1);
  l.y.data = l.hidden_states;
  FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_INVALID_ARGUMENT, "overlap");
  layer_init(&l, 1);
  l.y.strides = strides;
  FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_INVALID_ARGUMENT, "overlap");
  layer_init(&l, 1);
  l.top_k_index[3] = -1;
  FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_INVALID_ARGUMENT, "top_k_index");
}

static void doctor(void) {
  char small[16], *text;
  size_t needed = 0;
  OK(gmoe_doctor(NULL, 0, &needed));
  CHECK(needed > sizeof small);
  memset(small, 'x', sizeof small);
  FAILS(gmoe_doctor(small, sizeof small, NULL), GMOE_INVALID_ARGUMENT, "capacity: 16");
  CHECK(strlen(small) == sizeof small - 1);
  needed += 64; /* what is found may change between two calls */
  text = malloc(needed);
  OK(gmoe_doctor(text, needed, NULL));
  CHECK(text[0] == '{');
  free(text);
}

int main(void) {
  gmoe_engine *handle;
  int32_t count;
  CHECK(strcmp(gmoe_last_error(), "") == 0);
  CHECK(strcmp(gmoe_status_name(GMOE_FORKED), "FORKED") == 0 && strcmp(gmoe_status_name(-77), "UNKNOWN") == 0);
  OK(gmoe_device_count(kDLCPU, &count));
  CHECK(count == 1);
  OK(gmoe_device_count(10 /* ROCm */, &count));
  CHECK(count == 0);
  FAILS(gmoe_device_count(0, &count), GMOE_INVALID_ARGUMENT, "device_type: 0");
  OK(gmoe_engine_create(NULL, &engine));
  nulls();
  not_addresses();
  structs();
  tensors();
  doctor();
  handle = engine;
  OK(gmoe_engine_destroy(handle));
  FAILS(gmoe_engine_destroy(handle), GMOE_INVALID_HANDLE, "engine");
  FAILS(gmoe_engine_destroy((gmoe_engine *)&count), GMOE_INVALID_HANDLE, "engine");
  return 0;
}
