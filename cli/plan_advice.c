/* plan_advice.c - what to do: the ways to make one checkpoint run under everything that was asked for, cheapest first.
 *
 * The library prices every option of one entry, but a checkpoint has to suit all entries of a GPU count. So candidates (the options
 * of the entries, and the joint fit for every group size among them) are tried: the model with the candidate's lengths is planned
 * again, and the candidate is a way if every entry then runs. What it costs is what that second plan says. */
#include "plan_advice.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan_view.h"

/* ---- fits --------------------------------------------------------------------------------------------------------- */

static bool fit_changes(const fq_fit *f)
{
    return f->intermediate_size_pad || f->moe_intermediate_size_pad || f->shared_expert_intermediate_size_pad ||
           f->num_attention_heads_pad || f->num_key_value_heads_pad || f->kv_replication > 1 || f->vocab_size_pad;
}

static int64_t times(const fq_fit *f) { return f->kv_replication > 1 ? f->kv_replication : 1; }

static bool same_fit(const fq_fit *a, const fq_fit *b)
{
    return a->intermediate_size_pad == b->intermediate_size_pad &&
           a->moe_intermediate_size_pad == b->moe_intermediate_size_pad &&
           a->shared_expert_intermediate_size_pad == b->shared_expert_intermediate_size_pad &&
           a->num_attention_heads_pad == b->num_attention_heads_pad &&
           a->num_key_value_heads_pad == b->num_key_value_heads_pad && times(a) == times(b) &&
           a->vocab_size_pad == b->vocab_size_pad;
}

static bool same_way(const plan_way *a, const plan_way *b)
{
    return same_fit(&a->fit, &b->fit) && a->group_size == b->group_size && a->expert_parallel == b->expert_parallel &&
           a->as_llama == b->as_llama;
}

static void lengthen(int64_t *length, int64_t pad)
{
    if (pad) *length = pad;
}

/* The model that a fit makes of m. */
static fq_model fitted(const fq_model *m, const fq_fit *f, bool as_llama)
{
    fq_model out = *m;
    lengthen(&out.intermediate_size, f->intermediate_size_pad);
    lengthen(&out.moe_intermediate_size, f->moe_intermediate_size_pad);
    lengthen(&out.shared_expert_intermediate_size, f->shared_expert_intermediate_size_pad);
    lengthen(&out.num_attention_heads, f->num_attention_heads_pad);
    lengthen(&out.num_key_value_heads, f->num_key_value_heads_pad);
    lengthen(&out.vocab_size, f->vocab_size_pad);
    if (f->num_attention_heads_pad) out.head_dim_explicit = true;
    if (as_llama) {
        strcpy(out.family, "llama");
        strcpy(out.model_type, "llama");
    }
    return out;
}

/* Parameters, as the bytes of the model in bf16 on one GPU; 0 = not known. Without a family no engine has anything to refuse. */
static double size_of(const fq_model *m)
{
    const fq_plan_request r = {
        .tp = (const int[]){ 1 }, .n_tp = 1, .engine = (const char *const[]){ "transformers" }, .n_engine = 1,
        .format = (const char *const[]){ "bf16" }, .n_format = 1,
    };
    fq_model bare = *m;
    fq_plan *p = NULL;
    bare.family[0] = '\0';
    if (fq_plan_create(&bare, &r, &p, NULL) != FQ_OK) return 0;
    const fq_plan_entry *x = fq_plan_get_entry(p, 0);
    double bytes = x->n_option && !fit_changes(&x->option[0].fit) ? (double)x->option[0].weight_bytes_per_gpu : 0;
    fq_plan_free(p);
    return bytes;
}

/* ---- candidates ----------------------------------------------------------------------------------------------------- */

#define MAX_CANDIDATE 64
#define OPTIONS_TRIED 6    /* of one entry: the cheapest */

/* Everything about one set of GPU counts. */
typedef struct asked {
    const plan_view *v;
    fq_plan_request request;
    const fq_plan *plan;
    plan_way at[MAX_CANDIDATE];
    size_t n;
} asked;

static void add_candidate(asked *q, const plan_way *given)
{
    plan_way own = *given, *w = &own;
    w->regroups = w->group_size && q->v->model->quant != FQ_QUANT_NONE;
    for (size_t i = 0; i < q->n; i++)
        if (same_way(&q->at[i], w)) {
            q->at[i].by_tp |= w->by_tp;
            return;
        }
    if (q->n < MAX_CANDIDATE) q->at[q->n++] = own;
}

/* Does some engine need another architecture's name for what it would misread? */
static bool asks_for_llama(const asked *q)
{
    for (size_t i = 0; i < fq_plan_n_entry(q->plan); i++) {
        const fq_plan_entry *x = fq_plan_get_entry(q->plan, i);
        for (size_t k = 0; k < x->n_option; k++)
            if (strcmp(x->option[k].reexpress_as, "llama") == 0) return true;
    }
    return false;
}

/* As llama, where some engine asks for that; and as itself, unless heads change, which is what they ask for. What turns out not to be
 * needed costs no less, and is dropped later. */
static void add_both(asked *q, plan_way w)
{
    bool llama = asks_for_llama(q), heads = w.fit.num_attention_heads_pad || w.fit.num_key_value_heads_pad;
    w.pads = fit_changes(&w.fit);
    if (!(llama && heads) && (w.pads || w.group_size || w.expert_parallel)) add_candidate(q, &w);
    w.as_llama = true;
    if (llama) add_candidate(q, &w);
}

/* What `fitq pad --tp` would choose. */
static void add_joint(asked *q, int group_size)
{
    fq_plan_request r = q->request;
    fq_plan *p = NULL;
    fq_fit fit = { 0 };
    if (group_size) r.group_size = group_size;
    if (fq_plan_create(q->v->model, &r, &p, NULL) != FQ_OK) return;
    /* pad knows of no other KV cache than one of 16 bits */
    bool by_tp = r.kv_cache_bits == 0 || r.kv_cache_bits == 16;
    if (fq_plan_joint_fit(p, &fit, NULL) == FQ_OK) add_both(q, (plan_way){ .fit = fit, .group_size = group_size, .by_tp = by_tp });
    fq_plan_free(p);
}

static void gather(asked *q)
{
    int group[MAX_CANDIDATE];
    size_t n_group = 0;
    add_joint(q, 0);
    for (size_t i = 0; i < fq_plan_n_entry(q->plan); i++) {
        const fq_plan_entry *x = fq_plan_get_entry(q->plan, i);
        for (size_t k = 0; k < x->n_option && k < OPTIONS_TRIED && x->verdict == FQ_NEEDS_FIT; k++) {
            const fq_option *o = &x->option[k];
            add_both(q, (plan_way){ .fit = o->fit, .group_size = o->group_size, .expert_parallel = o->expert_parallel });
            bool known = o->group_size == 0 || n_group == MAX_CANDIDATE;
            for (size_t g = 0; g < n_group; g++) known |= group[g] == o->group_size;
            if (!known) group[n_group++] = o->group_size;
        }
    }
    for (size_t g = 0; g < n_group; g++) add_joint(q, group[g]);
}

/* The option by which an entry of the second plan runs without changing the weights any more, or NULL. */
static const fq_option *running(const fq_plan_entry *x, bool expert_parallel)
{
    for (size_t k = 0; k < x->n_option && x->verdict != FQ_IMPOSSIBLE; k++) {
        const fq_option *o = &x->option[k];
        if (!fit_changes(&o->fit) && o->group_size == 0 && !o->reexpress_as[0] && (!o->expert_parallel || expert_parallel)) return o;
    }
    return NULL;
}

#define DIFFERS UINT64_MAX

/* Adds what one entry costs. */
static void add_cost(plan_way *w, const fq_option *o, size_t count, bool needed)
{
    uint64_t *bytes = &w->weight_bytes_per_gpu[count];
    w->cost += o->cost;
    if (needed) *bytes = *bytes == 0 || *bytes == o->weight_bytes_per_gpu ? o->weight_bytes_per_gpu : DIFFERS;
}

/* Does every entry run this way? Fills in what it costs. */
static bool holds(const asked *q, plan_way *w)
{
    fq_model m = fitted(q->v->model, &w->fit, w->as_llama);
    fq_plan_request r = q->request;
    fq_plan *p = NULL;
    bool ok = true;
    if (w->group_size) r.group_size = w->group_size;
    if (fq_plan_create(&m, &r, &p, NULL) != FQ_OK) return false;
    for (size_t i = 0; i < fq_plan_n_entry(p) && ok; i++) {
        const fq_plan_entry *before = fq_plan_get_entry(q->plan, i);
        if (before->verdict == FQ_UNKNOWN) continue;
        const fq_option *o = running(fq_plan_get_entry(p, i), w->expert_parallel);
        ok = o != NULL;
        if (ok) add_cost(w, o, i % r.n_tp, before->verdict == FQ_NEEDS_FIT);
    }
    fq_plan_free(p);
    for (size_t i = 0; i < r.n_tp; i++)
        if (w->weight_bytes_per_gpu[i] == DIFFERS) w->weight_bytes_per_gpu[i] = 0;
    double size = ok ? size_of(q->v->model) : 0, size_pad = ok ? size_of(&m) : 0;
    w->param_percent = !w->pads ? 0 : size > 0 && size_pad > 0 ? 100 * (size_pad - size) / size : NAN;
    return ok;
}

/* Is b no better than a, and does it ask for everything that a asks for? */
static bool dominates(const plan_way *a, const plan_way *b)
{
    return a->cost <= b->cost && (b->pads || !a->pads) && (b->expert_parallel || !a->expert_parallel) &&
           (b->group_size || !a->group_size) && (b->as_llama || !a->as_llama);
}

static void choose(asked *q, plan_advice *a)
{
    plan_way found[MAX_CANDIDATE];
    size_t n = 0;
    gather(q);
    for (size_t i = 0; i < q->n; i++)
        if (holds(q, &q->at[i])) found[n++] = q->at[i];
    for (size_t i = 0; i < n; i++) {
        bool worse = false;
        for (size_t k = 0; k < n && !worse; k++)
            worse = k != i && dominates(&found[k], &found[i]) && (!dominates(&found[i], &found[k]) || k < i);
        if (worse) continue;
        size_t at = a->n_way;
        if (at == PLAN_MAX_WAY && a->way[at - 1].cost <= found[i].cost) continue;
        if (at < PLAN_MAX_WAY) a->n_way++;
        else at--;
        for (; at > 0 && a->way[at - 1].cost > found[i].cost; at--) a->way[at] = a->way[at - 1];
        a->way[at] = found[i];
    }
}

/* ---- engines and formats in words ------------------------------------------------------------------------------------- */

typedef bool of_entry(const fq_plan_entry *x);

static bool runs(const fq_plan_entry *x) { return x->verdict == FQ_RUNS; }
static bool not_judged(const fq_plan_entry *x) { return x->verdict == FQ_UNKNOWN; }
static bool able(const fq_plan_entry *x) { return x->verdict == FQ_RUNS || x->verdict == FQ_NEEDS_FIT; }

/* The rows (an engine, a format: n_tp entries) of a plan. */
typedef struct rows { const fq_plan *p; size_t n_tp, n_format, n_engine; } rows;

static rows rows_of(const asked *q)
{
    rows r = { .p = q->plan, .n_tp = q->request.n_tp, .n_format = q->v->formats.n };
    size_t per_engine = r.n_tp * r.n_format;
    r.n_engine = per_engine ? fq_plan_n_entry(q->plan) / per_engine : 0;
    return r;
}

/* Is it so for all GPU counts? any: for one of them. */
static bool row_is(const rows *r, size_t engine, size_t format, of_entry *is, bool any)
{
    for (size_t i = 0; i < r->n_tp; i++)
        if (is(fq_plan_get_entry(r->p, (engine * r->n_format + format) * r->n_tp + i)) == any) return any;
    return !any;
}

static const fq_plan_entry *row_at(const rows *r, size_t engine, size_t format)
{
    return fq_plan_get_entry(r->p, (engine * r->n_format + format) * r->n_tp);
}

/* "bf16, fp16" if it is so for these formats under every engine, else "vllm (bf16), sglang (bf16, fp16)". */
static void write_rows(FILE *f, const rows *r, of_entry *is, bool any)
{
    bool by_format = true;
    for (size_t c = 0; c < r->n_format; c++)
        for (size_t e = 1; e < r->n_engine; e++) by_format &= row_is(r, e, c, is, any) == row_is(r, 0, c, is, any);
    const char *sep = "";
    for (size_t e = 0; e < (by_format ? 1 : r->n_engine); e++) {
        size_t n = 0;
        for (size_t c = 0; c < r->n_format; c++) {
            if (!row_is(r, e, c, is, any)) continue;
            if (by_format) fprintf(f, "%s%s", sep, row_at(r, e, c)->format->id);
            else if (n++ == 0) fprintf(f, "%s%s (%s", sep, row_at(r, e, c)->engine->id, row_at(r, e, c)->format->id);
            else fprintf(f, ", %s", row_at(r, e, c)->format->id);
            sep = ", ";
        }
        if (n) putc(')', f);
    }
}

/* Owned; NULL when there is no such row. */
static char *rows_text(const asked *q, of_entry *is, bool any)
{
    char *text = NULL;
    size_t n = 0;
    rows r = rows_of(q);
    FILE *f = open_memstream(&text, &n);
    if (!f) return NULL;
    write_rows(f, &r, is, any);
    if (fclose(f) == 0 && n > 0) return text;
    free(text);
    return NULL;
}

/* The reasons of the impossible entries, each once, "; " between them. */
static char *reasons(const asked *q)
{
    char *text = NULL;
    size_t n = 0, said = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f) return NULL;
    for (size_t i = 0; i < fq_plan_n_entry(q->plan); i++) {
        const fq_plan_entry *x = fq_plan_get_entry(q->plan, i);
        bool known = x->verdict != FQ_IMPOSSIBLE || !x->note[0];
        for (size_t k = 0; k < i && !known; k++) {
            const fq_plan_entry *y = fq_plan_get_entry(q->plan, k);
            known = y->verdict == FQ_IMPOSSIBLE && strcmp(y->note, x->note) == 0;
        }
        if (!known) fprintf(f, "%s%s", said++ ? "; " : "", x->note);
    }
    if (fclose(f) == 0 && n > 0) return text;
    free(text);
    return NULL;
}

/* ---- advice --------------------------------------------------------------------------------------------------------- */

void plan_advice_drop(plan_advice *a)
{
    free(a->why);
    free(a->able);
    free(a->idle);
    free(a->unjudged);
    a->why = a->able = a->idle = a->unjudged = NULL;
}

/* Smaller groups of a checkpoint that has groups are free of padding, but not every engine has kernels for them: what one engine alone would
 * take, and is not among the ways for all. */
static void choose_alone(const asked *q, plan_advice *a)
{
    size_t n_engine = rows_of(q).n_engine, per_engine = n_engine ? fq_plan_n_entry(q->plan) / n_engine : 0;
    for (size_t i = 0; i < n_engine && n_engine > 1 && q->v->model->quant != FQ_QUANT_NONE; i++) {
        const char *id = fq_plan_get_entry(q->plan, i * per_engine)->engine->id;
        asked one = { .v = q->v, .request = q->request };
        plan_advice found = { .n_tp = a->n_tp };
        fq_plan *p = NULL;
        one.request.engine = &id;
        one.request.n_engine = 1;
        if (fq_plan_create(q->v->model, &one.request, &p, NULL) != FQ_OK) return;
        one.plan = p;
        choose(&one, &found);
        for (size_t k = 0; k < found.n_way && a->n_way < PLAN_MAX_WAY; k++) {
            bool new = found.way[k].regroups;
            for (size_t w = 0; w < a->n_way; w++) new = new && !same_way(&a->way[w], &found.way[k]);
            if (!new) continue;
            a->way[a->n_way] = found.way[k];
            a->way[a->n_way++].engine = id;
        }
        fq_plan_free(p);
    }
}

static void decide(asked *q, plan_advice *a)
{
    size_t n = fq_plan_n_entry(q->plan), n_run = 0, n_fit = 0, n_none = 0;
    for (size_t i = 0; i < n; i++) {
        fq_verdict x = fq_plan_get_entry(q->plan, i)->verdict;
        n_run += x == FQ_RUNS;
        n_fit += x == FQ_NEEDS_FIT;
        n_none += x == FQ_IMPOSSIBLE;
    }
    a->unjudged = rows_text(q, not_judged, true);
    if (n_run + n_fit + n_none == 0) {
        a->state = PLAN_NOT_JUDGED;
    } else if (n_none && n_run + n_fit == 0) {
        a->state = PLAN_NO_WAY;
        a->why = reasons(q);
    } else if (n_none) {
        a->state = PLAN_PARTLY;
        a->able = rows_text(q, able, false);
    } else if (n_fit == 0) {
        a->state = PLAN_RUNS;
    } else {
        choose(q, a);
        if (a->n_way) choose_alone(q, a);
        a->state = a->n_way ? PLAN_WAYS : PLAN_NOT_TOGETHER;
        a->idle = rows_text(q, runs, false);
    }
}

/* What one checkpoint for `tp` (a subset of the counts) has to be. */
static plan_advice advise(const plan_view *v, const int *tp, size_t n_tp)
{
    plan_advice a = { .n_tp = n_tp, .state = PLAN_NOT_TOGETHER };
    fq_plan *p = NULL;
    memcpy(a.tp, tp, n_tp * sizeof *tp);
    asked q = { .v = v, .request = *v->request };
    q.request.tp = a.tp;
    q.request.n_tp = n_tp;
    q.request.gpu_memory_bytes = 0;
    if (fq_plan_create(v->model, &q.request, &p, NULL) != FQ_OK) return a;
    q.plan = p;
    decide(&q, &a);
    fq_plan_free(p);
    return a;
}

static bool same_text(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }

static bool same_answer(const plan_advice *a, const plan_advice *b)
{
    return a->state == b->state && (a->state != PLAN_WAYS || same_way(&a->way[0], &b->way[0])) &&
           same_text(a->why, b->why) && same_text(a->able, b->able) && same_text(a->idle, b->idle) &&
           same_text(a->unjudged, b->unjudged);
}

/* Adds the GPU count of `one` to an advice that says the same, if the library agrees that one checkpoint does for all. */
static bool join(const plan_view *v, plan_advice *a, const plan_advice *one)
{
    int tp[ARG_MAX_LIST];
    if (!same_answer(a, one)) return false;
    memcpy(tp, a->tp, a->n_tp * sizeof *tp);
    tp[a->n_tp] = one->tp[0];
    plan_advice both = advise(v, tp, a->n_tp + 1);
    bool same = same_answer(&both, one);
    if (same) {
        plan_advice_drop(a);
        *a = both;
    } else {
        plan_advice_drop(&both);
    }
    return same;
}

void plan_advise(plan_view *v)
{
    for (size_t i = 0; i < v->request->n_tp; i++) {
        plan_advice one = advise(v, &v->request->tp[i], 1);
        bool joined = false;
        for (size_t k = 0; k < v->n_advice && !joined; k++) joined = join(v, &v->advice[k], &one);
        if (joined) plan_advice_drop(&one);
        else v->advice[v->n_advice++] = one;
    }
}

/* ---- commands --------------------------------------------------------------------------------------------------------- */

bool plan_way_writes(const plan_way *w) { return w->pads || w->as_llama || w->regroups; }

const char *plan_no_command(const plan_view *v)
{
    if (v->fitted) return "this checkpoint is fitted already: pad the original (`fitq unpad` gives it back)";
    if (v->model->quant == FQ_QUANT_OTHER) return "this checkpoint is quantized in a form that fitq does not read: pad the original weights, then quantize them";
    return v->model->family[0] ? NULL : "fitq cannot pad this family (`fitq help families` lists those that it can)";
}

/* Appends a word of a shell command, quoted when it must be. */
static void shell_word(FILE *f, const char *word)
{
    if (word[0] && word[0] != '-' && strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+:@,=-") == strlen(word)) {
        fputs(word, f);
        return;
    }
    putc('\'', f);
    for (; *word; word++) {
        if (*word == '\'') fputs("'\\''", f);
        else putc(*word, f);
    }
    putc('\'', f);
}

static void shell_list(FILE *f, const char *option, const arg_strings *list)
{
    if (list->n == 0) return;
    fprintf(f, " --%s ", option);
    for (size_t i = 0; i < list->n; i++) fprintf(f, "%s%s", i ? "," : "", list->v[i]);
}

/* The folder to pad: the operand, its folder when it is a file, MODEL when that says nothing. Into buf. */
static const char *folder_of(const plan_view *v, char *buf, size_t n)
{
    const char *path = v->values->operand[0];
    size_t len = strlen(path);
    if (len >= n) return "MODEL";
    memcpy(buf, path, len + 1);
    if (len > 5 && strcmp(buf + len - 5, ".json") == 0) {
        char *slash = strrchr(buf, '/');
        if (!slash || slash == buf) return "MODEL";
        /* a config.json without its weights lies anywhere, under any name */
        if (strcmp(slash, "/config.json") != 0) return "MODEL";
        *slash = '\0';
        len = strlen(buf);
    }
    while (len > 1 && buf[len - 1] == '/') buf[--len] = '\0';
    return strcmp(buf, ".") == 0 || strcmp(buf, "/") == 0 || strcmp(buf, "..") == 0 ? "MODEL" : buf;
}

static void shell_tp(FILE *f, const plan_advice *a)
{
    fputs(" --tp ", f);
    for (size_t i = 0; i < a->n_tp; i++) fprintf(f, "%s%d", i ? "," : "", a->tp[i]);
}

static void shell_set(FILE *f, const fq_fit *t)
{
    const struct { const char *key; int64_t to; } row[] = {
        { "intermediate_size", t->intermediate_size_pad }, { "moe_intermediate_size", t->moe_intermediate_size_pad },
        { "shared_expert_intermediate_size", t->shared_expert_intermediate_size_pad },
        { "num_attention_heads", t->num_attention_heads_pad }, { "num_key_value_heads", t->num_key_value_heads_pad },
        { "kv_replication", t->kv_replication > 1 ? t->kv_replication : 0 }, { "vocab_size", t->vocab_size_pad },
    };
    const char *sep = " --set ";
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        if (row[i].to == 0) continue;
        fprintf(f, "%s%s=%" PRId64, sep, row[i].key, row[i].to);
        sep = ",";
    }
}

char *plan_command(const plan_view *v, const plan_advice *a, const plan_way *way)
{
    char buf[4096], target[4400], *text = NULL;
    size_t n = 0;
    const arg_values *w = v->values;
    FILE *f = open_memstream(&text, &n);
    if (!f) return NULL;
    const char *folder = folder_of(v, buf, sizeof buf - 256);
    int used = snprintf(target, sizeof target, "%s-tp", folder), group = way->group_size ? way->group_size : (int)w->group_size;
    for (size_t i = 0; i < a->n_tp && used > 0 && (size_t)used < sizeof target; i++)
        used += snprintf(target + used, sizeof target - (size_t)used, "%s%d", i ? "-" : "", a->tp[i]);
    fputs("fitq pad ", f);
    shell_word(f, folder);
    fputs(" -o ", f);
    shell_word(f, target);
    if (way->by_tp && way->pads) {
        shell_tp(f, a);
        if (way->engine) fprintf(f, " --engine %s", way->engine);
        else shell_list(f, "engine", &w->engine);
        shell_list(f, "format", &v->formats);
    } else {
        shell_set(f, &way->fit);
    }
    if (way->regroups) fprintf(f, " --regroup %d", group);
    else if (group && way->pads) fprintf(f, " --group-size %d", group);
    if (w->context && way->by_tp) fprintf(f, " --context %" PRId64, w->context);
    if (way->fit.vocab_size_pad && way->by_tp) fputs(" --vocab", f);
    if (way->as_llama) fputs(" --as llama", f);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
