/* loads.c - the table. See loads.h.
 *
 * A row that an engine repaired stays for the older version. Not here: kernels that are wrong although the slices are right (they are silent
 * rules in engines.c), engines without a public loader. */
#include "plan/loads.h"

#include <string.h>

#define VLLM_ANY (FQI_E_VLLM | FQI_E_VLLM_2025)
#define ALL (VLLM_ANY | FQI_E_SGLANG)
#define GPTQ_ANY (FQI_F_GPTQ | FQI_F_GPTQ_MARLIN)
#define CT_ANY (FQI_F_CT_INT4 | FQI_F_CT_INT8)
#define AWQ_ANY (FQI_F_AWQ | FQI_F_AWQ_MARLIN)
#define ROWS (FQI_L_O | FQI_L_ALL_DOWN)
#define COLUMNS (FQI_L_ALL & ~ROWS)
#define UNORDERED (FQI_ORDER_NONE | FQI_ORDER_STATIC)
#define SRC_GPTQ "vllm-project/vllm@4276bd5 quantization/auto_gptq.py, @0045689 model_executor/parameter.py"
#define SRC_PLAIN "vllm-project/vllm quantization/gptq.py; sgl-project/sglang@006d0961 quantization/gptq.py"
#define SRC_CT "vllm-project/vllm compressed_tensors/schemes/compressed_tensors_wNa16.py"
#define SRC_SG "sgl-project/sglang@006d0961 quantization/gptq.py"
#define SAYS_CUT "each rank has floor(K/tp / group_size) rows of scales, so that a group which two ranks share is paired with another one's scale"
#define SAYS_LAST "the engine fuses these layers and keeps one g_idx, that of the layer loaded last"

static const fqi_load loads[] = {
    { .name = "group-fixed", .engines = FQI_E_SGLANG, .formats = FQI_F_CT_INT4, .linears = FQI_L_EXPERT, .orders = FQI_ORDER_NONE | FQI_ORDER_STORED | FQI_ORDER_STATIC,
      .inputs = true, .group = FQI_LOAD_FIXED, .fixed = 128, .middle = true, .says = "the kernel of W4AFP8 experts has groups of 128 built in",
      .source = "sgl-project/sglang#38573; @5a7bdc1 compressed_tensors/schemes/compressed_tensors_w4a8_fp8_moe.py" },
    /* Scales of w2 are loaded whole for any actorder, and the kernel divides their number by the rank's channels. */
    { .name = "group-derived", .engines = FQI_E_VLLM_2025, .formats = CT_ANY, .linears = FQI_L_EXPERT_DOWN, .orders = FQI_ORDER_STATIC,
      .group = FQI_LOAD_DERIVED, .whole = true, .middle = true,
      .says = "the kernel derives the group from K/tp and the number of scale rows, which are all of the matrix", .source = "vllm-project/vllm#41161, #41511" },
    /* Stored order. */
    { .name = "group-order", .engines = ALL, .formats = FQI_F_GPTQ_MARLIN | CT_ANY, .linears = ROWS, .orders = FQI_ORDER_STORED,
      .group = FQI_LOAD_ORDER, .whole = true, .middle = true, .says = "g_idx names another group", .source = SRC_GPTQ },
    { .name = "group-order", .engines = ALL, .formats = FQI_F_GPTQ, .linears = ROWS, .orders = FQI_ORDER_STORED,
      .group = FQI_LOAD_ORDER, .whole = true, .says = "g_idx names another group", .source = SRC_PLAIN },
    { .name = "fused-order", .engines = ALL, .formats = FQI_F_GPTQ_MARLIN | CT_ANY, .linears = COLUMNS, .orders = FQI_ORDER_STORED,
      .group = FQI_LOAD_ORDER, .middle = true, .last_order = true, .says = SAYS_LAST, .source = SRC_GPTQ },
    { .name = "fused-order", .engines = ALL, .formats = FQI_F_GPTQ, .linears = COLUMNS, .orders = FQI_ORDER_STORED,
      .group = FQI_LOAD_ORDER, .last_order = true, .says = SAYS_LAST, .source = SRC_PLAIN },
    /* No stored order. What would cut a group is refused everywhere but in one place, where these rows then tell what is computed. It is worse than they
     * say: a single row is also permuted for groups and read as one for all (marlin_permute_scales), so that outputs have each other's scales. */
    { .name = "group-split", .engines = FQI_E_SGLANG, .formats = FQI_F_GPTQ_MARLIN, .linears = ROWS, .orders = UNORDERED,
      .group = FQI_LOAD_DERIVED, .middle = true, .says = SAYS_CUT,
      .source = SRC_SG " (result of check_marlin_supports_shape dropped); @9e738db sgl-kernel/csrc/gemm/marlin/gptq_marlin.cu; intel/auto-round#643" },
    { .name = "order-ignored", .engines = ALL, .formats = FQI_F_GPTQ_MARLIN, .linears = FQI_L_ALL, .orders = UNORDERED,
      .middle = true, .says = "config.json announces no order, so that the stored g_idx is not read", .source = SRC_GPTQ },
    { .name = "order-ignored", .engines = FQI_E_VLLM, .formats = FQI_F_GPTQ, .linears = FQI_L_ALL, .orders = UNORDERED,
      .middle = true, .says = "config.json announces no order, so that the stored g_idx is not read", .source = SRC_GPTQ ", kernels/linear/mixed_precision/exllama.py" },
    { .name = "order-ignored", .engines = ALL, .formats = FQI_F_GPTQ, .linears = FQI_L_ALL, .orders = UNORDERED,
      .says = "config.json announces no order, so that the stored g_idx is not read", .source = SRC_PLAIN },
    { .name = "order-ignored", .engines = ALL, .formats = CT_ANY, .linears = FQI_L_ALL, .orders = UNORDERED,
      .middle = true, .says = "config.json announces no order, so that the stored weight_g_idx is not read", .source = SRC_CT },
    { .name = "group-split", .engines = ALL, .formats = AWQ_ANY, .linears = FQI_L_ALL, .orders = FQI_ORDER_NONE,
      .says = SAYS_CUT, .source = "vllm-project/vllm quantization/awq.py, awq_marlin.py" },
};

static const fqi_load_fixed fixed[] = {
    { FQI_E_SGLANG, "w4afp8", 128, "sgl-project/sglang#38573" },
};

const fqi_load *fqi_load_find(unsigned engine, unsigned format, unsigned linear, unsigned order, bool inputs)
{
    for (size_t i = 0; i < sizeof loads / sizeof loads[0]; i++)
        if (loads[i].engines & engine && loads[i].formats & format && loads[i].linears & linear && loads[i].orders & order && (inputs || !loads[i].inputs)) return &loads[i];
    return NULL;
}

/* Channels for one row of scales, as a kernel derives them. Rows of a cut that do not divide a rank's channels: see the comment on group-split in
 * engines.c. */
static int64_t derived(const fqi_load *l, const fqi_load_cut *c)
{
    const int64_t each = c->cols / c->tp, n_row = l->whole ? c->cols / c->group : each / c->group;
    return n_row == 0 ? 0 : each % n_row == 0 || l->whole ? each / n_row : c->group;
}

int64_t fqi_load_row(const fqi_load *l, const fqi_load_cut *c, const int32_t *order, int64_t k)
{
    const int64_t each = c->cols / c->tp, all = c->cols / c->group + (c->cols % c->group != 0);
    if (l->group == FQI_LOAD_ORDER && order) return order[k] >= 0 && order[k] < all ? order[k] : -1;
    if (c->group >= c->cols) return 0;   /* one row, which every rank has */
    if (c->tp == 1 && l->group != FQI_LOAD_FIXED) return k / c->group;
    const int64_t n_row = l->whole ? all : each / c->group, first = l->whole ? 0 : k / each * n_row;
    const int64_t group = l->group == FQI_LOAD_DERIVED ? derived(l, c) : l->group == FQI_LOAD_FIXED ? l->fixed : c->group;
    /* With all rows at hand and no order to say otherwise, the kernel counts from the first of them. */
    const int64_t row = group > 0 ? k % each / group : n_row;
    return row < n_row ? first + row : -1;
}

bool fqi_load_refuses(const fqi_load *l, const fqi_load_cut *c, int64_t *found)
{
    static const int64_t known[] = { 32, 64, 128 };
    if (l->group != FQI_LOAD_DERIVED || !l->whole || c->tp == 1 || c->group >= c->cols) return false;
    *found = derived(l, c);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (*found == known[i]) return false;
    return true;
}

const fqi_load_fixed *fqi_load_fixed_find(unsigned engine, const char *method)
{
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        if (fixed[i].engines & engine && strcmp(fixed[i].method, method) == 0) return &fixed[i];
    return NULL;
}
