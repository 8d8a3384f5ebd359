/* test_plan.c - the planner's interface: tables, requests, parameter counts, prices, options, notes, memory. */
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "plan/linears.h"
#include "plan_models.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static fq_plan *plan_of(const fq_model *m, const char *engine, const char *format, int tp, uint64_t memory)
{
    fq_err e = { 0 };
    fq_plan *p = NULL;
    fq_plan_request r = { .tp = &tp, .n_tp = 1, .engine = &engine, .n_engine = 1, .format = &format, .n_format = format ? 1 : 0,
                          .gpu_memory_bytes = memory };
    if (!format) r.format = NULL;
    if (fq_plan_create(m, &r, &p, &e) != FQ_OK) fail_msg("%s", e.text);
    return p;
}

/* ---- tables --------------------------------------------------------------------------------------------------------- */

static void tables_are_whole(void **state)
{
    (void)state;
    static const char *const engines[] = { "vllm", "vllm-2025", "sglang", "transformers", "tgi", "lmdeploy", "tensorrt-llm", "llama.cpp" };
    static const char *const formats[] = { "bf16", "fp16", "gptq", "gptq-marlin", "awq", "awq-marlin", "ct-int4", "ct-int8", "fp8",
        "fp8-block", "nvfp4", "mxfp4", "gguf-k" };
    for (size_t i = 0; i < COUNT(engines); i++) {
        size_t at;
        assert_string_equal(fq_engine_get(i)->id, engines[i]); /* the order of the bits in the rule rows */
        assert_true(fqi_engine_find(engines[i], &at) && at == i);
        assert_true(fq_engine_get(i)->source[0]);
        assert_int_equal(fq_engine_get(i)->is_default, i == 0 || i == 2);
    }
    assert_null(fq_engine_get(COUNT(engines)));
    for (size_t i = 0; i < COUNT(formats); i++) {
        size_t at;
        assert_string_equal(fq_format_get(i)->id, formats[i]);
        assert_true(fqi_format_find(formats[i], &at) && at == i);
        assert_true(fq_format_get(i)->source[0]);
    }
    assert_null(fq_format_get(COUNT(formats)));
    const fqi_rule *r;
    for (size_t i = 0; (r = fqi_rule_at(i)); i++) {
        assert_true(r->name && r->name[0] && strlen(r->name) < 64);
        assert_true(r->source && r->source[0]);
        assert_true(r->engines && r->engines < 1u << COUNT(engines));
        assert_true(r->formats && r->formats < 1u << COUNT(formats));
        bool of_tensors = r->check == FQI_CK_SPLIT || (r->check >= FQI_CK_K_RANK && r->check <= FQI_CK_K_WHOLE);
        if (of_tensors) assert_true(r->linears != 0);
        if (r->check == FQI_CK_VOCAB) assert_true(r->divisor >= 1);
    }
}

/* ---- requests ------------------------------------------------------------------------------------------------------- */

static void bad_requests(void **state)
{
    (void)state;
    const fq_model m = LLAMA31_8B;
    static const char *const nope[] = { "nope\n" };
    const int zero = 0, many = 65, two = 2;
    const struct { fq_plan_request r; const char *rule; } cases[] = {
        { { .tp = NULL }, "gpu-count" },
        { { .tp = &zero, .n_tp = 1 }, "gpu-count" },
        { { .tp = &many, .n_tp = 1 }, "gpu-count" },
        { { .tp = &two, .n_tp = 1, .engine = nope, .n_engine = 1 }, "unknown-engine" },
        { { .tp = &two, .n_tp = 1, .format = nope, .n_format = 1 }, "unknown-format" },
        { { .tp = &two, .n_tp = 1, .group_size = -2 }, "group-size" },
        { { .tp = &two, .n_tp = 1, .context = -1 }, "context" },
        { { .tp = &two, .n_tp = 1, .kv_cache_bits = 33 }, "kv-cache-bits" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        fq_err e = { 0 };
        fq_plan *p = (fq_plan *)(void *)&e; /* must stay as it is */
        assert_int_equal(fq_plan_create(&m, &cases[i].r, &p, &e), FQ_E_USAGE);
        assert_string_equal(e.rule, cases[i].rule);
        assert_ptr_equal(p, &e);
        assert_null(strchr(e.text, '\n'));
    }
    fq_plan_free(NULL);
}

static void bad_models(void **state)
{
    (void)state;
    static const char *const field[] = { "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
        "intermediate_size", "num_experts" };
    for (size_t i = 0; i < COUNT(field); i++) {
        fq_model m = LLAMA31_8B;
        if (i == 0) m.hidden_size = 0;
        if (i == 1) m.num_hidden_layers = INT64_MAX;
        if (i == 2) m.num_attention_heads = -1;
        if (i == 3) m.num_key_value_heads = 5; /* does not divide 32 */
        if (i == 4) m.vocab_size = INT64_MAX;
        if (i == 5) m.intermediate_size = INT64_MIN;
        if (i == 6) m.num_experts = INT64_MAX;
        fq_err e = { 0 };
        fq_plan *p = NULL;
        int tp = 2;
        fq_plan_request r = { .tp = &tp, .n_tp = 1 };
        assert_int_equal(fq_plan_create(&m, &r, &p, &e), FQ_E_INPUT);
        if (!strstr(e.text, field[i])) fail_msg("%s: %s", field[i], e.text);
        assert_null(p);
    }
}

/* The largest numbers that are accepted neither overflow nor take long. */
static void giants(void **state)
{
    (void)state;
    fq_model m = MODEL("llama", 1, 1 << 28, 1 << 16, 1 << 28, 1 << 16, 1, 1 << 16, .intermediate_size = 1 << 28, .n_dense_layer = 1 << 15,
                       .moe_intermediate_size = (1 << 28) - 1, .num_experts = 1 << 20, .n_moe_layer = 1 << 15, .mlp_bias = true);
    int tp[64];
    for (int i = 0; i < 64; i++) tp[i] = i + 1;
    static const char *const formats[] = { "bf16", "gptq-marlin", "fp8-block", "gguf-k" };
    fq_plan_request r = { .tp = tp, .n_tp = 64, .format = formats, .n_format = 4, .context = (int64_t)1 << 40, .gpu_memory_bytes = 1 };
    fq_plan *p = NULL;
    assert_int_equal(fq_plan_create(&m, &r, &p, NULL), FQ_OK);
    assert_int_equal(fq_plan_n_entry(p), 2 * 4 * 64);
    fq_fit fit;
    fq_err e = { 0 };
    fq_status s = fq_plan_joint_fit(p, &fit, &e);
    assert_true(s == FQ_E_INPUT);
    assert_string_equal(e.rule, "no-fit");
    fq_plan_free(p);
}

static void entry_order_and_defaults(void **state)
{
    (void)state;
    const fq_model m = LLAMA31_8B;
    const int tp[] = { 2, 8 };
    fq_plan_request r = { .tp = tp, .n_tp = 2 };
    fq_plan *p = NULL;
    assert_int_equal(fq_plan_create(&m, &r, &p, NULL), FQ_OK);
    static const struct { const char *engine, *format; int tp; } want[] = {
        { "vllm", "bf16", 2 }, { "vllm", "bf16", 8 }, { "vllm", "gptq-marlin", 2 }, { "vllm", "gptq-marlin", 8 },
        { "sglang", "bf16", 2 }, { "sglang", "bf16", 8 }, { "sglang", "gptq-marlin", 2 }, { "sglang", "gptq-marlin", 8 },
    };
    assert_int_equal(fq_plan_n_entry(p), COUNT(want));
    for (size_t i = 0; i < COUNT(want); i++) {
        const fq_plan_entry *x = fq_plan_get_entry(p, i);
        assert_string_equal(x->engine->id, want[i].engine);
        assert_string_equal(x->format->id, want[i].format);
        assert_int_equal(x->tp, want[i].tp);
        assert_int_equal(x->verdict, FQ_RUNS);
        assert_int_equal(x->n_violation, 0);
        assert_int_equal(x->n_option, 1);
        assert_string_equal(x->option[0].what, "as it is");
        assert_true(x->option[0].param_percent == 0 && x->option[0].byte_percent == 0);
        assert_false(x->memory_asked);
    }
    assert_null(fq_plan_get_entry(p, COUNT(want)));
    fq_fit fit = { .vocab_size_pad = 1 };
    assert_int_equal(fq_plan_joint_fit(p, &fit, NULL), FQ_OK);
    assert_memory_equal(&fit, &(fq_fit){ 0 }, sizeof fit);
    fq_plan_free(p);
}

/* A checkpoint that is quantized is judged in its own format. */
static void own_format(void **state)
{
    (void)state;
    static const struct { fq_quant_method q; const char *name; int bits, group; bool sym; const char *format; int want_group; } cases[] = {
        { FQ_QUANT_GPTQ, "gptq", 4, 64, true, "gptq-marlin", 64 },
        { FQ_QUANT_GPTQ, "gptq", 3, 128, true, "gptq", 128 },
        { FQ_QUANT_GPTQ, "gptq", 8, -1, true, "gptq-marlin", -1 },
        { FQ_QUANT_AWQ, "awq", 4, 128, false, "awq-marlin", 128 },
        { FQ_QUANT_COMPRESSED_TENSORS, "compressed-tensors", 4, 32, true, "ct-int4", 32 },
        { FQ_QUANT_COMPRESSED_TENSORS, "compressed-tensors", 8, -1, true, "ct-int8", -1 },
        { FQ_QUANT_FP8, "fp8", 8, 128, true, "fp8-block", 128 },
        { FQ_QUANT_FP8, "fp8", 8, 0, true, "fp8", 0 },
        { FQ_QUANT_OTHER, "mxfp4", 4, 32, true, "mxfp4", 32 },
        { FQ_QUANT_OTHER, "modelopt", 4, 16, true, "nvfp4", 16 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        fq_model m = LLAMA31_8B;
        m.quant = cases[i].q;
        m.quant_bits = cases[i].bits;
        m.quant_group_size = cases[i].group;
        m.quant_sym = cases[i].sym;
        snprintf(m.quant_name, sizeof m.quant_name, "%s", cases[i].name);
        fq_plan *p = plan_of(&m, "sglang", NULL, 2, 0);
        assert_int_equal(fq_plan_n_entry(p), 1);
        assert_string_equal(fq_plan_get_entry(p, 0)->format->id, cases[i].format);
        assert_int_equal(fq_plan_get_entry(p, 0)->group_size, cases[i].want_group);
        fq_plan_free(p);
    }
    fq_model odd = LLAMA31_8B;
    odd.quant = FQ_QUANT_GPTQ;
    odd.quant_bits = 3;
    odd.quant_group_size = 128;
    odd.quant_sym = true;
    fq_plan *p = plan_of(&odd, "vllm", NULL, 2, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_IMPOSSIBLE);
    assert_string_equal(fq_plan_get_entry(p, 0)->violation[0].rule, "gptq-type");
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "gptq-type"));
    fq_plan_free(p);
}

/* ---- counting ------------------------------------------------------------------------------------------------------- */

/* Published parameter counts. */
static void parameter_counts(void **state)
{
    (void)state;
    static const struct { fq_model m; uint64_t n; } known[] = {
        { QWEN2_72B, 72706203648u },
        { QWEN2_7B, 7615616512u },
        { QWEN25_05B, 494032768u },
        { LLAMA31_8B, 8030261248u },
        { MIXTRAL_8X7B, 46702792704u },
        { QWEN3_30B, 30532122624u },
        { QWEN3_235B, 235093634560u },
    };
    for (size_t i = 0; i < COUNT(known); i++) {
        fqi_shape s;
        assert_int_equal(fqi_shape_init(&known[i].m, &s, NULL), FQ_OK);
        if (fqi_param_count(&s, &s.dims) != known[i].n)
            fail_msg("model %d: %llu, expected %llu", (int)i,
                      (unsigned long long)fqi_param_count(&s, &s.dims), (unsigned long long)known[i].n);
    }
}

/* bf16 on one GPU is two bytes per parameter; on tp GPUs the parts add up to it but for what is held whole and copied. */
static void bytes_per_gpu(void **state)
{
    (void)state;
    const fq_model m = LLAMA31_8B;
    const uint64_t params = 8030261248u, norms = 4096u * 65u, kv_layers = 2u * 1024u * 4096u * 32u;
    const struct { int tp; uint64_t want, kv; } cases[] = {
        { 1, 2 * params, 131072 },
        { 4, 2 * ((params - norms) / 4 + norms), 32768 },
        { 16, 2 * ((params - norms - kv_layers) / 16 + kv_layers / 8 + norms), 16384 }, /* 8 KV heads, 16 GPUs: two copies of each */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        fq_plan *p = plan_of(&m, "vllm", "bf16", cases[i].tp, 0);
        const fq_option *o = &fq_plan_get_entry(p, 0)->option[0];
        assert_int_equal(o->weight_bytes_per_gpu, cases[i].want);
        assert_int_equal(o->kv_bytes_per_token_per_gpu, cases[i].kv);
        assert_true(fabs(o->cost - ((double)cases[i].want + 8192.0 * (double)cases[i].kv)) < 1);
        fq_plan_free(p);
    }
    /* int4 in groups of 128: 4 + 20/128 bits for the linears, 16 for the rest. */
    fq_plan *p = plan_of(&m, "vllm", "gptq", 1, 0);
    uint64_t rest = 2u * 128256u * 4096u + norms, linear = params - rest;
    assert_int_equal(fq_plan_get_entry(p, 0)->option[0].weight_bytes_per_gpu, 2 * rest + linear / 2 + linear / 128 * 20 / 8);
    fq_plan_free(p);
}

/* ---- options -------------------------------------------------------------------------------------------------------- */

static const fq_option *find_option(const fq_plan_entry *x, const char *what)
{
    for (size_t i = 0; i < x->n_option; i++)
        if (strcmp(x->option[i].what, what) == 0) return &x->option[i];
    for (size_t i = 0; i < x->n_option; i++) print_message("option: %s\n", x->option[i].what);
    fail_msg("no option \"%s\"", what);
    return NULL;
}

static void regroup_is_offered(void **state)
{
    (void)state;
    const fq_model m = QWEN2_72B;
    fq_plan *p = plan_of(&m, "vllm", "gptq-marlin", 2, 0);
    const fq_plan_entry *x = fq_plan_get_entry(p, 0);
    const fq_option *o = find_option(x, "quantize in groups of 64"); /* there are no groups yet */
    assert_int_equal(o->group_size, 64);
    assert_true(o->param_percent == 0 && o->byte_percent > 1 && o->byte_percent < 5);
    assert_memory_equal(&o->fit, &(fq_fit){ 0 }, sizeof o->fit);
    assert_string_equal(x->option[0].what, "pad intermediate_size 29568 -> 29696"); /* cheaper */
    fq_plan_free(p);
    fq_model own = m;
    own.quant = FQ_QUANT_GPTQ;
    own.quant_bits = 4;
    own.quant_group_size = 128;
    own.quant_sym = true;
    p = plan_of(&own, "vllm", "gptq-marlin", 2, 0);
    assert_int_equal(find_option(fq_plan_get_entry(p, 0), "regroup 128 -> 64")->group_size, 64);
    fq_plan_free(p);
    p = plan_of(&m, "vllm", "gptq-marlin", 8, 0); /* 924 groups of 32 do not split in 8 either */
    assert_int_equal(fq_plan_get_entry(p, 0)->n_option, 1);
    fq_plan_free(p);
}

static void expert_parallel_is_offered(void **state)
{
    (void)state;
    const fq_model m = QWEN3_235B;
    fq_plan *p = plan_of(&m, "vllm", "fp8-block", 8, 0);
    const fq_plan_entry *x = fq_plan_get_entry(p, 0);
    const fq_option *ep = find_option(x, "expert parallel"), *pad = find_option(x, "pad moe_intermediate_size 1536 -> 2048");
    assert_true(ep->expert_parallel && ep->param_percent == 0 && ep->byte_percent == 0);
    assert_memory_equal(&ep->fit, &(fq_fit){ 0 }, sizeof ep->fit);
    assert_true(pad->param_percent > 30 && pad->param_percent < 33.4);
    assert_true(ep->weight_bytes_per_gpu < pad->weight_bytes_per_gpu);
    assert_ptr_equal(ep, &x->option[0]);
    fq_fit fit; /* weights are what pad changes: expert parallelism is the engine's setting */
    assert_int_equal(fq_plan_joint_fit(p, &fit, NULL), FQ_OK);
    assert_int_equal(fit.moe_intermediate_size_pad, 2048);
    fq_plan_free(p);
    fq_model odd = m;
    odd.num_experts = 100; /* not in 8 equal parts */
    p = plan_of(&odd, "vllm", "fp8-block", 8, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->n_option, 1);
    fq_plan_free(p);
}

static void ignored_head_dim(void **state)
{
    (void)state;
    fq_model m = QWEN2_7B;
    fq_plan *p = plan_of(&m, "vllm", "bf16", 8, 0);
    assert_string_equal(fq_plan_get_entry(p, 0)->option[0].what, "pad heads 28/4 -> 32/4");
    assert_string_equal(fq_plan_get_entry(p, 0)->option[0].reexpress_as, "llama");
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "head_dim"));
    fq_plan_free(p);
    p = plan_of(&m, "transformers", "bf16", 7, 0); /* honours the key */
    assert_string_equal(fq_plan_get_entry(p, 0)->option[0].reexpress_as, "");
    fq_plan_free(p);
    m.sliding_window = true; /* Llama has none: no way out */
    p = plan_of(&m, "vllm", "bf16", 8, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_IMPOSSIBLE);
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "head_dim"));
    fq_plan_free(p);
    /* KV heads alone do not need it: 40/10 on 4 GPUs as 40/20. */
    fq_model phi = MODEL("qwen2", 1, 5120, 40, 100352, 40, 10, 128, DENSE(17920, 40), .sliding_window = true);
    p = plan_of(&phi, "vllm", "bf16", 4, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_NEEDS_FIT);
    assert_string_equal(fq_plan_get_entry(p, 0)->option[0].what, "store KV heads 2x, pad heads 40/10 -> 40/20");
    assert_string_equal(fq_plan_get_entry(p, 0)->option[0].reexpress_as, "");
    assert_int_equal(fq_plan_get_entry(p, 0)->n_option, 1);
    fq_plan_free(p);
}

/* A config as padding left it, given to an engine that computes head_dim by itself. */
static void misread_as_it_is(void **state)
{
    (void)state;
    fq_model m = MODEL("qwen2", 1, 256, 4, 2112, 12, 3, 32, DENSE(897, 4), .head_dim_explicit = true, .q_bias = true, .kv_bias = true);
    fq_plan *p = plan_of(&m, "vllm", "bf16", 3, 0);
    const fq_plan_entry *x = fq_plan_get_entry(p, 0);
    assert_int_equal(x->verdict, FQ_NEEDS_FIT);
    assert_int_equal(x->n_violation, 1);
    assert_string_equal(x->violation[0].rule, "head-dim-ignored");
    assert_string_equal(x->violation[0].text,
                        "head_dim 32 is ignored: the engine computes hidden_size 256 / 12 heads = 21, rounded down");
    assert_non_null(strstr(x->violation[0].source, "qwen2.py"));
    assert_true(x->violation[0].silent);
    assert_string_equal(x->option[0].what, "write as llama");
    assert_string_equal(x->option[0].reexpress_as, "llama");
    assert_memory_equal(&x->option[0].fit, &(fq_fit){ 0 }, sizeof(fq_fit));
    fq_fit fit = { .vocab_size_pad = 1 };
    assert_int_equal(fq_plan_joint_fit(p, &fit, NULL), FQ_OK);
    assert_memory_equal(&fit, &(fq_fit){ 0 }, sizeof fit);
    fq_plan_free(p);

    static const struct { const char *family, *engine; fq_verdict verdict; bool silent; } cases[] = {
        { "llama", "vllm", FQ_RUNS, false }, { "qwen3", "vllm", FQ_RUNS, false }, { "mistral", "tgi", FQ_RUNS, false },
        { "qwen2", "transformers", FQ_RUNS, false }, { "qwen2", "lmdeploy", FQ_RUNS, false }, { "qwen2", "tensorrt-llm", FQ_RUNS, false },
        { "qwen2", "sglang", FQ_NEEDS_FIT, true }, { "qwen2_vl", "vllm", FQ_IMPOSSIBLE, true }, { "mixtral", "sglang", FQ_IMPOSSIBLE, true },
        { "qwen2", "tgi", FQ_IMPOSSIBLE, false }, { "llama", "tgi", FQ_IMPOSSIBLE, false }, { "mixtral", "tgi", FQ_IMPOSSIBLE, false },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        fq_model k = m;
        snprintf(k.model_type, sizeof k.model_type, "%s", cases[i].family);
        snprintf(k.family, sizeof k.family, "%s", cases[i].family);
        p = plan_of(&k, cases[i].engine, "bf16", 1, 0);
        x = fq_plan_get_entry(p, 0);
        if (x->verdict != cases[i].verdict) fail_msg("%s %s: verdict %d; %s", cases[i].family, cases[i].engine, (int)x->verdict, x->note);
        assert_int_equal(x->n_violation, cases[i].verdict != FQ_RUNS);
        if (x->n_violation) assert_int_equal(x->violation[0].silent, cases[i].silent);
        if (x->verdict == FQ_IMPOSSIBLE) assert_non_null(strstr(x->note, "head-dim-ignored"));
        fq_plan_free(p);
    }
    m.hidden_size = 384; /* 12 x 32: what the engine computes is right */
    p = plan_of(&m, "vllm", "bf16", 3, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_RUNS);
    fq_plan_free(p);
}

static void head_dim_not_known(void **state)
{
    (void)state;
    fq_model m = MODEL("qwen2_moe", 1, 3584, 28, 152064, 28, 4, 128, MOE(2560, 64, 28), .shared_expert_intermediate_size = 20480);
    fq_plan *p = plan_of(&m, "tgi", "bf16", 8, 0); /* heads are to be padded */
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "not known whether text-generation-inference honours head_dim for qwen2_moe"));
    fq_plan_free(p);
    p = plan_of(&m, "tgi", "bf16", 4, 0); /* they are not */
    assert_string_equal(fq_plan_get_entry(p, 0)->note, "");
    fq_plan_free(p);
    p = plan_of(&m, "lmdeploy", "bf16", 8, 0);
    assert_null(strstr(fq_plan_get_entry(p, 0)->note, "not known"));
    fq_plan_free(p);
}

/* No verdict where there are no rules, but what every format shares is judged. */
static void not_judged(void **state)
{
    (void)state;
    static const struct { const char *engine, *format; fq_verdict verdict; } cases[] = {
        { "transformers", "gptq-marlin", FQ_UNKNOWN }, { "tensorrt-llm", "awq", FQ_UNKNOWN }, { "tgi", "fp8-block", FQ_UNKNOWN },
        { "tgi", "ct-int8", FQ_UNKNOWN }, { "tgi", "nvfp4", FQ_IMPOSSIBLE }, { "lmdeploy", "mxfp4", FQ_UNKNOWN },
        { "lmdeploy", "nvfp4", FQ_IMPOSSIBLE }, { "lmdeploy", "fp8", FQ_IMPOSSIBLE }, { "vllm", "gguf-k", FQ_UNKNOWN },
        { "tgi", "awq", FQ_RUNS }, { "lmdeploy", "gptq", FQ_RUNS },
    };
    const fq_model m = LLAMA31_8B, odd = QWEN2_7B;
    for (size_t i = 0; i < COUNT(cases); i++) {
        fq_plan *p = plan_of(&m, cases[i].engine, cases[i].format, 8, 0);
        const fq_plan_entry *x = fq_plan_get_entry(p, 0);
        if (x->verdict != cases[i].verdict) fail_msg("%s %s: verdict %d", cases[i].engine, cases[i].format, (int)x->verdict);
        if (x->verdict == FQ_UNKNOWN) {
            assert_int_equal(x->n_option, 1);
            assert_string_equal(x->option[0].what, "as it is");
            assert_true(x->option[0].weight_bytes_per_gpu > 0);
            assert_non_null(strstr(x->note, "not judged"));
            fq_err e = { 0 };
            fq_fit fit;
            assert_int_equal(fq_plan_joint_fit(p, &fit, &e), FQ_E_INPUT);
            assert_non_null(strstr(e.text, "not judged"));
        }
        fq_plan_free(p);
    }
    fq_plan *p = plan_of(&odd, "transformers", "gptq", 8, 0); /* 28 heads */
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_UNKNOWN);
    assert_string_equal(fq_plan_get_entry(p, 0)->violation[0].rule, "heads-split");
    fq_plan_free(p);
}

/* Experts through Marlin want hidden_size in steps of 128, which is nothing that padding or groups change. */
static void marlin_experts(void **state)
{
    (void)state;
    const fq_model m = MODEL("gpt_oss", 0, 2880, 36, 201088, 64, 8, 64, MOE(2880, 128, 36));
    fq_plan *p = plan_of(&m, "vllm", "gptq-marlin", 1, 0);
    const fq_plan_entry *x = fq_plan_get_entry(p, 0);
    assert_int_equal(x->verdict, FQ_IMPOSSIBLE);
    assert_non_null(strstr(x->note, "mends moe-hidden")); /* and not what a smaller group would mend */
    fq_plan_free(p);
    p = plan_of(&m, "vllm", "awq", 1, 0);
    assert_string_equal(fq_plan_get_entry(p, 0)->option[0].what, "quantize in groups of 64");
    fq_plan_free(p);
}

/* Texts are as long as they must be. */
static void long_texts(void **state)
{
    (void)state;
    const fq_model m = MODEL("glm4_moe", 0, 5120, 92, 151552, 96, 8, 128, .intermediate_size = 12288, .n_dense_layer = 3,
                             .moe_intermediate_size = 1536, .num_experts = 160, .n_moe_layer = 89, .shared_expert_intermediate_size = 1536);
    fq_plan *p = plan_of(&m, "vllm", "bf16", 5, 0);
    find_option(fq_plan_get_entry(p, 0),
                "pad intermediate_size 12288 -> 12290, pad moe_intermediate_size 1536 -> 1540, pad shared_expert_intermediate_size "
                "1536 -> 1540, store KV heads 3x, pad heads 96/8 -> 100/25, pad vocab_size 151552 -> 151680");
    fq_plan_free(p);
}

/* The option that needs smaller groups as well is what a plan at that group size finds, and it runs. */
static void group_size_of_an_option(void **state)
{
    (void)state;
    fq_model m = QWEN3_30B;
    fq_plan *p = plan_of(&m, "vllm", "awq", 5, 0);
    const fq_option o = fq_plan_get_entry(p, 0)->option[0];
    assert_int_equal(o.group_size, 64);
    assert_int_equal(o.fit.moe_intermediate_size_pad, 960);
    fq_plan_free(p);
    const char *engine = "vllm", *format = "awq";
    int tp = 5;
    fq_plan_request r = { .tp = &tp, .n_tp = 1, .engine = &engine, .n_engine = 1, .format = &format, .n_format = 1, .group_size = 64 };
    assert_int_equal(fq_plan_create(&m, &r, &p, NULL), FQ_OK);
    fq_fit fit;
    assert_int_equal(fq_plan_joint_fit(p, &fit, NULL), FQ_OK);
    assert_memory_equal(&fit, &o.fit, sizeof fit);
    fq_plan_free(p);
    m.moe_intermediate_size = fit.moe_intermediate_size_pad;
    m.num_attention_heads = fit.num_attention_heads_pad;
    m.num_key_value_heads = fit.num_key_value_heads_pad;
    m.vocab_size = fit.vocab_size_pad;
    assert_int_equal(fq_plan_create(&m, &r, &p, NULL), FQ_OK);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_RUNS);
    assert_int_equal(fq_plan_get_entry(p, 0)->n_violation, 0);
    fq_plan_free(p);
}

static void unknown_and_unusual_models(void **state)
{
    (void)state;
    const fq_model falcon = FALCON_7B, r1 = DEEPSEEK_R1, next = QWEN3_NEXT, llama = LLAMA31_8B;
    fq_plan *p = plan_of(&falcon, "vllm", "bf16", 4, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_NEEDS_FIT);
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "for information"));
    fq_plan_free(p);
    p = plan_of(&r1, "vllm", "bf16", 6, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_IMPOSSIBLE);
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "latent attention"));
    assert_int_equal(fq_plan_get_entry(p, 0)->n_option, 0);
    fq_plan_free(p);
    p = plan_of(&next, "vllm", "bf16", 2, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_RUNS);
    assert_int_equal(fq_plan_get_entry(p, 0)->option[0].kv_bytes_per_token_per_gpu, 0);
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "KV cache"));
    fq_plan_free(p);
    p = plan_of(&llama, "llama.cpp", "gptq", 1, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_IMPOSSIBLE);
    assert_string_equal(fq_plan_get_entry(p, 0)->note, "llama.cpp does not load gptq checkpoints");
    fq_err e = { 0 };
    fq_fit fit;
    assert_int_equal(fq_plan_joint_fit(p, &fit, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "no-fit");
    fq_plan_free(p);
}

/* The same pad keeps K-quants: 29568 falls back, 29696 does not. */
static void gguf_rows(void **state)
{
    (void)state;
    fq_model m = QWEN2_72B;
    fq_plan *p = plan_of(&m, "llama.cpp", "gguf-k", 1, 0);
    const fq_plan_entry *x = fq_plan_get_entry(p, 0);
    assert_int_equal(x->verdict, FQ_NEEDS_FIT);
    assert_string_equal(x->option[0].what, "pad intermediate_size 29568 -> 29696");
    assert_non_null(strstr(x->violation[0].text, "q5_0"));
    assert_non_null(strstr(x->note, "runs as it is too"));
    fq_plan_free(p);
    m.intermediate_size = 29696;
    p = plan_of(&m, "llama.cpp", "gguf-k", 5, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_RUNS);
    assert_int_equal(fq_plan_get_entry(p, 0)->n_violation, 0);
    fq_plan_free(p);
    fq_model odd = MODEL("llama", 1, 2688, 4, 32000, 32, 8, 128, DENSE(2048, 4)); /* only hidden_size: nothing to pad */
    p = plan_of(&odd, "llama.cpp", "gguf-k", 1, 0);
    x = fq_plan_get_entry(p, 0);
    assert_int_equal(x->verdict, FQ_RUNS);
    assert_true(x->n_violation > 0);
    assert_non_null(strstr(x->note, "fall back"));
    fq_plan_free(p);
}

static void vocabulary(void **state)
{
    (void)state;
    const fq_model m = ONLY_VOCAB(151936); /* 2374 x 64 */
    static const struct { int tp; int64_t want; } cases[] = { { 2, 0 }, { 4, 0 }, { 3, 152064 }, { 6, 152064 }, { 16, 0 } };
    for (size_t i = 0; i < COUNT(cases); i++) {
        fq_plan *p = plan_of(&m, "vllm", "bf16", cases[i].tp, 0);
        fq_fit fit;
        assert_int_equal(fq_plan_joint_fit(p, &fit, NULL), FQ_OK);
        assert_int_equal(fit.vocab_size_pad, cases[i].want);
        fq_plan_free(p);
    }
    const fq_model odd = ONLY_VOCAB(32001); /* the engine pads to 32064 = 501 x 64 itself */
    fq_plan *p = plan_of(&odd, "sglang", "bf16", 3, 0);
    assert_int_equal(fq_plan_get_entry(p, 0)->verdict, FQ_RUNS);
    fq_plan_free(p);
}

/* ---- memory ------------------------------------------------------------------------------------------------------- */

static void gpu_memory(void **state)
{
    (void)state;
    const fq_model m = LLAMA31_8B;
    const uint64_t gib = (uint64_t)1 << 30, overhead = 3 * gib / 2;
    fq_plan *p = plan_of(&m, "vllm", "bf16", 1, 24 * gib);
    const fq_plan_entry *x = fq_plan_get_entry(p, 0);
    uint64_t weights = 2u * 8030261248u;
    assert_true(x->memory_asked && x->memory_fits);
    assert_int_equal(x->memory_need_bytes, weights + overhead + 8192u * 131072u);
    assert_int_equal(x->longest_context, (int64_t)((24 * gib - weights - overhead) / 131072u));
    assert_true(x->bits_that_fit == 16);
    assert_non_null(strstr(x->note, "1.5 GiB"));
    fq_plan_free(p);
    p = plan_of(&m, "vllm", "bf16", 1, 16 * gib);
    x = fq_plan_get_entry(p, 0);
    assert_false(x->memory_fits);
    assert_int_equal(x->longest_context, 0);
    assert_true(x->bits_that_fit == 8);
    fq_plan_free(p);
    p = plan_of(&m, "vllm", "bf16", 1, gib);
    assert_true(fq_plan_get_entry(p, 0)->bits_that_fit == 0);
    fq_plan_free(p);
    const fq_model big = QWEN2_72B;
    p = plan_of(&big, "vllm", "gptq-marlin", 2, 24 * gib); /* the padded model is what must fit */
    x = fq_plan_get_entry(p, 0);
    assert_true(x->memory_fits && x->bits_that_fit == 4);
    assert_int_equal(x->memory_need_bytes, x->option[0].weight_bytes_per_gpu + overhead + 8192 * x->option[0].kv_bytes_per_token_per_gpu);
    fq_plan_free(p);
}

/* What the tables do not model is not answered. */
static void memory_not_known(void **state)
{
    (void)state;
    const uint64_t gib = (uint64_t)1 << 30;
    fq_model vision = QWEN2_7B;
    vision.vision_tower = true;
    const fq_model models[] = { DEEPSEEK_R1, QWEN3_NEXT, vision,
                                MODEL("kimi_k2", 0, 7168, 61, 163840, 64, 64, 112, MOE(2048, 384, 61)),
                                MODEL("qwen3_5", 0, 5120, 64, 248320, 24, 4, 256, DENSE(17408, 64)) };
    for (size_t i = 0; i < COUNT(models); i++) {
        fq_plan *p = plan_of(&models[i], "vllm", "bf16", 4, 4096 * gib);
        const fq_plan_entry *x = fq_plan_get_entry(p, 0);
        assert_true(x->memory_asked);
        assert_false(x->memory_known || x->memory_fits);
        assert_true(x->longest_context == 0 && x->bits_that_fit == 0);
        assert_non_null(strstr(x->note, "not known whether it fits"));
        fq_plan_free(p);
    }
    fq_plan *p = plan_of(&vision, "vllm", "bf16", 4, 0); /* said without the question too: it concerns the prices */
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "tower"));
    fq_plan_free(p);
}

/* "Fits" and "fits at" agree in every format, at every size; and no context is longer than the model's. */
static void memory_agrees(void **state)
{
    (void)state;
    const uint64_t gib = (uint64_t)1 << 30;
    const fq_model qwen_72b = MODEL("qwen", 0, 8192, 80, 152064, 64, 64, 128, DENSE(24576, 80), .q_bias = true, .kv_bias = true);
    fq_plan *p = plan_of(&qwen_72b, "vllm", "fp8", 4, 24 * gib);
    assert_true(fq_plan_get_entry(p, 0)->memory_fits && fq_plan_get_entry(p, 0)->bits_that_fit == 8);
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "vLLM takes 0.9 unless gpu_memory_utilization says otherwise"));
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "at least 0.99"));
    fq_plan_free(p);
    fq_model m = LLAMA31_8B;
    for (size_t f = 0; fq_format_get(f); f++) {
        const char *engine = strcmp(fq_format_get(f)->id, "gguf-k") == 0 ? "llama.cpp" : "vllm";
        int fits = 0;
        for (uint64_t mb = 2048; mb < 40960; mb += 37) {
            p = plan_of(&m, engine, fq_format_get(f)->id, 1, mb << 20);
            const fq_plan_entry *x = fq_plan_get_entry(p, 0);
            if (x->memory_fits != (x->bits_that_fit >= x->format->bits_per_weight))
                fail_msg("%s, %d MiB: fits %d, fits at %g", x->format->id, (int)mb, x->memory_fits, x->bits_that_fit);
            fits += x->memory_fits;
            fq_plan_free(p);
        }
        assert_true(fits > 0 && fits < (40960 - 2048) / 37);
    }
    m.max_position_embeddings = 10000;
    p = plan_of(&m, "vllm", "bf16", 1, 80 * gib);
    assert_int_equal(fq_plan_get_entry(p, 0)->longest_context, 10000);
    fq_plan_free(p);
    m.max_position_embeddings = 4096; /* less than the 8192 that are asked for by default */
    p = plan_of(&m, "vllm", "bf16", 1, 80 * gib);
    assert_int_equal(fq_plan_get_entry(p, 0)->longest_context, 4096);
    assert_non_null(strstr(fq_plan_get_entry(p, 0)->note, "longer than the model's 4096 tokens"));
    fq_plan_free(p);
}

/* Names of the rules that are broken, a bang behind those that are silent; each once. */
static void rules_of(const fq_model *m, const fq_plan_request *r, char *out, size_t n)
{
    fq_err e = { 0 };
    fq_plan *p = NULL;
    if (fq_plan_create(m, r, &p, &e) != FQ_OK) fail_msg("%s", e.text);
    const fq_plan_entry *x = fq_plan_get_entry(p, 0);
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < x->n_violation && used < n; i++)
        if (!strstr(out, x->violation[i].rule)) used += (size_t)snprintf(out + used, n - used, "%s%s ", x->violation[i].rule, x->violation[i].silent ? "!" : "");
    fq_plan_free(p);
}

/* A product has a tile of 128 inputs x 64 outputs, or of 64 x 128; gate and up are repacked together. What misses them is refused. */
static void sglang_marlin_tiles(void **state)
{
    (void)state;
    static const char *const engine = "sglang", *const format = "gptq-marlin";
    static const int two = 2;
    const struct { int64_t hidden, ff; int group; const char *rules; } row[] = {
        { 6144, 2 * 256, 32, "" }, { 6144, 2 * 192, 32, "" }, { 6144, 2 * 160, 32, "tile-k " }, { 6144, 2 * 96, 32, "tile-k " },
        { 6144, 2 * 48, 32, "group-split! tile-k tile-n " }, { 6144, 2 * 192, 128, "group-split! " },
        { 6208, 2 * 256, 32, "" }, { 6208, 2 * 192, 32, "tile-k " }, { 6208, 2 * 224, 32, "tile-k " },
    };
    for (size_t i = 0; i < COUNT(row); i++) {
        fq_model m = ONLY_FF(row[i].ff);
        char found[256];
        m.hidden_size = row[i].hidden;
        const fq_plan_request r = { .tp = &two, .n_tp = 1, .engine = &engine, .n_engine = 1, .format = &format, .n_format = 1, .group_size = row[i].group };
        rules_of(&m, &r, found, sizeof found);
        if (strcmp(found, row[i].rules) != 0) fail_msg("hidden %lld, ff %lld, groups of %d: found \"%s\", expected \"%s\"", (long long)row[i].hidden, (long long)row[i].ff, row[i].group, found, row[i].rules);
    }
}

/* expert_parallel: no rule on the width of experts, one of SGLang on their number. */
static void whole_experts(void **state)
{
    (void)state;
    const fq_model m = QWEN3_30B;
    const struct { const char *engine; int tp; bool whole; const char *rules; } row[] = {
        { "sglang", 8, false, "moe-group " }, { "sglang", 8, true, "" }, { "vllm", 8, true, "" },
        { "sglang", 6, true, "heads-split kv-split vocab-split experts-split " }, { "vllm", 6, true, "heads-split kv-split vocab-split " },
    };
    static const char *const format = "gptq-marlin";
    for (size_t i = 0; i < COUNT(row); i++) {
        char found[256];
        const fq_plan_request r = { .tp = &row[i].tp, .n_tp = 1, .engine = &row[i].engine, .n_engine = 1, .format = &format, .n_format = 1, .expert_parallel = row[i].whole };
        rules_of(&m, &r, found, sizeof found);
        if (strcmp(found, row[i].rules) != 0) fail_msg("%s on %d GPUs: found \"%s\", expected \"%s\"", row[i].engine, row[i].tp, found, row[i].rules);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_whole), cmocka_unit_test(bad_requests), cmocka_unit_test(bad_models), cmocka_unit_test(giants),
        cmocka_unit_test(entry_order_and_defaults), cmocka_unit_test(own_format), cmocka_unit_test(parameter_counts),
        cmocka_unit_test(bytes_per_gpu), cmocka_unit_test(regroup_is_offered), cmocka_unit_test(expert_parallel_is_offered),
        cmocka_unit_test(ignored_head_dim), cmocka_unit_test(unknown_and_unusual_models), cmocka_unit_test(gguf_rows),
        cmocka_unit_test(vocabulary), cmocka_unit_test(gpu_memory), cmocka_unit_test(misread_as_it_is),
        cmocka_unit_test(head_dim_not_known), cmocka_unit_test(not_judged), cmocka_unit_test(marlin_experts),
        cmocka_unit_test(long_texts), cmocka_unit_test(group_size_of_an_option), cmocka_unit_test(memory_not_known),
        cmocka_unit_test(memory_agrees), cmocka_unit_test(sglang_marlin_tiles), cmocka_unit_test(whole_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
