/* hessian.c - second moments of the inputs of a layer, summed tile by tile (see hessian.h). The factor is in cholesky.c.
 *
 * A tile is one BLAS call on one thread: all rows of the call, SIDE columns by SIDE columns. Which thread does which tile changes
 * nothing. The product of a call is made alone and then added, so that another rank may make it, and the sum has the same bits. Nothing is refused here: a number that is not finite stays one and fails in the factorization, with its column. */
#include "quant/hessian.h"

#include <omp.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/mem.h"

#define SIDE_SMALL 256
#define SIDE_LARGE 512        /* from LARGE columns: packing costs half as much, and there are tiles enough for every thread */
#define LARGE 3072
#define CROSS_ROWS 256        /* of one product of fqi_cross_add: 256 KiB of differences on the stack */
#define CROSS_COLS 256
#define CROSS_WIDE 512        /* columns of y of one product */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

uint64_t fqi_hessian_bytes(size_t n)
{
    return fqi_sat_mul(fqi_sat_mul(n, n), sizeof(float));
}

fq_status fqi_hessian_create(size_t n, fqi_hessian *out, fq_err *e)
{
    size_t count;
    *out = (fqi_hessian){ .n = n };
    out->h = fqi_mul_size(n, n, &count) ? fqi_calloc(count, sizeof *out->h) : NULL;
    return out->h ? FQ_OK : fqi_fail_nomem(e, "Hessian");
}

void fqi_hessian_free(fqi_hessian *h)
{
    if (!h) return;
    free(h->h);
    *h = (fqi_hessian){ 0 };
}

/* Tile t of a lower triangle, row by row of tiles: 0; 1 2; 3 4 5; ... */
static void tile_of(size_t t, size_t *row, size_t *col)
{
    size_t r = 0;
    while ((r + 1) * (r + 2) / 2 <= t) r++;
    *row = r;
    *col = t - r * (r + 1) / 2;
}

/* to += from, m rows; lower: of the lower triangle alone. */
static void add_tile(float *to, size_t ld, const float *from, size_t m, size_t n, bool lower)
{
    for (size_t i = 0; i < m; i++) {
        const size_t end = lower ? least(i + 1, n) : n;
        float *a = to + i * ld;
        const float *b = from + i * n;
        for (size_t k = 0; k < end; k++) a[k] += b[k];
    }
}

void fqi_hessian_add(const fqi_linalg *la, fqi_hessian *h, const float *x, size_t n_row, size_t ld)
{
    const size_t n = h->n, side = n < LARGE ? SIDE_SMALL : SIDE_LARGE, across = (n + side - 1) / side, n_tile = across * (across + 1) / 2;
    if (n_row == 0 || n == 0) return;
#pragma omp parallel num_threads(la->n_thread)
    {
        omp_set_num_threads(1);   /* of this task only: see kernel/linear.c */
#pragma omp for schedule(dynamic)
        for (size_t t = 0; t < n_tile; t++) {
            size_t r, c;
            tile_of(n_tile - 1 - t, &r, &c);   /* whole tiles last: the short ones of the edge are the first */
            const size_t rows = least(side, n - r * side), cols = r == c ? rows : side;
            const blasint m = (blasint)rows, w = (blasint)cols, k = (blasint)n_row, lda = (blasint)ld;
            float tile[SIDE_LARGE * SIDE_LARGE];   /* a megabyte; of it touched is what is used */
            if (r == c)
                la->blas->ssyrk(CblasRowMajor, CblasLower, CblasTrans, m, k, 1.0f, x + r * side, lda, 0.0f, tile, w);
            else
                la->blas->sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, w, k, 1.0f, x + r * side, lda, x + c * side, lda, 0.0f, tile, w);
            add_tile(h->h + r * side * n + c * side, n, tile, rows, cols, r == c);
        }
    }
    h->n_token += n_row;
}

typedef struct cross { float *c; size_t m, n; const float *a, *b, *y; size_t n_row; } cross;

/* Rows [i0, i0 + m), columns [j0, j0 + w) of C. */
static void cross_tile(const fqi_linalg *la, const cross *s, size_t i0, size_t j0)
{
    float d[CROSS_ROWS * CROSS_COLS], tile[CROSS_COLS * CROSS_WIDE];
    const size_t m = least(CROSS_COLS, s->m - i0), w = least(CROSS_WIDE, s->n - j0);
    for (size_t t0 = 0; t0 < s->n_row; t0 += CROSS_ROWS) {
        const size_t k = least(CROSS_ROWS, s->n_row - t0);
        for (size_t t = 0; t < k; t++)
            for (size_t i = 0; i < m; i++) d[t * CROSS_COLS + i] = s->a[(t0 + t) * s->m + i0 + i] - s->b[(t0 + t) * s->m + i0 + i];
        la->blas->sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)m, (blasint)w, (blasint)k, 1.0f, d, CROSS_COLS, s->y + t0 * s->n + j0, (blasint)s->n,
                        t0 == 0 ? 0.0f : 1.0f, tile, (blasint)w);
    }
    add_tile(s->c + i0 * s->n + j0, s->n, tile, m, w, false);
}

void fqi_cross_add(const fqi_linalg *la, float *c, size_t m, size_t n, const float *a, const float *b, const float *y, size_t n_row)
{
    const cross s = { c, m, n, a, b, y, n_row };
    if (n == 0 || n_row == 0) return;
#pragma omp parallel num_threads(la->n_thread)
    {
        omp_set_num_threads(1);
#pragma omp for schedule(dynamic) collapse(2)
        for (size_t i = 0; i < m; i += CROSS_COLS)
            for (size_t j = 0; j < n; j += CROSS_WIDE) cross_tile(la, &s, i, j);
    }
}
