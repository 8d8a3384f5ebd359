/* adapter_maps.c - which map each dimension of an adapter's tensors goes by. See adapter.h.
 *
 * fitq.order, where there is one, says the order of the channels of each MLP; of those fitq.json's map of the width is not the whole truth and is not
 * used. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "format/safetensors.h"
#include "job/adapter.h"
#include "job/outdir.h"

#define MAX_ORDER_HEADER ((uint64_t)64 << 20)

/* ---- fitq.order ---- */

static fq_status order_error(const char *path, const char *found, fq_err *e)
{
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "fitq-order", "found %s, expected the order of the channels of each MLP as fitq wrote it", found);
}

/* Slots -> a map, and the way back. */
static fq_status make_order(const int32_t *slot, int64_t n, int64_t n_real, const char *path, fqi_lora_order *x, fq_err *e)
{
    fq_err why;
    x->map[0] = (fqi_map){ .n_old = n_real };
    for (int64_t i = 0; i < n; i++) {
        if (slot[i] < -1 || slot[i] >= n_real) return order_error(path, "a channel out of range", e);
        if (!fqi_map_append(&x->map[0], slot[i], 1)) return fqi_fail_nomem(e, "order of channels");
    }
    const fq_status s = fqi_map_inverse(&x->map[0], &x->map[1], &why);
    return s == FQ_E_INPUT ? order_error(path, "a channel in no slot", e) : s == FQ_OK ? FQ_OK : fqi_fail_nomem(e, "order of channels");
}

static fq_status read_order(fqi_lora *l, const fqi_file *f, const fqi_tensor *t, fq_err *e)
{
    static const char tail[] = ".channels", weight[] = ".weight";
    static const fqi_naming bare = { .usual = true };
    char name[FQI_LORA_NAME_MAX];
    fqi_lora_order *x = &l->order[l->n_order];
    fqi_bound b;
    const size_t n = strlen(t->name), n_module = n - (sizeof tail - 1);
    if (n < sizeof tail || n_module + sizeof weight > sizeof name || strcmp(t->name + n_module, tail) != 0) return order_error(f->path, "another tensor", e);
    memcpy(name, t->name, n_module);
    memcpy(name + n_module, weight, sizeof weight);
    if (t->rank != 1 || t->dtype != FQ_DTYPE_I32 || !fqi_bind_name(l->source.family, &bare, name, &b) || !b.row || b.row->rank != 2)
        return order_error(f->path, "another tensor", e);
    *x = (fqi_lora_order){ .layer = b.layer, .expert = b.expert, .axis = b.row->dim[1].axis };
    int32_t *slot = fqi_calloc((size_t)t->shape[0] + 1, sizeof *slot);
    if (!slot) return fqi_fail_nomem(e, "order of channels");
    fq_status s = fqi_file_read(f, slot, (size_t)t->bytes, t->off, e);
    if (s == FQ_OK) s = make_order(slot, t->shape[0], fqi_axis_length(&l->source.model, (fqi_axis)x->axis), f->path, x, e);
    l->n_order++;
    free(slot);
    return s;
}

static fq_status read_orders(fqi_lora *l, const fqi_file *f, fq_err *e)
{
    unsigned char first8[8];
    uint64_t n;
    fqi_st_header h = { 0 };
    if (f->bytes < sizeof first8) return order_error(f->path, "a file that is cut", e);
    FQI_TRY(fqi_file_read(f, first8, sizeof first8, 0, e));
    FQI_TRY(fqi_st_length(first8, f->bytes, f->path, &n, e));
    if (n > MAX_ORDER_HEADER) return order_error(f->path, "a header of over 64 MiB", e);
    char *text = malloc((size_t)n + 1);
    if (!text) return fqi_fail_nomem(e, "order of channels");
    fq_status s = fqi_file_read(f, text, (size_t)n, sizeof first8, e);
    if (s == FQ_OK) s = fqi_st_parse(text, (size_t)n, f->bytes, f->path, &h, e);
    if (s == FQ_OK && !(l->order = fqi_calloc(h.n_tensor + 1, sizeof *l->order))) s = fqi_fail_nomem(e, "order of channels");
    for (size_t i = 0; i < h.n_tensor && s == FQ_OK; i++) s = read_order(l, f, &h.tensor[i], e);
    fqi_st_free(&h);
    free(text);
    return s;
}

static fq_status open_orders(fqi_lora *l, fq_err *e)
{
    char *path = fqi_path_join(l->like, FQI_ORDER_FILE);
    if (!path) return fqi_fail_nomem(e, "path");
    fqi_file f;
    fq_status s = FQ_OK;
    const bool there = fqi_path_exists(path);
    if (!there && l->prov.ordered) s = order_error(path, "no file", e);
    if (there && (s = fqi_file_open(&f, path, FQ_IO_BUFFERED, e)) == FQ_OK) {
        s = read_orders(l, &f, e);
        fqi_file_close(&f);
    }
    free(path);
    return s;
}

/* ---- a tensor ---- */

/* back: the inverse. NULL: the axis stays. */
static const fqi_map *map_of(const fqi_lora *l, const fqi_bound *b, fqi_axis_use use, bool back)
{
    for (size_t i = 0; i < l->n_order; i++) {
        const fqi_lora_order *x = &l->order[i];
        if (x->layer == b->layer && x->expert == b->expert && x->axis == use.axis) return &x->map[back];
    }
    const fqi_maps *maps = back ? &l->inverse : &l->prov.maps;
    const fqi_map *m = use.parts > 1 ? &maps->stacked[use.axis] : &maps->map[use.axis];
    return m->n_run > 0 ? m : NULL;
}

static int64_t length_of(const fqi_lora *l, fqi_axis_use use, const fqi_map *m)
{
    if (m) return l->back ? m->n_new : m->n_old;
    return fqi_axis_length(&l->source.model, (fqi_axis)use.axis) * (use.parts > 1 ? use.parts : 1);
}

/* Which dimension follows the layer's outputs (0) or inputs (1). */
static const struct { int8_t dim[2]; uint8_t rank; } follows[] = {
    [FQI_LORA_A] = { { -1, 1 }, 2 }, [FQI_LORA_B] = { { 0, -1 }, 2 }, [FQI_LORA_EMBEDDING_A] = { { -1, 0 }, 2 }, [FQI_LORA_EMBEDDING_B] = { { 1, -1 }, 2 },
    [FQI_LORA_MAGNITUDE] = { { 0, -1 }, 1 }, [FQI_LORA_WEIGHT] = { { 0, 1 }, 2 }, [FQI_LORA_BIAS] = { { 0, -1 }, 1 },
};

static const fqi_where *place_of(const fqi_lora *l, const fqi_tensor *t, fqi_where *where)
{
    *where = *FQI_TENSOR(l->ckpt->shard[t->shard].path, t->name);
    return where;
}

static fq_status bind(const fqi_lora *l, const fqi_tensor *t, const fqi_lora_name *name, fqi_bound *out, fq_err *e)
{
    char plain[FQI_LORA_NAME_MAX + 8], shown[FQI_NAME_MAX + 1];
    fqi_where where;
    const fqi_family *f = l->source.family;
    bool found = false;
    fqi_naming n = l->prov.from;
    n.wrapper[0] = '\0';
    snprintf(plain, sizeof plain, "%s.weight", name->module);
    found = fqi_bind_name(f, &n, plain, out) && out->row;
    for (size_t i = 0; f->body_prefix[i] && !found; i++) {
        snprintf(n.body_prefix, sizeof n.body_prefix, "%s", f->body_prefix[i]);
        found = fqi_bind_name(f, &n, plain, out) && out->row;
    }
    out->canonical = NULL;   /* it pointed into `plain` */
    if (found && out->layer < l->source.model.num_hidden_layers && out->expert < (l->source.model.num_experts ? l->source.model.num_experts : 1)) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, place_of(l, t, &where), "adapter-tensor", "found module %s, expected one of %s of %" PRId64 " layers", fqi_escape(shown, name->module), f->name, l->source.model.num_hidden_layers);
}

static fq_status check_shape(const fqi_lora *l, const fqi_tensor *t, int d, fqi_axis_use use, const fqi_map *m, fq_err *e)
{
    fqi_where where;
    const int64_t want = length_of(l, use, m), other = m ? (l->back ? m->n_old : m->n_new) : want;
    if (t->shape[d] == want) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, place_of(l, t, &where), "adapter-shape", "found %" PRId64 " in dimension %d, expected %" PRId64 " (%s of the %s model)%s", t->shape[d], d, want, fqi_axis_name((fqi_axis)use.axis),
                    l->back ? "fitted" : "original", t->shape[d] != other ? "" : l->back ? ": this adapter has the original's lengths already" : ": this adapter has the fitted model's lengths already");
}

/* The norm of a row of zeros is 0, and PEFT divides by it. */
static fq_status check_magnitude(const fqi_lora *l, const fqi_tensor *t, const fqi_map *m, fq_err *e)
{
    fqi_where where;
    fqi_map_count n;
    if (l->back || !m) return FQ_OK;
    FQI_TRY(fqi_map_count_uses(m, &n, e));
    if (n.zero == 0) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, place_of(l, t, &where), "adapter-dora", "found magnitudes (DoRA) of a layer that gets %" PRId64 " outputs of zeros, expected none: a magnitude is divided by the norm of its weights, which is 0 there; merge the adapter into the original first", n.zero);
}

static fq_status plan_tensor(fqi_lora *l, size_t i, fq_err *e)
{
    const fqi_tensor *t = &l->ckpt->tensor[i];
    fqi_lora_tensor *x = &l->tensor[i];
    fqi_part_plan *out = &l->parts.of[i];
    fqi_lora_name name;
    fqi_where where;
    if (!fqi_lora_name_parse(t->name, &name)) return fqi_fail(e, FQ_E_INPUT, place_of(l, t, &where), "adapter-tensor", "found a name that is none of a LoRA adapter, expected lora_A, lora_B, ..., or a weight of modules_to_save");
    FQI_TRY(bind(l, t, &name, &x->bound, e));
    x->kind = name.kind;
    const int rank = name.kind == FQI_LORA_WEIGHT ? x->bound.row->rank : follows[name.kind].rank;
    if (t->rank != rank || rank > 2) return fqi_fail(e, FQ_E_INPUT, place_of(l, t, &where), "adapter-shape", "found %d dimensions, expected %d", t->rank, rank > 2 ? 2 : rank);
    *out = (fqi_part_plan){ .module = 0 };
    for (int d = 0; d < rank; d++) {
        const int k = follows[name.kind].dim[d];
        if (k < 0 || k >= x->bound.row->rank) continue;
        const fqi_axis_use use = x->bound.row->dim[k];
        x->map[d] = map_of(l, &x->bound, use, false);
        if (use.axis != FQI_AX_FIXED) FQI_TRY(check_shape(l, t, d, use, x->map[d], e));
        out->map[d] = x->map[d] && l->back ? map_of(l, &x->bound, use, true) : x->map[d];
    }
    return name.kind == FQI_LORA_MAGNITUDE ? check_magnitude(l, t, x->map[0], e) : FQ_OK;
}

fq_status fqi_lora_open(fqi_lora *l, fq_err *e)
{
    FQI_TRY(fqi_prov_load(l->like, &l->prov, e));
    FQI_TRY(fqi_config_parse(l->prov.config_source, l->prov.n_config_source, FQI_PROV_FILE, &l->source, e));
    if (!l->source.family) return fqi_family_unknown(l->source.model.model_type, l->like, e);
    FQI_TRY(open_orders(l, e));
    FQI_TRY(fqi_maps_inverse(&l->prov.maps, &l->inverse, e));
    l->tensor = fqi_calloc(l->ckpt->n_tensor + 1, sizeof *l->tensor);
    l->parts = (fqi_parts){ .ckpt = l->ckpt, .of = fqi_calloc(l->ckpt->n_tensor + 1, sizeof *l->parts.of) };
    if (!l->tensor || !l->parts.of) return fqi_fail_nomem(e, "table of the adapter");
    for (size_t i = 0; i < l->ckpt->n_tensor; i++) FQI_TRY(plan_tensor(l, i, e));
    return FQ_OK;
}

void fqi_lora_free(fqi_lora *l)
{
    for (size_t i = 0; i < l->n_order; i++) {
        fqi_map_free(&l->order[i].map[0]);
        fqi_map_free(&l->order[i].map[1]);
    }
    free(l->order);
    free(l->tensor);
    fqi_parts_free(&l->parts);
    fqi_maps_free(&l->inverse);
    fqi_config_free(&l->source);
    fqi_prov_free(&l->prov);
}
