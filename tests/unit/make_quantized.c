/* make_quantized.c - see make_quantized.h. Layouts: GPTQModel nn_modules/qlinear/torch.py, compressed-tensors pack_quantized and
 * naive_quantized, AutoAWQ modules/linear/gemm.py, DeepSeek-V3 inference/fp8_cast_bf16.py. */
#include "make_quantized.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void *need(void *p)
{
    if (p) return p;
    fprintf(stderr, "make_quantized: no memory\n");
    abort();
}

static uint64_t state;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static int64_t below(int64_t n) { return (int64_t)(next() >> 20) % n; }

/* ---- numbers ---- */

/* The nearest number with `digits` significant bits, none below 2^lowest; ties to even. */
static double nearest(double x, int digits, int lowest)
{
    int e;
    (void)frexp(x, &e);
    const int unit = e - digits < lowest ? lowest : e - digits;
    return ldexp(rint(ldexp(x, -unit)), unit);
}

static double round_to(double x, const char *dtype)
{
    if (!dtype) return nearest(x, 24, -149);
    return !strcmp(dtype, "F16") ? nearest(x, 11, -24) : !strcmp(dtype, "BF16") ? nearest(x, 8, -133) : nearest(x, 24, -149);
}

static unsigned put_number(unsigned char *p, const char *dtype, double x)
{
    float f = (float)x;
    uint32_t u;
    memcpy(&u, &f, 4);
    if (!strcmp(dtype, "F32")) {
        memcpy(p, &u, 4);
        return 4;
    }
    uint16_t h = (uint16_t)(u >> 16);
    if (!strcmp(dtype, "F16"))   /* x is one of its numbers; below 2^-14 they are multiples of 2^-24 */
        h = (uint16_t)((u >> 16 & 0x8000) | (fabs(x) < 0x1p-14 ? (uint32_t)(fabs(x) * 0x1p24) : ((u >> 23 & 255) - 112) << 10 | (u >> 13 & 0x3ff)));
    memcpy(p, &h, 2);
    return 2;
}

/* Field i of a stream whose words lie `stride` words apart: what does not fit into its word goes on in the next one. */
static void put_field(uint32_t *word, size_t stride, int bits, int64_t i, unsigned field)
{
    const uint64_t at = (uint64_t)i * (uint64_t)bits, both = (uint64_t)field << (at % 32);
    word[at / 32 * stride] |= (uint32_t)both;
    if (both >> 32) word[(at / 32 + 1) * stride] |= (uint32_t)(both >> 32);
}

/* ---- one module ---- */

/* FP8: one scale for group_rows outputs; scale, zero: [groups][rows that have one] */
typedef struct module { int64_t n, k, n_group, group_rows, n_row; uint32_t *group; unsigned *zero; double *scale; unsigned *code; } module;

static int64_t words(int64_t n, int bits) { return (n * bits + 31) / 32; }

static const char *scale_type(const fqt_quant *q) { return q->scale ? q->scale : fqt_is_fp8(q->format) ? "F32" : "F16"; }

static module random_module(const fqt_quant *q, int64_t n, int64_t k)
{
    const bool fp8 = fqt_is_fp8(q->format), block = q->format == FQT_FP8_BLOCK || q->format == FQT_CT_FP8_BLOCK;
    const int64_t g = q->group < 0 || (fp8 && !block) ? k : q->group;
    const int bits = fp8 ? 8 : q->format == FQT_AWQ ? 4 : q->bits;
    const unsigned full = 1u << bits;
    module m = { .n = n, .k = k, .n_group = (k + g - 1) / g, .group_rows = block ? q->block_rows : fp8 && q->format != FQT_CT_FP8_CHANNEL ? n : 1 };
    m.n_row = (n + m.group_rows - 1) / m.group_rows;
    m.group = need(calloc((size_t)k, sizeof *m.group));
    m.zero = need(calloc((size_t)(m.n_group * m.n_row), sizeof *m.zero));
    m.scale = need(calloc((size_t)(m.n_group * m.n_row), sizeof *m.scale));
    m.code = need(calloc((size_t)(n * k), sizeof *m.code));
    for (int64_t i = 0; i < k; i++) m.group[i] = (uint32_t)(q->order == FQT_ORDER_ANY ? below(m.n_group) : i / g);
    for (int64_t i = 0; i < m.n_group * m.n_row; i++) {
        const int64_t lowest = q->format == FQT_GPTQ_V1;   /* which cannot say 0 */
        m.zero[i] = q->asym || q->format == FQT_AWQ ? (unsigned)(lowest + below((int64_t)full - lowest)) : full / 2;
        m.scale[i] = round_to((below(8) == 0 ? -1 : 1) * ldexp(1 + (double)below(1 << 20) * 0x1p-20, -4 - (int)below(8) - bits), scale_type(q));
    }
    for (int64_t i = 0; i < n * k; i++) m.code[i] = (unsigned)below((int64_t)full);
    for (int64_t i = 0; i < n * k && fp8; i++)
        if ((m.code[i] & 127) == 127) m.code[i] ^= 1;   /* no NaN */
    return m;
}

static void free_module(module *m)
{
    free(m->group);
    free(m->zero);
    free(m->scale);
    free(m->code);
}

/* ---- tables ---- */

static void *keep(fqt_pair *p, size_t bytes)
{
    p->data = need(realloc(p->data, (p->n_data + 1) * sizeof *p->data));
    return p->data[p->n_data++] = need(calloc(1, bytes + 4));
}

static void *add_part(fqt_pair *p, const char *module_name, const char *part, const char *dtype, int rank, int64_t rows, int64_t cols)
{
    char name[512];
    (void)snprintf(name, sizeof name, "%s.%s", module_name, part);
    fqt_tensor *t = fqt_table_add(&p->packed, name, dtype, rank, (int64_t[]){ rows, cols });
    void *data = keep(p, (size_t)(rows * cols) * 8);
    t->data = data;
    return data;
}

static void add_gptq(fqt_pair *p, const fqt_quant *q, const char *name, const module *m)
{
    const char *dtype = q->scale ? q->scale : "F16";
    uint32_t *code = add_part(p, name, "qweight", "I32", 2, words(m->k, q->bits), m->n);
    unsigned char *scale = add_part(p, name, "scales", dtype, 2, m->n_group, m->n);
    const int64_t n_zero = words(m->n, q->bits);
    uint32_t *zero = add_part(p, name, "qzeros", "I32", 2, m->n_group, n_zero);
    for (int64_t n = 0; n < m->n; n++)
        for (int64_t k = 0; k < m->k; k++) put_field(code + n, (size_t)m->n, q->bits, k, m->code[n * m->k + k]);
    for (int64_t g = 0; g < m->n_group; g++)
        for (int64_t n = 0; n < m->n; n++) {
            scale += put_number(scale, dtype, m->scale[g * m->n + n]);
            put_field(zero + g * n_zero, 1, q->bits, n, m->zero[g * m->n + n] - (q->format == FQT_GPTQ_V1));
        }
    if (q->order != FQT_ORDER_ABSENT) memcpy(add_part(p, name, "g_idx", "I32", 1, m->k, 1), m->group, (size_t)m->k * 4);
}

static void add_ct(fqt_pair *p, const fqt_quant *q, const char *name, const module *m)
{
    const char *dtype = q->scale ? q->scale : "F16";
    const int64_t n_word = words(m->k, q->bits);
    uint32_t *code = add_part(p, name, "weight_packed", "I32", 2, m->n, n_word);
    unsigned char *scale = add_part(p, name, "weight_scale", dtype, 2, m->n, m->n_group);
    int64_t *shape = add_part(p, name, "weight_shape", "I64", 1, 2, 1);
    uint32_t *zero = q->asym ? add_part(p, name, "weight_zero_point", "I32", 2, words(m->n, q->bits), m->n_group) : NULL;
    shape[0] = m->n;
    shape[1] = m->k;
    for (int64_t n = 0; n < m->n; n++) {
        for (int64_t k = 0; k < m->k; k++) put_field(code + n * n_word, 1, q->bits, k, m->code[n * m->k + k]);
        for (int64_t g = 0; g < m->n_group; g++) {
            scale += put_number(scale, dtype, m->scale[g * m->n + n]);
            if (zero) put_field(zero + g, (size_t)m->n_group, q->bits, n, m->zero[g * m->n + n]);
        }
    }
    if (q->order != FQT_ORDER_ABSENT) memcpy(add_part(p, name, "weight_g_idx", "I32", 1, m->k, 1), m->group, (size_t)m->k * 4);
}

/* Nibble i of word c holds column 8 c + order[i] (AutoAWQ modules/linear/gemm.py, order_map). */
static void put_awq(uint32_t *word, int64_t column, unsigned field)
{
    static const int order[] = { 0, 2, 4, 6, 1, 3, 5, 7 };
    for (int i = 0; i < 8; i++)
        if (column % 8 == order[i]) word[column / 8] |= field << 4 * i;
}

static void add_awq(fqt_pair *p, const fqt_quant *q, const char *name, const module *m)
{
    const int64_t n_word = m->n / 8;
    uint32_t *code = add_part(p, name, "qweight", "I32", 2, m->k, n_word), *zero = add_part(p, name, "qzeros", "I32", 2, m->n_group, n_word);
    unsigned char *scale = add_part(p, name, "scales", scale_type(q), 2, m->n_group, m->n);
    for (int64_t n = 0; n < m->n; n++)
        for (int64_t k = 0; k < m->k; k++) put_awq(code + k * n_word, n, m->code[n * m->k + k]);
    for (int64_t g = 0; g < m->n_group; g++)
        for (int64_t n = 0; n < m->n; n++) {
            scale += put_number(scale, scale_type(q), m->scale[g * m->n + n]);
            put_awq(zero + g * n_word, n, m->zero[g * m->n + n]);
        }
}

static void add_fp8(fqt_pair *p, const fqt_quant *q, const char *name, const module *m)
{
    const bool tensor = q->format == FQT_FP8_TENSOR || q->format == FQT_CT_FP8_TENSOR;
    unsigned char *code = add_part(p, name, "weight", "F8_E4M3", 2, m->n, m->k);
    unsigned char *scale = add_part(p, name, q->format == FQT_FP8_BLOCK ? "weight_scale_inv" : "weight_scale", scale_type(q), q->format == FQT_FP8_TENSOR ? 0 : tensor ? 1 : 2, m->n_row, m->n_group);
    for (int64_t i = 0; i < m->n * m->k; i++) code[i] = (unsigned char)m->code[i];
    for (int64_t r = 0; r < m->n_row; r++)
        for (int64_t g = 0; g < m->n_group; g++) scale += put_number(scale, scale_type(q), m->scale[g * m->n_row + r]);
}

static double e4m3(unsigned x)
{
    const unsigned exponent = x >> 3 & 15, digits = (x & 7) + (exponent ? 8 : 0);
    return (x & 128 ? -1 : 1) * ldexp(digits, (int)(exponent ? exponent : 1) - 10);
}

static float *dense_of(fqt_pair *p, const fqt_quant *q, const module *m)
{
    float *w = keep(p, (size_t)(m->n * m->k) * sizeof *w);
    for (int64_t n = 0; n < m->n; n++)
        for (int64_t k = 0; k < m->k; k++) {
            const int64_t g = (int64_t)m->group[k] * m->n_row + n / m->group_rows;
            if (fqt_is_fp8(q->format)) w[n * m->k + k] = (float)round_to(round_to(m->scale[g] * e4m3(m->code[n * m->k + k]), NULL), q->served);
            else w[n * m->k + k] = (float)round_to(round_to(m->scale[g], q->served) * ((double)m->code[n * m->k + k] - (double)m->zero[g]), q->served);
        }
    return w;
}

static bool ends(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static bool is_linear(const fqt_tensor *t, const fqt_quant *q)
{
    if (t->rank != 2 || strstr(t->name, "visual")) return false;
    if (ends(t->name, "lm_head.weight")) return q->lm_head || q->lm_head_only;
    const bool linear = ends(t->name, "_proj.weight") || ends(t->name, ".w1.weight") || ends(t->name, ".w2.weight") || ends(t->name, ".w3.weight");
    return linear && !q->lm_head_only;
}

fqt_pair fqt_quant_tables(const fqt_model *m, const fqt_quant *q)
{
    fqt_pair p = { .dense = fqt_model_tensors(m) };
    state = m->seed * 2654435761u + 88172645463325252u;
    for (size_t i = 0; i < p.dense.n; i++) {
        fqt_tensor *t = &p.dense.t[i];
        if (!is_linear(t, q)) {
            *fqt_table_add(&p.packed, t->name, t->dtype, t->rank, t->shape) = *t;
            continue;
        }
        char name[256];
        (void)snprintf(name, sizeof name, "%.*s", (int)(strlen(t->name) - strlen(".weight")), t->name);
        module x = random_module(q, t->shape[0], t->shape[1]);
        if (q->format == FQT_CT) add_ct(&p, q, name, &x);
        else if (q->format == FQT_AWQ) add_awq(&p, q, name, &x);
        else if (fqt_is_fp8(q->format)) add_fp8(&p, q, name, &x);
        else add_gptq(&p, q, name, &x);
        t->dtype = "F32";
        t->data = dense_of(&p, q, &x);
        free_module(&x);
    }
    return p;
}

void fqt_pair_free(fqt_pair *p)
{
    for (size_t i = 0; i < p->n_data; i++) free(p->data[i]);
    free(p->data);
    fqt_table_free(&p->packed);
    fqt_table_free(&p->dense);
}

/* ---- folders ---- */

void fqt_write_quant_config(const char *dir, const fqt_model *m, const fqt_quant *q)
{
    size_t n;
    fqt_write_config(dir, m);
    char *text = fqt_read(dir, "config.json", &n), *out = NULL;
    FILE *f = need(open_memstream(&out, &n));
    const char *extra = q->extra ? q->extra : "";
    const char *const strategy = q->format == FQT_CT_FP8_BLOCK ? "block" : q->format == FQT_CT_FP8_CHANNEL ? "channel" : "tensor";
    if (q->format == FQT_AWQ) {
        fprintf(f, "{ \"quantization_config\": { \"quant_method\": \"awq\", \"bits\": 4, \"group_size\": %" PRId64 ", \"zero_point\": true, \"version\": \"gemm\", \"modules_to_not_convert\": null%s },", q->group,
                extra);
    } else if (q->format == FQT_FP8_BLOCK || q->format == FQT_FP8_TENSOR) {
        fprintf(f, "{ \"quantization_config\": { \"quant_method\": \"fp8\", \"fmt\": \"e4m3\", \"activation_scheme\": \"dynamic\"");
        if (q->format == FQT_FP8_BLOCK) fprintf(f, ", \"weight_block_size\": [%" PRId64 ", %" PRId64 "]", q->block_rows, q->group);
        fprintf(f, "%s },", extra);
    } else if (fqt_is_fp8(q->format)) {
        fprintf(f, "{ \"quantization_config\": { \"quant_method\": \"compressed-tensors\", \"format\": \"float-quantized\", \"config_groups\": { \"group_0\": { \"targets\": [\"Linear\"], \"weights\": {"
                   " \"num_bits\": 8, \"type\": \"float\", \"symmetric\": true, \"strategy\": \"%s\"", strategy);
        if (q->format == FQT_CT_FP8_BLOCK) fprintf(f, ", \"block_structure\": [%" PRId64 ", %" PRId64 "]", q->block_rows, q->group);
        fprintf(f, " }, \"input_activations\": { \"num_bits\": 8, \"type\": \"float\", \"strategy\": \"token\", \"dynamic\": true } } }, \"ignore\": [\"lm_head\"]%s },", extra);
    } else if (q->format == FQT_CT) {
        fprintf(f, "{ \"quantization_config\": { \"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", \"config_groups\": { \"group_0\": { \"targets\": [\"Linear\"], \"weights\": {"
                   " \"num_bits\": %d, \"type\": \"int\", \"symmetric\": %s, \"strategy\": \"%s\"", q->bits, q->asym ? "false" : "true", q->group < 0 ? "channel" : "group");
        if (q->group > 0) fprintf(f, ", \"group_size\": %" PRId64, q->group);
        fprintf(f, ", \"actorder\": %s }, \"input_activations\": null } }, \"ignore\": [\"lm_head\"]%s },", q->order == FQT_ORDER_ABSENT ? "null" : "\"group\"", extra);
    } else {
        fprintf(f, "{ \"quantization_config\": { \"quant_method\": \"gptq\", \"bits\": %d, \"group_size\": %" PRId64 ", \"sym\": %s, \"desc_act\": %s%s%s },", q->bits, q->group,
                q->asym ? "false" : "true", q->order == FQT_ORDER_ANY ? "true" : "false", q->format == FQT_GPTQ_V2 ? ", \"checkpoint_format\": \"gptq_v2\"" : "", extra);
    }
    fputs(strchr(text, '{') + 1, f);
    if (fclose(f) != 0) abort();
    fqt_write_text(dir, "config.json", out);
    free(out);
    free(text);
}

void fqt_make_quantized(const char *packed, const char *dense, const fqt_model *m, const fqt_quant *q)
{
    fqt_pair p = fqt_quant_tables(m, q);
    (void)mkdir(packed, 0777);
    fqt_write_quant_config(packed, m, q);
    fqt_write_shards(packed, p.packed.t, p.packed.n, m->n_shard, m->seed);
    if (dense) {
        (void)mkdir(dense, 0777);
        fqt_write_config(dense, m);
        fqt_write_shards(dense, p.dense.t, p.dense.n, m->n_shard, m->seed);
    }
    fqt_pair_free(&p);
}
