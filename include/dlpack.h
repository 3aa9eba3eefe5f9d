/* The part of the DLPack ABI (version 1.x) that genesis-moe borrows: DLTensor and
 * the types it is made of. Field order, widths and enum values are the ones that
 * the DLPack specification fixes, so tensors of any framework pass unchanged.
 * When the official dlpack.h was included first, its definitions are used.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef DLPACK_DLPACK_H_
#define DLPACK_DLPACK_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where the memory lives. genesis-moe accepts kDLCPU and kDLCUDA. */
typedef enum {
  kDLCPU = 1,
  kDLCUDA = 2,
  kDLCUDAHost = 3
} DLDeviceType;

typedef struct {
  int32_t device_type; /* a DLDeviceType */
  int32_t device_id;
} DLDevice;

/* What an element is. genesis-moe accepts float 32/64, bfloat 16, int 32/64,
 * and float8_e4m3fn in experts' weights for inference. */
typedef enum {
  kDLInt = 0U,
  kDLUInt = 1U,
  kDLFloat = 2U,
  kDLBfloat = 4U,
  kDLFloat8_e4m3fn = 10U
} DLDataTypeCode;

typedef struct {
  uint8_t code; /* a DLDataTypeCode */
  uint8_t bits;
  uint16_t lanes; /* always 1 here */
} DLDataType;

/* A borrowed strided view. Element i0,i1,... is at
 * (char *)data + byte_offset + (i0*strides[0] + i1*strides[1] + ...) * bits/8.
 * strides counts elements; NULL means compact row-major. */
typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} DLTensor;

#ifdef __cplusplus
}
#endif
#endif /* DLPACK_DLPACK_H_ */
