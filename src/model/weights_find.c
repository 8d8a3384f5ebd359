/* weights_find.c - from bound tensors to a table of what each layer needs and where it lies in a slot.
 *
 * Roles are the words of arch/family.h, so no family is named here. What is checked here is what everything behind relies on: that every
 * weight which the pass uses is there once, dense, of its shape, and of a type that it computes with. Other tensors of the folder (vision
 * towers, rotary buffers, biases that config.json does not announce, the head of a tied model) are left alone. */
#include "model/weights_table.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "checkpoint/packed.h"

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

static uint64_t held_bytes(const fqi_tensor *t, fq_dtype served, bool as_float)
{
    uint64_t n = t->bytes / (fq_dtype_bits((fq_dtype)t->dtype) / 8);
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

/* Codes or scales of a linear layer: its numbers are not read yet. Scales of the KV cache stand beside dense weights. */
static fq_status check_dense(const fq_ckpt *c, fq_err *e)
{
    size_t found = SIZE_MAX;
    fqi_packed p, first = { 0 };
    for (size_t i = 0; i < c->n_tensor && (found == SIZE_MAX || first.part != FQI_PART_CODES); i++) {
        if (c->bound[i].row || c->bound[i].layer < 0 || !fqi_packed_split(c->tensor[i].name, &p)) continue;
        if (p.part != FQI_PART_CODES && (found != SIZE_MAX || strncmp(p.suffix, ".weight_", 8) != 0)) continue;
        found = i;
        first = p;
    }
    if (found == SIZE_MAX) return FQ_OK;
    const fqi_tensor *t = &c->tensor[found];
    char module[FQI_NAME_MAX + 1], raw[FQI_NAME_MAX + 1];
    (void)snprintf(raw, sizeof raw, "%.*s", (int)(first.n_module < FQI_NAME_MAX ? first.n_module : FQI_NAME_MAX), t->name);
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->shard[t->shard].path), "weight-quantized",
                    "module %s: found %s in %s, expected a dense weight: quantized weights are not run yet", fqi_escape(module, raw), first.suffix + 1,
                    fq_dtype_name((fq_dtype)t->dtype));
}

/* fq_ckpt_check says the same with more words; here it keeps a caller who did not ask from a NULL. */
static fq_status check_complete(const fq_ckpt *c, const fqi_decoder *d, fq_err *e)
{
    fqi_misfit miss;
    size_t n;
    char name[512], shown[FQI_NAME_MAX + 1];
    FQI_TRY(fqi_bind_check(d->family, &d->model, d->sparse, c->bound, c->n_tensor, &miss, 1, &n, e));
    if (n == 0) return FQ_OK;
    fqi_row_name(d->family, miss.row, miss.layer, miss.expert, name, sizeof name);
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), miss.kind == FQI_MISSING ? "weight-missing" : "weight-without-place",
                    miss.kind == FQI_MISSING ? "found no %s, expected one" : miss.kind == FQI_TWO_FORMS ? "found %s and experts one by one too, expected one form"
                                                                                                          : "found %s, which config.json has no place for",
                    fqi_escape(shown, name));
}

/* Is tensor i a weight of a layer that the pass uses? */
static const struct role *wanted(const fq_ckpt *c, const fqi_decoder *d, size_t i)
{
    const fqi_bound *b = &c->bound[i];
    if (!b->row || b->layer < 0 || b->layer >= d->model.num_hidden_layers) return NULL;
    if (b->row->need != FQI_OPTIONAL && !fqi_row_expected(b->row, &d->model, b->layer, d->sparse)) return NULL;
    const struct role *r = role_of(b->row->role);
    return r && r->of_expert && (b->expert < 0 || b->expert >= d->model.num_experts) ? NULL : r;
}

/* By layer, and then as they lie in the files: each file is opened once for a layer and read forward. */
static int by_layer(const void *a, const void *b, void *ckpt)
{
    const fq_ckpt *c = ckpt;
    const fqi_weight_item *x = a, *y = b;
    const fqi_tensor *s = &c->tensor[x->tensor], *t = &c->tensor[y->tensor];
    int64_t i = c->bound[x->tensor].layer, j = c->bound[y->tensor].layer;
    if (i != j) return i < j ? -1 : 1;
    if (s->shard != t->shard) return s->shard < t->shard ? -1 : 1;
    return s->off < t->off ? -1 : s->off > t->off;
}

static fq_status collect(const fq_ckpt *c, const fqi_decoder *d, fqi_weights_table *t, fq_err *e)
{
    t->item = fqi_calloc(c->n_tensor, sizeof *t->item);
    t->first = fqi_calloc((size_t)d->model.num_hidden_layers + 1, sizeof *t->first);
    if (!t->item || !t->first) return fqi_fail_nomem(e, "table of weights");
    for (size_t i = 0; i < c->n_tensor; i++) {
        const struct role *r = wanted(c, d, i);
        if (!r) continue;
        FQI_TRY(check_tensor(c, d, i, e));
        t->item[t->n_item++] = (fqi_weight_item){ .tensor = (uint32_t)i, .kind = r->kind, .of_expert = r->of_expert, .member = r->member,
                                                  .expert = (int32_t)c->bound[i].expert };
    }
    qsort_r(t->item, t->n_item, sizeof *t->item, by_layer, (void *)(uintptr_t)c);
    return FQ_OK;
}

/* Places in the slot, and where each layer's items begin. */
static fq_status place(const fq_ckpt *c, const fqi_decoder *d, fq_dtype served, fqi_weights_table *t, fq_err *e)
{
    const size_t n_layer = (size_t)d->model.num_hidden_layers;
    size_t i = 0;
    for (size_t l = 0; l < n_layer; l++) {
        uint64_t at = 0;
        t->first[l] = i;
        for (; i < t->n_item && c->bound[t->item[i].tensor].layer == (int64_t)l; i++) {
            fqi_weight_item *x = &t->item[i];
            x->at = at;
            x->bytes = held_bytes(&c->tensor[x->tensor], served, x->kind == FQI_WEIGHT_VECTOR);
            if (!fqi_add_u64(at, aligned(x->bytes), &at) || at > SIZE_MAX / 2) return fqi_fail_nomem(e, "weights of a layer");
        }
        if (at > t->slot_bytes) t->slot_bytes = at;
    }
    t->first[n_layer] = i;
    return FQ_OK;
}

static fq_status find_body(const fq_ckpt *c, const fqi_decoder *d, fq_dtype served, fqi_weights_table *t, fq_err *e)
{
    const struct { const char *role; size_t *out; } want[] = { { "embed_tokens", &t->embed }, { "norm", &t->norm }, { "lm_head", &t->head } };
    const size_t n_want = d->model.tie_word_embeddings ? 2 : 3;
    for (size_t k = 0; k < n_want; k++) {
        *want[k].out = SIZE_MAX;
        for (size_t i = 0; i < c->n_tensor; i++)
            if (c->bound[i].row && strcmp(c->bound[i].row->role, want[k].role) == 0) *want[k].out = i;
        if (*want[k].out == SIZE_MAX)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "weight-missing", "found no %s, expected one", want[k].role);
        FQI_TRY(check_tensor(c, d, *want[k].out, e));
    }
    if (d->model.tie_word_embeddings) t->head = t->embed;   /* as transformers does, whatever else is stored */
    const fqi_tensor *h = &c->tensor[t->head];
    t->head_row_bytes = (uint64_t)h->shape[1] * fq_dtype_bits(fqi_weight_held((fq_dtype)h->dtype, served)) / 8;
    return FQ_OK;
}

/* Small models need small buffers. */
static void measure_chunk(const fq_ckpt *c, fqi_weights_table *t)
{
    uint64_t largest = c->tensor[t->head].bytes;
    const size_t body[] = { t->embed, t->norm, t->head };
    for (size_t i = 0; i < sizeof body / sizeof *body; i++) t->gathers = t->gathers || c->tensor[body[i]].stride || c->tensor[body[i]].byteswap;
    for (size_t i = 0; i < t->n_item; i++) {
        const fqi_tensor *x = &c->tensor[t->item[i].tensor];
        if (x->bytes > largest) largest = x->bytes;
        t->gathers = t->gathers || x->stride || x->byteswap;
    }
    t->chunk = largest < FQI_WEIGHTS_CHUNK ? ((size_t)largest + FQI_IO_ALIGN - 1) / FQI_IO_ALIGN * FQI_IO_ALIGN : FQI_WEIGHTS_CHUNK;
}

void fqi_weights_table_free(fqi_weights_table *t)
{
    free(t->item);
    free(t->first);
    *t = (fqi_weights_table){ 0 };
}

fq_status fqi_weights_find(const fq_ckpt *c, const fqi_decoder *d, fq_dtype served, fqi_weights_table *out, fq_err *e)
{
    fqi_weights_table t = { 0 };
    if (!c->bound) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "unknown-family", "found a checkpoint of an unknown family, expected a known one");
    FQI_TRY(check_dense(c, e));
    FQI_TRY(check_complete(c, d, e));
    fq_status s = find_body(c, d, served, &t, e);
    if (s == FQ_OK) s = collect(c, d, &t, e);
    if (s == FQ_OK) s = place(c, d, served, &t, e);
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
