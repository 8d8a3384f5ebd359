/* eval.c - perplexity of a checkpoint over a text, and how far it is from a reference (fq_eval).
 *
 * Two streams in lockstep at most; everything that can be refused is refused before a weight is read. Only the logits of tokens count:
 * rows that fitting added behind a vocabulary are left out on both sides, so a padded model is compared, and scored, as the model that it
 * was (docs/padding.md 1.5). */
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "eval/stats.h"
#include "job/lockstep.h"
#include "job/rank_run.h"
#include "job/runnable.h"
#include "job/vocab.h"
#include "job/windows.h"

enum { CANDIDATE, REFERENCE };

typedef struct eval {
    const fq_eval_options *o;
    fq_run run;                     /* of this rank */
    fqi_comm *comm;
    fq_dtype served;
    fqi_runnable model[2]; size_t n_model;
    fqi_slice slice[2]; bool cut[2];
    fqi_windows win;
    fqi_eval_stats *stats;
    int n_thread;
    fq_eval_report report;
} eval;

static void say(const eval *v, fq_log_level level, const char *line)
{
    if (v->run.log) v->run.log(v->run.user, level, line);
}

/* ---- what is compared ------------------------------------------------------------------------------------------------ */

static fq_status choose_vocab(eval *v, fq_err *e)
{
    int64_t real[2] = { 0, 0 };
    char line[160];
    for (size_t i = 0; i < v->n_model; i++) FQI_TRY(fqi_vocab_real(v->model[i].ckpt, &real[i], e));
    if (v->n_model == 2 && real[CANDIDATE] != real[REFERENCE])
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(v->o->path), "vocab-size", "found a vocabulary of %lld and no map in fitq.json, expected the %lld of %.500s",
                        (long long)real[CANDIDATE], (long long)real[REFERENCE], v->o->reference);
    v->report.n_vocab = real[CANDIDATE];
    for (size_t i = 0; i < v->n_model; i++) {
        int64_t vocab = v->model[i].decoder.model.vocab_size;
        if (vocab == real[i]) continue;
        snprintf(line, sizeof line, "the vocabulary%s has %lld rows of padding: only the %lld real ones are scored", i == CANDIDATE ? "" : " of the reference", (long long)(vocab - real[i]),
                 (long long)real[i]);
        say(v, FQ_LOG_INFO, line);
    }
    return FQ_OK;
}

static bool has_tokenizer(const char *dir)
{
    char *path = fqi_path_join(dir, "tokenizer.json");
    bool there = path && fqi_path_exists(path);
    free(path);
    return there;
}

static fq_status make_windows(eval *v, fq_err *e)
{
    const char *dir = v->model[CANDIDATE].ckpt->dir;
    if (v->n_model == 2 && !has_tokenizer(dir) && has_tokenizer(v->model[REFERENCE].ckpt->dir)) dir = v->model[REFERENCE].ckpt->dir;
    if (fqi_comm_rank(v->comm) == 0) FQI_TRY(fqi_windows_make(&v->o->text, dir, v->report.n_vocab, false, &v->win, e));
    FQI_TRY(fqi_rank_windows(v->comm, &v->win, e));
    for (size_t i = 0; i < v->n_model; i++) fqi_runnable_warn_length(&v->model[i], (int64_t)v->win.n_context, &v->run);
    return FQ_OK;
}

/* ---- the ranks ------------------------------------------------------------------------------------------------------- */

static fq_status agree(eval *v, fq_err *e)
{
    const struct { int64_t served, exact, expert_parallel, pair; } options = { (int64_t)v->o->served, v->o->exact, v->run.expert_parallel, v->n_model == 2 };
    FQI_TRY(fqi_comm_same(v->comm, "set of options", &options, sizeof options, e));
    for (size_t i = 0; i < v->n_model; i++) FQI_TRY(fqi_rank_same_model(v->comm, v->model[i].ckpt, e));
    return FQ_OK;
}

/* A reference that does not divide, because it was not fitted, is run by rank 0 alone. */
static fq_status cut_models(eval *v, fq_err *e)
{
    for (size_t i = 0; i < v->n_model && v->comm; i++) {
        fq_err why = { 0 };
        const fq_status s = fqi_rank_slice(v->comm, &v->run, &v->model[i], &v->slice[i], &why);
        v->cut[i] = s == FQ_OK;
        if (v->cut[i]) continue;
        if (i == CANDIDATE) {
            if (e) *e = why;
            return s;
        }
        say(v, FQ_LOG_INFO, "the reference cannot be shared by that many ranks: rank 0 runs all of it");
    }
    return FQ_OK;
}

/* ---- the run ---------------------------------------------------------------------------------------------------------- */

static void on_layer(void *user, int64_t layer, const fqi_layer_diff diff[FQI_MAX_STREAM])
{
    eval *v = user;
    const fq_layer_diff d = { .layer = layer, .relative = diff->relative, .max_abs = diff->max_abs, .cosine = diff->cosine, .same_bits = diff->same_bits };
    if (v->o->on_layer) v->o->on_layer(v->o->user, &d);
}

static fq_status on_logits(void *user, size_t first, size_t n, const float *const logits[FQI_MAX_STREAM], const uint32_t *target, fq_err *e)
{
    eval *v = user;
    size_t stride[2] = { 0, 0 }, n_vocab = (size_t)v->report.n_vocab;
    (void)e;
    for (size_t i = 0; i < v->n_model; i++) stride[i] = (size_t)v->model[i].decoder.model.vocab_size;
#pragma omp parallel for num_threads(v->n_thread) schedule(static)
    for (size_t i = 0; i < n; i++)
        fqi_eval_stats_add(v->stats, first + i, logits[CANDIDATE] + i * stride[CANDIDATE], v->n_model == 2 ? logits[REFERENCE] + i * stride[REFERENCE] : NULL, n_vocab,
                           target[i]);
    return FQ_OK;
}

static fq_status run_lockstep(eval *v, fq_err *e)
{
    fqi_order order = v->o->exact ? FQI_ORDER_FIXED : FQI_ORDER_FAST;
    bool pair = v->n_model == 2;
    fqi_lockstep l = {
        .n_model = v->n_model, .n_stream = v->n_model, .served = v->served,
        .stream = { [CANDIDATE] = { CANDIDATE, order }, [REFERENCE] = { REFERENCE, order } },
        .n_pair = pair, .pair = { { .a = REFERENCE, .b = CANDIDATE } },
        .ids = v->win.ids, .n_window = v->win.n_window, .n_context = v->win.n_context, .first_scored = v->win.first_scored,
        .scratch_dir = v->o->scratch, .run = &v->run, .comm = v->comm, .phase = "eval", .extra_bytes = fqi_eval_stats_bytes(v->win.n_scored, pair),
    };
    for (size_t i = 0; i < v->n_model; i++) {
        l.ckpt[i] = v->model[i].ckpt;
        l.decoder[i] = &v->model[i].decoder;
        l.slice[i] = v->cut[i] ? &v->slice[i] : NULL;
    }
    fqi_lockstep_plan plan;
    const fqi_lockstep_watch watch = { .user = v, .layer = on_layer, .logits = on_logits };
    FQI_TRY(fqi_lockstep_plan_make(&l, &plan, e));
    if (fqi_comm_rank(v->comm) > 0) return fqi_lockstep_run(&l, &plan, &watch, e);
    FQI_TRY(fqi_eval_stats_create(v->win.n_scored, pair, &v->stats, e));   /* now that the budget is known to hold them */
    v->n_thread = plan.n_thread;
    fqi_lockstep_run_plan(&l, &plan, &v->report.plan);
    if (v->o->on_plan) v->o->on_plan(v->o->user, &v->report.plan);
    return fqi_lockstep_run(&l, &plan, &watch, e);
}

static fq_status run_eval(eval *v, fq_err *e)
{
    const char *path[2] = { v->o->path, v->o->reference };
    double start = fqi_now_seconds();
    v->n_model = v->o->reference ? 2 : 1;
    fqi_comm_phase(v->comm, "open");
    for (size_t i = 0; i < v->n_model; i++) FQI_TRY(fqi_runnable_open(path[i], &v->run, &v->model[i], e));
    FQI_TRY(agree(v, e));
    FQI_TRY(cut_models(v, e));
    FQI_TRY(choose_vocab(v, e));
    FQI_TRY(make_windows(v, e));
    double begin = fqi_now_seconds();
    FQI_TRY(run_lockstep(v, e));
    if (fqi_comm_rank(v->comm) > 0) return FQ_OK;
    fqi_eval_stats_report(v->stats, v->win.n_scored, &v->report);
    double end = fqi_now_seconds();
    v->report.n_layer = v->model[CANDIDATE].decoder.model.num_hidden_layers;
    v->report.seconds = end - start;
    v->report.tokens_per_second = end > begin ? (double)v->report.plan.n_token / (end - begin) : 0;
    return FQ_OK;
}

/* One rank's. */
typedef struct request { const fq_eval_options *o; const fq_run *run; fq_dtype served; fq_eval_report *report; } request;

static fq_status eval_rank(void *user, fqi_comm *comm, fq_err *e)
{
    const request *q = user;
    eval *v = fqi_calloc(1, sizeof *v);
    if (!v) return fqi_fail_nomem(e, "evaluation");
    v->o = q->o;
    v->comm = comm;
    v->served = q->served;
    fqi_rank_run(comm, q->run, &v->run);
    fq_status s = run_eval(v, e);
    if (s == FQ_OK && fqi_comm_rank(comm) == 0) *q->report = v->report;
    fqi_eval_stats_free(v->stats);
    fqi_windows_free(&v->win);
    for (size_t i = 0; i < 2; i++) fqi_runnable_free(&v->model[i]);
    free(v);
    return s;
}

fq_status fq_eval(const fq_eval_options *o, const fq_run *run, fq_eval_report *report, fq_err *e)
{
    static const fq_run default_run = { 0 };
    if (!o->path) return fqi_fail(e, FQ_E_USAGE, NULL, "path", "found no checkpoint, expected one");
    fq_eval_report made = { 0 };
    request q = { .o = o, .run = run ? run : &default_run, .report = &made };
    FQI_TRY(fqi_served_dtype(o->served, &q.served, e));
    FQI_TRY(fqi_ranks_run(q.run, eval_rank, &q, e));
    if (report) *report = made;
    return FQ_OK;
}
