/* packed.c - see packed.h. Suffixes: GPTQModel and AutoGPTQ nn_modules/qlinear, AutoAWQ modules/linear/gemm.py,
 * compressed-tensors compressors/, vllm quantization/fp8.py and its KV-cache scales. */
#include "checkpoint/packed.h"

#include <string.h>

#define NAME_MAX_BYTES 1024   /* a longer name is in no family table */

static const struct suffix { const char *text; fqi_part part; fqi_packing packing; } suffixes[] = {
    { ".qweight", FQI_PART_CODES, FQI_PACKING_GPTQ },
    { ".qzeros", FQI_PART_ZERO, 0 },
    { ".scales", FQI_PART_SCALE, 0 },
    { ".g_idx", FQI_PART_ORDER, 0 },
    { ".weight_packed", FQI_PART_CODES, FQI_PACKING_CT },
    { ".weight_scale", FQI_PART_SCALE, 0 },
    { ".weight_scale_inv", FQI_PART_SCALE, 0 },
    { ".weight_scale_2", FQI_PART_SCALE, 0 },
    { ".weight_global_scale", FQI_PART_SCALE, 0 },
    { ".weight_zero_point", FQI_PART_ZERO, 0 },
    { ".weight_g_idx", FQI_PART_ORDER, 0 },
    { ".weight_shape", FQI_PART_OTHER, 0 },
    { ".input_scale", FQI_PART_SCALE, 0 },
    { ".input_zero_point", FQI_PART_ZERO, 0 },
    { ".input_global_scale", FQI_PART_SCALE, 0 },
    { ".output_scale", FQI_PART_SCALE, 0 },
    { ".k_scale", FQI_PART_SCALE, 0 },
    { ".v_scale", FQI_PART_SCALE, 0 },
};

bool fqi_packed_split(const char *name, fqi_packed *out)
{
    *out = (fqi_packed){ .part = FQI_PART_NONE };
    const char *dot = strrchr(name, '.');
    if (!dot || dot == name) return false;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (strcmp(dot, suffixes[i].text) != 0) continue;
        *out = (fqi_packed){ suffixes[i].part, suffixes[i].packing, dot, (size_t)(dot - name) };
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
    /* Scales of the KV cache stand beside the projections, under the attention block itself. */
    if (strcmp(p.suffix, ".k_scale") == 0) return bind_as(f, naming, name, p.n_module, ".k_proj.weight", out);
    if (strcmp(p.suffix, ".v_scale") == 0) return bind_as(f, naming, name, p.n_module, ".v_proj.weight", out);
    return false;
}
