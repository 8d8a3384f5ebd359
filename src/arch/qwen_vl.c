/* qwen_vl.c - the text towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.
 *
 * The text tower is a qwen2 (or a qwen3) by its rows. Two prefix styles are in use: files written before transformers 4.52 have
 * model.layers and visual.blocks, later ones model.language_model.layers and model.visual.blocks; each is kept as it is found. The
 * vision tower is split by other rules in the engines and is copied through, whatever it holds. config.json has the text fields at
 * its top (older) or under text_config. Source: transformers models/qwen2_vl, qwen2_5_vl, qwen3_vl. */
#include "arch/table.h"

static const char *const architecture_2[] = { "Qwen2VLForConditionalGeneration", NULL };
static const char *const architecture_2_5[] = { "Qwen2_5_VLForConditionalGeneration", NULL };
static const char *const architecture_3[] = { "Qwen3VLForConditionalGeneration", NULL };

static const char *const body_old_first[] = { "model.", "model.language_model.", NULL };
static const char *const body_new_first[] = { "model.language_model.", "model.", NULL };
static const char *const vision[] = { "visual.", "model.visual.", NULL };

static const fqi_row row_qwen2[] = {
    FQI_ROWS_BODY,
    FQI_ROWS_ATTENTION,
    FQI_ROWS_QKV_BIAS,
    FQI_ROWS_MLP,
};

static const fqi_row row_qwen3[] = {
    FQI_ROWS_BODY,
    FQI_ROWS_ATTENTION,
    FQI_ROWS_QK_NORM,
    FQI_ROWS_QKV_BIAS,
    FQI_ROWS_O_BIAS,
    FQI_ROWS_MLP,
};

static const fqi_config_rules rules_2 = { .bias = FQI_BIAS_QKV, .window = FQI_WINDOW_USE_FROM, .rope_theta = 1e6, .max_window_layers = 80 };
/* No rope_theta of its own: transformers 4 fills in 5e6, transformers 5 5e5. */
static const fqi_config_rules rules_3 = { .bias = FQI_BIAS_ATTENTION, .head_dim_default = 128 };

const fqi_family fqi_family_qwen2_vl = {
    .name = "qwen2_vl",
    .architecture = architecture_2,
    .row = row_qwen2, .n_row = FQI_COUNT(row_qwen2),
    .body_prefix = body_old_first,
    .pass_prefix = vision,
    .pass_suffix = fqi_stray_buffer,
    .text_config = "text_config",
    .rules = &rules_2,
    .qkv_bias_default = true,
};

const fqi_family fqi_family_qwen2_5_vl = {
    .name = "qwen2_5_vl",
    .architecture = architecture_2_5,
    .row = row_qwen2, .n_row = FQI_COUNT(row_qwen2),
    .body_prefix = body_old_first,
    .pass_prefix = vision,
    .pass_suffix = fqi_stray_buffer,
    .text_config = "text_config",
    .rules = &rules_2,
    .qkv_bias_default = true,
};

const fqi_family fqi_family_qwen3_vl = {
    .name = "qwen3_vl",
    .architecture = architecture_3,
    .row = row_qwen3, .n_row = FQI_COUNT(row_qwen3),
    .body_prefix = body_new_first,
    .pass_prefix = vision,
    .pass_suffix = fqi_stray_buffer,
    .text_config = "text_config",
    .rules = &rules_3,
    .head_dim_from_config = true,
    .qk_norm = true,
};
