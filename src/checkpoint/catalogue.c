/* catalogue.c - fq_ckpt: opening step by step, and what can be asked afterwards (see catalogue.h and opening.h).
 *
 * The catalogue is immutable once it is open, so any number of threads may read it. */
#include "checkpoint/catalogue.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint/opening.h"
#include "checkpoint/packed.h"

/* ---- open and close ------------------------------------------------------------------------------------------------ */

static fq_status open_steps(fqi_opening *o, fq_err *e)
{
    FQI_TRY(fqi_source_resolve(o, e));
    FQI_TRY(fqi_shards_read(o, e));
    FQI_TRY(fqi_soundness_check(o, e));
    o->c->n_error = fqi_findings_n_error(o->find);
    return fqi_findings_finish(o->find, o->path, &o->c->finding, &o->c->n_finding, e);
}

static fq_status open_into(fq_ckpt *c, const char *path, fq_err *e)
{
    c->priv = fqi_calloc(1, sizeof(fqi_ckpt_tables));
    c->info.path = fqi_arena_strdup(&c->arena, path);
    if (!c->priv || !c->info.path) return fqi_fail_nomem(e, "checkpoint");
    fqi_findings find = { .arena = &c->arena };
    fqi_opening o = { .c = c, .find = &find, .path = c->info.path };
    fq_status s = open_steps(&o, e);
    fqi_index_free(&o.index);
    free(o.index_text);
    free(o.file);
    free(o.shard_of_file);
    fqi_findings_free(&find);
    return s;
}

fq_status fq_ckpt_open(const char *path, const fq_run *run, fq_ckpt **out, fq_err *e)
{
    (void)run;   /* headers are small and read in order: there is nothing to report or to spread over threads */
    if (!path || !*path || !out) return fqi_fail(e, FQ_E_USAGE, NULL, NULL, "no path given");
    fq_ckpt *c = fqi_calloc(1, sizeof *c);
    if (!c) return fqi_fail_nomem(e, "checkpoint");
    fq_status s = open_into(c, path, e);
    if (s == FQ_OK) *out = c;
    else fq_ckpt_close(c);
    return s;
}

static fq_status open_apart(fq_ckpt *c, const char *dir, const char *const *file, size_t n, fq_err *e)
{
    c->priv = fqi_calloc(1, sizeof(fqi_ckpt_tables));
    c->info.path = c->dir = fqi_arena_strdup(&c->arena, dir);
    fqi_findings find = { .arena = &c->arena };
    fqi_opening o = { .c = c, .find = &find, .path = c->dir, .folder = true, .apart = true, .file = fqi_calloc(n + 1, sizeof *o.file), .n_file = n };
    fq_status s = c->priv && c->dir && o.file ? FQ_OK : fqi_fail_nomem(e, "list of files");
    for (size_t i = 0; i < n && s == FQ_OK; i++) o.file[i] = file[i];
    if (s == FQ_OK) s = fqi_shards_read(&o, e);
    c->n_error = fqi_findings_n_error(&find);
    if (s == FQ_OK) s = fqi_findings_finish(&find, dir, &c->finding, &c->n_finding, e);
    if (s == FQ_OK) s = fq_ckpt_check(c, e);
    free(o.file);
    free(o.shard_of_file);
    fqi_findings_free(&find);
    return s;
}

fq_status fqi_ckpt_open_apart(const char *dir, const char *const *file, size_t n, fq_ckpt **out, fq_err *e)
{
    fq_ckpt *c = fqi_calloc(1, sizeof *c);
    if (!c) return fqi_fail_nomem(e, "checkpoint");
    const fq_status s = open_apart(c, dir, file, n, e);
    if (s == FQ_OK) *out = c;
    else fq_ckpt_close(c);
    return s;
}

void fq_ckpt_close(fq_ckpt *c)
{
    if (!c) return;
    fqi_config_free(&c->config);
    fqi_tables_free(c->priv);
    free(c->shard);
    free(c->tensor);
    free(c->bound);
    fqi_arena_free(&c->arena);
    free(c);
}

/* ---- asking ----------------------------------------------------------------------------------------------------------- */

const fq_ckpt_info *fq_ckpt_get_info(const fq_ckpt *c) { return &c->info; }

static const char *role_of(const fq_ckpt *c, size_t i)
{
    if (!c->bound || !c->bound[i].canonical) return "";
    if (c->bound[i].row) return c->bound[i].row->role;
    fqi_bound b;
    if (fqi_packed_bind(c->config.family, &c->naming, c->tensor[i].name, &b)) return b.row->role;
    return "passed through";
}

void fq_ckpt_get_tensor(const fq_ckpt *c, size_t i, fq_tensor_info *out)
{
    const fqi_tensor *t = &c->tensor[i];
    *out = (fq_tensor_info){ .name = t->name, .shard = c->shard[t->shard].name, .dtype = (fq_dtype)t->dtype, .rank = t->rank,
                             .bytes = t->bytes, .role = role_of(c, i) };
    for (int d = 0; d < t->rank; d++) out->shape[d] = t->shape[d];
}

size_t fq_ckpt_n_finding(const fq_ckpt *c) { return c->n_finding; }

const fq_finding *fq_ckpt_get_finding(const fq_ckpt *c, size_t i) { return &c->finding[i]; }

fq_status fq_ckpt_check(const fq_ckpt *c, fq_err *e)
{
    if (c->n_error == 0) return FQ_OK;
    const fq_finding *f = &c->finding[0];
    fq_err text;
    if (c->n_error == 1) fqi_fail(&text, FQ_E_INPUT, NULL, NULL, "%s", f->text);
    else fqi_fail(&text, FQ_E_INPUT, NULL, NULL, "%s (and %zu more error%s: see fitq inspect)", f->text, c->n_error - 1, c->n_error == 2 ? "" : "s");
    size_t n = strlen(f->rule);
    if (n >= sizeof text.rule) n = sizeof text.rule - 1;
    memcpy(text.rule, f->rule, n);
    text.rule[n] = '\0';
    if (e) *e = text;
    return FQ_E_INPUT;
}

fq_status fqi_ckpt_check_model(const fq_ckpt *c, fq_err *e)
{
    FQI_TRY(fq_ckpt_check(c, e));
    if (c->partial) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "partial-checkpoint", "found one weight file of several, expected the folder or its index");
    if (!c->has_config) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "config-missing", "found no config.json beside the weights, expected one");
    if (!c->config.family) return fqi_family_unknown(c->info.model.model_type, c->info.path, e);
    if (!c->has_naming || !c->bound) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "prefix", "found no names of decoder layers, expected those of %s", c->config.family->name);
    return FQ_OK;
}
