/* provenance.c - writing and reading fitq.json. See provenance.h.
 *
 * The file travels with a published checkpoint, so its reader trusts nothing: a map must tile its axis, a hash must be 32 hex
 * digits, a name must be a string. It stays out of the header's __metadata__ because engines load that into memory per shard. */
#include "job/provenance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/fs.h"
#include "checkpoint/catalogue.h"

#define PROV_SCHEMA 1
#define PROV_MAX_BYTES (1u << 30)

static const char *const axis_key[FQI_N_AXIS] = {
    [FQI_AX_FF] = "intermediate_size",
    [FQI_AX_MOE_FF] = "moe_intermediate_size",
    [FQI_AX_SHARED_FF] = "shared_expert_intermediate_size",
    [FQI_AX_Q] = "query_channels",
    [FQI_AX_KV] = "kv_channels",
    [FQI_AX_VOCAB] = "vocab_size",
};

/* ---- writing ---- */

static json_t *print_maps(const fqi_maps *maps, fq_err *e)
{
    json_t *all = json_object();
    for (int a = 0; a < FQI_N_AXIS; a++) {
        if (!axis_key[a] || maps->map[a].n_run == 0) continue;
        char *text = NULL;
        if (fqi_map_print(&maps->map[a], &text, e) != FQ_OK) { json_decref(all); return NULL; }
        json_t *one = json_pack("{s:I, s:I, s:s}", "old", (json_int_t)maps->map[a].n_old, "new",
                                (json_int_t)maps->map[a].n_new, "runs", text);
        free(text);
        if (json_object_set_new(all, axis_key[a], one) != 0) { json_decref(all); return NULL; }
    }
    return all;
}

static json_t *print_naming(const fqi_naming *n)
{
    return json_pack("{s:s, s:s, s:s}", "wrapper", n->wrapper, "body_prefix", n->body_prefix, "head_prefix", n->head_prefix);
}

/* False: out of memory. */
static bool add_length(json_t *fit, const char *key, int64_t real, int64_t pad)
{
    return pad == 0 || pad == real || json_object_set_new(fit, key, json_pack("[I, I]", (json_int_t)real, (json_int_t)pad)) == 0;
}

static json_t *print_fit(const fq_model *m, const fq_fit *f)
{
    json_t *o = json_object();
    bool ok = add_length(o, "intermediate_size", m->intermediate_size, f->intermediate_size_pad) &&
              add_length(o, "moe_intermediate_size", m->moe_intermediate_size, f->moe_intermediate_size_pad) &&
              add_length(o, "shared_expert_intermediate_size", m->shared_expert_intermediate_size, f->shared_expert_intermediate_size_pad) &&
              add_length(o, "num_attention_heads", m->num_attention_heads, f->num_attention_heads_pad) &&
              add_length(o, "num_key_value_heads", m->num_key_value_heads, f->num_key_value_heads_pad) &&
              add_length(o, "vocab_size", m->vocab_size, f->vocab_size_pad);
    if (ok && f->kv_replication > 1) ok = json_object_set_new(o, "kv_replication", json_integer((json_int_t)f->kv_replication)) == 0;
    if (ok) return o;
    json_decref(o);
    return NULL;
}

static json_t *print_tensors(const fqi_prov_write *w)
{
    json_t *o = json_object();
    for (size_t i = 0; i < w->n_tensor; i++) {
        json_t *one = json_pack("[o, i, s]", fqi_record_hash(&w->tensor[i].source_hash), (int)w->tensor[i].source_shard, fq_dtype_name(w->tensor[i].dtype));
        if (!one || json_object_set_new(o, w->tensor[i].name, one) != 0) { json_decref(o); return NULL; }
    }
    return o;
}

static json_t *print_shards(const fqi_prov_write *w)
{
    json_t *a = json_array();
    for (size_t i = 0; i < w->n_shard; i++) {
        char hex[17];
        snprintf(hex, sizeof hex, "%016llx", (unsigned long long)w->shard[i].header_hash);
        json_t *one = json_pack("{s:s, s:I, s:s}", "name", w->shard[i].name, "bytes", (json_int_t)w->shard[i].bytes, "header_xxh3", hex);
        if (json_array_append_new(a, one) != 0) { json_decref(a); return NULL; }
    }
    return a;
}

static json_t *print_added(const fqi_prov_write *w)
{
    json_t *a = json_array();
    for (size_t i = 0; i < w->n_added; i++)
        if (json_array_append_new(a, json_string(w->added[i])) != 0) { json_decref(a); return NULL; }
    return a;
}

static bool put_folded(json_t *o, const fqi_prov_write *w)
{
    char hex[17];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)w->order_hash);
    return w->n_folded == 0 || fqi_record_put(o, "folded", json_pack("[I, s]", (json_int_t)w->n_folded, hex));
}

static bool fill(json_t *o, const fqi_prov_write *w, fq_err *e)
{
    char hex[17];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)XXH3_64bits(w->config_target, strlen(w->config_target)));
    return fqi_record_put(o, "fitq", json_string(FQ_VERSION)) && fqi_record_put(o, "schema", json_integer(PROV_SCHEMA)) &&
           fqi_record_put(o, "operation", json_string(w->quantization ? "quantize" : "pad")) && fqi_record_put(o, "layout", json_string(w->layout)) &&
           fqi_record_put(o, "group_size", json_integer((json_int_t)w->group_size)) &&
           fqi_record_put(o, "family", json_string(w->model->family)) && fqi_record_put(o, "fit", print_fit(w->model, w->fit)) &&
           fqi_record_put(o, "maps", print_maps(w->maps, e)) &&
           fqi_record_put(o, "naming", json_pack("{s:o, s:o}", "source", print_naming(w->from), "target", print_naming(w->to))) &&
           fqi_record_put(o, "added", print_added(w)) && fqi_record_put(o, "source_shards", print_shards(w)) &&
           fqi_record_put(o, "config_source", json_string(w->config_source)) && fqi_record_put(o, "config_xxh3", json_string(hex)) &&
           (w->group_new == 0 || fqi_record_put(o, "regrouped", json_pack("[I, I]", (json_int_t)w->group_old, (json_int_t)w->group_new))) &&
           put_folded(o, w) && fqi_record_put(o, "tensors", print_tensors(w)) && (!w->quantization || json_object_set(o, "quantization", w->quantization) == 0);
}

fq_status fqi_prov_print(const fqi_prov_write *w, char **out, size_t *n, fq_err *e)
{
    json_t *o = json_object();
    fqi_str text = { 0 };
    fq_status s = o && fill(o, w, e) ? fqi_record_seal(o, "fitq.json", e) : fqi_fail_nomem(e, "fitq.json");
    if (s == FQ_OK) s = fqi_json_print(o, JSON_INDENT(1), &text, e);
    json_decref(o);
    if (s != FQ_OK) { fqi_str_free(&text); return s; }
    *out = text.s;
    *n = text.len;
    return FQ_OK;
}

/* ---- reading ---- */

static fq_status bad(fq_err *e, const char *file, const char *found)
{
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "fitq-json", "found %s, expected what fitq pad wrote", found);
}

static char *keep(fqi_prov *p, const char *s) { return fqi_arena_strdup(&p->arena, s); }

static fq_status read_naming(const json_t *o, const char *file, fqi_naming *out, fq_err *e)
{
    struct { const char *key; char *to; size_t n; } field[] = {
        { "wrapper", out->wrapper, sizeof out->wrapper },
        { "body_prefix", out->body_prefix, sizeof out->body_prefix },
        { "head_prefix", out->head_prefix, sizeof out->head_prefix },
    };
    if (!json_is_object(o)) return bad(e, file, "no naming");
    for (size_t i = 0; i < 3; i++) {
        const char *s = json_string_value(json_object_get(o, field[i].key));
        if (!s || strlen(s) >= field[i].n) return bad(e, file, "a prefix that is no short string");
        memcpy(field[i].to, s, strlen(s) + 1);
    }
    out->usual = false;
    return FQ_OK;
}

static fq_status read_maps(const json_t *o, const char *file, fqi_maps *out, fq_err *e)
{
    size_t known = 0;
    if (!json_is_object(o)) return bad(e, file, "no maps");
    for (int a = 0; a < FQI_N_AXIS; a++) {
        const json_t *one = axis_key[a] ? json_object_get(o, axis_key[a]) : NULL;
        if (!one) continue;
        known++;
        const char *runs = json_string_value(json_object_get(one, "runs"));
        json_int_t n_old = json_integer_value(json_object_get(one, "old"));
        json_int_t n_new = json_integer_value(json_object_get(one, "new"));
        if (!runs || n_old <= 0 || n_new <= 0) return bad(e, file, "a map without old, new or runs");
        FQI_TRY(fqi_map_parse(runs, n_old, n_new, file, &out->map[a], e));
        fqi_map_count uses;
        FQI_TRY(fqi_map_count_uses(&out->map[a], &uses, e));
        if (uses.missing != 0) return bad(e, file, "a map that loses channels");   /* padding never does */
    }
    if (known != json_object_size(o)) return bad(e, file, "a map of an unknown axis");
    fq_status s = fqi_maps_finish(out, e);
    return s == FQ_E_USAGE ? bad(e, file, "a map of too many runs") : s;
}

static int compare_str(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }
static int compare_tensor(const void *a, const void *b)
{
    return strcmp(((const fqi_prov_tensor *)a)->name, ((const fqi_prov_tensor *)b)->name);
}

static fq_status read_added(const json_t *a, const char *file, fqi_prov *p, fq_err *e)
{
    if (!json_is_array(a)) return bad(e, file, "no list of added tensors");
    p->n_added = json_array_size(a);
    p->added = fqi_arena_alloc(&p->arena, (p->n_added + 1) * sizeof *p->added);
    if (!p->added) return fqi_fail_nomem(e, "fitq.json");
    for (size_t i = 0; i < p->n_added; i++) {
        const char *s = json_string_value(json_array_get(a, i));
        if (!s) return bad(e, file, "an added tensor that is no name");
        if (!(p->added[i] = keep(p, s))) return fqi_fail_nomem(e, "fitq.json");
    }
    qsort(p->added, p->n_added, sizeof *p->added, compare_str);
    return FQ_OK;
}

static fq_status read_shards(const json_t *a, const char *file, fqi_prov *p, fq_err *e)
{
    if (!json_is_array(a)) return bad(e, file, "no list of source shards");
    p->n_source_shard = json_array_size(a);
    p->source_shard = fqi_arena_alloc(&p->arena, (p->n_source_shard + 1) * sizeof *p->source_shard);
    if (!p->source_shard) return fqi_fail_nomem(e, "fitq.json");
    for (size_t i = 0; i < p->n_source_shard; i++) {
        const char *name = json_string_value(json_object_get(json_array_get(a, i), "name"));
        if (!name || !fqi_name_is_plain(name)) return bad(e, file, "a source shard that is no plain file name");
        if (!(p->source_shard[i] = keep(p, name))) return fqi_fail_nomem(e, "fitq.json");
    }
    return FQ_OK;
}

static fq_status read_tensors(json_t *o, const char *file, fqi_prov *p, fq_err *e)
{
    if (!json_is_object(o)) return bad(e, file, "no tensor hashes");
    p->tensor = fqi_arena_alloc(&p->arena, (json_object_size(o) + 1) * sizeof *p->tensor);
    if (!p->tensor) return fqi_fail_nomem(e, "fitq.json");
    const char *name;
    json_t *value;
    json_object_foreach(o, name, value) {
        const char *hex = json_string_value(json_array_get(value, 0));
        json_int_t shard = json_integer_value(json_array_get(value, 1));
        fqi_prov_tensor *t = &p->tensor[p->n_tensor];
        if (!fqi_record_hex(hex, 32, &t->source_hash.hi, &t->source_hash.lo)) return bad(e, file, "a tensor hash that is not 32 hex digits");
        if (shard < 0 || (size_t)shard >= p->n_source_shard) return bad(e, file, "a tensor in a shard that is not listed");
        t->source_shard = (uint32_t)shard;
        if (!fqi_record_dtype(json_string_value(json_array_get(value, 2)), &t->dtype)) return bad(e, file, "a tensor without a dtype");
        if (!(t->name = keep(p, name))) return fqi_fail_nomem(e, "fitq.json");
        p->n_tensor++;
    }
    qsort(p->tensor, p->n_tensor, sizeof *p->tensor, compare_tensor);
    return FQ_OK;
}

static fq_status read_text(const json_t *o, const char *file, fqi_prov *p, fq_err *e)
{
    const char *layout = json_string_value(json_object_get(o, "layout"));
    const char *family = json_string_value(json_object_get(o, "family"));
    const char *config = json_string_value(json_object_get(o, "config_source"));
    const char *hash = json_string_value(json_object_get(o, "config_xxh3"));
    uint64_t hi;
    if (!layout || strlen(layout) >= sizeof p->layout || !family || strlen(family) >= sizeof p->family)
        return bad(e, file, "no layout or family");
    if (!config || !fqi_record_hex(hash, 16, &hi, &p->config_hash)) return bad(e, file, "no config_source or config_xxh3");
    memcpy(p->layout, layout, strlen(layout) + 1);
    memcpy(p->family, family, strlen(family) + 1);
    p->group_size = json_integer_value(json_object_get(o, "group_size"));
    const json_t *regrouped = json_object_get(o, "regrouped");
    p->group_old = json_integer_value(json_array_get(regrouped, 0));
    p->group_new = json_integer_value(json_array_get(regrouped, 1));
    if (regrouped && ((p->group_old < 1 && p->group_old != -1) || p->group_new < 1)) return bad(e, file, "\"regrouped\" other than two sizes of groups");
    p->config_source = keep(p, config);
    p->n_config_source = strlen(config);
    return p->config_source ? FQ_OK : fqi_fail_nomem(e, "fitq.json");
}

static fq_status read_folded(const json_t *a, const char *file, fqi_prov *p, fq_err *e)
{
    uint64_t hi;
    const char *hex = json_string_value(json_array_get(a, 1));
    if (!a) return FQ_OK;
    p->n_folded = json_integer_value(json_array_get(a, 0));
    return p->n_folded > 0 && fqi_record_hex(hex, 16, &hi, &p->order_hash) ? FQ_OK : bad(e, file, "\"folded\" other than a number of MLPs and a hash");
}

/* A letter changed in config_source would otherwise become the restored config.json. */
static fq_status check_seal(json_t *o, const char *file, fq_err *e)
{
    bool sound;
    if (!json_object_get(o, "record_xxh3")) return bad(e, file, "no record_xxh3");
    FQI_TRY(fqi_record_check(o, &sound, e));
    return sound ? FQ_OK : bad(e, file, "values that do not match record_xxh3");
}

static fq_status read_all(json_t *o, const char *file, fqi_prov *p, fq_err *e)
{
    FQI_TRY(check_seal(o, file, e));
    const char *operation = json_string_value(json_object_get(o, "operation"));
    if (json_integer_value(json_object_get(o, "schema")) != PROV_SCHEMA) return bad(e, file, "another schema");
    p->quantized = operation && strcmp(operation, "quantize") == 0;
    p->ordered = json_object_get(o, "folded") || json_is_true(json_object_get(json_object_get(o, "quantization"), "fold"));
    if (!operation || (strcmp(operation, "pad") != 0 && !p->quantized)) return bad(e, file, "an operation other than pad and quantize");
    const json_t *naming = json_object_get(o, "naming");
    FQI_TRY(read_text(o, file, p, e));
    FQI_TRY(read_maps(json_object_get(o, "maps"), file, &p->maps, e));
    FQI_TRY(read_folded(json_object_get(o, "folded"), file, p, e));
    FQI_TRY(read_naming(json_object_get(naming, "source"), file, &p->from, e));
    FQI_TRY(read_naming(json_object_get(naming, "target"), file, &p->to, e));
    FQI_TRY(read_added(json_object_get(o, "added"), file, p, e));
    FQI_TRY(read_shards(json_object_get(o, "source_shards"), file, p, e));
    return read_tensors(json_object_get(o, "tensors"), file, p, e);
}

fq_status fqi_prov_load(const char *dir, fqi_prov *out, fq_err *e)
{
    char *path = fqi_path_join(dir, FQI_PROV_FILE), *text = NULL;
    size_t n = 0;
    json_t *o = NULL;
    fqi_prov p = { 0 };
    if (!path) return fqi_fail_nomem(e, "fitq.json");
    fq_status s = FQ_OK;
    if (!fqi_path_exists(path))
        s = fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "fitq-json", "found no such file, expected the record that fitq pad writes beside the weights");
    if (s == FQ_OK) s = fqi_file_slurp(path, PROV_MAX_BYTES, &text, &n, e);
    if (s == FQ_OK) s = fqi_json_parse(text, n, path, &o, e);
    if (s == FQ_OK) s = read_all(o, path, &p, e);
    json_decref(o);
    free(text);
    free(path);
    if (s != FQ_OK) { fqi_prov_free(&p); return s; }
    *out = p;
    return FQ_OK;
}

static fq_status convert_record(json_t *o, const char *file, const char *form, const char *config_target, fq_err *e)
{
    char hex[17];
    json_t *q = json_object_get(o, "quantization");
    FQI_TRY(check_seal(o, file, e));
    if (!json_is_object(q)) return bad(e, file, "no quantization");
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)XXH3_64bits(config_target, strlen(config_target)));
    if (!fqi_record_put(o, "config_xxh3", json_string(hex)) || !fqi_record_put(q, "converted_to", json_string(form))) return fqi_fail_nomem(e, "fitq.json");
    return fqi_record_seal(o, "fitq.json", e);
}

fq_status fqi_prov_converted(const char *dir, const char *form, const char *config_target, char **out, size_t *n, fq_err *e)
{
    char *path = fqi_path_join(dir, FQI_PROV_FILE), *text = NULL;
    size_t length = 0;
    json_t *o = NULL;
    fqi_str printed = { 0 };
    if (!path) return fqi_fail_nomem(e, "fitq.json");
    fq_status s = fqi_file_slurp(path, PROV_MAX_BYTES, &text, &length, e);
    if (s == FQ_OK) s = fqi_json_parse(text, length, path, &o, e);
    if (s == FQ_OK) s = convert_record(o, path, form, config_target, e);
    if (s == FQ_OK) s = fqi_json_print(o, JSON_INDENT(1), &printed, e);
    json_decref(o);
    free(text);
    free(path);
    if (s != FQ_OK) { fqi_str_free(&printed); return s; }
    *out = printed.s;
    *n = printed.len;
    return FQ_OK;
}

void fqi_prov_free(fqi_prov *p)
{
    if (!p) return;
    fqi_maps_free(&p->maps);
    fqi_arena_free(&p->arena);
    *p = (fqi_prov){ 0 };
}

bool fqi_prov_is_added(const fqi_prov *p, const char *name)
{
    return bsearch(&name, p->added, p->n_added, sizeof *p->added, compare_str) != NULL;
}

const fqi_prov_tensor *fqi_prov_find(const fqi_prov *p, const char *name)
{
    fqi_prov_tensor key = { .name = name };
    return bsearch(&key, p->tensor, p->n_tensor, sizeof *p->tensor, compare_tensor);
}

/* ---- names ---- */

/* How a tensor outside the family table (a vision tower, a stray buffer) hangs on the prefix: under the body it moves with
 * it, elsewhere only the trainer's wrapper changes. */
static const char *after(const char *name, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(name, prefix, n) == 0 ? name + n : NULL;
}

/* Where a vision tower hangs, by the prefix of the text tower beside it: transformers renamed both together (4.52). */
static const struct { const char *body, *vision; } tower[] = { { "model.", "visual." }, { "model.language_model.", "model.visual." } };
#define N_TOWER (sizeof tower / sizeof tower[0])

static const char *vision_of(const fqi_naming *n)
{
    for (size_t i = 0; i < N_TOWER; i++)
        if (strcmp(tower[i].body, n->body_prefix) == 0) return tower[i].vision;
    return NULL;
}

bool fqi_rename(const fqi_naming *from, const fqi_naming *to, const fqi_bound *b, const char *name, char *out, size_t n_out)
{
    const char *rest = after(name, from->wrapper);
    if (!rest) rest = name;
    const char *prefix = "";
    if (b->row && b->row->scope == FQI_HEAD) {
        const char *r = after(rest, from->head_prefix);
        if (r) { rest = r; prefix = to->head_prefix; }
    } else {
        const char *r = after(rest, from->body_prefix);
        const char *vision = vision_of(from), *vision_to = vision_of(to);
        if (r && (b->row || strncmp(r, "layers.", 7) == 0)) { rest = r; prefix = to->body_prefix; }
        else if (vision && vision_to && after(rest, vision)) { rest = after(rest, vision); prefix = vision_to; }
    }
    int n = snprintf(out, n_out, "%s%s%s", to->wrapper, prefix, rest);
    return n >= 0 && (size_t)n < n_out;
}
