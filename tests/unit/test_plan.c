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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_whole), cmocka_unit_test(bad_requests), cmocka_unit_test(bad_models), cmocka_unit_test(giants),
        cmocka_unit_test(entry_order_and_defaults), cmocka_unit_test(own_format), cmocka_unit_test(parameter_counts),
        cmocka_unit_test(bytes_per_gpu), cmocka_unit_test(regroup_is_offered), cmocka_unit_test(expert_parallel_is_offered),
        cmocka_unit_test(ignored_head_dim), cmocka_unit_test(unknown_and_unusual_models), cmocka_unit_test(gguf_rows),
        cmocka_unit_test(vocabulary), cmocka_unit_test(gpu_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
