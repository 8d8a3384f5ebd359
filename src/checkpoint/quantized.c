/* quantized.c - config.json and the headers of a quantized module, held against each other. See quantized.h.
 *
 * Bits and group size are told twice, by config.json and by the shapes. Where config.json has one rule for all modules both must agree. Where
 * it has rules for single modules (GPTQModel's "dynamic", several config_groups) the shapes decide: each length gives one number of
 * bits and one group size, and no regular expression has to be understood as its author's program does.
 *
 * Refused: other methods and formats; integer weights with activations that are rounded too (another model than the weights alone; FP8
 * engines round activations as well, which is their arithmetic and not the model's); groups that do not divide the input channels (readers
 * disagree about the last one); AWQ of other versions than gemm, whose words have other orders, and without zero points, which gemm does not
 * have. Sources: GPTQModel quantization/config.py, nn_modules/qlinear/__init__.py; AutoGPTQ quantization/config.py; AutoAWQ models/_config.py;
 * compressed-tensors compressors/{pack_quantized,naive_quantized}, quantization/{quant_args,quant_scheme}.py; vllm quantization/fp8.py;
 * transformers utils/quantization_config.py (AwqConfig, FineGrainedFP8Config). */
#include "checkpoint/quantized.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/checked.h"
#include "checkpoint/packed.h"

#define NAME_MAX_BYTES 1024   /* a longer name is in no family table */
#define SAYS "expected gptq, awq (gemm), fp8, compressed-tensors (pack-quantized, float-quantized), or no quantization"
#define OF(layout) (1u << (layout))
#define MAX_BLOCK 1048576

typedef fqi_quant_scheme scheme;

/* ---- config.json ---- */

static const json_t *not_null(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return v && !json_is_null(v) ? v : NULL;
}

static fq_status refuse(const fq_ckpt *c, const char *key, const json_t *found, const char *expected, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    const char *text = json_is_string(found) ? fqi_escape(shown, json_string_value(found)) : json_is_object(found) || json_is_array(found) ? "settings" :
                       json_is_true(found) ? "true" : json_is_false(found) ? "false" : found ? "another type" : "nothing";
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "quantized", "quantization_config: %s: found %s, expected %s", key, text, expected);
}

static bool is_text(const json_t *v, const char *text) { return json_is_string(v) && strcmp(json_string_value(v), text) == 0; }

static bool is_ct(const json_t *q) { return not_null(q, "config_groups") != NULL; }

static fq_status read_gptq(const fq_ckpt *c, const json_t *q, scheme *s, fq_err *e)
{
    static const char *const key[] = { "checkpoint_format", "format" };
    const json_t *first = NULL, *marlin = not_null(q, "is_marlin_format"), *pack = not_null(q, "pack_dtype");
    s->layouts = OF(FQI_QL_GPTQ);
    s->zeros_v1 = true;
    for (size_t i = 0; i < sizeof key / sizeof key[0]; i++) {
        const json_t *v = not_null(q, key[i]);
        if (!v) continue;
        if (!is_text(v, "gptq") && !is_text(v, "gptq_v2")) return refuse(c, key[i], v, "gptq or gptq_v2", e);
        if (first && !json_equal(first, v)) return refuse(c, key[i], v, "what checkpoint_format says", e);
        first = v;
    }
    if (first) s->zeros_v1 = is_text(first, "gptq");
    if (json_is_true(marlin)) return refuse(c, "is_marlin_format", marlin, "false", e);
    if (pack && !is_text(pack, "int32")) return refuse(c, "pack_dtype", pack, "int32", e);
    const json_t *rules = not_null(q, "dynamic"), *rule;
    const char *pattern;
    if (rules && !json_is_object(rules)) return refuse(c, "dynamic", rules, "an object", e);
    json_object_foreach((json_t *)(uintptr_t)rules, pattern, rule) s->varies = s->varies || strncmp(pattern, "-:", 2) != 0;
    return FQ_OK;
}

static fq_status read_awq(const fq_ckpt *c, const json_t *q, scheme *s, fq_err *e)
{
    const json_t *version = not_null(q, "version"), *backend = not_null(q, "backend");
    s->layouts = OF(FQI_QL_AWQ);
    if (version && !(json_is_string(version) && strcasecmp(json_string_value(version), "gemm") == 0)) return refuse(c, "version", version, "gemm", e);
    if (is_text(backend, "llm-awq")) return refuse(c, "backend", backend, "autoawq", e);
    return s->sym ? refuse(c, "zero_point", json_object_get(q, "zero_point"), "true: words of version gemm come with zero points", e) : FQ_OK;
}

static fq_status read_block(const fq_ckpt *c, const json_t *o, const char *key, scheme *s, fq_err *e)
{
    const json_t *list = not_null(o, key);
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = json_array_get(list, i);
        if (json_array_size(list) != 2 || !json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > MAX_BLOCK)
            return refuse(c, key, list, "two positive numbers", e);
        s->block[i] = json_integer_value(v);
    }
    return FQ_OK;
}

static fq_status read_fp8(const fq_ckpt *c, const json_t *q, scheme *s, fq_err *e)
{
    const json_t *fmt = not_null(q, "fmt");
    s->rounds_inputs = true;
    if (fmt && !is_text(fmt, "e4m3")) return refuse(c, "fmt", fmt, "e4m3", e);
    s->layouts = OF(not_null(q, "weight_block_size") ? FQI_QL_FP8_BLOCK : FQI_QL_FP8_TENSOR);
    return not_null(q, "weight_block_size") ? read_block(c, q, "weight_block_size", s, e) : FQ_OK;
}

static fq_status read_ct_ints(const fq_ckpt *c, const json_t *group, scheme *s, fq_err *e)
{
    const json_t *w = not_null(group, "weights"), *type = not_null(w, "type"), *strategy = not_null(w, "strategy"), *inputs = not_null(group, "input_activations");
    s->layouts |= OF(FQI_QL_CT);
    if (type && !is_text(type, "int")) return refuse(c, "type", type, "int", e);
    if (strategy && !is_text(strategy, "group") && !is_text(strategy, "channel")) return refuse(c, "strategy", strategy, "group or channel", e);
    if (!inputs) return FQ_OK;
    s->rounds_inputs = s->rounds_ints_inputs = true;
    if (is_text(not_null(inputs, "type"), "float") && json_integer_value(json_object_get(inputs, "num_bits")) == 8 && json_is_true(json_object_get(inputs, "dynamic"))) return FQ_OK;
    return refuse(c, "input_activations", inputs, "null (weights only), or FP8 that is scaled at run time", e);
}

static fq_status read_ct_floats(const fq_ckpt *c, const json_t *group, scheme *s, fq_err *e)
{
    static const struct { const char *name; fqi_quant_layout layout; } known[] = {
        { "tensor", FQI_QL_CT_FLOAT_TENSOR }, { "channel", FQI_QL_CT_FLOAT_CHANNEL }, { "block", FQI_QL_CT_FLOAT_BLOCK } };
    const json_t *w = not_null(group, "weights"), *type = not_null(w, "type"), *strategy = not_null(w, "strategy");
    s->rounds_inputs = s->rounds_inputs || not_null(group, "input_activations");
    if (!is_text(type, "float")) return refuse(c, "type", type, "float", e);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (!is_text(strategy, known[i].name)) continue;
        s->layouts |= OF(known[i].layout);
        return known[i].layout == FQI_QL_CT_FLOAT_BLOCK ? read_block(c, w, "block_structure", s, e) : FQ_OK;
    }
    return refuse(c, "strategy", strategy, "tensor, channel or block", e);
}

static fq_status read_ct(const fq_ckpt *c, const json_t *q, scheme *s, fq_err *e)
{
    const char *key;
    const json_t *group, *transform = not_null(not_null(q, "transform_config"), "config_groups");
    size_t n = 0;
    json_object_foreach((json_t *)(uintptr_t)not_null(q, "config_groups"), key, group) {
        if (!not_null(group, "weights")) continue;
        const json_t *format = not_null(group, "format") ? not_null(group, "format") : not_null(q, "format");
        const bool ints = is_text(format, "pack-quantized");
        if (!ints && !is_text(format, "float-quantized")) return refuse(c, "format", format, "pack-quantized or float-quantized", e);
        FQI_TRY(ints ? read_ct_ints(c, group, s, e) : read_ct_floats(c, group, s, e));
        if (not_null(group, "output_activations")) return refuse(c, "output_activations", not_null(group, "output_activations"), "null: weights only", e);
        n++;
    }
    s->varies = n > 1;
    if (json_object_size(transform) > 0) return refuse(c, "transform_config", transform, "none: rotations at run time are not done", e);
    return FQ_OK;
}

/* "2, 3, 4 or 8" */
static void bits_text(uint32_t mask, char *out, size_t n)
{
    size_t at = 0;
    out[0] = '\0';
    for (int b = 0; b < 32 && at < n; b++) {
        if (!(mask & 1u << b)) continue;
        const int k = snprintf(out + at, n - at, "%s%d", at == 0 ? "" : mask >> b >> 1 ? ", " : " or ", b);
        at += k > 0 ? (size_t)k : 0;
    }
}

static fq_status check_bits(const fq_ckpt *c, const scheme *s, fq_err *e)
{
    char bits[64];
    for (int l = 0; l < FQI_N_QL && !s->varies; l++) {
        const fqi_quant_form *form = fqi_quant_form_of((fqi_quant_layout)l);
        if (!(s->layouts & OF(l)) || (s->bits >= 0 && s->bits < 32 && form->bits & 1u << s->bits)) continue;
        bits_text(form->bits, bits, sizeof bits);
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "quantized", "found %d bits, expected %s", s->bits, bits);
    }
    return FQ_OK;
}

fq_status fqi_quant_scheme_read(const fq_ckpt *c, scheme *s, fq_err *e)
{
    const fq_model *m = &c->config.model;
    char shown[FQI_NAME_MAX + 1];
    *s = (scheme){ 0 };
    if (!c->has_config || m->quant == FQ_QUANT_NONE) return FQ_OK;
    const json_t *q = fqi_config_quant(&c->config);
    *s = (scheme){ .bits = m->quant_bits, .group_size = m->quant_group_size, .sym = m->quant_sym, .order = m->quant_desc_act };
    switch (m->quant) {
    case FQ_QUANT_GPTQ: FQI_TRY(read_gptq(c, q, s, e)); break;
    case FQ_QUANT_AWQ: FQI_TRY(read_awq(c, q, s, e)); break;
    case FQ_QUANT_FP8: FQI_TRY(is_ct(q) ? read_ct(c, q, s, e) : read_fp8(c, q, s, e)); break;
    case FQ_QUANT_COMPRESSED_TENSORS: FQI_TRY(read_ct(c, q, s, e)); break;
    case FQ_QUANT_NONE: case FQ_QUANT_OTHER:
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "quantized", "found weights quantized with \"%s\", " SAYS, fqi_escape(shown, m->quant_name));
    }
    return check_bits(c, s, e);
}

fq_status fqi_quant_check(const fq_ckpt *c, fq_err *e)
{
    scheme s;
    return fqi_quant_scheme_read(c, &s, e);
}

/* ---- names ---- */

typedef struct finding_module { const fq_ckpt *c; const char *name; size_t n_module; const scheme *s; } finding_module;

static const fqi_tensor *look(const finding_module *f, const char *suffix)
{
    char other[NAME_MAX_BYTES];
    const size_t n = strlen(suffix);
    if (f->n_module + n >= sizeof other) return NULL;
    memcpy(other, f->name, f->n_module);
    memcpy(other + f->n_module, suffix, n + 1);
    const size_t i = fqi_ckpt_find(f->c, other);
    return i == SIZE_MAX ? NULL : &f->c->tensor[i];
}

/* A weight of the type that config.json says weights are. */
static bool is_announced_float(const fq_ckpt *c, const fqi_tensor *t)
{
    const fq_quant_method method = c->has_config ? c->config.model.quant : FQ_QUANT_NONE;
    return t->dtype == FQ_DTYPE_F8_E4M3 && (method == FQ_QUANT_FP8 || method == FQ_QUANT_COMPRESSED_TENSORS);
}

bool fqi_quant_is_codes(const fq_ckpt *c, size_t i, size_t *n_module)
{
    static const char plain[] = ".weight";
    const fqi_tensor *t = &c->tensor[i];
    const size_t n = strlen(t->name);
    fqi_packed p;
    if (fqi_packed_split(t->name, &p)) {
        *n_module = p.n_module;
        return p.part == FQI_PART_CODES;
    }
    const bool named = n > sizeof plain - 1 && strcmp(t->name + n - (sizeof plain - 1), plain) == 0;
    *n_module = named ? n - (sizeof plain - 1) : n;
    const finding_module f = { .c = c, .name = t->name, .n_module = *n_module };
    if (named) return is_announced_float(c, t) || (!look(&f, ".qweight") && !look(&f, ".weight_packed") && (look(&f, ".weight_scale_inv") || look(&f, ".weight_scale")));
    return t->rank == 3 && (is_announced_float(c, t) || look(&f, "_scale_inv") || look(&f, "_scale"));
}

bool fqi_quant_beside(const fq_ckpt *c, const char *name, size_t n_module)
{
    const finding_module f = { .c = c, .name = name, .n_module = n_module };
    return look(&f, ".qweight") || look(&f, ".weight_packed") || look(&f, ".weight_scale_inv") || look(&f, ".weight_scale");
}

/* ---- parts ---- */

static const fqi_where *place_of(const finding_module *f, const fqi_tensor *t, fqi_where *out)
{
    *out = *FQI_TENSOR(f->c->shard[t->shard].path, t->name);
    return out;
}

static fq_status check_dtype(const finding_module *f, const fqi_part_form *p, const fqi_tensor *t, fq_err *e)
{
    char expected[96] = "";
    size_t at = 0;
    fqi_where where;
    if (t->dtype < 32 && p->dtypes & 1u << t->dtype) return FQ_OK;
    for (unsigned d = 0; d < FQ_N_DTYPE && at < sizeof expected; d++) {
        if (!(p->dtypes & 1u << d)) continue;
        const int k = snprintf(expected + at, sizeof expected - at, "%s%s", at == 0 ? "" : p->dtypes >> d >> 1 ? ", " : " or ", fq_dtype_name((fq_dtype)d));
        at += k > 0 ? (size_t)k : 0;
    }
    return fqi_fail(e, FQ_E_INPUT, place_of(f, t, &where), "packed-dtype", "found %s, expected %s", fq_dtype_name((fq_dtype)t->dtype), expected);
}

static bool is_one_number(const fqi_tensor *t) { return t->bytes == fq_dtype_bits((fq_dtype)t->dtype) / 8; }

/* `skip`: a dimension that is not known yet, or -1. */
static fq_status check_shape(const finding_module *f, const fqi_part_form *p, const fqi_tensor *t, const fqi_quant_size *size, int skip, fq_err *e)
{
    char why[96];
    fqi_where where;
    if (fqi_part_is_scalar(p))
        return is_one_number(t) ? FQ_OK : fqi_fail(e, FQ_E_INPUT, place_of(f, t, &where), "packed-shape", "found %" PRIu64 " bytes, expected one number", t->bytes);
    if (t->rank != p->rank) return fqi_fail(e, FQ_E_INPUT, place_of(f, t, &where), "packed-shape", "found %d dimensions, expected %d", t->rank, p->rank);
    for (int d = 0; d < p->rank; d++) {
        if (d == skip) continue;
        const int64_t want = fqi_part_length(p->dim[d], size);
        if (t->shape[d] == want) continue;
        fqi_part_words(p, why, sizeof why);
        return fqi_fail(e, FQ_E_INPUT, place_of(f, t, &where), "packed-shape", "found %" PRId64 " in dimension %d, expected %" PRId64 " (%s)", t->shape[d], d, want, why);
    }
    return FQ_OK;
}

/* ---- bits and groups ---- */

static int dim_in(const fqi_part_form *p, fqi_unit unit, fqi_along along)
{
    for (int d = 0; d < p->rank; d++)
        if (p->dim[d].unit == unit && p->dim[d].along == along) return d;
    return -1;
}

/* What the shapes say, where config.json has rules for single modules. */
static fq_status take_bits(const finding_module *f, const fqi_tensor *codes, int d, int64_t n, fqi_quant_module *m, fq_err *e)
{
    char bits[64];
    fqi_where where;
    for (int b = 1; b < 32; b++) {
        if (!(m->form->bits & 1u << b) || fqi_quant_words(n, b) != codes->shape[d]) continue;
        m->size.bits = b;
        return FQ_OK;
    }
    bits_text(m->form->bits, bits, sizeof bits);
    return fqi_fail(e, FQ_E_INPUT, place_of(f, codes, &where), "packed-bits", "found %" PRId64 " in dimension %d, expected %" PRId64 " codes of %s bits", codes->shape[d], d, n, bits);
}

static fq_status take_codes(const finding_module *f, fqi_quant_module *m, fq_err *e)
{
    const fqi_part_form *p = &m->form->part[FQI_PART_CODES];
    const fqi_tensor *t = m->part[FQI_PART_CODES];
    const int d = dim_in(p, FQI_UNIT_WORD, FQI_ALONG_K);
    fqi_where where;
    if (m->form->field && m->size.rows % (32 / m->size.bits) != 0)
        return fqi_fail(e, FQ_E_INPUT, place_of(f, t, &where), "packed-shape", "found %" PRId64 " output channels, expected a multiple of the %d in a word", m->size.rows, 32 / m->size.bits);
    FQI_TRY(check_shape(f, p, t, &m->size, f->s->varies ? d : -1, e));
    return f->s->varies && d >= 0 ? take_bits(f, t, d, m->size.cols, m, e) : FQ_OK;
}

/* Of integers every group is whole. */
static fq_status take_group(const finding_module *f, const fqi_tensor *scale, int d, fqi_quant_module *m, fq_err *e)
{
    const int64_t n = scale->shape[d], cols = m->size.cols;
    fqi_where where;
    (void)place_of(f, scale, &where);
    if (!f->s->varies) {
        const int64_t group = m->size.group_cols;
        if (cols % group != 0)
            return fqi_fail(e, FQ_E_INPUT, &where, "packed-group", "found groups of %" PRId64 ", expected a divisor of the %" PRId64 " input channels", group, cols);
        if (n != cols / group)
            return fqi_fail(e, FQ_E_INPUT, &where, "packed-group", "found %" PRId64 " in dimension %d, expected %" PRId64 " (%" PRId64 " input channels in groups of %" PRId64 ")", n, d,
                            cols / group, cols, group);
        return FQ_OK;
    }
    if (n <= 0 || cols % n != 0)
        return fqi_fail(e, FQ_E_INPUT, &where, "packed-group", "found %" PRId64 " in dimension %d, expected a divisor of the %" PRId64 " input channels", n, d, cols);
    m->size.group_cols = cols / n;
    return FQ_OK;
}

static fq_status take_scale(const finding_module *f, fqi_quant_module *m, fq_err *e)
{
    const fqi_part_form *p = &m->form->part[FQI_PART_SCALE];
    const fqi_tensor *t = m->part[FQI_PART_SCALE];
    const int d = m->form->floats ? -1 : dim_in(p, FQI_UNIT_GROUP, FQI_ALONG_K);
    FQI_TRY(check_shape(f, p, t, &m->size, d, e));
    return d >= 0 ? take_group(f, t, d, m, e) : FQ_OK;
}

/* Channels that have a scale together, as config.json says. */
static void take_sizes(const scheme *s, fqi_quant_module *m)
{
    const fqi_part_form *scale = &m->form->part[FQI_PART_SCALE];
    const int64_t group = m->form->floats ? s->block[1] : s->group_size;
    m->size.bits = m->form->floats ? 8 : s->bits;
    m->size.group_cols = fqi_part_has(scale, FQI_ALONG_K, FQI_UNIT_GROUP) && group > 0 ? group : m->size.cols;
    m->size.group_rows = fqi_part_has(scale, FQI_ALONG_N, FQI_UNIT_ELEMENT) ? 1 : fqi_part_has(scale, FQI_ALONG_N, FQI_UNIT_GROUP) && s->block[0] > 0 ? s->block[0] : m->size.rows;
}

static bool may_lack(const scheme *s, const fqi_quant_module *m, const fqi_part_form *p)
{
    switch ((fqi_part_need)p->need) {
    case FQI_PART_MUST: return false;
    case FQI_PART_IF_ASYM: return s->sym || s->varies;
    case FQI_PART_IF_ORDER: return !s->order || m->size.group_cols == m->size.cols || (s->varies && m->layout == FQI_QL_CT);   /* its actorder is that of a group of modules */
    case FQI_PART_MAY: break;
    }
    return true;
}

static fq_status find_parts(const finding_module *f, fqi_quant_module *m, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    for (int k = FQI_PART_CODES; k < FQI_PART_OTHER; k++) {
        const fqi_part_form *p = &m->form->part[k];
        if (!p->suffix) continue;
        const fqi_tensor *t = m->part[k] = look(f, p->suffix);
        if (!t && may_lack(f->s, m, p)) continue;
        if (!t)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(f->c->info.path), "packed-parts", "module %s: found no %s, expected one", fqi_escape_n(shown, f->name, f->n_module), p->suffix + 1);
        FQI_TRY(check_dtype(f, p, t, e));
        FQI_TRY(k == FQI_PART_CODES ? take_codes(f, m, e) : k == FQI_PART_SCALE ? take_scale(f, m, e) : check_shape(f, p, t, &m->size, -1, e));
    }
    const bool may_be_sym = m->form->part[FQI_PART_ZERO].need == FQI_PART_IF_ASYM;
    if (f->s->varies) m->sym = may_be_sym && !m->part[FQI_PART_ZERO];
    if (m->form->floats) m->sym = true;
    return FQ_OK;
}

/* ---- forms ---- */

/* Are there codes of this form? A plain weight counts where fqi_quant_is_codes takes it for some. */
static bool has_codes(const finding_module *f, const fqi_quant_form *form, const fqi_tensor *codes)
{
    const fqi_tensor *t = look(f, form->part[FQI_PART_CODES].suffix);
    return t && (!form->floats || t == codes);
}

/* The scale has this form's shape. */
static bool scale_fits(const finding_module *f, fqi_quant_module *m)
{
    const fqi_part_form *p = &m->form->part[FQI_PART_SCALE];
    const fqi_tensor *t = look(f, p->suffix);
    fq_err ignored;
    take_sizes(f->s, m);
    return t && check_shape(f, p, t, &m->size, m->form->floats ? -1 : dim_in(p, FQI_UNIT_GROUP, FQI_ALONG_K), &ignored) == FQ_OK;
}

/* Of the forms that config.json allows, the one whose codes are there; of several with plain names the one that the scale tells. */
static bool choose(const finding_module *f, const fqi_tensor *codes, fqi_quant_module *m)
{
    int first = -1;
    for (int l = 0; l < FQI_N_QL; l++) {
        if (!(f->s->layouts & OF(l)) || !has_codes(f, fqi_quant_form_of((fqi_quant_layout)l), codes)) continue;
        m->layout = (fqi_quant_layout)l;
        m->form = fqi_quant_form_of(m->layout);
        if (!f->s->varies || !m->form->floats || scale_fits(f, m)) return true;
        if (first < 0) first = l;
    }
    if (first < 0) return false;
    m->layout = (fqi_quant_layout)first;
    m->form = fqi_quant_form_of(m->layout);
    return true;
}

/* Codes that config.json does not announce. */
static fq_status check_others(const finding_module *f, const fqi_tensor *codes, fq_err *e)
{
    unsigned known = 0;
    const char *expected = "another";
    fqi_where where;
    for (int l = 0; l < FQI_N_QL; l++)
        if (f->s->layouts & OF(l)) {
            known |= OF(l);
            expected = fqi_quant_form_of((fqi_quant_layout)l)->part[FQI_PART_CODES].suffix + 1;
        }
    for (int l = 0; l < FQI_N_QL; l++) {
        const fqi_quant_form *form = fqi_quant_form_of((fqi_quant_layout)l);
        const char *suffix = form->part[FQI_PART_CODES].suffix;
        bool shared = false;
        for (int k = 0; k < FQI_N_QL; k++) shared = shared || (known & OF(k) && strcmp(fqi_quant_form_of((fqi_quant_layout)k)->part[FQI_PART_CODES].suffix, suffix) == 0);
        if (shared || !has_codes(f, form, codes)) continue;
        return fqi_fail(e, FQ_E_INPUT, place_of(f, look(f, suffix), &where), "packed-parts", "found codes of %s, expected %s as config.json says", form->name, expected);
    }
    return FQ_OK;
}

bool fqi_quant_row(const fq_ckpt *c, size_t i, fqi_bound *out, int64_t length[2])
{
    size_t n_module;
    length[0] = length[1] = 0;
    if (!c->bound || !fqi_quant_is_codes(c, i, &n_module)) return false;
    *out = c->bound[i];
    if (!out->row && !(c->config.family && out->canonical && fqi_packed_bind(c->config.family, &c->naming, c->tensor[i].name, out) && out->row)) return false;
    for (int d = 0; d < 2 && out->row->rank == 2; d++) {
        length[d] = fqi_axis_length(&c->config.model, (fqi_axis)out->row->dim[d].axis);
        if (out->row->dim[d].parts > 1 && !fqi_mul_i64(length[d], out->row->dim[d].parts, &length[d])) length[d] = 0;
    }
    return true;
}

fq_status fqi_quant_module_find(const fq_ckpt *c, const scheme *s, size_t i, int64_t rows, int64_t cols, fqi_quant_module *out, fq_err *e)
{
    const fqi_tensor *codes = &c->tensor[i];
    finding_module f = { .c = c, .name = codes->name, .s = s };
    fqi_quant_module m = { .sym = s->sym && !s->varies, .zeros_v1 = s->zeros_v1, .size = { .rows = rows, .cols = cols } };
    fqi_where where;
    (void)place_of(&f, codes, &where);
    if (!fqi_quant_is_codes(c, i, &f.n_module)) return fqi_fail(e, FQ_E_INPUT, &where, "packed-parts", "found no codes, expected some");
    if (s->layouts == 0)
        return fqi_fail(e, FQ_E_INPUT, &where, "quantization-config", "found %s, expected quantization_config in config.json: without it no reader knows %s",
                        codes->name[f.n_module] && strcmp(codes->name + f.n_module, ".weight") != 0 ? "packed weights" : "a weight that has a scale",
                        codes->name[f.n_module] && strcmp(codes->name + f.n_module, ".weight") != 0 ? "their bits" : "what the scale is for");
    FQI_TRY(check_others(&f, codes, e));
    if (!choose(&f, codes, &m)) return fqi_fail(e, FQ_E_INPUT, &where, "packed-parts", "found codes of another form, expected what config.json says");
    const fqi_tensor *plain = look(&f, ".weight");
    if (plain && plain != codes) return fqi_fail(e, FQ_E_INPUT, &where, "packed-and-plain", "found a plain weight of the same module too, expected one of them");
    if (rows <= 0 || cols <= 0) return fqi_fail(e, FQ_E_INPUT, &where, "packed-shape", "found codes, expected none: config.json gives this module no rows or columns");
    take_sizes(s, &m);
    FQI_TRY(find_parts(&f, &m, e));
    *out = m;
    return FQ_OK;
}
