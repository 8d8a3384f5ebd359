/* linear.c - matrix products of stored weights with a block of tokens. See linear.h for the two orders.
 *
 *     fast, many tokens     panel of W --widen--> floats of one thread --sgemm--> a block of y; again for the next columns
 *     fast, few tokens      W straight from where it is stored, row by row
 *     fixed                 32 rows of W --widen, transpose--> [k][32] --gemm_tile--> 32 columns of y
 *
 * A product is cut into blocks of rows and of tokens, by its shape and never by the number of threads; blocks are dealt to threads
 * as they come free, and what a block computes does not depend on who does it. Inside a parallel region an OpenMP BLAS stays on
 * the calling thread; another flavour is told so when it is loaded (blas.c). */
#include "kernel/linear.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fs_memory.h"
#include "kernel/scalar.h"

#define PANEL_ROWS 512
#define PANEL_COLS 1024              /* 2 MiB of widened weights: read again from cache by the sgemm that packs them */
#define PANEL_TOKENS 512             /* so that a matrix of few rows is work for several threads */
#define SHORT 128                    /* tokens up to which the size of a panel hardly matters: then smaller ones, to share them */
#define SHORT_ROWS 128
#define SMALL_WORK 1000000           /* OpenBLAS packs nothing up to here: with 8 to 30 tokens 1.3 to 2.5 times as fast (measured) */
#define FEW_FLOATS (64u * 1024)      /* of a block for few tokens: it is in cache when the second token comes */
#define SERIAL_WORK (1u << 17)       /* multiplications below which waking threads takes longer than they save (measured) */
#define K_BLOCK 512                  /* of fixed order: 64 KiB of a packed tile */
#define FIXED_TOKENS 1536            /* of a block in fixed order: packing 32 rows is a hundredth of the work */
#define TOKEN_BLOCK (8 * FQI_TILE_ROWS)
/* What OpenBLAS touches for packing, of the 32 MiB that it maps per thread: 0.7 MiB measured for blocks of this size, with room for processors
 * for which it packs larger pieces. */
#define BLAS_BYTES_PER_THREAD (UINT64_C(3) << 20)

/* Bytes of one thread's panel: most that any matrix of up to max_cols columns needs at once. False: more than can be counted. */
static bool panel_bytes(int64_t max_cols, uint64_t *out)
{
    uint64_t widest;
    if (!fqi_mul_u64((uint64_t)max_cols, FQI_TILE, &widest)) return false;
    if (widest < PANEL_ROWS * PANEL_COLS) widest = PANEL_ROWS * PANEL_COLS;
    return fqi_add_u64(widest, (uint64_t)FQI_TILE * K_BLOCK, &widest) && fqi_mul_u64(widest, sizeof(float), out);
}

uint64_t fqi_compute_bytes(int n_thread, int64_t max_cols)
{
    uint64_t bytes;
    if (!panel_bytes(max_cols, &bytes)) return UINT64_MAX;
    return fqi_sat_mul(fqi_sat_add(bytes, BLAS_BYTES_PER_THREAD), (uint64_t)n_thread);
}

/* Where the address space is limited the BLAS gets its buffers now, while there is room for certain: it would wait for them for ever. */
static void take_buffers(const fqi_compute *c)
{
    enum { N = 128 };   /* more than SMALL_WORK */
    if (fqi_address_space_left() == UINT64_MAX) return;
    memset(c->panel, 0, (size_t)c->n_thread * c->panel_floats * sizeof *c->panel);
#pragma omp parallel num_threads(c->n_thread)
    {
        float *x = c->panel + (size_t)omp_get_thread_num() * c->panel_floats;
        c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N, N, N, 1.0f, x, N, x + N * N, N, 0.0f, x + 2 * N * N, N);
    }
}

fq_status fqi_compute_create(fqi_order order, fq_dtype served, int n_thread, int64_t max_cols, fqi_compute *out, fq_err *e)
{
    fqi_compute c = { .order = order, .served = served, .n_thread = n_thread };
    uint64_t each, bytes;
    FQI_TRY(fqi_kernels_choose(&c.kernel, e));
    if (order == FQI_ORDER_FAST) FQI_TRY(fqi_blas_load(&c.blas, e));
    if (!panel_bytes(max_cols, &each) || !fqi_mul_u64(each, (uint64_t)n_thread, &bytes) || bytes > PTRDIFF_MAX - 63) return fqi_fail_nomem(e, "panels");
    c.panel_floats = (size_t)each / sizeof(float);
    c.panel = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
    if (!c.panel) return fqi_fail_nomem(e, "panels");
    if (order == FQI_ORDER_FAST) take_buffers(&c);
    *out = c;
    return FQ_OK;
}

void fqi_compute_free(fqi_compute *c)
{
    if (!c) return;
    free(c->panel);
    c->panel = NULL;
}

/* y[t][r] for r0 <= r < r1: bias and the type that an engine would hold. */
static void finish(const fqi_compute *c, const float *bias, size_t n_token, float *y, size_t ldy, size_t r0, size_t r1)
{
    if (!bias && c->served == FQ_DTYPE_F32) return;
    for (size_t t = 0; t < n_token; t++) {
        float *row = y + t * ldy;
        for (size_t r = r0; bias && r < r1; r++) row[r] += bias[r];
        c->kernel->round_to(row + r0, c->served, r1 - r0);
    }
}

static const void *row_at(const fqi_matrix *w, size_t r)
{
    return (const unsigned char *)w->data + r * (size_t)w->cols * fqi_dtype_bytes(w->dtype);
}

static void fast_block(const fqi_compute *c, const fqi_matrix *w, const float *x, size_t n_token, float *y, size_t ldy, size_t r0, size_t r1,
                       float *panel)
{
    const size_t cols = (size_t)w->cols, size = fqi_dtype_bytes(w->dtype);
    for (size_t k0 = 0; k0 < cols; k0 += PANEL_COLS) {
        const size_t k = cols - k0 < PANEL_COLS ? cols - k0 : PANEL_COLS;
        const bool ready = w->dtype == FQ_DTYPE_F32;
        for (size_t r = r0; !ready && r < r1; r++)
            c->kernel->widen((const unsigned char *)row_at(w, r) + k0 * size, w->dtype, panel + (r - r0) * k, k);
        c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)n_token, (blasint)(r1 - r0), (blasint)k, 1.0f, x + k0, (blasint)cols,
                    ready ? (const float *)row_at(w, r0) + k0 : panel, (blasint)(ready ? cols : k), k0 > 0 ? 1.0f : 0.0f, y + r0, (blasint)ldy);
    }
}

static void few_block(const fqi_compute *c, const fqi_matrix *w, const float *x, size_t n_token, float *y, size_t ldy, size_t r0, size_t r1,
                      float *panel)
{
    (void)panel;
    for (size_t t = 0; t < n_token; t++) c->kernel->matvec(w, (int64_t)r0, (int64_t)r1, x + t * (size_t)w->cols, y + t * ldy);
}

/* Rows [r0, r1), at most FQI_TILE of them, columns [k0, k0 + k) of W as [k][FQI_TILE], missing rows as zeros. */
static void pack(const fqi_compute *c, const fqi_matrix *w, size_t r0, size_t r1, size_t k0, size_t k, float *packed, float *row)
{
    for (size_t r = r0; r < r0 + FQI_TILE; r++) {
        float *out = packed + (r - r0);
        if (r >= r1) {
            for (size_t i = 0; i < k; i++) out[i * FQI_TILE] = 0;
            continue;
        }
        c->kernel->widen((const unsigned char *)row_at(w, r) + k0 * fqi_dtype_bytes(w->dtype), w->dtype, row, k);
        for (size_t i = 0; i < k; i++) out[i * FQI_TILE] = row[i];
    }
}

static void fixed_tokens(const fqi_compute *c, size_t cols, const float *packed, const float *x, size_t n_token, float *y, size_t ldy, size_t r0,
                         size_t n_row)
{
    float acc[TOKEN_BLOCK * FQI_TILE];
    size_t k0 = 0;
    do {   /* once also without any column: the result is 0 */
        size_t k = cols - k0 < K_BLOCK ? cols - k0 : K_BLOCK;
        for (size_t t = 0; t < n_token; t += FQI_TILE_ROWS) {
            size_t m = n_token - t < FQI_TILE_ROWS ? n_token - t : FQI_TILE_ROWS;
            c->kernel->gemm_tile(m, k, x + t * cols + k0, cols, packed + k0 * FQI_TILE, FQI_TILE, acc + t * FQI_TILE, FQI_TILE, k0 > 0,
                                 k0 + k == cols);
        }
        k0 += k;
    } while (k0 < cols);
    for (size_t t = 0; t < n_token; t++) memcpy(y + t * ldy + r0, acc + t * FQI_TILE, n_row * sizeof *y);
}

static void fixed_block(const fqi_compute *c, const fqi_matrix *w, const float *x, size_t n_token, float *y, size_t ldy, size_t r0, size_t r1,
                        float *panel)
{
    const size_t cols = (size_t)w->cols;
    float *packed = panel + K_BLOCK;
    for (size_t k0 = 0; k0 < cols; k0 += K_BLOCK)
        pack(c, w, r0, r1, k0, cols - k0 < K_BLOCK ? cols - k0 : K_BLOCK, packed + k0 * FQI_TILE, panel);
    for (size_t t = 0; t < n_token; t += TOKEN_BLOCK) {
        size_t m = n_token - t < TOKEN_BLOCK ? n_token - t : TOKEN_BLOCK;
        fixed_tokens(c, cols, packed, x + t * cols, m, y + t * ldy, ldy, r0, r1 - r0);
    }
}

/* How a product is cut: rows and tokens of a block, and what computes one. */
typedef struct cut {
    size_t rows, tokens;
    void (*block)(const fqi_compute *, const fqi_matrix *, const float *x, size_t n_token, float *y, size_t ldy, size_t r0, size_t r1, float *panel);
} cut;

static size_t blocks(size_t n, size_t each) { return (n + each - 1) / each; }

/* Equal parts, multiples of a tile, none above `most`. */
static size_t even(size_t n, size_t most)
{
    size_t each = blocks(n, blocks(n, most));
    return blocks(each, FQI_TILE) * FQI_TILE;
}

static size_t panel_rows(size_t cols, size_t n_token)
{
    size_t small = SMALL_WORK / ((cols < PANEL_COLS ? cols : PANEL_COLS) * n_token) / FQI_TILE * FQI_TILE;
    if (n_token > SHORT) return PANEL_ROWS;
    return small == 0 || small > SHORT_ROWS ? SHORT_ROWS : small;
}

static cut cut_of(const fqi_compute *c, const fqi_matrix *w, size_t n_token)
{
    const size_t rows = (size_t)w->rows, few_rows = FEW_FLOATS / (size_t)w->cols;
    if (c->order == FQI_ORDER_FIXED) return (cut){ FQI_TILE, even(n_token, FIXED_TOKENS), fixed_block };
    if (n_token <= FQI_FEW_TOKENS) return (cut){ few_rows < 8 ? 8 : few_rows > 64 ? 64 : few_rows, n_token, few_block };
    return (cut){ even(rows, panel_rows((size_t)w->cols, n_token)), even(n_token, PANEL_TOKENS), fast_block };
}

/* One thread or all of them: an OpenMP runtime that is asked for fewer than last time may end the others and must start them again. */
static int n_thread_for(const fqi_compute *c, const fqi_matrix *w, size_t n_token, int64_t n_block)
{
    const double work = (double)w->rows * (double)w->cols * (double)n_token;
    return n_block < 2 || work < SERIAL_WORK ? 1 : c->n_thread;
}

static void multiply_block(const fqi_compute *c, const fqi_matrix *w, const float *bias, const float *x, size_t n_token, float *y, size_t ldy,
                           const cut *u, int64_t b)
{
    const size_t rows = (size_t)w->rows, across = blocks(n_token, u->tokens), row = (size_t)b / across * u->rows, token = (size_t)b % across * u->tokens;
    const size_t n = n_token - token < u->tokens ? n_token - token : u->tokens, r1 = rows - row < u->rows ? rows : row + u->rows;
    float *panel = c->panel + (size_t)omp_get_thread_num() * c->panel_floats, *out = y + token * ldy;
    u->block(c, w, x + token * (size_t)w->cols, n, out, ldy, row, r1, panel);
    finish(c, bias, n, out, ldy, row, r1);
}

void fqi_matmul(const fqi_compute *c, const fqi_matrix *w, const float *bias, const float *x, size_t n_token, float *y, size_t ldy)
{
    if (n_token == 0 || w->rows == 0 || w->cols == 0) return;
    const cut u = cut_of(c, w, n_token);
    const int64_t n_block = (int64_t)(blocks((size_t)w->rows, u.rows) * blocks(n_token, u.tokens));
#pragma omp parallel num_threads(n_thread_for(c, w, n_token, n_block))
    {
        omp_set_num_threads(1);   /* of this task only: a region of one thread is none to the BLAS, which would start its own */
        if (u.block == few_block) {
            /* neighbours to the same thread: where it goes on at another address, memory takes a microsecond to come up to speed again */
#pragma omp for schedule(guided)
            for (int64_t b = 0; b < n_block; b++) multiply_block(c, w, bias, x, n_token, y, ldy, &u, b);
        } else {
#pragma omp for schedule(dynamic)
            for (int64_t b = 0; b < n_block; b++) multiply_block(c, w, bias, x, n_token, y, ldy, &u, b);
        }
    }
}
