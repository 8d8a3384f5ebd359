/* quantized.c - config.json and the headers of a quantized module, held against each other. See quantized.h.
 *
 * Bits and group size are told twice, by config.json and by the shapes. Where config.json has one rule for all modules both must agree. Where
 * it has rules for single modules (GPTQModel's "dynamic", several config_groups) the shapes decide: each length gives one number of
 * bits and one group size, and no regular expression has to be understood as its author's program does.
 *
 * Refused: other methods and formats; activations that are quantized too (another model than the weights alone); groups that do not divide
 * the input channels (readers disagree about the last one). Sources: GPTQModel quantization/config.py, nn_modules/qlinear/__init__.py;
 * AutoGPTQ quantization/config.py; compressed-tensors compressors/pack_quantized, quantization/{quant_args,quant_scheme}.py. */
#include "checkpoint/quantized.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"

#define NAME_MAX_BYTES 1024   /* a longer name is in no family table */
#define SAYS "expected gptq, compressed-tensors (pack-quantized), or no quantization"

typedef struct scheme {
    fqi_quant_layout layout;
    int bits;
    int64_t group_size;       /* -1: one group */
    bool sym, zeros_v1, order;
    bool varies;              /* the four above are those of some modules only: shapes tell */
} scheme;

/* ---- config.json ---- */

static const json_t *not_null(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return v && !json_is_null(v) ? v : NULL;
}

static fq_status refuse(const fq_ckpt *c, const char *key, const json_t *found, const char *expected, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    const char *text = json_is_string(found) ? fqi_escape(shown, json_string_value(found)) : json_is_object(found) || json_is_array(found) ? "settings" : found ? "another type" : "nothing";
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "quantized", "quantization_config: %s: found %s, expected %s", key, text, expected);
}

static bool is_text(const json_t *v, const char *text) { return json_is_string(v) && strcmp(json_string_value(v), text) == 0; }

static fq_status read_gptq(const fq_ckpt *c, const json_t *q, scheme *s, fq_err *e)
{
    static const char *const key[] = { "checkpoint_format", "format" };
    const json_t *first = NULL, *marlin = not_null(q, "is_marlin_format"), *pack = not_null(q, "pack_dtype");
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

static fq_status check_ct_group(const fq_ckpt *c, const json_t *q, const json_t *group, fq_err *e)
{
    const json_t *w = not_null(group, "weights"), *type = not_null(w, "type"), *strategy = not_null(w, "strategy");
    const json_t *format = not_null(group, "format") ? not_null(group, "format") : not_null(q, "format");
    if (!is_text(format, "pack-quantized")) return refuse(c, "format", format, "pack-quantized", e);
    if (type && !is_text(type, "int")) return refuse(c, "type", type, "int", e);
    if (strategy && !is_text(strategy, "group") && !is_text(strategy, "channel")) return refuse(c, "strategy", strategy, "group or channel", e);
    if (not_null(group, "input_activations")) return refuse(c, "input_activations", not_null(group, "input_activations"), "null: weights only", e);
    if (not_null(group, "output_activations")) return refuse(c, "output_activations", not_null(group, "output_activations"), "null: weights only", e);
    return FQ_OK;
}

static fq_status read_ct(const fq_ckpt *c, const json_t *q, scheme *s, fq_err *e)
{
    const char *key;
    const json_t *group, *transform = not_null(not_null(q, "transform_config"), "config_groups");
    size_t n = 0;
    json_object_foreach((json_t *)(uintptr_t)not_null(q, "config_groups"), key, group) {
        if (!not_null(group, "weights")) continue;
        FQI_TRY(check_ct_group(c, q, group, e));
        n++;
    }
    s->varies = n > 1;
    if (json_object_size(transform) > 0) return refuse(c, "transform_config", transform, "none: rotations at run time are not done", e);
    return FQ_OK;
}

static fq_status read_scheme(const fq_ckpt *c, scheme *s, fq_err *e)
{
    const fq_model *m = &c->config.model;
    const json_t *q = fqi_config_quant(&c->config);
    char shown[FQI_NAME_MAX + 1];
    *s = (scheme){ .bits = m->quant_bits, .group_size = m->quant_group_size, .sym = m->quant_sym, .order = m->quant_desc_act };
    switch (m->quant) {
    case FQ_QUANT_GPTQ:
        s->layout = FQI_QL_GPTQ;
        FQI_TRY(read_gptq(c, q, s, e));
        break;
    case FQ_QUANT_COMPRESSED_TENSORS:
        s->layout = FQI_QL_CT;
        FQI_TRY(read_ct(c, q, s, e));
        break;
    case FQ_QUANT_NONE: case FQ_QUANT_AWQ: case FQ_QUANT_FP8: case FQ_QUANT_OTHER:
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "quantized", "found weights quantized with \"%s\", " SAYS, fqi_escape(shown, m->quant_name));
    }
    if (!s->varies && s->bits != 2 && s->bits != 3 && s->bits != 4 && s->bits != 8)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "quantized", "found %d bits, expected 2, 3, 4 or 8", s->bits);
    return FQ_OK;
}

fq_status fqi_quant_check(const fq_ckpt *c, fq_err *e)
{
    scheme s;
    return !c->has_config || c->config.model.quant == FQ_QUANT_NONE ? FQ_OK : read_scheme(c, &s, e);
}

/* ---- parts ---- */

/* One tensor of a module: what it must be. Lengths of -1 are not known before it is seen. */
typedef struct want {
    const char *suffix;
    unsigned dtypes;          /* 1 << fq_dtype, or'ed */
    int rank;
    int64_t length[2];
    const char *why;          /* of a length, in a message */
    bool optional;
} want;

#define BIT(d) (1u << FQ_DTYPE_##d)
#define WORDS BIT(I32)
#define FLOATS (BIT(F16) | BIT(BF16) | BIT(F32))

typedef struct finding_module { const fq_ckpt *c; const char *name; size_t n_module; } finding_module;

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

static fq_status part(const finding_module *f, const want *w, const fqi_tensor **out, fq_err *e)
{
    const fqi_tensor *t = *out = look(f, w->suffix);
    char shown[FQI_NAME_MAX + 1];
    if (!t && w->optional) return FQ_OK;
    if (!t)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(f->c->info.path), "packed-parts", "module %s: found no %s, expected one", fqi_escape_n(shown, f->name, f->n_module), w->suffix + 1);
    const fqi_where *where = FQI_TENSOR(f->c->shard[t->shard].path, t->name);
    if (t->dtype >= 32 || !(w->dtypes & 1u << t->dtype))
        return fqi_fail(e, FQ_E_INPUT, where, "packed-dtype", "found %s, expected %s", fq_dtype_name((fq_dtype)t->dtype),
                        w->dtypes == FLOATS ? "F16, BF16 or F32" : w->dtypes == WORDS ? "I32" : "I64 or I32");
    if (t->rank != w->rank) return fqi_fail(e, FQ_E_INPUT, where, "packed-shape", "found %d dimensions, expected %d", t->rank, w->rank);
    for (int d = 0; d < w->rank; d++)
        if (w->length[d] >= 0 && t->shape[d] != w->length[d])
            return fqi_fail(e, FQ_E_INPUT, where, "packed-shape", "found %" PRId64 " in dimension %d, expected %" PRId64 " (%s)", t->shape[d], d, w->length[d], w->why);
    return FQ_OK;
}

static int64_t words(int64_t n, int bits) { return n / 32 * bits + (n % 32 * bits + 31) / 32; }   /* n < 2^56: fqi_axis_length */

/* What the shapes say, where config.json has rules for single modules. */
static fq_status take_bits(const finding_module *f, const fqi_tensor *codes, int d, int64_t n, fqi_quant_module *m, fq_err *e)
{
    static const int known[] = { 2, 3, 4, 8 };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (words(n, known[i]) != codes->shape[d]) continue;
        m->bits = known[i];
        return FQ_OK;
    }
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(f->c->shard[codes->shard].path, codes->name), "packed-bits",
                    "found %" PRId64 " in dimension %d, expected %" PRId64 " codes of 2, 3, 4 or 8 bits", codes->shape[d], d, n);
}

static fq_status take_group(const finding_module *f, const scheme *s, const fqi_tensor *scale, int d, fqi_quant_module *m, fq_err *e)
{
    const int64_t n = scale->shape[d];
    const fqi_where *where = FQI_TENSOR(f->c->shard[scale->shard].path, scale->name);
    if (!s->varies) {
        m->group_size = s->group_size > 0 ? s->group_size : m->cols;
        if (m->cols % m->group_size != 0)
            return fqi_fail(e, FQ_E_INPUT, where, "packed-group", "found groups of %" PRId64 ", expected a divisor of the %" PRId64 " input channels", m->group_size, m->cols);
        if (n != m->cols / m->group_size)
            return fqi_fail(e, FQ_E_INPUT, where, "packed-group", "found %" PRId64 " in dimension %d, expected %" PRId64 " (%" PRId64 " input channels in groups of %" PRId64 ")", n, d,
                            m->cols / m->group_size, m->cols, m->group_size);
        return FQ_OK;
    }
    if (n <= 0 || m->cols % n != 0)
        return fqi_fail(e, FQ_E_INPUT, where, "packed-group", "found %" PRId64 " in dimension %d, expected a divisor of the %" PRId64 " input channels", n, d, m->cols);
    m->group_size = m->cols / n;
    return FQ_OK;
}

static fq_status find_gptq(const finding_module *f, const scheme *s, fqi_quant_module *m, fq_err *e)
{
    const int64_t N = m->rows, K = m->cols;
    const want codes = { .suffix = ".qweight", .dtypes = WORDS, .rank = 2, .length = { s->varies ? -1 : words(K, s->bits), N }, .why = "input channels, packed, x output channels" };
    FQI_TRY(part(f, &codes, &m->codes, e));
    if (s->varies) FQI_TRY(take_bits(f, m->codes, 0, K, m, e));
    const want scale = { .suffix = ".scales", .dtypes = FLOATS, .rank = 2, .length = { -1, N }, .why = "groups x output channels" };
    FQI_TRY(part(f, &scale, &m->scale, e));
    FQI_TRY(take_group(f, s, m->scale, 0, m, e));
    const want zero = { .suffix = ".qzeros", .dtypes = WORDS, .rank = 2, .length = { K / m->group_size, words(N, m->bits) }, .why = "groups x output channels, packed" };
    FQI_TRY(part(f, &zero, &m->zero, e));
    const want order = { .suffix = ".g_idx", .dtypes = WORDS, .rank = 1, .length = { K }, .why = "input channels", .optional = !s->order || m->group_size == K };
    m->zeros_v1 = s->zeros_v1;
    return part(f, &order, &m->order, e);
}

static fq_status find_ct(const finding_module *f, const scheme *s, fqi_quant_module *m, fq_err *e)
{
    const int64_t N = m->rows, K = m->cols;
    const want codes = { .suffix = ".weight_packed", .dtypes = WORDS, .rank = 2, .length = { N, s->varies ? -1 : words(K, s->bits) }, .why = "output channels x input channels, packed" };
    FQI_TRY(part(f, &codes, &m->codes, e));
    if (s->varies) FQI_TRY(take_bits(f, m->codes, 1, K, m, e));
    const want scale = { .suffix = ".weight_scale", .dtypes = FLOATS, .rank = 2, .length = { N, -1 }, .why = "output channels x groups" };
    FQI_TRY(part(f, &scale, &m->scale, e));
    FQI_TRY(take_group(f, s, m->scale, 1, m, e));
    const want zero = { .suffix = ".weight_zero_point", .dtypes = WORDS, .rank = 2, .length = { words(N, m->bits), K / m->group_size }, .why = "output channels, packed, x groups",
                        .optional = s->sym || s->varies };
    FQI_TRY(part(f, &zero, &m->zero, e));
    if (s->varies) m->sym = !m->zero;
    const want order = { .suffix = ".weight_g_idx", .dtypes = WORDS, .rank = 1, .length = { K }, .why = "input channels", .optional = !s->order || s->varies || m->group_size == K };
    FQI_TRY(part(f, &order, &m->order, e));
    const want shape = { .suffix = ".weight_shape", .dtypes = BIT(I64) | BIT(I32), .rank = 1, .length = { 2 }, .why = "rows and columns" };
    return part(f, &shape, &m->shape, e);
}

fq_status fqi_quant_module_find(const fq_ckpt *c, const char *name, int64_t rows, int64_t cols, bool *found, fqi_quant_module *out, fq_err *e)
{
    static const char plain[] = ".weight";
    const size_t n = strlen(name);
    scheme s;
    *found = false;
    if (n <= sizeof plain - 1 || strcmp(name + n - (sizeof plain - 1), plain) != 0) return FQ_OK;
    const finding_module f = { c, name, n - (sizeof plain - 1) };
    const bool ct = look(&f, ".weight_packed") != NULL;
    const fqi_tensor *codes = look(&f, ct ? ".weight_packed" : ".qweight");
    if (!codes) return FQ_OK;
    const fqi_where *where = FQI_TENSOR(c->shard[codes->shard].path, codes->name);
    if (!c->has_config || c->config.model.quant == FQ_QUANT_NONE)
        return fqi_fail(e, FQ_E_INPUT, where, "quantization-config", "found packed weights, expected quantization_config in config.json: without it no reader knows their bits");
    FQI_TRY(read_scheme(c, &s, e));
    if (ct != (s.layout == FQI_QL_CT))
        return fqi_fail(e, FQ_E_INPUT, where, "packed-parts", "found codes of %s, expected %s as config.json says", ct ? "compressed-tensors" : "gptq", ct ? "qweight" : "weight_packed");
    if (look(&f, plain)) return fqi_fail(e, FQ_E_INPUT, where, "packed-and-plain", "found a plain weight of the same module too, expected one of them");
    if (rows <= 0 || cols <= 0) return fqi_fail(e, FQ_E_INPUT, where, "packed-shape", "found codes, expected none: config.json gives this module no rows or columns");
    fqi_quant_module m = { .layout = s.layout, .bits = s.bits, .sym = s.sym && !s.varies, .rows = rows, .cols = cols };
    FQI_TRY(ct ? find_ct(&f, &s, &m, e) : find_gptq(&f, &s, &m, e));
    *found = true;
    *out = m;
    return FQ_OK;
}
