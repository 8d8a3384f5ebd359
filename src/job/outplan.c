/* outplan.c - the table of output tensors and shards. See outplan.h. */
#include "job/outplan.h"
#include "format/json_tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/checked.h"
#include "checkpoint/packed.h"
#include "format/safetensors.h"

#define NAME_MAX_BYTES 4096

static fq_status tensor_bytes(fqi_out_tensor *t, fq_err *e)
{
    uint64_t n = 1, bits;
    for (int d = 0; d < t->rank; d++)
        if (!fqi_mul_u64(n, (uint64_t)t->shape_pad[d], &n)) goto overflow;
    if (!fqi_mul_u64(n, fq_dtype_bits((fq_dtype)t->dtype), &bits)) goto overflow;
    t->bytes_pad = bits / 8;
    return FQ_OK;
overflow:
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(NULL, t->name), "tensor-size", "found a padded shape whose size overflows 64 bits");
}

static bool is_skipped(const fqi_outplan_request *r, const char *name)
{
    for (size_t i = 0, hi = r->n_skip; i < hi;) {
        size_t mid = i + (hi - i) / 2;
        int c = strcmp(name, r->skip[mid]);
        if (c == 0) return true;
        if (c < 0) hi = mid; else i = mid + 1;
    }
    return false;
}

/* ---- made tensors ---- */

static int by_replaced(const void *a, const void *b)
{
    const fqi_made *x = *(const fqi_made *const *)a, *y = *(const fqi_made *const *)b;
    if (x->instead_of != y->instead_of) return x->instead_of < y->instead_of ? -1 : 1;   /* both in the catalogue's one array */
    return x < y ? -1 : x > y;
}

/* Those that stand in for src: [*first, result). */
static size_t made_for(const fqi_made *const *sorted, size_t n, const fqi_tensor *src, size_t *first)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (sorted[mid]->instead_of < src) lo = mid + 1;
        else hi = mid;
    }
    *first = lo;
    while (lo < n && sorted[lo]->instead_of == src) lo++;
    return lo;
}

/* name: of what is replaced, as written. */
static fq_status plan_made(const fqi_outplan_request *r, const fqi_made *m, const char *name, const fqi_out_tensor *where, fqi_outplan *p, fq_err *e)
{
    fqi_out_tensor *t = &p->tensor[p->n_tensor];
    size_t n = strlen(name);
    char shown[FQI_NAME_MAX + 1];
    fqi_packed packed;
    if (fqi_packed_split(name, &packed)) n = packed.n_module;
    else if (n > 7 && strcmp(name + n - 7, ".weight") == 0) n -= 7;
    *t = *where;
    t->src = NULL;
    t->made = m;
    t->dtype = (uint8_t)m->dtype;
    t->rank = (uint8_t)m->rank;
    t->changed = true;
    memset(t->map, 0, sizeof t->map);
    memcpy(t->shape_pad, m->shape_pad, sizeof m->shape_pad);
    t->name = m->module ? fqi_arena_printf(&p->arena, "%s%s%s%s", r->to->wrapper, r->to->body_prefix, m->module, m->suffix) : fqi_arena_printf(&p->arena, "%.*s%s", (int)n, name, m->suffix);
    if (!t->name) return fqi_fail_nomem(e, "tensor table");
    if (strlen(t->name) >= NAME_MAX_BYTES)
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(NULL, fqi_escape(shown, t->name)), "tensor-name", "found a name of over %d bytes", NAME_MAX_BYTES - 1);
    FQI_TRY(tensor_bytes(t, e));
    p->n_changed++;
    p->n_tensor++;
    return FQ_OK;
}

/* Where a tensor stands among layers: see by_layer. */
static void place(const fqi_bound *b, fqi_out_tensor *t)
{
    t->layer = b->canonical ? b->layer : -1;
    t->at_end = b->row && (strcmp(b->row->role, "norm") == 0 || strcmp(b->row->role, "lm_head") == 0);
}

/* A part of a quantized module has maps of its own. */
static bool take_part(const fqi_part_plan *part, fqi_out_tensor *t)
{
    bool changed = t->computed = part->computed;
    for (int d = 0; d < FQ_MAX_RANK; d++) t->map[d] = d < 2 ? part->map[d] : NULL;
    for (int d = 0; d < 2; d++) changed = changed || part->map[d];
    memcpy(t->fill, part->fill, sizeof t->fill);
    return changed;
}

static fq_status plan_tensor(const fqi_outplan_request *r, size_t i, const fqi_made *const *made, fqi_outplan *p, fq_err *e)
{
    const fqi_tensor *src = &r->ckpt->tensor[i];
    const char *file = r->ckpt->shard[src->shard].path;
    fqi_bound none = { .row = NULL };
    const fqi_bound *b = r->ckpt->bound ? &r->ckpt->bound[i] : &none;
    char name[NAME_MAX_BYTES], shown[FQI_NAME_MAX + 1];
    fqi_out_tensor *t = &p->tensor[p->n_tensor];

    *t = (fqi_out_tensor){ .src = src, .dtype = src->dtype, .rank = src->rank };
    if (!fqi_rename(r->from, r->to, b, src->name, name, sizeof name))
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file, fqi_escape(shown, src->name)), "tensor-name", "found a name of over %d bytes", NAME_MAX_BYTES - 1);
    place(b, t);
    size_t first, end = made_for(made, r->n_made, src, &first);
    const fqi_out_tensor where = *t;
    bool replaced = false;
    for (size_t k = first; k < end; k++) {
        FQI_TRY(plan_made(r, made[k], name, &where, p, e));
        replaced = replaced || !made[k]->beside;
    }
    if (replaced) {
        p->bytes += src->bytes;
        return FQ_OK;
    }
    t = &p->tensor[p->n_tensor];
    *t = where;
    if (!(t->name = fqi_arena_strdup(&p->arena, name))) return fqi_fail_nomem(e, "tensor table");
    const fqi_part_plan *part = fqi_parts_of(r->parts, i);
    t->changed = part ? take_part(part, t) : fqi_maps_of_row(r->maps, b->row, t->map);
    for (int d = 0; d < t->rank; d++) {
        const fqi_map *m = t->map[d];
        if (t->computed) {
            t->shape_pad[d] = part->shape_new[d];
            continue;
        }
        if (m && m->n_old != src->shape[d])
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file, fqi_escape(shown, src->name)), "tensor-shape", "found %lld in dimension %d, expected %lld (%s)",
                            (long long)src->shape[d], d, (long long)m->n_old, b->row ? fqi_axis_name((fqi_axis)b->row->dim[d].axis) : "a part of a quantized module");
        t->shape_pad[d] = m ? m->n_new : src->shape[d];
    }
    if (t->changed && fq_dtype_bits((fq_dtype)t->dtype) % 8 != 0)
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file, fqi_escape(shown, src->name)), "dtype", "found %s, expected whole bytes per element on an axis that changes", fq_dtype_name((fq_dtype)t->dtype));
    FQI_TRY(tensor_bytes(t, e));
    p->n_changed += t->changed;
    p->bytes += src->bytes;
    p->n_tensor++;
    return FQ_OK;
}

static fq_status plan_zeros(const fqi_outplan_request *r, size_t i, fqi_outplan *p, fq_err *e)
{
    const fqi_tensor *like = r->zeros_like;
    fqi_out_tensor *t = &p->tensor[p->n_tensor];
    *t = (fqi_out_tensor){ .name = fqi_arena_strdup(&p->arena, r->zeros[i]), .dtype = like->dtype, .rank = 1, .changed = true, .layer = -1 };
    const char *layer = t->name ? strstr(t->name, "layers.") : NULL;   /* they are biases of layers, and are written with them */
    if (layer) t->layer = strtoll(layer + 7, NULL, 10);
    if (!t->name) return fqi_fail_nomem(e, "tensor table");
    t->shape_pad[0] = like->shape[0];
    FQI_TRY(tensor_bytes(t, e));
    p->n_added++;
    p->n_tensor++;
    return FQ_OK;
}

/* ---- shards ---- */

/* What is read for it: of a made tensor what it stands in for. */
static const fqi_tensor *read_for(const fqi_out_tensor *t) { return t->made ? t->made->instead_of : t->src; }

static int by_source(const void *a, const void *b)
{
    const fqi_out_tensor *x = a, *y = b;
    const fqi_tensor *s = read_for(x), *t = read_for(y);
    if (!s != !t) return s ? -1 : 1;   /* zeros last */
    if (!s) return strcmp(x->name, y->name);
    if (s->shard != t->shard) return s->shard < t->shard ? -1 : 1;
    if (s->off != t->off) return s->off < t->off ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Within a shard the reference writer's order: dtype rank descending, then name. It keeps every tensor aligned to its element
 * size, which readers that map the file rely on. */
static int by_shard(const void *a, const void *b)
{
    const fqi_out_tensor *x = a, *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    if (x->dtype != y->dtype) return x->dtype > y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Layer after layer; before them what is of none, behind them the final norm and the output head. */
static int by_layer(const void *a, const void *b)
{
    const fqi_out_tensor *x = a, *y = b;
    if (x->at_end != y->at_end) return x->at_end ? 1 : -1;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    if (x->dtype != y->dtype) return x->dtype > y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const fqi_out_tensor *const *)a)->name, (*(const fqi_out_tensor *const *)b)->name);
}

static fq_status check_unique(const fqi_outplan *p, fq_err *e)
{
    const fqi_out_tensor **t = fqi_calloc(p->n_tensor + 1, sizeof *t);
    if (!t) return fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < p->n_tensor; i++) t[i] = &p->tensor[i];
    qsort(t, p->n_tensor, sizeof *t, by_name);
    fq_status s = FQ_OK;
    for (size_t i = 1; i < p->n_tensor && s == FQ_OK; i++) {
        char shown[FQI_NAME_MAX + 1];
        if (strcmp(t[i]->name, t[i - 1]->name) == 0)
            s = fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(NULL, fqi_escape(shown, t[i]->name)), "duplicate-name", "found two tensors that would be written under this name, expected one");
    }
    free(t);
    return s;
}

/* A tensor that would not stand at a multiple of its element size begins a shard: the format knows no holes. It happens only where layers
 * follow each other. */
static bool is_aligned(const fqi_out_tensor *t, uint64_t at)
{
    const unsigned bytes = fq_dtype_bits((fq_dtype)t->dtype) / 8;
    return bytes == 0 || at % bytes == 0;
}

static size_t assign_shards(fqi_outplan *p, uint64_t limit, bool keep_order)
{
    uint64_t fill = 0;
    uint32_t shard = 0;
    for (size_t i = 0; i < p->n_tensor; i++) {
        fqi_out_tensor *t = &p->tensor[i];
        if (fill > 0 && (t->bytes_pad > limit - (fill < limit ? fill : limit) || (keep_order && !is_aligned(t, fill)))) { shard++; fill = 0; }
        t->shard = shard;
        fill += t->bytes_pad;
        p->bytes_pad += t->bytes_pad;
    }
    return p->n_tensor > 0 ? shard + 1u : 0;
}

/* The files of the source, when they were safetensors: unpad then gives back the same files, not only the same tensors. */
static bool restore_shards(fqi_outplan *p, const fqi_prov *prov)
{
    if (!prov) return false;
    for (size_t i = 0; i < prov->n_source_shard; i++) {
        size_t n = strlen(prov->source_shard[i]);
        if (n < 12 || strcmp(prov->source_shard[i] + n - 12, ".safetensors") != 0) return false;
    }
    for (size_t i = 0; i < p->n_tensor; i++) {
        const fqi_prov_tensor *t = fqi_prov_find(prov, p->tensor[i].src->name);
        if (!t) return false;
        p->tensor[i].shard = t->source_shard;
    }
    p->bytes_pad = 0;
    for (size_t i = 0; i < p->n_tensor; i++) p->bytes_pad += p->tensor[i].bytes_pad;
    p->n_shard = prov->n_source_shard;
    return true;
}

static char *shard_name(fqi_outplan *p, const char *stem, const fqi_prov *restored, size_t i)
{
    if (restored) return fqi_arena_strdup(&p->arena, restored->source_shard[i]);
    if (p->n_shard == 1) return fqi_arena_printf(&p->arena, "%s.safetensors", stem);
    return fqi_arena_printf(&p->arena, "%s-%05zu-of-%05zu.safetensors", stem, i + 1, p->n_shard);
}

static fq_status build_shards(fqi_outplan *p, const char *stem, const fqi_prov *restored, fq_err *e)
{
    p->shard = fqi_arena_alloc(&p->arena, (p->n_shard + 1) * sizeof *p->shard);
    if (!p->shard) return fqi_fail_nomem(e, "shard table");
    for (size_t i = 0; i < p->n_tensor; i++) {
        fqi_out_shard *s = &p->shard[p->tensor[i].shard];
        if (s->n++ == 0) s->first = i;
        s->data_bytes += p->tensor[i].bytes_pad;
    }
    for (size_t i = 0; i < p->n_shard; i++) {
        p->shard[i].name = shard_name(p, stem, restored, i);
        if (!p->shard[i].name) return fqi_fail_nomem(e, "shard table");
    }
    return FQ_OK;
}

static fq_status plan_tensors(const fqi_outplan_request *r, fqi_outplan *p, fq_err *e)
{
    const fqi_made **made = fqi_calloc(r->n_made + 1, sizeof *made);
    if (!made) return fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < r->n_made; i++) made[i] = &r->made[i];
    qsort(made, r->n_made, sizeof *made, by_replaced);
    fq_status s = FQ_OK;
    for (size_t i = 0; i < r->ckpt->n_tensor && s == FQ_OK; i++)
        if (!is_skipped(r, r->ckpt->tensor[i].name)) s = plan_tensor(r, i, made, p, e);
    free(made);
    return s;
}

static fq_status create(const fqi_outplan_request *r, fqi_outplan *p, fq_err *e)
{
    p->tensor = fqi_calloc(r->ckpt->n_tensor + r->n_zeros + r->n_made + 1, sizeof *p->tensor);
    if (!p->tensor) return fqi_fail_nomem(e, "tensor table");
    FQI_TRY(plan_tensors(r, p, e));
    for (size_t i = 0; i < r->n_zeros; i++) FQI_TRY(plan_zeros(r, i, p, e));
    FQI_TRY(check_unique(p, e));
    qsort(p->tensor, p->n_tensor, sizeof *p->tensor, r->by_layer ? by_layer : by_source);
    bool restored = restore_shards(p, r->restore);
    if (!restored) p->n_shard = assign_shards(p, r->shard_bytes, r->by_layer);
    p->restores = r->restore != NULL;
    p->n_open = 1;
    if (!r->by_layer) qsort(p->tensor, p->n_tensor, sizeof *p->tensor, by_shard);
    return build_shards(p, r->stem ? r->stem : "model", restored ? r->restore : NULL, e);
}

fq_status fqi_outplan_create(const fqi_outplan_request *r, fqi_outplan *out, fq_err *e)
{
    fqi_outplan p = { 0 };
    fq_status s = create(r, &p, e);
    if (s != FQ_OK) { fqi_outplan_free(&p); return s; }
    *out = p;
    return FQ_OK;
}

void fqi_outplan_free(fqi_outplan *p)
{
    if (!p) return;
    free(p->tensor);
    fqi_arena_free(&p->arena);
    *p = (fqi_outplan){ 0 };
}

/* ---- given tables ---- */

/* Which tensors each shard has, and how many shards are unfinished at a time. */
static fq_status list_shards(fqi_outplan *p, fq_err *e)
{
    size_t *list = fqi_arena_alloc(&p->arena, (p->n_tensor + 1) * sizeof *list), *next = fqi_calloc(p->n_shard + 1, sizeof *next), n_open = 0, at = 0;
    if (!list || !next) {
        free(next);
        return fqi_fail_nomem(e, "shard table");
    }
    for (size_t i = 0; i < p->n_tensor; i++) p->shard[p->tensor[i].shard].n++;
    for (size_t s = 0; s < p->n_shard; s++) {
        p->shard[s].list = list + at;
        next[s] = at;
        at += p->shard[s].n;
    }
    for (size_t i = 0; i < p->n_tensor; i++) {
        fqi_out_shard *s = &p->shard[p->tensor[i].shard];
        size_t *to = &next[p->tensor[i].shard];
        if (list + *to == s->list) {
            s->first = i;
            if (++n_open > p->n_open) p->n_open = n_open;
        }
        list[(*to)++] = i;
        if (list + *to == s->list + s->n) n_open--;
        s->data_bytes += p->tensor[i].bytes_pad;
    }
    free(next);
    return FQ_OK;
}

static fq_status take_given(const fqi_given *g, fqi_outplan *p, fq_err *e)
{
    fqi_out_tensor *t = &p->tensor[p->n_tensor++];
    *t = (fqi_out_tensor){ .name = fqi_arena_strdup(&p->arena, g->name), .dtype = (uint8_t)g->dtype, .rank = g->rank, .shard = g->shard, .layer = -1, .changed = true, .computed = true };
    if (!t->name) return fqi_fail_nomem(e, "tensor table");
    memcpy(t->shape_pad, g->shape, g->rank * sizeof t->shape_pad[0]);
    FQI_TRY(tensor_bytes(t, e));
    p->bytes_pad += t->bytes_pad;
    p->n_changed++;
    return FQ_OK;
}

fq_status fqi_outplan_given(const fqi_given *g, size_t n, const char *const *shard, size_t n_shard, fqi_outplan *out, fq_err *e)
{
    fqi_outplan p = { .n_shard = n_shard, .apart = true };
    p.tensor = fqi_calloc(n + 1, sizeof *p.tensor);
    p.shard = fqi_arena_alloc(&p.arena, (n_shard + 1) * sizeof *p.shard);
    fq_status s = p.tensor && p.shard ? FQ_OK : fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < n_shard && s == FQ_OK; i++) {
        p.shard[i] = (fqi_out_shard){ .name = fqi_arena_strdup(&p.arena, shard[i]) };
        if (!p.shard[i].name) s = fqi_fail_nomem(e, "shard table");
    }
    for (size_t i = 0; i < n && s == FQ_OK; i++) s = take_given(&g[i], &p, e);
    if (s == FQ_OK) s = list_shards(&p, e);
    if (s != FQ_OK) {
        fqi_outplan_free(&p);
        return s;
    }
    *out = p;
    return FQ_OK;
}

/* ---- texts ---- */

fq_status fqi_outplan_header(const fqi_outplan *p, size_t shard, fqi_str *out, fq_err *e)
{
    const fqi_out_shard *s = &p->shard[shard];
    fqi_tensor *t = fqi_calloc(s->n + 1, sizeof *t);
    if (!t) return fqi_fail_nomem(e, "shard header");
    for (size_t i = 0; i < s->n; i++) {
        const fqi_out_tensor *o = &p->tensor[fqi_outplan_at(s, i)];
        t[i] = (fqi_tensor){ .name = o->name, .shape = o->shape_pad, .bytes = o->bytes_pad, .dtype = o->dtype, .rank = o->rank };
    }
    static const char *const key[] = { "format", "fitq" }, *const value[] = { "pt", FQ_VERSION };
    fq_status st = fqi_st_write_header(t, s->n, key, value, p->restores ? 1 : 2, out, e);
    free(t);
    return st;
}

fq_status fqi_outplan_index(const fqi_outplan *p, fqi_str *out, fq_err *e)
{
    if (p->n_shard < 2 || p->apart) return FQ_OK;
    const fqi_out_tensor **t = fqi_calloc(p->n_tensor, sizeof *t);
    if (!t) return fqi_fail_nomem(e, "index");
    for (size_t i = 0; i < p->n_tensor; i++) t[i] = &p->tensor[i];
    qsort(t, p->n_tensor, sizeof *t, by_name);
    json_t *map = json_object();
    for (size_t i = 0; i < p->n_tensor; i++) json_object_set_new(map, t[i]->name, json_string(p->shard[t[i]->shard].name));
    free(t);
    json_t *root = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)p->bytes_pad, "weight_map", map);
    fq_status s = root && json_object_size(map) == p->n_tensor ? fqi_json_print(root, JSON_INDENT(2), out, e) : fqi_fail_nomem(e, "index");
    json_decref(root);
    if (s != FQ_OK) return s;
    fqi_str_puts(out, "\n");
    return out->failed ? fqi_fail_nomem(e, "index") : FQ_OK;
}

uint64_t fqi_outplan_hash(const fqi_outplan *p)
{
    XXH3_state_t st;
    XXH3_64bits_reset(&st);
    for (size_t i = 0; i < p->n_tensor; i++) {
        const fqi_out_tensor *t = &p->tensor[i];
        uint64_t place[4] = { t->src ? t->src->shard : UINT64_MAX, t->src ? t->src->off : 0, t->shard, (uint64_t)t->dtype << 8 | t->rank };
        XXH3_64bits_update(&st, t->name, strlen(t->name) + 1);
        XXH3_64bits_update(&st, place, sizeof place);
        XXH3_64bits_update(&st, t->shape_pad, t->rank * sizeof t->shape_pad[0]);
        if (t->changed) XXH3_64bits_update(&st, t->fill, sizeof t->fill);
        if (t->computed) XXH3_64bits_update(&st, "computed", sizeof "computed");   /* how is in the maps of the tensors beside it */
        for (int d = 0; d < t->rank; d++)
            if (t->map[d]) XXH3_64bits_update(&st, t->map[d]->run, t->map[d]->n_run * sizeof(fqi_run));
    }
    return XXH3_64bits_digest(&st);
}
