/* A meter through the real driver path: windows nest, add up and state their error; a
 * recorder keeps a run; misuse is told. The fake driver's GPUs draw 200 W each. */
#include <math.h>
#include <time.h>

#include "check.h"

static char text[1 << 20];

static void wait_seconds(double seconds) {
  struct timespec time = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
  nanosleep(&time, NULL);
}

static void windows(gmoe_meter *meter) {
  gmoe_meter_reading whole = GMOE_METER_READING_INIT, part = GMOE_METER_READING_INIT, rest = GMOE_METER_READING_INIT;
  OK(gmoe_meter_begin(meter, "whole"));
  OK(gmoe_meter_begin(meter, "part"));
  FAILS(gmoe_meter_begin(meter, "part"), GMOE_INVALID_ARGUMENT, "\"part\" is open already");
  wait_seconds(0.3);
  OK(gmoe_meter_end(meter, "part", 1, &part));
  OK(gmoe_meter_begin(meter, "rest"));
  wait_seconds(0.4);
  OK(gmoe_meter_end(meter, "rest", 0, &rest));
  CHECK(!rest.settled);
  OK(gmoe_meter_end(meter, "whole", 1, &whole));
  CHECK(whole.settled && whole.source == GMOE_SOURCE_NVML_COUNTER && whole.quality == GMOE_QUALITY_MEASURED);
  CHECK(whole.low_resolution && !whole.incomplete);
  CHECK(part.joules > 0 && rest.joules > 0 && whole.joules > part.joules);
  CHECK(fabs(whole.joules - 400 * whole.seconds) <= whole.uncertainty_joules + 1e-9);
  CHECK(fabs(part.joules - 400 * part.seconds) <= part.uncertainty_joules + 1e-9);
  FAILS(gmoe_meter_end(meter, "whole", 0, &whole), GMOE_INVALID_ARGUMENT, "name: \"whole\" is not open");
  FAILS(gmoe_meter_end(meter, "whole", -1, &whole), GMOE_INVALID_ARGUMENT, "wait_seconds: -1");
  FAILS(gmoe_meter_end(meter, "whole", NAN, &whole), GMOE_INVALID_ARGUMENT, "wait_seconds");
  FAILS(gmoe_meter_begin(meter, "\xff"), GMOE_INVALID_ARGUMENT, "name: \"\\xff\" is not UTF-8");
  whole.struct_size = 8;
  FAILS(gmoe_meter_end(meter, "whole", 0, &whole), GMOE_INVALID_ARGUMENT, "out: struct_size 8");
}

static void record(gmoe_meter *meter, const char *path, const char *csv) {
  gmoe_recorder_options options = GMOE_RECORDER_OPTIONS_INIT;
  gmoe_recorder *recorder;
  size_t needed;
  options.meter = meter;
  options.path = path;
  options.run = "{\"name\": \"c\", \"layers\": [{\"layer\": 0, \"experts\": 2, \"top_k\": 1}]}";
  options.calibration = "{\"joules_per_flop\": 1e-9, \"idle_watts\": 50}";
  OK(gmoe_recorder_create(&options, &recorder));
  wait_seconds(0.2);
  OK(gmoe_recorder_log(recorder,
                       "{\"kind\": \"step\", \"step\": 1, \"tokens\": 100, \"layers\": [{\"layer\": 0, "
                       "\"tokens\": [60, 40], \"flops\": [600, 400], \"bytes\": [6, 4]}]}"));
  FAILS(gmoe_recorder_log(recorder, "{"), GMOE_INVALID_ARGUMENT, "line: ");
  FAILS(gmoe_recorder_log(recorder, "{\"kind\": \"run\", \"schema\": 1}"), GMOE_INVALID_ARGUMENT, "kind \"run\"");
  OK(gmoe_recorder_mark(recorder));
  OK(gmoe_recorder_flush(recorder));
  OK(gmoe_recorder_metrics(recorder, text, sizeof text, &needed));
  CHECK(needed == strlen(text) + 1);
  CHECK(strstr(text,
               "genesis_moe_energy_joules_total{device=\"gpu1\",domain=\"gpu\",quality=\"measured\",source=\"nvml_"
               "counter\"}") != NULL);
  CHECK(strstr(text, "genesis_moe_expert_energy_joules_total{expert=\"1\",layer=\"0\",quality=\"modelled\"}") != NULL);
  OK(gmoe_recorder_destroy(recorder));
  FAILS(gmoe_recorder_destroy(recorder), GMOE_INVALID_HANDLE, "recorder");
  FAILS(gmoe_recorder_create(&options, &recorder), GMOE_INVALID_ARGUMENT, "never overwritten");
  options.path = NULL;
  options.calibration = "{\"price\": 1}";
  FAILS(gmoe_recorder_create(&options, &recorder), GMOE_INVALID_ARGUMENT, "calibration: json: unknown field");
  options.meter = (gmoe_meter *)&needed;
  FAILS(gmoe_recorder_create(&options, &recorder), GMOE_INVALID_HANDLE, "meter");
  OK(gmoe_record_csv(path, csv));
  FAILS(gmoe_record_csv("/no/such", csv), GMOE_INVALID_ARGUMENT, "path: ");
}

int main(int argc, char **argv) {
  gmoe_meter_options options = GMOE_METER_OPTIONS_INIT;
  gmoe_meter *meter;
  CHECK(argc == 3);
  OK(gmoe_meter_create(NULL, &meter));
  OK(gmoe_meter_describe(meter, text, sizeof text, NULL));
  CHECK(strstr(text, "\"source\":\"nvml_counter\"") != NULL && strstr(text, "\"limit_watts\":700") != NULL);
  windows(meter);
  record(meter, argv[1], argv[2]);
  OK(gmoe_meter_destroy(meter));
  FAILS(gmoe_meter_destroy(meter), GMOE_INVALID_HANDLE, "meter");
  options.source = 99;
  FAILS(gmoe_meter_create(&options, &meter), GMOE_INVALID_ARGUMENT, "source: 99");
  options.source = GMOE_SOURCE_REPLAY;
  options.replay_path = "/no/such";
  FAILS(gmoe_meter_create(&options, &meter), GMOE_INVALID_ARGUMENT, "replay_path");
  options.source = GMOE_SOURCE_RAPL;
  options.sysfs_root = "/no/such";
  FAILS(gmoe_meter_create(&options, &meter), GMOE_NO_DEVICE, "rapl");
  options.source = GMOE_SOURCE_NVML_COUNTER;
  options.devices = "GPU-fake-1, 0";
  options.poll_seconds = 5;
  FAILS(gmoe_meter_create(&options, &meter), GMOE_INVALID_ARGUMENT, "poll_seconds: 5");
  options.poll_seconds = 0.01;
  OK(gmoe_meter_create(&options, &meter));
  OK(gmoe_meter_destroy(meter));
  options.devices = "2";
  FAILS(gmoe_meter_create(&options, &meter), GMOE_NO_DEVICE, "device 2");
  return 0;
}
