/* convert_make.c - the bytes of converted tensors, front to back, in bounded memory. See convert_private.h.
 *
 *     rows of the target  ->  which elements they have  ->  those of the source, read as one block  ->  transcoded, or multiplied  ->  band
 *
 * A band is as many rows of the written tensor as fit with the block that they are made from; the writer takes it in pieces. Forms that store the
 * same axis first go in small bands, so that reading and writing overlap. Where the axes change places a band needs a part of every row of the
 * source, so it is as large as memory allows: up to some 50 MB the whole tensor, which is read once and in one go. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/pipeline.h"
#include "job/convert_private.h"
#include "quant/transcode.h"

#define MIB ((uint64_t)1 << 20)
#define BAND_BYTES (112 * MIB)    /* of a band and its block, where axes change places */
#define SMALL_BYTES (8 * MIB)     /* where they do not */
#define CHUNK ((size_t)4 << 20)   /* of one read */
#define UNIT 32                   /* elements that fill whole words, whatever their bits */

struct fqi_convert_maker {
    fqi_slot slot;
    fqi_file file;
    uint32_t shard;               /* that file is of; UINT32_MAX: none */
    unsigned char *block, *band; size_t cap_block, cap_band;
    uint8_t *constant; size_t cap_constant;   /* one line of zero points that are all the same */
    size_t made;                  /* SIZE_MAX: none; the tensor that the band is of */
    int64_t first, n;             /* bytes of it: [first, first + n) */
    fqi_dense *dense;
    fqi_rounding cost;
    int n_thread;
};

/* How a made tensor is cut. Lines: rows of the tensor; units: what a band has a whole number of. */
typedef struct cut {
    const fqi_quant_module *q;
    fqi_part part;
    int64_t n_element;            /* along the first dimension of the target */
    int64_t unit;                 /* elements of it */
    uint64_t unit_bytes, block_bytes;   /* of a unit: written, and read for it */
    bool turns;                   /* the source has the other axis first */
} cut;

static const fqi_part_form *to_form(const fqi_convert *c, fqi_part part) { return &fqi_quant_form_of(c->to->layout)->part[part]; }

static int64_t elements(const cut *x, fqi_along along) { return along == FQI_ALONG_N ? x->q->size.rows : fqi_convert_length_x(x->q, x->part); }

/* Entries that n elements take; groups are the elements of their axis here. */
static int64_t entries(const cut *x, fqi_part_dim d, int64_t n) { return d.unit == FQI_UNIT_WORD ? fqi_quant_words(n, x->q->size.bits) : n; }

static uint64_t cell_bytes(const fqi_tensor *t) { return fq_dtype_bits((fq_dtype)t->dtype) / 8; }

static bool is_listed(fqi_part part) { return part == FQI_PART_ORDER || part == FQI_PART_SHAPE; }   /* small, made at once */

static uint64_t size_of(fq_dtype d) { return fq_dtype_bits(d) / 8; }

static cut cut_of(const fqi_convert *c, size_t made)
{
    const fqi_made *m = &c->made[made];
    cut x = { .q = &c->parts.module[c->made_part[made].module].now, .part = (fqi_part)c->made_part[made].part, .unit = UNIT, .turns = true };
    if (c->to->dense) {
        x.n_element = x.q->size.rows;
        x.unit_bytes = (uint64_t)x.q->size.cols * UNIT * size_of(m->dtype);
        x.block_bytes = (uint64_t)x.q->size.cols * UNIT * sizeof(float);
        x.turns = x.q->form->part[FQI_PART_CODES].dim[0].along != FQI_ALONG_N;
    } else if (is_listed(x.part)) {
        x.n_element = m->shape_pad[0];
        x.unit = x.n_element;
        x.unit_bytes = (uint64_t)x.n_element * size_of(m->dtype);
    } else {
        const fqi_part_form *to = to_form(c, x.part), *from = &x.q->form->part[x.part];
        const fqi_tensor *t = x.q->part[x.part];
        const fqi_along first = (fqi_along)to->dim[0].along, other = (fqi_along)to->dim[1].along;
        x.n_element = elements(&x, first);
        x.unit_bytes = (uint64_t)entries(&x, to->dim[0], UNIT) * (uint64_t)entries(&x, to->dim[1], elements(&x, other)) * size_of(m->dtype);
        for (int d = 0; d < 2 && t; d++) {
            const int64_t n = entries(&x, from->dim[d], from->dim[d].along == first ? UNIT : elements(&x, other));
            x.block_bytes = d == 0 ? (uint64_t)n * cell_bytes(t) : x.block_bytes * (uint64_t)n;
        }
        x.turns = t && from->dim[0].along != first;
    }
    return x;
}

/* Elements of a band: whole units, at least one. */
static int64_t band_elements(const fqi_convert *c, const cut *x)
{
    const uint64_t asked = c->run->memory_bytes, most = x->turns ? BAND_BYTES : SMALL_BYTES, budget = asked != 0 && asked < most ? asked : most;
    const uint64_t each = x->unit_bytes + x->block_bytes, n = each > 0 ? budget / each : 1, all = (uint64_t)((x->n_element + x->unit - 1) / x->unit);
    return (int64_t)(n == 0 ? 1 : n < all ? n : all) * x->unit;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- memory ---------------------------------------------------------------------------------------------------------- */

static int64_t widest(const fqi_convert *c)
{
    int64_t cols = 1;
    for (size_t i = 0; i < c->parts.n_module; i++)
        if (c->parts.module[i].now.size.cols > cols) cols = c->parts.module[i].now.size.cols;
    return cols;
}

uint64_t fqi_convert_bytes(const fqi_convert *c)
{
    uint64_t block = 0, band = 0;
    for (size_t i = 0; i < c->n_made; i++) {
        const cut x = cut_of(c, i);
        const uint64_t n = (uint64_t)(band_elements(c, &x) / x.unit);
        if (n * x.block_bytes > block) block = n * x.block_bytes;
        if (n * x.unit_bytes > band) band = n * x.unit_bytes;
    }
    return block + band + (c->to->dense ? fqi_dense_bytes(c->ckpt, widest(c)) : CHUNK);
}

/* At least n bytes; what was in it is lost. */
static fq_status reserve(void *buffer, size_t *cap, uint64_t n, fq_err *e)
{
    void *old;
    memcpy(&old, buffer, sizeof old);
    if (n <= *cap) return FQ_OK;
    free(old);
    *cap = 0;
    void *new = n <= SIZE_MAX ? fqi_calloc((size_t)n, 1) : NULL;
    memcpy(buffer, &new, sizeof new);
    if (!new) return fqi_fail_nomem(e, "buffers for conversion");
    *cap = (size_t)n;
    return FQ_OK;
}

fq_status fqi_convert_maker_create(fqi_convert *c, fq_err *e)
{
    fqi_convert_maker *m = c->maker = fqi_calloc(1, sizeof *m);
    if (!m) return fqi_fail_nomem(e, "buffers for conversion");
    m->file = FQI_FILE_NONE;
    m->shard = UINT32_MAX;
    m->made = SIZE_MAX;
    m->n_thread = fqi_n_thread(c->run->n_thread);
    return fqi_slot_init(&m->slot, CHUNK, e);
}

void fqi_convert_maker_free(fqi_convert_maker *m)
{
    if (!m) return;
    fqi_slot_free(&m->slot);
    fqi_file_close(&m->file);
    fqi_dense_free(m->dense);
    free(m->block);
    free(m->band);
    free(m->constant);
    free(m);
}

/* ---- reading --------------------------------------------------------------------------------------------------------- */

static fq_status open_shard(fqi_convert *c, uint32_t shard, fq_err *e)
{
    fqi_convert_maker *m = c->maker;
    if (m->shard == shard) return FQ_OK;
    fqi_file_close(&m->file);
    m->shard = UINT32_MAX;
    FQI_TRY(fqi_ckpt_open_shard(c->ckpt, shard, c->run->io, &m->file, e));
    m->shard = shard;
    return FQ_OK;
}

typedef struct place { int64_t at[2], n[2]; } place;   /* entries of a tensor of two dimensions */

/* That part of the tensor, row-major, to m->block. */
static fq_status read_block(fqi_convert *c, const fqi_tensor *t, const place *p, fq_err *e)
{
    fqi_convert_maker *m = c->maker;
    fqi_run run[2];
    fqi_map map[2];
    const fqi_map *maps[FQ_MAX_RANK] = { NULL };
    fqi_gather g;
    const uint64_t bytes = (uint64_t)p->n[0] * (uint64_t)p->n[1] * cell_bytes(t);
    for (int d = 0; d < 2; d++) {
        run[d] = (fqi_run){ p->at[d], p->n[d] };
        map[d] = (fqi_map){ .n_old = t->shape[d], .n_new = p->n[d], .run = &run[d], .n_run = 1 };
        if (p->n[d] != t->shape[d]) maps[d] = &map[d];
    }
    FQI_TRY(reserve(&m->block, &m->cap_block, bytes, e));
    FQI_TRY(open_shard(c, t->shard, e));
    FQI_TRY(fqi_gather_begin(&g, &m->file, t, maps, bytes, e));
    unsigned char *to = m->block;
    do {
        FQI_TRY(fqi_gather_fill(&g, &m->slot, e));
        fqi_slot_assemble(&m->slot);
        memcpy(to, m->slot.data, m->slot.bytes);
        to += m->slot.bytes;
    } while (!m->slot.last);
    return FQ_OK;
}

/* Elements [first, first + n) along the axis `along`, whole words, and all of the other one. */
static fq_status read_elements(fqi_convert *c, const cut *x, fqi_along along, int64_t first, int64_t n, place *p, fq_err *e)
{
    const fqi_part_form *from = &x->q->form->part[x->part];
    for (int d = 0; d < 2; d++) {
        const bool cut_here = from->dim[d].along == along;
        p->at[d] = cut_here ? entries(x, from->dim[d], first) : 0;
        p->n[d] = entries(x, from->dim[d], cut_here ? n : elements(x, (fqi_along)from->dim[d].along));
    }
    return read_block(c, x->q->part[x->part], p, e);
}

/* ---- codes, zero points, scales -------------------------------------------------------------------------------------- */

static fqi_fields fields_along(const fqi_part_form *p)
{
    for (int d = 0; d < p->rank; d++)
        if (p->dim[d].unit == FQI_UNIT_WORD) return p->dim[d].along == FQI_ALONG_N ? FQI_FIELDS_N : FQI_FIELDS_X;
    return FQI_FIELDS_NONE;
}

static fqi_grid grid_of(const fqi_part_form *p, const uint8_t *field, void *data, int64_t line)
{
    return (fqi_grid){ .data = data, .line = (size_t)line, .x_first = p->dim[0].along == FQI_ALONG_K, .along = fields_along(p), .field = field };
}

/* Every zero point of a symmetric module that stores none. */
static fq_status constant_line(fqi_convert *c, const cut *x, fqi_grid *out, fq_err *e)
{
    fqi_convert_maker *m = c->maker;
    FQI_TRY(reserve(&m->constant, &m->cap_constant, (uint64_t)x->q->size.rows, e));
    memset(m->constant, 1 << (x->q->size.bits - 1), (size_t)x->q->size.rows);
    *out = (fqi_grid){ .data = m->constant, .line = 0, .x_first = true, .along = FQI_FIELDS_NONE };
    return FQ_OK;
}

static fq_status make_fields(fqi_convert *c, const cut *x, int64_t first, int64_t n, fq_err *e)
{
    fqi_convert_maker *m = c->maker;
    const fqi_part_form *from = &x->q->form->part[x->part], *to = to_form(c, x->part);
    const bool along_n = to->dim[0].along == FQI_ALONG_N, stored = x->q->part[x->part] != NULL, numbers = x->part == FQI_PART_SCALE;
    const int64_t other = elements(x, (fqi_along)to->dim[1].along);
    fqi_transcoding t = {
        .to = grid_of(to, fqi_quant_form_of(c->to->layout)->field, m->band, entries(x, to->dim[1], other)),
        .n = (size_t)(along_n ? n : other), .x = (size_t)(along_n ? other : n), .bits = numbers ? 0 : x->q->size.bits, .n_thread = m->n_thread,
        .width = numbers ? (size_t)cell_bytes(x->q->part[x->part]) : 1,
    };
    if (stored) {
        place p;
        FQI_TRY(read_elements(c, x, (fqi_along)to->dim[0].along, first, n, &p, e));
        t.from = grid_of(from, x->q->form->field, m->block, p.n[1]);
    } else {
        FQI_TRY(constant_line(c, x, &t.from, e));
    }
    if (x->part == FQI_PART_ZERO) t.add = (stored && x->q->zeros_v1) - c->to->zeros_v1;
    fqi_transcode(&t);
    return FQ_OK;
}

int64_t fqi_convert_zero_groups(const fqi_convert *c, const fqi_quant_module *q)
{
    (void)c;
    const int64_t n = (int64_t)(SMALL_BYTES / 2) / (q->size.rows + 1);
    return n < 1 ? 1 : n;
}

fq_status fqi_convert_zeros(fqi_convert *c, const fqi_quant_module *q, int64_t g0, int64_t n, const uint8_t **out, fq_err *e)
{
    fqi_convert_maker *m = c->maker;
    const cut x = { .q = q, .part = FQI_PART_ZERO };
    place p;
    FQI_TRY(reserve(&m->band, &m->cap_band, (uint64_t)n * (uint64_t)q->size.rows, e));
    FQI_TRY(read_elements(c, &x, FQI_ALONG_K, g0, n, &p, e));
    fqi_transcode(&(fqi_transcoding){
        .from = grid_of(&q->form->part[FQI_PART_ZERO], q->form->field, m->block, p.n[1]),
        .to = { .data = m->band, .line = (size_t)q->size.rows, .x_first = true, .along = FQI_FIELDS_NONE },
        .n = (size_t)q->size.rows, .x = (size_t)n, .bits = q->size.bits, .width = 1, .n_thread = m->n_thread });
    *out = m->band;
    return FQ_OK;
}

/* ---- numbers --------------------------------------------------------------------------------------------------------- */

static fq_status make_numbers(fqi_convert *c, const cut *x, const fqi_made *made, int64_t row, int64_t n, fq_err *e)
{
    fqi_convert_maker *m = c->maker;
    const fqi_tensor *codes = x->q->part[FQI_PART_CODES];
    const uint64_t count = (uint64_t)n * (uint64_t)x->q->size.cols, before = m->cost.n_beyond;
    if (!m->dense) FQI_TRY(fqi_dense_create(c->ckpt, widest(c), c->run, &m->dense, e));
    FQI_TRY(reserve(&m->block, &m->cap_block, count * sizeof(float), e));
    float *x32 = (float *)(void *)m->block;
    FQI_TRY(fqi_dense_rows(m->dense, x->q, row, n, x32, e));
    m->cost.beyond = 0;
    m->cost.n_beyond = 0;
    FQI_TRY(fqi_dense_round(m->dense, x32, (size_t)count, made->dtype, m->n_thread, m->band, &m->cost, e));
    if (m->cost.n_beyond > 0)
        return fqi_fail(e, FQ_E_NUMERIC, FQI_TENSOR(c->ckpt->shard[codes->shard].path, codes->name), "convert-range", "output channel %" PRId64 ", input channel %" PRId64 ": found a weight beyond the range of %s, "
                        "expected what fits; --to bf16 or fp32 holds it", row + (int64_t)(m->cost.beyond / (uint64_t)x->q->size.cols), (int64_t)(m->cost.beyond % (uint64_t)x->q->size.cols), c->to->name);
    m->cost.n_beyond = before;
    return FQ_OK;
}

/* ---- small parts ----------------------------------------------------------------------------------------------------- */

static fq_status make_list(fqi_convert *c, const cut *x, fq_err *e)
{
    unsigned char *to = c->maker->band;
    const fqi_quant_size *s = &x->q->size;
    if (x->part == FQI_PART_SHAPE) {
        const int64_t shape[2] = { s->rows, s->cols };
        memcpy(to, shape, sizeof shape);
        return FQ_OK;
    }
    if (x->q->part[FQI_PART_ORDER]) {
        uint32_t *group;
        FQI_TRY(fqi_order_read(c->ckpt, c->run, x->q->part[FQI_PART_ORDER], &group, e));
        memcpy(to, group, (size_t)s->cols * sizeof *group);
        free(group);
        return FQ_OK;
    }
    for (int64_t k = 0; k < s->cols; k++) {
        const uint32_t g = (uint32_t)(k / s->group_cols);
        memcpy(to + (size_t)k * sizeof g, &g, sizeof g);
    }
    return FQ_OK;
}

/* ---- bands ----------------------------------------------------------------------------------------------------------- */

/* The band that has byte `off` of the tensor. */
static fq_status make_band(fqi_convert *c, size_t made, uint64_t off, fq_err *e)
{
    fqi_convert_maker *m = c->maker;
    const cut x = cut_of(c, made);
    const int64_t band = band_elements(c, &x), units = band / x.unit;
    const int64_t first = (int64_t)(off / (x.unit_bytes * (uint64_t)units)) * band, n = least(band, x.n_element - first);
    m->made = SIZE_MAX;   /* until it is whole */
    FQI_TRY(reserve(&m->band, &m->cap_band, (uint64_t)units * x.unit_bytes, e));
    FQI_TRY(c->to->dense ? make_numbers(c, &x, &c->made[made], first, n, e) : is_listed(x.part) ? make_list(c, &x, e) : make_fields(c, &x, first, n, e));
    m->first = (int64_t)((uint64_t)(first / x.unit) * x.unit_bytes);
    m->n = units * (int64_t)x.unit_bytes;
    m->made = made;
    return FQ_OK;
}

fq_status fqi_convert_fill(void *user, size_t tensor, uint64_t off, uint8_t *to, size_t n, fq_err *e)
{
    fqi_convert *c = user;
    fqi_convert_maker *m = c->maker;
    const size_t made = c->plan.tensor[tensor].made->id;
    while (n > 0) {
        if (m->made != made || off < (uint64_t)m->first || off >= (uint64_t)(m->first + m->n)) FQI_TRY(make_band(c, made, off, e));
        const uint64_t left = (uint64_t)(m->first + m->n) - off;
        const size_t k = left < n ? (size_t)left : n;
        memcpy(to, m->band + (off - (uint64_t)m->first), k);
        to += k;
        off += k;
        n -= k;
    }
    return FQ_OK;
}

void fqi_convert_cost(const fqi_convert *c, fqi_rounding *out) { *out = c->maker->cost; }
