/* fold.c - see fold.h. A permutation is made for one MLP at a time: 18 million channels of a large mixture never lie in memory together. */
#include "job/fold.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/fs.h"
#include "base/mem.h"
#include "checkpoint/packed.h"
#include "format/safetensors.h"
#include "job/outdir.h"

#define READ_BYTES ((size_t)1 << 20)
#define SUFFIX ".channels"
#define NAME_BYTES 1024

bool fqi_fold_is_channel(uint8_t a) { return a == FQI_AX_FF || a == FQI_AX_MOE_FF || a == FQI_AX_SHARED_FF; }

static const fqi_tensor *codes_of(const fqi_fold *f, const fqi_fold_mlp *x) { return &f->ckpt->tensor[x->codes]; }

static fq_status fail_module(const fqi_fold *f, const fqi_fold_mlp *x, const char *rule, fq_err *e, const char *what, int64_t found, int64_t expected)
{
    const fqi_tensor *t = &f->ckpt->tensor[x->order];
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(f->ckpt->shard[t->shard].path, t->name), rule, "found %s %" PRId64 ", expected %" PRId64, what, found, expected);
}

static fq_status fail_group(const fqi_fold *f, const fqi_fold_mlp *x, uint32_t group, fq_err *e)
{
    const fqi_tensor *t = &f->ckpt->tensor[x->order];
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(f->ckpt->shard[t->shard].path, t->name), "packed-order", "found more channels in group %" PRIu32 " than %" PRId64 ", expected that many in each: channels can only be put in the order of whole groups",
                    group, x->group);
}

/* ---- g_idx ---- */

fq_status fqi_order_read(const fq_ckpt *c, const fq_run *run, const fqi_tensor *t, uint32_t **out, fq_err *e)
{
    fqi_file f;
    *out = NULL;
    if (t->rank != 1 || t->dtype != FQ_DTYPE_I32 || t->stride || t->byteswap)
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->shard[t->shard].path, t->name), "packed-order", "found %s of %d dimensions, expected I32 of one, lying together", fq_dtype_name((fq_dtype)t->dtype), t->rank);
    uint32_t *order = fqi_calloc((size_t)t->shape[0] + 1, sizeof *order);
    if (!order) return fqi_fail_nomem(e, "order of channels");
    fq_status s = fqi_ckpt_open_shard(c, t->shard, run ? run->io : FQ_IO_BUFFERED, &f, e);
    if (s == FQ_OK) {
        s = fqi_file_read(&f, order, (size_t)t->bytes, t->off, e);
        fqi_file_close(&f);
    }
    if (s != FQ_OK) free(order);
    else *out = order;
    return s;
}

/* Groups of one size, one after another? Whatever the size: of a module that no table knows only this can be told. */
static bool is_trivial(const uint32_t *order, int64_t n)
{
    int64_t group = 0;
    while (group < n && order[group] == 0) group++;
    for (int64_t k = 0; k < n; k++)
        if (group == 0 || order[k] != (uint64_t)(k / group)) return false;
    return true;
}

/* Stable sort by group: *out[p] is the channel that goes to p. Every group is found to be whole on the way. */
static fq_status sort_channels(const fqi_fold *f, const fqi_fold_mlp *x, const uint32_t *order, int32_t **out, fq_err *e)
{
    const int64_t n_group = x->n / x->group;
    int32_t *channel = fqi_calloc((size_t)x->n + 1, sizeof *channel);
    int64_t *next = fqi_calloc((size_t)n_group + 1, sizeof *next);
    fq_status s = channel && next ? FQ_OK : fqi_fail_nomem(e, "order of channels");
    for (int64_t g = 0; g < n_group && s == FQ_OK; g++) next[g] = g * x->group;
    for (int64_t k = 0; k < x->n && s == FQ_OK; k++) {
        if (order[k] >= (uint64_t)n_group) s = fail_module(f, x, "packed-order", e, "group", (int32_t)order[k], n_group - 1);
        else if (next[order[k]] == (order[k] + INT64_C(1)) * x->group) s = fail_group(f, x, order[k], e);
        else channel[next[order[k]]++] = (int32_t)k;
    }
    free(next);
    if (s != FQ_OK) free(channel);
    else *out = channel;
    return s;
}

/* ---- finding ---- */

static int by_place(const void *a, const void *b)
{
    const fqi_fold_mlp *x = a, *y = b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    if (x->expert != y->expert) return x->expert < y->expert ? -1 : 1;
    return (x->axis > y->axis) - (x->axis < y->axis);
}

static fq_status add_mlp(fqi_fold *f, const fqi_fold_mlp *x, fq_err *e)
{
    void *all = f->mlp;
    if (!fqi_grow(&all, &f->cap, f->n_mlp + 1, sizeof *f->mlp)) return fqi_fail_nomem(e, "order of channels");
    f->mlp = all;
    f->mlp[f->n_mlp++] = *x;
    return FQ_OK;
}

/* Codes i, if they take channels of an MLP in and have an order: their place. */
static fq_status look_at_codes(const fqi_fold *f, const fqi_quant_scheme *scheme, size_t i, fqi_fold_mlp *out, bool *found, fq_err *e)
{
    fqi_bound b;
    int64_t length[2];
    fqi_quant_module m;
    *found = false;
    if (!fqi_quant_row(f->ckpt, i, &b, length) || b.row->rank != 2 || !fqi_fold_is_channel(b.row->dim[1].axis)) return FQ_OK;
    FQI_TRY(fqi_quant_module_find(f->ckpt, scheme, i, length[0], length[1], &m, e));
    const fqi_tensor *order = m.part[FQI_PART_ORDER];
    if (!order || m.size.cols > INT32_MAX || b.row->dim[1].parts > 1) return FQ_OK;
    *out = (fqi_fold_mlp){ .layer = b.layer, .expert = b.expert, .n = m.size.cols, .group = m.size.group_cols, .codes = (uint32_t)i, .order = (uint32_t)(order - f->ckpt->tensor), .axis = b.row->dim[1].axis };
    *found = true;
    return FQ_OK;
}

static fq_status find_one(fqi_fold *f, const fqi_quant_scheme *scheme, const fq_run *run, size_t i, fq_err *e)
{
    fqi_fold_mlp x;
    bool found;
    uint32_t *order;
    int32_t *channel;
    FQI_TRY(look_at_codes(f, scheme, i, &x, &found, e));
    if (!found) return FQ_OK;
    FQI_TRY(fqi_order_read(f->ckpt, run, &f->ckpt->tensor[x.order], &order, e));
    bool trivial = true;
    for (int64_t k = 0; k < x.n && trivial; k++) trivial = order[k] == (uint64_t)(k / x.group);
    fq_status s = trivial ? FQ_OK : sort_channels(f, &x, order, &channel, e);
    free(order);
    if (trivial || s != FQ_OK) return s;
    free(channel);
    return add_mlp(f, &x, e);
}

static fq_status count_left(fqi_fold *f, const fq_run *run, fq_err *e)
{
    bool *folded = fqi_calloc(f->ckpt->n_tensor + 1, sizeof *folded);
    fq_status s = folded ? FQ_OK : fqi_fail_nomem(e, "order of channels");
    for (size_t k = 0; k < f->n_mlp && folded; k++) folded[f->mlp[k].order] = true;
    for (size_t i = 0; i < f->ckpt->n_tensor && s == FQ_OK; i++) {
        fqi_packed p;
        uint32_t *order;
        if (folded[i] || !fqi_packed_split(f->ckpt->tensor[i].name, &p) || p.part != FQI_PART_ORDER) continue;
        s = fqi_order_read(f->ckpt, run, &f->ckpt->tensor[i], &order, e);
        if (s == FQ_OK) f->n_left += !is_trivial(order, f->ckpt->tensor[i].shape[0]);
        free(order);
    }
    free(folded);
    return s;
}

fq_status fqi_fold_find(const fq_ckpt *c, const fq_run *run, fqi_fold *out, fq_err *e)
{
    fqi_quant_scheme scheme;
    *out = (fqi_fold){ .ckpt = c };
    if (!c->bound) return FQ_OK;
    FQI_TRY(fqi_quant_scheme_read(c, &scheme, e));
    for (size_t i = 0; i < c->n_tensor; i++) FQI_TRY(find_one(out, &scheme, run, i, e));
    FQI_TRY(count_left(out, run, e));
    if (out->n_mlp > 0) qsort(out->mlp, out->n_mlp, sizeof *out->mlp, by_place);
    return FQ_OK;
}

void fqi_fold_free(fqi_fold *f)
{
    if (!f) return;
    free(f->mlp);
    free(f->file);
    *f = (fqi_fold){ 0 };
}

const fqi_fold_mlp *fqi_fold_of(const fqi_fold *f, const fqi_bound *b, int *dim)
{
    if (!f || f->n_mlp == 0 || !b->row) return NULL;
    for (int d = 0; d < b->row->rank; d++) {
        if (!fqi_fold_is_channel(b->row->dim[d].axis)) continue;
        const fqi_fold_mlp key = { .layer = b->layer, .expert = b->expert, .axis = b->row->dim[d].axis };
        *dim = d;
        return bsearch(&key, f->mlp, f->n_mlp, sizeof *f->mlp, by_place);
    }
    return NULL;
}

/* ---- fitq.order ---- */

/* "layers.0.mlp.down_proj.channels" */
static bool entry_name(const fqi_fold *f, const fqi_fold_mlp *x, char out[NAME_BYTES])
{
    fqi_bound b;
    fqi_packed p;
    int64_t length[2];
    const char *name = codes_of(f, x)->name;
    if (!fqi_packed_split(name, &p) || !fqi_quant_row(f->ckpt, x->codes, &b, length) || !b.canonical) return false;
    const size_t n = p.n_module - (size_t)(b.canonical - name);
    if (n + sizeof SUFFIX > NAME_BYTES) return false;
    memcpy(out, b.canonical, n);
    memcpy(out + n, SUFFIX, sizeof SUFFIX);
    return true;
}

static int by_name(const void *a, const void *b) { return strcmp(((const fqi_tensor *)a)->name, ((const fqi_tensor *)b)->name); }

static fq_status bad_file(const char *file, fq_err *e, const char *found)
{
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "fitq-order", "found %s, expected the order of channels that fitq pad wrote beside fitq.json", found);
}

static fq_status check_hash(const fqi_file *f, uint64_t want, fq_err *e)
{
    XXH3_state_t st;
    char *bytes = malloc(READ_BYTES);
    if (!bytes) return fqi_fail_nomem(e, FQI_ORDER_FILE);
    XXH3_64bits_reset(&st);
    fq_status s = FQ_OK;
    for (uint64_t at = 0; at < f->bytes && s == FQ_OK;) {
        const size_t n = f->bytes - at < READ_BYTES ? (size_t)(f->bytes - at) : READ_BYTES;
        s = fqi_file_read(f, bytes, n, at, e);
        if (s == FQ_OK) XXH3_64bits_update(&st, bytes, n);
        at += n;
    }
    free(bytes);
    if (s == FQ_OK && XXH3_64bits_digest(&st) != want) s = bad_file(f->path, e, "another file than the one that fitq.json has the hash of");
    return s;
}

/* Those modules that the header lists, and no others in it. */
static fq_status take_entries(fqi_fold *f, fqi_st_header *h, fq_err *e)
{
    fqi_quant_scheme scheme;
    FQI_TRY(fqi_quant_scheme_read(f->ckpt, &scheme, e));
    if (h->n_tensor > 0) qsort(h->tensor, h->n_tensor, sizeof *h->tensor, by_name);
    for (size_t i = 0; i < f->ckpt->n_tensor; i++) {
        fqi_fold_mlp x;
        bool found;
        char name[NAME_BYTES];
        FQI_TRY(look_at_codes(f, &scheme, i, &x, &found, e));
        if (!found || !entry_name(f, &x, name)) continue;
        const fqi_tensor key = { .name = name }, *t = h->n_tensor > 0 ? bsearch(&key, h->tensor, h->n_tensor, sizeof *h->tensor, by_name) : NULL;
        if (!t) continue;
        if (t->dtype != FQ_DTYPE_I32 || t->rank != 1 || t->shape[0] != x.n) return bad_file(f->file, e, "channels of another number or type");
        x.at = t->off;
        FQI_TRY(add_mlp(f, &x, e));
    }
    if (f->n_mlp != h->n_tensor) return bad_file(f->file, e, "channels of an MLP that the model does not have");
    if (f->n_mlp > 0) qsort(f->mlp, f->n_mlp, sizeof *f->mlp, by_place);
    return FQ_OK;
}

static fq_status read_header(fqi_fold *f, const fqi_file *file, fq_err *e)
{
    unsigned char first[8];
    uint64_t n;
    fqi_st_header h;
    if (file->bytes < sizeof first) return bad_file(f->file, e, "no header");
    FQI_TRY(fqi_file_read(file, first, sizeof first, 0, e));
    FQI_TRY(fqi_st_length(first, file->bytes, f->file, &n, e));
    char *text = malloc((size_t)n + 1);
    if (!text) return fqi_fail_nomem(e, FQI_ORDER_FILE);
    fq_status s = fqi_file_read(file, text, (size_t)n, sizeof first, e);
    if (s == FQ_OK) s = fqi_st_parse(text, (size_t)n, file->bytes, f->file, &h, e);
    if (s == FQ_OK) {
        s = take_entries(f, &h, e);
        fqi_st_free(&h);
    }
    free(text);
    return s;
}

fq_status fqi_fold_open(const fq_ckpt *c, uint64_t hash, fqi_fold *out, fq_err *e)
{
    fqi_file file;
    *out = (fqi_fold){ .ckpt = c, .file = fqi_path_join(c->dir, FQI_ORDER_FILE) };
    if (!out->file) return fqi_fail_nomem(e, FQI_ORDER_FILE);
    if (!fqi_path_exists(out->file)) return bad_file(out->file, e, "no such file");
    FQI_TRY(fqi_file_open(&file, out->file, FQ_IO_BUFFERED, e));
    fq_status s = check_hash(&file, hash, e);
    if (s == FQ_OK) s = read_header(out, &file, e);
    fqi_file_close(&file);
    return s;
}

/* ---- channels ---- */

/* For each slot of the fitted model the channel of the unfitted one. */
static fq_status compose(const int32_t *sorted, int64_t n, const fqi_map *map, int32_t **out, int64_t *n_out, fq_err *e)
{
    *n_out = map ? map->n_new : n;
    int32_t *slot = fqi_calloc((size_t)*n_out + 1, sizeof *slot);
    if (!slot) return fqi_fail_nomem(e, "order of channels");
    if (!map) memcpy(slot, sorted, (size_t)n * sizeof *slot);
    int64_t at = 0;
    for (size_t i = 0; map && i < map->n_run; i++)
        for (int64_t k = 0; k < map->run[i].count; k++) slot[at++] = map->run[i].src < 0 ? -1 : sorted[map->run[i].src + k];
    *out = slot;
    return FQ_OK;
}

static fq_status forward_channels(const fqi_fold *f, const fqi_fold_mlp *x, const fqi_map *map, const fq_run *run, int32_t **out, int64_t *n, fq_err *e)
{
    uint32_t *order;
    int32_t *sorted;
    if (map && (map->n_old != x->n || map->n_new > INT32_MAX)) return fail_module(f, x, "tensor-shape", e, "channels", x->n, map->n_old);
    FQI_TRY(fqi_order_read(f->ckpt, run, &f->ckpt->tensor[x->order], &order, e));
    fq_status s = sort_channels(f, x, order, &sorted, e);
    free(order);
    if (s != FQ_OK) return s;
    s = compose(sorted, x->n, map, out, n, e);
    free(sorted);
    return s;
}

/* The file's entry: channel of the unfitted model by slot of the fitted one. Each channel once, and none where the map has none. */
static fq_status read_slots(const fqi_fold *f, const fqi_fold_mlp *x, const fqi_map *map, int32_t **out, int64_t *n_channel, fq_err *e)
{
    fqi_file file;
    *out = NULL;
    *n_channel = map ? map->n_old : x->n;
    if (map && (map->n_new != x->n || map->n_old > INT32_MAX)) return bad_file(f->file, e, "channels of another number than fitq.json says");
    int32_t *slot = fqi_calloc((size_t)x->n + 1, sizeof *slot);
    unsigned char *seen = fqi_calloc((size_t)*n_channel + 1, 1);
    fq_status s = slot && seen ? fqi_file_open(&file, f->file, FQ_IO_BUFFERED, e) : fqi_fail_nomem(e, "order of channels");
    if (s == FQ_OK) {
        s = fqi_file_read(&file, slot, (size_t)x->n * sizeof *slot, x->at, e);
        fqi_file_close(&file);
    }
    int64_t at = 0, n_seen = 0;
    for (size_t i = 0; s == FQ_OK && i < (map ? map->n_run : 1); i++)
        for (int64_t k = 0; s == FQ_OK && k < (map ? map->run[i].count : x->n); k++, at++) {
            const bool empty = map && map->run[i].src < 0;
            if (slot[at] < -1 || slot[at] >= *n_channel || empty != (slot[at] == -1) || (!empty && seen[slot[at]])) s = bad_file(f->file, e, "channels that are not one for each place");
            else if (!empty) n_seen += seen[slot[at]] = 1;
        }
    if (s == FQ_OK && n_seen != *n_channel) s = bad_file(f->file, e, "a channel that has no place");
    free(seen);
    if (s != FQ_OK) free(slot);
    else *out = slot;
    return s;
}

fq_status fqi_fold_channels(const fqi_fold *f, const fqi_fold_mlp *x, const fqi_map *map, const fq_run *run, int32_t **channel, int64_t *n, fq_err *e)
{
    int32_t *slot;
    if (!f->file) return forward_channels(f, x, map, run, channel, n, e);
    FQI_TRY(read_slots(f, x, map, &slot, n, e));
    int32_t *back = fqi_calloc((size_t)*n + 1, sizeof *back);
    for (int64_t i = 0; back && i < x->n; i++)
        if (slot[i] >= 0) back[slot[i]] = (int32_t)i;
    free(slot);
    *channel = back;
    return back ? FQ_OK : fqi_fail_nomem(e, "order of channels");
}

fq_status fqi_fold_order(const fqi_fold *f, const fqi_fold_mlp *x, const fqi_map *map, int64_t group, uint32_t **order, int64_t *n, fq_err *e)
{
    int32_t *slot;
    FQI_TRY(read_slots(f, x, map, &slot, n, e));
    uint32_t *g = fqi_calloc((size_t)*n + 1, sizeof *g);
    int64_t at = 0;
    for (size_t i = 0; g && i < (map ? map->n_run : 1); i++)
        for (int64_t k = 0; k < (map ? map->run[i].count : x->n); k++, at++)
            if (slot[at] >= 0) g[slot[at]] = (uint32_t)(((map ? map->run[i].src : 0) + k) / group);
    free(slot);
    *order = g;
    return g ? FQ_OK : fqi_fail_nomem(e, "order of channels");
}

/* ---- writing ---- */

static fq_status print_header(const fqi_fold *f, fqi_fold_map map, void *user, fqi_str *out, fq_err *e)
{
    fqi_arena names = { 0 };
    fqi_tensor *t = fqi_calloc(f->n_mlp + 1, sizeof *t);
    int64_t *n = fqi_calloc(f->n_mlp + 1, sizeof *n);
    fq_status s = t && n ? FQ_OK : fqi_fail_nomem(e, FQI_ORDER_FILE);
    for (size_t i = 0; i < f->n_mlp && s == FQ_OK; i++) {
        char name[NAME_BYTES];
        const fqi_map *m = map(user, f->mlp[i].axis);
        n[i] = m ? m->n_new : f->mlp[i].n;
        t[i] = (fqi_tensor){ .name = entry_name(f, &f->mlp[i], name) ? fqi_arena_strdup(&names, name) : NULL, .shape = &n[i], .bytes = 4 * (uint64_t)n[i], .dtype = FQ_DTYPE_I32, .rank = 1 };
        if (!t[i].name) s = fqi_fail_nomem(e, FQI_ORDER_FILE);
    }
    if (s == FQ_OK) s = fqi_st_write_header(t, f->n_mlp, NULL, NULL, 0, out, e);
    fqi_arena_free(&names);
    free(t);
    free(n);
    return s;
}

static fq_status put(fqi_writer *w, XXH3_state_t *hash, const void *bytes, size_t n, fq_err *e)
{
    XXH3_64bits_update(hash, bytes, n);
    return fqi_writer_put(w, bytes, n, e);
}

static fq_status put_channels(const fqi_fold *f, const fq_run *run, fqi_fold_map map, void *user, fqi_writer *w, XXH3_state_t *hash, fq_err *e)
{
    for (size_t i = 0; i < f->n_mlp; i++) {
        int32_t *channel;
        int64_t n;
        FQI_TRY(fqi_fold_channels(f, &f->mlp[i], map(user, f->mlp[i].axis), run, &channel, &n, e));
        const fq_status s = put(w, hash, channel, (size_t)n * sizeof *channel, e);
        free(channel);
        FQI_TRY(s);
    }
    return FQ_OK;
}

fq_status fqi_fold_write(const fqi_fold *f, const char *dir, const fq_run *run, fqi_fold_map map, void *user, uint64_t *hash, fq_err *e)
{
    fqi_str header = { 0 };
    fqi_writer w = { 0 };
    XXH3_state_t st;
    XXH3_64bits_reset(&st);
    char *path = fqi_path_join(dir, FQI_ORDER_FILE);
    fq_status s = path ? print_header(f, map, user, &header, e) : fqi_fail_nomem(e, FQI_ORDER_FILE);
    if (s == FQ_OK) s = fqi_remove_tree(path, e);
    if (s == FQ_OK) s = fqi_writer_open(&w, path, 0, 0, FQ_IO_BUFFERED, e);
    const bool open = s == FQ_OK;
    if (s == FQ_OK) s = put(&w, &st, header.s, header.len, e);
    if (s == FQ_OK) s = put_channels(f, run, map, user, &w, &st, e);
    if (s == FQ_OK) s = fqi_writer_close(&w, e);
    else if (open) fqi_writer_abandon(&w);
    *hash = XXH3_64bits_digest(&st);
    fqi_str_free(&header);
    free(path);
    return s;
}
