/* unpack.c - numbers from the codes of a quantized module: what an engine that holds scales in the served type computes with.
 *
 *     W[n][k] = scale[group of k][n] * (code[n][k] - zero[group of k][n])
 *
 * served F32: one product in fp32. F16 and BF16: vLLM and SGLang copy scales into parameters of the type of the activations, so scales are
 * rounded to it first and the product after; code - zero is exact in both (at most 8 bits).
 *
 * A module goes through in blocks of output channels x input channels, whose codes lie in one buffer; of the scales and zeros only those
 * of the groups that occur in a block are read, in tiles of output channels where these are many (any g_idx). Memory is bounded by the
 * buffers, and codes are read once. Everything in the tensors is checked: groups in range, scales finite, zero points unambiguous.
 *
 * Zero points of format v1 are stored minus one, and readers disagree on what all bits set means (0, 2^bits, or a carry into the next one:
 * AutoGPTQ, old vLLM, GPTQModel): refused, like zero points of a symmetric model that are not in the middle (some kernels never read them). */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "model/weights_table.h"
#include "quant/pack.h"

#define LANES 16               /* output channels side by side */
#define DEPTH 64               /* input channels of a tile in cache */
#define UNIT 32                /* input channels that fill whole words, whatever their bits */
#define SLACK 64               /* bytes behind a buffer that whole vectors may read */
#define ZERO_FIELDS(n) ((n) + UNIT)

typedef struct block {
    fqi_materialiser *m;
    const fqi_quant_module *q;
    int64_t row, n_row, col, n_col;      /* of the weight */
    size_t n_group;                      /* that occur in it */
    int64_t tile, n_tile;                /* rows that scales and zeros are there for, counted from `row` */
    bool safe;                           /* no product can leave the range of the served type */
} block;

/* ---- buffers ---- */

static size_t n_scale(const fqi_weights_table *t) { return t->chunk / 8; }

static size_t n_channel(const fqi_weights_table *t)
{
    const size_t most = n_scale(t) / UNIT * UNIT;
    return t->module_cols < (int64_t)most ? ((size_t)t->module_cols + UNIT - 1) / UNIT * UNIT : most;
}

uint64_t fqi_unpacker_bytes(const fqi_weights_table *t)
{
    if (t->n_module == 0) return 0;
    return (uint64_t)t->chunk + n_scale(t) * (2 * sizeof(float) + 2) + ZERO_FIELDS(0) + 5 * SLACK + n_channel(t) * 2 * sizeof(uint32_t);
}

fq_status fqi_unpacker_init(fqi_unpacker *u, const fqi_weights_table *t, fq_err *e)
{
    *u = (fqi_unpacker){ .n_word = t->chunk / sizeof(uint32_t), .n_scale = n_scale(t), .n_channel = n_channel(t) };
    if (t->n_module == 0) return FQ_OK;
    u->word = fqi_calloc(1, t->chunk + SLACK);
    u->raw = fqi_calloc(1, u->n_scale * sizeof(float) + SLACK);
    u->scale = fqi_calloc(1, u->n_scale * sizeof(float) + SLACK);
    u->zero = fqi_calloc(1, u->n_scale + SLACK);
    u->field = fqi_calloc(1, ZERO_FIELDS(u->n_scale) + SLACK);
    u->group_at = fqi_calloc(u->n_channel, sizeof *u->group_at);
    u->group = fqi_calloc(u->n_channel, sizeof *u->group);
    if (u->word && u->raw && u->scale && u->zero && u->field && u->group_at && u->group) return FQ_OK;
    return fqi_fail_nomem(e, "buffers for codes");
}

void fqi_unpacker_free(fqi_unpacker *u)
{
    free(u->word);
    free(u->raw);
    free(u->scale);
    free(u->zero);
    free(u->field);
    free(u->group_at);
    free(u->group);
    *u = (fqi_unpacker){ 0 };
}

/* ---- reading ---- */

static const fqi_where *where(const block *b, const fqi_tensor *t, fqi_where *out)
{
    *out = *FQI_TENSOR(b->m->ckpt->shard[t->shard].path, t->name);
    return out;
}

static int64_t words(int64_t n, int bits) { return n / 32 * bits + (n % 32 * bits + 31) / 32; }

/* The group of every input channel of the block to group_at, which must be one of the module's. */
static fq_status read_order(block *b, fq_err *e)
{
    fqi_unpacker *u = &b->m->unpacker;
    const fqi_quant_module *q = b->q;
    const int64_t n_group = q->cols / q->group_size;
    fqi_where at;
    if (!q->order) {
        for (int64_t k = 0; k < b->n_col; k++) u->group_at[k] = (uint32_t)((b->col + k) / q->group_size);
        return FQ_OK;
    }
    const fqi_view v = { .tensor = q->order, .row = b->col, .n_row = b->n_col, .n_col = 1 };
    FQI_TRY(fqi_materialiser_read(b->m, &v, u->group_at, e));
    for (int64_t k = 0; k < b->n_col; k++)
        if (u->group_at[k] >= (uint64_t)n_group)
            return fqi_fail(e, FQ_E_INPUT, where(b, q->order, &at), "packed-order", "found group %" PRId32 " for input channel %" PRId64 ", expected 0 to %" PRId64, (int32_t)u->group_at[k],
                            b->col + k, n_group - 1);
    return FQ_OK;
}

static int by_value(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Groups that occur, ascending, to group; group_at from numbers of groups to places in it. */
static void compact_order(block *b)
{
    fqi_unpacker *u = &b->m->unpacker;
    const size_t n = (size_t)b->n_col;
    bool ascending = true;
    for (size_t k = 1; k < n && ascending; k++) ascending = u->group_at[k] >= u->group_at[k - 1];
    memcpy(u->group, u->group_at, n * sizeof *u->group);
    if (!ascending) qsort(u->group, n, sizeof *u->group, by_value);
    b->n_group = 0;
    for (size_t k = 0; k < n; k++)
        if (b->n_group == 0 || u->group[b->n_group - 1] != u->group[k]) u->group[b->n_group++] = u->group[k];
    for (size_t k = 0; k < n; k++) {
        if (k > 0 && u->group[u->group_at[k - 1]] == u->group_at[k]) {
            u->group_at[k] = u->group_at[k - 1];
            continue;
        }
        const uint32_t *found = bsearch(&u->group_at[k], u->group, b->n_group, sizeof *u->group, by_value);
        u->group_at[k] = (uint32_t)(found - u->group);
    }
}

/* Groups [from, from + n) are consecutive in the file too. */
static size_t run_of_groups(const block *b, size_t from)
{
    const uint32_t *group = b->m->unpacker.group;
    size_t n = 1;
    while (from + n < b->n_group && group[from + n] == group[from] + n) n++;
    return n;
}

/* Element [group][row] of the tile, whatever the layout. */
static size_t place(const block *b, size_t group, int64_t row)
{
    return b->q->layout == FQI_QL_GPTQ ? group * (size_t)b->n_tile + (size_t)row : (size_t)row * b->n_group + group;
}

/* A tensor of groups x rows (gptq) or rows x groups, some of each. */
static fq_status read_groups(block *b, const fqi_tensor *t, size_t from, size_t n, int64_t row, int64_t n_row, void *out, fq_err *e)
{
    const int64_t group = b->m->unpacker.group[from];
    fqi_view v = { .tensor = t, .row = group, .n_row = (int64_t)n, .col = row, .n_col = n_row };
    if (b->q->layout == FQI_QL_CT) v = (fqi_view){ .tensor = t, .row = row, .n_row = n_row, .col = group, .n_col = (int64_t)n };
    return fqi_materialiser_read(b->m, &v, out, e);
}

/* The first of the tile that is not finite; `rounded`: they were, before they were rounded. */
static fq_status check_scales(const block *b, bool rounded, fq_err *e)
{
    const fqi_unpacker *u = &b->m->unpacker;
    fqi_where at;
    for (size_t g = 0; g < b->n_group; g++)
        for (int64_t r = 0; r < b->n_tile; r++) {
            const float x = u->scale[place(b, g, r)];
            if (isfinite(x)) continue;
            return fqi_fail(e, FQ_E_NUMERIC, where(b, b->q->scale, &at), rounded ? "served-range" : "non-finite", "group %" PRIu32 ", output channel %" PRId64 ": found %s, expected %s%s", u->group[g],
                            b->row + b->tile + r, rounded ? "a scale beyond the range" : isnan(x) ? "NaN" : x > 0 ? "infinity" : "-infinity", rounded ? "what fits into " : "finite scales",
                            rounded ? fq_dtype_name(b->m->served) : "");
        }
    return FQ_OK;
}

/* Scales of the tile, rounded to the served type. */
static fq_status read_scales(block *b, fq_err *e)
{
    fqi_unpacker *u = &b->m->unpacker;
    const fq_dtype stored = (fq_dtype)b->q->scale->dtype;
    const float most = b->m->served == FQ_DTYPE_F16 ? 65504.0f : b->m->served == FQ_DTYPE_BF16 ? 0x1.fep127f : FLT_MAX, widest = (float)((1u << b->q->bits) - 1);
    const int64_t row0 = b->row + b->tile;
    float largest = 0;
    for (size_t g = 0, n; g < b->n_group; g += n) {
        n = run_of_groups(b, g);
        FQI_TRY(read_groups(b, b->q->scale, g, n, row0, b->n_tile, u->raw, e));
        float *to = b->q->layout == FQI_QL_GPTQ ? u->scale + g * (size_t)b->n_tile : u->scale;
        if (b->q->layout == FQI_QL_GPTQ || n == b->n_group) {
            b->m->kernel->widen(u->raw, stored, to, n * (size_t)b->n_tile);
            continue;
        }
        for (int64_t r = 0; r < b->n_tile; r++)
            b->m->kernel->widen(u->raw + (size_t)r * n * (fq_dtype_bits(stored) / 8), stored, u->scale + place(b, g, r), n);
    }
    const size_t count = b->n_group * (size_t)b->n_tile;
    FQI_TRY(check_scales(b, false, e));
    for (size_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(u->scale[i]));
    b->m->kernel->round_to(u->scale, b->m->served, count);
    b->safe = largest <= most / widest / 2;
    return b->safe ? FQ_OK : check_scales(b, true, e);
}

static fq_status bad_zero(const block *b, size_t group, int64_t row, unsigned stored, fq_err *e)
{
    const fqi_quant_module *q = b->q;
    const unsigned middle = 1u << (q->bits - 1);
    fqi_where at;
    (void)where(b, q->zero, &at);
    if (q->sym)
        return fqi_fail(e, FQ_E_INPUT, &at, "packed-zero", "group %" PRIu32 ", output channel %" PRId64 ": found %u as it is stored, expected %u: config.json says symmetric%s",
                        b->m->unpacker.group[group], row, stored, q->zeros_v1 ? middle - 1 : middle, q->layout == FQI_QL_CT ? "" : q->zeros_v1 ? ", checkpoint_format gptq" : ", checkpoint_format gptq_v2");
    return fqi_fail(e, FQ_E_INPUT, &at, "packed-zero", "group %" PRIu32 ", output channel %" PRId64 ": found %u as it is stored, expected less: readers of format gptq disagree about it",
                    b->m->unpacker.group[group], row, stored);
}

/* Zero points of one group of the tile: `word` is its first word, of the row that is `skip` before the tile's first. */
static fq_status take_zeros(block *b, size_t group, const uint32_t *word, size_t stride, int64_t skip, fq_err *e)
{
    fqi_unpacker *u = &b->m->unpacker;
    const unsigned full = (1u << b->q->bits) - 1, middle = 1u << (b->q->bits - 1), add = b->q->zeros_v1;
    fqi_unpack_fields(b->q->bits, word, stride, (size_t)(skip + b->n_tile), u->field);
    for (int64_t r = 0; r < b->n_tile; r++) {
        const unsigned stored = u->field[skip + r];
        if ((add && stored == full) || (b->q->sym && stored + add != middle)) return bad_zero(b, group, b->row + b->tile + r, stored, e);
        u->zero[place(b, group, r)] = (uint8_t)(stored + add);
    }
    return FQ_OK;
}

static fq_status read_zeros(block *b, fq_err *e)
{
    fqi_unpacker *u = &b->m->unpacker;
    const int bits = b->q->bits;
    const int64_t row = b->row + b->tile, begin = row / UNIT * UNIT, first = begin / UNIT * bits, n_word = words(row + b->n_tile - begin, bits);
    if (!b->q->zero) {
        memset(u->zero, 1 << (bits - 1), b->n_group * (size_t)b->n_tile);
        return FQ_OK;
    }
    /* at most bits / 32 words for each of n_tile + 31 rows: fits, a run of groups at a time, or one by one */
    for (size_t g = 0, n; g < b->n_group; g += n) {
        n = run_of_groups(b, g);
        const size_t fit = u->n_scale / (size_t)n_word;
        if (n > fit) n = fit;
        FQI_TRY(read_groups(b, b->q->zero, g, n, first, n_word, u->raw, e));
        const uint32_t *word = (const uint32_t *)(const void *)u->raw;
        const bool gptq = b->q->layout == FQI_QL_GPTQ;
        for (size_t i = 0; i < n; i++) FQI_TRY(take_zeros(b, g + i, gptq ? word + i * (size_t)n_word : word + i, gptq ? 1 : n, row - begin, e));
    }
    return FQ_OK;
}

/* ---- numbers ---- */

/* A value that the served type cannot hold; asked only where scales are that large. */
static fq_status check_value(const block *b, float value, int64_t row, int64_t col, fq_err *e)
{
    fqi_where at;
    if (isfinite(value)) return FQ_OK;
    return fqi_fail(e, FQ_E_NUMERIC, where(b, b->q->codes, &at), "served-range", "output channel %" PRId64 ", input channel %" PRId64 ": found a weight beyond the range, expected what fits into %s", row, col,
                    fq_dtype_name(b->m->served));
}

/* One word of each of LANES columns -> one code of each; `next` is the word below, which has the other part of a code of 3 bits. */
static inline void lanes_of(const uint32_t *word, const uint32_t *next, unsigned shift, unsigned mask, const float *scale, const uint8_t *zero, float *restrict out)
{
    int32_t code[LANES];
    for (size_t l = 0; l < LANES; l++) code[l] = (int32_t)(word[l] >> shift & mask);
    if (next)
        for (size_t l = 0; l < LANES; l++) code[l] = (int32_t)((word[l] >> shift | next[l] << (32 - shift)) & mask);
    for (size_t l = 0; l < LANES; l++) out[l] = scale[l] * (float)(code[l] - (int32_t)zero[l]);
}

static void scatter32(const float *t, size_t n_lane, size_t n, float *out, size_t ld)
{
    for (size_t l = 0; l < n_lane; l++)
        for (size_t k = 0; k < n; k++) out[l * ld + k] = t[k * LANES + l];
}

static void scatter16(const uint16_t *t, size_t n_lane, size_t n, uint16_t *out, size_t ld)
{
    for (size_t l = 0; l < n_lane; l++)
        for (size_t k = 0; k < n; k++) out[l * ld + k] = t[k * LANES + l];
}

/* LANES rows from row r of the tile on, all input channels of the block. to: element (r, first channel) of the result. */
static fq_status columns_of(const block *b, int64_t r, void *to, fq_err *e)
{
    const fqi_unpacker *u = &b->m->unpacker;
    const size_t n_lane = b->n_tile - r < LANES ? (size_t)(b->n_tile - r) : LANES, ld = (size_t)b->n_row, bits = (size_t)b->q->bits, n = (size_t)b->n_col;
    const unsigned mask = (1u << bits) - 1;
    const uint32_t *word = u->word + b->tile + r;
    float t[DEPTH * LANES];
    uint16_t narrow[DEPTH * LANES];
    for (size_t k0 = 0; k0 < n; k0 += DEPTH) {
        const size_t depth = n - k0 < DEPTH ? n - k0 : DEPTH;
        for (size_t k = 0; k < depth; k++) {
            const size_t at = (k0 + k) * bits, w = at / 32, shift = at % 32, s = place(b, u->group_at[k0 + k], r);
            lanes_of(word + w * ld, shift + bits > 32 ? word + (w + 1) * ld : NULL, (unsigned)shift, mask, u->scale + s, u->zero + s, t + k * LANES);
        }
        b->m->kernel->round_to(t, b->m->served, depth * LANES);
        for (size_t k = 0; k < depth && !b->safe; k++)
            for (size_t l = 0; l < n_lane; l++) FQI_TRY(check_value(b, t[k * LANES + l], b->row + b->tile + r + (int64_t)l, b->col + (int64_t)(k0 + k), e));
        if (b->m->served == FQ_DTYPE_F32) {
            scatter32(t, n_lane, depth, (float *)to + k0, (size_t)b->q->cols);
            continue;
        }
        fqi_weights_narrow(t, b->m->served, narrow, depth * LANES);
        scatter16(narrow, n_lane, depth, (uint16_t *)to + k0, (size_t)b->q->cols);
    }
    return FQ_OK;
}

static inline void words_to_fields(unsigned bits, const uint32_t *word, size_t n, uint8_t *out)
{
    const unsigned each = 32 / bits, mask = (1u << bits) - 1;
    for (size_t w = 0; w * each < n; w++)
        for (unsigned i = 0; i < each; i++) out[w * each + i] = (uint8_t)(word[w] >> (bits * i) & mask);
}

/* n codes from a word's beginning on; up to 15 more are written. */
static void fields_of(unsigned bits, const uint32_t *word, size_t n, uint8_t *out)
{
    switch (bits) {   /* a known number of bits makes a vector of the loop */
    case 2: words_to_fields(2, word, n, out); break;
    case 4: words_to_fields(4, word, n, out); break;
    case 8: words_to_fields(8, word, n, out); break;
    default: fqi_unpack_fields((int)bits, word, 1, n, out); break;
    }
}

/* Row r of the tile of compressed-tensors codes, all input channels of the block. */
static fq_status row_of(const block *b, int64_t r, void *to, fq_err *e)
{
    enum { STEP = 4 * DEPTH };
    const fqi_unpacker *u = &b->m->unpacker;
    const size_t n = (size_t)b->n_col, bits = (size_t)b->q->bits;
    const uint32_t *word = u->word + (size_t)(b->tile + r) * (size_t)words(b->n_col, b->q->bits);
    const float *scale = u->scale + place(b, 0, r);
    const uint8_t *zero = u->zero + place(b, 0, r);
    uint8_t code[STEP + UNIT] = { 0 };
    float t[STEP + LANES];
    for (size_t k0 = 0; k0 < n; k0 += STEP) {
        const size_t step = n - k0 < STEP ? n - k0 : STEP;
        const uint32_t *group = u->group_at + k0;
        fields_of((unsigned)bits, word + k0 / 32 * bits, step, code);
        for (size_t k = 0, end; k < step; k = end) {
            for (end = k + 1; end < step && group[end] == group[k];) end++;
            const float s = scale[group[k]];
            const int32_t z = zero[group[k]];
            for (size_t i = k; i < end; i += LANES)   /* past the end: the next group is written over it */
                for (size_t l = 0; l < LANES; l++) t[i + l] = s * (float)((int32_t)code[i + l] - z);
        }
        b->m->kernel->round_to(t, b->m->served, step);
        for (size_t k = 0; k < step && !b->safe; k++) FQI_TRY(check_value(b, t[k], b->row + b->tile + r, b->col + (int64_t)(k0 + k), e));
        if (b->m->served == FQ_DTYPE_F32) memcpy((float *)to + k0, t, step * sizeof *t);
        else fqi_weights_narrow(t, b->m->served, (uint16_t *)to + k0, step);
    }
    return FQ_OK;
}

/* ---- blocks ---- */

static size_t held_size(const fqi_materialiser *m) { return m->served == FQ_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t); }

static fq_status read_codes(block *b, fq_err *e)
{
    const fqi_quant_module *q = b->q;
    const int64_t word = b->col / UNIT * q->bits, n_word = words(b->n_col, q->bits);
    fqi_view v = { .tensor = q->codes, .row = word, .n_row = n_word, .col = b->row, .n_col = b->n_row };
    if (q->layout == FQI_QL_CT) v = (fqi_view){ .tensor = q->codes, .row = b->row, .n_row = b->n_row, .col = word, .n_col = n_word };
    return fqi_materialiser_read(b->m, &v, b->m->unpacker.word, e);
}

/* out: element (row, 0) of the wanted rows. */
static fq_status unpack_block(block *b, unsigned char *out, fq_err *e)
{
    fqi_unpacker *u = &b->m->unpacker;
    const bool gptq = b->q->layout == FQI_QL_GPTQ;
    FQI_TRY(read_order(b, e));
    compact_order(b);
    FQI_TRY(read_codes(b, e));
    const int64_t most = (int64_t)(u->n_scale / b->n_group);
    for (b->tile = 0; b->tile < b->n_row; b->tile += b->n_tile) {
        b->n_tile = b->n_row - b->tile < most ? b->n_row - b->tile : most;
        FQI_TRY(read_scales(b, e));
        FQI_TRY(read_zeros(b, e));
        for (int64_t r = 0; r < b->n_tile; r += gptq ? LANES : 1) {
            unsigned char *to = out + ((uint64_t)(b->tile + r) * (uint64_t)b->q->cols + (uint64_t)b->col) * held_size(b->m);
            FQI_TRY(gptq ? columns_of(b, r, to, e) : row_of(b, r, to, e));
        }
    }
    return FQ_OK;
}

static fq_status check_shape(fqi_materialiser *m, const fqi_quant_module *q, fq_err *e)
{
    int64_t found[2];
    const bool wide = q->shape->dtype == FQ_DTYPE_I64;
    int32_t half[2];
    const fqi_view v = { .tensor = q->shape, .n_row = 2, .n_col = 1 };
    FQI_TRY(fqi_materialiser_read(m, &v, wide ? (void *)found : (void *)half, e));
    for (size_t i = 0; i < 2 && !wide; i++) found[i] = half[i];
    if (found[0] == q->rows && found[1] == q->cols) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(m->ckpt->shard[q->shape->shard].path, q->shape->name), "packed-shape", "found %" PRId64 " x %" PRId64 ", expected %" PRId64 " x %" PRId64, found[0],
                    found[1], q->rows, q->cols);
}

int64_t fqi_module_units(const fqi_quant_module *q, int64_t n, uint64_t *unit_bytes)
{
    const bool gptq = q->layout == FQI_QL_GPTQ;
    *unit_bytes = (gptq ? fqi_sat_mul((uint64_t)n, (uint64_t)q->bits) : (uint64_t)words(q->cols, q->bits)) * sizeof(uint32_t);
    return gptq ? (q->cols + UNIT - 1) / UNIT : n;
}

static int64_t at_least_one(uint64_t n, int64_t most) { return n == 0 ? 1 : n < (uint64_t)most ? (int64_t)n : most; }

fq_status fqi_materialise_module(fqi_materialiser *m, const fqi_quant_module *q, const fqi_module_rows *want, void *out, fq_err *e)
{
    const fqi_unpacker *u = &m->unpacker;
    const bool gptq = q->layout == FQI_QL_GPTQ;
    /* The part of the weight, and the largest block: whole in the direction that lies together in the file, as far as buffers reach. */
    const int64_t row0 = want->row + (gptq ? 0 : want->unit), row1 = gptq ? want->row + want->n : row0 + want->n_unit;
    const int64_t col0 = gptq ? want->unit * UNIT : 0, end = gptq ? (want->unit + want->n_unit) * UNIT : q->cols, col1 = end < q->cols ? end : q->cols;
    const int64_t row_words = words(q->cols, q->bits), most = (int64_t)(u->n_channel / UNIT);
    const int64_t rows = at_least_one(u->n_word / (size_t)(gptq ? q->bits : row_words), row1 - row0);
    const bool whole = !gptq && (uint64_t)row_words <= u->n_word;
    const int64_t units = whole ? most : at_least_one(u->n_word / (size_t)(rows * q->bits), most);
    if (row0 == 0 && col0 == 0 && q->shape) FQI_TRY(check_shape(m, q, e));
    for (int64_t row = row0; row < row1; row += rows)
        for (int64_t col = col0; col < col1; col += units * UNIT) {
            block b = { .m = m, .q = q, .row = row, .n_row = row1 - row < rows ? row1 - row : rows, .col = col, .n_col = col1 - col < units * UNIT ? col1 - col : units * UNIT };
            FQI_TRY(unpack_block(&b, (unsigned char *)out + (uint64_t)(row - want->row) * (uint64_t)q->cols * held_size(m), e));
        }
    return FQ_OK;
}
