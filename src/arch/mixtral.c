/* mixtral.c - Mixtral 8x7B and 8x22B: every layer sparse, eight experts under block_sparse_moe.
 *
 * w1 is the gate, w3 the up projection and w2 the down projection: out = w2(silu(w1 x) * w3 x). config.json calls the experts' width
 * intermediate_size and their number num_local_experts; there is no dense MLP. Source: transformers models/mixtral. */
#include "arch/table.h"

static const char *const architecture[] = { "MixtralForCausalLM", NULL };

static const fqi_row row[] = {
    FQI_ROWS_BODY,
    FQI_ROWS_ATTENTION,
    { FQI_LAYER, "block_sparse_moe.gate.weight", "router", FQI_IF_SPARSE, 2, FQI_DIM2(EXPERT, HIDDEN) },
    { FQI_EXPERT, "w1.weight", "expert_gate_proj", FQI_IF_SPARSE, 2, FQI_DIM2(MOE_FF, HIDDEN) },
    { FQI_EXPERT, "w3.weight", "expert_up_proj", FQI_IF_SPARSE, 2, FQI_DIM2(MOE_FF, HIDDEN) },
    { FQI_EXPERT, "w2.weight", "expert_down_proj", FQI_IF_SPARSE, 2, FQI_DIM2(HIDDEN, MOE_FF) },
};

static const fqi_config_rules rules = { .window = FQI_WINDOW_KEY, .sparse = FQI_SPARSE_ALL, .expert_width = "intermediate_size",
    .rope_theta = 1e6, .always_norm_topk = true };

const fqi_family fqi_family_mixtral = {
    .name = "mixtral",
    .architecture = architecture,
    .row = row, .n_row = FQI_COUNT(row),
    .expert_infix = "block_sparse_moe.experts.",
    .body_prefix = fqi_body_model,
    .pass_prefix = fqi_no_pass_prefix,
    .pass_suffix = fqi_stray_buffer,
    .text_config = "",
    .rules = &rules,
    .head_dim_from_config = true,
};
