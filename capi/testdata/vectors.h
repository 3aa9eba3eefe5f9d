/* The cases of testdata/vectors as C data. The test writes vectors_data.h from the JSON:
 * arrays router_cases, experts_cases, update_cases, report_cases, clans_cases, e4m3_cases and refused_cases. */
#ifndef VECTORS_H_
#define VECTORS_H_

#include <stddef.h>
#include <stdint.h>

struct vector_number {
  const char *name;
  double value;
};

struct vector_tensor {
  const char *name;
  char dtype; /* i int32, l int64, d float64, f float32, e float8_e4m3fn; 0: floating, as the case is run in */
  int32_t ndim;
  int64_t shape[4];
  size_t elements;
  const double *values; /* NULL: only the shape is given */
};

/* Each list ends with an entry without a name. */
struct vector_case {
  const char *name, *operation;
  struct vector_number options[16], numbers[20];
  struct vector_tensor inputs[16], outputs[8], grad_outputs[4], grad_inputs[8];
  double price_out_tolerance;
  int32_t status;
  const char *names;
};

#endif /* VECTORS_H_ */
