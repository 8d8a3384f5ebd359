/* qwen3_moe.c - Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder: routed experts, no shared one.
 *
 * Some published configs carry shared_expert_intermediate_size 0 and qkv_bias; this family reads neither. transformers 5 calls
 * num_experts num_local_experts. Source: transformers models/qwen3_moe. */
#include "arch/table.h"

static const char *const architecture[] = { "Qwen3MoeForCausalLM", NULL };

static const fqi_row row[] = {
    FQI_ROWS_BODY,
    FQI_ROWS_ATTENTION,
    FQI_ROWS_QK_NORM,
    FQI_ROWS_QKV_BIAS,
    FQI_ROWS_O_BIAS,
    FQI_ROWS_MLP,
    FQI_ROWS_EXPERTS,
};

static const fqi_config_rules rules = { .bias = FQI_BIAS_ATTENTION, .window = FQI_WINDOW_USE, .sparse = FQI_SPARSE_STEP,
    .rope_theta = 10000 };

const fqi_family fqi_family_qwen3_moe = {
    .name = "qwen3_moe",
    .architecture = architecture,
    .row = row, .n_row = FQI_COUNT(row),
    .expert_infix = "mlp.experts.",
    .body_prefix = fqi_body_model,
    .pass_prefix = fqi_no_pass_prefix,
    .pass_suffix = fqi_stray_buffer,
    .text_config = "",
    .rules = &rules,
    .head_dim_from_config = true,
    .qk_norm = true,
};
