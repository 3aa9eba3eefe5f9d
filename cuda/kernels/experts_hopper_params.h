/* Parameters of the experts' kernels for Hopper, and what their launches must know;
 * ../experts_hopper_params.go mirrors them. Every size is a multiple of 8 elements (of 128 in float8_e4m3fn), every
 * address and stride one of 16 bytes. */
#ifndef GMOE_EXPERTS_HOPPER_PARAMS_H_
#define GMOE_EXPERTS_HOPPER_PARAMS_H_

#include "experts_params.h"
#include "hopper_map.h"

/* Stages of a ring for tiles of 128 rows and so many columns: at most 200 KiB of the 227 that a block can have. */
#define HOPPER_STAGES(columns) ((columns) == 256 ? 4 : (columns) == 192 ? 5 : 6)
/* Its dynamic shared memory: the tiles, two barriers a stage and one for each multiplying warpgroup, and room
 * to begin at a multiple of 1024. */
#define HOPPER_SHARED_BYTES(columns) (HOPPER_STAGES(columns) * ((128 + (columns)) * 128 + 16) + 16 + 1024)
/* Columns of weights that lie along the depth which the accelerator copies at a time. */
#define HOPPER_BOX(columns) ((columns) == 192 ? 96 : 64)

/* In float8_e4m3fn tiles have 256 columns, and a stage has the scales of its rows and columns too. */
#define HOPPER_SCALE_BYTES 1024
#define HOPPER_SCALED_SHARED_BYTES (HOPPER_SHARED_BYTES(256) + HOPPER_STAGES(256) * HOPPER_SCALE_BYTES)

/* Of a thread, of the 65536 that a multiprocessor has: 128 threads fill, 256 multiply. Tiles of 192 columns
 * are filled by one thread, which gathers nothing. */
#define HOPPER_PRODUCER_REGISTERS(columns) ((columns) == 192 ? 40 : 56)
#define HOPPER_CONSUMER_REGISTERS(columns) ((columns) == 192 ? 232 : 224)

typedef struct {
  HopperMap rows_map, weights_map; /* rows_map: of sorted rows only */
  ExpertsGateUpParams of;
  ExpertsMatrix h_scale; /* of an h in float8_e4m3fn: [rows, ceil(I / 128)] float */
} HopperGateUpParams;

typedef struct {
  HopperMap rows_map, weights_map;
  ExpertsProjectParams of;
} HopperProjectParams;

typedef struct {
  HopperMap rows_map, weights_map;
  ExpertsActivationGradientParams of;
} HopperActivationGradientParams;

#endif
