/* quant_groups.c - what groups and words ask of the stored lengths. A matrix whose inputs the group does not divide could be written, with a
 * group that is cut off; no engine's kernel loads it (vLLM, SGLang and compressed-tensors all ask for whole groups, see plan/engines.c), so it
 * is refused before the work. A word of 32 bits holds codes along the inputs, and in format gptq zero points along the outputs.
 *
 * Lengths of the GPU counts are the planner's business; this holds for one GPU too. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "job/quantize_private.h"

/* How to pad the axis that a module's inputs, or outputs, lie on; NULL: it is hidden_size, which cannot be padded. */
static const char *pad_of_inputs(fqi_tap_point input)
{
    switch (input) {
    case FQI_TAP_O: return "num_attention_heads";
    case FQI_TAP_DOWN: return "intermediate_size";
    case FQI_TAP_EXPERT_DOWN: return "moe_intermediate_size";
    case FQI_TAP_SHARED_DOWN: return "shared_expert_intermediate_size";
    default: return NULL;
    }
}

static const char *pad_of_outputs(const fqi_module *m)
{
    switch (m->input) {
    case FQI_TAP_ATTENTION: return "num_attention_heads";
    case FQI_TAP_MLP: return strncmp(m->role, "shared_", 7) == 0 ? "shared_expert_intermediate_size" : "intermediate_size";
    case FQI_TAP_EXPERT_MLP: return "moe_intermediate_size";
    case FQI_TAP_HEAD: return "vocab_size";
    default: return NULL;
    }
}

/* The largest group that fits everywhere; 0: none of those that can be asked for. */
static int64_t largest_group(const fqi_quantize *q)
{
    static const int64_t group[] = { 128, 64, 32 };
    for (size_t g = 0; g < sizeof group / sizeof group[0]; g++) {
        bool fits = true;
        for (size_t i = 0; i < q->modules.n && fits; i++) fits = q->modules.at[i].cols_pad % group[g] == 0;
        if (fits) return group[g];
    }
    return 0;
}

static fq_status refuse_inputs(const fqi_quantize *q, const fqi_module *m, int64_t multiple, fq_err *e)
{
    const char *axis = pad_of_inputs(m->input);
    const int64_t smaller = largest_group(q);
    char pad[128] = "", group[64] = "";
    if (axis) snprintf(pad, sizeof pad, "; --tp 1 pads %s, --set to a length of your choice", axis);
    if (smaller > 0) snprintf(group, sizeof group, "; --group-size %" PRId64 " divides all", smaller);
    return fqi_fail(e, FQ_E_USAGE, FQI_TENSOR(q->o->pad.source, m->tensor->name), "group", "found %" PRId64 " inputs, expected a multiple of %" PRId64 ", %s%s%s", m->cols_pad, multiple,
                    q->settings.group_size > 0 ? "the group" : "the codes of a word", pad, group);
}

static fq_status refuse_outputs(const fqi_quantize *q, const fqi_module *m, int64_t multiple, fq_err *e)
{
    const char *axis = pad_of_outputs(m);
    char pad[128] = "";
    if (axis) snprintf(pad, sizeof pad, "; --set %s pads it", axis);
    return fqi_fail(e, FQ_E_USAGE, FQI_TENSOR(q->o->pad.source, m->tensor->name), "group", "found %" PRId64 " outputs, expected a multiple of %" PRId64 ", the zero points of a word%s", m->rows_pad, multiple, pad);
}

fq_status fqi_quant_check_groups(const fqi_quantize *q, fq_err *e)
{
    const int64_t word = q->settings.grid.bits == 3 ? 32 : 32 / q->settings.grid.bits, group = q->settings.group_size;
    const bool zeros = q->o->packing == FQ_PACKING_GPTQ || !q->settings.grid.sym;   /* stored, along the outputs */
    for (size_t i = 0; i < q->modules.n; i++) {
        const fqi_module *m = &q->modules.at[i];
        const int64_t multiple = group > 0 ? group : word;
        if (m->cols_pad % multiple != 0) return refuse_inputs(q, m, multiple, e);
        if (zeros && m->rows_pad % word != 0) return refuse_outputs(q, m, word, e);
    }
    return FQ_OK;
}
