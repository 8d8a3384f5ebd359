/* cholesky.c - the factor of a damped second moment in any order of its columns (see hessian.h).
 *
 *     for each block column:   L21 = A21 L11^-T      tiles dealt to threads
 *                              A22 -= L21 L21^T      tiles dealt to threads; the first one is the next diagonal, factored at once, so
 *                                                    that nobody waits for it
 *
 * The matrix is put in order by rows of the source: a column of a lower triangle is fetched eight at a time, one cache line each. */
#include "quant/hessian.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define BLOCK 256
#define LEAF 32               /* of the factorization of one diagonal block: below it plain loops */
#define FETCH 8               /* columns fetched together */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

typedef struct factor {
    const fqi_linalg *la;
    float *l;
    size_t n, block;
    size_t bad;               /* row of the first pivot that fails; n = none */
    float pivot;
} factor;

/* ---- P H P^T + lambda ------------------------------------------------------------------------------------------------- */

typedef struct gather {
    const fqi_hessian *h;
    const uint32_t *order;
    uint32_t *place;          /* inverse of order */
    float *line;              /* [n_thread][FETCH][n] */
    double lambda;
} gather;

static double mean_diag(const fqi_hessian *h)
{
    double sum = 0;
    for (size_t i = 0; i < h->n; i++) {
        const float d = h->h[i * h->n + i];
        sum += d == 0 ? 1.0 : (double)d;
    }
    return h->n ? sum / (double)h->n : 0;
}

/* Columns [c0, c0 + m) of the whole symmetric matrix. */
static void fetch(const fqi_hessian *h, size_t c0, size_t m, float *line)
{
    const size_t n = h->n;
    for (size_t a = 0; a < m; a++) {
        const size_t c = c0 + a;
        memcpy(line + a * n, h->h + c * n, (c + 1) * sizeof *line);
        for (size_t q = c + 1; q < c0 + m; q++) line[a * n + q] = h->h[q * n + c];
    }
    for (size_t q = c0 + m; q < n; q++)
        for (size_t a = 0; a < m; a++) line[a * n + q] = h->h[q * n + c0 + a];
}

static void place_rows(const gather *g, size_t c0, float *line, float *l)
{
    const size_t n = g->h->n, m = least(FETCH, n - c0);
    fetch(g->h, c0, m, line);
    for (size_t a = 0; a < m; a++) {
        const size_t p = g->place[c0 + a];
        const float *from = line + a * n;
        float *to = l + p * n, d = from[c0 + a];
        for (size_t j = 0; j < p; j++) to[j] = from[g->order[j]];
        to[p] = (float)((d == 0 ? 1.0 : (double)d) + g->lambda);
    }
}

static fq_status gather_create(const fqi_linalg *la, const fqi_hessian *h, const uint32_t *order, double damp, gather *g, fq_err *e)
{
    *g = (gather){ .h = h, .order = order, .lambda = damp * mean_diag(h) };
    g->place = fqi_calloc(h->n, sizeof *g->place);
    g->line = fqi_calloc((size_t)la->n_thread * FETCH, h->n * sizeof *g->line);
    if (!g->place || !g->line) return fqi_fail_nomem(e, "Cholesky factor");
    for (size_t i = 0; i < h->n; i++) g->place[order[i]] = (uint32_t)i;
    return FQ_OK;
}

static void gather_free(gather *g)
{
    free(g->place);
    free(g->line);
}

/* ---- factor ------------------------------------------------------------------------------------------------------------ */

/* Rows [i, i + n) of the diagonal, n <= LEAF. */
static bool leaf(factor *f, size_t i, size_t n)
{
    float *a = f->l + i * f->n + i;
    for (size_t j = 0; j < n; j++) {
        const float *row = a + j * f->n;
        double d = (double)row[j];
        for (size_t k = 0; k < j; k++) d -= (double)row[k] * (double)row[k];
        if (!(d > 0) || !isfinite((float)d)) {
            f->bad = i + j;
            f->pivot = (float)d;
            return false;
        }
        const float root = (float)sqrt(d);
        a[j * f->n + j] = root;
        for (size_t r = j + 1; r < n; r++) {
            float s = a[r * f->n + j];
            for (size_t k = 0; k < j; k++) s -= a[r * f->n + k] * row[k];
            a[r * f->n + j] = s / root;
        }
    }
    return true;
}

static void solve(const factor *f, size_t i, size_t m, size_t k, size_t n)
{
    f->la->blas->strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (blasint)m, (blasint)n, 1.0f, f->l + k * f->n + k, (blasint)f->n,
                       f->l + i * f->n + k, (blasint)f->n);
}

/* L[i.., j..] -= L[i.., k..] L[j.., k..]^T */
static void update(const factor *f, size_t i, size_t m, size_t j, size_t w, size_t k, size_t n)
{
    const blasint ld = (blasint)f->n;
    float *out = f->l + i * f->n + j;
    const float *a = f->l + i * f->n + k, *b = f->l + j * f->n + k;
    if (i == j)
        f->la->blas->ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, (blasint)m, (blasint)n, -1.0f, a, ld, 1.0f, out, ld);
    else
        f->la->blas->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)m, (blasint)w, (blasint)n, -1.0f, a, ld, b, ld, 1.0f, out, ld);
}

/* One diagonal block: a leaf, or the block algorithm again with two blocks. At most four deep. */
static bool diagonal(factor *f, size_t i, size_t n)
{
    if (n <= LEAF) return leaf(f, i, n);
    const size_t half = (n / 2 + LEAF - 1) / LEAF * LEAF, rest = n - half;
    if (!diagonal(f, i, half)) return false;
    solve(f, i + half, rest, i, half);
    update(f, i + half, rest, i + half, rest, i, half);
    return diagonal(f, i + half, rest);
}

/* Tile t of the triangle that is left below block column k; t = 0 is the next diagonal. */
static void update_tile(factor *f, size_t k, size_t t)
{
    size_t c = 0, r, left = (f->n - k - 1) / f->block;   /* block rows below k */
    while (t >= left - c) t -= left - c++;               /* by columns: the next one first */
    r = c + t;
    const size_t i = k + (r + 1) * f->block, j = k + (c + 1) * f->block, m = least(f->block, f->n - i);
    update(f, i, m, j, least(f->block, f->n - j), k, f->block);
    if (r == 0) (void)diagonal(f, i, m);
}

static void factorize(factor *f)
{
#pragma omp parallel num_threads(f->la->n_thread)
    {
        omp_set_num_threads(1);
#pragma omp single
        (void)diagonal(f, 0, least(f->block, f->n));
        /* `bad` changes inside the second loop only, so behind its barrier all threads see the same and leave together */
        for (size_t k = 0; f->bad == f->n && k + f->block < f->n; k += f->block) {
            const size_t left = (f->n - k - 1) / f->block;
#pragma omp for schedule(dynamic)
            for (size_t i = k + f->block; i < f->n; i += f->block) solve(f, i, least(f->block, f->n - i), k, f->block);
#pragma omp for schedule(dynamic)
            for (size_t t = 0; t < left * (left + 1) / 2; t++) update_tile(f, k, t);
        }
    }
}

fq_status fqi_cholesky(const fqi_linalg *la, const fqi_hessian *h, const uint32_t *order, double damp, float *l, double *lambda, fq_err *e)
{
    gather g;
    fq_status s = gather_create(la, h, order, damp, &g, e);
    if (s) goto out;
#pragma omp parallel for num_threads(la->n_thread) schedule(dynamic)
    for (size_t c = 0; c < h->n; c += FETCH) place_rows(&g, c, g.line + (size_t)omp_get_thread_num() * FETCH * h->n, l);
    *lambda = g.lambda;
    factor f = { .la = la, .l = l, .n = h->n, .block = BLOCK, .bad = h->n };
    if (h->n) factorize(&f);
    if (f.bad < h->n)
        s = fqi_fail(e, FQ_E_NUMERIC, NULL, "cholesky", "column %u: found pivot %.9g, expected a positive number (damping added %.9g to the diagonal)",
                     (unsigned)order[f.bad], (double)f.pivot, g.lambda);
out:
    gather_free(&g);
    return s;
}
