/* packed.c - see packed.h. Suffixes of no form: compressed-tensors compressors/ (nvfp4), vllm quantization/fp8.py and its KV-cache scales,
 * transformers integrations/finegrained_fp8.py (experts). */
#include "checkpoint/packed.h"

#include <string.h>

#define NAME_MAX_BYTES 1024   /* a longer name is in no family table */

/* Of formats that are not read, and of the KV cache. */
static const char *const others[] = { ".weight_scale_2", ".weight_global_scale", ".input_zero_point", ".input_global_scale", ".output_scale", ".k_scale", ".v_scale" };
/* Of all experts in one tensor, whose name has no ".weight" to hang a part on. */
static const char *const fused[] = { "gate_up_proj_scale_inv", "down_proj_scale_inv", "gate_up_proj_scale", "down_proj_scale" };

static bool is_plain(const fqi_part_form *p, int part) { return part == FQI_PART_CODES && strcmp(p->suffix, ".weight") == 0; }

static fqi_part part_of(const char *suffix)
{
    for (int l = 0; l < FQI_N_QL; l++)
        for (int k = FQI_PART_CODES; k < FQI_PART_OTHER; k++) {
            const fqi_part_form *p = &fqi_quant_form_of((fqi_quant_layout)l)->part[k];
            if (p->suffix && !is_plain(p, k) && strcmp(p->suffix, suffix) == 0) return (fqi_part)k;
        }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(others[i], suffix) == 0) return FQI_PART_OTHER;
    return FQI_PART_NONE;
}

bool fqi_packed_split(const char *name, fqi_packed *out)
{
    *out = (fqi_packed){ .part = FQI_PART_NONE };
    const char *dot = strrchr(name, '.');
    if (!dot || dot == name) return false;
    const fqi_part part = part_of(dot);
    if (part != FQI_PART_NONE) {
        *out = (fqi_packed){ part, dot, (size_t)(dot - name) };
        return true;
    }
    for (size_t i = 0; i < sizeof fused / sizeof *fused; i++) {
        if (strcmp(dot + 1, fused[i]) != 0) continue;
        const char *scale = strstr(dot, "_scale");
        *out = (fqi_packed){ FQI_PART_OTHER, scale, (size_t)(scale - name) };
        return true;
    }
    return false;
}

static bool bind_as(const fqi_family *f, const fqi_naming *naming, const char *name, size_t n_module, const char *tail, fqi_bound *out)
{
    char plain[NAME_MAX_BYTES];
    size_t n_tail = strlen(tail);
    if (n_module + n_tail >= sizeof plain) return false;
    memcpy(plain, name, n_module);
    memcpy(plain + n_module, tail, n_tail + 1);
    fqi_bound b;
    if (!fqi_bind_name(f, naming, plain, &b) || !b.row) return false;
    b.canonical = name + (b.canonical - plain);
    *out = b;
    return true;
}

bool fqi_packed_bind(const fqi_family *f, const fqi_naming *naming, const char *name, fqi_bound *out)
{
    fqi_packed p;
    if (!fqi_packed_split(name, &p)) return false;
    if (bind_as(f, naming, name, p.n_module, ".weight", out)) return true;
    if (bind_as(f, naming, name, p.n_module, "", out)) return true;
    /* Scales of the KV cache stand beside the projections, under the attention block itself. */
    if (strcmp(p.suffix, ".k_scale") == 0) return bind_as(f, naming, name, p.n_module, ".k_proj.weight", out);
    if (strcmp(p.suffix, ".v_scale") == 0) return bind_as(f, naming, name, p.n_module, ".v_proj.weight", out);
    return false;
}
