/* Parameters of the kernels that make float8_e4m3fn; ../experts_quantize_params.go mirrors them. */
#ifndef GMOE_EXPERTS_QUANTIZE_PARAMS_H_
#define GMOE_EXPERTS_QUANTIZE_PARAMS_H_

#include "experts_params.h"

/* Rows with a scale for each 128 neighbouring columns. */
typedef struct {
  ExpertsMatrix source;    /* [rows, columns] */
  ExpertsMatrix quantized; /* the same; rows begin at multiples of 4 bytes, elements follow one another */
  ExpertsMatrix scale;     /* [rows, ceil(columns / 128)] float */
  const int32_t *count;    /* with it, only so many rows are there */
  int32_t rows, columns;
  int32_t vector;          /* four elements of the source can be read at a time */
  int32_t reserved;
} QuantizeRowsParams;

/* Weights with a scale for each 128 x 128 of them. */
typedef struct {
  ExpertsStack source, quantized; /* [E, rows, columns] */
  ExpertsStack scale;             /* [E, ceil(rows / 128), ceil(columns / 128)] float */
  int32_t experts, rows, columns;
  int32_t source_vector, quantized_vector; /* four neighbours in a row can be read, and written, at a time */
  int32_t reserved;
} QuantizeWeightsParams;

#endif
