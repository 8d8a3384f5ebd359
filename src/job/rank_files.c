/* rank_files.c - writing and reading fitq-ranks.json. See rank_files.h.
 *
 * The file may come from anywhere, so its reader trusts nothing: names are plain, ranges lie inside their dimension, numbers of bytes are left to the
 * files' own headers. Whether ranges leave a hole is for who puts tensors together. */
#include "job/rank_files.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "job/record.h"

#define SCHEMA 1
#define MAX_BYTES (1u << 30)
#define MAX_TP 64
#define MAX_LENGTH (INT64_C(1) << 48)

/* ---- writing ---- */

static json_t *print_names(const char *const *name, size_t n)
{
    json_t *a = json_array();
    for (size_t i = 0; i < n && a; i++)
        if (json_array_append_new(a, json_string(name[i])) != 0) {
            json_decref(a);
            return NULL;
        }
    return a;
}

static json_t *print_ranks(const fqi_rank_files *f)
{
    json_t *a = json_array();
    for (int r = 0; r < f->tp && a; r++)
        if (json_array_append_new(a, print_names(f->file + f->first[r], f->first[r + 1] - f->first[r])) != 0) {
            json_decref(a);
            return NULL;
        }
    return a;
}

static json_t *print_cut(const fqi_rank_cut *c, int tp)
{
    json_t *ranks = json_array();
    for (int r = 0; r < tp && ranks; r++) {
        json_t *one = c->range[r].n > 0 ? json_pack("[I, I]", (json_int_t)c->range[r].first, (json_int_t)c->range[r].n) : json_null();
        if (json_array_append_new(ranks, one) != 0) {
            json_decref(ranks);
            return NULL;
        }
    }
    return json_pack("{s:i, s:i, s:I, s:o}", "dim", c->dim, "parts", c->parts, "length", (json_int_t)c->length, "ranks", ranks);
}

static json_t *print_cuts(const fqi_rank_files *f)
{
    json_t *a = json_array();
    for (size_t i = 0; i < f->n_cut && a; i++)
        if (json_array_append_new(a, print_cut(f->cut[i], f->tp)) != 0) {
            json_decref(a);
            return NULL;
        }
    return a;
}

static json_t *print_shape(const fqi_rank_tensor *t)
{
    json_t *a = json_array();
    for (int d = 0; d < t->rank && a; d++)
        if (json_array_append_new(a, json_integer((json_int_t)t->shape[d])) != 0) {
            json_decref(a);
            return NULL;
        }
    return a;
}

static int cut_index(const fqi_rank_files *f, const fqi_rank_cut *c)
{
    for (size_t i = 0; i < f->n_cut; i++)
        if (f->cut[i] == c) return (int)i;
    return -1;
}

static json_t *print_tensor(const fqi_rank_files *f, const fqi_rank_tensor *t)
{
    json_t *o = json_object();
    const bool ok = o && fqi_record_put(o, "dtype", json_string(fq_dtype_name(t->dtype))) && fqi_record_put(o, "shape", print_shape(t)) &&
                    fqi_record_put(o, "file", json_integer((json_int_t)t->file)) && (!t->cut || fqi_record_put(o, "cut", json_integer(cut_index(f, t->cut)))) &&
                    (strcmp(t->in, t->name) == 0 || fqi_record_put(o, "in", json_string(t->in))) &&
                    (t->at_dim < 0 || fqi_record_put(o, "at", json_pack("[i, I]", t->at_dim, (json_int_t)t->at))) && fqi_record_put(o, "xxh3", fqi_record_hash(&t->hash));
    if (ok) return o;
    json_decref(o);
    return NULL;
}

static json_t *print_tensors(const fqi_rank_files *f)
{
    json_t *o = json_object();
    for (size_t i = 0; i < f->n_tensor && o; i++)
        if (!fqi_record_put(o, f->tensor[i].name, print_tensor(f, &f->tensor[i]))) {
            json_decref(o);
            return NULL;
        }
    return o;
}

static bool fill(json_t *o, const fqi_rank_files *f)
{
    const size_t rest = f->first[f->tp];
    return o && fqi_record_put(o, "fitq", json_string(FQ_VERSION)) && fqi_record_put(o, "schema", json_integer(SCHEMA)) && fqi_record_put(o, "tp", json_integer(f->tp)) &&
           fqi_record_put(o, "expert_parallel", json_boolean(f->expert_parallel)) && fqi_record_put(o, "names", json_string(f->engine_names ? "engine" : "checkpoint")) &&
           fqi_record_put(o, "ranks", print_ranks(f)) && (f->n_file == rest || fqi_record_put(o, "rest", print_names(f->file + rest, f->n_file - rest))) &&
           fqi_record_put(o, "source_files", print_names(f->source_file, f->n_source_file)) && fqi_record_put(o, "cuts", print_cuts(f)) && fqi_record_put(o, "tensors", print_tensors(f));
}

static int by_place(const void *a, const void *b)
{
    const fqi_rank_tensor *x = a, *y = b;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (x->off != y->off) return x->off < y->off ? -1 : 1;
    return strcmp(x->name, y->name);   /* some are of no bytes */
}

fq_status fqi_rank_files_print(fqi_rank_files *f, char **out, size_t *n, fq_err *e)
{
    qsort(f->tensor, f->n_tensor, sizeof *f->tensor, by_place);
    json_t *o = json_object();
    fqi_str text = { 0 };
    fq_status s = fill(o, f) ? fqi_record_seal(o, FQI_RANKS_FILE, e) : fqi_fail_nomem(e, FQI_RANKS_FILE);
    if (s == FQ_OK) s = fqi_json_print(o, JSON_INDENT(1), &text, e);
    json_decref(o);
    if (s != FQ_OK) {
        fqi_str_free(&text);
        return s;
    }
    *out = text.s;
    *n = text.len;
    return FQ_OK;
}

/* ---- reading ---- */

typedef struct reader { const char *path; fqi_rank_files *f; fq_err *e; } reader;

static fq_status bad(const reader *r, const char *found) { return fqi_fail(r->e, FQ_E_INPUT, FQI_FILE(r->path), "fitq-ranks", "found %s, expected what fitq shard wrote", found); }

static fq_status nomem(const reader *r) { return fqi_fail_nomem(r->e, FQI_RANKS_FILE); }

/* An integer in [min, max]. */
static bool number(const json_t *v, int64_t min, int64_t max, int64_t *out)
{
    *out = (int64_t)json_integer_value(v);
    return json_is_integer(v) && *out >= min && *out <= max;
}

static fq_status read_names(const reader *r, const json_t *a, const char **to, const char *what)
{
    for (size_t i = 0; i < json_array_size(a); i++) {
        const char *s = json_string_value(json_array_get(a, i));
        if (!s || !fqi_name_is_plain(s)) return bad(r, what);
        if (!(to[i] = fqi_arena_strdup(&r->f->arena, s))) return nomem(r);
    }
    return FQ_OK;
}

static fq_status read_files(const reader *r, const json_t *o)
{
    fqi_rank_files *f = r->f;
    const json_t *ranks = json_object_get(o, "ranks"), *rest = json_object_get(o, "rest"), *source = json_object_get(o, "source_files");
    static const char what[] = "a file that is no plain name";
    if (!json_is_array(ranks) || json_array_size(ranks) != (size_t)f->tp || (rest && !json_is_array(rest)) || !json_is_array(source)) return bad(r, "no list of files for each rank");
    f->n_file = json_array_size(rest);
    for (int k = 0; k < f->tp; k++) f->n_file += json_array_size(json_array_get(ranks, (size_t)k));
    f->n_source_file = json_array_size(source);
    f->file = fqi_arena_alloc(&f->arena, (f->n_file + 1) * sizeof *f->file);
    f->first = fqi_arena_alloc(&f->arena, ((size_t)f->tp + 2) * sizeof *f->first);
    f->source_file = fqi_arena_alloc(&f->arena, (f->n_source_file + 1) * sizeof *f->source_file);
    if (!f->file || !f->first || !f->source_file) return nomem(r);
    size_t at = 0;
    for (int k = 0; k < f->tp; k++) {
        const json_t *one = json_array_get(ranks, (size_t)k);
        f->first[k] = at;
        if (json_array_size(one) == 0) return bad(r, "a rank without files");
        FQI_TRY(read_names(r, one, f->file + at, what));
        at += json_array_size(one);
    }
    f->first[f->tp] = at;
    f->first[f->tp + 1] = f->n_file;
    FQI_TRY(read_names(r, rest, f->file + at, what));
    return read_names(r, source, f->source_file, what);
}

static fq_status read_cut(const reader *r, const json_t *o, fqi_rank_cut *c)
{
    fqi_range *range = fqi_arena_alloc(&r->f->arena, (size_t)r->f->tp * sizeof *range);
    const json_t *ranks = json_object_get(o, "ranks");
    int64_t dim, parts, length;
    if (!range) return nomem(r);
    if (!number(json_object_get(o, "dim"), -1, 2, &dim) || !number(json_object_get(o, "parts"), 1, 2, &parts) || !number(json_object_get(o, "length"), 1, MAX_LENGTH, &length) ||
        length % parts != 0 || json_array_size(ranks) != (size_t)r->f->tp || (dim < 0 && length != 1))
        return bad(r, "a cut without dim, parts, length and ranks");
    for (int k = 0; k < r->f->tp; k++) {
        const json_t *one = json_array_get(ranks, (size_t)k);
        range[k] = (fqi_range){ 0, 0 };
        if (json_is_null(one)) continue;
        if (!number(json_array_get(one, 0), 0, length, &range[k].first) || !number(json_array_get(one, 1), 1, length, &range[k].n) || range[k].n > length / parts - range[k].first)
            return bad(r, "a rank's part outside of its dimension");
    }
    *c = (fqi_rank_cut){ .dim = (int)dim, .parts = (int)parts, .length = length, .range = range };
    return FQ_OK;
}

static fq_status read_cuts(const reader *r, const json_t *a)
{
    fqi_rank_files *f = r->f;
    if (!json_is_array(a)) return bad(r, "no cuts");
    f->n_cut = json_array_size(a);
    f->cut = fqi_arena_alloc(&f->arena, (f->n_cut + 1) * sizeof *f->cut);
    fqi_rank_cut *cut = fqi_arena_alloc(&f->arena, (f->n_cut + 1) * sizeof *cut);
    if (!f->cut || !cut) return nomem(r);
    for (size_t i = 0; i < f->n_cut; i++) {
        FQI_TRY(read_cut(r, json_array_get(a, i), &cut[i]));
        f->cut[i] = &cut[i];
    }
    return FQ_OK;
}

static fq_status read_shape(const reader *r, const json_t *a, fqi_rank_tensor *t)
{
    if (!json_is_array(a) || json_array_size(a) > FQ_MAX_RANK) return bad(r, "a tensor without a shape");
    t->rank = (uint8_t)json_array_size(a);
    for (int d = 0; d < t->rank; d++)
        if (!number(json_array_get(a, (size_t)d), 0, MAX_LENGTH, &t->shape[d])) return bad(r, "a length that is no number");
    return FQ_OK;
}

static fq_status read_tensor(const reader *r, const char *name, const json_t *o, fqi_rank_tensor *t)
{
    fqi_rank_files *f = r->f;
    const json_t *cut = json_object_get(o, "cut"), *at = json_object_get(o, "at"), *in = json_object_get(o, "in");
    int64_t file, index, dim = -1;
    if (!(t->name = fqi_arena_strdup(&f->arena, name))) return nomem(r);
    t->in = t->name;
    if (in && (!json_is_string(in) || !(t->in = fqi_arena_strdup(&f->arena, json_string_value(in))))) return bad(r, "\"in\" other than a name");
    if (!fqi_record_dtype(json_string_value(json_object_get(o, "dtype")), &t->dtype)) return bad(r, "a tensor without a dtype");
    FQI_TRY(read_shape(r, json_object_get(o, "shape"), t));
    if (!number(json_object_get(o, "file"), 0, (int64_t)f->n_source_file - 1, &file)) return bad(r, "a tensor of a file that is not listed");
    t->file = (uint32_t)file;
    if (cut) {
        if (!number(cut, 0, (int64_t)f->n_cut - 1, &index)) return bad(r, "a tensor with a cut that is not listed");
        t->cut = f->cut[index];
        if (t->cut->dim >= 0 && (t->cut->dim >= t->rank || t->rank > 3 || t->shape[t->cut->dim] != t->cut->length)) return bad(r, "a cut of a dimension that the tensor does not have");
    }
    if (at && (!number(json_array_get(at, 0), 0, 2, &dim) || dim >= t->rank || t->rank > 3 || !number(json_array_get(at, 1), 0, MAX_LENGTH, &t->at))) return bad(r, "\"at\" other than a dimension and a place");
    t->at_dim = (int)dim;
    return fqi_record_hex(json_string_value(json_object_get(o, "xxh3")), 32, &t->hash.hi, &t->hash.lo) ? FQ_OK : bad(r, "a tensor hash that is not 32 hex digits");
}

static fq_status read_tensors(const reader *r, json_t *o)
{
    fqi_rank_files *f = r->f;
    const char *name;
    json_t *value;
    if (!json_is_object(o) || json_object_size(o) == 0) return bad(r, "no tensors");
    f->tensor = fqi_arena_alloc(&f->arena, json_object_size(o) * sizeof *f->tensor);
    if (!f->tensor) return nomem(r);
    json_object_foreach(o, name, value) {
        fqi_rank_tensor *t = &f->tensor[f->n_tensor++];
        *t = (fqi_rank_tensor){ 0 };
        FQI_TRY(read_tensor(r, name, value, t));
    }
    return FQ_OK;
}

static fq_status read_all(const reader *r, json_t *o)
{
    bool sound;
    int64_t n;
    const char *names;
    FQI_TRY(fqi_record_check(o, &sound, r->e));
    if (!sound) return bad(r, "values that do not match record_xxh3");
    if (!number(json_object_get(o, "schema"), SCHEMA, SCHEMA, &n)) return bad(r, "another schema");
    if (!number(json_object_get(o, "tp"), 1, MAX_TP, &n)) return bad(r, "no number of ranks");
    r->f->tp = (int)n;
    r->f->expert_parallel = json_is_true(json_object_get(o, "expert_parallel"));
    names = json_string_value(json_object_get(o, "names"));
    r->f->engine_names = names && strcmp(names, "engine") == 0;
    FQI_TRY(read_files(r, o));
    FQI_TRY(read_cuts(r, json_object_get(o, "cuts")));
    return read_tensors(r, json_object_get(o, "tensors"));
}

fq_status fqi_rank_files_load(const char *dir, fqi_rank_files *out, fq_err *e)
{
    char *path = fqi_path_join(dir, FQI_RANKS_FILE), *text = NULL;
    size_t n = 0;
    json_t *o = NULL;
    fqi_rank_files f = { 0 };
    if (!path) return fqi_fail_nomem(e, FQI_RANKS_FILE);
    fq_status s = FQ_OK;
    if (!fqi_path_exists(path)) s = fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "fitq-ranks", "found no such file, expected the record that fitq shard writes beside the ranks' files");
    if (s == FQ_OK) s = fqi_file_slurp(path, MAX_BYTES, &text, &n, e);
    if (s == FQ_OK) s = fqi_json_parse(text, n, path, &o, e);
    free(text);
    if (s == FQ_OK) s = read_all(&(reader){ .path = path, .f = &f, .e = e }, o);
    json_decref(o);
    free(path);
    if (s != FQ_OK) {
        fqi_rank_files_free(&f);
        return s;
    }
    *out = f;
    return FQ_OK;
}

void fqi_rank_files_free(fqi_rank_files *f)
{
    fqi_arena_free(&f->arena);
    *f = (fqi_rank_files){ 0 };
}
