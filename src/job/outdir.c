/* outdir.c - staging, lock, copied files and the commit of an output folder. See outdir.h. */
#include "job/outdir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_KEPT ((uint64_t)1 << 32)
#define JOURNAL "fitq.journal"

static char *with_suffix(const char *path, const char *suffix)
{
    fqi_str s = { 0 };
    fqi_str_puts(&s, path);
    fqi_str_puts(&s, suffix);
    if (s.failed) { fqi_str_free(&s); return NULL; }
    return s.s;
}

static char *without_slashes(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    return strndup(path, n);
}

/* Bytes that the longest name beside the target has more than it: TARGET.fitq-lock.PID, for a moment. */
#define N_EXTRA (sizeof ".fitq-lock.2147483647" - 1)

static bool is_written_by_us(const char *name) { return strcmp(name, "config.json") == 0 || strcmp(name, "fitq.json") == 0; }

/* A mistyped -o with --overwrite must not cost a folder of photographs. */
static fq_status check_replaceable(const char *target, fq_err *e)
{
    fqi_arena arena = { 0 };
    fqi_dirent *entry = NULL;
    size_t n = 0;
    fq_status s = fqi_dir_list(target, &arena, &entry, &n, e);
    bool ours = s == FQ_OK && n == 0;
    for (size_t i = 0; i < n && !ours; i++) ours = entry[i].is_file && (is_written_by_us(entry[i].name) || strcmp(entry[i].name, "adapter_config.json") == 0);
    fqi_arena_free(&arena);
    if (s != FQ_OK || ours) return s;
    return fqi_fail(e, FQ_E_IO, FQI_FILE(target), "target-foreign", "found a folder with neither config.json nor fitq.json, expected a model or an empty folder to replace");
}

static fq_status check_existing(const fqi_outdir *o, fq_err *e)
{
    if (!fqi_path_exists(o->target)) return FQ_OK;
    if (fqi_path_is_link(o->target))   /* the commit would refuse it, after the work */
        return fqi_fail(e, FQ_E_IO, FQI_FILE(o->target), "target-exists", "found a symbolic link, expected a path that is free");
    if (!fqi_path_is_dir(o->target))
        return fqi_fail(e, FQ_E_IO, FQI_FILE(o->target), "target-exists", "found something that is no folder, expected a path that is free");
    if (!o->overwrite)
        return fqi_fail(e, FQ_E_IO, FQI_FILE(o->target), "target-exists", "found an existing folder, expected a path that is free (or --overwrite)");
    return check_replaceable(o->target, e);
}

static fq_status check_target(const fqi_outdir *o, const char *source_dir, fq_err *e)
{
    const char *slash = strrchr(o->target, '/'), *name = slash ? slash + 1 : o->target;
    if (o->target[0] == '\0') return fqi_fail(e, FQ_E_USAGE, NULL, "target", "found an empty path, expected a folder to write");
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)   /* cannot be renamed, and the names beside it would be hidden ones */
        return fqi_fail(e, FQ_E_USAGE, FQI_FILE(o->target), "target", "found a path that ends in \"%s\", expected one that ends in the name of a folder", name);
    FQI_TRY(fqi_path_check_place(o->target, N_EXTRA, e));
    bool overlap;
    FQI_TRY(fqi_path_overlaps(source_dir, o->target, &overlap, e));
    if (overlap)
        return fqi_fail(e, FQ_E_IO, FQI_FILE(o->target), "target-is-source", "found the source folder, or one inside the other, expected a folder apart from it");
    return check_existing(o, e);
}

fq_status fqi_outdir_open(fqi_outdir *o, const char *source_dir, const char *target, bool overwrite, fq_err *e)
{
    fqi_outdir d = { .overwrite = overwrite, .target = without_slashes(target) };
    if (d.target) {
        d.staging = with_suffix(d.target, ".fitq-partial");
        d.lock = with_suffix(d.target, ".fitq-lock");
        if (d.staging) d.journal = fqi_path_join(d.staging, JOURNAL);
    }
    fq_status s = d.target && d.staging && d.lock && d.journal ? FQ_OK : fqi_fail_nomem(e, "path");
    if (s == FQ_OK) s = check_target(&d, source_dir, e);
    if (s == FQ_OK) s = fqi_lock(d.lock, e);
    if (s != FQ_OK) { fqi_outdir_close(&d, FQ_E_RESUME); return s; }
    d.locked = true;
    *o = d;
    return FQ_OK;
}

fq_status fqi_outdir_begin(const fqi_outdir *o, bool resume, const fq_run *run, fq_err *e)
{
    if (fqi_path_exists(o->staging)) {
        /* Through a link the job would write into a folder that nobody named, and the commit would put the link in place. */
        bool link = fqi_path_is_link(o->staging);
        if (link || !fqi_path_is_dir(o->staging))
            return fqi_fail(e, FQ_E_IO, FQI_FILE(o->staging), "partial-kind", "found %s, expected the folder of an unfinished output or nothing", link ? "a symbolic link" : "something that is no folder");
        /* Without a journal it is not an unfinished output: killed between the exchange of the names and the removal, it is the
         * old output, whose files must not get into the new one. */
        if (resume && fqi_path_exists(o->journal)) return FQ_OK;
        if (!resume && run->log) run->log(run->user, FQ_LOG_WARN, "discarding the unfinished output of an earlier run (--resume would continue it)");
        FQI_TRY(fqi_remove_tree(o->staging, e));
    }
    return fqi_mkdir(o->staging, e);
}

/* Written in place, without a temporary name: nothing here is visible before the commit, and a run that is killed must not leave
 * names that the next one does not know. */
fq_status fqi_outdir_write(const fqi_outdir *o, const char *name, const char *text, size_t n, fq_err *e)
{
    char *path = fqi_path_join(o->staging, name);
    fqi_writer w = { 0 };
    if (!path) return fqi_fail_nomem(e, "path");
    fq_status s = fqi_remove_tree(path, e);
    if (s == FQ_OK) s = fqi_writer_open(&w, path, n, 0, FQ_IO_BUFFERED, e);
    if (s == FQ_OK) s = fqi_writer_put(&w, text, n, e);
    if (s == FQ_OK) s = fqi_writer_close(&w, e);
    else fqi_writer_abandon(&w);
    free(path);
    return s;
}

fq_status fqi_outdir_keep(const char *dir, const char *name, char **out, size_t *n, fq_err *e)
{
    char *path = fqi_path_join(dir, name);
    fq_status s = path ? FQ_OK : fqi_fail_nomem(e, "path");
    if (s == FQ_OK && fqi_path_exists(path)) s = fqi_file_slurp(path, MAX_KEPT, out, n, e);
    free(path);
    return s;
}

/* ---- the rest of the folder ---- */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* What a job keeps in the staging folder while it writes: of the source's folder it is not copied. */
static bool is_own(const char *name) { return strcmp(name, JOURNAL) == 0 || strcmp(name, FQI_ORDER_FILE) == 0 || strcmp(name, FQI_REPORTS_FILE) == 0; }

/* Weights in any container: another copy of the old model would contradict the new config.json. */
static bool is_weights(const char *name)
{
    static const char *const stem[] = { "pytorch_model", "model", "consolidated" };
    static const char *const suffix[] = { ".safetensors", ".safetensors.index.json", ".gguf", ".pth", ".pt", ".h5", ".msgpack", ".ot", ".onnx", ".bin.index.json" };
    for (size_t i = 0; i < sizeof suffix / sizeof suffix[0]; i++)
        if (ends_with(name, suffix[i])) return true;
    if (!ends_with(name, ".bin")) return false;
    for (size_t i = 0; i < sizeof stem / sizeof stem[0]; i++) {   /* model.bin and model-00001-of-00002.bin, not model_card.bin */
        size_t n = strlen(stem[i]);
        if (strncmp(name, stem[i], n) == 0 && (name[n] == '.' || name[n] == '-')) return true;
    }
    return false;
}

/* Read by the job: the new weights take its place. */
static bool is_read(const fq_ckpt *c, const char *name)
{
    for (size_t i = 0; i < c->n_shard; i++)
        if (strcmp(c->shard[i].name, name) == 0) return true;
    return c->n_shard > 0 && ends_with(name, c->shard[0].torch ? ".bin.index.json" : ".safetensors.index.json");
}

static bool is_left(const fqi_outdir *o, const char *name)
{
    for (size_t i = 0; i < o->n_leave; i++)
        if (strcmp(o->leave[i], name) == 0) return true;
    return false;
}

typedef struct copying { const fqi_outdir *o; const fq_ckpt *c; const fq_run *run; } copying;

/* Why an entry is left out; "" when there is nothing to say about it, NULL when it is copied. */
static const char *why_not(const copying *k, bool top, const fqi_dirent *x)
{
    if (top && (is_written_by_us(x->name) || is_read(k->c, x->name) || is_left(k->o, x->name))) return "";
    if (top && is_own(x->name)) return "fitq keeps a file of its own under this name";
    if (x->is_dir && x->is_link) return "a link to a folder";
    if (x->is_dir) return x->name[0] == '.' ? "a hidden folder" : NULL;
    if (!x->is_file) return x->is_link ? "a link to no file" : "neither a file nor a folder";
    return is_weights(x->name) ? "weights of the source model" : NULL;
}

static void say_left(const fq_run *run, const char *inside, const char *why)
{
    if (!run->log || *why == '\0') return;
    char line[FQI_NAME_MAX + 80], shown[FQI_NAME_MAX + 1];
    snprintf(line, sizeof line, "not copied: %s (%s)", fqi_escape(shown, inside), why);
    run->log(run->user, FQ_LOG_INFO, line);
}

static fq_status copy_tree(const copying *k, const char *from, const char *to, const char *inside, fq_err *e);

/* Folders get the usual mode: one that its owner may not write to could not be filled. */
static fq_status copy_one(const copying *k, const char *from, const char *to, const char *inside, const fqi_dirent *x, fq_err *e)
{
    FQI_TRY(fqi_remove_tree(to, e));   /* left by an interrupted run */
    if (!x->is_dir) return fqi_copy_file(from, to, e);
    FQI_TRY(fqi_mkdir(to, e));
    return copy_tree(k, from, to, inside, e);
}

/* inside: path from the source folder on, "" for itself. */
static fq_status copy_entry(const copying *k, const char *from_dir, const char *to_dir, const char *inside_dir, const fqi_dirent *x, fq_err *e)
{
    char *inside = fqi_path_join(inside_dir, x->name), *from = NULL, *to = NULL;
    const char *why = why_not(k, *inside_dir == '\0', x);
    fq_status s = inside ? FQ_OK : fqi_fail_nomem(e, "path");
    if (s == FQ_OK && why) say_left(k->run, inside, why);
    else if (s == FQ_OK) {
        from = fqi_path_join(from_dir, x->name);
        to = fqi_path_join(to_dir, x->name);
        s = from && to ? copy_one(k, from, to, inside, x, e) : fqi_fail_nomem(e, "path");
    }
    free(inside);
    free(from);
    free(to);
    return s;
}

/* Real folders only, so the depth ends where paths become too long for the system. */
static fq_status copy_tree(const copying *k, const char *from, const char *to, const char *inside, fq_err *e)
{
    fqi_arena arena = { 0 };
    fqi_dirent *entry = NULL;
    size_t n = 0;
    fq_status s = fqi_dir_list(from, &arena, &entry, &n, e);
    for (size_t i = 0; i < n && s == FQ_OK; i++) s = copy_entry(k, from, to, inside, &entry[i], e);
    if (s == FQ_OK) s = fqi_sync_dir(to, e);
    fqi_arena_free(&arena);
    return s;
}

/* What a killed run may have left beside shards and journal (temporary names, half a copy) is made again. */
static fq_status sweep(const fqi_outdir *o, fq_err *e)
{
    fqi_arena arena = { 0 };
    fqi_dirent *entry = NULL;
    size_t n = 0;
    fq_status s = fqi_dir_list(o->staging, &arena, &entry, &n, e);
    for (size_t i = 0; i < n && s == FQ_OK; i++) {
        if ((is_own(entry[i].name) || ends_with(entry[i].name, ".safetensors")) && entry[i].is_file && !entry[i].is_link) continue;
        char *path = fqi_path_join(o->staging, entry[i].name);
        s = path ? fqi_remove_tree(path, e) : fqi_fail_nomem(e, "path");
        free(path);
    }
    fqi_arena_free(&arena);
    return s;
}

fq_status fqi_outdir_copy_rest(const fqi_outdir *o, const fq_ckpt *c, const fq_run *run, fq_err *e)
{
    FQI_TRY(sweep(o, e));
    return copy_tree(&(copying){ .o = o, .c = c, .run = run }, c->dir, o->staging, "", e);
}

/* ---- the end ---- */

static fq_status remove_reports(const fqi_outdir *o, fq_err *e)
{
    char *path = fqi_path_join(o->staging, FQI_REPORTS_FILE);
    fq_status s = path ? fqi_remove_tree(path, e) : fqi_fail_nomem(e, "path");
    free(path);
    return s;
}

fq_status fqi_outdir_commit(fqi_outdir *o, fq_err *e)
{
    FQI_TRY(check_existing(o, e));   /* before the journal goes: a refused commit can still be resumed */
    FQI_TRY(fqi_remove_tree(o->journal, e));
    FQI_TRY(remove_reports(o, e));
    FQI_TRY(fqi_sync_dir(o->staging, e));
    return fqi_commit_dir(o->staging, o->target, o->overwrite, e);
}

/* Only what the system did to us can be continued; a bad input would fail again in the same place. */
static bool keep_staging(fq_status outcome)
{
    return outcome == FQ_E_IO || outcome == FQ_E_NOMEM || outcome == FQ_E_CANCELLED || outcome == FQ_E_RESUME;
}

void fqi_outdir_close(fqi_outdir *o, fq_status outcome)
{
    if (!o) return;
    if (o->locked && outcome != FQ_OK && !keep_staging(outcome)) fqi_remove_tree(o->staging, NULL);
    if (o->locked) fqi_unlock(o->lock);
    free(o->target);
    free(o->staging);
    free(o->lock);
    free(o->journal);
    *o = (fqi_outdir){ 0 };
}
