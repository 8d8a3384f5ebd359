/* slice_products.c - products of slices against products of wholes. See slice_products.h.
 *
 *     weights in the order of files ──> threads take one at a time ──> bands of rows ──> blocks ──> dot products
 *
 * A band has at most BAND_ROWS outputs, so that sums of a vocabulary are bounded too. Codes that lie by input channels (gptq, awq) are read in tall
 * blocks, others in wide ones: as they lie in the file. */
#include "job/slice_products.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/pipeline.h"
#include "base/random.h"
#include "model/extract.h"

#define BLOCK ((int64_t)1 << 21)        /* numbers of a block */
#define BAND_ROWS ((int64_t)1 << 16)    /* BLOCK / 32: a tall block has words of 32 input channels */
#define MOST_COLS ((int64_t)1 << 18)    /* input channels of a block */
#define TOLERANCE 1e-9
#define SEED UINT64_C(0x51cefb0b)
#define MAX_THREAD 8

/* One matrix; of experts in one tensor n_expert of them, else 1. A bias is a column. */
typedef struct weight {
    size_t tensor;
    bool coded; fqi_quant_module module;
    const fqi_row *row;
    int64_t expert;                     /* -1: of none */
    int64_t shape[3];
    int rank;
    int64_t n_expert, rows, cols;
} weight;

typedef struct job {
    const fq_ckpt *ckpt;
    const fqi_slice *slice; int n_slice;
    const fq_run *run;
    weight *weight; size_t n_weight;
    int64_t block_rows, block_cols, module_cols;
    bool stop;                          /* atomic */
    pthread_mutex_t lock;
    size_t next, done;
    uint64_t done_bytes, total_bytes;
    size_t failed; fq_status status; fq_err err;   /* the first of the list that failed */
    fqi_products sum;
} job;

typedef struct worker {
    job *j;
    bool caller;
    fqi_extracts *extracts;
    float *block, *x; int64_t x_first, x_n;
    double *whole, *part; bool *held;
    double diff2, whole2;               /* of the weight in hand */
    size_t n_slice;
} worker;

/* ---- the list ---- */

static const fqi_quant_module *module_of(const weight *w) { return w->coded ? &w->module : NULL; }
static bool by_inputs(const weight *w) { return w->coded && w->module.form->part[FQI_PART_CODES].dim[0].along == FQI_ALONG_K; }

/* Dimension 0 of a matrix of the weight; of a bias its only one. */
static int row_dim(const weight *w) { return w->rank == 3 ? 1 : 0; }

static fqi_cut cut_of(const job *j, const weight *w, int rank)
{
    fqi_cut c;
    fqi_cut_make(&j->slice[rank], w->row, w->shape, &c);
    return c;
}

static bool has(const job *j, const weight *w, int rank) { return fqi_slice_has(&j->slice[rank], w->row, w->expert); }

/* Is there a rank that has not all of it? *can: and can what they have be read? */
static bool is_cut(const job *j, const weight *w, bool *can)
{
    bool cut = w->expert >= 0;   /* one rank's, or cut */
    *can = true;
    for (int r = 0; r < j->n_slice; r++) {
        const fqi_cut c = cut_of(j, w, r);
        cut = cut || !has(j, w, r);
        for (int d = 0; d < w->rank; d++) {
            const int64_t most = w->shape[d] / (c.parts[d] > 0 ? c.parts[d] : 1);
            cut = cut || c.dim[d].n != most;
            *can = *can && c.dim[d].first >= 0 && c.dim[d].n >= 0 && c.dim[d].first <= most - c.dim[d].n;
        }
        if (w->rank > 1) *can = *can && fqi_extract_can_begin(module_of(w), c.dim[w->rank - 1].first) && (r == j->n_slice - 1 || fqi_extract_can_begin(module_of(w), c.dim[w->rank - 1].n));
    }
    return cut;
}

static bool is_float(uint8_t dtype) { return dtype == FQ_DTYPE_F32 || dtype == FQ_DTYPE_F16 || dtype == FQ_DTYPE_BF16; }

/* What of tensor i is multiplied. false: it is no weight of the model, or nothing of it is cut. */
static fq_status look_at(job *j, const fqi_quant_scheme *scheme, size_t i, weight *w, bool *take, fq_err *e)
{
    const fq_ckpt *c = j->ckpt;
    const fqi_tensor *t = &c->tensor[i];
    fqi_bound b;
    bool can;
    *take = false;
    *w = (weight){ .tensor = i, .n_expert = 1, .cols = 1 };
    w->coded = fqi_quant_row(c, i, &b, w->shape);
    if (!w->coded) {
        b = c->bound[i];
        if (!b.row || t->rank != b.row->rank || t->rank < 1 || t->rank > 3) return FQ_OK;
        memcpy(w->shape, t->shape, t->rank * sizeof *t->shape);
    }
    w->row = b.row;
    w->expert = b.expert;
    w->rank = w->coded ? 2 : t->rank;
    const bool known = w->coded ? b.row->rank == 2 && w->shape[0] > 0 && w->shape[1] > 0 : is_float(t->dtype);
    if (known && w->coded) FQI_TRY(fqi_quant_module_find(c, scheme, i, w->shape[0], w->shape[1], &w->module, e));
    if (known && !is_cut(j, w, &can)) return FQ_OK;
    if (!known || !can) {
        j->sum.n_unread++;
        return FQ_OK;
    }
    if (w->rank == 3) w->n_expert = w->shape[0];
    w->rows = w->shape[row_dim(w)];
    if (w->rank > 1) w->cols = w->shape[w->rank - 1];
    *take = true;
    return FQ_OK;
}

static int by_place(const void *a, const void *b, void *of)
{
    const fq_ckpt *c = of;
    const fqi_tensor *s = &c->tensor[((const weight *)a)->tensor], *t = &c->tensor[((const weight *)b)->tensor];
    if (s->shard != t->shard) return s->shard < t->shard ? -1 : 1;
    return s->off < t->off ? -1 : s->off > t->off;
}

static fq_status list(job *j, const fqi_quant_scheme *scheme, fq_err *e)
{
    const fq_ckpt *c = j->ckpt;
    j->weight = fqi_calloc(c->n_tensor + 1, sizeof *j->weight);
    if (!j->weight) return fqi_fail_nomem(e, "table of weights");
    j->block_rows = j->block_cols = 1;
    for (size_t i = 0; c->bound && i < c->n_tensor; i++) {
        weight *w = &j->weight[j->n_weight];
        bool take;
        FQI_TRY(look_at(j, scheme, i, w, &take, e));
        if (!take) continue;
        j->n_weight++;
        j->total_bytes += c->tensor[i].bytes;
        if (w->rows > j->block_rows) j->block_rows = w->rows;
        if (w->cols > j->block_cols) j->block_cols = w->cols;
        if (w->coded && w->cols > j->module_cols) j->module_cols = w->cols;
    }
    if (j->block_rows > BAND_ROWS) j->block_rows = BAND_ROWS;
    if (j->block_cols > MOST_COLS) j->block_cols = MOST_COLS;
    qsort_r(j->weight, j->n_weight, sizeof *j->weight, by_place, (void *)(uintptr_t)c);
    return FQ_OK;
}

/* ---- products ---- */

/* x[first .. first + n): in [-1, 1), by number alone. */
static void fill_x(worker *k, int64_t first, int64_t n)
{
    if (k->x_first == first && k->x_n >= n) return;
    for (int64_t i = 0; i < n; i++) {
        uint64_t state = SEED ^ (uint64_t)(first + i) * UINT64_C(0xd1342543de82ef95);
        k->x[i] = (float)((int64_t)(fqi_splitmix(&state) >> 40) - (1 << 23)) * 0x1p-23f;
    }
    k->x_first = first;
    k->x_n = n;
}

static double dot(const float *restrict w, const float *restrict x, int64_t n)
{
    enum { LANES = 8 };
    double s[LANES] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) s[l] += (double)w[i + l] * (double)x[i + l];
    for (int l = 0; i < n; i++, l++) s[l] += (double)w[i] * (double)x[i];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* y[i] += the product of rows.first + i with the columns. */
static fq_status multiply(worker *k, const weight *w, int64_t expert, fqi_range rows, fqi_range cols, double *y, fq_err *e)
{
    const int64_t width = cols.n < MOST_COLS ? cols.n : MOST_COLS;
    int64_t step_cols = width, step_rows;
    if (rows.n < 1 || cols.n < 1) return FQ_OK;
    if (by_inputs(w)) {
        step_cols = BLOCK / rows.n / 32 * 32 < width ? BLOCK / rows.n / 32 * 32 : width;
        step_rows = rows.n;
    } else {
        step_rows = BLOCK / width < rows.n ? BLOCK / width : rows.n;
    }
    for (int64_t c = 0; c < cols.n; c += step_cols) {
        const fqi_range here = { cols.first + c, cols.n - c < step_cols ? cols.n - c : step_cols };
        fill_x(k, here.first, here.n);
        for (int64_t r = 0; r < rows.n; r += step_rows) {
            const fqi_range some = { rows.first + r, rows.n - r < step_rows ? rows.n - r : step_rows };
            fqi_extract p = { .tensor = w->tensor, .module = module_of(w), .at = { some, here } };
            if (w->rank == 3) {
                p.at[0] = (fqi_range){ expert, 1 };
                p.at[1] = some;
                p.at[2] = here;
            }
            FQI_TRY(fqi_extracts_read(k->extracts, &p, k->block, e));
            for (int64_t i = 0; i < some.n; i++) y[r + i] += dot(k->block + i * here.n, k->x, here.n);
        }
    }
    return FQ_OK;
}

static fq_status differs(const worker *k, const weight *w, int rank, int64_t row, double found, double expected, fq_err *e)
{
    const fqi_tensor *t = &k->j->ckpt->tensor[w->tensor];
    char shown[FQI_NAME_MAX + 1], who[32] = "the sum over ranks";
    if (rank >= 0) snprintf(who, sizeof who, "rank %d", rank);
    return fqi_fail(e, FQ_E_DIFFERS, FQI_TENSOR(k->j->ckpt->shard[t->shard].path, fqi_escape(shown, t->name)), "slice-sum", "%s, output channel %" PRId64 ": found %.9g as product with a random input, expected %.9g", who,
                    row, found, expected);
}

/* n outputs of `found` against those of the whole from `first` of the band on, which begins at row0. rms: the size that one has. */
static fq_status compare(worker *k, const weight *w, int rank, int64_t row0, int64_t first, int64_t n, const double *found, double rms, fq_err *e)
{
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs(found[i] - k->whole[first + i]);
        k->diff2 += d * d;
        if (!(d <= TOLERANCE * rms)) return differs(k, w, rank, row0 + first + i, found[i], k->whole[first + i], e);
    }
    return FQ_OK;
}

typedef struct band { int64_t expert, row, n; double rms; } band;

/* The ranks' products are added. */
static fq_status check_sum(worker *k, const weight *w, const band *b, fq_err *e)
{
    memset(k->part, 0, (size_t)b->n * sizeof *k->part);
    for (int r = 0; r < k->j->n_slice; r++) {
        const fqi_cut c = cut_of(k->j, w, r);
        if (!has(k->j, w, r) || (w->rank == 3 && (b->expert < c.dim[0].first || b->expert >= c.dim[0].first + c.dim[0].n))) continue;
        const fqi_range cols = w->rank > 1 ? c.dim[w->rank - 1] : (fqi_range){ 0, 1 };
        FQI_TRY(multiply(k, w, b->expert, (fqi_range){ b->row, b->n }, cols, k->part, e));
        k->n_slice += b->row == 0;
    }
    return compare(k, w, -1, b->row, 0, b->n, k->part, b->rms, e);
}

/* Rows that half `part` of a rank's cut has in the band, counted from its first. */
static fqi_range in_band(const fqi_cut *c, int d, int part, const band *b)
{
    const int64_t at = c->whole[d] / c->parts[d] * part + c->dim[d].first, first = at > b->row ? at : b->row, end = at + c->dim[d].n < b->row + b->n ? at + c->dim[d].n : b->row + b->n;
    return (fqi_range){ first - b->row, end > first ? end - first : 0 };
}

/* Each rank has some outputs. */
static fq_status check_rows(worker *k, const weight *w, const band *b, fq_err *e)
{
    const int d = row_dim(w);
    const fqi_tensor *t = &k->j->ckpt->tensor[w->tensor];
    char shown[FQI_NAME_MAX + 1];
    memset(k->held, 0, (size_t)b->n * sizeof *k->held);
    for (int r = 0; r < k->j->n_slice; r++) {
        const fqi_cut c = cut_of(k->j, w, r);
        k->n_slice += b->row == 0;
        for (int part = 0; part < c.parts[d]; part++) {
            const fqi_range rows = in_band(&c, d, part, b);
            if (rows.n < 1) continue;
            memset(k->part, 0, (size_t)rows.n * sizeof *k->part);
            FQI_TRY(multiply(k, w, b->expert, (fqi_range){ b->row + rows.first, rows.n }, (fqi_range){ 0, w->cols }, k->part, e));
            FQI_TRY(compare(k, w, r, b->row, rows.first, rows.n, k->part, b->rms, e));
            memset(k->held + rows.first, 1, (size_t)rows.n * sizeof *k->held);
        }
    }
    for (int64_t i = 0; i < b->n; i++)
        if (!k->held[i])
            return fqi_fail(e, FQ_E_DIFFERS, FQI_TENSOR(k->j->ckpt->shard[t->shard].path, fqi_escape(shown, t->name)), "slice-missing", "found output channel %" PRId64 " on no rank, expected it on one", b->row + i);
    return FQ_OK;
}

/* Are the ranks' products added? Else each has some of the outputs. */
static bool is_sum(const job *j, const weight *w)
{
    bool rows = false;
    for (int r = 0; r < j->n_slice; r++) {
        const fqi_cut c = cut_of(j, w, r);
        rows = rows || fqi_cut_length(&c, row_dim(w)) != w->rows;
        if (!has(j, w, r) || (w->rank > 1 && fqi_cut_length(&c, w->rank - 1) != w->cols) || (w->rank == 3 && c.dim[0].n != w->n_expert)) return true;
    }
    return w->expert >= 0 && !rows;   /* whole, and so to be on one rank only */
}

static fq_status check_weight(worker *k, const weight *w, fq_err *e)
{
    const bool sum = is_sum(k->j, w);
    k->diff2 = k->whole2 = 0;
    k->n_slice = 0;
    for (int64_t x = 0; x < w->n_expert; x++)
        for (int64_t row = 0; row < w->rows; row += BAND_ROWS) {
            band b = { .expert = x, .row = row, .n = w->rows - row < BAND_ROWS ? w->rows - row : BAND_ROWS };
            double size = 0;
            memset(k->whole, 0, (size_t)b.n * sizeof *k->whole);
            FQI_TRY(multiply(k, w, x, (fqi_range){ row, b.n }, (fqi_range){ 0, w->cols }, k->whole, e));
            for (int64_t i = 0; i < b.n; i++) size += k->whole[i] * k->whole[i];
            b.rms = sqrt(size / (double)b.n);
            k->whole2 += size;
            FQI_TRY(sum ? check_sum(k, w, &b, e) : check_rows(k, w, &b, e));
        }
    return FQ_OK;
}

/* ---- threads ---- */

static void tell_progress(const job *j, const weight *w)
{
    char shown[FQI_NAME_MAX + 1];
    if (!j->run->progress) return;
    const fq_progress p = { .phase = "multiply", .item = fqi_escape(shown, j->ckpt->tensor[w->tensor].name), .done_bytes = j->done_bytes, .total_bytes = j->total_bytes, .done_items = j->done, .total_items = j->n_weight };
    j->run->progress(j->run->user, &p);
}

/* Kernels that never read them differ from those that do: said elsewhere, where an engine is named. */
static bool about_zeros(const fq_err *e) { return strcmp(e->rule, "packed-zero") == 0 || strcmp(e->rule, "zero-version") == 0; }

/* Lock held. */
static void take_result(job *j, const worker *k, size_t i, fq_status s, const fq_err *e)
{
    const double relative = k->whole2 > 0 ? sqrt(k->diff2 / k->whole2) : 0;
    if (s == FQ_E_INPUT && about_zeros(e)) {
        j->sum.n_unread++;
    } else if (s != FQ_OK) {
        __atomic_store_n(&j->stop, true, __ATOMIC_RELAXED);
        if (j->status == FQ_OK || (i < j->failed && s != FQ_E_CANCELLED)) {
            j->failed = i;
            j->status = s;
            j->err = *e;
        }
    } else {
        j->sum.n_weight++;
        j->sum.n_slice += k->n_slice;
        if (relative > j->sum.worst) j->sum.worst = relative;
    }
    j->done++;
    if (i < j->n_weight) j->done_bytes += j->ckpt->tensor[j->weight[i].tensor].bytes;
}

static fq_status worker_open(worker *k, fq_err *e)
{
    job *j = k->j;
    const size_t rows = (size_t)j->block_rows, cols = (size_t)j->block_cols;
    const fqi_extracts_options o = { .run = j->run, .stop = &j->stop, .caller = k->caller, .module_cols = j->module_cols };
    const size_t most = rows * cols < (size_t)BLOCK ? rows * cols : (size_t)BLOCK;
    k->block = fqi_calloc(most, sizeof *k->block);
    k->x = fqi_calloc(cols, sizeof *k->x);
    k->whole = fqi_calloc(rows, sizeof *k->whole);
    k->part = fqi_calloc(rows, sizeof *k->part);
    k->held = fqi_calloc(rows, sizeof *k->held);
    k->x_first = -1;
    if (!k->block || !k->x || !k->whole || !k->part || !k->held) return fqi_fail_nomem(e, "products");
    return fqi_extracts_open(j->ckpt, &o, &k->extracts, e);
}

static void worker_close(worker *k)
{
    if (k->extracts) k->j->sum.bytes += fqi_extracts_bytes_read(k->extracts);
    fqi_extracts_close(k->extracts);
    free(k->block);
    free(k->x);
    free(k->whole);
    free(k->part);
    free(k->held);
}

static void *work(void *arg)
{
    worker *k = arg;
    job *j = k->j;
    fq_err e = { 0 };
    fq_status s = worker_open(k, &e);
    pthread_mutex_lock(&j->lock);
    if (s != FQ_OK) take_result(j, k, j->n_weight, s, &e);
    while (!__atomic_load_n(&j->stop, __ATOMIC_RELAXED) && j->next < j->n_weight) {
        const size_t i = j->next++;
        if (k->caller) tell_progress(j, &j->weight[i]);
        pthread_mutex_unlock(&j->lock);
        s = check_weight(k, &j->weight[i], &e);
        pthread_mutex_lock(&j->lock);
        take_result(j, k, i, s, &e);
    }
    worker_close(k);
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* The caller works too; a thread that cannot be had is done without. Signals are for the caller. */
static void work_all(job *j)
{
    worker all_of[MAX_THREAD] = { { .j = j, .caller = true } };
    pthread_t thread[MAX_THREAD];
    int n = 1, most = fqi_n_thread(j->run->n_thread);
    sigset_t all, before;
    if ((size_t)most > j->n_weight) most = (int)j->n_weight;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; n < most && n < MAX_THREAD; n++) {
        all_of[n].j = j;
        if (pthread_create(&thread[n], NULL, work, &all_of[n]) != 0) break;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)work(&all_of[0]);
    for (int i = 1; i < n; i++) (void)pthread_join(thread[i], NULL);
}

fq_status fqi_slice_products(const fq_ckpt *c, const fqi_quant_scheme *scheme, const fqi_slice *slice, int n_slice, const fq_run *run, fqi_products *out, fq_err *e)
{
    job j = { .ckpt = c, .slice = slice, .n_slice = n_slice, .run = run, .failed = SIZE_MAX };
    (void)pthread_mutex_init(&j.lock, NULL);
    fq_status s = list(&j, scheme, e);
    if (s == FQ_OK && j.n_weight > 0) {
        work_all(&j);
        s = j.status;
        if (s != FQ_OK && e) *e = j.err;
    }
    if (s == FQ_OK) *out = j.sum;
    free(j.weight);
    (void)pthread_mutex_destroy(&j.lock);
    return s;
}
