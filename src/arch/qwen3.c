/* qwen3.c - Qwen3, dense text models.
 *
 * q and k pass through an RMS norm per head before RoPE, shared by all heads of the layer: its weight has head_dim entries and
 * does not change when heads are added. attention_bias adds a bias to all four projections. Source: transformers models/qwen3. */
#include "arch/table.h"

static const char *const architecture[] = { "Qwen3ForCausalLM", NULL };

static const fqi_row row[] = {
    FQI_ROWS_BODY,
    FQI_ROWS_ATTENTION,
    FQI_ROWS_QK_NORM,
    FQI_ROWS_QKV_BIAS,
    FQI_ROWS_O_BIAS,
    FQI_ROWS_MLP,
};

static const fqi_config_rules rules = { .bias = FQI_BIAS_ATTENTION, .window = FQI_WINDOW_USE_FROM, .head_dim_default = 128,
    .rope_theta = 10000, .max_window_layers = 28 };

const fqi_family fqi_family_qwen3 = {
    .name = "qwen3",
    .architecture = architecture,
    .row = row, .n_row = FQI_COUNT(row),
    .body_prefix = fqi_body_model,
    .pass_prefix = fqi_no_pass_prefix,
    .pass_suffix = fqi_stray_buffer,
    .text_config = "",
    .rules = &rules,
    .head_dim_from_config = true,
    .qk_norm = true,
};
