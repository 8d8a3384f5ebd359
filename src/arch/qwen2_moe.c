/* qwen2_moe.c - Qwen1.5-MoE and Qwen2-57B-A14B: routed experts beside one shared expert.
 *
 * The shared expert has a width of its own and a gate of one row. Layers named in mlp_only_layers, or skipped by
 * decoder_sparse_step, have the dense MLP instead. Source: transformers models/qwen2_moe. */
#include "arch/table.h"

static const char *const architecture[] = { "Qwen2MoeForCausalLM", NULL };

static const fqi_row row[] = {
    FQI_ROWS_BODY,
    FQI_ROWS_ATTENTION,
    FQI_ROWS_QKV_BIAS,
    FQI_ROWS_MLP,
    FQI_ROWS_EXPERTS,
    { FQI_LAYER, "mlp.shared_expert.gate_proj.weight", "shared_gate_proj", FQI_IF_SHARED, 2, FQI_DIM2(SHARED_FF, HIDDEN) },
    { FQI_LAYER, "mlp.shared_expert.up_proj.weight", "shared_up_proj", FQI_IF_SHARED, 2, FQI_DIM2(SHARED_FF, HIDDEN) },
    { FQI_LAYER, "mlp.shared_expert.down_proj.weight", "shared_down_proj", FQI_IF_SHARED, 2, FQI_DIM2(HIDDEN, SHARED_FF) },
    { FQI_LAYER, "mlp.shared_expert_gate.weight", "shared_expert_gate", FQI_IF_SHARED, 2, FQI_DIM2(ONE, HIDDEN) },
};

static const fqi_config_rules rules = { .bias = FQI_BIAS_QKV_KEY, .window = FQI_WINDOW_USE_BELOW, .sparse = FQI_SPARSE_STEP,
    .shared = FQI_SHARED_KEY, .rope_theta = 10000, .max_window_layers = 28 };

const fqi_family fqi_family_qwen2_moe = {
    .name = "qwen2_moe",
    .architecture = architecture,
    .row = row, .n_row = FQI_COUNT(row),
    .expert_infix = "mlp.experts.",
    .body_prefix = fqi_body_model,
    .pass_prefix = fqi_no_pass_prefix,
    .pass_suffix = fqi_stray_buffer,
    .text_config = "",
    .rules = &rules,
    .qkv_bias_default = true,
};
