/* slice_values.c - addresses and numbers of slices. See slice_values.h.
 *
 * Not fast where something is wrong, since that is said once and ends a question. Everything that depends on a form (by
 * inputs or by outputs, order of fields) comes from the table of forms. Integers only: who calls leaves FP8 out. */
#include "job/slice_values.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "axis/map.h"
#include "base/mem.h"
#include "base/random.h"

#define CHUNK ((size_t)1 << 20)
#define SEED 20261123u
#define BLOCK_BYTES ((int64_t)4 << 20)

/* ---- reading ---- */

fq_status fqi_slice_reader_open(fqi_slice_reader *r, const fq_ckpt *c, const fq_run *run, fq_err *e)
{
    fqi_slice_reader new = { .ckpt = c, .run = run, .shard = SIZE_MAX };
    FQI_TRY(fqi_kernels_choose(&new.kernel, e));
    FQI_TRY(fqi_slot_init(&new.slot, CHUNK, e));
    *r = new;
    return FQ_OK;
}

void fqi_slice_reader_close(fqi_slice_reader *r)
{
    if (r->open) fqi_file_close(&r->file);
    fqi_slot_free(&r->slot);
    *r = (fqi_slice_reader){ .open = false };
}

static fq_status open_shard(fqi_slice_reader *r, size_t shard, fq_err *e)
{
    if (r->open && r->shard == shard) return FQ_OK;
    if (r->open) fqi_file_close(&r->file);
    r->open = false;
    FQI_TRY(fqi_ckpt_open_shard(r->ckpt, shard, r->run->io, &r->file, e));
    r->open = true;
    r->shard = shard;
    return FQ_OK;
}

static fq_status fill(fqi_slice_reader *r, fqi_gather *g, char *to, fq_err *e)
{
    do {
        if (r->run->cancelled && r->run->cancelled(r->run->user)) return fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped on request");
        FQI_TRY(fqi_gather_fill(g, &r->slot, e));
        fqi_slot_assemble(&r->slot);
        if (r->slot.bytes > 0) memcpy(to, r->slot.data, r->slot.bytes);
        to += r->slot.bytes;
    } while (!r->slot.last);
    return FQ_OK;
}

fq_status fqi_slice_read(fqi_slice_reader *r, const fqi_tensor *t, int64_t first, int64_t n, void **out, fq_err *e)
{
    const uint64_t each = t->rank > 0 && t->shape[0] > 0 ? t->bytes / (uint64_t)t->shape[0] : t->bytes;
    const uint64_t bytes = t->rank > 0 ? each * (uint64_t)n : t->bytes;   /* at most t->bytes */
    fqi_map rows = { .n_old = t->rank > 0 ? t->shape[0] : 1 };
    const fqi_map *map[FQ_MAX_RANK] = { NULL };
    fqi_gather g;
    FQI_TRY(open_shard(r, t->shard, e));
    char *buf = fqi_calloc((size_t)bytes + 1, 1);
    if (!buf) return fqi_fail_nomem(e, "parts of a layer");
    fq_status s = FQ_OK;
    if (t->rank > 0 && n > 0 && (first != 0 || n != t->shape[0])) {
        if (!fqi_map_append(&rows, first, n)) s = fqi_fail_nomem(e, "map");
        map[0] = &rows;
    }
    if (s == FQ_OK) s = fqi_gather_begin(&g, &r->file, t, map, bytes, e);
    if (s == FQ_OK) s = fill(r, &g, buf, e);
    fqi_map_free(&rows);
    if (s == FQ_OK) *out = buf;
    else free(buf);
    return s;
}

static fq_status read_all(fqi_slice_reader *r, const fqi_tensor *t, void **out, fq_err *e)
{
    return fqi_slice_read(r, t, 0, t->rank > 0 ? t->shape[0] : 1, out, e);
}

/* ---- fields ---- */

/* Field i of a stream of words that lie `stride` apart. */
static unsigned field_of(const uint32_t *word, size_t stride, int64_t i, int bits)
{
    const uint64_t at = (uint64_t)i * (uint64_t)bits, w = at / 32, shift = at % 32;
    uint32_t x = word[w * stride] >> shift;
    if (shift + (uint64_t)bits > 32) x |= word[(w + 1) * stride] << (32 - shift);
    return x & ((1u << bits) - 1);
}

/* Place of element i among fields: of a form with an order of its own, 32 / bits of them share a word. */
static int64_t place(const fqi_quant_module *q, int64_t i)
{
    const int64_t each = 32 / q->size.bits;
    return q->form->field ? i / each * each + q->form->field[i % each] : i;
}

static bool by_inputs(const fqi_quant_module *q) { return q->form->part[FQI_PART_CODES].dim[0].along == FQI_ALONG_K; }
/* Words hold several output channels (AWQ). */
static bool words_of_outputs(const fqi_quant_module *q) { return fqi_part_has(&q->form->part[FQI_PART_CODES], FQI_ALONG_N, FQI_UNIT_WORD); }

typedef struct parts {
    const fqi_quant_module *q;
    const fqi_kernels *kernel;
    void *scale; uint32_t *zero; int32_t *order, *other;
    int64_t n_group;
    int64_t *meant, *taken;       /* row of scales of every input channel: by the checkpoint, by the engine (-1: none) */
    /* codes of a block */
    uint32_t *word; int64_t first, n; size_t width;
    double *x, *right, *wrong;    /* input; outputs of the whole, and what the engine's are off by */
    /* Scales and zero points, as meant and as taken, of a line of codes: by inputs of one group for all output channels, else of one output channel
     * for all groups. */
    struct lane { float *scale; int *zero; int64_t group; } meant_lane, taken_lane;
} parts;

static void parts_free(parts *p)
{
    free(p->scale);
    free(p->zero);
    free(p->order);
    free(p->other);
    free(p->meant);
    free(p->taken);
    free(p->word);
    free(p->x);
    free(p->right);
    free(p->wrong);
    free(p->meant_lane.scale);
    free(p->meant_lane.zero);
    free(p->taken_lane.scale);
    free(p->taken_lane.zero);
}

static float scale_of(const parts *p, int64_t n, int64_t g)
{
    const fqi_tensor *t = p->q->part[FQI_PART_SCALE];
    const int64_t at = by_inputs(p->q) ? g * p->q->size.rows + n : n * p->n_group + g;
    float x;
    p->kernel->widen((const char *)p->scale + (size_t)at * (fq_dtype_bits((fq_dtype)t->dtype) / 8), (fq_dtype)t->dtype, &x, 1);
    return x;
}

/* What the zero point is by what is stored. */
static int zero_of(const parts *p, int64_t n, int64_t g)
{
    const fqi_quant_module *q = p->q;
    if (!p->zero) return 1 << (q->size.bits - 1);
    const int64_t width = fqi_quant_words(q->size.rows, q->size.bits);
    const unsigned x = by_inputs(q) ? field_of(p->zero + g * width, 1, place(q, n), q->size.bits) : field_of(p->zero + g, (size_t)p->n_group, n, q->size.bits);
    return (int)x + q->zeros_v1;
}

static int code_of(const parts *p, int64_t n, int64_t k)
{
    const fqi_quant_module *q = p->q;
    if (words_of_outputs(q)) return (int)field_of(p->word + (size_t)(k - p->first) * p->width, 1, place(q, n), q->size.bits);
    if (by_inputs(q)) return (int)field_of(p->word + n, p->width, k - p->first, q->size.bits);
    return (int)field_of(p->word + (size_t)(n - p->first) * p->width, 1, k, q->size.bits);
}

/* Elements of dimension 0 in a block of codes: whole words, and not more bytes than BLOCK_BYTES unless one step is. */
static int64_t block_step(const fqi_quant_module *q)
{
    const fqi_tensor *t = q->part[FQI_PART_CODES];
    const bool words = q->form->part[FQI_PART_CODES].dim[0].unit == FQI_UNIT_WORD;
    const int64_t entry = (int64_t)sizeof(uint32_t) * t->shape[1] * (words ? q->size.bits : 1), n = entry > 0 ? BLOCK_BYTES / entry : 1;
    return (n > 0 ? n : 1) * (words ? 32 : 1);
}

static fq_status read_block(fqi_slice_reader *r, parts *p, int64_t first, int64_t n, fq_err *e)
{
    const fqi_quant_module *q = p->q;
    const fqi_tensor *t = q->part[FQI_PART_CODES];
    const bool words = q->form->part[FQI_PART_CODES].dim[0].unit == FQI_UNIT_WORD;
    void *read = NULL;
    free(p->word);
    p->word = NULL;
    FQI_TRY(fqi_slice_read(r, t, words ? first / 32 * q->size.bits : first, words ? fqi_quant_words(n, q->size.bits) : n, &read, e));
    p->word = read;
    p->first = first;
    p->n = n;
    p->width = (size_t)t->shape[1];
    return FQ_OK;
}

/* ---- addresses ---- */

static fq_status check_order(fqi_slice_reader *r, const fqi_tensor *t, const int32_t *order, int64_t n, int64_t n_group, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    for (int64_t k = 0; k < n; k++)
        if (order[k] < 0 || order[k] >= n_group)
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(r->ckpt->shard[t->shard].path, fqi_escape(shown, t->name)), "packed-order", "found group %" PRId32 " for input channel %" PRId64 ", expected 0 to %" PRId64, order[k], k,
                            n_group - 1);
    return FQ_OK;
}

static fq_status follow(fqi_slice_reader *r, parts *p, const fqi_slice_case *c, bool *differ, fq_err *e)
{
    const fqi_quant_module *q = p->q;
    const int64_t cols = q->size.cols;
    const fqi_tensor *own = q->part[FQI_PART_ORDER];
    void *read = NULL;
    p->n_group = cols / c->cut.group + (cols % c->cut.group != 0);
    p->meant = fqi_calloc((size_t)cols, sizeof *p->meant);
    p->taken = fqi_calloc((size_t)cols, sizeof *p->taken);
    if (!p->meant || !p->taken) return fqi_fail_nomem(e, "groups of a layer");
    if (own) {
        FQI_TRY(read_all(r, own, &read, e));
        p->order = read;
        FQI_TRY(check_order(r, own, p->order, cols, p->n_group, e));
    }
    if (c->order && c->order != own && c->order->rank == 1 && c->order->shape[0] == cols) {
        FQI_TRY(read_all(r, c->order, &read, e));
        p->other = read;
    }
    const int32_t *engine = !c->order_read ? NULL : p->other ? p->other : p->order;
    for (int64_t k = 0; k < cols; k++) {
        p->meant[k] = p->order ? p->order[k] : k / c->cut.group;
        p->taken[k] = fqi_load_row(c->load, &c->cut, engine, k);
        *differ = *differ || p->meant[k] != p->taken[k];
    }
    return FQ_OK;
}

/* Is some stored zero point another one than the kernel has built in? */
static fq_status look_at_zeros(fqi_slice_reader *r, parts *p, bool *differ, fq_err *e)
{
    const fqi_quant_module *q = p->q;
    void *read = NULL;
    FQI_TRY(read_all(r, q->part[FQI_PART_ZERO], &read, e));
    p->zero = read;
    for (int64_t g = 0; g < p->n_group && !*differ; g++)
        for (int64_t n = 0; n < q->size.rows && !*differ; n++) *differ = zero_of(p, n, g) != 1 << (q->size.bits - 1);
    return FQ_OK;
}

/* ---- numbers ---- */

typedef struct sums { double whole, diff; } sums;

static int rank_of(const fqi_slice_case *c, int64_t n, int64_t k)
{
    return c->rank + (c->cut.tp > 1 ? (int)(k / (c->cut.cols / c->cut.tp)) : (int)(n / c->rows_each) * c->step);
}

static fq_status lane_create(struct lane *l, int64_t n, fq_err *e)
{
    l->scale = fqi_calloc((size_t)n, sizeof *l->scale);
    l->zero = fqi_calloc((size_t)n, sizeof *l->zero);
    l->group = -1;
    return l->scale && l->zero ? FQ_OK : fqi_fail_nomem(e, "scales of a layer");
}

/* By inputs: group g of all output channels, unless it is there. */
static void lane_of_group(const parts *p, struct lane *l, int64_t g, int middle)
{
    if (l->group == g || g < 0) return;
    for (int64_t n = 0; n < p->q->size.rows; n++) {
        l->scale[n] = scale_of(p, n, g);
        l->zero[n] = middle ? middle : zero_of(p, n, g);
    }
    l->group = g;
}

/* By outputs: all groups of output channel n. */
static void lane_of_row(const parts *p, struct lane *l, int64_t n, int middle)
{
    for (int64_t g = 0; g < p->n_group; g++) {
        l->scale[g] = scale_of(p, n, g);
        l->zero[g] = middle ? middle : zero_of(p, n, g);
    }
}

static void take(parts *p, const fqi_slice_case *c, int64_t n, int64_t k, sums *s, fqi_slice_diff *d)
{
    const bool inputs = by_inputs(p->q), beyond = p->taken[k] < 0;
    const int64_t m = inputs ? n : p->meant[k], t = inputs ? n : p->taken[k];
    const int code = code_of(p, n, k);
    const double whole = (double)p->meant_lane.scale[m] * (code - p->meant_lane.zero[m]);
    const double engine = beyond ? 0 : (double)p->taken_lane.scale[t] * (code - p->taken_lane.zero[t]);
    s->whole += whole * whole;
    p->right[n] += whole * p->x[k];
    if (engine == whole && !beyond) return;
    const double off = fabs(engine - whole);
    const int rank = rank_of(c, n, k);
    s->diff += off * off;
    p->wrong[n] += (engine - whole) * p->x[k];
    d->n_wrong++;
    if (!beyond && off > d->max_abs) d->max_abs = off;
    const bool first = !d->differs || rank < d->rank || (rank == d->rank && (n < d->row || (n == d->row && k < d->col)));
    if (!first) return;
    d->differs = true;
    d->rank = rank;
    d->row = n;
    d->col = k;
    d->scale_row = p->taken[k];
    d->expected = whole;
    d->found = engine;
}

/* middle: the zero point that the kernel has built in; 0: it reads the stored one. */
static void take_block(parts *p, const fqi_slice_case *c, int middle, sums *s, fqi_slice_diff *d)
{
    const bool inputs = by_inputs(p->q);
    const int64_t other = inputs ? p->q->size.rows : p->q->size.cols;
    for (int64_t i = p->first; i < p->first + p->n; i++) {
        if (inputs) {
            lane_of_group(p, &p->meant_lane, p->meant[i], 0);
            lane_of_group(p, &p->taken_lane, p->taken[i], middle);
        } else {
            lane_of_row(p, &p->meant_lane, i, 0);
            lane_of_row(p, &p->taken_lane, i, middle);
        }
        for (int64_t j = 0; j < other; j++) take(p, c, inputs ? j : i, inputs ? i : j, s, d);
    }
}

static fq_status outputs_create(parts *p, fq_err *e)
{
    const fqi_quant_size *size = &p->q->size;
    fqi_random r = fqi_random_seed(SEED);
    p->x = fqi_calloc((size_t)size->cols, sizeof *p->x);
    p->right = fqi_calloc((size_t)size->rows, sizeof *p->right);
    p->wrong = fqi_calloc((size_t)size->rows, sizeof *p->wrong);
    if (!p->x || !p->right || !p->wrong) return fqi_fail_nomem(e, "outputs of a layer");
    for (int64_t k = 0; k < size->cols; k++) p->x[k] = 2 * fqi_random_unit(&r) - 1;
    return FQ_OK;
}

static double product_error(const parts *p)
{
    double whole = 0, diff = 0;
    for (int64_t n = 0; n < p->q->size.rows; n++) {
        whole += p->right[n] * p->right[n];
        diff += p->wrong[n] * p->wrong[n];
    }
    return whole > 0 ? sqrt(diff / whole) : 0;
}

static fq_status measure_all(fqi_slice_reader *r, parts *p, const fqi_slice_case *c, bool middle, fqi_slice_diff *d, fq_err *e)
{
    const fqi_quant_size *size = &p->q->size;
    const bool inputs = by_inputs(p->q);
    const int64_t length = inputs ? size->cols : size->rows, step = block_step(p->q), n_lane = inputs ? size->rows : p->n_group;
    sums s = { 0, 0 };
    d->n_element = (uint64_t)size->rows * (uint64_t)size->cols;
    FQI_TRY(lane_create(&p->meant_lane, n_lane, e));
    FQI_TRY(lane_create(&p->taken_lane, n_lane, e));
    FQI_TRY(outputs_create(p, e));
    for (int64_t at = 0; at < length; at += step) {
        FQI_TRY(read_block(r, p, at, length - at < step ? length - at : step, e));
        take_block(p, c, middle ? 1 << (size->bits - 1) : 0, &s, d);
    }
    d->relative = s.whole > 0 ? sqrt(s.diff / s.whole) : 0;
    d->product = product_error(p);
    return FQ_OK;
}

static fq_status compare(fqi_slice_reader *r, parts *p, const fqi_slice_case *c, bool measure, fqi_slice_diff *d, fq_err *e)
{
    const fqi_quant_module *q = p->q;
    bool groups = false, zeros = false;
    void *read = NULL;
    FQI_TRY(follow(r, p, c, &groups, e));
    const bool middle = c->load->middle && q->sym;
    if (middle && q->part[FQI_PART_ZERO]) FQI_TRY(look_at_zeros(r, p, &zeros, e));
    if (!groups && !zeros) return FQ_OK;
    d->zeros = !groups;
    if (!measure) {
        d->differs = true;
        return FQ_OK;
    }
    if (!p->zero && q->part[FQI_PART_ZERO]) {
        FQI_TRY(read_all(r, q->part[FQI_PART_ZERO], &read, e));
        p->zero = read;
    }
    FQI_TRY(read_all(r, q->part[FQI_PART_SCALE], &p->scale, e));
    return measure_all(r, p, c, middle, d, e);
}

fq_status fqi_slice_compare(fqi_slice_reader *r, const fqi_quant_module *q, const fqi_slice_case *c, bool measure, fqi_slice_diff *out, fq_err *e)
{
    parts p = { .q = q, .kernel = r->kernel };
    fqi_slice_diff d = { .rank = -1, .row = -1, .col = -1 };
    fq_status s = compare(r, &p, c, measure, &d, e);
    parts_free(&p);
    if (s == FQ_OK) *out = d;
    return s;
}

/* ---- heads ---- */

static fq_status dense_heads(fqi_slice_reader *r, const fqi_tensor *t, int64_t dim, bool *zero, int64_t n, fq_err *e)
{
    const size_t size = fq_dtype_bits((fq_dtype)t->dtype) / 8;
    for (int64_t h = 0; h < n; h++) {
        void *read = NULL;
        FQI_TRY(fqi_slice_read(r, t, h * dim, dim, &read, e));
        const unsigned char *x = read;
        const size_t bytes = (size_t)dim * (size_t)t->shape[1] * size;
        zero[h] = true;
        for (size_t i = 0; i < bytes && zero[h]; i++) zero[h] = x[i] == 0 || (size > 0 && i % size == size - 1 && x[i] == 0x80);   /* -0 is one */
        free(read);
    }
    return FQ_OK;
}

static fq_status packed_heads(fqi_slice_reader *r, parts *p, int64_t dim, bool *zero, int64_t n_head, fq_err *e)
{
    const fqi_quant_module *q = p->q;
    const bool inputs = by_inputs(q);
    const int64_t rows = n_head * dim, length = inputs ? q->size.cols : rows, other = inputs ? rows : q->size.cols, step = block_step(q);
    void *read = NULL;
    bool differ = false;
    const fqi_load plain = { .name = "" };
    const fqi_slice_case c = { .load = &plain, .cut = { .cols = q->size.cols, .group = q->size.group_cols, .tp = 1 } };
    FQI_TRY(follow(r, p, &c, &differ, e));
    if (q->part[FQI_PART_ZERO]) {
        FQI_TRY(read_all(r, q->part[FQI_PART_ZERO], &read, e));
        p->zero = read;
    }
    for (int64_t h = 0; h < n_head; h++) zero[h] = true;
    for (int64_t at = 0; at < length; at += step) {
        const int64_t n = length - at < step ? length - at : step;
        FQI_TRY(read_block(r, p, at, n, e));
        for (int64_t i = at; i < at + n; i++)
            for (int64_t j = 0; j < other; j++) {
                const int64_t row = inputs ? j : i, k = inputs ? i : j;
                if (zero[row / dim]) zero[row / dim] = code_of(p, row, k) == zero_of(p, row, p->meant[k]);
            }
    }
    return FQ_OK;
}

fq_status fqi_slice_zero_heads(fqi_slice_reader *r, const fqi_tensor *t, const fqi_quant_module *q, int64_t dim, bool *zero, int64_t n, fq_err *e)
{
    if (!q) return dense_heads(r, t, dim, zero, n, e);
    parts p = { .q = q, .kernel = r->kernel };
    fq_status s = packed_heads(r, &p, dim, zero, n, e);
    parts_free(&p);
    return s;
}
