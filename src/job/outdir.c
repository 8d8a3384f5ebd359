/* outdir.c - staging, lock, copied files and the commit of an output folder. See outdir.h. */
#include "job/outdir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static fq_status check_target(const fqi_outdir *o, const char *source_dir, fq_err *e)
{
    if (o->target[0] == '\0') return fqi_fail(e, FQ_E_USAGE, NULL, "target", "found an empty path, expected a folder to write");
    bool overlap;
    FQI_TRY(fqi_path_overlaps(source_dir, o->target, &overlap, e));
    if (overlap)
        return fqi_fail(e, FQ_E_IO, FQI_FILE(o->target), "target-is-source", "found the source folder, or one inside the other, expected a folder apart from it");
    if (!fqi_path_exists(o->target)) return FQ_OK;
    if (fqi_path_is_link(o->target))   /* the commit would refuse it, after the work */
        return fqi_fail(e, FQ_E_IO, FQI_FILE(o->target), "target-exists", "found a symbolic link, expected a path that is free");
    if (!fqi_path_is_dir(o->target))
        return fqi_fail(e, FQ_E_IO, FQI_FILE(o->target), "target-exists", "found something that is no folder, expected a path that is free");
    if (!o->overwrite)
        return fqi_fail(e, FQ_E_IO, FQI_FILE(o->target), "target-exists", "found an existing folder, expected a path that is free (or --overwrite)");
    return FQ_OK;
}

fq_status fqi_outdir_open(fqi_outdir *o, const char *source_dir, const char *target, bool overwrite, fq_err *e)
{
    fqi_outdir d = { .overwrite = overwrite, .target = without_slashes(target) };
    if (d.target) {
        d.staging = with_suffix(d.target, ".fitq-partial");
        d.lock = with_suffix(d.target, ".fitq-lock");
        if (d.staging) d.journal = fqi_path_join(d.staging, "fitq.journal");
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
        /* Without a journal it is not an unfinished output: killed between the exchange of the names and the removal, it is the
         * old output, whose files must not get into the new one. */
        if (resume && fqi_path_is_dir(o->staging) && fqi_path_exists(o->journal)) return FQ_OK;
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

/* ---- the rest of the folder ---- */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Weights in any container: another copy of the old model would contradict the new config.json. */
static bool is_weights(const char *name)
{
    static const char *const suffix[] = { ".safetensors", ".safetensors.index.json", ".gguf", ".pth", ".pt", ".h5", ".msgpack", ".ot", ".onnx", ".bin.index.json" };
    for (size_t i = 0; i < sizeof suffix / sizeof suffix[0]; i++)
        if (ends_with(name, suffix[i])) return true;
    return ends_with(name, ".bin") && (strncmp(name, "pytorch_model", 13) == 0 || strncmp(name, "model", 5) == 0 || strncmp(name, "consolidated", 12) == 0);
}

static bool is_written_by_us(const char *name) { return strcmp(name, "config.json") == 0 || strcmp(name, "fitq.json") == 0; }

static bool is_read_weights(const fq_ckpt *c, const char *name)
{
    for (size_t i = 0; i < c->n_shard; i++)
        if (strcmp(c->shard[i].name, name) == 0) return true;
    return ends_with(name, ".index.json");
}

static void say_left(const fq_run *run, const char *name)
{
    if (!run->log) return;
    char line[FQI_NAME_MAX + 80], shown[FQI_NAME_MAX + 1];
    snprintf(line, sizeof line, "not copied: %s (weights of the source model)", fqi_escape(shown, name));
    run->log(run->user, FQ_LOG_INFO, line);
}

#define MAX_DEPTH 8 /* of copied folders; deeper ones are refused, so that a loop of links ends */

static fq_status copy_tree(const char *from, const char *to, const fq_ckpt *c, const fq_run *run, int depth, fq_err *e);

static fq_status copy_entry(const char *from_dir, const char *to_dir, const fqi_dirent *x, const fq_ckpt *c, const fq_run *run, int depth, fq_err *e)
{
    if (x->name[0] == '.' && x->is_dir) return FQ_OK;   /* .git, .cache */
    if (depth == 0 && is_written_by_us(x->name)) return FQ_OK;
    if (x->is_file && is_weights(x->name)) {
        if (depth > 0 || !is_read_weights(c, x->name)) say_left(run, x->name);
        return FQ_OK;
    }
    char *from = fqi_path_join(from_dir, x->name), *to = fqi_path_join(to_dir, x->name);
    fq_status s = from && to ? FQ_OK : fqi_fail_nomem(e, "path");
    if (s == FQ_OK) s = fqi_remove_tree(to, e);   /* left by an interrupted run */
    if (s == FQ_OK && x->is_file) s = fqi_copy_file(from, to, e);
    else if (s == FQ_OK && x->is_dir) {
        s = fqi_mkdir(to, e);
        if (s == FQ_OK) s = copy_tree(from, to, c, run, depth + 1, e);
    }
    free(from);
    free(to);
    return s;
}

static fq_status copy_tree(const char *from, const char *to, const fq_ckpt *c, const fq_run *run, int depth, fq_err *e)
{
    if (depth > MAX_DEPTH) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(from), "folder-depth", "found folders nested deeper than %d", MAX_DEPTH);
    fqi_arena arena = { 0 };
    fqi_dirent *entry = NULL;
    size_t n = 0;
    fq_status s = fqi_dir_list(from, &arena, &entry, &n, e);
    for (size_t i = 0; i < n && s == FQ_OK; i++) s = copy_entry(from, to, &entry[i], c, run, depth, e);
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
        if (entry[i].is_file && (ends_with(entry[i].name, ".safetensors") || ends_with(entry[i].name, ".journal"))) continue;
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
    return copy_tree(c->dir, o->staging, c, run, 0, e);
}

/* ---- the end ---- */

fq_status fqi_outdir_commit(fqi_outdir *o, fq_err *e)
{
    FQI_TRY(fqi_remove_tree(o->journal, e));
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
