/* test_quantized.c - quantized checkpoints: every format, number of bits, group and order of channels gives the numbers that its codes stand
 * for, a model of them computes what the dense model computes, and what is wrong with one is refused by name.
 *
 * The codes come from make_quantized.c. tests/tools/unpack_quantized.py, which was written from the formats and not from the library,
 * must give the same numbers. */
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
#include "make_quantized.h"
#include "quant_pair.h"
#include "seal.h"
#include "support.h"

static const fq_run plain = { .n_thread = 2 };

/* Widths that words do not divide (3 is all they have in common), and widths that they do. */
static const fqt_model odd = { .family = "llama", .hidden = 45, .ff = 63, .heads = 3, .kv = 1, .head_dim = 14, .vocab = 77, .layers = 1, .dtype = "F32", .seed = 3 };
static const fqt_model even = { .family = "qwen2", .hidden = 96, .ff = 160, .heads = 6, .kv = 2, .head_dim = 16, .vocab = 77, .layers = 2, .dtype = "F32", .seed = 4 };
static const fqt_model moe = { .family = "qwen3_moe", .hidden = 64, .moe_ff = 32, .heads = 4, .kv = 2, .head_dim = 16, .vocab = 77, .layers = 2, .experts = 5, .dtype = "F32", .seed = 5 };

static const char *format_name(fqt_format f) { return f == FQT_CT ? "ct" : f == FQT_GPTQ_V1 ? "v1" : "v2"; }

/* ---- numbers ---- */

static void test_every_form(void **state)
{
    (void)state;
    static const char *const dtype[] = { "F16", "BF16", "F32" }, *const served[] = { NULL, "BF16", "F16" };
    static const int bits[] = { 2, 3, 4, 8 };
    static const struct { const fqt_model *m; int64_t group; } shape[] = { { &odd, 3 }, { &odd, -1 }, { &even, 32 }, { &even, -1 }, { &even, 16 }, { &moe, 16 } };
    size_t n = 0;
    for (int f = 0; f < FQT_N_FORMAT; f++)
        for (size_t b = 0; b < 4; b++)
            for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++)
                for (int order = 0; order < FQT_N_ORDER; order++) {
                    char what[128];
                    fqt_model m = *shape[s].m;
                    fqt_quant q = { .format = (fqt_format)f, .bits = bits[b], .group = shape[s].group, .order = (fqt_order)order };
                    if (s == 4 && order != FQT_ORDER_ANY) continue;
                    m.seed += n;
                    m.n_shard = n % 5 == 0 ? 2 : 1;
                    q.asym = n % 2;
                    q.scale = dtype[n % 3];
                    q.served = served[n / 3 % 3];
                    q.lm_head = true;
                    n++;
                    (void)snprintf(what, sizeof what, "%s %d bits, group %" PRId64 ", order %d, %s, scales %s, served %s", format_name(q.format), q.bits, q.group, order, q.asym ? "asym" : "sym", q.scale,
                                   q.served ? q.served : "F32");
                    fqt_check_quantized(what, &m, &q, (int64_t)(n % 7 + 70));
                }
}

/* Codes of more than one read, scales of more than one tile, and a head that is read in rows that begin anywhere. */
static void test_large(void **state)
{
    (void)state;
    static const struct { fqt_quant q; int64_t head_rows; } c[] = {
        { { .format = FQT_GPTQ_V1, .bits = 8, .group = 128, .order = FQT_ORDER_PLAIN, .lm_head_only = true }, 9000 },
        { { .format = FQT_GPTQ_V2, .bits = 4, .group = 8, .order = FQT_ORDER_ANY, .asym = true, .lm_head_only = true }, 9000 },
        { { .format = FQT_GPTQ_V2, .bits = 3, .group = 8, .order = FQT_ORDER_ANY, .asym = true, .lm_head_only = true }, 4111 },
        { { .format = FQT_CT, .bits = 8, .group = 8, .order = FQT_ORDER_ANY, .asym = true, .lm_head_only = true }, 9000 },
        { { .format = FQT_CT, .bits = 3, .group = 128, .order = FQT_ORDER_ABSENT, .asym = true, .lm_head_only = true, .served = "BF16" }, 1111 },
    };
    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        const fqt_model m = { .family = "qwen2", .hidden = 384, .heads = 6, .kv = 2, .vocab = 9000, .ff = 128, .layers = 1, .dtype = "F32", .seed = 20 + i };
        char what[32];
        (void)snprintf(what, sizeof what, "large %zu", i);
        fqt_check_quantized(what, &m, &c[i].q, c[i].head_rows);
    }
}

/* A row wider than the buffers: 2^20 input channels need 1 MiB at 8 bits. */
static void test_wide(void **state)
{
    (void)state;
    for (int f = 0; f < FQT_N_FORMAT; f += 2) {
        const fqt_model m = { .family = "qwen2", .hidden = 2, .heads = 1, .kv = 1, .head_dim = 2, .vocab = 5, .ff = 1100000, .layers = 1, .dtype = "F32", .seed = 30 };
        fqt_quant q = { .format = (fqt_format)f, .bits = 8, .group = 2, .order = FQT_ORDER_PLAIN };
        fqt_check_quantized(format_name(q.format), &m, &q, 5);
    }
}

/* ---- memory ---- */

static void test_measure(void **state)
{
    (void)state;
    const fqt_quant q = { .format = FQT_GPTQ_V1, .bits = 4, .group = 32, .lm_head = true };
    char *packed = fqt_join(fqt_dir, "packed");
    fqt_make_quantized(packed, NULL, &even, &q);
    fqt_opened a = fqt_open_at("packed");
    const int64_t n = 96 * (96 + 32 + 32 + 96) + 3 * 96 * 160, vectors = 96 * 2 + 96 + 32 + 32;
    const struct { fq_dtype served; int64_t size; } c[] = { { FQ_DTYPE_F32, 4 }, { FQ_DTYPE_BF16, 2 } };
    for (size_t i = 0; i < 2; i++) {
        fqi_weights_size s;
        FQT_OK(fqi_weights_measure(a.c, &a.d, NULL, c[i].served, &s, e));
        const uint64_t least = (uint64_t)(n * c[i].size + vectors * 4);
        if (s.slot_bytes < least || s.slot_bytes > least + 20 * 64) fail_msg("slot of %" PRIu64 " bytes, expected about %" PRIu64, s.slot_bytes, least);
        assert_int_equal(s.head_row_bytes, 96 * c[i].size);
    }
    fqt_close(&a);
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

/* Perplexity and logits of codes are those of the numbers that they stand for, to the bit. */
static void test_eval(void **state)
{
    (void)state;
    static const fqt_model *const model[] = { &even, &moe };
    char *packed = fqt_join(fqt_dir, "packed"), *dense = fqt_join(fqt_dir, "dense"), *ids = fqt_join(fqt_dir, "ids");
    write_ids("ids", 77, 64);
    for (size_t i = 0; i < 2 * FQT_N_FORMAT; i++) {
        const fqt_quant q = { .format = (fqt_format)(i % FQT_N_FORMAT), .bits = i < 3 ? 4 : 3, .group = 16, .order = i % 2 ? FQT_ORDER_ANY : FQT_ORDER_PLAIN, .asym = i % 2, .lm_head = i < 3, .served = i == 4 ? "BF16" : NULL };
        fqt_make_quantized(packed, dense, model[i % 2], &q);
        const fq_eval_options o = { .path = packed, .reference = dense, .text = { .ids = ids, .context = 32, .score = FQ_SCORE_ALL }, .exact = true, .served = q.served ? FQ_SERVED_BF16 : FQ_SERVED_F32 };
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

static void test_python(void **state)
{
    (void)state;
    fqt_need_python();
    static const fqt_quant quant[] = {
        { .format = FQT_GPTQ_V1, .bits = 4, .group = 32, .order = FQT_ORDER_PLAIN },
        { .format = FQT_GPTQ_V1, .bits = 8, .group = -1, .order = FQT_ORDER_ABSENT, .asym = true, .scale = "F32" },
        { .format = FQT_GPTQ_V2, .bits = 3, .group = 16, .order = FQT_ORDER_ANY, .asym = true, .scale = "BF16", .lm_head = true },
        { .format = FQT_CT, .bits = 4, .group = 32, .order = FQT_ORDER_ABSENT },
        { .format = FQT_CT, .bits = 3, .group = -1, .order = FQT_ORDER_ABSENT, .asym = true, .lm_head = true },
        { .format = FQT_CT, .bits = 2, .group = 16, .order = FQT_ORDER_ANY, .asym = true, .scale = "BF16" },
    };
    char *packed = fqt_join(fqt_dir, "packed"), *dense = fqt_join(fqt_dir, "dense"), *out = fqt_join(fqt_dir, "out"), args[4096];
    fqt_model m = even;
    m.layers = 1;
    (void)snprintf(args, sizeof args, "%s %s", packed, out);
    for (size_t i = 0; i < sizeof quant / sizeof quant[0]; i++) {
        fqt_make_quantized(packed, dense, &m, &quant[i]);
        assert_int_equal(fqt_python(NULL, "tests/tools/unpack_quantized.py", args), 0);
        fq_verify_report r;
        FQT_OK(fq_verify_weights(dense, out, NULL, &r, e));
        assert_int_equal(r.n_tensor_equal, r.n_tensor);
        fqt_remove(packed);
        fqt_remove(dense);
        fqt_remove(out);
    }
    free(packed);
    free(dense);
    free(out);
}

/* ---- proofs ---- */

static void test_prove(void **state)
{
    (void)state;
    const fqt_quant q = { .format = FQT_CT, .bits = 4, .group = 32 };
    char *packed = fqt_join(fqt_dir, "packed"), *dense = fqt_join(fqt_dir, "dense"), *other = fqt_join(fqt_dir, "other");
    fqt_make_quantized(packed, dense, &even, &q);
    fqt_make_model(other, &even);
    for (int turned = 0; turned < 2; turned++) {   /* the numbers that it stands for, either way round */
        const fq_verify_options o = { .a = turned ? packed : dense, .b = turned ? dense : packed, .text = { .context = 24, .chunks = 1 } };
        fq_proof p;
        FQT_OK(fq_verify(&o, &plain, &p, e));
        assert_int_equal(p.verdict, FQ_SAME_NUMBERS);
        assert_false(p.weights_compared);
        assert_true(p.numbers_compared && p.fixed_bits);
        assert_non_null(strstr(p.why_not, "packed is quantized with \"compressed-tensors\": no weight is the same"));
    }
    fq_err err = { 0 };
    fq_proof p;
    fq_verify_options o = { .a = other, .b = packed, .text = { .context = 24, .chunks = 1 } };
    assert_int_equal(fq_verify(&o, &plain, &p, &err), FQ_E_DIFFERS);
    assert_string_equal(err.rule, "logits-differ");
    assert_true(p.verdict == FQ_DIFFERENT && !p.weights_compared && p.numbers_compared);
    o.a = packed;   /* twice the same codes */
    FQT_OK(fq_verify(&o, &plain, &p, e));
    assert_int_equal(p.verdict, FQ_SAME_BITS);
    fqt_remove(packed);
    fqt_remove(dense);
    fqt_remove(other);
    free(packed);
    free(dense);
    free(other);
}

static char *replace(char *text, const char *from, const char *to)
{
    char *at = strstr(text, from), *out;
    assert_non_null(at);
    assert_true(asprintf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) > 0);
    free(text);
    return out;
}

/* A fitq.json that says that fitq quantized the model: nothing can be compared element by element, or taken back. */
static void test_record(void **state)
{
    (void)state;
    char *source = fqt_join(fqt_dir, "source"), *fitted = fqt_join(fqt_dir, "fitted"), *back = fqt_join(fqt_dir, "back");
    fqt_make_model(source, &even);
    const fq_pad_options o = { .source = source, .target = fitted, .fit = { .intermediate_size_pad = 192 } };
    FQT_OK(fq_pad(&o, NULL, NULL, e));
    size_t n;
    char *text = fqt_seal(replace(fqt_read(fitted, "fitq.json", &n), "\"pad\"", "\"quantize\""));
    fqt_write_text(fitted, "fitq.json", text);
    free(text);
    fq_err e = { 0 };
    fq_verify_report r;
    assert_int_equal(fq_verify_weights(source, fitted, NULL, &r, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "quantized");
    assert_non_null(strstr(e.text, "fitted: quantized: found a model that fitq quantized, expected one that it padded: its weights were rounded"));
    assert_int_equal(fq_unpad(&(fq_unpad_options){ .source = fitted, .target = back }, NULL, NULL, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "quantized");
    assert_non_null(strstr(e.text, "the original weights are not in it"));
    struct stat st;
    assert_int_not_equal(stat(back, &st), 0);
    fqt_remove(source);
    fqt_remove(fitted);
    free(source);
    free(fitted);
    free(back);
}

/* ---- what is refused ---- */

#define Q "model.layers.1.mlp.up_proj"

typedef enum damage_kind { NOTHING, DROP, ADD, DTYPE, SHAPE, WORD, HALF } damage_kind;
typedef struct damage {
    fqt_format format; bool asym; fqt_order order;
    const char *extra;              /* of quantization_config */
    damage_kind kind; const char *part, *dtype; int64_t at, value;
    const char *rule, *text;        /* NULL: nothing is wrong */
    fq_status status;               /* 0: FQ_E_INPUT */
    const char *served;
} damage;

static const damage damages[] = {
    { FQT_GPTQ_V1, .kind = DROP, .part = "scales", .rule = "packed-parts", .text = "packed: packed-parts: module " Q ": found no scales, expected one" },
    { FQT_GPTQ_V1, .kind = DROP, .part = "qzeros", .rule = "packed-parts", .text = "found no qzeros, expected one" },
    { FQT_GPTQ_V1, .order = FQT_ORDER_ANY, .kind = DROP, .part = "g_idx", .rule = "packed-parts", .text = "found no g_idx, expected one" },
    { FQT_CT, .kind = DROP, .part = "weight_scale", .rule = "packed-parts", .text = "found no weight_scale, expected one" },
    { FQT_CT, .kind = DROP, .part = "weight_shape", .rule = "packed-parts", .text = "found no weight_shape, expected one" },
    { FQT_CT, .asym = true, .kind = DROP, .part = "weight_zero_point", .rule = "packed-parts", .text = "found no weight_zero_point, expected one" },
    { FQT_CT, .order = FQT_ORDER_ANY, .kind = DROP, .part = "weight_g_idx", .rule = "packed-parts", .text = "found no weight_g_idx, expected one" },
    { FQT_CT, .kind = DROP, .part = "weight_packed", .rule = "weight-quantized", .text = "module " Q ": found weight_scale in F16, expected a dense weight without it, or codes" },
    { FQT_GPTQ_V1, .kind = ADD, .part = "weight", .dtype = "F32", .rule = "packed-and-plain", .text = Q ".qweight: packed-and-plain: found a plain weight of the same module too" },
    { FQT_GPTQ_V1, .kind = ADD, .part = "weight_packed", .dtype = "I32", .rule = "packed-parts", .text = "found codes of compressed-tensors (pack-quantized), expected qweight as config.json says" },
    { FQT_GPTQ_V1, .kind = DTYPE, .part = "qweight", .dtype = "F32", .rule = "packed-dtype", .text = Q ".qweight: packed-dtype: found F32, expected I32" },
    { FQT_GPTQ_V1, .kind = DTYPE, .part = "scales", .dtype = "I32", .rule = "packed-dtype", .text = "found I32, expected F16, BF16 or F32" },
    { FQT_GPTQ_V1, .order = FQT_ORDER_PLAIN, .kind = DTYPE, .part = "g_idx", .dtype = "F32", .rule = "packed-dtype", .text = "found F32, expected I32" },
    { FQT_CT, .kind = DTYPE, .part = "weight_shape", .dtype = "F64", .rule = "packed-dtype", .text = "found F64, expected I32 or I64" },
    { FQT_GPTQ_V1, .kind = SHAPE, .part = "qweight", .at = 0, .value = 24, .rule = "packed-shape", .text = "found 24 in dimension 0, expected 12 (input channels, packed, x output channels)" },
    { FQT_GPTQ_V1, .kind = SHAPE, .part = "qweight", .at = 1, .value = 80, .rule = "packed-shape", .text = "found 80 in dimension 1, expected 160" },
    { FQT_GPTQ_V1, .kind = SHAPE, .part = "scales", .at = 0, .value = 6, .rule = "packed-group", .text = "found 6 in dimension 0, expected 3 (96 input channels in groups of 32)" },
    { FQT_GPTQ_V1, .kind = SHAPE, .part = "scales", .at = 1, .value = 159, .rule = "packed-shape", .text = "found 159 in dimension 1, expected 160 (groups x output channels)" },
    { FQT_GPTQ_V1, .kind = SHAPE, .part = "qzeros", .at = 1, .value = 19, .rule = "packed-shape", .text = "found 19 in dimension 1, expected 20" },
    { FQT_GPTQ_V1, .order = FQT_ORDER_PLAIN, .kind = SHAPE, .part = "g_idx", .at = 0, .value = 95, .rule = "packed-shape", .text = "found 95 in dimension 0, expected 96 (input channels)" },
    { FQT_CT, .kind = SHAPE, .part = "weight_packed", .at = 1, .value = 11, .rule = "packed-shape", .text = "found 11 in dimension 1, expected 12" },
    { FQT_CT, .kind = SHAPE, .part = "weight_scale", .at = 1, .value = 4, .rule = "packed-group", .text = "found 4 in dimension 1, expected 3" },
    { FQT_CT, .asym = true, .kind = SHAPE, .part = "weight_zero_point", .at = 0, .value = 19, .rule = "packed-shape", .text = "found 19 in dimension 0, expected 20" },
    /* what only the values tell */
    { FQT_GPTQ_V1, .order = FQT_ORDER_ANY, .kind = WORD, .part = "g_idx", .at = 95, .value = 3, .rule = "packed-order", .text = Q ".g_idx: packed-order: found group 3 for input channel 95, expected 0 to 2" },
    { FQT_GPTQ_V2, .order = FQT_ORDER_PLAIN, .kind = WORD, .part = "g_idx", .at = 0, .value = -1, .rule = "packed-order", .text = "found group -1 for input channel 0" },
    { FQT_CT, .order = FQT_ORDER_ANY, .kind = WORD, .part = "weight_g_idx", .at = 17, .value = INT32_MAX, .rule = "packed-order", .text = "found group 2147483647 for input channel 17" },
    { FQT_GPTQ_V1, .asym = true, .kind = WORD, .part = "qzeros", .at = 21, .value = 0x1f11, .rule = "packed-zero", .text = "group 1, output channel 10: found 15 as it is stored, expected less: checkpoint_format gptq makes it 16 of 0 to 15, so that it should say gptq_v2, or the zero point is 0 and readers of format gptq disagree" },
    { FQT_GPTQ_V1, .kind = WORD, .part = "qzeros", .at = 0, .value = 0x77777778, .rule = "zero-version", .text = "group 0, output channel 0: found 8 as it is stored, which is what format gptq_v2 stores, expected 7: checkpoint_format says gptq and must say gptq_v2" },
    { FQT_GPTQ_V1, .kind = WORD, .part = "qzeros", .at = 0, .value = 0x77777779, .rule = "packed-zero", .text = "group 0, output channel 0: found 9 as it is stored, expected 7: config.json says symmetric, checkpoint_format gptq" },
    { FQT_GPTQ_V2, .kind = WORD, .part = "qzeros", .at = 0, .value = 0x77777777, .rule = "zero-version", .text = "found 7 as it is stored, which is what format gptq stores, expected 8: checkpoint_format says gptq_v2 and must say gptq" },
    { FQT_CT, .kind = WORD, .part = "weight_shape", .at = 2, .value = 97, .rule = "packed-shape", .text = "found 160 x 97, expected 160 x 96" },
    { FQT_GPTQ_V1, .kind = HALF, .part = "scales", .at = 161, .value = 0x7c00, .rule = "non-finite", .text = "group 1, output channel 1: found infinity, expected finite scales", .status = FQ_E_NUMERIC },
    { FQT_CT, .kind = HALF, .part = "weight_scale", .at = 5, .value = 0xfe00, .rule = "non-finite", .text = "group 2, output channel 1: found NaN", .status = FQ_E_NUMERIC },
    { FQT_GPTQ_V1, .kind = HALF, .part = "scales", .at = 0, .value = 0x7bff, .rule = "served-range", .text = "found a weight beyond the range, expected what fits into F16", .status = FQ_E_NUMERIC, .served = "F16" },
    { FQT_GPTQ_V1, .kind = HALF, .part = "scales", .at = 0, .value = 0x7bff },
    { FQT_CT, .kind = HALF, .part = "weight_scale", .at = 0, .value = 0x7bff, .rule = "served-range", .text = "output channel 0, input channel", .status = FQ_E_NUMERIC, .served = "F16" },
    /* what config.json says */
    { FQT_GPTQ_V1, .extra = ", \"checkpoint_format\": \"marlin\"", .rule = "quantized", .text = "quantization_config: checkpoint_format: found marlin, expected gptq or gptq_v2" },
    { FQT_GPTQ_V1, .extra = ", \"format\": \"gptq_p\"", .rule = "quantized", .text = "quantization_config: format: found gptq_p, expected gptq or gptq_v2" },
    { FQT_GPTQ_V2, .extra = ", \"format\": \"gptq\"", .rule = "quantized", .text = "format: found gptq, expected what checkpoint_format says" },
    { FQT_GPTQ_V1, .extra = ", \"is_marlin_format\": true", .rule = "quantized", .text = "is_marlin_format" },
    { FQT_GPTQ_V1, .extra = ", \"pack_dtype\": \"int16\"", .rule = "quantized", .text = "pack_dtype: found int16, expected int32" },
    { FQT_CT, .extra = ", \"transform_config\": { \"config_groups\": { \"u\": {} } }", .rule = "quantized", .text = "transform_config: found settings" },
    { FQT_CT, .extra = ", \"transform_config\": {}" },
    { FQT_GPTQ_V1, .extra = ", \"checkpoint_format\": \"gptq\", \"format\": \"gptq\", \"pack_dtype\": \"int32\", \"is_marlin_format\": false, \"dynamic\": { \"-:.*gate$\": {} }" },
};

static void apply(fqt_pair *p, const damage *d)
{
    char name[256];
    (void)snprintf(name, sizeof name, Q ".%s", d->part ? d->part : "");
    if (d->kind == NOTHING) return;
    if (d->kind == ADD) {
        fqt_table_add(&p->packed, name, d->dtype, 2, (int64_t[]){ 160, 96 });
        return;
    }
    if (d->kind == DROP) {
        fqt_table_remove(&p->packed, name);
        return;
    }
    fqt_tensor *t = fqt_table_find(&p->packed, name);
    const int32_t word = (int32_t)d->value;
    const uint16_t half = (uint16_t)d->value;
    if (d->kind == DTYPE) t->dtype = d->dtype;
    else if (d->kind == SHAPE) t->shape[d->at] = d->value;
    else if (d->kind == WORD) memcpy((char *)(uintptr_t)t->data + 4 * d->at, &word, 4);
    else memcpy((char *)(uintptr_t)t->data + 2 * d->at, &half, 2);
}

/* Both layers, by whoever reads them. */
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
        const fqt_quant q = { .format = d->format, .bits = 4, .group = 32, .asym = d->asym, .order = d->order, .extra = d->extra };
        fqt_pair p = fqt_quant_tables(&even, &q);
        apply(&p, d);
        (void)mkdir(packed, 0777);
        fqt_write_quant_config(packed, &even, &q);
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

/* Rules for single modules: shapes tell their bits and groups. */
static void test_mixed(void **state)
{
    (void)state;
    for (int f = 0; f < FQT_N_FORMAT; f++) {
        const fqt_quant q = { .format = (fqt_format)f, .bits = 4, .group = 32 }, head = { .format = (fqt_format)f, .bits = 8, .group = 16, .asym = true, .lm_head_only = true };
        fqt_quant says = q;
        says.extra = ", \"dynamic\": { \"lm_head\": { \"bits\": 8, \"group_size\": 16, \"sym\": false } }";
        fqt_pair a = fqt_quant_tables(&even, &q), b = fqt_quant_tables(&even, &head);
        fqt_table_remove(&a.packed, "lm_head.weight");
        for (size_t i = 0; i < b.packed.n; i++)
            if (strncmp(b.packed.t[i].name, "lm_head.", 8) == 0) {
                fqt_tensor t = b.packed.t[i];
                fqt_table_add(&a.packed, t.name, t.dtype, t.rank, t.shape)->data = t.data;
            }
        fqt_table_find(&a.dense, "lm_head.weight")->data = fqt_table_find(&b.dense, "lm_head.weight")->data;
        char *packed = fqt_join(fqt_dir, "packed"), *dense = fqt_join(fqt_dir, "dense");
        (void)mkdir(packed, 0777);
        (void)mkdir(dense, 0777);
        fqt_write_config(dense, &even);
        fqt_write_quant_config(packed, &even, &says);
        if (f == FQT_CT) {   /* a second group of modules instead */
            size_t n;
            char *text = replace(fqt_read(packed, "config.json", &n), "\"config_groups\": {",
                                 "\"config_groups\": { \"head\": { \"targets\": [\"lm_head\"], \"weights\": { \"num_bits\": 8, \"symmetric\": false, \"strategy\": \"group\", \"group_size\": 16 } },");
            fqt_write_text(packed, "config.json", text);
            free(text);
        }
        fqt_write_shards(packed, a.packed.t, a.packed.n, 1, 4);
        fqt_write_shards(dense, a.dense.t, a.dense.n, 1, 4);
        fqt_opened x = fqt_open_at("packed"), y = fqt_open_at("dense");
        fqt_hold(&x, FQ_DTYPE_F32, 77);
        fqt_hold(&y, FQ_DTYPE_F32, 77);
        fqt_same_weights(format_name((fqt_format)f), &x, &y, 77);
        fqt_close(&x);
        fqt_close(&y);
        fqt_pair_free(&a);
        fqt_pair_free(&b);
        free(packed);
        free(dense);
    }
}

/* Settings of compressed-tensors that are another function, or another format. */
static void test_ct_settings(void **state)
{
    (void)state;
    static const struct { const char *from, *to, *text; } c[] = {
        { "\"pack-quantized\"", "\"int-quantized\"", "format: found int-quantized, expected pack-quantized" },
        { "\"format\": \"pack-quantized\",", "", "format: found nothing, expected pack-quantized" },
        { "\"int\"", "\"float\"", "type: found float, expected int" },
        { "\"group\", \"group_size\"", "\"tensor_group\", \"group_size\"", "strategy: found tensor_group, expected group or channel" },
        { "\"input_activations\": null", "\"input_activations\": { \"num_bits\": 8 }", "input_activations: found settings, expected null (weights only), or FP8 that is scaled at run time" },
        { "\"num_bits\": 4", "\"num_bits\": 5", "found 5 bits, expected 2, 3, 4 or 8" },
        { "\"compressed-tensors\"", "\"bitsandbytes\"", "found weights quantized with \"bitsandbytes\", expected gptq, awq (gemm), fp8, compressed-tensors (pack-quantized, float-quantized), or no quantization" },
    };
    const fqt_quant q = { .format = FQT_CT, .bits = 4, .group = 32 };
    char *packed = fqt_join(fqt_dir, "packed");
    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        size_t n;
        fqt_make_quantized(packed, NULL, &even, &q);
        char *text = replace(fqt_read(packed, "config.json", &n), c[i].from, c[i].to);
        fqt_write_text(packed, "config.json", text);
        free(text);
        fq_ckpt *k;
        fq_err err = { 0 };
        FQT_OK(fq_ckpt_open(packed, &plain, &k, e));
        assert_int_equal(fqi_quant_check(k, &err), FQ_E_INPUT);
        assert_string_equal(err.rule, "quantized");
        if (!strstr(err.text, c[i].text)) fail_msg("found %s, expected %s", err.text, c[i].text);
        fq_ckpt_close(k);
        fqt_remove(packed);
    }
    free(packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_form), cmocka_unit_test(test_large), cmocka_unit_test(test_wide), cmocka_unit_test(test_measure),
        cmocka_unit_test(test_eval), cmocka_unit_test(test_python), cmocka_unit_test(test_prove), cmocka_unit_test(test_record),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_mixed), cmocka_unit_test(test_ct_settings),
    };
    return cmocka_run_group_tests(tests, fqt_dir_setup, fqt_dir_teardown);
}
