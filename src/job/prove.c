/* prove.c - fq_verify: the whole proof that B is the model that A is. Weights first, then numbers.
 *
 *     weights    fq_verify_weights: every element, under the maps in B's fitq.json
 *     numbers    both models over the same tokens, each in fixed and in fast order of summation: four streams in lockstep
 *
 *         A fixed --- B fixed     the claim: the same bits, or what is left of the difference
 *            |
 *         A fast  --- B fast      what an engine would see of it; and A against itself (the vertical line): what order alone does
 *
 * The scale for a difference is measured, not chosen: how far A is from itself when its sums are only ordered another way, times
 * 16. Weights that were compared and are wrong decide, whatever the numbers say: a text shows only what it touches. Where weights cannot be
 * compared, agreement of numbers is a statement about this text and is called that.
 *
 * On several ranks both models are cut as engines would cut them, or, if A was not fitted and cannot be, A runs whole on rank 0. Sums have another
 * order then, so fixed order does not give the same bits; rank 0 alone compares weights and judges.
 *
 * Not done here: reading what an engine makes of config.json. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "eval/stats.h"
#include "job/lockstep.h"
#include "job/rank_run.h"
#include "job/runnable.h"
#include "job/vocab.h"
#include "job/windows.h"

#define BOUND_FACTOR 16.0
#define RANDOM_CONTEXT 256
#define RANDOM_WINDOWS 2

enum { A_FIXED, B_FIXED, A_FAST, B_FAST, N_STREAM };
enum { PAIR_FIXED, PAIR_NOISE, PAIR_FAST, N_PAIR };

typedef struct prove {
    const fq_verify_options *o;
    fq_run run;                     /* of this rank */
    fqi_comm *comm;
    fqi_slice slice_a, slice_b; bool cut_a;
    fq_dtype served;
    int n_thread;
    fqi_runnable a, b;
    fqi_windows win;
    fqi_lockstep lockstep;
    fqi_lockstep_plan plan;
    int64_t vocab_b;                /* logits of B; those of A may be more than n_vocab too */
    int64_t vocab_a;
    fqi_eval_stats *padding, *noise;
    bool finite;
    fq_err weights_err;             /* the first difference of the weights */
    fq_proof proof;
} prove;

/* The least difference that order alone is taken to make, relative: one rounding to the dtype, of fp32 a few. */
static const double served_unit[] = { [FQ_SERVED_F32] = 0x1p-22, [FQ_SERVED_BF16] = 0x1p-8, [FQ_SERVED_FP16] = 0x1p-11 };

/* ---- weights ------------------------------------------------------------------------------------------------------- */

static void set_why(prove *p, const char *text)
{
    size_t n = strnlen(text, sizeof p->proof.why_not - 1);
    memcpy(p->proof.why_not, text, n);
    p->proof.why_not[n] = '\0';
}

/* Maps lead from an unfitted checkpoint to B. Without any, or with an A that has some of its own, a tensor of another name or shape is
 * not wrong but unknown. */
static bool maps_apply(const prove *p) { return p->b.ckpt->info.fitted && !p->a.ckpt->info.fitted; }

/* Codes against the weights that they were made from: nothing is the same, and nothing is wrong. */
static bool weights_rounded(const prove *p)
{
    return (p->a.ckpt->info.model.quant != FQ_QUANT_NONE) != (p->b.ckpt->info.model.quant != FQ_QUANT_NONE);
}

static fq_status say_rounded(prove *p)
{
    char why[sizeof p->proof.why_not], shown[FQI_NAME_MAX + 1];
    const fq_ckpt_info *a = &p->a.ckpt->info, *b = &p->b.ckpt->info, *i = b->model.quant != FQ_QUANT_NONE ? b : a;
    const bool both = a->model.quant != FQ_QUANT_NONE && b->model.quant != FQ_QUANT_NONE;
    snprintf(why, sizeof why, both ? "%.200s is quantized with \"%.100s\", and so is the other one: codes are not compared" : "%.200s is quantized with \"%.100s\": no weight is the same",
             i->path, fqi_escape(shown, i->model.quant_name));
    set_why(p, why);
    return FQ_OK;
}

static fq_status compare_weights(prove *p, fq_err *e)
{
    if (weights_rounded(p)) return say_rounded(p);
    fq_verify_report *w = &p->proof.weights;
    fq_run run = p->run;
    if (run.memory_bytes > (UINT64_C(128) << 20)) run.memory_bytes = 0;   /* there it bounds buffers, here the whole process */
    fq_status s = fq_verify_weights(p->o->a, p->o->b, &run, w, &p->weights_err);
    if (s == FQ_E_INPUT && strcmp(p->weights_err.rule, "quantized") == 0) return say_rounded(p);   /* both are, and fitq.json says that B was rounded */
    if (s != FQ_OK && s != FQ_E_DIFFERS) {
        if (e) *e = p->weights_err;
        return s;
    }
    p->proof.weights_same = s == FQ_OK;
    p->proof.weights_compared = s == FQ_OK || maps_apply(p) || w->n_tensor_form == 0;
    if (p->proof.weights_compared) return FQ_OK;
    char why[sizeof p->proof.why_not];
    snprintf(why, sizeof why, "%s; %.380s", p->b.ckpt->info.fitted ? "both are fitted, and the maps of B do not begin at A" : "B has no fitq.json", w->first_bad);
    set_why(p, why);
    return FQ_OK;
}

static bool weights_wrong(const prove *p)
{
    const fq_proof *r = &p->proof;
    return !r->weights_same && (r->weights_compared || r->weights.n_tensor_bad > r->weights.n_tensor_form);
}

/* ---- numbers ------------------------------------------------------------------------------------------------------- */

static fq_status check_pair(prove *p, fq_err *e)
{
    const fq_model *a = &p->a.decoder.model, *b = &p->b.decoder.model;
    int64_t real_a;
    const struct { const char *rule; int64_t b, a; } same[] = {
        { "num_hidden_layers", b->num_hidden_layers, a->num_hidden_layers }, { "hidden_size", b->hidden_size, a->hidden_size },
    };
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++)
        if (same[i].a != same[i].b)
            return fqi_fail(e, FQ_E_DIFFERS, FQI_FILE(p->o->b), same[i].rule, "found %lld, expected %lld as in %s: nothing that fitq does changes it",
                            (long long)same[i].b, (long long)same[i].a, p->a.ckpt->info.path);
    FQI_TRY(fqi_vocab_real(p->a.ckpt, &real_a, e));
    if (p->proof.n_vocab < real_a)
        return fqi_fail(e, FQ_E_DIFFERS, FQI_FILE(p->o->b), "vocab_size", "found %lld, expected at least the %lld of %s", (long long)p->proof.n_vocab,
                        (long long)real_a, p->a.ckpt->info.path);
    return FQ_OK;
}

typedef struct row_found { double max_logit, fixed, fast, noise; bool bits, pad_zero, finite; } row_found;

static double larger(double x, double y) { return y > x ? y : x; }   /* NaN is looked for by itself */

static row_found look_at(const prove *p, const float *const row[N_STREAM])
{
    row_found f = { .bits = true, .pad_zero = true, .finite = true };
    size_t n = (size_t)p->proof.n_vocab;
    f.bits = memcmp(row[A_FIXED], row[B_FIXED], n * sizeof(float)) == 0;
    for (size_t v = 0; v < n; v++) {
        double a = row[A_FIXED][v], b = row[B_FIXED][v], fast = row[A_FAST][v], b_fast = row[B_FAST][v];
        f.finite = f.finite && isfinite(a) && isfinite(b) && isfinite(fast) && isfinite(b_fast);
        f.max_logit = larger(f.max_logit, fabs(a));
        f.fixed = larger(f.fixed, fabs(b - a));
        f.fast = larger(f.fast, fabs(b_fast - fast));
        f.noise = larger(f.noise, fabs(fast - a));
    }
    for (size_t v = n; v < (size_t)p->vocab_b; v++) f.pad_zero = f.pad_zero && row[B_FIXED][v] == 0 && row[B_FAST][v] == 0;
    return f;
}

static void merge(prove *p, const row_found *f)
{
    fq_proof *r = &p->proof;
    r->max_logit = larger(r->max_logit, f->max_logit);
    r->fixed_diff = larger(r->fixed_diff, f->fixed);
    r->fast_diff = larger(r->fast_diff, f->fast);
    r->noise = larger(r->noise, f->noise);
    r->fixed_bits = r->fixed_bits && f->bits;
    r->vocab_pad_zero = r->vocab_pad_zero && f->pad_zero;
    p->finite = p->finite && f->finite;
}

static fq_status on_logits(void *user, size_t first, size_t n, const float *const logits[FQI_MAX_STREAM], const uint32_t *target, fq_err *e)
{
    prove *p = user;
    size_t n_vocab = (size_t)p->proof.n_vocab;
#pragma omp parallel for num_threads(p->n_thread) schedule(static)
    for (size_t i = 0; i < n; i++) {
        const float *const row[N_STREAM] = {
            [A_FIXED] = logits[A_FIXED] + i * (size_t)p->vocab_a, [B_FIXED] = logits[B_FIXED] + i * (size_t)p->vocab_b,
            [A_FAST] = logits[A_FAST] + i * (size_t)p->vocab_a, [B_FAST] = logits[B_FAST] + i * (size_t)p->vocab_b,
        };
        row_found f = look_at(p, row);
        if (f.finite) {
            fqi_eval_stats_add(p->padding, first + i, row[B_FAST], row[A_FAST], n_vocab, target[i]);
            fqi_eval_stats_add(p->noise, first + i, row[A_FAST], row[A_FIXED], n_vocab, target[i]);
        }
#pragma omp critical(fqi_prove_merge)
        merge(p, &f);   /* maxima and conjunctions: the order does not matter */
    }
    if (p->finite) return FQ_OK;
    return fqi_fail(e, FQ_E_NUMERIC, FQI_FILE(p->o->b), "logits", "found a logit that is NaN or infinite, expected finite ones in both models");
}

static void on_layer(void *user, int64_t layer, const fqi_layer_diff diff[FQI_MAX_STREAM])
{
    prove *p = user;
    fq_proof *r = &p->proof;
    const fqi_layer_diff *d = &diff[PAIR_FIXED];
    double bound = BOUND_FACTOR * fmax(diff[PAIR_NOISE].relative, served_unit[p->o->served]);
    r->fixed_bits = r->fixed_bits && d->same_bits;
    if (r->first_bad_layer == -2 && !(d->relative <= bound)) {
        r->first_bad_layer = layer;
        r->first_bad_relative = d->relative;
        r->first_bad_bound = bound;
    }
    fq_layer_diff out = { .layer = layer, .relative = d->relative, .max_abs = d->max_abs, .cosine = d->cosine, .same_bits = d->same_bits };
    if (p->o->on_layer) p->o->on_layer(p->o->user, &out);
}

static void set_lockstep(prove *p)
{
    p->lockstep = (fqi_lockstep){
        .n_model = 2, .ckpt = { p->a.ckpt, p->b.ckpt }, .decoder = { &p->a.decoder, &p->b.decoder },
        .n_stream = N_STREAM,
        .stream = { [A_FIXED] = { 0, FQI_ORDER_FIXED }, [B_FIXED] = { 1, FQI_ORDER_FIXED }, [A_FAST] = { 0, FQI_ORDER_FAST }, [B_FAST] = { 1, FQI_ORDER_FAST } },
        .n_pair = N_PAIR, .pair = { [PAIR_FIXED] = { A_FIXED, B_FIXED }, [PAIR_NOISE] = { A_FIXED, A_FAST }, [PAIR_FAST] = { A_FAST, B_FAST } },
        .served = p->served, .ids = p->win.ids, .n_window = p->win.n_window, .n_context = p->win.n_context,
        .first_scored = p->win.first_scored, .scratch_dir = p->o->scratch, .run = &p->run, .phase = "prove", .comm = p->comm, .slice = { p->cut_a ? &p->slice_a : NULL, p->comm ? &p->slice_b : NULL },
        .extra_bytes = 2 * fqi_eval_stats_bytes(p->win.n_scored, true),
    };
}

/* Before the weights are compared, which takes minutes: a budget that is too small for the numbers is known now. */
static fq_status plan_numbers(prove *p, fq_err *e)
{
    FQI_TRY(check_pair(p, e));
    if (p->comm) {
        fq_err why = { 0 };
        FQI_TRY(fqi_rank_slice(p->comm, &p->run, &p->b, &p->slice_b, e));
        p->cut_a = fqi_rank_slice(p->comm, &p->run, &p->a, &p->slice_a, &why) == FQ_OK;
        if (!p->cut_a && p->run.log) p->run.log(p->run.user, FQ_LOG_INFO, "the first checkpoint cannot be shared by that many ranks: rank 0 runs all of it");
    }
    set_lockstep(p);
    return fqi_lockstep_plan_make(&p->lockstep, &p->plan, e);
}

static fq_status run_lockstep(prove *p, fq_err *e)
{
    fqi_lockstep_watch w = { .user = p, .layer = on_layer, .logits = on_logits };
    p->n_thread = p->plan.n_thread;
    fqi_lockstep_run_plan(&p->lockstep, &p->plan, &p->proof.plan);
    if (p->o->on_plan) p->o->on_plan(p->o->user, &p->proof.plan);
    return fqi_lockstep_run(&p->lockstep, &p->plan, &w, e);
}

static void take_statistics(prove *p)
{
    fq_eval_report padding = { 0 }, noise = { 0 };
    fq_proof *r = &p->proof;
    fqi_eval_stats_report(p->padding, p->win.n_scored, &padding);
    fqi_eval_stats_report(p->noise, p->win.n_scored, &noise);
    r->kld = padding.kld;
    r->same_top = padding.same_top;
    r->kld_noise = noise.kld;
    r->same_top_noise = noise.same_top;
    r->bound = BOUND_FACTOR * fmax(r->noise, r->max_logit * served_unit[p->o->served]);
}

static fq_status compare_numbers(prove *p, fq_err *e)
{
    fq_proof *r = &p->proof;
    FQI_TRY(fqi_eval_stats_create(p->win.n_scored, true, &p->padding, e));
    FQI_TRY(fqi_eval_stats_create(p->win.n_scored, true, &p->noise, e));
    p->vocab_a = p->a.decoder.model.vocab_size;
    p->vocab_b = p->b.decoder.model.vocab_size;
    r->n_vocab_pad = p->vocab_b - r->n_vocab;
    r->fixed_bits = r->vocab_pad_zero = p->finite = true;
    r->random_ids = p->win.random;
    FQI_TRY(run_lockstep(p, e));
    r->numbers_compared = true;
    take_statistics(p);
    return FQ_OK;
}

/* ---- the verdict ----------------------------------------------------------------------------------------------------- */

static fq_sameness judge(const prove *p)
{
    const fq_proof *r = &p->proof;
    if (!r->numbers_compared || weights_wrong(p) || !(r->fixed_diff <= r->bound)) return FQ_DIFFERENT;
    if (!r->weights_same) return FQ_SAME_NUMBERS;
    return r->fixed_bits ? FQ_SAME_BITS : FQ_SAME_REAL;
}

static fq_status fail_numbers(const prove *p, fq_err *e)
{
    const fq_proof *r = &p->proof;
    char layer[128] = "no layer by itself exceeds its bound";
    if (r->first_bad_layer == -1) snprintf(layer, sizeof layer, "first in the embedding: relative error %.2g, bound %.2g", r->first_bad_relative, r->first_bad_bound);
    else if (r->first_bad_layer >= 0)
        snprintf(layer, sizeof layer, "first in layer %lld: relative error %.2g, bound %.2g", (long long)r->first_bad_layer, r->first_bad_relative, r->first_bad_bound);
    return fqi_fail(e, FQ_E_DIFFERS, FQI_FILE(p->o->b), "logits-differ", "found a logit that is off by %.2g, expected at most %.2g; %s", r->fixed_diff, r->bound, layer);
}

/* Numbers of a B that cannot be run settle nothing if the weights are different anyway: that is the answer then. Of one whose weights were
 * rounded nothing is known. */
static bool answers(const prove *p, fq_status s)
{
    return s == FQ_E_DIFFERS || (!p->proof.weights_same && !weights_rounded(p) && (s == FQ_E_INPUT || s == FQ_E_NUMERIC));
}

static fq_status finish(prove *p, fq_status s, const fq_err *why, fq_err *e)
{
    fq_proof *r = &p->proof;
    if (s != FQ_OK && !answers(p, s)) {
        if (e) *e = *why;
        return s;
    }
    if (s != FQ_OK) {
        fq_verify_report w = r->weights;
        *r = (fq_proof){ .weights = w, .weights_compared = r->weights_compared, .weights_same = r->weights_same, .first_bad_layer = -2 };
        set_why(p, why->text);
    }
    r->verdict = judge(p);
    if (r->verdict != FQ_DIFFERENT) return FQ_OK;
    if (weights_wrong(p) && s != FQ_E_DIFFERS) {   /* another depth or width says more than the first tensor that is missing */
        if (e) *e = p->weights_err;
        return FQ_E_DIFFERS;
    }
    if (r->numbers_compared) return fail_numbers(p, e);
    if (e) {
        *e = *why;
        e->code = FQ_E_DIFFERS;
    }
    return FQ_E_DIFFERS;
}

/* ---- the job ---------------------------------------------------------------------------------------------------------- */

static fq_status make_windows(prove *p, fq_err *e)
{
    fq_text t = p->o->text;
    bool random = !t.text && !t.ids;
    t.score = FQ_SCORE_ALL;
    if (random && t.context == 0) t.context = RANDOM_CONTEXT;
    if (random && t.chunks == 0) t.chunks = RANDOM_WINDOWS;
    FQI_TRY(fqi_vocab_common(p->a.ckpt, p->b.has_decoder ? p->b.ckpt : NULL, &p->proof.n_vocab, e));
    const int64_t most = fqi_runnable_longest(&p->a);
    if (random && most > 0 && t.context > most)   /* nobody's text asks for it, and attention to that many ids may take days */
        return fqi_fail(e, FQ_E_USAGE, NULL, "context", "found windows of %lld pseudo-random ids, expected at most the %lld tokens that %.1000s was made for",
                        (long long)t.context, (long long)most, p->a.ckpt->info.path);
    if (fqi_comm_rank(p->comm) == 0) FQI_TRY(fqi_windows_make(&t, p->a.ckpt->dir, p->proof.n_vocab, true, &p->win, e));
    FQI_TRY(fqi_rank_windows(p->comm, &p->win, e));
    fqi_runnable_warn_length(&p->a, (int64_t)p->win.n_context, &p->run);
    return FQ_OK;
}

/* Collective, in as far as s is FQ_OK on all ranks. Ranks behind rank 0 take part in the numbers; whether these are run, they hear. */
static fq_status agree(prove *p, bool has_b, fq_err *e)
{
    const struct { int64_t served, expert_parallel, has_b; } options = { (int64_t)p->o->served, p->run.expert_parallel, has_b };
    FQI_TRY(fqi_comm_same(p->comm, "set of options", &options, sizeof options, e));
    FQI_TRY(fqi_rank_same_model(p->comm, p->a.ckpt, e));
    return has_b ? fqi_rank_same_model(p->comm, p->b.ckpt, e) : FQ_OK;
}

static fq_status help_with_numbers(prove *p, fq_err *e)
{
    const fqi_lockstep_watch nothing = { 0 };
    return fqi_lockstep_run(&p->lockstep, &p->plan, &nothing, e);
}

static fq_status hand_on(fq_status s, const fq_err *why, fq_err *e)
{
    if (e) *e = *why;
    return s;
}

static fq_status run_proof(prove *p, fq_err *e)
{
    fq_err why = { 0 };
    fqi_comm_phase(p->comm, "open");
    FQI_TRY(fqi_runnable_open(p->o->a, &p->run, &p->a, e));
    fq_status s = fqi_runnable_open(p->o->b, &p->run, &p->b, &why);
    if (s != FQ_OK && (s != FQ_E_INPUT || !p->b.ckpt || strcmp(why.rule, "quantized") == 0)) return hand_on(s, &why, e);
    FQI_TRY(agree(p, s == FQ_OK, e));
    FQI_TRY(make_windows(p, e));
    if (s == FQ_OK) s = plan_numbers(p, &why);
    if (s == FQ_E_NOMEM || s == FQ_E_PEER || (s != FQ_OK && strcmp(why.rule, "ranks") == 0)) return hand_on(s, &why, e);
    if (fqi_comm_rank(p->comm) > 0) return s == FQ_OK ? help_with_numbers(p, e) : FQ_OK;
    fqi_comm_phase(p->comm, "weights");
    FQI_TRY(compare_weights(p, e));
    if (s == FQ_OK) {
        s = compare_numbers(p, &why);
        if (s != FQ_OK && p->comm) return hand_on(s, &why, e);   /* the other ranks are in the middle of it */
    }
    return finish(p, s, &why, e);
}

/* What fq_verify was asked, and what rank 0 found: a difference is an answer, not a failure of a rank. */
typedef struct request { const fq_verify_options *o; const fq_run *run; fq_dtype served; fq_proof proof; fq_status found; fq_err why; } request;

static fq_status prove_rank(void *user, fqi_comm *comm, fq_err *e)
{
    request *q = user;
    fq_err why = { 0 };
    prove *p = fqi_calloc(1, sizeof *p);
    if (!p) return fqi_fail_nomem(e, "proof");
    p->o = q->o;
    p->comm = comm;
    p->served = q->served;
    p->proof.first_bad_layer = -2;
    fqi_rank_run(comm, q->run, &p->run);
    const fq_status s = run_proof(p, &why);
    if (fqi_comm_rank(comm) == 0) {
        q->proof = p->proof;
        q->found = s;
        q->why = why;
    }
    fqi_eval_stats_free(p->padding);
    fqi_eval_stats_free(p->noise);
    fqi_windows_free(&p->win);
    fqi_runnable_free(&p->a);
    fqi_runnable_free(&p->b);
    free(p);
    if (s == FQ_E_DIFFERS) return FQ_OK;
    if (e) *e = why;
    return s;
}

fq_status fq_verify(const fq_verify_options *o, const fq_run *run, fq_proof *report, fq_err *e)
{
    static const fq_run default_run = { 0 };
    double start = fqi_now_seconds();
    if (!o->a || !o->b) return fqi_fail(e, FQ_E_USAGE, NULL, "paths", "found one checkpoint, expected two");
    fq_dtype served;
    FQI_TRY(fqi_served_dtype(o->served, &served, e));
    request *q = fqi_calloc(1, sizeof *q);
    if (!q) return fqi_fail_nomem(e, "proof");
    *q = (request){ .o = o, .run = run ? run : &default_run, .served = served };
    fq_status s = fqi_ranks_run(q->run, prove_rank, q, e);
    if (s == FQ_OK && q->found == FQ_E_DIFFERS) {
        s = FQ_E_DIFFERS;
        if (e) *e = q->why;
    }
    q->proof.seconds = fqi_now_seconds() - start;
    if (report && (s == FQ_OK || s == FQ_E_DIFFERS)) *report = q->proof;
    free(q);
    return s;
}
