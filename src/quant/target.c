/* target.c - the shifted target (target.h): a product with C and two triangular solves, a tile of rows at a time. */
#include "quant/target.h"

#include <omp.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/mem.h"

#define ROWS 128                  /* of a tile */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

typedef struct shift {
    const float *w, *c, *l;
    const uint32_t *order;
    size_t n_row, n_col;
    float a, *out;
} shift;

/* x, y: [ROWS][n_col]. y: columns by position, as rows of L. */
static void shift_rows(const fqi_blas *blas, const shift *s, size_t row, float *x, float *y)
{
    const size_t n = s->n_col, m = least(ROWS, s->n_row - row);
    const blasint rows = (blasint)m, cols = (blasint)n;
    blas->sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, cols, cols, 1.0f, s->w + row * n, cols, s->c, cols, 0.0f, x, cols);
    for (size_t r = 0; r < m; r++)
        for (size_t i = 0; i < n; i++) y[r * n + i] = x[r * n + s->order[i]];
    blas->strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, rows, cols, 1.0f, s->l, cols, y, cols);
    blas->strsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, rows, cols, 1.0f, s->l, cols, y, cols);
    for (size_t r = 0; r < m; r++)
        for (size_t i = 0; i < n; i++) {
            const size_t at = (row + r) * n + s->order[i];
            s->out[at] = s->w[at] + s->a * y[r * n + i];
        }
}

uint64_t fqi_shift_target_bytes(size_t n_col, int n_thread)
{
    return fqi_sat_mul(fqi_sat_mul(n_col, 2 * ROWS * sizeof(float)), (uint64_t)n_thread);
}

fq_status fqi_shift_target(const fqi_linalg *la, const float *w, size_t n_row, size_t n_col, const float *c, const float *l, const uint32_t *order, double a,
                           float *out, fq_err *e)
{
    const shift s = { w, c, l, order, n_row, n_col, (float)a, out };
    float *scratch = fqi_calloc((size_t)la->n_thread * 2 * ROWS, n_col * sizeof *scratch);
    if (!scratch) return fqi_fail_nomem(e, "shifted weights");
#pragma omp parallel num_threads(la->n_thread)
    {
        float *x = scratch + (size_t)omp_get_thread_num() * 2 * ROWS * n_col;
        omp_set_num_threads(1);   /* of this task only: see kernel/linear.c */
#pragma omp for schedule(dynamic)
        for (size_t row = 0; row < n_row; row += ROWS) shift_rows(la->blas, &s, row, x, x + ROWS * n_col);
    }
    free(scratch);
    return FQ_OK;
}
