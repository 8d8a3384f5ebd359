/* plan_text.c - a plan for people.
 *
 * The answer comes first (one line per engine and format, one column per GPU count), then per engine and format the table with the
 * prices, the rules that are broken with their numbers and sources, and what else could be done; at the end the commands. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "plan_view.h"

#define MAX_ENGINE 16

/* One format under one engine, or under several that say the same. Entries first[e] .. first[e] + n-1 are those of engine e. */
typedef struct block {
    const plan_view *v;
    size_t first[MAX_ENGINE], n_engine;
    size_t n;
} block;

static const fq_plan_entry *entry_at(const block *b, size_t engine, size_t i)
{
    return fq_plan_get_entry(b->v->plan, b->first[engine] + i);
}

/* The first engine speaks for all of them. */
static const fq_plan_entry *entry_of(const block *b, size_t i) { return entry_at(b, 0, i); }

static bool is_silent(const fq_plan_entry *x)
{
    for (size_t i = 0; i < x->n_violation; i++)
        if (x->violation[i].silent) return true;
    return false;
}

static bool all_silent(const fq_plan_entry *x)
{
    for (size_t i = 0; i < x->n_violation; i++)
        if (!x->violation[i].silent) return false;
    return x->n_violation > 0;
}

static void heading(const char *title)
{
    putchar('\n');
    out_flow(title, 0, 0, OUT_BOLD);
}

/* ---- the model ------------------------------------------------------------------------------------------------- */

static void model_line(const plan_view *v)
{
    const fq_model *m = v->model;
    char text[512];
    size_t used = (size_t)snprintf(text, sizeof text, "%" PRId64 " layers, hidden %" PRId64, m->num_hidden_layers, m->hidden_size);
    if (m->intermediate_size && m->n_dense_layer)
        used += (size_t)snprintf(text + used, sizeof text - used, ", MLP %" PRId64, m->intermediate_size);
    if (m->num_experts)
        used += (size_t)snprintf(text + used, sizeof text - used, ", %" PRId64 " experts of %" PRId64, m->num_experts,
                                 m->moe_intermediate_size);
    if (m->shared_expert_intermediate_size)
        used += (size_t)snprintf(text + used, sizeof text - used, ", shared expert %" PRId64, m->shared_expert_intermediate_size);
    used += (size_t)snprintf(text + used, sizeof text - used, ", heads %" PRId64 "/%" PRId64 " of %" PRId64 ", vocabulary %" PRId64,
                             m->num_attention_heads, m->num_key_value_heads, m->head_dim, m->vocab_size);
    if (m->quant != FQ_QUANT_NONE)
        snprintf(text + used, sizeof text - used, ", %s%s", m->quant_name, out_quant(m).s);
    printf("%s", out_on(OUT_BOLD));
    out_escaped(stdout, m->architecture[0] ? m->architecture : m->model_type);
    printf("%s  ", out_off(OUT_BOLD));
    out_flow(text, (int)strlen(m->architecture[0] ? m->architecture : m->model_type) + 2, 2, OUT_PLAIN);
}

/* ---- overview -------------------------------------------------------------------------------------------------- */

/* Which explanations the overview needs below it. */
typedef struct legend { bool pad, experts, groups, llama, unknown, silent; } legend;

static void overview_cell(out_table *t, const fq_plan_entry *x, legend *l)
{
    const char *mark = is_silent(x) ? " !" : "";
    const fq_option *o = x->n_option ? &x->option[0] : NULL;
    l->silent |= is_silent(x);
    if (x->verdict == FQ_RUNS) {
        out_cell(t, OUT_GREEN, "runs%s", mark);
    } else if (x->verdict == FQ_UNKNOWN) {
        out_cell(t, OUT_DIM, "?%s", mark);
        l->unknown = true;
    } else if (x->verdict == FQ_IMPOSSIBLE || !o) {
        out_cell(t, OUT_RED, "no%s", mark);
    } else if (o->param_percent > 0) {
        out_cell(t, OUT_YELLOW, "%s%s", out_percent(o->param_percent).s, mark);
        l->pad = true;
    } else if (o->expert_parallel) {
        out_cell(t, OUT_YELLOW, "experts%s", mark);
        l->experts = true;
    } else if (o->group_size) {
        out_cell(t, OUT_YELLOW, "groups/%d%s", o->group_size, mark);
        l->groups = true;
    } else if (o->reexpress_as[0]) {
        out_cell(t, OUT_YELLOW, "as %s%s", o->reexpress_as, mark);
        l->llama = true;
    } else {
        out_cell(t, OUT_YELLOW, "%s%s", out_percent(o->param_percent).s, mark);
        l->pad = true;
    }
}

static void explain(const legend *l)
{
    printf("%s", out_on(OUT_DIM));
    if (l->pad) printf("+N %%      runs after padding, with so many more parameters\n");
    if (l->groups) printf("groups/N  runs when quantized in groups of N\n");
    if (l->experts) printf("experts   runs with expert parallelism\n");
    if (l->llama) printf("as llama  runs when written as llama\n");
    if (l->unknown) printf("?         not judged: the rules of this engine for this format are not in the tables\n");
    printf("%s", out_off(OUT_DIM));
    if (l->silent)
        printf("%s!%s         as it is, it loads without an error and computes something else\n", out_on(OUT_RED), out_off(OUT_RED));
}

/* The GPU counts first .. first + n_shown - 1. */
static void overview_part(const plan_view *v, size_t first, size_t n_shown, legend *l)
{
    size_t n_tp = v->request->n_tp, n = fq_plan_n_entry(v->plan);
    char title[OUT_MAX_COLUMN][16];
    const char *head[OUT_MAX_COLUMN] = { "ENGINE", "FORMAT" };
    for (size_t i = 0; i < n_shown; i++) {
        int tp = fq_plan_get_entry(v->plan, first + i)->tp;
        snprintf(title[i], sizeof title[i], "%d GPU%s", tp, tp == 1 ? "" : "s");
        head[i + 2] = title[i];
    }
    out_table t;
    out_table_start(&t, head, n_shown + 2);
    for (size_t row = 0; row + n_tp <= n; row += n_tp) {
        const fq_plan_entry *x = fq_plan_get_entry(v->plan, row);
        out_cell(&t, OUT_PLAIN, "%s", x->engine->id);
        out_cell(&t, OUT_PLAIN, "%s", x->format->id);
        for (size_t i = 0; i < n_shown; i++) overview_cell(&t, fq_plan_get_entry(v->plan, row + first + i), l);
    }
    putchar('\n');
    out_table_print(&t, 0);
}

#define OVERVIEW_NAMES 26   /* columns of the two names */
#define OVERVIEW_CELL 12    /* "groups/32 !" and a space */

/* Not for a single row: the table of its block says it all. More counts than a line can hold are several tables. */
static void overview(const plan_view *v)
{
    size_t n_tp = v->request->n_tp;
    legend l = { 0 };
    if (fq_plan_n_entry(v->plan) / n_tp < 2) return;
    size_t most = (size_t)(out_width() - OVERVIEW_NAMES) / OVERVIEW_CELL;
    if (most > OUT_MAX_COLUMN - 2) most = OUT_MAX_COLUMN - 2;
    for (size_t i = 0; i < n_tp; i += most) overview_part(v, i, n_tp - i < most ? n_tp - i : most, &l);
    explain(&l);
}

/* ---- one engine and format ------------------------------------------------------------------------------------- */

/* 0 is what the library says of a cache that it cannot price. */
static out_text kv_text(const fq_option *o)
{
    return o->kv_bytes_per_token_per_gpu ? out_bytes(o->kv_bytes_per_token_per_gpu) : (out_text){ "-" };
}

static void prices(const block *b)
{
    static const char *const head[] = { ">GPUS", "VERDICT", ">WEIGHTS/GPU", ">KV/TOKEN", ">PARAMS", "FIX" };
    out_table t;
    out_table_start(&t, head, 6);
    for (size_t i = 0; i < b->n; i++) {
        const fq_plan_entry *x = entry_of(b, i);
        const fq_option *o = x->n_option ? &x->option[0] : NULL;
        bool priced = o && x->verdict != FQ_IMPOSSIBLE;
        out_cell(&t, OUT_PLAIN, "%d", x->tp);
        if (x->verdict == FQ_RUNS) out_cell(&t, OUT_GREEN, "runs as it is");
        else if (x->verdict == FQ_UNKNOWN) out_cell(&t, OUT_DIM, "not judged");
        else if (x->verdict == FQ_NEEDS_FIT && all_silent(x)) out_cell(&t, OUT_RED, "wrong results");
        else if (x->verdict == FQ_NEEDS_FIT) out_cell(&t, OUT_YELLOW, "does not run");
        else out_cell(&t, OUT_RED, "no way known");
        out_cell(&t, OUT_PLAIN, "%s", priced ? out_bytes(o->weight_bytes_per_gpu).s : "");
        out_cell(&t, OUT_PLAIN, "%s", priced ? kv_text(o).s : "");
        out_cell(&t, OUT_PLAIN, "%s", priced && x->verdict == FQ_NEEDS_FIT ? out_percent(o->param_percent).s : "");
        out_cell(&t, OUT_PLAIN, "%s", x->verdict == FQ_RUNS || x->verdict == FQ_UNKNOWN ? "" : priced ? o->what : "-");
    }
    out_table_print(&t, 2);
}

static void notes(const block *b)
{
    for (size_t i = 0; i < b->n; i++) {
        const char *note = entry_of(b, i)->note;
        bool said = note[0] == '\0';
        for (size_t k = 0; k < i; k++) said |= strcmp(entry_of(b, k)->note, note) == 0;
        if (said) continue;
        /* the same note for several counts is said once */
        char text[4096];
        size_t used = 0, same = 0;
        for (size_t k = i; k < b->n && used < sizeof text; k++) {
            if (strcmp(entry_of(b, k)->note, note) != 0) continue;
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%d", same ? ", " : "", entry_of(b, k)->tp);
            same++;
        }
        if (same == b->n) used = 0;
        if (used < sizeof text)
            snprintf(text + used, sizeof text - used, "%s%s", used == 0 ? "" : strcmp(text, "1") == 0 ? " GPU: " : " GPUs: ", note);
        printf("  note: ");
        out_flow(text, 8, 8, OUT_PLAIN);
    }
}

static void memory(const block *b)
{
    static const char *const head[] = { ">GPUS", ">NEED/GPU", "FITS", ">LONGEST CONTEXT", "FITS AT" };
    if (b->n == 0 || !entry_of(b, 0)->memory_asked) return;
    int64_t context = b->v->request->context ? b->v->request->context : 8192;
    printf("\n  on GPUs of %s, with a KV cache for %s tokens\n", out_bytes(b->v->request->gpu_memory_bytes).s,
           out_grouped((uint64_t)context).s);
    out_table t;
    out_table_start(&t, head, 5);
    for (size_t i = 0; i < b->n; i++) {
        const fq_plan_entry *x = entry_of(b, i);
        out_cell(&t, OUT_PLAIN, "%d", x->tp);
        if (x->verdict == FQ_IMPOSSIBLE || !x->memory_known) {
            out_cell(&t, OUT_PLAIN, "-");
            out_cell(&t, OUT_PLAIN, "%s", x->verdict == FQ_IMPOSSIBLE ? "-" : "not known");
            for (int c = 0; c < 2; c++) out_cell(&t, OUT_PLAIN, "-");
            continue;
        }
        out_cell(&t, OUT_PLAIN, "%s", out_bytes(x->memory_need_bytes).s);
        out_cell(&t, x->memory_fits ? OUT_GREEN : OUT_RED, "%s", x->memory_fits ? "yes" : "no");
        out_cell(&t, OUT_PLAIN, "%s", x->longest_context ? out_grouped((uint64_t)x->longest_context).s : "none");
        if (x->bits_that_fit > 0) out_cell(&t, OUT_PLAIN, "%g bits", x->bits_that_fit);
        else out_cell(&t, OUT_PLAIN, "not even at 2 bits");
    }
    out_table_print(&t, 2);
}

/* Is this violation's rule named earlier in the block? The same rule may have two sources: they are two rules here. */
static bool rule_seen(const block *b, size_t entry, size_t violation)
{
    const fq_violation *x = &entry_of(b, entry)->violation[violation];
    for (size_t i = 0; i <= entry; i++) {
        const fq_plan_entry *y = entry_of(b, i);
        for (size_t k = 0; k < y->n_violation && (i < entry || k < violation); k++)
            if (strcmp(y->violation[k].rule, x->rule) == 0 && strcmp(y->violation[k].source, x->source) == 0) return true;
    }
    return false;
}

static bool same_text(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }

/* Where the engines of the block state the rule and what they print, each once. Engine e's violation k of entry i is the same as the
 * first engine's: blocks are merged only then. */
static void rule_sources(const block *b, size_t entry, size_t violation)
{
    const char *rule = entry_of(b, entry)->violation[violation].rule;
    for (size_t e = 0; e < b->n_engine; e++) {
        const fq_violation *x = &entry_at(b, e, entry)->violation[violation];
        bool said = false;
        for (size_t k = 0; k < e; k++) said |= strcmp(entry_at(b, k, entry)->violation[violation].source, x->source) == 0;
        if (said) continue;
        if (e == 0) printf("    %s%s%s  ", out_on(OUT_BOLD), rule, out_off(OUT_BOLD));
        else printf("    %*s  ", (int)strlen(rule), "");
        out_flow(x->source, 6 + (int)strlen(rule), 6 + (int)strlen(rule), OUT_DIM);
    }
    for (size_t e = 0; e < b->n_engine; e++) {
        const char *text = entry_at(b, e, entry)->violation[violation].engine_text;
        bool said = text == NULL;
        for (size_t k = 0; k < e; k++) said |= same_text(entry_at(b, k, entry)->violation[violation].engine_text, text);
        if (said) continue;
        char quoted[512];
        snprintf(quoted, sizeof quoted, "prints \"%s\"", text);
        printf("      ");
        out_flow(quoted, 6, 14, OUT_PLAIN);
    }
}

static void rule_text(const block *b, size_t entry, size_t violation)
{
    static const char *const head[] = { ">", "", "" };
    const fq_violation *rule = &entry_of(b, entry)->violation[violation];
    rule_sources(b, entry, violation);
    if (rule->silent)
        printf("      %snot refused: it is loaded, and something else is computed%s\n", out_on(OUT_RED), out_off(OUT_RED));
    out_table t;
    out_table_start(&t, head, 3);
    for (size_t i = 0; i < b->n; i++) {
        const fq_plan_entry *y = entry_of(b, i);
        for (size_t k = 0; k < y->n_violation; k++) {
            const fq_violation *x = &y->violation[k];
            if (strcmp(x->rule, rule->rule) != 0 || strcmp(x->source, rule->source) != 0) continue;
            out_cell(&t, OUT_PLAIN, "%d", y->tp);
            out_cell(&t, OUT_PLAIN, "%s", x->tensor);
            out_cell(&t, OUT_PLAIN, "%s", x->text);
        }
    }
    out_table_print(&t, 6);
}

static void violations(const block *b)
{
    bool any = false;
    for (size_t i = 0; i < b->n; i++) {
        for (size_t k = 0; k < entry_of(b, i)->n_violation; k++) {
            if (rule_seen(b, i, k)) continue;
            if (!any) printf("\n  what breaks (GPUs, tensor, numbers)\n");
            any = true;
            rule_text(b, i, k);
        }
    }
}

static void alternatives(const block *b)
{
    static const char *const head[] = { ">GPUS", ">WEIGHTS/GPU", ">KV/TOKEN", ">PARAMS", "INSTEAD" };
    out_table t;
    out_table_start(&t, head, 5);
    for (size_t i = 0; i < b->n; i++) {
        const fq_plan_entry *x = entry_of(b, i);
        for (size_t k = 1; k < x->n_option && x->verdict == FQ_NEEDS_FIT; k++) {
            const fq_option *o = &x->option[k];
            out_cell(&t, OUT_PLAIN, "%d", x->tp);
            out_cell(&t, OUT_PLAIN, "%s", out_bytes(o->weight_bytes_per_gpu).s);
            out_cell(&t, OUT_PLAIN, "%s", kv_text(o).s);
            out_cell(&t, OUT_PLAIN, "%s", out_percent(o->param_percent).s);
            out_cell(&t, OUT_PLAIN, "%s", o->what);
        }
    }
    if (t.n_cell > 0) printf("\n  alternatives\n");
    out_table_print(&t, 2);
}

static void block_text(const block *b)
{
    char title[512];
    const fq_plan_entry *x = entry_of(b, 0);
    size_t used = 0;
    for (size_t e = 0; e < b->n_engine && used < sizeof title; e++) {
        const fq_engine_info *g = entry_at(b, e, 0)->engine;
        used += (size_t)snprintf(title + used, sizeof title - used, "%s%s %s", e ? "; " : "", g->name, g->version);
    }
    if (used < sizeof title) used += (size_t)snprintf(title + used, sizeof title - used, ": %s", x->format->name);
    if (x->group_size > 0 && used < sizeof title) snprintf(title + used, sizeof title - used, ", groups of %d", x->group_size);
    else if (x->group_size < 0 && used < sizeof title) snprintf(title + used, sizeof title - used, ", one group per row");
    heading(title);
    prices(b);
    notes(b);
    memory(b);
    violations(b);
    alternatives(b);
}

/* Would the two entries be printed alike, apart from sources and the words that the engine prints? */
static bool same_entry(const fq_plan_entry *x, const fq_plan_entry *y)
{
    if (x->format != y->format || x->group_size != y->group_size || x->verdict != y->verdict || strcmp(x->note, y->note) != 0 ||
        x->n_violation != y->n_violation || x->n_option != y->n_option || x->memory_need_bytes != y->memory_need_bytes)
        return false;
    for (size_t i = 0; i < x->n_violation; i++) {
        const fq_violation *a = &x->violation[i], *b = &y->violation[i];
        if (strcmp(a->rule, b->rule) != 0 || strcmp(a->tensor, b->tensor) != 0 || strcmp(a->text, b->text) != 0 || a->silent != b->silent)
            return false;
    }
    for (size_t i = 0; i < x->n_option; i++) {
        const fq_option *a = &x->option[i], *b = &y->option[i];
        if (strcmp(a->what, b->what) != 0 || a->weight_bytes_per_gpu != b->weight_bytes_per_gpu ||
            a->kv_bytes_per_token_per_gpu != b->kv_bytes_per_token_per_gpu)
            return false;
    }
    return true;
}

static bool same_rows(const plan_view *v, size_t first, size_t other, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!same_entry(fq_plan_get_entry(v->plan, first + i), fq_plan_get_entry(v->plan, other + i))) return false;
    return true;
}

/* Rows of the plan (an engine, a format) in their order; one that equals an earlier one joins it. */
static void blocks(const plan_view *v)
{
    size_t n = fq_plan_n_entry(v->plan), n_tp = v->request->n_tp;
    for (size_t i = 0; i + n_tp <= n; i += n_tp) {
        bool joined = false;
        for (size_t k = 0; k < i && !joined; k += n_tp) joined = same_rows(v, k, i, n_tp);
        if (joined) continue;
        block b = { .v = v, .n = n_tp };
        for (size_t k = i; k + n_tp <= n && b.n_engine < MAX_ENGINE; k += n_tp)
            if (k == i || same_rows(v, i, k, n_tp)) b.first[b.n_engine++] = k;
        block_text(&b);
    }
}

/* ---- what to do ------------------------------------------------------------------------------------------------ */

static int counts_text(const plan_advice *a, char *out, size_t n)
{
    size_t used = 0;
    for (size_t i = 0; i < a->n_tp && used < n; i++)
        used += (size_t)snprintf(out + used, n - used, "%s%d", i == 0 ? "" : i + 1 == a->n_tp ? " and " : ", ", a->tp[i]);
    if (used < n) used += (size_t)snprintf(out + used, n - used, " GPU%s: ", a->n_tp == 1 && a->tp[0] == 1 ? "" : "s");
    return (int)used;
}

static void fit_text(FILE *f, const fq_model *m, const fq_fit *t)
{
    const struct { const char *name; int64_t from, to; } row[] = {
        { "intermediate_size", m->intermediate_size, t->intermediate_size_pad },
        { "moe_intermediate_size", m->moe_intermediate_size, t->moe_intermediate_size_pad },
        { "shared_expert_intermediate_size", m->shared_expert_intermediate_size, t->shared_expert_intermediate_size_pad },
        { "num_attention_heads", m->num_attention_heads, t->num_attention_heads_pad },
        { "num_key_value_heads", m->num_key_value_heads, t->num_key_value_heads_pad },
        { "vocab_size", m->vocab_size, t->vocab_size_pad },
    };
    const char *sep = "";
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        if (row[i].to == 0) continue;
        fprintf(f, "%s%s %" PRId64 " -> %" PRId64, sep, row[i].name, row[i].from, row[i].to);
        sep = ", ";
    }
    if (t->kv_replication > 1) fprintf(f, "%severy KV head stored %" PRId64 " times", sep, t->kv_replication);
}

#define WEIGHTS_SHOWN 4

/* " (+24.5 % parameters; 4.0 and 2.1 GiB per GPU)", as far as it is known */
static void price_text(FILE *f, const plan_advice *a, const plan_way *w)
{
    bool weights = a->n_tp <= WEIGHTS_SHOWN, params = !w->pads || !isnan(w->param_percent);
    for (size_t i = 0; i < a->n_tp; i++) weights &= w->weight_bytes_per_gpu[i] > 0;
    if (!weights && !params) return;
    fputs(" (", f);
    if (params) fprintf(f, "%s parameters%s", w->pads ? out_percent(w->param_percent).s : "no more", weights ? "; " : "");
    for (size_t i = 0; i < a->n_tp && weights; i++)
        fprintf(f, "%s%s", i == 0 ? "" : i + 1 == a->n_tp ? " and " : ", ", out_bytes(w->weight_bytes_per_gpu[i]).s);
    fputs(weights ? " per GPU)" : ")", f);
}

/* "moe_intermediate_size 768 -> 960, quantized in groups of 64 (+24.5 % parameters; 4.0 GiB per GPU)" */
static void way_text(FILE *f, const plan_view *v, const plan_advice *a, const plan_way *w)
{
    if (w->pads) fit_text(f, v->model, &w->fit);
    else fputs(w->as_llama || w->group_size ? "the same lengths" : "as it is", f);
    if (w->as_llama) fputs(", written as llama", f);
    if (w->group_size) fprintf(f, ", %s groups of %d", w->regroups ? "scales for" : "quantized in", w->group_size);
    if (w->expert_parallel) fputs(", with expert parallelism", f);
    price_text(f, a, w);
    if (w->engine) fprintf(f, ", for %s alone", w->engine);
}

/* `at` columns are printed already; more lines begin at `indent`. */
static void way_lines(const plan_view *v, const plan_advice *a, const plan_way *w, int at, int indent)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (f) {
        way_text(f, v, a, w);
        if (fclose(f) == 0) out_flow(text, at, indent, OUT_PLAIN);
    }
    free(text);
    if (!plan_way_writes(w) || plan_no_command(v)) return;
    char *command = plan_command(v, a, w);
    printf("%*s%s", indent, "", out_on(OUT_BOLD));
    if (command) out_escaped(stdout, command);
    printf("%s\n", out_off(OUT_BOLD));
    free(command);
}

static void ways_text(const plan_view *v, const plan_advice *a, int at)
{
    bool changes = false;
    for (size_t i = 0; i < a->n_way; i++) {
        changes |= plan_way_writes(&a->way[i]);
        if (i) printf("    or ");
        way_lines(v, a, &a->way[i], i ? 7 : at, i ? 7 : 4);
    }
    if (changes && plan_no_command(v)) {
        printf("    ");
        out_flow(plan_no_command(v), 4, 4, OUT_PLAIN);
    }
}

static void also(const char *what, const char *which)
{
    if (!which) return;
    printf("    ");
    char text[4096];
    snprintf(text, sizeof text, "%s: %s", what, which);
    out_flow(text, 4, 6, OUT_DIM);
}

static void advice_text(const plan_view *v, const plan_advice *a)
{
    char text[2048];
    int at = 2 + counts_text(a, text, sizeof text);
    printf("  %s", text);
    switch (a->state) {
    case PLAN_RUNS: printf("nothing to do%s\n", a->unjudged ? " for what is judged" : ""); break;
    case PLAN_NOT_JUDGED: printf("not judged: the tables have no rules for this\n"); return;
    case PLAN_NOT_TOGETHER: printf("no checkpoint suits all of these at once; plan one --engine and --format at a time\n"); break;
    case PLAN_NO_WAY:
        snprintf(text, sizeof text, "no way known%s%s", a->why ? ": " : "", a->why ? a->why : "");
        out_flow(text, at, 4, OUT_PLAIN);
        break;
    case PLAN_PARTLY:
        snprintf(text, sizeof text, "not with all of these; plan only the possible ones: %s", a->able ? a->able : "");
        out_flow(text, at, 4, OUT_PLAIN);
        break;
    case PLAN_WAYS:
        ways_text(v, a, at);
        also("needs nothing", a->idle);
        break;
    }
    also("not judged", a->unjudged);
}

void plan_print_text(const plan_view *v)
{
    model_line(v);
    overview(v);
    blocks(v);
    heading("What to do");
    for (size_t i = 0; i < v->n_advice; i++) advice_text(v, &v->advice[i]);
}
