/* dtype.c - names and sizes of the element types. The order is the rank order of safetensors (safetensors/src/tensor.rs). */
#include "fitq.h"

static const struct { const char *name; unsigned bits; } dtype[FQ_N_DTYPE] = {
    [FQ_DTYPE_BOOL] = { "BOOL", 8 },
    [FQ_DTYPE_F4] = { "F4", 4 },
    [FQ_DTYPE_F6_E2M3] = { "F6_E2M3", 6 },
    [FQ_DTYPE_F6_E3M2] = { "F6_E3M2", 6 },
    [FQ_DTYPE_U8] = { "U8", 8 },
    [FQ_DTYPE_I8] = { "I8", 8 },
    [FQ_DTYPE_F8_E5M2] = { "F8_E5M2", 8 },
    [FQ_DTYPE_F8_E4M3] = { "F8_E4M3", 8 },
    [FQ_DTYPE_F8_E8M0] = { "F8_E8M0", 8 },
    [FQ_DTYPE_F8_E4M3FNUZ] = { "F8_E4M3FNUZ", 8 },
    [FQ_DTYPE_F8_E5M2FNUZ] = { "F8_E5M2FNUZ", 8 },
    [FQ_DTYPE_I16] = { "I16", 16 },
    [FQ_DTYPE_U16] = { "U16", 16 },
    [FQ_DTYPE_F16] = { "F16", 16 },
    [FQ_DTYPE_BF16] = { "BF16", 16 },
    [FQ_DTYPE_I32] = { "I32", 32 },
    [FQ_DTYPE_U32] = { "U32", 32 },
    [FQ_DTYPE_F32] = { "F32", 32 },
    [FQ_DTYPE_C64] = { "C64", 64 },
    [FQ_DTYPE_F64] = { "F64", 64 },
    [FQ_DTYPE_I64] = { "I64", 64 },
    [FQ_DTYPE_U64] = { "U64", 64 },
};

const char *fq_dtype_name(fq_dtype d) { return (unsigned)d < FQ_N_DTYPE ? dtype[d].name : "?"; }

unsigned fq_dtype_bits(fq_dtype d) { return (unsigned)d < FQ_N_DTYPE ? dtype[d].bits : 0; }
