/* parts_zeros.c - see parts_zeros.h. */
#include "job/parts_zeros.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

struct fqi_zero_fill {
    const fqi_quant_module *q;
    int bits;
    unsigned per_word;
    bool inputs_first;         /* codes are [K][N], else [N][K] */
    bool inputs_packed;        /* words hold several inputs, else several outputs */
    uint64_t cols;             /* words of a row of the new codes */
    int32_t *row_of;           /* [K afterwards] row of `zero` that fills this input; -1: a channel, or an empty group */
    int64_t n_inputs, n_outputs;
    uint8_t *zero;             /* [rows][n_outputs] */
    size_t n_row;
    int64_t *old_group;        /* [rows] */
};

/* Calls fn for every new group that is filled up: its first place, its length, and the old group that its channels are of. */
typedef void each_group(void *user, int64_t at, int64_t n, int64_t old_group, const int32_t *src);

static fq_status expand(const fqi_map *m, int32_t **out, fq_err *e)
{
    int64_t at = 0;
    if (m->n_old > INT32_MAX || !(*out = fqi_calloc((size_t)m->n_new + 1, sizeof **out))) return fqi_fail_nomem(e, "zero points");
    for (size_t i = 0; i < m->n_run; i++)
        for (int64_t k = 0; k < m->run[i].count; k++) (*out)[at++] = m->run[i].src < 0 ? -1 : (int32_t)(m->run[i].src + k);
    return FQ_OK;
}

static void walk(const int32_t *src, int64_t n, int64_t group_new, int64_t group_old, each_group *fn, void *user)
{
    for (int64_t at = 0; at < n; at += group_new) {
        const int64_t m = n - at < group_new ? n - at : group_new;
        int64_t real = 0, old = -1;
        for (int64_t k = at; k < at + m; k++)
            if (src[k] >= 0) {
                real++;
                old = src[k] / group_old;
            }
        if (real > 0 && real < m) fn(user, at, m, old, src + at);
    }
}

static void count(void *user, int64_t at, int64_t n, int64_t old_group, const int32_t *src)
{
    (void)at, (void)n, (void)old_group, (void)src;
    ++*(size_t *)user;
}

fq_status fqi_zero_fill_needed(const fqi_map *inputs, int64_t group, bool *yes, fq_err *e)
{
    int32_t *src = NULL;
    size_t n = 0;
    FQI_TRY(expand(inputs, &src, e));
    walk(src, inputs->n_new, group, group, count, &n);
    free(src);
    *yes = n > 0;
    return FQ_OK;
}

static void note(void *user, int64_t at, int64_t n, int64_t old_group, const int32_t *src)
{
    fqi_zero_fill *z = user;
    for (int64_t k = 0; k < n; k++)
        if (src[k] < 0) z->row_of[at + k] = (int32_t)z->n_row;
    z->old_group[z->n_row++] = old_group;
}

/* ---- zero points ---- */

static unsigned field(const fqi_zero_fill *z, uint32_t word, unsigned j)
{
    const unsigned place = z->q->form->field ? z->q->form->field[j] : j;
    return word >> (place * (unsigned)z->bits) & ((1u << z->bits) - 1);
}

/* words: of the whole part; [G][N words], or [N words][G]. */
static fq_status take(fqi_zero_fill *z, const uint32_t *words, const fqi_tensor *t, const char *file, fq_err *e)
{
    const bool groups_first = z->q->form->part[FQI_PART_ZERO].dim[0].along == FQI_ALONG_K;
    const unsigned full = (1u << z->bits) - 1, add = z->q->zeros_v1;
    for (size_t r = 0; r < z->n_row; r++)
        for (int64_t n = 0; n < z->n_outputs; n++) {
            const int64_t w = n / z->per_word, g = z->old_group[r];
            const unsigned stored = field(z, words[groups_first ? g * t->shape[1] + w : w * t->shape[1] + g], (unsigned)(n % z->per_word));
            if (add && stored == full)
                return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file, t->name), "packed-zero", "group %" PRId64 ", output channel %" PRId64 ": found %u as it is stored, expected less: no code stands for a zero point of %u, which a channel that fills up the group would need", g, n, stored, stored + 1);
            z->zero[r * (size_t)z->n_outputs + (size_t)n] = (uint8_t)(stored + add);
        }
    return FQ_OK;
}

static fq_status read_zeros(fqi_zero_fill *z, const fq_ckpt *c, fq_io io, fq_err *e)
{
    const fqi_tensor *t = z->q->part[FQI_PART_ZERO];
    uint32_t *words = malloc((size_t)t->bytes + 1);
    fqi_file f;
    if (!words) return fqi_fail_nomem(e, "zero points");
    fq_status s = fqi_ckpt_open_shard(c, t->shard, io, &f, e);
    if (s == FQ_OK) {
        s = fqi_file_read(&f, words, (size_t)t->bytes, t->off, e);
        if (s == FQ_OK) s = take(z, words, t, f.path, e);
        fqi_file_close(&f);
    }
    free(words);
    return s;
}

static fq_status allocate(fqi_zero_fill *z, const fqi_map *inputs, const fqi_quant_size *size_new, fq_err *e)
{
    int32_t *src = NULL;
    size_t n_row = 0, bytes;
    FQI_TRY(expand(inputs, &src, e));
    walk(src, inputs->n_new, size_new->group_cols, z->q->size.group_cols, count, &n_row);
    z->row_of = malloc((size_t)z->n_inputs * sizeof *z->row_of + 1);
    z->old_group = fqi_calloc(n_row + 1, sizeof *z->old_group);
    const bool fits = fqi_mul_size(n_row + 1, (size_t)z->n_outputs, &bytes);
    z->zero = fits ? malloc(bytes) : NULL;
    if (z->row_of && z->old_group && z->zero) {
        for (int64_t k = 0; k < z->n_inputs; k++) z->row_of[k] = -1;
        walk(src, inputs->n_new, size_new->group_cols, z->q->size.group_cols, note, z);
    }
    free(src);
    return z->row_of && z->old_group && z->zero ? FQ_OK : fqi_fail_nomem(e, "zero points");
}

fq_status fqi_zero_fill_open(const fq_ckpt *c, fq_io io, const fqi_quant_module *q, const fqi_map *inputs, const fqi_quant_size *size_new, fqi_zero_fill **out, fq_err *e)
{
    const fqi_part_form *codes = &q->form->part[FQI_PART_CODES];
    fqi_zero_fill *z = fqi_calloc(1, sizeof *z);
    if (!z) return fqi_fail_nomem(e, "zero points");
    const int k = codes->dim[0].along == FQI_ALONG_K ? 0 : 1;
    *z = (fqi_zero_fill){ .q = q, .bits = q->size.bits, .per_word = 32u / (unsigned)q->size.bits, .inputs_first = k == 0, .inputs_packed = codes->dim[k].unit == FQI_UNIT_WORD,
                          .cols = (uint64_t)fqi_part_length(codes->dim[1], size_new), .n_inputs = size_new->cols, .n_outputs = q->size.rows };
    fq_status s = q->size.rows == size_new->rows ? allocate(z, inputs, size_new, e)
                                                 : fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->shard[q->part[FQI_PART_CODES]->shard].path, q->part[FQI_PART_CODES]->name), "packed-zero", "found zero points of their own, groups that would be filled up in part, and other outputs at once, expected one of the two");
    if (s == FQ_OK) s = read_zeros(z, c, io, e);
    if (s == FQ_OK) *out = z;
    else fqi_zero_fill_close(z);
    return s;
}

void fqi_zero_fill_close(fqi_zero_fill *z)
{
    if (!z) return;
    free(z->row_of);
    free(z->zero);
    free(z->old_group);
    free(z);
}

/* ---- codes ---- */

/* Word `at`: its fields are of one output and several inputs, or of one input and several outputs. */
static uint32_t fill(const fqi_zero_fill *z, uint64_t at, uint32_t word)
{
    const int64_t r = (int64_t)(at / z->cols), c = (int64_t)(at % z->cols), along_k = z->inputs_first ? r : c, along_n = z->inputs_first ? c : r;
    const uint32_t mask = (1u << z->bits) - 1;
    for (unsigned j = 0; j < z->per_word; j++) {
        const int64_t k = z->inputs_packed ? along_k * z->per_word + j : along_k, n = z->inputs_packed ? along_n : along_n * z->per_word + j;
        if (k >= z->n_inputs || n >= z->n_outputs || z->row_of[k] < 0) continue;
        const unsigned shift = (z->q->form->field ? z->q->form->field[j] : j) * (unsigned)z->bits;
        word = (word & ~(mask << shift)) | (uint32_t)z->zero[(size_t)z->row_of[k] * (size_t)z->n_outputs + (size_t)n] << shift;
    }
    return word;
}

/* Whole rows without such a place are left alone: most are, where inputs are rows. */
static bool row_is_whole(const fqi_zero_fill *z, uint64_t at)
{
    const int64_t k = (int64_t)(at / z->cols) * (z->inputs_packed ? z->per_word : 1), n = z->inputs_packed ? z->per_word : 1;
    for (int64_t i = k; i < k + n && i < z->n_inputs; i++)
        if (z->row_of[i] >= 0) return false;
    return true;
}

void fqi_zero_fill_apply(const fqi_zero_fill *z, uint64_t off, unsigned char *bytes, size_t n)
{
    for (uint64_t at = off / 4, end = (off + n) / 4; at < end; at++) {
        if (z->inputs_first && (at % z->cols == 0 || at == off / 4) && row_is_whole(z, at)) {
            at += z->cols - at % z->cols - 1;
            continue;
        }
        uint32_t word;
        memcpy(&word, bytes + (at - off / 4) * 4, sizeof word);
        word = fill(z, at, word);
        memcpy(bytes + (at - off / 4) * 4, &word, sizeof word);
    }
}

/* ---- the label ---- */

#define LOOKED_AT 1024   /* words: whoever wrote the wrong kind wrote it everywhere */

fq_status fqi_zero_label_check(const fq_ckpt *c, const fqi_quant_module *q, fq_err *e)
{
    const fqi_tensor *t = q->part[FQI_PART_ZERO];
    if (!t || !q->sym || q->form->floats || 32 % q->size.bits != 0 || t->rank != 2) return FQ_OK;
    const unsigned per = 32u / (unsigned)q->size.bits, mask = (1u << q->size.bits) - 1, middle = 1u << (q->size.bits - 1), want = q->zeros_v1 ? middle - 1 : middle, other = q->zeros_v1 ? middle : middle - 1;
    const bool groups_first = q->form->part[FQI_PART_ZERO].dim[0].along == FQI_ALONG_K;
    const char *label = q->zeros_v1 ? "gptq" : "gptq_v2", *really = q->zeros_v1 ? "gptq_v2" : "gptq";
    uint32_t word[LOOKED_AT];
    fqi_file f;
    const size_t n = t->bytes / 4 < LOOKED_AT ? (size_t)(t->bytes / 4) : LOOKED_AT;
    FQI_TRY(fqi_ckpt_open_shard(c, t->shard, FQ_IO_BUFFERED, &f, e));
    fq_status s = fqi_file_read(&f, word, n * sizeof *word, t->off, e);
    for (size_t i = 0; i < n * per && s == FQ_OK; i++) {
        const int64_t r = (int64_t)(i / per) / t->shape[1], col = (int64_t)(i / per) % t->shape[1];
        const int64_t output = (groups_first ? col : r) * per + (int64_t)(i % per), group = groups_first ? r : col;
        const unsigned stored = word[i / per] >> (i % per * (unsigned)q->size.bits) & mask;
        if (output >= q->size.rows || stored == want) continue;
        if (stored == other && q->layout == FQI_QL_GPTQ)
            s = fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(f.path, t->name), "zero-version", "group %" PRId64 ", output channel %" PRId64 ": found %u as it is stored, which is what format %s stores, expected %u: checkpoint_format says %s and must say %s (fitq convert --zeros writes it right)",
                         group, output, stored, really, want, label, really);
        else
            s = fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(f.path, t->name), "packed-zero", "group %" PRId64 ", output channel %" PRId64 ": found %u as it is stored, expected %u: config.json says symmetric", group, output, stored, want);
    }
    fqi_file_close(&f);
    return s;
}
