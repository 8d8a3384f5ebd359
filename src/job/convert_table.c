/* convert_table.c - the forms that can be asked for, what they can hold, and the tensors that a conversion makes. See convert_private.h.
 *
 * Lossless means: every weight is the same number and every scale has the same bits. Codes of all forms are unsigned and count from the same
 * zero (compressed-tensors stores its signed codes and zero points with 2^(bits-1) added), so what a form cannot hold is one of: a number of
 * bits, numbers of E4M3, output channels that do not fill words, an order of channels, zero points that v1 cannot say, two settings at once.
 * Sources: quant_layout.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/packed.h"
#include "job/convert_private.h"

#define OWN "quantize_config.json"

const fqi_convert_to fqi_convert_targets[FQ_N_FORM] = {
    [FQ_FORM_GPTQ] = { .name = "gptq", .layout = FQI_QL_GPTQ, .zeros_v1 = true, .always_order = true, .own_file = OWN, .text = fqi_quant_text_gptq },
    [FQ_FORM_GPTQ_V2] = { .name = "gptq_v2", .layout = FQI_QL_GPTQ, .always_order = true, .own_file = OWN, .text = fqi_quant_text_gptq },
    [FQ_FORM_COMPRESSED_TENSORS] = { .name = "compressed-tensors", .layout = FQI_QL_CT, .text = fqi_quant_text_ct },
    [FQ_FORM_AWQ] = { .name = "awq", .layout = FQI_QL_AWQ, .text = fqi_quant_text_awq },
    [FQ_FORM_BF16] = { .name = "bf16", .dense = true, .dtype = FQ_DTYPE_BF16, .torch_dtype = "bfloat16" },
    [FQ_FORM_FP16] = { .name = "fp16", .dense = true, .dtype = FQ_DTYPE_F16, .torch_dtype = "float16" },
    [FQ_FORM_FP32] = { .name = "fp32", .dense = true, .dtype = FQ_DTYPE_F32, .torch_dtype = "float32" },
};

const char *fq_form_name(fq_form f) { return (unsigned)f < FQ_N_FORM ? fqi_convert_targets[f].name : NULL; }

static const fqi_quant_form *form_to(const fqi_convert *c) { return fqi_quant_form_of(c->to->layout); }

/* ---- what a form can hold ------------------------------------------------------------------------------------------- */

static const char *codes_place(const fqi_convert *c, const fqi_quant_module *q, fqi_where *at)
{
    const fqi_tensor *t = q->part[FQI_PART_CODES];
    *at = *FQI_TENSOR(c->ckpt->shard[t->shard].path, t->name);
    return t->name;
}

static fq_status check_module(const fqi_convert *c, size_t i, fq_err *e)
{
    const fqi_quant_module *q = &c->parts.module[i].now;
    const fqi_quant_size *s = &q->size, *first = &c->parts.module[0].now.size;
    const fqi_quant_form *to = form_to(c);
    const fqi_part_form *codes = &to->part[FQI_PART_CODES];
    const int64_t group = c->group_size > 0 ? c->group_size : s->cols;
    fqi_where at;
    (void)codes_place(c, q, &at);
    if (q->form->floats)
        return fqi_fail(e, FQ_E_INPUT, &at, "convert-floats", "found E4M3 numbers of %s, expected integers: no code of %s is such a number; --to bf16 makes weights that can be quantized again", q->form->name, to->name);
    if (!(to->bits & 1u << s->bits)) return fqi_fail(e, FQ_E_INPUT, &at, "convert-bits", "found %d bits, expected what %s has: 4", s->bits, to->name);
    if (s->bits != first->bits || s->group_cols != group)
        return fqi_fail(e, FQ_E_INPUT, &at, "convert-mixed", "found %d bits in groups of %" PRId64 ", expected %d bits in groups of %" PRId64 " as in other modules: settings of single modules are not carried over",
                        s->bits, s->group_cols, first->bits, group);
    if (fqi_part_has(codes, FQI_ALONG_N, FQI_UNIT_WORD) && s->rows % (32 / s->bits) != 0)
        return fqi_fail(e, FQ_E_INPUT, &at, "convert-words", "found %" PRId64 " output channels, expected a multiple of %d: %s packs them into words", s->rows, 32 / s->bits, to->name);
    if (c->is_ordered[i] && !to->part[FQI_PART_ORDER].suffix)
        return fqi_fail(e, FQ_E_INPUT, &at, "convert-order", "found groups of input channels in another order (g_idx of desc_act), expected their own: %s has no place for it; --to gptq, gptq_v2 or compressed-tensors keeps it", to->name);
    return FQ_OK;
}

static fq_status check_zero(const fqi_convert *c, fq_err *e)
{
    const fqi_tensor *t = c->zero_zero;
    if (!c->to->zeros_v1 || !t) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->ckpt->shard[t->shard].path, t->name), "convert-zero", "group %" PRId64 ", output channel %" PRId64 ": found zero point 0, expected 1 or more: format gptq stores it "
                    "minus one, and its readers disagree about -1; --to gptq_v2 holds it", c->zero_group, c->zero_row);
}

/* Same form, same zero points, same label. */
static fq_status check_change(const fqi_convert *c, fq_err *e)
{
    bool same = true;
    for (size_t i = 0; i < c->parts.n_module && same; i++) same = c->parts.module[i].now.layout == c->to->layout;
    const bool has_versions = c->to->layout == FQI_QL_GPTQ;
    if (!same || (has_versions && (c->scheme.zeros_v1 != c->to->zeros_v1 || c->label_v1 != c->to->zeros_v1))) return FQ_OK;
    return fqi_fail(e, FQ_E_USAGE, FQI_FILE(c->o->source), "nothing-to-convert", "found weights that are %s already, expected another form", c->to->name);
}

/* What config.json says, or, where it has rules for single modules, what the first has. */
static int64_t group_of_all(const fqi_convert *c)
{
    const fqi_quant_size *first = &c->parts.module[0].now.size;
    if (!c->scheme.varies) return c->scheme.group_size > 0 ? c->scheme.group_size : -1;
    return c->scheme.group_size <= 0 && first->group_cols == first->cols ? -1 : first->group_cols;
}

/* Where nothing moves, only the label and the zero points are touched: rules for single modules stay as they are. */
static bool keeps_form(const fqi_convert *c)
{
    for (size_t i = 0; i < c->parts.n_module; i++)
        if (c->parts.module[i].now.layout != c->to->layout) return false;
    return true;
}

fq_status fqi_convert_check(fqi_convert *c, fq_err *e)
{
    if (c->to->dense) return FQ_OK;
    c->group_size = c->parts.module[0].now.form->floats ? 0 : group_of_all(c);
    FQI_TRY(check_change(c, e));
    for (size_t i = 0; i < c->parts.n_module && !keeps_form(c); i++) FQI_TRY(check_module(c, i, e));
    return check_zero(c, e);
}

/* ---- the table ------------------------------------------------------------------------------------------------------- */

static bool is_wanted(const fqi_convert *c, const fqi_part_form *p)
{
    if (!p->suffix) return false;
    switch ((fqi_part_need)p->need) {
    case FQI_PART_MUST: return true;
    case FQI_PART_IF_ASYM: return !c->sym;
    case FQI_PART_IF_ORDER: return c->ordered || c->to->always_order;
    case FQI_PART_MAY: break;
    }
    return false;
}

static bool same_dims(const fqi_part_form *a, const fqi_part_form *b)
{
    bool same = a->rank == b->rank;
    for (int d = 0; d < a->rank && same; d++) same = a->dim[d].along == b->dim[d].along && a->dim[d].unit == b->dim[d].unit;
    return same;
}

/* The tensor of the source is the tensor of the target, byte by byte and by name. */
static bool is_same(const fqi_convert *c, const fqi_quant_module *q, fqi_part part)
{
    const fqi_part_form *a = &q->form->part[part], *b = &form_to(c)->part[part];
    if (!q->part[part] || !a->suffix || strcmp(a->suffix, b->suffix) != 0 || !same_dims(a, b)) return false;
    if ((part == FQI_PART_CODES || part == FQI_PART_ZERO) && q->form->field != form_to(c)->field) return false;
    return part != FQI_PART_ZERO || q->zeros_v1 == c->to->zeros_v1;
}

static fq_status add_made(fqi_convert *c, size_t module, fqi_part part, const char *suffix, fqi_made *x, fq_err *e)
{
    const fqi_quant_module *q = &c->parts.module[module].now;
    x->instead_of = q->part[part] ? q->part[part] : q->part[FQI_PART_CODES];
    x->beside = !q->part[part];
    x->suffix = suffix;
    x->id = c->n_made;
    for (int d = 0; d < x->rank; d++)
        if (x->shape_pad[d] <= 0) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->o->source), "tensor-shape", "found a part without elements, expected some");
    c->made_part[c->n_made] = (fqi_convert_part){ (uint32_t)module, (uint8_t)part };
    c->made[c->n_made++] = *x;
    return FQ_OK;
}

static fq_dtype dtype_of(const fqi_quant_module *q, fqi_part part)
{
    if (part == FQI_PART_SCALE) return (fq_dtype)q->part[part]->dtype;
    return part == FQI_PART_SHAPE ? FQ_DTYPE_I64 : FQ_DTYPE_I32;
}

/* taken: parts of the source that another one stands in for, or that stay. */
static fq_status add_parts(fqi_convert *c, size_t i, bool taken[FQI_N_PART], fq_err *e)
{
    const fqi_quant_module *q = &c->parts.module[i].now;
    const fqi_quant_form *to = form_to(c);
    for (int k = FQI_PART_CODES; k < FQI_PART_OTHER; k++) {
        const fqi_part_form *p = &to->part[k];
        if (!is_wanted(c, p)) continue;
        taken[k] = true;
        if (is_same(c, q, (fqi_part)k)) continue;
        fqi_made x = { .dtype = dtype_of(q, (fqi_part)k), .rank = p->rank };
        for (int d = 0; d < p->rank; d++) x.shape_pad[d] = fqi_part_length(p->dim[d], &q->size);
        FQI_TRY(add_made(c, i, (fqi_part)k, p->suffix, &x, e));
    }
    return FQ_OK;
}

static fq_status add_module(fqi_convert *c, size_t i, bool *stays, fq_err *e)
{
    const fqi_quant_module *q = &c->parts.module[i].now;
    bool taken[FQI_N_PART] = { false };
    if (c->to->dense) {
        fqi_made x = { .dtype = c->to->dtype, .rank = 2, .shape_pad = { q->size.rows, q->size.cols } };
        taken[FQI_PART_CODES] = true;
        FQI_TRY(add_made(c, i, FQI_PART_CODES, ".weight", &x, e));
    } else {
        FQI_TRY(add_parts(c, i, taken, e));
    }
    for (int k = FQI_PART_CODES; k < FQI_PART_OTHER; k++)
        if (q->part[k] && !taken[k]) stays[q->part[k] - c->ckpt->tensor] = false;
    return FQ_OK;
}

fq_status fqi_convert_make_table(fqi_convert *c, fq_err *e)
{
    const size_t most = c->parts.n_module * FQI_N_PART + 1;
    bool *stays = fqi_calloc(c->ckpt->n_tensor + 1, sizeof *stays);
    c->made = fqi_calloc(most, sizeof *c->made);
    c->made_part = fqi_calloc(most, sizeof *c->made_part);
    c->skip = fqi_calloc(c->ckpt->n_tensor + 1, sizeof *c->skip);
    fq_status s = stays && c->made && c->made_part && c->skip ? FQ_OK : fqi_fail_nomem(e, "table of converted tensors");
    for (size_t i = 0; i < c->ckpt->n_tensor && s == FQ_OK; i++) stays[i] = true;
    for (size_t i = 0; i < c->parts.n_module && s == FQ_OK; i++) s = add_module(c, i, stays, e);
    for (size_t i = 0; i < c->ckpt->n_tensor && s == FQ_OK; i++)
        if (!stays[i]) c->skip[c->n_skip++] = c->ckpt->tensor[i].name;
    free(stays);
    return s;
}
