/* A forked child is told so at once, by every call that can fail; the parent goes on. */
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

int main(void) {
  struct layer l;
  gmoe_engine *engine, *other;
  gmoe_counters counters = GMOE_COUNTERS_INIT;
  gmoe_router_backward_args backward = GMOE_ROUTER_BACKWARD_ARGS_INIT;
  gmoe_router_update_args update = GMOE_ROUTER_UPDATE_ARGS_INIT;
  gmoe_router_report_args report_args = GMOE_ROUTER_REPORT_ARGS_INIT;
  gmoe_router_report report = GMOE_ROUTER_REPORT_INIT;
  gmoe_experts_backward_args experts_backward = GMOE_EXPERTS_BACKWARD_ARGS_INIT;
  gmoe_experts_quantize_args quantize = GMOE_EXPERTS_QUANTIZE_ARGS_INIT;
  gmoe_recorder_options record = GMOE_RECORDER_OPTIONS_INIT;
  gmoe_meter_reading reading = GMOE_METER_READING_INIT;
  gmoe_meter *meter;
  gmoe_recorder *recorder;
  int32_t count;
  size_t needed;
  int status;
  pid_t child;
  layer_init(&l, 1);
  OK(gmoe_engine_create(NULL, &engine));
  OK(gmoe_router_forward(engine, &l.route));
  OK(gmoe_meter_create(NULL, &meter));
  OK(gmoe_meter_begin(meter, "step"));
  record.meter = meter;
  OK(gmoe_recorder_create(&record, &recorder));
  child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(10); /* ends a child that hangs */
    FAILS(gmoe_device_count(kDLCPU, &count), GMOE_FORKED, "fork");
    FAILS(gmoe_doctor(NULL, 0, &needed), GMOE_FORKED, "gmoe_doctor");
    FAILS(gmoe_engine_create(NULL, &other), GMOE_FORKED, "fork");
    FAILS(gmoe_engine_destroy(engine), GMOE_FORKED, "fork");
    FAILS(gmoe_engine_counters(engine, &counters), GMOE_FORKED, "fork");
    FAILS(gmoe_router_forward(engine, &l.route), GMOE_FORKED, "fork");
    FAILS(gmoe_router_backward(engine, &backward), GMOE_FORKED, "fork");
    FAILS(gmoe_router_update(engine, &update), GMOE_FORKED, "fork");
    FAILS(gmoe_router_report_compute(engine, &report_args, &report), GMOE_FORKED, "fork");
    FAILS(gmoe_experts_forward(engine, &l.forward), GMOE_FORKED, "fork");
    FAILS(gmoe_experts_backward(engine, &experts_backward), GMOE_FORKED, "fork");
    FAILS(gmoe_experts_quantize(engine, &quantize), GMOE_FORKED, "fork");
    FAILS(gmoe_engine_expert_work(engine, 1, NULL, 0, &needed), GMOE_FORKED, "fork");
    FAILS(gmoe_meter_create(NULL, &meter), GMOE_FORKED, "fork");
    FAILS(gmoe_meter_begin(meter, "other"), GMOE_FORKED, "fork");
    FAILS(gmoe_meter_end(meter, "step", 0, &reading), GMOE_FORKED, "fork");
    FAILS(gmoe_meter_describe(meter, NULL, 0, &needed), GMOE_FORKED, "fork");
    FAILS(gmoe_meter_destroy(meter), GMOE_FORKED, "fork");
    FAILS(gmoe_recorder_create(&record, &recorder), GMOE_FORKED, "fork");
    FAILS(gmoe_recorder_log(recorder, "{}"), GMOE_FORKED, "fork");
    FAILS(gmoe_recorder_mark(recorder), GMOE_FORKED, "fork");
    FAILS(gmoe_recorder_flush(recorder), GMOE_FORKED, "fork");
    FAILS(gmoe_recorder_metrics(recorder, NULL, 0, &needed), GMOE_FORKED, "fork");
    FAILS(gmoe_recorder_destroy(recorder), GMOE_FORKED, "fork");
    FAILS(gmoe_record_csv("a", "b"), GMOE_FORKED, "fork");
    CHECK(gmoe_abi_version() == GMOE_ABI_VERSION);
    exit(0); /* with the library's and the C library's exit handlers */
  }
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  OK(gmoe_experts_forward(engine, &l.forward));
  OK(gmoe_recorder_destroy(recorder));
  OK(gmoe_meter_end(meter, "step", 0, &reading));
  OK(gmoe_meter_destroy(meter));
  OK(gmoe_engine_destroy(engine));
  return 0;
}
