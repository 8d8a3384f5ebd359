/* quant_layout.c - the table. See quant_layout.h. */
#include "checkpoint/quant_layout.h"

#include <stdio.h>

#define BIT(d) (1u << FQ_DTYPE_##d)
#define WORDS BIT(I32)
#define FLOATS (BIT(F16) | BIT(BF16) | BIT(F32))
#define N(unit) { FQI_ALONG_N, FQI_UNIT_##unit }
#define K(unit) { FQI_ALONG_K, FQI_UNIT_##unit }
#define LENGTH(n) { FQI_ALONG_NONE, n }
#define BITS(b) (1u << (b))

/* Columns 8 c .. 8 c + 7 are nibbles 0 4 1 5 2 6 3 7 of word c (AutoAWQ utils/packing_utils.py, AWQ_REVERSE_ORDER). */
static const uint8_t awq_field[] = { 0, 4, 1, 5, 2, 6, 3, 7 };

#define FP8_CODES { ".weight", BIT(F8_E4M3), FQI_PART_MUST, 2, { N(ELEMENT), K(ELEMENT) } }
#define FP8_INPUT { ".input_scale", FLOATS, FQI_PART_MAY, 1, { LENGTH(1) } }
#define FP8(label, ...) { .name = label, .floats = true, .bits = BITS(8), \
                          .part = { [FQI_PART_CODES] = FP8_CODES, [FQI_PART_SCALE] = __VA_ARGS__, [FQI_PART_INPUT] = FP8_INPUT } }

static const fqi_quant_form forms[FQI_N_QL] = {
    [FQI_QL_GPTQ] = { .name = "gptq", .bits = BITS(2) | BITS(3) | BITS(4) | BITS(8), .part = {
        [FQI_PART_CODES] = { ".qweight", WORDS, FQI_PART_MUST, 2, { K(WORD), N(ELEMENT) } },
        [FQI_PART_SCALE] = { ".scales", FLOATS, FQI_PART_MUST, 2, { K(GROUP), N(ELEMENT) } },
        [FQI_PART_ZERO] = { ".qzeros", WORDS, FQI_PART_MUST, 2, { K(GROUP), N(WORD) } },
        [FQI_PART_ORDER] = { ".g_idx", WORDS, FQI_PART_IF_ORDER, 1, { K(ELEMENT) } } } },
    [FQI_QL_AWQ] = { .name = "awq (gemm)", .bits = BITS(4), .field = awq_field, .part = {
        [FQI_PART_CODES] = { ".qweight", WORDS, FQI_PART_MUST, 2, { K(ELEMENT), N(WORD) } },
        [FQI_PART_SCALE] = { ".scales", FLOATS, FQI_PART_MUST, 2, { K(GROUP), N(ELEMENT) } },
        [FQI_PART_ZERO] = { ".qzeros", WORDS, FQI_PART_MUST, 2, { K(GROUP), N(WORD) } } } },
    [FQI_QL_CT] = { .name = "compressed-tensors (pack-quantized)", .bits = BITS(2) | BITS(3) | BITS(4) | BITS(8), .part = {
        [FQI_PART_CODES] = { ".weight_packed", WORDS, FQI_PART_MUST, 2, { N(ELEMENT), K(WORD) } },
        [FQI_PART_SCALE] = { ".weight_scale", FLOATS, FQI_PART_MUST, 2, { N(ELEMENT), K(GROUP) } },
        [FQI_PART_ZERO] = { ".weight_zero_point", WORDS, FQI_PART_IF_ASYM, 2, { N(WORD), K(GROUP) } },
        [FQI_PART_ORDER] = { ".weight_g_idx", WORDS, FQI_PART_IF_ORDER, 1, { K(ELEMENT) } },
        [FQI_PART_SHAPE] = { ".weight_shape", BIT(I64) | BIT(I32), FQI_PART_MUST, 1, { LENGTH(2) } } } },
    [FQI_QL_FP8_BLOCK] = FP8("fp8 (blocks)", { ".weight_scale_inv", FLOATS, FQI_PART_MUST, 2, { N(GROUP), K(GROUP) } }),
    [FQI_QL_FP8_TENSOR] = FP8("fp8 (a scale for each tensor)", { ".weight_scale", FLOATS, FQI_PART_MUST, 1, { LENGTH(1) } }),
    [FQI_QL_CT_FLOAT_BLOCK] = FP8("compressed-tensors (float-quantized, blocks)", { ".weight_scale", FLOATS, FQI_PART_MUST, 2, { N(GROUP), K(GROUP) } }),
    [FQI_QL_CT_FLOAT_CHANNEL] = FP8("compressed-tensors (float-quantized, channels)", { ".weight_scale", FLOATS, FQI_PART_MUST, 2, { N(ELEMENT), LENGTH(1) } }),
    [FQI_QL_CT_FLOAT_TENSOR] = FP8("compressed-tensors (float-quantized, a scale for each tensor)", { ".weight_scale", FLOATS, FQI_PART_MUST, 1, { LENGTH(1) } }),
};

const fqi_quant_form *fqi_quant_form_of(fqi_quant_layout layout) { return &forms[layout]; }

int64_t fqi_part_count(fqi_part_dim d, const fqi_quant_size *s, int64_t n)
{
    if (d.along == FQI_ALONG_NONE) return d.unit;
    switch ((fqi_unit)d.unit) {
    case FQI_UNIT_WORD: return fqi_quant_words(n, s->bits);
    case FQI_UNIT_GROUP: {
        const int64_t group = d.along == FQI_ALONG_N ? s->group_rows : s->group_cols;
        return n / group + (n % group != 0);
    }
    case FQI_UNIT_ELEMENT: break;
    }
    return n;
}

int64_t fqi_part_length(fqi_part_dim d, const fqi_quant_size *s) { return fqi_part_count(d, s, d.along == FQI_ALONG_N ? s->rows : s->cols); }

bool fqi_part_has(const fqi_part_form *p, fqi_along along, fqi_unit unit)
{
    for (int d = 0; d < p->rank; d++)
        if (p->dim[d].along == along && p->dim[d].unit == unit) return true;
    return false;
}

bool fqi_part_is_scalar(const fqi_part_form *p) { return p->rank == 1 && p->dim[0].along == FQI_ALONG_NONE && p->dim[0].unit == 1; }

void fqi_part_words(const fqi_part_form *p, char *out, size_t n)
{
    static const char *const word[3][3] = {
        [FQI_ALONG_N] = { "output channels", "output channels, packed", "blocks of output channels" },
        [FQI_ALONG_K] = { "input channels", "input channels, packed", "groups" },
    };
    size_t at = 0;
    out[0] = '\0';
    for (int d = 0; d < p->rank && at < n; d++) {
        const fqi_part_dim *x = &p->dim[d];
        const bool packed = d > 0 && p->dim[d - 1].along != FQI_ALONG_NONE && p->dim[d - 1].unit == FQI_UNIT_WORD;
        const char *join = d == 0 ? "" : packed ? ", x " : " x ";
        const int k = x->along == FQI_ALONG_NONE ? snprintf(out + at, n - at, "%s%s", join, x->unit == 1 ? "one" : "rows and columns") : snprintf(out + at, n - at, "%s%s", join, word[x->along][x->unit]);
        at += k > 0 ? (size_t)k : 0;
    }
}
