/* cholesky.c - the factor of a damped second moment in any order of its columns (see hessian.h).
 *
 *     for each block column:   L21 = A21 L11^-T      tiles dealt to threads
 *                              A22 -= L21 L21^T      tiles dealt to threads; the first one is the next diagonal, factored at once, so
 *                                                    that nobody waits for it
 *
 * The matrix is put in order by rows of the source: a column of a lower triangle is fetched sixteen at a time, which is one cache line of each row. */
#include "quant/hessian.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

#define BLOCK 256
#define SIDE_MOST 1024        /* of a tile: multiples of BLOCK, larger ones are faster (a fifth between 256 and 1024, measured) ... */
#define TILES 8               /* ... while so many stand side by side, so that every thread has some */
#define LEAF 32               /* of the factorization of one diagonal block: below it plain loops */
#define FETCH 16              /* columns fetched together: floats of a cache line */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
static size_t most(size_t a, size_t b) { return a > b ? a : b; }

typedef struct factor {
    const fqi_linalg *la;
    float *l;
    float *panel;             /* [n][BLOCK]: the block column that is being used, in one piece: what the BLAS reads most */
    size_t n, side;           /* of a tile of the update */
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

/* X L^T = A with the triangle at row k of L; m rows of n. */
static void solve(const factor *f, float *a, size_t ld, size_t m, size_t k, size_t n)
{
    f->la->blas->strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (blasint)m, (blasint)n, 1.0f, f->l + k * f->n + k, (blasint)f->n, a,
                       (blasint)ld);
}

/* Rows [i, i + m) of block column k. */
static void solve_rows(const factor *f, size_t i, size_t m, size_t k)
{
    float *a = f->l + i * f->n + k, *p = f->panel + i * BLOCK;
    for (size_t r = 0; r < m; r++) memcpy(p + r * BLOCK, a + r * f->n, BLOCK * sizeof *p);
    solve(f, p, BLOCK, m, k, BLOCK);
    for (size_t r = 0; r < m; r++) memcpy(a + r * f->n, p + r * BLOCK, BLOCK * sizeof *p);
}

/* The m x w at row i, column j of L -= A B^T; a, b: rows of n at stride ld. */
static void update(const factor *f, size_t i, size_t m, size_t j, size_t w, const float *a, const float *b, size_t ld, size_t n)
{
    float *out = f->l + i * f->n + j;
    if (i == j)
        f->la->blas->ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, (blasint)m, (blasint)n, -1.0f, a, (blasint)ld, 1.0f, out, (blasint)f->n);
    else
        f->la->blas->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)m, (blasint)w, (blasint)n, -1.0f, a, (blasint)ld, b, (blasint)ld, 1.0f, out,
                           (blasint)f->n);
}

/* One diagonal block: a leaf, or the block algorithm again with two blocks. At most four deep. */
static bool diagonal(factor *f, size_t i, size_t n)
{
    if (n <= LEAF) return leaf(f, i, n);
    const size_t half = (n / 2 + LEAF - 1) / LEAF * LEAF, rest = n - half;
    if (!diagonal(f, i, half)) return false;
    float *below = f->l + (i + half) * f->n + i;
    solve(f, below, f->n, rest, i, half);
    update(f, i + half, rest, i + half, rest, below, below, f->n, half);
    return diagonal(f, i + half, rest);
}

/* Work item t of the update of rows and columns from `next` on: tiles of `side`, of a grid that begins at row 0; t = 0 holds the next
 * diagonal block. */
static void update_tile(factor *f, size_t next, size_t t)
{
    const size_t first = next / f->side;
    size_t r = 0;
    while ((r + 1) * (r + 2) / 2 <= t) r++;
    const size_t c = first + (t - r * (r + 1) / 2), i = most((first + r) * f->side, next), j = most(c * f->side, next);
    update(f, i, least((first + r + 1) * f->side, f->n) - i, j, least((c + 1) * f->side, f->n) - j, f->panel + i * BLOCK, f->panel + j * BLOCK, BLOCK, BLOCK);
    if (t == 0) (void)diagonal(f, next, least(BLOCK, f->n - next));
}

static void factorize(factor *f)
{
#pragma omp parallel num_threads(f->la->n_thread)
    {
        omp_set_num_threads(1);   /* of this task only: see kernel/linear.c */
#pragma omp single
        (void)diagonal(f, 0, least(BLOCK, f->n));
        /* `bad` changes inside the second loop only, so behind its barrier all threads see the same and leave together */
        for (size_t k = 0; f->bad == f->n && k + BLOCK < f->n; k += BLOCK) {
            const size_t across = (f->n - 1) / f->side - (k + BLOCK) / f->side + 1;
#pragma omp for schedule(dynamic)
            for (size_t i = k + BLOCK; i < f->n; i += BLOCK) solve_rows(f, i, least(BLOCK, f->n - i), k);
#pragma omp for schedule(dynamic)
            for (size_t t = 0; t < across * (across + 1) / 2; t++) update_tile(f, k + BLOCK, t);
        }
    }
}

static size_t tile_side(size_t n)
{
    size_t side = BLOCK;
    while (side < SIDE_MOST && side * TILES < n) side *= 2;
    return side;
}

uint64_t fqi_cholesky_bytes(size_t n, int n_thread)
{
    const uint64_t each = sizeof(uint32_t) + (BLOCK + FETCH * (uint64_t)n_thread) * sizeof(float);
    return fqi_sat_mul(n, each);
}

fq_status fqi_cholesky(const fqi_linalg *la, const fqi_hessian *h, const uint32_t *order, double damp, float *l, double *lambda, fq_err *e)
{
    gather g;
    factor f = { .la = la, .l = l, .n = h->n, .side = tile_side(h->n), .bad = h->n };
    fq_status s = gather_create(la, h, order, damp, &g, e);
    if (s) goto out;
    f.panel = fqi_calloc(h->n, BLOCK * sizeof *f.panel);
    if (!f.panel) {
        s = fqi_fail_nomem(e, "Cholesky factor");
        goto out;
    }
#pragma omp parallel for num_threads(la->n_thread) schedule(dynamic)
    for (size_t c = 0; c < h->n; c += FETCH) place_rows(&g, c, g.line + (size_t)omp_get_thread_num() * FETCH * h->n, l);
    *lambda = g.lambda;
    if (h->n) factorize(&f);
    if (f.bad < h->n)
        s = fqi_fail(e, FQ_E_NUMERIC, NULL, "cholesky", "column %u: found pivot %.9g, expected a positive, finite number (damping added %.9g to the diagonal)",
                     (unsigned)order[f.bad], (double)f.pivot, g.lambda);
out:
    free(f.panel);
    gather_free(&g);
    return s;
}
