/* codes.c - one quantized matrix in memory (gptq.h), and the numbers that it stands for. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "quant/gptq.h"

#define WIDEN_ROWS 64
#define WIDEN_COLS 16             /* floats: one cache line of every row at a time */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

uint64_t fqi_codes_bytes(size_t n_row, size_t n_col, size_t n_group)
{
    const uint64_t scales = fqi_sat_mul(fqi_sat_mul(n_group, n_row), sizeof(float) + 1);
    return fqi_sat_add(fqi_sat_add(fqi_sat_mul(n_row, n_col), scales), fqi_sat_mul(n_col, sizeof(uint32_t)));
}

fq_status fqi_codes_create(int bits, size_t n_row, const fqi_columns *columns, fqi_codes *out, fq_err *e)
{
    fqi_codes c = { .bits = bits, .n_row = n_row, .n_col = columns->n_col, .n_group = columns->n_group };
    size_t n_scale = 0;
    const bool counts = fqi_mul_size(c.n_group, n_row, &n_scale);
    c.code = fqi_calloc(c.n_col, n_row);
    c.scale = counts ? fqi_calloc(n_scale, sizeof *c.scale) : NULL;
    c.zero = counts ? fqi_calloc(n_scale, 1) : NULL;
    c.group_of = fqi_calloc(c.n_col, sizeof *c.group_of);
    if (!c.code || !c.scale || !c.zero || !c.group_of) {
        fqi_codes_free(&c);
        return fqi_fail_nomem(e, "codes of a matrix");
    }
    for (size_t i = 0; i < n_scale; i++) c.scale[i] = 1;
    memset(c.zero, 1 << (bits - 1), n_scale);
    for (size_t k = 0; k < c.n_col; k++) c.group_of[k] = (uint32_t)(columns->slot_of[k] / columns->group_size);
    *out = c;
    return FQ_OK;
}

void fqi_codes_free(fqi_codes *c)
{
    if (!c) return;
    free(c->code);
    free(c->scale);
    free(c->zero);
    free(c->group_of);
    *c = (fqi_codes){ 0 };
}

static void widen_rows(const fqi_codes *c, size_t row, float *out)
{
    const size_t n = least(WIDEN_ROWS, c->n_row - row);
    for (size_t k0 = 0; k0 < c->n_col; k0 += WIDEN_COLS)
        for (size_t k = k0; k < c->n_col && k < k0 + WIDEN_COLS; k++) {
            const uint8_t *code = c->code + k * c->n_row + row, *zero = c->zero + c->group_of[k] * c->n_row + row;
            const float *scale = c->scale + c->group_of[k] * c->n_row + row;
            for (size_t r = 0; r < n; r++) out[(row + r) * c->n_col + k] = scale[r] * (float)(code[r] - zero[r]);
        }
}

void fqi_codes_widen(const fqi_codes *c, int n_thread, float *out)
{
#pragma omp parallel for num_threads(n_thread) schedule(dynamic)
    for (size_t row = 0; row < c->n_row; row += WIDEN_ROWS) widen_rows(c, row, out);
}
