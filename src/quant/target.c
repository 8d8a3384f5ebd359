/* target.c - the shifted target (target.h): a product with a moment and two triangular solves, a tile of rows at a time. */
#include "quant/target.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

#define ROWS 128                  /* of a tile */
#define NOISE 4.0

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

typedef struct task {
    const fqi_shift *s;
    const float *w;
    size_t n_row, n_col;
    float *out;
} task;

/* x = M, m rows of it. */
static void step_of_rows(const fqi_blas *blas, const task *t, size_t row, size_t m, float *x)
{
    const size_t n = t->n_col;
    const blasint rows = (blasint)m, cols = (blasint)n;
    const float *w = t->w + row * n;
    if (t->s->drift == FQI_DRIFT_INPUT) {
        blas->sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, cols, cols, 1.0f, w, cols, t->s->moment, cols, 0.0f, x, cols);
        return;
    }
    memcpy(x, t->s->moment + row * n, m * n * sizeof *x);
    blas->ssymm(CblasRowMajor, CblasRight, CblasLower, rows, cols, -1.0f, t->s->h, cols, w, cols, 1.0f, x, cols);
}

static bool is_empty(const float *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (w[i] != 0) return false;
    return true;
}

/* x, y: [ROWS][n_col]. y: columns by position, as rows of L. */
static void shift_rows(const fqi_blas *blas, const task *t, size_t row, float *x, float *y)
{
    const size_t n = t->n_col, m = least(ROWS, t->n_row - row);
    const uint32_t *order = t->s->order;
    const blasint rows = (blasint)m, cols = (blasint)n;
    step_of_rows(blas, t, row, m, x);
    for (size_t r = 0; r < m; r++)
        for (size_t i = 0; i < n; i++) y[r * n + i] = x[r * n + order[i]];
    blas->strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, rows, cols, 1.0f, t->s->l, cols, y, cols);
    blas->strsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, rows, cols, 1.0f, t->s->l, cols, y, cols);
    for (size_t r = 0; r < m; r++) {
        const float a = is_empty(t->w + (row + r) * n, n) ? 0 : (float)t->s->a;
        for (size_t i = 0; i < n; i++) {
            const size_t at = (row + r) * n + order[i];
            t->out[at] = t->w[at] + a * y[r * n + i];
        }
    }
}

double fqi_shift_share(double most, uint64_t n_token, size_t n_col)
{
    return n_token == 0 ? 0 : most / (1 + NOISE * (double)n_col / (double)n_token);
}

uint64_t fqi_shift_target_bytes(size_t n_col, int n_thread)
{
    return fqi_sat_mul(fqi_sat_mul(n_col, 2 * ROWS * sizeof(float)), (uint64_t)n_thread);
}

fq_status fqi_shift_target(const fqi_linalg *la, const fqi_shift *shift, const float *w, size_t n_row, size_t n_col, float *out, fq_err *e)
{
    const task t = { shift, w, n_row, n_col, out };
    const size_t begin = shift->n ? shift->first / ROWS * ROWS : 0, end = shift->n ? least(shift->first + shift->n, n_row) : n_row;
    float *scratch = fqi_calloc((size_t)la->n_thread * 2 * ROWS, n_col * sizeof *scratch);
    if (!scratch) return fqi_fail_nomem(e, "shifted weights");
#pragma omp parallel num_threads(la->n_thread)
    {
        float *x = scratch + (size_t)omp_get_thread_num() * 2 * ROWS * n_col;
        omp_set_num_threads(1);   /* of this task only: see kernel/linear.c */
#pragma omp for schedule(dynamic)
        for (size_t row = begin; row < end; row += ROWS) shift_rows(la->blas, &t, row, x, x + ROWS * n_col);
    }
    free(scratch);
    return FQ_OK;
}
