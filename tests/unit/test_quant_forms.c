/* test_quant_forms.c - AWQ and FP8 in all their forms: the numbers that the forward pass gets are those that the codes stand for, published byte
 * vectors mean what their formats say, an independent reader agrees, and what is wrong is refused by name. GPTQ and pack-quantized, which
 * come in any bits and orders, are in test_quantized.c; here they stand beside the others where all forms go through the same door. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "checkpoint/quantized.h"
#include "quant_pair.h"
#include "support.h"

static const fq_run plain = { .n_thread = 2 };

static const char *const names[FQT_N_ANY] = { "gptq", "gptq_v2", "ct", "awq", "fp8 block", "fp8 tensor", "ct fp8 block", "ct fp8 channel", "ct fp8 tensor" };

/* Widths that no block divides; AWQ asks for words along the outputs, so multiples of 8. */
static const fqt_model odd = { .family = "llama", .hidden = 45, .ff = 63, .heads = 3, .kv = 1, .head_dim = 14, .vocab = 77, .layers = 1, .dtype = "F32", .seed = 3 };
static const fqt_model words = { .family = "qwen2", .hidden = 72, .ff = 168, .heads = 6, .kv = 2, .head_dim = 16, .vocab = 88, .layers = 2, .dtype = "F32", .seed = 4 };
static const fqt_model moe = { .family = "qwen3_moe", .hidden = 64, .moe_ff = 40, .heads = 4, .kv = 2, .head_dim = 16, .vocab = 80, .layers = 2, .experts = 5, .dtype = "F32", .seed = 5 };

/* ---- numbers ---- */

static void test_every_form(void **state)
{
    (void)state;
    static const char *const dtype[] = { "F16", "BF16", "F32" }, *const served[] = { NULL, "BF16", "F16" };
    static const struct { const fqt_model *m; int64_t group, rows; } shape[] = { { &words, 24, 16 }, { &words, -1, 128 }, { &moe, 8, 7 }, { &odd, 20, 16 }, { &odd, 128, 128 }, { &odd, 9, 1 } };
    size_t n = 0;
    for (int f = FQT_AWQ; f < FQT_N_ANY; f++)
        for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
            if ((f == FQT_AWQ && shape[s].m == &odd) || (f != FQT_AWQ && shape[s].group < 0)) continue;
            for (int d = 0; d < 3; d++, n++) {
                char what[128];
                fqt_model m = *shape[s].m;
                const fqt_quant q = { .format = (fqt_format)f, .group = shape[s].group, .block_rows = shape[s].rows, .scale = dtype[d], .served = served[n % 3], .lm_head = n % 2 };
                m.seed += n;
                m.n_shard = n % 5 == 0 ? 2 : 1;
                (void)snprintf(what, sizeof what, "%s, group %" PRId64 " x %" PRId64 ", scales %s, served %s", names[f], q.block_rows, q.group, q.scale, q.served ? q.served : "F32");
                fqt_check_quantized(what, &m, &q, (int64_t)(n % 7 + 30));   /* rows of the head begin inside of words and blocks */
            }
        }
}

/* Codes of more than one read, and rows of scales that a read begins in the middle of. */
static void test_large(void **state)
{
    (void)state;
    static const struct { fqt_quant q; int64_t head_rows; } c[] = {
        { { .format = FQT_AWQ, .group = 128, .lm_head_only = true }, 9000 },
        { { .format = FQT_AWQ, .group = 8, .scale = "F32", .lm_head_only = true, .served = "BF16" }, 4111 },
        { { .format = FQT_FP8_BLOCK, .group = 128, .block_rows = 128, .lm_head_only = true }, 9000 },
        { { .format = FQT_FP8_BLOCK, .group = 3, .block_rows = 1, .lm_head_only = true, .served = "F16" }, 1111 },
        { { .format = FQT_CT_FP8_CHANNEL, .lm_head_only = true, .scale = "BF16" }, 1111 },
    };
    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        const fqt_model m = { .family = "qwen2", .hidden = 384, .heads = 6, .kv = 2, .vocab = 9000, .ff = 128, .layers = 1, .dtype = "F32", .seed = 20 + i };
        char what[32];
        (void)snprintf(what, sizeof what, "large %zu", i);
        fqt_check_quantized(what, &m, &c[i].q, c[i].head_rows);
    }
}

static int64_t pick(uint64_t *rng, int64_t least, int64_t most) { return least + (int64_t)(fqt_random(rng) % (uint64_t)(most - least + 1)); }

/* Any lengths that a form can have, with a group or a block that fits nowhere in particular. */
static fqt_model random_model(uint64_t *rng, fqt_quant *q, fqt_format f)
{
    static const char *const dtype[] = { "F16", "BF16", "F32" };
    static const int bits[] = { 2, 3, 4, 8 };
    const int64_t word = f == FQT_AWQ ? 8 : 1, kv = pick(rng, 1, 2);
    *q = (fqt_quant){ .format = f, .bits = bits[fqt_random(rng) % 4], .scale = dtype[fqt_random(rng) % 3], .order = f < FQT_N_FORMAT ? (fqt_order)(fqt_random(rng) % FQT_N_ORDER) : FQT_ORDER_ABSENT,
                      .asym = fqt_random(rng) % 2, .lm_head = fqt_random(rng) % 2, .block_rows = pick(rng, 1, 40), .group = pick(rng, 1, 40) };
    fqt_model m = { .family = "llama", .kv = kv, .heads = kv * pick(rng, 1, 2), .layers = 1, .dtype = "F32", .seed = fqt_random(rng), .vocab = word * pick(rng, 3, 90 / word) };
    if (fqt_is_fp8(f)) {
        m.hidden = pick(rng, 5, 90);
        m.ff = pick(rng, 5, 90);
        m.head_dim = 2 * pick(rng, 1, 16);
        return m;
    }
    const int64_t group = word * (f == FQT_AWQ ? pick(rng, 1, 5) : 2 * pick(rng, 1, 16));   /* divides every number of inputs */
    q->group = fqt_random(rng) % 4 == 0 ? -1 : group;
    m.hidden = group * pick(rng, 1, 3);
    m.ff = group * pick(rng, 1, 3);
    m.head_dim = group * (group % 2 ? 2 : 1);
    return m;
}

static void test_random(void **state)
{
    (void)state;
    uint64_t rng = fqt_seed(88172645463325252u);
    for (int i = 0; i < 8 * FQT_N_ANY; i++) {
        fqt_quant q;
        char what[128];
        const fqt_model m = random_model(&rng, &q, (fqt_format)(i % FQT_N_ANY));
        (void)snprintf(what, sizeof what, "random %d: %s, %" PRId64 " x %" PRId64 ", group %" PRId64, i, names[q.format], m.hidden, m.ff, q.group);
        fqt_check_quantized(what, &m, &q, pick(&rng, 1, m.vocab));
    }
}

static void test_python(void **state)
{
    (void)state;
    fqt_need_python();
    char *packed = fqt_join(fqt_dir, "packed"), *dense = fqt_join(fqt_dir, "dense"), *out = fqt_join(fqt_dir, "out"), args[4096];
    uint64_t rng = fqt_seed(362436069362436069u);
    (void)snprintf(args, sizeof args, "%s %s", packed, out);
    for (int i = 0; i < 2 * FQT_N_ANY; i++) {
        fqt_quant q;
        const fqt_model m = random_model(&rng, &q, (fqt_format)(i % FQT_N_ANY));
        fqt_make_quantized(packed, dense, &m, &q);
        assert_int_equal(fqt_python(NULL, "tests/tools/unpack_quantized.py", args), 0);
        fq_verify_report r;
        fq_err err = { 0 };
        if (fq_verify_weights(dense, out, NULL, &r, &err) != FQ_OK) fail_msg("%s: %s", names[q.format], err.text);
        assert_int_equal(r.n_tensor_equal, r.n_tensor);
        fqt_remove(packed);
        fqt_remove(dense);
        fqt_remove(out);
    }
    free(packed);
    free(dense);
    free(out);
}

/* ---- published byte vectors ---- */

/* The head of a model whose codes, zeros and scales are these, one word or scale after another in its first column of words. */
typedef struct vector {
    fqt_format format; int bits;
    uint32_t word[3]; size_t n_word;
    uint32_t zero;                       /* every word of zero points */
    float want[32]; size_t n;            /* of the first output channel, or (AWQ) of the first input channel */
} vector;

static const vector vectors[] = {
    { FQT_GPTQ_V2, 4, { 0x76543210 }, 1, 0, { 0, 1, 2, 3, 4, 5, 6, 7 }, 8 },
    { FQT_GPTQ_V2, 8, { 0x04030201 }, 1, 0, { 1, 2, 3, 4 }, 4 },
    { FQT_GPTQ_V2, 2, { 0xe4e4e4e4 }, 1, 0, { 0, 1, 2, 3, 0, 1, 2, 3 }, 8 },
    { FQT_GPTQ_V2, 3, { 0x88fac688, 0xc688fac6, 0xfac688fa }, 3, 0, { 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7 }, 32 },
    { FQT_GPTQ_V1, 4, { 0x76543210 }, 1, 0x77777777, { -8, -7, -6, -5, -4, -3, -2, -1 }, 8 },
    { FQT_GPTQ_V1, 8, { 0x04030201 }, 1, 0x7f7f7f7f, { -127, -126, -125, -124 }, 4 },
    { FQT_GPTQ_V1, 2, { 0xe4e4e4e4 }, 1, 0x55555555, { -2, -1, 0, 1 }, 4 },
    { FQT_GPTQ_V2, 4, { 0x76543210 }, 1, 0x88888888, { -8, -7, -6, -5, -4, -3, -2, -1 }, 8 },
    { FQT_GPTQ_V2, 8, { 0x04030201 }, 1, 0x80808080, { -127, -126, -125, -124 }, 4 },
    { FQT_GPTQ_V2, 2, { 0xe4e4e4e4 }, 1, 0xaaaaaaaa, { -2, -1, 0, 1 }, 4 },
    { FQT_AWQ, 4, { 0x75316420 }, 1, 0, { 0, 1, 2, 3, 4, 5, 6, 7 }, 8 },
    { FQT_AWQ, 4, { 0x75316420 }, 1, 0x75316420, { 0, 0, 0, 0, 0, 0, 0, 0 }, 8 },
};

static void test_vectors(void **state)
{
    (void)state;
    const fqt_model m = { .family = "qwen2", .hidden = 64, .heads = 2, .kv = 2, .head_dim = 32, .vocab = 64, .ff = 64, .layers = 1, .dtype = "F32", .seed = 9 };
    char *packed = fqt_join(fqt_dir, "packed");
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        const vector *v = &vectors[i];
        const fqt_quant q = { .format = v->format, .bits = v->bits, .group = 64, .asym = true, .lm_head_only = true, .scale = "F32" };
        fqt_pair p = fqt_quant_tables(&m, &q);
        uint32_t *code = (uint32_t *)(uintptr_t)fqt_table_find(&p.packed, "lm_head.qweight")->data;
        fqt_tensor *zero = fqt_table_find(&p.packed, "lm_head.qzeros");
        float *scale = (float *)(uintptr_t)fqt_table_find(&p.packed, "lm_head.scales")->data;
        for (size_t w = 0; w < v->n_word; w++) code[w * 64] = v->word[w];
        for (int64_t w = 0; w < zero->shape[0] * zero->shape[1]; w++) memcpy((char *)(uintptr_t)zero->data + 4 * w, &v->zero, 4);
        for (int64_t s = 0; s < 64; s++) scale[s] = 1;
        (void)mkdir(packed, 0777);
        fqt_write_quant_config(packed, &m, &q);
        fqt_write_shards(packed, p.packed.t, p.packed.n, 1, 1);
        fqt_pair_free(&p);
        fqt_opened o = fqt_open_at("packed");
        fqi_matrix h;
        fqt_hold(&o, FQ_DTYPE_F32, 64);
        FQT_OK(fqi_weights_head(o.w, 0, 64, &h, e));
        for (size_t k = 0; k < v->n; k++) {
            const float found = ((const float *)h.data)[v->format == FQT_AWQ ? k * 64 : k];
            if (found != v->want[k]) fail_msg("vector %zu, element %zu: found %g, expected %g", i, k, (double)found, (double)v->want[k]);
        }
        fqt_close(&o);
    }
    free(packed);
}

/* Zero points of symmetric 3-bit files, which fill no word evenly. */
static void test_three_bit_zeros(void **state)
{
    (void)state;
    static const struct { fqt_format f; uint32_t word[3]; } c[] = { { FQT_GPTQ_V1, { 0xdb6db6db, 0xb6db6db6, 0x6db6db6d } }, { FQT_GPTQ_V2, { 0x24924924, 0x49249249, 0x92492492 } } };
    const fqt_model m = { .family = "qwen2", .hidden = 64, .heads = 2, .kv = 2, .head_dim = 32, .vocab = 64, .ff = 64, .layers = 1, .dtype = "F32", .seed = 9 };
    for (size_t i = 0; i < 2; i++) {
        const fqt_quant q = { .format = c[i].f, .bits = 3, .group = 64, .lm_head_only = true };
        fqt_pair p = fqt_quant_tables(&m, &q);
        const uint32_t *zero = fqt_table_find(&p.packed, "lm_head.qzeros")->data;
        for (size_t w = 0; w < 6; w++) assert_int_equal(zero[w], c[i].word[w % 3]);
        fqt_pair_free(&p);
        fqt_check_quantized(names[c[i].f], &m, &q, 64);
    }
}

/* Every E4M3 number, from the definition of the format. */
static void test_e4m3(void **state)
{
    (void)state;
    const fqt_model m = { .family = "qwen2", .hidden = 64, .heads = 2, .kv = 2, .head_dim = 32, .vocab = 4, .ff = 64, .layers = 1, .dtype = "F32", .seed = 9 };
    const fqt_quant q = { .format = FQT_FP8_TENSOR, .lm_head_only = true };
    char *packed = fqt_join(fqt_dir, "packed");
    fqt_pair p = fqt_quant_tables(&m, &q);
    unsigned char *code = (unsigned char *)(uintptr_t)fqt_table_find(&p.packed, "lm_head.weight")->data;
    const float one = 1;
    memcpy((char *)(uintptr_t)fqt_table_find(&p.packed, "lm_head.weight_scale")->data, &one, 4);
    for (int i = 0; i < 256; i++) code[i] = (unsigned char)((i & 127) == 127 ? 0 : i);
    (void)mkdir(packed, 0777);
    fqt_write_quant_config(packed, &m, &q);
    fqt_write_shards(packed, p.packed.t, p.packed.n, 1, 1);
    fqt_pair_free(&p);
    fqt_opened o = fqt_open_at("packed");
    fqi_matrix h;
    fqt_hold(&o, FQ_DTYPE_F32, 4);
    FQT_OK(fqi_weights_head(o.w, 0, 4, &h, e));
    for (int i = 0; i < 256; i++) {
        const int exponent = i >> 3 & 15, digits = i & 7;
        const float want = (float)((i & 128 ? -1 : 1) * (exponent == 0 ? digits / 8.0 * ldexp(1, -6) : (1 + digits / 8.0) * ldexp(1, exponent - 7)));
        const float found = ((const float *)h.data)[i];
        if ((i & 127) != 127 && memcmp(&found, &want, 4) != 0) fail_msg("%#x: found %g, expected %g", (unsigned)i, (double)found, (double)want);
    }
    assert_true(((const float *)h.data)[0x7e] == 448);
    fqt_close(&o);
    free(packed);
}

/* ---- jobs ---- */

static void write_ids(const char *name, int64_t vocab, int n)
{
    char *path = fqt_join(fqt_dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    uint64_t rng = 88172645463325252u;
    for (int i = 0; i < n; i++) fprintf(f, "%d ", (int)(fqt_random(&rng) % (uint64_t)vocab));
    fclose(f);
    free(path);
}

/* Perplexity and logits of codes are those of the numbers that they stand for, to the bit, in both orders of summation. */
static void test_eval(void **state)
{
    (void)state;
    static const fqt_model *const model[] = { &words, &moe };
    char *packed = fqt_join(fqt_dir, "packed"), *dense = fqt_join(fqt_dir, "dense"), *ids = fqt_join(fqt_dir, "ids");
    write_ids("ids", 77, 64);
    for (size_t i = 0; i < FQT_N_ANY; i++) {
        const fqt_quant q = { .format = (fqt_format)i, .bits = 4, .group = 8, .block_rows = 24, .order = i == FQT_GPTQ_V2 ? FQT_ORDER_ANY : FQT_ORDER_ABSENT, .asym = i % 2, .lm_head = i % 3 == 0 };
        fqt_make_quantized(packed, dense, model[i % 2], &q);
        const fq_eval_options o = { .path = packed, .reference = dense, .text = { .ids = ids, .context = 32, .score = FQ_SCORE_ALL }, .exact = i % 2 == 0 };
        fq_eval_report r = { 0 };
        FQT_OK(fq_eval(&o, &plain, &r, e));
        assert_true(r.max_logit_diff == 0 && r.kld.value == 0);
        assert_memory_equal(&r.nll.value, &r.nll_reference.value, sizeof r.nll.value);
        assert_true(r.nll.value > 0.5 && r.nll.value < 30);
        fqt_remove(packed);
        fqt_remove(dense);
    }
    free(packed);
    free(dense);
    free(ids);
}

/* ---- what is refused ---- */

#define Q "model.layers.1.mlp.up_proj"

typedef enum damage_kind { NOTHING, DROP, ADD, DTYPE, SHAPE, BYTE, FLOAT } damage_kind;
typedef struct damage {
    fqt_format format;
    damage_kind kind; const char *part, *dtype; int64_t at, value;
    const char *from, *to;          /* in config.json */
    const char *rule, *text;        /* NULL: nothing is wrong */
    fq_status status;               /* 0: FQ_E_INPUT */
    const char *served;
} damage;

static const damage damages[] = {
    { FQT_AWQ, .kind = DROP, .part = "scales", .rule = "packed-parts", .text = "module " Q ": found no scales, expected one" },
    { FQT_AWQ, .kind = DROP, .part = "qzeros", .rule = "packed-parts", .text = "found no qzeros" },
    { FQT_AWQ, .kind = SHAPE, .part = "qweight", .at = 0, .value = 9, .rule = "packed-shape", .text = "found 9 in dimension 0, expected 72 (input channels x output channels, packed)" },
    { FQT_AWQ, .kind = SHAPE, .part = "qweight", .at = 1, .value = 168, .rule = "packed-shape", .text = "found 168 in dimension 1, expected 21" },
    { FQT_AWQ, .kind = SHAPE, .part = "scales", .at = 0, .value = 4, .rule = "packed-group", .text = "found 4 in dimension 0, expected 9 (72 input channels in groups of 8)" },
    { FQT_AWQ, .kind = SHAPE, .part = "qzeros", .at = 1, .value = 20, .rule = "packed-shape", .text = "found 20 in dimension 1, expected 21 (groups x output channels, packed)" },
    { FQT_AWQ, .kind = DTYPE, .part = "qweight", .dtype = "F32", .rule = "packed-dtype", .text = "found F32, expected I32" },
    { FQT_AWQ, .kind = ADD, .part = "weight", .dtype = "F32", .rule = "packed-and-plain", .text = "found a plain weight of the same module too" },
    { FQT_AWQ, .from = "\"gemm\"", .to = "\"exllama\"", .rule = "quantized", .text = "version: found exllama, expected gemm" },
    { FQT_AWQ, .from = "\"gemm\"", .to = "\"gemv_fast\"", .rule = "quantized", .text = "version: found gemv_fast, expected gemm" },
    { FQT_AWQ, .from = "\"gemm\"", .to = "\"GEMM\"" },
    { FQT_AWQ, .from = ", \"version\": \"gemm\"", .to = "" },
    { FQT_AWQ, .from = "\"gemm\"", .to = "\"gemm\", \"backend\": \"llm-awq\"", .rule = "quantized", .text = "backend: found llm-awq, expected autoawq" },
    { FQT_AWQ, .from = "\"zero_point\": true", .to = "\"zero_point\": false", .rule = "quantized", .text = "zero_point: found false, expected true" },
    { FQT_AWQ, .from = "\"bits\": 4", .to = "\"bits\": 8", .rule = "quantized", .text = "found 8 bits, expected 4" },
    { FQT_AWQ, .from = "\"bits\": 4, \"group_size\"", .to = "\"w_bit\": 4, \"q_group_size\"" },
    { FQT_FP8_BLOCK, .kind = DROP, .part = "weight_scale_inv", .rule = "packed-parts", .text = "module " Q ": found no weight_scale_inv, expected one" },
    { FQT_FP8_BLOCK, .kind = DTYPE, .part = "weight", .dtype = "I8", .rule = "packed-dtype", .text = "found I8, expected F8_E4M3" },
    { FQT_FP8_BLOCK, .kind = SHAPE, .part = "weight_scale_inv", .at = 0, .value = 2, .rule = "packed-shape", .text = "found 2 in dimension 0, expected 7 (blocks of output channels x groups)" },
    { FQT_FP8_BLOCK, .kind = SHAPE, .part = "weight_scale_inv", .at = 1, .value = 8, .rule = "packed-shape", .text = "found 8 in dimension 1, expected 9" },
    { FQT_FP8_BLOCK, .kind = BYTE, .part = "weight", .at = 75, .value = 0xff, .rule = "non-finite", .text = "output channel 1, input channel 3: found NaN, expected finite weights", .status = FQ_E_NUMERIC },
    { FQT_FP8_BLOCK, .kind = FLOAT, .part = "weight_scale_inv", .at = 10, .value = 0x7f800000, .rule = "non-finite", .text = "group 1, output channel 24: found infinity, expected finite scales", .status = FQ_E_NUMERIC },
    { FQT_FP8_BLOCK, .kind = FLOAT, .part = "weight_scale_inv", .at = 0, .value = 0x47800000, .rule = "served-range", .text = "found a weight beyond the range, expected what fits into F16", .status = FQ_E_NUMERIC, .served = "F16" },
    { FQT_FP8_BLOCK, .from = "\"e4m3\"", .to = "\"e5m2\"", .rule = "quantized", .text = "fmt: found e5m2, expected e4m3" },
    { FQT_FP8_BLOCK, .from = ", \"weight_block_size\": [24, 8]", .to = "", .rule = "packed-parts", .text = "found no weight_scale, expected one" },
    { FQT_FP8_TENSOR, .kind = SHAPE, .part = "weight_scale", .at = -1, .value = 3, .rule = "packed-shape", .text = "found 12 bytes, expected one number" },
    { FQT_FP8_TENSOR, .kind = ADD, .part = "input_scale", .dtype = "F32", .rule = "packed-shape", .text = "expected one number" },
    { FQT_CT_FP8_CHANNEL, .kind = SHAPE, .part = "weight_scale", .at = 1, .value = 2, .rule = "packed-shape", .text = "found 2 in dimension 1, expected 1 (output channels x one)" },
    { FQT_CT_FP8_CHANNEL, .kind = ADD, .part = "weight_packed", .dtype = "I32", .rule = "packed-parts", .text = "found codes of compressed-tensors (pack-quantized), expected weight as config.json says" },
    { FQT_CT_FP8_BLOCK, .from = "float-quantized", .to = "naive-quantized", .rule = "quantized", .text = "format: found naive-quantized, expected pack-quantized or float-quantized" },
    { FQT_CT_FP8_BLOCK, .from = "float-quantized", .to = "nvfp4-pack-quantized", .rule = "quantized", .text = "format: found nvfp4-pack-quantized" },
    { FQT_CT_FP8_BLOCK, .from = "\"block\"", .to = "\"group\", \"group_size\": 8", .rule = "quantized", .text = "strategy: found group, expected tensor, channel or block" },
    { FQT_CT_FP8_TENSOR, .from = "\"type\": \"float\"", .to = "\"type\": \"int\"", .rule = "quantized", .text = "type: found int, expected float" },
    { FQT_CT_FP8_TENSOR, .from = "\"num_bits\": 8", .to = "\"num_bits\": 4", .rule = "quantized", .text = "found 4 bits, expected 8" },
};

static void apply(fqt_pair *p, const damage *d)
{
    char name[256];
    (void)snprintf(name, sizeof name, Q ".%s", d->part ? d->part : "");
    if (d->kind == NOTHING) return;
    if (d->kind == ADD) {
        fqt_table_add(&p->packed, name, d->dtype, 2, (int64_t[]){ 168, 72 });
        return;
    }
    if (d->kind == DROP) {
        fqt_table_remove(&p->packed, name);
        return;
    }
    fqt_tensor *t = fqt_table_find(&p->packed, name);
    const uint32_t word = (uint32_t)d->value;
    if (d->kind == DTYPE) {
        t->dtype = d->dtype;
        t->data = NULL;
    } else if (d->kind == SHAPE && d->at < 0) {
        t->rank = 1;
        t->shape[0] = d->value;
        t->data = NULL;
    } else if (d->kind == SHAPE) {
        t->shape[d->at] = d->value;
        t->data = NULL;
    } else if (d->kind == BYTE) ((unsigned char *)(uintptr_t)t->data)[d->at] = (unsigned char)d->value;
    else memcpy((char *)(uintptr_t)t->data + 4 * d->at, &word, 4);
}

static void replace_in_config(const char *dir, const char *from, const char *to)
{
    size_t n;
    char *text = fqt_read(dir, "config.json", &n), *at = strstr(text, from), *out;
    assert_non_null(at);
    assert_true(asprintf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) > 0);
    fqt_write_text(dir, "config.json", out);
    free(out);
    free(text);
}

static fq_status run_through(fqt_opened *o, const char *served, fq_err *e)
{
    const fqi_weights_options w = { .n_slot = 1, .served = served ? FQ_DTYPE_F16 : FQ_DTYPE_F32, .run = &plain };
    const fqi_layer_weights *l;
    FQI_TRY(fqi_weights_create(o->c, &o->d, &w, &o->w, e));
    for (int64_t i = 0; i < 2; i++) FQI_TRY(fqi_weights_layer(o->w, i, &l, e));
    return FQ_OK;
}

static void test_refused(void **state)
{
    (void)state;
    char *packed = fqt_join(fqt_dir, "packed"), *file = fqt_join(packed, "config.json");
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        const damage *d = &damages[i];
        const fqt_quant q = { .format = d->format, .bits = 4, .group = 8, .block_rows = 24 };
        fqt_pair p = fqt_quant_tables(&words, &q);
        apply(&p, d);
        (void)mkdir(packed, 0777);
        fqt_write_quant_config(packed, &words, &q);
        if (d->from) replace_in_config(packed, d->from, d->to);
        fqt_write_shards(packed, p.packed.t, p.packed.n, 1, 1);
        fqt_pair_free(&p);
        fqt_opened o = { .dir = strdup(packed) };
        fq_err err = { 0 };
        FQT_OK(fq_ckpt_open(o.dir, &plain, &o.c, e));
        FQT_OK(fqi_decoder_read(&o.c->config, file, &o.d, e));
        const fq_status s = run_through(&o, d->served, &err), want = !d->rule ? FQ_OK : d->status ? d->status : FQ_E_INPUT;
        if (s != want || strcmp(err.rule, d->rule ? d->rule : "") != 0 || (d->text && !strstr(err.text, d->text)))
            fail_msg("case %zu: found %d, %s: %s, expected %d, %s: %s", i, (int)s, err.rule, err.text, (int)want, d->rule ? d->rule : "", d->text ? d->text : "");
        fqt_close(&o);
    }
    free(packed);
    free(file);
}

/* Experts of a layer in one tensor: no engine has published a layout of their codes that this reads. */
static void test_fused_experts(void **state)
{
    (void)state;
    fqt_model m = moe;
    m.fused = true;
    const fqt_quant q = { .format = FQT_FP8_BLOCK, .group = 128, .block_rows = 128 };
    for (int with_scale = 0; with_scale < 2; with_scale++) {
        char *packed = fqt_join(fqt_dir, "packed"), *file = fqt_join(packed, "config.json");
        fqt_pair p = fqt_quant_tables(&m, &q);
        fqt_tensor *t = fqt_table_find(&p.packed, "model.layers.0.mlp.experts.down_proj");
        t->dtype = "F8_E4M3";
        t->data = NULL;
        if (with_scale) fqt_table_add(&p.packed, "model.layers.0.mlp.experts.down_proj_scale_inv", "F32", 3, (int64_t[]){ 5, 1, 1 });
        (void)mkdir(packed, 0777);
        fqt_write_quant_config(packed, &m, &q);
        fqt_write_shards(packed, p.packed.t, p.packed.n, 1, 1);
        fqt_pair_free(&p);
        fqt_opened o = { .dir = strdup(packed) };
        fq_err err = { 0 };
        FQT_OK(fq_ckpt_open(o.dir, &plain, &o.c, e));
        FQT_OK(fq_ckpt_check(o.c, e));
        FQT_OK(fqi_decoder_read(&o.c->config, file, &o.d, e));
        assert_int_equal(run_through(&o, NULL, &err), FQ_E_INPUT);
        assert_string_equal(err.rule, "weight-quantized");
        assert_non_null(strstr(err.text, "module model.layers.0.mlp.experts.down_proj: found it in F8_E4M3, expected experts one by one"));
        fqt_close(&o);
        free(packed);
        free(file);
    }
}

/* ---- the table ---- */

/* Every part's dimensions, for a weight whose lengths nothing divides. */
static void test_lengths(void **state)
{
    (void)state;
    static const struct { fqi_quant_layout l; fqi_part part; int64_t length[2]; const char *words; } c[] = {
        { FQI_QL_GPTQ, FQI_PART_CODES, { 28, 200 }, "input channels, packed, x output channels" },
        { FQI_QL_GPTQ, FQI_PART_SCALE, { 3, 200 }, "groups x output channels" },
        { FQI_QL_GPTQ, FQI_PART_ZERO, { 3, 19 }, "groups x output channels, packed" },
        { FQI_QL_GPTQ, FQI_PART_ORDER, { 290 }, "input channels" },
        { FQI_QL_AWQ, FQI_PART_CODES, { 290, 19 }, "input channels x output channels, packed" },
        { FQI_QL_CT, FQI_PART_CODES, { 200, 28 }, "output channels x input channels, packed" },
        { FQI_QL_CT, FQI_PART_ZERO, { 19, 3 }, "output channels, packed, x groups" },
        { FQI_QL_CT, FQI_PART_SHAPE, { 2 }, "rows and columns" },
        { FQI_QL_FP8_BLOCK, FQI_PART_CODES, { 200, 290 }, "output channels x input channels" },
        { FQI_QL_FP8_BLOCK, FQI_PART_SCALE, { 3, 3 }, "blocks of output channels x groups" },
        { FQI_QL_CT_FLOAT_CHANNEL, FQI_PART_SCALE, { 200, 1 }, "output channels x one" },
        { FQI_QL_FP8_TENSOR, FQI_PART_SCALE, { 1 }, "one" },
    };
    const fqi_quant_size size = { .rows = 200, .cols = 290, .bits = 3, .group_rows = 96, .group_cols = 100 };
    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        const fqi_part_form *p = &fqi_quant_form_of(c[i].l)->part[c[i].part];
        char text[96];
        for (int d = 0; d < p->rank; d++) assert_int_equal(fqi_part_length(p->dim[d], &size), c[i].length[d]);
        fqi_part_words(p, text, sizeof text);
        assert_string_equal(text, c[i].words);
    }
    for (int l = 0; l < FQI_N_QL; l++) {   /* what every reader relies on */
        const fqi_quant_form *f = fqi_quant_form_of((fqi_quant_layout)l);
        assert_non_null(f->part[FQI_PART_CODES].suffix);
        assert_non_null(f->part[FQI_PART_SCALE].suffix);
        assert_int_equal(f->part[FQI_PART_CODES].rank, 2);
        assert_true(f->floats || f->part[FQI_PART_ZERO].suffix);
    }
}

/* ---- configs as they exist ---- */

static void test_real_configs(void **state)
{
    (void)state;
    static const struct { const char *file; unsigned layouts; int bits; int64_t group, block[2]; bool zeros_v1, order; const char *refused; } c[] = {
        { .file = "quant/GSJL--Qwen2.5-32B-Instruct-GPTQ-Marlin.config.json", .refused = "checkpoint_format: found marlin, expected gptq or gptq_v2" },
        { .file = "quant/Genz-70b-GPTQ.config.json", .layouts = 1u << FQI_QL_GPTQ, .bits = 3, .group = -1, .zeros_v1 = true, .order = true },
        { .file = "quant/shuyuej--Qwen2-72B-Instruct-GPTQ.config.json", .layouts = 1u << FQI_QL_GPTQ, .bits = 4, .group = 128, .zeros_v1 = true, .order = true },
        { .file = "quant/LDCC--Qwen2.5-72B-Instruct-ko-AWQ.config.json", .layouts = 1u << FQI_QL_AWQ, .bits = 4, .group = 128 },
        { .file = "quant/Qwen--Qwen2.5-72B-Instruct-AWQ.partial.json", .layouts = 1u << FQI_QL_AWQ, .bits = 4, .group = 128 },
        { .file = "quant/ellamind--qwen2-72b-instruct-awq-de.config.json", .layouts = 1u << FQI_QL_AWQ, .bits = 4, .group = 128 },
        { .file = "quant/study-hjt--Qwen1.5-110B-Chat-AWQ.config.json", .layouts = 1u << FQI_QL_AWQ, .bits = 4, .group = 128 },
        { .file = "configs/Qwen--Qwen3-32B-FP8.json", .layouts = 1u << FQI_QL_FP8_BLOCK, .bits = 8, .group = 128, .block = { 128, 128 } },
        { .file = "configs/Qwen--Qwen3-235B-A22B-FP8.json", .layouts = 1u << FQI_QL_FP8_BLOCK, .bits = 8, .group = 128, .block = { 128, 128 } },
        { .file = "configs/openai--gpt-oss-120b.json", .refused = "found weights quantized with \"mxfp4\", expected gptq, awq (gemm), fp8, compressed-tensors" },
    };
    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        fq_ckpt k = { .has_config = true, .info.path = "." };
        fqi_quant_scheme s;
        fq_err err = { 0 };
        char *path = fqt_join(fqt_data(), c[i].file);
        FQT_OK(fqi_config_load(path, &k.config, e));
        const fq_status status = fqi_quant_scheme_read(&k, &s, &err);
        if (c[i].refused) {
            assert_int_equal(status, FQ_E_INPUT);
            if (!strstr(err.text, c[i].refused)) fail_msg("%s: found %s", c[i].file, err.text);
        } else {
            if (status != FQ_OK) fail_msg("%s: %s", c[i].file, err.text);
            assert_int_equal(s.layouts, c[i].layouts);
            assert_int_equal(s.bits, c[i].bits);
            assert_int_equal(s.group_size, c[i].group);
            assert_int_equal(s.block[0], c[i].block[0]);
            assert_int_equal(s.block[1], c[i].block[1]);
            assert_true(s.zeros_v1 == c[i].zeros_v1 && s.order == c[i].order && !s.varies);
        }
        fqi_config_free(&k.config);
        free(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_form), cmocka_unit_test(test_large), cmocka_unit_test(test_random), cmocka_unit_test(test_python),
        cmocka_unit_test(test_vectors), cmocka_unit_test(test_three_bit_zeros), cmocka_unit_test(test_e4m3), cmocka_unit_test(test_eval),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_fused_experts), cmocka_unit_test(test_lengths), cmocka_unit_test(test_real_configs),
    };
    return cmocka_run_group_tests(tests, fqt_dir_setup, fqt_dir_teardown);
}
