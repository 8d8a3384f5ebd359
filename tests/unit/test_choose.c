/* test_choose.c - what fq_choose decides: by a table of known models, and by properties: the planner runs and fits what is chosen, the reasons
 * are there, and more memory never gives fewer bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "job/mapping.h"
#include "plan_models.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define GIB (UINT64_C(1) << 30)

/* ---- known models --------------------------------------------------------------------------------------------------- */

typedef struct known {
    const char *name;
    fq_model m;
    int n_gpu, gib;
    int bits;                 /* 0: does not fit */
    int64_t group;
    int64_t intermediate_size_pad, num_attention_heads_pad;   /* 0: as it is */
} known;

/* The prices are those of `fitq plan`: weights + KV cache of 8192 tokens + 1.5 GiB. Group sizes: 28672 = 4 * 7168 divides by 128 for 4 GPUs. */
static const known table[] = {
    { "Qwen2-72B", QWEN2_72B, 1, 24, 0, 0, 0, 0 },
    { "Qwen2-72B", QWEN2_72B, 1, 48, 4, 128, 0, 0 },
    { "Qwen2-72B", QWEN2_72B, 2, 24, 4, 128, 29696, 0 },
    { "Qwen2-72B", QWEN2_72B, 3, 24, 4, 128, 0, 72 },
    { "Qwen2-72B", QWEN2_72B, 4, 24, 8, 128, 29696, 0 },
    { "Qwen2-72B", QWEN2_72B, 8, 8, 4, 128, 29696, 0 },
    { "Qwen2-72B", QWEN2_72B, 8, 24, 16, 0, 0, 0 },
    { "Qwen2-7B", QWEN2_7B, 1, 8, 4, 128, 0, 0 },
    { "Qwen2-7B", QWEN2_7B, 1, 12, 8, 128, 0, 0 },
    { "Qwen2-7B", QWEN2_7B, 1, 24, 16, 0, 0, 0 },
    { "Llama-3.1-8B", LLAMA31_8B, 1, 24, 16, 0, 0, 0 },
    { "Qwen3-30B-A3B", QWEN3_30B, 2, 24, 8, 128, 0, 0 },
    { "Mixtral-8x7B", MIXTRAL_8X7B, 1, 24, 0, 0, 0, 0 },
};

static void known_models(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(table); i++) {
        const known *k = &table[i];
        fq_choice c = { 0 };
        fq_err e = { 0 };
        const fq_status s = fq_choose(&k->m, k->n_gpu, (uint64_t)k->gib * GIB, NULL, 0, 0, &c, &e);
        if (s != (k->bits ? FQ_OK : FQ_E_INPUT)) fail_msg("%s on %d x %d GiB: %d %s", k->name, k->n_gpu, k->gib, s, e.text);
        if (!k->bits) {
            assert_string_equal(e.rule, "does-not-fit");
            continue;
        }
        if (c.bits != k->bits || c.group_size != k->group || c.fit.intermediate_size_pad != k->intermediate_size_pad || c.fit.num_attention_heads_pad != k->num_attention_heads_pad)
            fail_msg("%s on %d x %d GiB: found %d bits, groups of %lld, %lld channels, %lld heads", k->name, k->n_gpu, k->gib, c.bits, (long long)c.group_size, (long long)c.fit.intermediate_size_pad,
                     (long long)c.fit.num_attention_heads_pad);
        assert_int_equal(c.tp, k->n_gpu);
        assert_true(c.n_why >= 2);
        assert_true(c.packing == (c.bits == 8 ? FQ_PACKING_COMPRESSED_TENSORS : FQ_PACKING_GPTQ));
    }
}

/* ---- properties ------------------------------------------------------------------------------------------------------- */

static fq_model fitted(const fq_model *m, const fq_choice *c)
{
    fq_model out;
    fqi_model_fitted(m, &c->fit, &out);
    if (out.num_attention_heads * out.head_dim != out.hidden_size) {   /* written as llama where heads need head_dim */
        snprintf(out.model_type, sizeof out.model_type, "llama");
        snprintf(out.family, sizeof out.family, "llama");
        out.head_dim_explicit = true;
    }
    return out;
}

static const char *format_of(const fq_choice *c) { return c->bits == 16 ? "bf16" : c->bits == 8 ? "ct-int8" : "gptq-marlin"; }

/* The planner, asked about the model as it would be written, runs it as it is, in the memory that was named. */
static void check_choice(const char *what, const fq_model *m, const fq_choice *c, uint64_t memory)
{
    const fq_model w = fitted(m, c);
    const char *format = format_of(c);
    const fq_plan_request r = { .tp = &c->tp, .n_tp = 1, .format = &format, .n_format = 1, .group_size = (int)c->group_size, .gpu_memory_bytes = memory };
    fq_plan *p = NULL;
    fq_err e = { 0 };
    if (fq_plan_create(&w, &r, &p, &e) != FQ_OK) fail_msg("%s: %s", what, e.text);
    assert_true(fq_plan_n_entry(p) >= 2);
    for (size_t i = 0; i < fq_plan_n_entry(p); i++) {
        const fq_plan_entry *x = fq_plan_get_entry(p, i);
        if (x->verdict != FQ_RUNS) fail_msg("%s: %d bits on %d GPUs: %s: %s", what, c->bits, c->tp, x->engine->id, x->n_violation ? x->violation[0].text : x->note);
        if (!x->memory_fits) fail_msg("%s: %d bits on %d GPUs: %s: does not fit", what, c->bits, c->tp, x->engine->id);
        assert_true(x->longest_context >= c->longest_context);
    }
    assert_true(c->memory_need_bytes <= memory && c->weight_bytes_per_gpu < c->memory_need_bytes);
    fq_plan_free(p);
}

static const fq_model models[] = { QWEN2_72B, QWEN2_7B, QWEN25_05B, QWEN15_14B, QWEN15_32B, LLAMA31_8B, CODELLAMA_7B, QWEN3_30B, QWEN3_235B, MIXTRAL_8X7B, ONLY_FF(11008), ONLY_HEADS(36, 4) };

static void what_is_chosen_runs_and_more_memory_never_gives_fewer_bits(void **state)
{
    (void)state;
    static const int gpus[] = { 1, 2, 3, 4, 5, 6, 7, 8, 16 };
    size_t n_chosen = 0;
    for (size_t i = 0; i < COUNT(models); i++)
        for (size_t k = 0; k < COUNT(gpus); k++) {
            int before = 0;
            for (uint64_t memory = 2 * GIB; memory <= 256 * GIB; memory += memory / 2) {
                char what[96];
                fq_choice c = { 0 };
                snprintf(what, sizeof what, "model %zu on %d GPUs of %llu MiB", i, gpus[k], (unsigned long long)(memory >> 20));
                const fq_status s = fq_choose(&models[i], gpus[k], memory, NULL, 0, 0, &c, NULL);
                const int bits = s == FQ_OK ? c.bits : 0;
                if (bits < before) fail_msg("%s: found %d bits, expected at least the %d of less memory", what, bits, before);
                before = bits;
                if (s != FQ_OK) continue;
                check_choice(what, &models[i], &c, memory);
                n_chosen++;
            }
        }
    assert_true(n_chosen > 300);
}

/* Lengths that nobody's model has. */
static void random_models(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        fqi_random r = fqi_random_seed(seed);
        const int64_t kv = 1 + (int64_t)fqi_random_below(&r, 8), heads = kv * (1 + (int64_t)fqi_random_below(&r, 8));
        const fq_model m = MODEL("llama", 1, heads * 128, 1 + (int64_t)fqi_random_below(&r, 40), 1000 + (int64_t)fqi_random_below(&r, 100000), heads, kv, 128, DENSE(256 + 8 * (int64_t)fqi_random_below(&r, 4000), 1));
        const int n_gpu = 1 + (int)fqi_random_below(&r, 8);
        const uint64_t memory = (2 + fqi_random_below(&r, 30)) * GIB;
        fq_choice c = { 0 };
        fq_err e = { 0 };
        char what[48];
        snprintf(what, sizeof what, "seed %llu", (unsigned long long)seed);
        if (fq_choose(&m, n_gpu, memory, NULL, 0, 0, &c, &e) == FQ_OK) check_choice(what, &m, &c, memory);
        else assert_string_equal(e.rule, "does-not-fit");
    }
}

/* ---- what is refused ------------------------------------------------------------------------------------------------------ */

static void refused(void **state)
{
    (void)state;
    static const fq_model deepseek = DEEPSEEK_R1, next = QWEN3_NEXT, dense = QWEN2_7B;
    fq_model stranger = QWEN2_7B;
    stranger.family[0] = '\0';
    snprintf(stranger.model_type, sizeof stranger.model_type, "nobody_knows");
    const struct { const fq_model *m; int n_gpu; uint64_t memory; const char *engine, *rule; fq_status status; } row[] = {
        { &dense, 1, 0, NULL, "gpu-memory", FQ_E_USAGE },
        { &dense, 65, GIB, NULL, "gpu-count", FQ_E_USAGE },
        { &dense, 1, 24 * GIB, "vlm", "unknown-engine", FQ_E_USAGE },
        { &dense, 1, 4 * GIB, NULL, "does-not-fit", FQ_E_INPUT },
        { &deepseek, 8, 80 * GIB, NULL, "memory-unknown", FQ_E_INPUT },
        { &next, 8, 80 * GIB, NULL, "memory-unknown", FQ_E_INPUT },
        { &stranger, 1, 8 * GIB, NULL, "unknown-family", FQ_E_INPUT },
    };
    for (size_t i = 0; i < COUNT(row); i++) {
        fq_choice c = { .bits = -1 };
        fq_err e = { 0 };
        const fq_status s = fq_choose(row[i].m, row[i].n_gpu, row[i].memory, row[i].engine ? &row[i].engine : NULL, row[i].engine ? 1 : 0, 0, &c, &e);
        if (s != row[i].status || strcmp(e.rule, row[i].rule) != 0) fail_msg("row %zu: found %d %s, expected %d %s", i, s, e.text, row[i].status, row[i].rule);
        assert_int_equal(c.bits, -1);
    }
    fq_choice c;
    assert_int_equal(fq_choose(&stranger, 1, 24 * GIB, NULL, 0, 0, &c, NULL), FQ_OK);   /* as it is: nothing of it has to be known */
    assert_int_equal(c.bits, 16);
}

/* A longer context takes memory from the weights. */
static void context_counts(void **state)
{
    (void)state;
    static const fq_model m = QWEN2_72B;
    fq_choice near, far;
    assert_int_equal(fq_choose(&m, 4, 24 * GIB, NULL, 0, 1024, &near, NULL), FQ_OK);
    assert_int_equal(fq_choose(&m, 4, 24 * GIB, NULL, 0, 100000, &far, NULL), FQ_OK);
    assert_int_equal(near.bits, 8);
    assert_int_equal(far.bits, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_models), cmocka_unit_test(what_is_chosen_runs_and_more_memory_never_gives_fewer_bits), cmocka_unit_test(random_models), cmocka_unit_test(refused), cmocka_unit_test(context_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
