/* weights_find.c - from bound tensors to a table of what each layer needs and where it lies in a slot.
 *
 * Roles are the words of arch/family.h, so no family is named here. What is checked here is what everything behind relies on: that every
 * weight which the pass uses is there once, of its shape, and dense of a type that it computes with, or codes of a linear layer or the
 * output head that can be read. Codes stand in for the row of their module's weight. Other tensors of the folder (vision towers, rotary
 * buffers, biases that config.json does not announce, the head of a tied model) are left alone. */
#include "model/weights_table.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "checkpoint/packed.h"

#define CODE_UNIT 32   /* input channels that fill whole words, whatever their bits */
#define IN_LAYER(m) offsetof(fqi_layer_weights, m)
#define IN_EXPERT(m) offsetof(fqi_mlp_weights, m)

static const struct role { const char *name; uint8_t kind; bool of_expert; size_t member; } roles[] = {
    { "input_norm", FQI_WEIGHT_VECTOR, false, IN_LAYER(input_norm) },
    { "post_attention_norm", FQI_WEIGHT_VECTOR, false, IN_LAYER(post_attention_norm) },
    { "q_norm", FQI_WEIGHT_VECTOR, false, IN_LAYER(q_norm) },
    { "k_norm", FQI_WEIGHT_VECTOR, false, IN_LAYER(k_norm) },
    { "q_proj", FQI_WEIGHT_MATRIX, false, IN_LAYER(q) },
    { "k_proj", FQI_WEIGHT_MATRIX, false, IN_LAYER(k) },
    { "v_proj", FQI_WEIGHT_MATRIX, false, IN_LAYER(v) },
    { "o_proj", FQI_WEIGHT_MATRIX, false, IN_LAYER(o) },
    { "q_bias", FQI_WEIGHT_VECTOR, false, IN_LAYER(q_bias) },
    { "k_bias", FQI_WEIGHT_VECTOR, false, IN_LAYER(k_bias) },
    { "v_bias", FQI_WEIGHT_VECTOR, false, IN_LAYER(v_bias) },
    { "o_bias", FQI_WEIGHT_VECTOR, false, IN_LAYER(o_bias) },
    { "gate_proj", FQI_WEIGHT_MATRIX, false, IN_LAYER(mlp.gate) },
    { "up_proj", FQI_WEIGHT_MATRIX, false, IN_LAYER(mlp.up) },
    { "down_proj", FQI_WEIGHT_MATRIX, false, IN_LAYER(mlp.down) },
    { "gate_bias", FQI_WEIGHT_VECTOR, false, IN_LAYER(mlp.gate_bias) },
    { "up_bias", FQI_WEIGHT_VECTOR, false, IN_LAYER(mlp.up_bias) },
    { "down_bias", FQI_WEIGHT_VECTOR, false, IN_LAYER(mlp.down_bias) },
    { "router", FQI_WEIGHT_MATRIX, false, IN_LAYER(router) },
    { "expert_gate_proj", FQI_WEIGHT_MATRIX, true, IN_EXPERT(gate) },
    { "expert_up_proj", FQI_WEIGHT_MATRIX, true, IN_EXPERT(up) },
    { "expert_down_proj", FQI_WEIGHT_MATRIX, true, IN_EXPERT(down) },
    { "fused_gate_up_proj", FQI_WEIGHT_FUSED_GATE_UP, false, 0 },
    { "fused_down_proj", FQI_WEIGHT_FUSED_DOWN, false, 0 },
    { "shared_gate_proj", FQI_WEIGHT_MATRIX, false, IN_LAYER(shared.gate) },
    { "shared_up_proj", FQI_WEIGHT_MATRIX, false, IN_LAYER(shared.up) },
    { "shared_down_proj", FQI_WEIGHT_MATRIX, false, IN_LAYER(shared.down) },
    { "shared_expert_gate", FQI_WEIGHT_MATRIX, false, IN_LAYER(shared_gate) },
};

static const struct role *role_of(const char *name)
{
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(roles[i].name, name) == 0) return &roles[i];
    return NULL;
}

static uint64_t aligned(uint64_t n) { return (n + FQI_WEIGHTS_ALIGN - 1) / FQI_WEIGHTS_ALIGN * FQI_WEIGHTS_ALIGN; }

/* Not more than the tensor stores, or than it would if it were wider. */
static uint64_t held_bytes(const fqi_tensor *t, const fqi_cut *cut, fq_dtype served, bool as_float)
{
    const uint64_t n = (uint64_t)fqi_cut_length(cut, 0) * (uint64_t)fqi_cut_length(cut, 1) * (uint64_t)fqi_cut_length(cut, 2);
    return n * fq_dtype_bits(as_float ? FQ_DTYPE_F32 : fqi_weight_held((fq_dtype)t->dtype, served)) / 8;
}

/* A type that the pass computes with, and the shape that everything behind this file relies on. */
static fq_status check_tensor(const fq_ckpt *c, const fqi_decoder *d, size_t i, fq_err *e)
{
    const fqi_tensor *t = &c->tensor[i];
    const fqi_row *row = c->bound[i].row;
    const fqi_where *where = FQI_TENSOR(c->shard[t->shard].path, t->name);
    if (t->dtype != FQ_DTYPE_F32 && t->dtype != FQ_DTYPE_F16 && t->dtype != FQ_DTYPE_BF16)
        return fqi_fail(e, FQ_E_INPUT, where, "weight-dtype", "found %s, expected F32, F16 or BF16", fq_dtype_name((fq_dtype)t->dtype));
    if (t->rank != row->rank) return fqi_fail(e, FQ_E_INPUT, where, "weight-shape", "found %d dimensions, expected %d", t->rank, row->rank);
    for (int k = 0; k < t->rank; k++) {
        const int64_t parts = row->dim[k].parts > 1 ? row->dim[k].parts : 1;
        int64_t want;
        if (!fqi_mul_i64(fqi_axis_length(&d->model, (fqi_axis)row->dim[k].axis), parts, &want) || t->shape[k] != want)
            return fqi_fail(e, FQ_E_INPUT, where, "weight-shape", "found %" PRId64 " in dimension %d, expected %s%s", t->shape[k], k, parts > 1 ? "2 x " : "",
                            fqi_axis_name((fqi_axis)row->dim[k].axis));
    }
    return FQ_OK;
}

/* What is looked at: bound is the catalogue's, with a row for codes too. */
typedef struct finder { const fq_ckpt *c; const fqi_decoder *d; const fqi_slice *slice; fqi_bound *bound; size_t n_codes; fqi_quant_scheme scheme; } finder;

static bool is_codes(const fq_ckpt *c, size_t i)
{
    size_t n_module;
    return fqi_quant_is_codes(c, i, &n_module);
}

static fq_status bind_codes(finder *f, fq_err *e)
{
    const fq_ckpt *c = f->c;
    f->bound = fqi_calloc(c->n_tensor, sizeof *f->bound);
    if (!f->bound) return fqi_fail_nomem(e, "table of weights");
    memcpy(f->bound, c->bound, c->n_tensor * sizeof *f->bound);
    for (size_t i = 0; i < c->n_tensor; i++) {
        if (!f->bound[i].canonical || !is_codes(c, i)) continue;   /* canonical NULL: a name that the family does not know */
        if (f->bound[i].row || fqi_packed_bind(f->d->family, &c->naming, c->tensor[i].name, &f->bound[i])) f->n_codes++;
    }
    if (f->n_codes > 0 || f->d->model.quant == FQ_QUANT_NONE) return FQ_OK;
    char shown[FQI_NAME_MAX + 1];
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "quantization-config", "found no packed weights, expected some: config.json says that they are quantized with \"%s\"",
                    fqi_escape(shown, f->d->model.quant_name));
}

static fq_status refuse_part(const fq_ckpt *c, const fqi_tensor *t, size_t n_module, const char *expected, fq_err *e)
{
    char module[FQI_NAME_MAX + 1], part[FQI_NAME_MAX + 1];
    const char *suffix = t->name[n_module] ? t->name + n_module + 1 : "it";
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->shard[t->shard].path), "weight-quantized", "module %s: found %s in %s, expected %s", fqi_escape_n(module, t->name, n_module),
                    fqi_escape(part, suffix), fq_dtype_name((fq_dtype)t->dtype), expected);
}

/* Scales without codes, which belong to something that is not there. Scales of the KV cache stand beside dense weights and change none. */
static fq_status check_parts(const finder *f, fq_err *e)
{
    const fq_ckpt *c = f->c;
    fqi_packed p;
    char codes[1024];
    for (size_t i = 0; i < c->n_tensor; i++) {
        const fqi_tensor *t = &c->tensor[i];
        if (f->bound[i].row || !f->bound[i].canonical || !fqi_packed_split(t->name, &p) || strncmp(p.suffix, ".weight_", 8) != 0) continue;
        bool found = false;
        static const char *const name[] = { ".weight_packed", ".weight" };
        for (size_t k = 0; k < sizeof name / sizeof *name && !found; k++) {
            const int n = snprintf(codes, sizeof codes, "%.*s%s", (int)(p.n_module < sizeof codes ? p.n_module : sizeof codes), t->name, name[k]);
            found = n > 0 && (size_t)n < sizeof codes && fqi_ckpt_find(c, codes) != SIZE_MAX;
        }
        if (!found) return refuse_part(c, t, p.n_module, "a dense weight without it, or codes", e);
    }
    return FQ_OK;
}

/* The quantized module whose codes are tensor i; its number in *module. */
static fq_status add_module(const finder *f, size_t i, fqi_weights_table *t, size_t *module, fq_err *e)
{
    const fqi_tensor *codes = &f->c->tensor[i];
    const fqi_row *row = f->bound[i].row;
    const struct role *role = role_of(row->role);
    size_t n_module;
    int64_t length[2];
    (void)fqi_quant_is_codes(f->c, i, &n_module);
    if (row->rank == 3) return refuse_part(f->c, codes, n_module, "experts one by one: codes of all experts in one tensor are not read", e);
    if (row->rank != 2 || (row->scope != FQI_HEAD && (!role || role->kind != FQI_WEIGHT_MATRIX))) return refuse_part(f->c, codes, n_module, "a dense weight: only linear layers are codes", e);
    for (size_t k = 0; k < 2; k++) {
        length[k] = fqi_axis_length(&f->d->model, (fqi_axis)row->dim[k].axis);
        if (row->dim[k].parts > 1 && !fqi_mul_i64(length[k], row->dim[k].parts, &length[k])) length[k] = 0;
    }
    fqi_quant_module *m = &t->module[t->n_module];
    FQI_TRY(fqi_quant_module_find(f->c, &f->scheme, i, length[0], length[1], m, e));
    if (m->size.cols > t->module_cols) t->module_cols = m->size.cols;
    *module = t->n_module++;
    return FQ_OK;
}

/* fq_ckpt_check says the same with more words; here it keeps a caller who did not ask from a NULL. */
static fq_status check_complete(const finder *f, fq_err *e)
{
    const fqi_decoder *d = f->d;
    fqi_misfit miss;
    size_t n;
    char name[512], shown[FQI_NAME_MAX + 1];
    FQI_TRY(fqi_bind_check(d->family, &d->model, d->sparse, f->bound, f->c->n_tensor, &miss, 1, &n, e));
    if (n == 0) return FQ_OK;
    fqi_row_name(d->family, miss.row, miss.layer, miss.expert, name, sizeof name);
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(f->c->info.path), miss.kind == FQI_MISSING ? "weight-missing" : "weight-without-place",
                    miss.kind == FQI_MISSING ? "found no %s, expected one" : miss.kind == FQI_TWO_FORMS ? "found %s and experts one by one too, expected one form"
                                                                                                          : "found %s, which config.json has no place for",
                    fqi_escape(shown, name));
}

/* Is tensor i a weight of a layer that the pass uses? */
static const struct role *wanted(const finder *f, size_t i)
{
    const fqi_decoder *d = f->d;
    const fqi_bound *b = &f->bound[i];
    if (!b->row || b->layer < 0 || b->layer >= d->model.num_hidden_layers) return NULL;
    if (b->row->need != FQI_OPTIONAL && !fqi_row_expected(b->row, &d->model, b->layer, d->sparse)) return NULL;
    const struct role *r = role_of(b->row->role);
    if (r && r->of_expert && (b->expert < 0 || b->expert >= d->model.num_experts)) return NULL;
    return fqi_slice_has(f->slice, b->row, r && r->of_expert ? b->expert : -1) ? r : NULL;
}

/* By layer, and then as they lie in the files: each file is opened once for a layer and read forward. */
static int by_layer(const void *a, const void *b, void *of)
{
    const finder *f = of;
    const fq_ckpt *c = f->c;
    const fqi_weight_item *x = a, *y = b;
    const fqi_tensor *s = &c->tensor[x->tensor], *t = &c->tensor[y->tensor];
    int64_t i = f->bound[x->tensor].layer, j = f->bound[y->tensor].layer;
    if (i != j) return i < j ? -1 : 1;
    if (s->shard != t->shard) return s->shard < t->shard ? -1 : 1;
    return s->off < t->off ? -1 : s->off > t->off;
}

/* What of tensor i, or of the weight that its codes stand for, is held. Words of codes are not cut. */
static fq_status cut(const finder *f, size_t i, const fqi_quant_module *q, fqi_cut *out, fq_err *e)
{
    const fq_ckpt *c = f->c;
    const fqi_tensor *t = &c->tensor[i];
    const int64_t weight[2] = { q ? q->size.rows : 0, q ? q->size.cols : 0 };
    fqi_cut_make(f->slice, f->bound[i].row, q ? weight : t->shape, out);
    if (!q || q->form->floats || out->dim[1].n == out->whole[1]) return FQ_OK;
    if (out->dim[1].first % CODE_UNIT == 0 && (out->dim[1].n % CODE_UNIT == 0 || f->slice->rank == f->slice->size - 1)) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->shard[t->shard].path, t->name), "ranks", "found %" PRId64 " input channels for each of %d ranks, expected a multiple of %d; `fitq plan` says what makes it fit",
                    out->dim[1].n, f->slice->size, CODE_UNIT);
}

static fq_status collect(finder *f, fqi_weights_table *t, fq_err *e)
{
    const fq_ckpt *c = f->c;
    t->item = fqi_calloc(c->n_tensor, sizeof *t->item);
    t->first = fqi_calloc((size_t)f->d->model.num_hidden_layers + 1, sizeof *t->first);
    if (!t->item || !t->first) return fqi_fail_nomem(e, "table of weights");
    for (size_t i = 0; i < c->n_tensor; i++) {
        const struct role *r = wanted(f, i);
        size_t module = FQI_NO_MODULE;
        if (!r) continue;
        FQI_TRY(is_codes(c, i) ? add_module(f, i, t, &module, e) : check_tensor(c, f->d, i, e));
        fqi_weight_item *x = &t->item[t->n_item++];
        *x = (fqi_weight_item){ .tensor = (uint32_t)i, .module = module, .kind = r->kind, .of_expert = r->of_expert, .member = r->member, .expert = (int32_t)f->bound[i].expert };
        FQI_TRY(cut(f, i, fqi_weight_module(t, module), &x->cut, e));
    }
    qsort_r(t->item, t->n_item, sizeof *t->item, by_layer, f);
    return FQ_OK;
}

static bool item_bytes(const fq_ckpt *c, const fqi_weights_table *t, const fqi_weight_item *x, fq_dtype served, uint64_t *out)
{
    const fqi_quant_module *q = fqi_weight_module(t, x->module);
    *out = q ? 0 : held_bytes(&c->tensor[x->tensor], &x->cut, served, x->kind == FQI_WEIGHT_VECTOR);
    return !q || (fqi_mul_u64((uint64_t)x->cut.dim[0].n, (uint64_t)x->cut.dim[1].n, out) && fqi_mul_u64(*out, fq_dtype_bits(fqi_weight_held(FQ_DTYPE_F32, served)) / 8, out));
}

/* Places in the slot, and where each layer's items begin. */
static fq_status place(const finder *f, fq_dtype served, fqi_weights_table *t, fq_err *e)
{
    const size_t n_layer = (size_t)f->d->model.num_hidden_layers;
    size_t i = 0;
    for (size_t l = 0; l < n_layer; l++) {
        uint64_t at = 0;
        t->first[l] = i;
        for (; i < t->n_item && f->bound[t->item[i].tensor].layer == (int64_t)l; i++) {
            fqi_weight_item *x = &t->item[i];
            x->at = at;
            if (!item_bytes(f->c, t, x, served, &x->bytes) || x->bytes > SIZE_MAX / 2 || !fqi_add_u64(at, aligned(x->bytes), &at) || at > SIZE_MAX / 2)
                return fqi_fail_nomem(e, "weights of a layer");
        }
        if (at > t->slot_bytes) t->slot_bytes = at;
    }
    t->first[n_layer] = i;
    return FQ_OK;
}

static fq_status find_body(const finder *f, fq_dtype served, fqi_weights_table *t, fq_err *e)
{
    const fq_ckpt *c = f->c;
    const struct { const char *role; size_t *out; fqi_cut *cut; } want[] = { { "embed_tokens", &t->embed, &t->embed_cut }, { "norm", &t->norm, &t->norm_cut }, { "lm_head", &t->head, &t->head_cut } };
    const size_t n_want = f->d->model.tie_word_embeddings ? 2 : 3;
    t->head_module = FQI_NO_MODULE;
    for (size_t k = 0; k < n_want; k++) {
        *want[k].out = SIZE_MAX;
        for (size_t i = 0; i < c->n_tensor; i++)
            if (f->bound[i].row && strcmp(f->bound[i].row->role, want[k].role) == 0) *want[k].out = i;
        if (*want[k].out == SIZE_MAX)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "weight-missing", "found no %s, expected one", want[k].role);
        FQI_TRY(is_codes(c, *want[k].out) ? add_module(f, *want[k].out, t, &t->head_module, e) : check_tensor(c, f->d, *want[k].out, e));
        FQI_TRY(cut(f, *want[k].out, k == 2 ? fqi_weight_module(t, t->head_module) : NULL, want[k].cut, e));
    }
    if (f->d->model.tie_word_embeddings) {   /* as transformers does, whatever else is stored */
        t->head = t->embed;
        t->head_cut = t->embed_cut;
    }
    const fqi_tensor *h = &c->tensor[t->head];
    const fqi_quant_module *q = fqi_weight_module(t, t->head_module);
    t->head_row_bytes = (uint64_t)(q ? q->size.cols : h->shape[1]) * fq_dtype_bits(fqi_weight_held(q ? FQ_DTYPE_F32 : (fq_dtype)h->dtype, served)) / 8;
    return FQ_OK;
}

static void measure_tensor(const fqi_tensor *x, fqi_weights_table *t, uint64_t *largest)
{
    if (!x) return;
    if (x->bytes > *largest) *largest = x->bytes;
    t->gathers = t->gathers || x->stride || x->byteswap;
}

/* Small models need small buffers. */
static void measure_chunk(const fq_ckpt *c, fqi_weights_table *t)
{
    uint64_t largest = 0, unused = 0;
    measure_tensor(&c->tensor[t->head], t, &largest);
    measure_tensor(&c->tensor[t->embed], t, &unused);
    measure_tensor(&c->tensor[t->norm], t, &unused);
    for (size_t i = 0; i < t->n_item; i++) {
        measure_tensor(&c->tensor[t->item[i].tensor], t, &largest);
        t->gathers = t->gathers || (t->item[i].module == FQI_NO_MODULE && fqi_cut_inner(&t->item[i].cut));
    }
    for (size_t i = 0; i < t->n_module; i++) {
        const fqi_quant_module *q = &t->module[i];
        for (size_t k = 0; k < FQI_N_PART; k++) measure_tensor(q->part[k], t, &largest);
    }
    t->chunk = largest < FQI_WEIGHTS_CHUNK ? ((size_t)largest + FQI_IO_ALIGN - 1) / FQI_IO_ALIGN * FQI_IO_ALIGN : FQI_WEIGHTS_CHUNK;
}

void fqi_weights_table_free(fqi_weights_table *t)
{
    free(t->item);
    free(t->first);
    free(t->module);
    *t = (fqi_weights_table){ 0 };
}

static fq_status find_all(finder *f, fq_dtype served, fqi_weights_table *t, fq_err *e)
{
    FQI_TRY(fqi_quant_scheme_read(f->c, &f->scheme, e));
    FQI_TRY(bind_codes(f, e));
    FQI_TRY(check_parts(f, e));
    FQI_TRY(check_complete(f, e));
    t->module = fqi_calloc(f->n_codes, sizeof *t->module);
    if (!t->module) return fqi_fail_nomem(e, "table of weights");
    FQI_TRY(find_body(f, served, t, e));
    FQI_TRY(collect(f, t, e));
    return place(f, served, t, e);
}

fq_status fqi_weights_find(const fq_ckpt *c, const fqi_decoder *d, const fqi_slice *slice, fq_dtype served, fqi_weights_table *out, fq_err *e)
{
    fqi_weights_table t = { 0 };
    finder f = { .c = c, .d = d, .slice = slice };
    if (!c->bound) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "unknown-family", "found a checkpoint of an unknown family, expected a known one");
    const fq_status s = find_all(&f, served, &t, e);
    free(f.bound);
    if (s != FQ_OK) {
        fqi_weights_table_free(&t);
        return s;
    }
    measure_chunk(c, &t);
    /* The table of experts lies behind the weights of its slot. */
    t.slot_bytes += aligned((uint64_t)d->model.num_experts * sizeof(fqi_mlp_weights)) + FQI_WEIGHTS_ALIGN;
    *out = t;
    return FQ_OK;
}
