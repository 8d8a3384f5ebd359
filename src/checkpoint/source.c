/* source.c - from the PATH a user gives to the list of files that make up the checkpoint (the rules are in catalogue.h).
 *
 * Nothing is opened here but the index: this file decides, shards.c reads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/opening.h"

#define ST_SUFFIX ".safetensors"
#define ST_INDEX_SUFFIX ".safetensors.index.json"
#define ST_INDEX "model.safetensors.index.json"
#define TORCH_FILE "pytorch_model"
#define TORCH_INDEX "pytorch_model.bin.index.json"

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n > t && strcmp(s + n - t, tail) == 0;
}

bool fqi_is_torch_name(const char *name) { return ends_with(name, ".bin") || ends_with(name, ".pt") || ends_with(name, ".pth"); }

static bool is_torch_weights(const char *name) { return strncmp(name, TORCH_FILE, strlen(TORCH_FILE)) == 0 && ends_with(name, ".bin"); }

/* models--X/snapshots/REVISION/name -> ../../blobs/HASH, recognised by where the folders lie. */
static fq_status is_hub_blob(const char *dir, const char *path, bool *yes, fq_err *e)
{
    char *snapshots = fqi_path_join(dir, "../../snapshots"), *blobs = fqi_path_join(dir, "../../blobs");
    fq_status s = snapshots && blobs ? fqi_path_is_inside(snapshots, dir, yes, e) : fqi_fail_nomem(e, "path");
    if (s == FQ_OK && *yes) s = fqi_path_is_inside(blobs, path, yes, e);
    free(snapshots);
    free(blobs);
    return s;
}

fq_status fqi_source_allows(const char *dir, const char *path, bool *allowed, fq_err *e)
{
    FQI_TRY(fqi_path_is_inside(dir, path, allowed, e));
    return *allowed ? FQ_OK : is_hub_blob(dir, path, allowed, e);
}

static fq_status add_file(fqi_opening *o, const char *name, fq_err *e)
{
    char *kept = fqi_arena_strdup(&o->c->arena, name);
    if (!kept || !fqi_grow((void **)&o->file, &o->cap_file, o->n_file + 1, sizeof *o->file)) return fqi_fail_nomem(e, "list of files");
    o->file[o->n_file++] = kept;
    return FQ_OK;
}

/* ---- index -------------------------------------------------------------------------------------------------------- */

/* An index that cannot be used is an error of its own; then no file is read, since nobody can say which ones belong. */
static fq_status take_index(fqi_opening *o, fq_err *e)
{
    fq_err why;
    size_t n;
    fq_status s = fqi_file_slurp(o->index_path, FQI_INDEX_MAX_BYTES, &o->index_text, &n, &why);
    if (s == FQ_OK) s = fqi_index_parse(o->index_text, n, o->index_path, &o->index, &why);
    if (s == FQ_E_INPUT) {
        fqi_finding_from(o->find, FQ_ERROR, &why);
        return FQ_OK;
    }
    if (s != FQ_OK) {
        if (e) *e = why;
        return s;
    }
    o->has_index = true;
    if (o->index.total_odd)
        FQI_FIND(o->find, FQ_NOTE, FQI_FILE(o->index_path), "total-size", "found no plain integer, expected the number of bytes of all tensors");
    for (size_t i = 0; i < o->index.n_file; i++) FQI_TRY(add_file(o, o->index.file[i], e));
    return FQ_OK;
}

static fq_status take_index_named(fqi_opening *o, const char *name, fq_err *e)
{
    o->index_path = fqi_arena_printf(&o->c->arena, "%s/%s", o->c->dir, name);
    if (!o->index_path) return fqi_fail_nomem(e, "path of the index");
    bool allowed;
    FQI_TRY(fqi_source_allows(o->c->dir, o->index_path, &allowed, e));
    if (!allowed) {
        FQI_FIND(o->find, FQ_ERROR, FQI_FILE(o->index_path), "link-leaves-folder", "found a link to something outside, expected a file in the folder");
        return FQ_OK;
    }
    return take_index(o, e);
}

static bool holds_name(const char *const *sorted, size_t n, const char *name)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(sorted[mid], name);
        if (c == 0) return true;
        if (c < 0) lo = mid + 1;
        else hi = mid;
    }
    return false;
}

/* ---- numbered files ------------------------------------------------------------------------------------------------ */

/* "model-00002-of-00004.safetensors": *n_stem = 5, *number = 2, *total = 4. */
static bool is_numbered(const char *name, size_t *n_stem, unsigned *number, unsigned *total)
{
    const char *of = strstr(name, "-of-");
    if (!of || of - name < 6) return false;
    char tail[8];
    if (sscanf(of - 6, "-%5u-of-%5u%7s", number, total, tail) != 3 || tail[0] != '.') return false;
    *n_stem = (size_t)(of - 6 - name);
    return *number >= 1 && *number <= *total;
}

/* Without an index, numbers in the names are all there is to tell that a file is missing. The list is in name order. */
static void check_numbers(fqi_opening *o)
{
    size_t n_stem;
    unsigned number, total;
    for (size_t i = 0; i < o->n_file; i++) {
        if (!is_numbered(o->file[i], &n_stem, &number, &total)) continue;
        const char *suffix = strstr(o->file[i], "-of-") + 9;
        for (unsigned k = 1; k <= total; k++) {
            char name[512];
            int n = snprintf(name, sizeof name, "%.*s-%05u-of-%05u%s", (int)n_stem, o->file[i], k, total, suffix);
            if (n < 0 || (size_t)n >= sizeof name || holds_name(o->file, o->n_file, name)) continue;
            char shown[FQI_NAME_MAX + 1];
            FQI_FIND(o->find, FQ_ERROR, FQI_FILE(o->c->dir), "shard-missing", "found no %s, expected all %u numbered files", fqi_escape(shown, name), total);
        }
        return;   /* one numbering per folder; a second one shows up as duplicate tensors */
    }
}

/* ---- files of ranks ------------------------------------------------------------------------------------------------- */

bool fqi_is_rank_file(const char *name)
{
    int n = 0;
    unsigned rank, part;
    return sscanf(name, "model-rank-%5u-part-%5u.safetensors%n", &rank, &part, &n) == 2 && n > 0 && name[n] == '\0';
}

/* Each holds a part of every layer under the same names: read as one checkpoint they would be a heap of errors. */
static bool find_ranks(fqi_opening *o, const fqi_dirent *entry, size_t n)
{
    const char *first = NULL;
    bool ours = false;
    char shown[FQI_NAME_MAX + 1];
    for (size_t i = 0; i < n; i++) {
        if (!first && fqi_is_rank_file(entry[i].name)) first = entry[i].name;
        ours = ours || strcmp(entry[i].name, FQI_RANKS_FILE) == 0;
    }
    if (first)
        FQI_FIND(o->find, FQ_ERROR, FQI_FILE(o->c->dir), "rank-files", "found %s, which has one rank's part of the weights, expected a checkpoint; %s", fqi_escape(shown, first),
                 ours ? "`fitq unshard` puts the parts together" : "there is no " FQI_RANKS_FILE ", which `fitq shard` writes, so nothing says how they were cut");
    return first != NULL;
}

/* ---- folder -------------------------------------------------------------------------------------------------------- */

typedef struct listing {
    fqi_dirent *entry; size_t n;
    const char *st_index;      /* usual name, or the only one */
    size_t n_st_index, n_st;
    bool torch_index;
    size_t n_torch;
} listing;

static listing look_around(fqi_dirent *entry, size_t n)
{
    listing l = { .entry = entry, .n = n };
    for (size_t i = 0; i < n; i++) {
        const char *name = entry[i].name;
        if (entry[i].is_dir) continue;
        if (ends_with(name, ST_INDEX_SUFFIX)) {
            l.n_st_index++;
            if (!l.st_index || strcmp(name, ST_INDEX) == 0) l.st_index = name;
        }
        l.n_st += ends_with(name, ST_SUFFIX);
        l.torch_index |= strcmp(name, TORCH_INDEX) == 0;
        l.n_torch += is_torch_weights(name);
    }
    return l;
}

static void warn_stale(fqi_opening *o, const listing *l, bool torch)
{
    for (size_t i = 0; i < l->n; i++) {
        const char *name = l->entry[i].name;
        bool weights = torch ? is_torch_weights(name) : ends_with(name, ST_SUFFIX);
        if (!weights || l->entry[i].is_dir || holds_name(o->index.file, o->index.n_file, name)) continue;
        char *path = fqi_arena_printf(&o->c->arena, "%s/%s", o->c->dir, name);
        FQI_FIND(o->find, FQ_WARNING, FQI_FILE(path), "stale-file",
                 "found weights that the index does not name, expected none: they are not read, and a reader without an index would mix them in");
    }
}

static fq_status take_all(fqi_opening *o, const listing *l, bool torch, fq_err *e)
{
    for (size_t i = 0; i < l->n; i++) {
        const char *name = l->entry[i].name;
        bool weights = torch ? is_torch_weights(name) : ends_with(name, ST_SUFFIX);
        if (weights && !l->entry[i].is_dir) FQI_TRY(add_file(o, name, e));
    }
    check_numbers(o);
    return FQ_OK;
}

/* Weights that are a folder are no weights; but "no weights" of a folder that shows the name would be a riddle. */
static void find_nothing(fqi_opening *o, const listing *l)
{
    for (size_t i = 0; i < l->n; i++) {
        const char *name = l->entry[i].name;
        if (!ends_with(name, ST_SUFFIX) && !is_torch_weights(name)) continue;   /* nothing but folders has such a name here */
        FQI_FIND(o->find, FQ_ERROR, FQI_FILE(fqi_arena_printf(&o->c->arena, "%s/%s", o->c->dir, name)), "file-kind", "found a folder, expected a regular file");
        return;
    }
    FQI_FIND(o->find, FQ_ERROR, FQI_FILE(o->c->dir), "no-weights", "found no *.safetensors and no pytorch_model*.bin, expected weights");
}

static const char *choose_st_index(fqi_opening *o, const listing *l)
{
    if (!l->st_index || strcmp(l->st_index, ST_INDEX) == 0) return l->st_index;
    char shown[FQI_NAME_MAX + 1];
    if (l->n_st_index == 1) {
        FQI_FIND(o->find, FQ_NOTE, FQI_FILE(o->c->dir), "index-name", "found %s, expected " ST_INDEX ": it is used", fqi_escape(shown, l->st_index));
        return l->st_index;
    }
    FQI_FIND(o->find, FQ_ERROR, FQI_FILE(o->c->dir), "index-ambiguous", "found %zu files *" ST_INDEX_SUFFIX ", expected one (give its path)", l->n_st_index);
    return NULL;
}

static fq_status take_folder(fqi_opening *o, fq_err *e)
{
    fqi_dirent *entry;
    size_t n;
    FQI_TRY(fqi_dir_list(o->c->dir, &o->c->arena, &entry, &n, e));
    if (find_ranks(o, entry, n)) return FQ_OK;
    listing l = look_around(entry, n);
    const char *index = choose_st_index(o, &l);
    bool st = index || l.n_st > 0;
    if (st && (l.n_torch > 0 || l.torch_index))
        FQI_FIND(o->find, FQ_NOTE, FQI_FILE(o->c->dir), "two-containers", "found safetensors and pytorch_model*.bin: the safetensors are read");
    if (!st && l.torch_index) index = TORCH_INDEX;
    if (index) {
        FQI_TRY(take_index_named(o, index, e));
        if (o->has_index) warn_stale(o, &l, !st);
        return FQ_OK;
    }
    FQI_TRY(take_all(o, &l, !st, e));
    if (o->n_file == 0) find_nothing(o, &l);
    return FQ_OK;
}

/* ---- one file ------------------------------------------------------------------------------------------------------ */

/* *yes: the index at `name` of the folder lists `file` and others. Any index that says so counts; one that cannot be read says
 * nothing, since the user asked for the file. Only want of memory fails. */
static fq_status lists_others(const fqi_opening *o, const char *name, const char *file, bool *yes, fq_err *e)
{
    char *path = fqi_path_join(o->c->dir, name), *text = NULL;
    size_t n;
    fqi_index x = { 0 };
    bool allowed = false;
    fq_status s = path ? fqi_source_allows(o->c->dir, path, &allowed, e) : fqi_fail_nomem(e, "path");
    if (s == FQ_OK && allowed) s = fqi_file_slurp(path, FQI_INDEX_MAX_BYTES, &text, &n, e);
    if (s == FQ_OK && allowed) s = fqi_index_parse(text, n, path, &x, e);
    *yes = s == FQ_OK && x.n_file > 1 && holds_name(x.file, x.n_file, file);
    fqi_index_free(&x);
    free(text);
    free(path);
    return s == FQ_E_NOMEM ? s : FQ_OK;
}

/* A folder that may be searched but not listed is no reason to fail: the file itself can be opened. */
static fq_status is_one_of_several(fqi_opening *o, const char *name, bool *yes, fq_err *e)
{
    size_t n_stem, n = 0;
    unsigned number, total;
    fqi_dirent *entry;
    *yes = is_numbered(name, &n_stem, &number, &total) && total > 1;
    if (*yes) return FQ_OK;
    fq_status s = fqi_dir_list(o->c->dir, &o->c->arena, &entry, &n, e);
    if (s != FQ_OK) return s == FQ_E_NOMEM ? s : FQ_OK;
    for (size_t i = 0; i < n && !*yes; i++) {
        const char *other = entry[i].name;
        bool index = ends_with(other, ST_INDEX_SUFFIX) || strcmp(other, TORCH_INDEX) == 0;
        if (index && !entry[i].is_dir) FQI_TRY(lists_others(o, other, name, yes, e));
    }
    return FQ_OK;
}

static fq_status take_file(fqi_opening *o, const char *name, fq_err *e)
{
    o->single = true;
    FQI_TRY(is_one_of_several(o, name, &o->c->partial, e));
    return add_file(o, name, e);
}

fq_status fqi_source_resolve(fqi_opening *o, fq_err *e)
{
    fqi_arena *a = &o->c->arena;
    if (fqi_path_is_dir(o->path)) {
        size_t n = strlen(o->path);
        while (n > 1 && o->path[n - 1] == '/') n--;
        o->folder = true;
        o->c->dir = fqi_arena_strndup(a, o->path, n);
        if (!o->c->dir) return fqi_fail_nomem(e, "path");
        return take_folder(o, e);
    }
    fqi_file f;
    FQI_TRY(fqi_file_open(&f, o->path, FQ_IO_BUFFERED, e));   /* refuses what is not a regular file */
    fqi_file_close(&f);
    const char *slash = strrchr(o->path, '/'), *name = slash ? slash + 1 : o->path;
    o->c->dir = !slash ? fqi_arena_strdup(a, ".") : slash == o->path ? fqi_arena_strdup(a, "/") : fqi_arena_strndup(a, o->path, (size_t)(slash - o->path));
    o->index_path = fqi_arena_strdup(a, o->path);
    if (!o->c->dir || !o->index_path) return fqi_fail_nomem(e, "path");
    if (ends_with(name, ".json")) return take_index(o, e);
    if (ends_with(name, ST_SUFFIX) || fqi_is_torch_name(name)) return take_file(o, name, e);
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(o->path), "file-type", "found no known ending, expected a folder, .safetensors, .bin or index.json");
}
