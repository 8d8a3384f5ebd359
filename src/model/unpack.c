/* unpack.c - numbers from the codes of a quantized module: what an engine that holds scales in the served type computes with.
 *
 *     W[n][k] = scale[n / group_rows][group of k] * (code[n][k] - zero[n][group of k])       integers
 *     W[n][k] = scale[n / group_rows][group of k] * float(code[n][k])                        E4M3 numbers
 *
 * served F32: one product in fp32. F16 and BF16, integers: vLLM and SGLang copy scales into parameters of the type of the activations, so
 * scales are rounded to it first and the product after; code - zero is exact in both (at most 8 bits). E4M3: scales are parameters in fp32
 * (vllm quantization/utils/fp8_utils.py, create_fp8_scale_parameter), so the product alone is rounded.
 *
 * A module goes through in blocks of output channels x input channels, whose codes lie in one buffer; of the scales and zeros only those
 * of the groups that occur in a block are read, in tiles of output channels where these are many (any g_idx). Memory is bounded by the
 * buffers, and codes are read once. Where what lies is read from the table of forms (checkpoint/quant_layout.h): codes whose first dimension
 * follows the input channels are "by inputs" here, the others by outputs. Everything in the tensors is checked: groups in range, scales
 * finite, zero points unambiguous, E4M3 numbers that are none.
 *
 * Zero points of format v1 are stored minus one, and readers disagree on what all bits set means (0, 2^bits, or a carry into the next one:
 * AutoGPTQ, old vLLM, GPTQModel): refused, like zero points of a symmetric model that are not in the middle (some kernels never read them).
 * Where such a value is just what the other of the two formats stores, the message names it: checkpoint_format is wrong then. */
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
#define E4M3_MAX 448.0f

typedef struct block {
    fqi_materialiser *m;
    const fqi_quant_module *q;
    int64_t row, n_row, col, n_col;      /* of the weight */
    size_t ld;                           /* of the result: input channels that are wanted */
    size_t n_group;                      /* that occur in it */
    int64_t tile, n_tile;                /* rows that scales and zeros are there for, counted from `row` */
    int64_t scale_row, n_scale_row;      /* of the tensor, of the tile: rows that have a scale of their own */
    bool by_inputs;
    bool safe;                           /* no product can leave the range of the served type */
} block;

static const fqi_part_form *form_of(const fqi_quant_module *q, fqi_part part) { return &q->form->part[part]; }
static bool by_inputs(const fqi_quant_module *q) { return form_of(q, FQI_PART_CODES)->dim[0].along == FQI_ALONG_K; }

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

/* Entries [n, n + n_n) of the axis of outputs and [k, k + n_k) of that of inputs, as the part counts them. */
typedef struct extent { int64_t n, n_n, k, n_k; } extent;

static fq_status read_part(block *b, fqi_part part, const extent *x, void *out, fq_err *e)
{
    const fqi_part_form *p = form_of(b->q, part);
    int64_t at[2] = { 0, 0 }, count[2] = { 1, 1 };
    for (int d = 0; d < p->rank; d++) {
        if (p->dim[d].along == FQI_ALONG_NONE) continue;
        at[d] = p->dim[d].along == FQI_ALONG_N ? x->n : x->k;
        count[d] = p->dim[d].along == FQI_ALONG_N ? x->n_n : x->n_k;
    }
    const fqi_view v = { .tensor = b->q->part[part], .row = at[0], .n_row = count[0], .col = at[1], .n_col = count[1] };
    return fqi_materialiser_read(b->m, &v, out, e);
}

/* The group of every input channel of the block to group_at, which must be one of the module's. */
static fq_status read_order(block *b, fq_err *e)
{
    fqi_unpacker *u = &b->m->unpacker;
    const fqi_quant_size *size = &b->q->size;
    const int64_t n_group = size->cols / size->group_cols;
    fqi_where at;
    if (!b->q->part[FQI_PART_ORDER]) {
        for (int64_t k = 0; k < b->n_col; k++) u->group_at[k] = (uint32_t)((b->col + k) / size->group_cols);
        return FQ_OK;
    }
    FQI_TRY(read_part(b, FQI_PART_ORDER, &(extent){ .k = b->col, .n_k = b->n_col }, u->group_at, e));
    for (int64_t k = 0; k < b->n_col; k++)
        if (u->group_at[k] >= (uint64_t)n_group)
            return fqi_fail(e, FQ_E_INPUT, where(b, b->q->part[FQI_PART_ORDER], &at), "packed-order", "found group %" PRId32 " for input channel %" PRId64 ", expected 0 to %" PRId64, (int32_t)u->group_at[k],
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

/* Element [group][row] of the tile, whatever the form; of scales row counts those that have their own. */
static size_t place(const block *b, size_t group, int64_t row)
{
    return b->by_inputs ? group * (size_t)b->n_tile + (size_t)row : (size_t)row * b->n_group + group;
}

/* The row of scales that row r of the tile has. */
static int64_t scale_row(const block *b, int64_t r) { return (b->row + b->tile + r) / b->q->size.group_rows - b->scale_row; }

/* The first of the tile that is not finite; `rounded`: they were, before they were rounded. */
static fq_status check_scales(const block *b, bool rounded, fq_err *e)
{
    const fqi_unpacker *u = &b->m->unpacker;
    fqi_where at;
    for (size_t g = 0; g < b->n_group; g++)
        for (int64_t r = 0; r < b->n_scale_row; r++) {
            const float x = u->scale[place(b, g, r)];
            if (isfinite(x)) continue;
            return fqi_fail(e, FQ_E_NUMERIC, where(b, b->q->part[FQI_PART_SCALE], &at), rounded ? "served-range" : "non-finite", "group %" PRIu32 ", output channel %" PRId64 ": found %s, expected %s%s", u->group[g],
                            (b->scale_row + r) * b->q->size.group_rows, rounded ? "a scale beyond the range" : isnan(x) ? "NaN" : x > 0 ? "infinity" : "-infinity", rounded ? "what fits into " : "finite scales",
                            rounded ? fq_dtype_name(b->m->served) : "");
        }
    return FQ_OK;
}

/* Scales of the tile; of integers rounded to the served type. */
static fq_status read_scales(block *b, fq_err *e)
{
    fqi_unpacker *u = &b->m->unpacker;
    const fq_dtype stored = (fq_dtype)b->q->part[FQI_PART_SCALE]->dtype;
    const float most = b->m->served == FQ_DTYPE_F16 ? 65504.0f : b->m->served == FQ_DTYPE_BF16 ? 0x1.fep127f : FLT_MAX;
    const float widest = b->q->form->floats ? E4M3_MAX : (float)((1u << b->q->size.bits) - 1);
    float largest = 0;
    b->scale_row = (b->row + b->tile) / b->q->size.group_rows;
    b->n_scale_row = (b->row + b->tile + b->n_tile - 1) / b->q->size.group_rows - b->scale_row + 1;
    for (size_t g = 0, n; g < b->n_group; g += n) {
        n = run_of_groups(b, g);
        FQI_TRY(read_part(b, FQI_PART_SCALE, &(extent){ .n = b->scale_row, .n_n = b->n_scale_row, .k = u->group[g], .n_k = (int64_t)n }, u->raw, e));
        if (b->by_inputs || n == b->n_group) {
            b->m->kernel->widen(u->raw, stored, u->scale + place(b, g, 0), n * (size_t)b->n_scale_row);
            continue;
        }
        for (int64_t r = 0; r < b->n_scale_row; r++)
            b->m->kernel->widen(u->raw + (size_t)r * n * (fq_dtype_bits(stored) / 8), stored, u->scale + place(b, g, r), n);
    }
    const size_t count = b->n_group * (size_t)b->n_scale_row;
    FQI_TRY(check_scales(b, false, e));
    for (size_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(u->scale[i]));
    if (!b->q->form->floats) b->m->kernel->round_to(u->scale, b->m->served, count);
    b->safe = largest <= most / widest / 2;
    return b->safe || b->q->form->floats ? FQ_OK : check_scales(b, true, e);
}

/* A zero point that cannot be: what it would have to be, and whether the other format of zero points explains it. */
static fq_status bad_zero(const block *b, size_t group, int64_t row, unsigned stored, fq_err *e)
{
    const fqi_quant_module *q = b->q;
    const unsigned middle = 1u << (q->size.bits - 1), expected = q->zeros_v1 ? middle - 1 : middle, other = q->zeros_v1 ? middle : middle - 1;
    const char *label = q->zeros_v1 ? "gptq" : "gptq_v2", *really = q->zeros_v1 ? "gptq_v2" : "gptq";
    const bool gptq = q->layout == FQI_QL_GPTQ;
    const unsigned long g = b->m->unpacker.group[group];
    fqi_where at;
    (void)where(b, q->part[FQI_PART_ZERO], &at);
    if (q->sym && gptq && stored == other)
        return fqi_fail(e, FQ_E_INPUT, &at, "zero-version", "group %lu, output channel %" PRId64 ": found %u as it is stored, which is what format %s stores, expected %u: checkpoint_format says %s and must "
                        "say %s", g, row, stored, really, expected, label, really);
    if (q->sym)
        return fqi_fail(e, FQ_E_INPUT, &at, "packed-zero", "group %lu, output channel %" PRId64 ": found %u as it is stored, expected %u: config.json says symmetric%s%s", g, row, stored, expected,
                        gptq ? ", checkpoint_format " : "", gptq ? label : "");
    return fqi_fail(e, FQ_E_INPUT, &at, "packed-zero", "group %lu, output channel %" PRId64 ": found %u as it is stored, expected less: checkpoint_format gptq makes it %u of 0 to %u, so that it should say "
                    "gptq_v2, or the zero point is 0 and readers of format gptq disagree about it", g, row, stored, stored + 1, 2 * middle - 1);
}

/* Zero points of one group of the tile: `word` is its first word, of the row that is `skip` before the tile's first. */
static fq_status take_zeros(block *b, size_t group, const uint32_t *word, size_t stride, int64_t skip, fq_err *e)
{
    fqi_unpacker *u = &b->m->unpacker;
    const int bits = b->q->size.bits;
    const unsigned full = (1u << bits) - 1, middle = 1u << (bits - 1), add = b->q->zeros_v1;
    const size_t each = b->q->form->field ? 32 / (size_t)bits : 1, n = ((size_t)(skip + b->n_tile) + each - 1) / each * each;
    fqi_unpack_fields(bits, word, stride, n, u->field);
    for (int64_t r = 0; r < b->n_tile; r++) {
        const size_t i = (size_t)(skip + r);
        const unsigned stored = u->field[b->q->form->field ? i / each * each + b->q->form->field[i % each] : i];
        if ((add && stored == full) || (b->q->sym && stored + add != middle)) return bad_zero(b, group, b->row + b->tile + r, stored, e);
        u->zero[place(b, group, r)] = (uint8_t)(stored + add);
    }
    return FQ_OK;
}

static fq_status read_zeros(block *b, fq_err *e)
{
    fqi_unpacker *u = &b->m->unpacker;
    const int bits = b->q->size.bits;
    const int64_t row = b->row + b->tile, begin = row / UNIT * UNIT, first = begin / UNIT * bits, n_word = fqi_quant_words(row + b->n_tile - begin, bits);
    if (b->q->form->floats) return FQ_OK;
    if (!b->q->part[FQI_PART_ZERO]) {
        memset(u->zero, 1 << (bits - 1), b->n_group * (size_t)b->n_tile);
        return FQ_OK;
    }
    /* at most bits / 32 words for each of n_tile + 31 rows: fits, a run of groups at a time, or one by one */
    for (size_t g = 0, n; g < b->n_group; g += n) {
        n = run_of_groups(b, g);
        const size_t fit = u->n_scale / (size_t)n_word;
        if (n > fit) n = fit;
        FQI_TRY(read_part(b, FQI_PART_ZERO, &(extent){ .n = first, .n_n = n_word, .k = u->group[g], .n_k = (int64_t)n }, u->raw, e));
        const uint32_t *word = (const uint32_t *)(const void *)u->raw;
        for (size_t i = 0; i < n; i++) FQI_TRY(take_zeros(b, g + i, b->by_inputs ? word + i * (size_t)n_word : word + i, b->by_inputs ? 1 : n, row - begin, e));
    }
    return FQ_OK;
}

/* ---- numbers ---- */

/* A value that the served type cannot hold; asked only where scales are that large. */
static fq_status check_value(const block *b, float value, int64_t row, int64_t col, fq_err *e)
{
    fqi_where at;
    if (isfinite(value)) return FQ_OK;
    return fqi_fail(e, FQ_E_NUMERIC, where(b, b->q->part[FQI_PART_CODES], &at), "served-range", "output channel %" PRId64 ", input channel %" PRId64 ": found a weight beyond the range, expected what fits into %s", row, col,
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

/* LANES codes of one input channel, whose words lie along the outputs; `skip` of the first word's are not wanted. Three words are read. */
static inline void fields_of_lanes(const uint32_t *word, size_t skip, const uint8_t field[8], const float *scale, const uint8_t *zero, float *restrict out)
{
    int32_t code[3 * 8];
    for (size_t w = 0; w < 3; w++)
        for (size_t j = 0; j < 8; j++) code[8 * w + j] = (int32_t)(word[w] >> 4 * field[j] & 15);
    for (size_t l = 0; l < LANES; l++) out[l] = scale[l] * (float)(code[skip + l] - (int32_t)zero[l]);
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

/* Words along the inputs: one code of each of LANES rows from row r of the tile on, input channel k of the block. */
static inline void lanes_by_word(const block *b, int64_t r, size_t k, float *restrict out)
{
    const fqi_unpacker *u = &b->m->unpacker;
    const size_t ld = (size_t)b->n_row, bits = (size_t)b->q->size.bits, at = k * bits, w = at / 32, shift = at % 32, s = place(b, u->group_at[k], r);
    const uint32_t *word = u->word + b->tile + r;
    lanes_of(word + w * ld, shift + bits > 32 ? word + (w + 1) * ld : NULL, (unsigned)shift, (1u << bits) - 1, u->scale + s, u->zero + s, out);
}

/* Words along the outputs, of 4 bits. */
static inline void lanes_by_field(const block *b, int64_t r, size_t k, float *restrict out)
{
    const fqi_unpacker *u = &b->m->unpacker;
    const size_t first = (size_t)(b->row % 8), ld = (first + (size_t)b->n_row + 7) / 8, at = first + (size_t)(b->tile + r), s = place(b, u->group_at[k], r);
    fields_of_lanes(u->word + k * ld + at / 8, at % 8, b->q->form->field, u->scale + s, u->zero + s, out);
}

/* LANES rows from row r of the tile on, all input channels of the block. to: element (r, first channel) of the result. */
static fq_status columns_of(const block *b, int64_t r, void *to, fq_err *e)
{
    const size_t n_lane = b->n_tile - r < LANES ? (size_t)(b->n_tile - r) : LANES, n = (size_t)b->n_col;
    float t[DEPTH * LANES];
    uint16_t narrow[DEPTH * LANES];
    for (size_t k0 = 0; k0 < n; k0 += DEPTH) {
        const size_t depth = n - k0 < DEPTH ? n - k0 : DEPTH;
        if (b->q->form->field)
            for (size_t k = 0; k < depth; k++) lanes_by_field(b, r, k0 + k, t + k * LANES);
        else
            for (size_t k = 0; k < depth; k++) lanes_by_word(b, r, k0 + k, t + k * LANES);
        b->m->kernel->round_to(t, b->m->served, depth * LANES);
        for (size_t k = 0; k < depth && !b->safe; k++)
            for (size_t l = 0; l < n_lane; l++) FQI_TRY(check_value(b, t[k * LANES + l], b->row + b->tile + r + (int64_t)l, b->col + (int64_t)(k0 + k), e));
        if (b->m->served == FQ_DTYPE_F32) {
            scatter32(t, n_lane, depth, (float *)to + k0, b->ld);
            continue;
        }
        fqi_weights_narrow(t, b->m->served, narrow, depth * LANES);
        scatter16(narrow, n_lane, depth, (uint16_t *)to + k0, b->ld);
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

enum { STEP = 4 * DEPTH };   /* input channels of a row at a time */

/* Numbers of a row's step: rounded, checked, stored. */
static fq_status finish_step(const block *b, int64_t r, size_t k0, float *t, size_t n, void *to, fq_err *e)
{
    b->m->kernel->round_to(t, b->m->served, n);
    for (size_t k = 0; k < n && !b->safe; k++) FQI_TRY(check_value(b, t[k], b->row + b->tile + r, b->col + (int64_t)(k0 + k), e));
    if (b->m->served == FQ_DTYPE_F32) memcpy((float *)to + k0, t, n * sizeof *t);
    else fqi_weights_narrow(t, b->m->served, (uint16_t *)to + k0, n);
    return FQ_OK;
}

/* Where the group of channel k of the step ends. */
static inline size_t end_of_group(const uint32_t *group, size_t k, size_t n)
{
    size_t end = k + 1;
    while (end < n && group[end] == group[k]) end++;
    return end;
}

/* Row r of the tile, all input channels of the block; words along the inputs. */
static fq_status row_of(const block *b, int64_t r, void *to, fq_err *e)
{
    const fqi_unpacker *u = &b->m->unpacker;
    const size_t n = (size_t)b->n_col, bits = (size_t)b->q->size.bits;
    const uint32_t *word = u->word + (size_t)(b->tile + r) * (size_t)fqi_quant_words(b->n_col, b->q->size.bits);
    const float *scale = u->scale + place(b, 0, scale_row(b, r));
    const uint8_t *zero = u->zero + place(b, 0, r);
    uint8_t code[STEP + UNIT] = { 0 };
    float t[STEP + LANES];
    for (size_t k0 = 0; k0 < n; k0 += STEP) {
        const size_t step = n - k0 < STEP ? n - k0 : STEP;
        const uint32_t *group = u->group_at + k0;
        fields_of((unsigned)bits, word + k0 / 32 * bits, step, code);
        for (size_t k = 0, end; k < step; k = end) {
            end = end_of_group(group, k, step);
            const float s = scale[group[k]];
            const int32_t z = zero[group[k]];
            for (size_t i = k; i < end; i += LANES)   /* past the end: the next group is written over it */
                for (size_t l = 0; l < LANES; l++) t[i + l] = s * (float)((int32_t)code[i + l] - z);
        }
        FQI_TRY(finish_step(b, r, k0, t, step, to, e));
    }
    return FQ_OK;
}

/* Numbers of E4M3 (1-4-3, bias 7, no infinities): (8 or 0 + mantissa) 2^(exponent - 10), both factors and their product exact. */
static void e4m3(const uint8_t *code, size_t n, float *restrict out)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t x = code[i], exponent = x >> 3 & 15u, normal = exponent > 0, power = (exponent + (normal ^ 1u) + 117u) << 23 | (x & 0x80u) << 24;
        float f;
        memcpy(&f, &power, sizeof f);
        out[i] = f * (float)(int32_t)((x & 7u) | normal << 3);
    }
}

static bool has_nan(const uint8_t *code, size_t n)
{
    uint8_t found = 0;
    for (size_t i = 0; i < n; i++) found |= (uint8_t)((code[i] & 0x7f) == 0x7f);
    return found;
}

static fq_status bad_number(const block *b, int64_t r, size_t k, fq_err *e)
{
    fqi_where at;
    return fqi_fail(e, FQ_E_NUMERIC, where(b, b->q->part[FQI_PART_CODES], &at), "non-finite", "output channel %" PRId64 ", input channel %" PRId64 ": found NaN, expected finite weights", b->row + b->tile + r,
                    b->col + (int64_t)k);
}

/* Row r of the tile of E4M3 numbers, all input channels of the block. */
static fq_status row_of_floats(const block *b, int64_t r, void *to, fq_err *e)
{
    const fqi_unpacker *u = &b->m->unpacker;
    const size_t n = (size_t)b->n_col;
    const uint8_t *code = (const uint8_t *)u->word + (size_t)(b->tile + r) * n;
    const float *scale = u->scale + place(b, 0, scale_row(b, r));
    float t[STEP];
    for (size_t k0 = 0; k0 < n; k0 += STEP) {
        const size_t step = n - k0 < STEP ? n - k0 : STEP;
        if (has_nan(code + k0, step))
            for (size_t k = 0; k < step; k++)
                if ((code[k0 + k] & 0x7fu) == 0x7fu) return bad_number(b, r, k0 + k, e);
        e4m3(code + k0, step, t);
        for (size_t k = 0, end; k < step; k = end) {   /* without an order, groups are runs */
            const uint32_t at = u->group_at[k0 + k];
            const uint64_t behind = ((uint64_t)u->group[at] + 1) * (uint64_t)b->q->size.group_cols - (uint64_t)b->col - k0;
            const float s = scale[at];
            end = behind < step ? (size_t)behind : step;
            for (size_t i = k; i < end; i++) t[i] *= s;
        }
        FQI_TRY(finish_step(b, r, k0, t, step, to, e));
    }
    return FQ_OK;
}

/* ---- blocks ---- */

static size_t held_size(const fqi_materialiser *m) { return m->served == FQ_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t); }

static fq_status read_codes(block *b, fq_err *e)
{
    const fqi_quant_module *q = b->q;
    const fqi_part_form *p = form_of(q, FQI_PART_CODES);
    extent x = { b->row, b->n_row, b->col, b->n_col };
    for (int d = 0; d < p->rank; d++) {   /* blocks begin with a word along the inputs, and anywhere along the outputs */
        if (p->dim[d].unit != FQI_UNIT_WORD) continue;
        const int each = 32 / q->size.bits;
        if (p->dim[d].along == FQI_ALONG_K) x = (extent){ x.n, x.n_n, x.k / UNIT * q->size.bits, fqi_quant_words(x.n_k, q->size.bits) };
        else x = (extent){ x.n / each, fqi_quant_words(x.n % each + x.n_n, q->size.bits), x.k, x.n_k };
    }
    return read_part(b, FQI_PART_CODES, &x, b->m->unpacker.word, e);
}

/* out: element (row, col) of what is wanted. */
static fq_status unpack_block(block *b, unsigned char *out, fq_err *e)
{
    fqi_unpacker *u = &b->m->unpacker;
    FQI_TRY(read_order(b, e));
    compact_order(b);
    FQI_TRY(read_codes(b, e));
    const int64_t most = (int64_t)(u->n_scale / b->n_group);
    for (b->tile = 0; b->tile < b->n_row; b->tile += b->n_tile) {
        b->n_tile = b->n_row - b->tile < most ? b->n_row - b->tile : most;
        FQI_TRY(read_scales(b, e));
        FQI_TRY(read_zeros(b, e));
        for (int64_t r = 0; r < b->n_tile; r += b->by_inputs ? LANES : 1) {
            unsigned char *to = out + (uint64_t)(b->tile + r) * b->ld * held_size(b->m);
            FQI_TRY(b->by_inputs ? columns_of(b, r, to, e) : b->q->form->floats ? row_of_floats(b, r, to, e) : row_of(b, r, to, e));
        }
    }
    return FQ_OK;
}

static fq_status check_shape(fqi_materialiser *m, const fqi_quant_module *q, fq_err *e)
{
    const fqi_tensor *shape = q->part[FQI_PART_SHAPE];
    int64_t found[2];
    const bool wide = shape->dtype == FQ_DTYPE_I64;
    int32_t half[2];
    const fqi_view v = { .tensor = shape, .n_row = 2, .n_col = 1 };
    FQI_TRY(fqi_materialiser_read(m, &v, wide ? (void *)found : (void *)half, e));
    for (size_t i = 0; i < 2 && !wide; i++) found[i] = half[i];
    if (found[0] == q->size.rows && found[1] == q->size.cols) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(m->ckpt->shard[shape->shard].path, shape->name), "packed-shape", "found %" PRId64 " x %" PRId64 ", expected %" PRId64 " x %" PRId64, found[0],
                    found[1], q->size.rows, q->size.cols);
}

/* Bytes of codes of n rows and UNIT input channels, wherever the rows begin. */
static uint64_t unit_bytes(const fqi_quant_module *q, int64_t n)
{
    const uint64_t each = 32 / (uint64_t)q->size.bits;
    if (q->form->floats) return fqi_sat_mul((uint64_t)n, UNIT);
    if (q->form->field) return fqi_sat_mul((uint64_t)n / each + 2, UNIT * sizeof(uint32_t));
    return fqi_sat_mul((uint64_t)n, (uint64_t)q->size.bits * sizeof(uint32_t));
}

/* Bytes of codes of a row's n input channels; of forms that lie by outputs. */
static uint64_t row_bytes(const fqi_quant_module *q, int64_t n)
{
    return q->form->floats ? (uint64_t)n : (uint64_t)fqi_quant_words(n, q->size.bits) * sizeof(uint32_t);
}

int64_t fqi_module_units(const fqi_quant_module *q, int64_t n, int64_t n_col, uint64_t *bytes)
{
    *bytes = by_inputs(q) ? unit_bytes(q, n) : row_bytes(q, n_col);
    return by_inputs(q) ? (n_col + UNIT - 1) / UNIT : n;
}

static int64_t at_least_one(uint64_t n, int64_t most) { return n == 0 ? 1 : n < (uint64_t)most ? (int64_t)n : most; }

/* Most rows whose UNIT input channels fit, and most rows that do whole, of n. */
static int64_t rows_that_fit(const fqi_quant_module *q, uint64_t bytes, int64_t n, int64_t n_col)
{
    if (!by_inputs(q)) return at_least_one(bytes / row_bytes(q, n_col), n);
    if (!q->form->field) return at_least_one(bytes / unit_bytes(q, 1), n);
    return at_least_one((bytes / (UNIT * sizeof(uint32_t)) - 2) * (32 / (uint64_t)q->size.bits), n);   /* buffers have 4 KiB or more */
}

fq_status fqi_materialise_module(fqi_materialiser *m, const fqi_quant_module *q, const fqi_module_rows *want, void *out, fq_err *e)
{
    const fqi_unpacker *u = &m->unpacker;
    const bool columns = by_inputs(q);
    const int64_t cols = want->n_col;
    /* The part of the weight, and the largest block: whole in the direction that lies together in the file, as far as buffers reach. */
    const int64_t row0 = want->row + (columns ? 0 : want->unit), row1 = columns ? want->row + want->n : row0 + want->n_unit;
    const int64_t col0 = columns ? want->unit * UNIT : 0, end = columns ? (want->unit + want->n_unit) * UNIT : cols, col1 = end < cols ? end : cols;   /* of the wanted ones */
    const uint64_t room = u->n_word * sizeof(uint32_t);
    const int64_t most = (int64_t)(u->n_channel / UNIT), rows = rows_that_fit(q, room, row1 - row0, cols);
    const bool whole = !columns && row_bytes(q, cols) <= room;
    const int64_t units = whole ? most : at_least_one(room / unit_bytes(q, rows), most);
    if (row0 == want->row && col0 == 0 && q->part[FQI_PART_SHAPE]) FQI_TRY(check_shape(m, q, e));
    for (int64_t row = row0; row < row1; row += rows)
        for (int64_t col = col0; col < col1; col += units * UNIT) {
            block b = { .m = m, .q = q, .ld = (size_t)cols, .row = row, .n_row = row1 - row < rows ? row1 - row : rows, .col = want->col + col, .n_col = col1 - col < units * UNIT ? col1 - col : units * UNIT, .by_inputs = columns };
            FQI_TRY(unpack_block(&b, (unsigned char *)out + (uint64_t)((row - want->row) * cols + col) * held_size(m), e));
        }
    return FQ_OK;
}
