/* Parameters of the ledger's kernel; ../ledger.go mirrors them. */
#ifndef GMOE_LEDGER_PARAMS_H_
#define GMOE_LEDGER_PARAMS_H_

#include <stdint.h>

typedef struct {
  const void *index; /* [T, K] int32 or int64, strides in elements; what is no expert is absent */
  int64_t token_stride, slot_stride;
  int64_t tokens;
  unsigned long long *work;                                 /* [E, 3]: rows, FLOPs and bytes, added to */
  unsigned long long rows, flops, bytes, once;              /* of each row; once: bytes of an expert with any */
  const int32_t *totals; /* [E]: rows of each expert, where a plan has counted them */
  int32_t slots, experts, narrow /* index is int32 */, pad; /* no compiler pads */
} LedgerParams;

#endif
