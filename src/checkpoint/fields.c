/* fields.c - see fields.h.
 *
 *     qweight of down_proj [K / 8, N]     a row from the fields of eight rows            merge_rows
 *     qweight of gate_proj [K / 8, N]     columns of one row                             deal_columns
 *     qzeros of gate_proj  [G, N / 8]     fields of one row                              deal_fields
 *
 * A row is the unit of work. Its sources are pointers into the rows that are held, or into `spare` for those that are not. */
#include "checkpoint/fields.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/checked.h"
#include "base/mem.h"

#define MAX_PER_WORD 16
#define WINDOW_BYTES ((uint64_t)4 << 20)
#define BLOCK 2048             /* words of a row that go through all fields while they lie in the first cache */
#define NO_ROW INT64_MAX

struct fqi_fields {
    fqi_fields_request r;
    size_t item;                    /* bytes of an entry */
    int64_t rows, cols;             /* entries of the new tensor */
    int64_t rows_old, cols_old;
    unsigned bits[2];               /* of a field, by axis; 0: entries are whole */
    unsigned shift[MAX_PER_WORD];   /* of index j of a word, for the axis that has words */
    size_t row_bytes, row_bytes_old;
    bool any_order;                 /* rows are asked for in any order */
    /* rows [held, held + n_held) of the source */
    unsigned char *hull, *data;     /* as fqi_file_read_bulk wants it; data points into it */
    int64_t held, n_held, cap_held;
    unsigned char *spare;           /* MAX_PER_WORD rows of the source, or none */
    unsigned char *merged;          /* a row that was put together from others */
    unsigned char *row;             /* a new row... */
    int64_t in_hand;                /* ...which one; NO_ROW: none */
    XXH3_state_t *hash;             /* of rows [0, n_hashed) of the source */
    int64_t n_hashed;
};

/* ---- what is asked ---- */

static fq_status check_axis(const fqi_fields_request *r, int d, int64_t length, fq_err *e)
{
    const fqi_fields_axis *a = &r->axis[d];
    const fqi_tensor *t = r->tensor;
    if (a->per_word < 1 || a->per_word > MAX_PER_WORD || a->n_old < 0 || a->n < 0 || a->n_old / a->per_word != length || a->n_old % a->per_word != 0 || a->n % a->per_word != 0 || (!a->of && a->n != a->n_old))
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(r->file->path, t->name), "tensor-shape", "found %" PRId64 " in dimension %d, expected what holds %" PRId64 " channels in whole words", length, t->rank == 2 ? d : 0, a->n_old);
    for (int64_t i = 0; a->of && i < a->n; i++)
        if (a->of[i] < -1 || a->of[i] >= a->n_old)
            return fqi_fail(e, FQ_E_USAGE, FQI_TENSOR(r->file->path, t->name), "map", "found channel %" PRId32 ", expected -1 to %" PRId64, a->of[i], a->n_old - 1);
    return FQ_OK;
}

static fq_status check(const fqi_fields_request *r, fq_err *e)
{
    const fqi_tensor *t = r->tensor;
    if (t->stride || t->byteswap)
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(r->file->path, t->name), "tensor-stride", "found strides or another byte order, expected a tensor that lies together");
    const bool words = r->axis[0].per_word > 1 || r->axis[1].per_word > 1;
    if ((t->rank != 1 && t->rank != 2) || fq_dtype_bits((fq_dtype)t->dtype) % 8 != 0 || (words && fq_dtype_bits((fq_dtype)t->dtype) != 32))
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(r->file->path, t->name), "tensor-shape", "found %s of %d dimensions, expected one or two of whole bytes", fq_dtype_name((fq_dtype)t->dtype), t->rank);
    FQI_TRY(check_axis(r, 0, t->rank == 2 ? t->shape[0] : 1, e));
    return check_axis(r, 1, t->shape[t->rank - 1], e);
}

/* Do the source rows only ever go forward? Then a window that slides serves them all. */
static bool goes_forward(const fqi_fields_axis *a)
{
    int32_t last = 0;
    if (!a->of) return true;
    if (a->per_word > 1) return false;
    for (int64_t i = 0; i < a->n; i++) {
        if (a->of[i] >= 0 && a->of[i] < last) return false;
        if (a->of[i] >= 0) last = a->of[i];
    }
    return true;
}

/* Products are of numbers that are bounded by a tensor's bytes, but for the new shape. */
static fq_status measure(fqi_fields *f, fq_err *e)
{
    const fqi_fields_axis *row = &f->r.axis[0], *col = &f->r.axis[1];
    f->item = fq_dtype_bits((fq_dtype)f->r.tensor->dtype) / 8;
    f->rows = row->n / row->per_word;
    f->cols = col->n / col->per_word;
    f->rows_old = row->n_old / row->per_word;
    f->cols_old = col->n_old / col->per_word;
    for (int d = 0; d < 2; d++) f->bits[d] = f->r.axis[d].per_word > 1 ? 32 / f->r.axis[d].per_word : 0;
    const unsigned per_word = row->per_word > 1 ? row->per_word : col->per_word;
    for (unsigned j = 0; j < per_word; j++) f->shift[j] = (f->r.field ? f->r.field[j] : j) * (32 / per_word);
    if (!fqi_mul_size((size_t)f->cols, f->item, &f->row_bytes) || !fqi_mul_size((size_t)f->cols_old, f->item, &f->row_bytes_old)) return fqi_fail_nomem(e, "row of channels");
    f->any_order = !goes_forward(row);
    const uint64_t most = f->any_order ? f->r.memory : WINDOW_BYTES < f->r.memory ? WINDOW_BYTES : f->r.memory;
    f->cap_held = f->row_bytes_old > 0 ? (int64_t)(most / f->row_bytes_old) : 1;
    if (f->cap_held < 1) f->cap_held = 1;
    if (f->cap_held > f->rows_old) f->cap_held = f->rows_old;
    return FQ_OK;
}

fq_status fqi_fields_open(const fqi_fields_request *r, fqi_fields **out, fq_err *e)
{
    FQI_TRY(check(r, e));
    fqi_fields *f = fqi_calloc(1, sizeof *f);
    if (!f) return fqi_fail_nomem(e, "row of channels");
    f->r = *r;
    f->in_hand = NO_ROW;
    fq_status s = measure(f, e);
    if (s == FQ_OK) {
        const size_t hull = ((size_t)f->cap_held * f->row_bytes_old + 3 * FQI_IO_ALIGN) / FQI_IO_ALIGN * FQI_IO_ALIGN;
        f->hull = aligned_alloc(FQI_IO_ALIGN, hull);
        f->row = malloc(f->row_bytes + 1);
        f->hash = XXH3_createState();
        if (f->hash) XXH3_128bits_reset(f->hash);
        if (r->axis[0].per_word > 1) f->merged = malloc(f->row_bytes_old + 1);
        if (f->any_order && f->cap_held < f->rows_old) f->spare = fqi_calloc(MAX_PER_WORD, f->row_bytes_old + 1);
        if (!f->hull || !f->row || !f->hash || (r->axis[0].per_word > 1 && !f->merged) || (f->any_order && f->cap_held < f->rows_old && !f->spare)) s = fqi_fail_nomem(e, "row of channels");
    }
    if (s != FQ_OK) fqi_fields_close(f);
    else *out = f;
    return s;
}

void fqi_fields_close(fqi_fields *f)
{
    if (!f) return;
    free(f->hull);
    free(f->spare);
    free(f->merged);
    free(f->row);
    XXH3_freeState(f->hash);
    free(f);
}

bool fqi_fields_hash(const fqi_fields *f, uint64_t hash[2])
{
    if (f->n_hashed < f->rows_old) return false;
    const XXH128_hash_t h = XXH3_128bits_digest(f->hash);
    hash[0] = h.high64;
    hash[1] = h.low64;
    return true;
}

/* ---- source rows ---- */

static fq_status hold(fqi_fields *f, int64_t first, fq_err *e)
{
    const int64_t left = f->rows_old - first;
    f->n_held = 0;
    FQI_TRY(fqi_file_read_bulk(f->r.file, f->hull, (size_t)(left < f->cap_held ? left : f->cap_held) * f->row_bytes_old, f->r.tensor->off + (uint64_t)first * f->row_bytes_old, &f->data, e));
    f->held = first;
    f->n_held = left < f->cap_held ? left : f->cap_held;
    if (first == f->n_hashed) {
        XXH3_128bits_update(f->hash, f->data, (size_t)f->n_held * f->row_bytes_old);
        f->n_hashed += f->n_held;
    }
    return FQ_OK;
}

/* Row `row` of the source; `slot`: which of the rows that are needed together it is. */
static fq_status source_row(fqi_fields *f, int64_t row, unsigned slot, const unsigned char **out, fq_err *e)
{
    if (f->n_held == 0 || (!f->any_order && (row < f->held || row >= f->held + f->n_held))) FQI_TRY(hold(f, f->any_order ? 0 : row, e));
    if (row >= f->held && row < f->held + f->n_held) {
        *out = f->data + (size_t)(row - f->held) * f->row_bytes_old;
        return FQ_OK;
    }
    unsigned char *to = f->spare + slot * f->row_bytes_old;
    *out = to;
    return fqi_file_read(f->r.file, to, f->row_bytes_old, f->r.tensor->off + (uint64_t)row * f->row_bytes_old, e);
}

/* ---- rows from fields of rows ---- */

typedef struct merge_field { const unsigned char *src; unsigned from, to; } merge_field;   /* src NULL: the fill */

static uint32_t word_at(const unsigned char *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* One field of n words. Shifted once: the two loops are the two directions. */
static void merge(uint32_t *restrict out, const uint32_t *restrict in, size_t n, const merge_field *m, uint32_t field)
{
    const uint32_t mask = field << m->to;
    if (m->from >= m->to) {
        const unsigned by = m->from - m->to;
#pragma omp simd
        for (size_t i = 0; i < n; i++) out[i] |= in[i] >> by & mask;
        return;
    }
    const unsigned by = m->to - m->from;
#pragma omp simd
    for (size_t i = 0; i < n; i++) out[i] |= in[i] << by & mask;
}

static void merge_block(fqi_fields *f, const merge_field *m, unsigned n_field, size_t at, size_t n)
{
    uint32_t out[BLOCK], in[BLOCK], empty = 0;
    const uint32_t field = (uint32_t)((UINT64_C(1) << f->bits[0]) - 1);
    for (unsigned j = 0; j < n_field; j++)
        if (!m[j].src) empty |= word_at(f->r.fill) & field << m[j].to;
    for (size_t i = 0; i < n; i++) out[i] = empty;
    for (unsigned j = 0; j < n_field; j++) {
        if (!m[j].src) continue;
        memcpy(in, m[j].src + at * sizeof *in, n * sizeof *in);   /* a tensor may stand at any byte of its file */
        merge(out, in, n, &m[j], field);
    }
    memcpy(f->merged + at * sizeof *out, out, n * sizeof *out);
}

static fq_status merge_rows(fqi_fields *f, int64_t row, fq_err *e)
{
    const fqi_fields_axis *a = &f->r.axis[0];
    merge_field m[MAX_PER_WORD];
    for (unsigned j = 0; j < a->per_word; j++) {
        const int64_t i = row * a->per_word + j, src = a->of ? a->of[i] : i;
        m[j] = (merge_field){ .src = NULL, .to = f->shift[j] };
        if (src < 0) continue;
        m[j].from = f->shift[src % a->per_word];
        FQI_TRY(source_row(f, src / a->per_word, j, &m[j].src, e));
    }
    for (size_t at = 0; at < (size_t)f->cols_old; at += BLOCK) {
        const size_t left = (size_t)f->cols_old - at;
        merge_block(f, m, a->per_word, at, left < BLOCK ? left : BLOCK);
    }
    return FQ_OK;
}

/* ---- columns ---- */

static void fill_row(const fqi_fields *f)
{
    for (size_t i = 0; i < f->row_bytes; i++) f->row[i] = f->item <= 4 ? f->r.fill[i % f->item] : 0;
}

#define DEAL(type) \
    static void deal_##type(const fqi_fields_axis *a, const unsigned char *in, unsigned char *out, type empty) \
    { \
        for (int64_t c = 0; c < a->n; c++) { \
            type x = empty; \
            if (a->of[c] >= 0) memcpy(&x, in + (size_t)a->of[c] * sizeof x, sizeof x); \
            memcpy(out + (size_t)c * sizeof x, &x, sizeof x); \
        } \
    }
DEAL(uint8_t)
DEAL(uint16_t)
DEAL(uint32_t)
DEAL(uint64_t)
#undef DEAL

static void deal_columns(const fqi_fields *f, const unsigned char *in)
{
    const fqi_fields_axis *a = &f->r.axis[1];
    uint16_t half;
    memcpy(&half, f->r.fill, sizeof half);
    switch (f->item) {
    case 1: deal_uint8_t(a, in, f->row, f->r.fill[0]); return;
    case 2: deal_uint16_t(a, in, f->row, half); return;
    case 4: deal_uint32_t(a, in, f->row, word_at(f->r.fill)); return;
    default: deal_uint64_t(a, in, f->row, 0); return;
    }
}

static void deal_fields(const fqi_fields *f, const unsigned char *in)
{
    const fqi_fields_axis *a = &f->r.axis[1];
    const uint32_t field = (uint32_t)((UINT64_C(1) << f->bits[1]) - 1), empty = word_at(f->r.fill);
    const int32_t *of = a->of;
    for (int64_t c = 0; c < f->cols; c++) {
        uint32_t word = 0;
        for (unsigned j = 0; j < a->per_word; j++, of++) {
            const uint32_t i = (uint32_t)*of;
            const uint32_t x = *of < 0 ? empty >> f->shift[j] : word_at(in + (size_t)(i / a->per_word) * sizeof x) >> f->shift[i % a->per_word];
            word |= (x & field) << f->shift[j];
        }
        memcpy(f->row + (size_t)c * sizeof word, &word, sizeof word);
    }
}

/* ---- reading ---- */

/* A new row: in f->row, or where the source has it. */
static fq_status make_row(fqi_fields *f, int64_t row, const unsigned char **out, fq_err *e)
{
    const fqi_fields_axis *a = &f->r.axis[0], *b = &f->r.axis[1];
    const unsigned char *in;
    if (a->per_word > 1) {
        FQI_TRY(merge_rows(f, row, e));
        in = f->merged;
    } else {
        const int64_t src = a->of ? a->of[row] : row;
        if (src < 0) {
            fill_row(f);
            *out = f->row;
            return FQ_OK;
        }
        FQI_TRY(source_row(f, src, 0, &in, e));
    }
    *out = b->of ? f->row : in;
    if (b->of && b->per_word > 1) deal_fields(f, in);
    else if (b->of) deal_columns(f, in);
    return FQ_OK;
}

fq_status fqi_fields_read(fqi_fields *f, uint64_t off, unsigned char *out, size_t n, fq_err *e)
{
    while (n > 0) {
        const int64_t row = (int64_t)(off / f->row_bytes);
        const size_t at = (size_t)(off % f->row_bytes), part = n < f->row_bytes - at ? n : f->row_bytes - at;
        const unsigned char *data = f->row;
        if (row != f->in_hand) {
            f->in_hand = NO_ROW;
            FQI_TRY(make_row(f, row, &data, e));
            if (data != f->row && part < f->row_bytes) {   /* the rest of it is asked for later, when the source's row may be gone */
                memcpy(f->row, data, f->row_bytes);
                data = f->row;
            }
            if (data == f->row) f->in_hand = row;
        }
        memcpy(out, data + at, part);
        off += part;
        out += part;
        n -= part;
    }
    return FQ_OK;
}
