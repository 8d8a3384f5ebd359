/* test_plan_demand.c - the catalogue of real failures as planner tests.
 *
 * Each row is one failure that users reported: the model's numbers, the engine and format, the GPU count, and what must come out: the
 * verdict, and the rule on the tensor. `row` is the number in the catalogue (51 rows). Rows whose dimensions are not given,
 * or whose engine or format is outside the planner's tables, are listed with the reason, so that none is forgotten. The second
 * table holds the smallest legal widths for groups of 128. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "plan_models.h"

typedef struct row {
    int row;
    fq_model m;
    const char *engine, *format;
    int group, tp;
    fq_verdict verdict;
    const char *rule, *tensor;   /* NULL: nothing is broken */
    bool silent;
} row;

#define FIT FQ_NEEDS_FIT
#define NO FQ_IMPOSSIBLE
#define OK FQ_RUNS
#define OWN_GPTQ .quant = FQ_QUANT_GPTQ, .quant_bits = 4, .quant_group_size = 128, .quant_sym = true

static const row rows[] = {
    { 1, QWEN2_72B, "vllm-2025", "awq", 128, 4, FIT, "group-split", "mlp.down_proj", false },
    { 1, QWEN2_72B, "vllm-2025", "awq", 128, 8, FIT, "group-split", "mlp.down_proj", false },
    { 1, QWEN2_72B, "vllm-2025", "awq", 128, 2, FIT, "group-split", "mlp.down_proj", false },
    { 1, QWEN2_72B, "vllm", "awq", 128, 8, FIT, "group-split", "mlp.down_proj", false },
    { 1, QWEN2_72B, "vllm-2025", "awq", 128, 3, FIT, "heads-split", "self_attn.q_proj", false },
    { 1, QWEN2_72B, "vllm-2025", "awq", 128, 1, OK, NULL, NULL, false },
    { 2, QWEN2_72B, "vllm-2025", "ct-int8", -1, 4, FIT, "tile-k", "mlp.down_proj", false },
    { 2, QWEN2_72B, "vllm-2025", "ct-int8", -1, 2, FIT, "tile-k", "mlp.down_proj", false },
    { 2, QWEN2_72B, "vllm", "ct-int8", -1, 4, OK, NULL, NULL, false }, /* tiles are padded at load since June 2026 */
    { 4, QWEN2_72B, "vllm-2025", "awq-marlin", 128, 2, FIT, "tile-k", "mlp.down_proj", false },
    { 4, QWEN2_72B, "vllm-2025", "awq-marlin", 128, 2, FIT, "group-split", "mlp.down_proj", false },
    { 5, QWEN2_72B, "vllm-2025", "awq", 128, 4, FIT, "group-split", "mlp.down_proj", false },
    { 5, QWEN2_72B, "lmdeploy", "awq", 128, 4, OK, NULL, NULL, false }, /* pads the MLP at load */
    { 6, QWEN2_72B, "lmdeploy", "awq", 128, 2, OK, NULL, NULL, false }, /* failed in 2024; pads since */
    { 7, QWEN15_14B, "vllm-2025", "gptq", 128, 2, FIT, "group-split", "mlp.down_proj", false },
    { 7, QWEN15_14B, "vllm", "gptq-marlin", 128, 2, FIT, "group-split", "mlp.down_proj", false },
    { 8, QWEN15_32B, "vllm-2025", "awq", 128, 4, FIT, "group-split", "mlp.down_proj", false },
    { 8, QWEN15_32B, "vllm-2025", "awq", 128, 2, OK, NULL, NULL, false },
    { 8, QWEN15_32B, "lmdeploy", "awq", 64, 4, NO, "group-list", "", false },
    { 9, CODELLAMA_7B, "vllm-2025", "awq", 128, 4, FIT, "group-split", "mlp.down_proj", false },
    { 9, CODELLAMA_7B, "vllm-2025", "awq", 128, 2, OK, NULL, NULL, false },
    { 10, DEEPSEEK_V2_LITE, "vllm-2025", "awq-marlin", 64, 1, FIT, "tile-k", "mlp.down_proj", false },
    { 10, DEEPSEEK_V2_LITE, "vllm", "awq-marlin", 64, 1, OK, NULL, NULL, false },
    { 11, QWEN25_05B, "sglang", "gptq-marlin", 128, 2, FIT, "group-split", "self_attn.o_proj", true },
    { 11, QWEN25_05B, "sglang", "awq-marlin", 128, 2, FIT, "group-split", "self_attn.o_proj", false },
    { 11, QWEN25_05B, "sglang", "awq", 128, 2, FIT, "group-split", "self_attn.o_proj", false },
    { 11, QWEN25_05B, "sglang", "awq", 32, 2, OK, NULL, NULL, false },
    { 11, QWEN25_05B, "sglang", "gptq", 32, 2, OK, NULL, NULL, false },
    { 12, QWEN3_30B, "vllm-2025", "awq", 128, 4, FIT, "moe-group", "mlp.experts.*.down_proj", false },
    { 12, QWEN3_30B, "vllm-2025", "awq", 128, 8, FIT, "moe-group", "mlp.experts.*.down_proj", false },
    { 12, QWEN3_30B, "vllm-2025", "awq", 128, 3, FIT, "heads-split", "self_attn.q_proj", false },
    { 12, QWEN3_30B, "vllm-2025", "awq", 128, 5, FIT, "heads-split", "self_attn.q_proj", false },
    { 12, QWEN3_30B, "vllm-2025", "awq", 128, 6, FIT, "heads-split", "self_attn.q_proj", false },
    { 12, QWEN3_30B, "vllm-2025", "awq", 128, 7, FIT, "heads-split", "self_attn.q_proj", false },
    { 12, QWEN3_30B, "vllm-2025", "awq", 128, 2, OK, NULL, NULL, false },
    { 13, QWEN3_30B, "vllm", "gptq-marlin", 128, 4, FIT, "moe-group", "mlp.experts.*.down_proj", false },
    { 14, QWEN3_30B, "vllm", "fp8-block", 0, 4, FIT, "moe-block", "mlp.experts.*.gate_proj, up_proj", false },
    { 14, QWEN3_30B, "vllm", "fp8-block", 0, 2, OK, NULL, NULL, false },
    { 15, QWEN3_235B, "vllm", "fp8-block", 0, 8, FIT, "moe-block", "mlp.experts.*.gate_proj, up_proj", false },
    { 15, QWEN3_235B, "vllm", "fp8-block", 0, 4, OK, NULL, NULL, false },
    { 16, QWEN3_NEXT, "sglang", "fp8-block", 0, 8, FIT, "block-split", "mlp.shared_expert.gate_proj, up_proj", false },
    { 17, DEEPSEEK_R1, "sglang", "fp8-block", 0, 32, FIT, "moe-block", "mlp.experts.*.gate_proj, up_proj", false },
    { 18, ONLY_MOE(640, 512), "vllm", "fp8-block", 0, 2, FIT, "moe-block", "mlp.experts.*.gate_proj, up_proj", false },
    { 18, ONLY_MOE(640, 512), "vllm", "fp8-block", 0, 4, FIT, "moe-block", "mlp.experts.*.gate_proj, up_proj", false },
    { 18, ONLY_MOE(640, 512), "vllm", "fp8-block", 0, 8, FIT, "moe-block", "mlp.experts.*.gate_proj, up_proj", false },
    { 19, MODEL("deepseek_v4", 0, 7168, 4, 129280, 128, 128, 64, MOE(3072, 384, 4), .shared_expert_intermediate_size = 3072),
      "vllm-2025", "fp8-block", 0, 16, FIT, "block-split", "mlp.shared_expert.down_proj", false },
    { 19, MODEL("deepseek_v4", 0, 7168, 4, 129280, 128, 128, 64, MOE(3072, 384, 4), .shared_expert_intermediate_size = 3072),
      "vllm-2025", "fp8-block", 0, 8, OK, NULL, NULL, false },
    { 20, MODEL("step3p5", 0, 4096, 4, 128896, 64, 8, 128, MOE(1280, 288, 4), .shared_expert_intermediate_size = 1280),
      "sglang", "fp8-block", 0, 4, FIT, "block-split", "mlp.shared_expert.gate_proj, up_proj", false },
    { 20, MODEL("step3p5", 0, 4096, 4, 128896, 64, 8, 128, MOE(1280, 288, 4), .shared_expert_intermediate_size = 1280),
      "sglang", "fp8-block", 0, 8, FIT, "moe-block", "mlp.experts.*.gate_proj, up_proj", false },
    { 21, MODEL("glm4_moe", 0, 4096, 46, 151552, 96, 8, 128, .intermediate_size = 10944, .n_dense_layer = 1,
                .moe_intermediate_size = 1408, .num_experts = 128, .n_moe_layer = 45),
      "vllm-2025", "fp8", 0, 4, FIT, "tile-n", "mlp.gate_proj, up_proj", false },
    { 21, MODEL("glm4_moe", 0, 4096, 46, 151552, 96, 8, 128, .intermediate_size = 10944, .n_dense_layer = 1,
                .moe_intermediate_size = 1408, .num_experts = 128, .n_moe_layer = 45),
      "vllm-2025", "fp8", 0, 8, FIT, "tile-n", "mlp.gate_proj, up_proj", false },
    { 22, MODEL("kimi_k2", 0, 7168, 4, 163840, 64, 64, 112, MOE(2048, 384, 4)), "sglang", "fp8-block", 0, 6, NO, "heads-split",
      "self_attn.q_proj", false },
    { 23, ONLY_MOE(1856, 128), "vllm", "nvfp4", 0, 8, FIT, "group-split", "mlp.experts.*.down_proj", false },
    { 25, ONLY_MOE(704, 128), "vllm-2025", "nvfp4", 0, 4, FIT, "moe-tile", "mlp.experts.*.gate_proj, up_proj", false },
    { 25, ONLY_MOE(704, 128), "vllm", "nvfp4", 0, 4, OK, NULL, NULL, false }, /* padded at load since */
    { 26, MODEL("qwen3_moe", 1, 6144, 2, 248320, 48, 48, 128, MOE(640, 512, 2)), "vllm-2025", "nvfp4", 0, 8, FIT, "moe-tile",
      "mlp.experts.*.gate_proj, up_proj", false },
    { 26, MODEL("qwen3_moe", 1, 6144, 2, 248320, 48, 48, 128, MOE(640, 512, 2)), "vllm-2025", "nvfp4", 0, 6, FIT, "vocab-split",
      "embed_tokens, lm_head", false },
    { 27, ONLY_MOE(640, 512), "vllm", "ct-int4", 128, 2, FIT, "moe-group", "mlp.experts.*.down_proj", false },
    { 28, QWEN3_30B, "vllm", "ct-int4", 32, 2, OK, NULL, NULL, false }, /* the kernel was mended */
    { 31, MODEL("llama", 1, 4096, 32, 128256, 32, 8, 128, DENSE(14336, 32), OWN_GPTQ, .quant_desc_act = true), "vllm-2025", "gptq", 0, 2,
      NO, "act-order", "self_attn.o_proj, mlp.down_proj", true },
    { 31, MODEL("llama", 1, 4096, 32, 128256, 32, 8, 128, DENSE(14336, 32), OWN_GPTQ), "vllm-2025", "gptq", 0, 2, OK, NULL, NULL, false },
    { 33, FALCON_7B, "vllm", "bf16", 0, 4, FIT, "heads-split", "self_attn.q_proj", false },
    { 34, ONLY_HEADS(40, 40), "vllm", "bf16", 0, 3, FIT, "heads-split", "self_attn.q_proj", false },
    { 34, ONLY_HEADS(40, 40), "vllm", "bf16", 0, 6, FIT, "heads-split", "self_attn.q_proj", false },
    { 34, ONLY_HEADS(52, 52), "vllm", "bf16", 0, 3, FIT, "heads-split", "self_attn.q_proj", false },
    { 34, ONLY_HEADS(52, 52), "vllm", "bf16", 0, 8, FIT, "heads-split", "self_attn.q_proj", false },
    { 34, ONLY_HEADS(64, 8), "vllm", "bf16", 0, 6, FIT, "heads-split", "self_attn.q_proj", false },
    { 35, QWEN2_7B, "vllm", "bf16", 0, 8, FIT, "heads-split", "self_attn.q_proj", false },
    { 35, QWEN2_7B, "tensorrt-llm", "bf16", 0, 8, FIT, "heads-split", "self_attn.q_proj", false },
    { 36, MODEL("phi3", 0, 5120, 40, 100352, 40, 10, 128, DENSE(17920, 40)), "vllm", "bf16", 0, 4, FIT, "kv-split",
      "self_attn.k_proj, v_proj", false },
    { 36, MODEL("phi3", 0, 5120, 40, 100352, 40, 10, 128, DENSE(17920, 40)), "vllm", "bf16", 0, 2, OK, NULL, NULL, false },
    { 37, ONLY_HEADS(32, 4), "transformers", "bf16", 0, 8, FIT, "kv-split", "self_attn.k_proj, v_proj", false },
    { 37, ONLY_HEADS(32, 4), "transformers", "bf16", 0, 4, OK, NULL, NULL, false },
    { 39, MODEL("deepseek_v4", 0, 4096, 4, 129280, 64, 64, 64, MOE(2048, 256, 4)), "vllm", "fp8-block", 0, 3, NO, "heads-split",
      "self_attn.q_proj", false },
    { 40, ONLY_VOCAB(50432), "tgi", "bf16", 0, 3, FIT, "vocab-split", "embed_tokens, lm_head", false },
    { 40, ONLY_VOCAB(65027), "tgi", "bf16", 0, 4, FIT, "vocab-split", "embed_tokens, lm_head", false },
    { 40, ONLY_VOCAB(30003), "tgi", "bf16", 0, 2, FIT, "vocab-split", "embed_tokens, lm_head", false },
    { 41, MODEL("llama", 1, 3200, 26, 32000, 32, 32, 100, DENSE(8640, 26)), "tensorrt-llm", "bf16", 0, 1, NO, "head-dim",
      "self_attn.q_proj", false },
    { 42, ONLY_MOE(2048, 256), "vllm", "mxfp4", 0, 6, FIT, "mlp-split", "mlp.experts.*.down_proj", false },
    { 43, MODEL("glm_moe_dsa", 0, 6144, 4, 154880, 64, 64, 96, MOE(2048, 256, 4)), "vllm", "bf16", 0, 6, NO, "heads-split",
      "self_attn.q_proj", false },
    { 45, MODEL("nemotron_h", 0, 2688, 4, 131072, 32, 2, 128, DENSE(1856, 4)), "llama.cpp", "gguf-k", 0, 1, FIT, "row-256",
      "mlp.down_proj", false },
    { 45, MODEL("nemotron_h", 0, 2688, 4, 131072, 32, 2, 128, DENSE(1856, 4)), "llama.cpp", "gguf-k", 0, 1, FIT, "row-256",
      "self_attn.q_proj", false },
    { 46, FALCON_7B, "llama.cpp", "gguf-k", 0, 1, FIT, "row-256", "self_attn.q_proj", false },
    { 47, FALCON_7B, "vllm", "fp8-block", 0, 1, FIT, "block-split", "self_attn.q_proj", false },
    { 48, ONLY_FF(1856), "tensorrt-llm", "ct-int8", 0, 2, FIT, "woq-tile", "mlp.down_proj", false },
    { 49, MODEL("qwen3_5_moe", 0, 2048, 40, 248320, 16, 2, 256, MOE(512, 256, 40), .shared_expert_intermediate_size = 512), "vllm",
      "fp8-block", 0, 8, FIT, "block-split", "mlp.shared_expert.down_proj", false },
};

/* Not tested, and why. */
static const struct { int row; const char *why; } left_out[] = {
    { 3, "2:4 sparse Marlin is not among the formats" },
    { 24, "no dimensions given" },
    { 29, "a kernel choice; the dimensions divide" },
    { 30, "GDN projections are no axis of fq_model" },
    { 32, "W4AFP8 is not among the formats" },
    { 38, "vision tower" },
    { 44, "vision tower" },
    { 50, "GDN projections are no axis of fq_model" },
    { 51, "mlx-lm is not among the engines" },
};

#define COUNT(a) (sizeof(a) / sizeof *(a))

static fq_plan *plan_one(const fq_model *m, const char *engine, const char *format, int group, int tp)
{
    fq_err e = { 0 };
    fq_plan *p = NULL;
    fq_plan_request r = { .tp = &tp, .n_tp = 1, .engine = &engine, .n_engine = 1, .format = &format, .n_format = 1, .group_size = group };
    fq_status s = fq_plan_create(m, &r, &p, &e);
    if (s != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(fq_plan_n_entry(p), 1);
    return p;
}

static void every_row_of_the_catalogue(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const row *r = &rows[i];
        fq_plan *p = plan_one(&r->m, r->engine, r->format, r->group, r->tp);
        const fq_plan_entry *x = fq_plan_get_entry(p, 0);
        if (x->verdict != r->verdict)
            fail_msg("row %d (%s %s tp %d): verdict %d, expected %d; note: %s; first: %s %s", r->row, r->engine, r->format, r->tp,
                     (int)x->verdict, (int)r->verdict, x->note, x->n_violation ? x->violation[0].rule : "-",
                     x->n_violation ? x->violation[0].text : "-");
        if (!r->rule && x->n_violation) fail_msg("row %d: %s: %s", r->row, x->violation[0].rule, x->violation[0].text);
        bool found = !r->rule;
        for (size_t k = 0; k < x->n_violation; k++) {
            const fq_violation *v = &x->violation[k];
            assert_true(v->source && v->source[0] && v->text[0]);
            if (r->rule && strcmp(v->rule, r->rule) == 0 && strcmp(v->tensor, r->tensor) == 0) {
                found = true;
                assert_int_equal(v->silent, r->silent);
            }
        }
        if (!found) fail_msg("row %d (%s %s tp %d): no %s on %s", r->row, r->engine, r->format, r->tp, r->rule, r->tensor);
        assert_int_equal(x->n_option == 0, r->verdict == NO);
        fq_plan_free(p);
    }
}

static void no_row_is_forgotten(void **state)
{
    (void)state;
    for (int n = 1; n <= 51; n++) {
        int seen = 0;
        for (size_t i = 0; i < COUNT(rows); i++) seen |= rows[i].row == n ? 1 : 0;
        for (size_t i = 0; i < COUNT(left_out); i++) seen |= left_out[i].row == n ? 2 : 0;
        if (seen != 1 && seen != 2) fail_msg("row %d: tested and left out, or neither", n);
    }
}

/* What the numbers in a violation look like: the sentence that a user reads. */
static void the_seed_case_reads_well(void **state)
{
    (void)state;
    const fq_model m = QWEN2_72B;
    fq_plan *p = plan_one(&m, "vllm", "gptq-marlin", 0, 8);
    const fq_plan_entry *x = fq_plan_get_entry(p, 0);
    assert_int_equal(x->n_violation, 1);
    assert_string_equal(x->violation[0].text, "in_features 29568 / 8 GPUs = 3696 is not a multiple of group_size 128");
    assert_string_equal(x->option[0].what, "pad intermediate_size 29568 -> 29696");
    assert_int_equal(x->option[0].fit.intermediate_size_pad, 29696);
    assert_int_equal(x->option[0].fit.num_attention_heads_pad, 0);
    assert_true(x->option[0].param_percent > 0.34 && x->option[0].param_percent < 0.36);
    fq_plan_free(p);
}

/* ---- the smallest widths for groups of 128 ------------------------------------------------------------------------ */

static const int width_tp[] = { 2, 3, 4, 6, 8, 16 };
static const int64_t widths[][7] = {
    { 29568, 29696, 0, 29696, 29952, 29696, 30720 },
    { 13696, 13824, 13824, 13824, 13824, 14336, 14336 },
    { 1536, 0, 0, 0, 0, 2048, 2048 },
    { 768, 0, 0, 1024, 0, 1024, 2048 },
    { 640, 768, 768, 1024, 768, 1024, 2048 },
    { 2560, 0, 2688, 0, 3072, 3072, 4096 },
};

static void smallest_widths(void **state)
{
    (void)state;
    static const char *const engine[] = { "vllm", "vllm-2025", "sglang" };
    for (size_t i = 0; i < COUNT(widths); i++) {
        for (size_t t = 0; t < COUNT(width_tp); t++) {
            for (size_t k = 0; k < COUNT(engine); k++) {
                const fq_model dense = ONLY_FF(widths[i][0]), moe = ONLY_MOE(widths[i][0], 1);
                fq_fit fit = { 0 };
                fq_plan *p = plan_one(&dense, engine[k], "gptq-marlin", 128, width_tp[t]);
                assert_int_equal(fq_plan_joint_fit(p, &fit, NULL), FQ_OK);
                assert_int_equal(fit.intermediate_size_pad, widths[i][t + 1]);
                assert_int_equal(fq_plan_get_entry(p, 0)->verdict, widths[i][t + 1] ? FIT : OK);
                fq_plan_free(p);
                p = plan_one(&moe, engine[k], "fp8-block", 0, width_tp[t]);
                assert_int_equal(fq_plan_joint_fit(p, &fit, NULL), FQ_OK);
                assert_int_equal(fit.moe_intermediate_size_pad, widths[i][t + 1]);
                fq_plan_free(p);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_of_the_catalogue),
        cmocka_unit_test(no_row_is_forgotten),
        cmocka_unit_test(the_seed_case_reads_well),
        cmocka_unit_test(smallest_widths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
