/* plan_text.c - a plan for people, at most about 100 columns wide.
 *
 * The answer comes first (one line per engine and format, one column per GPU count), then per engine and format the table with the
 * prices, the rules that are broken with their numbers and sources, and what else could be done; at the end the commands. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "plan_view.h"

#define WIDTH 98

/* Entries first .. first + n-1 of one engine and format. */
typedef struct block { const plan_view *v; size_t first, n; } block;

static const fq_plan_entry *entry_of(const block *b, size_t i) { return fq_plan_get_entry(b->v->plan, b->first + i); }

static bool is_silent(const fq_plan_entry *x)
{
    for (size_t i = 0; i < x->n_violation; i++)
        if (x->violation[i].silent) return true;
    return false;
}

static void heading(const char *title) { printf("\n%s%s%s\n", out_on(OUT_BOLD), title, out_off(OUT_BOLD)); }

/* Prints text wrapped at WIDTH; the first line starts at column `at`, the others at `indent`. */
static void flow(const char *text, size_t at, size_t indent)
{
    size_t column = at;
    bool first = true;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (!first && column + 1 + n > WIDTH) {
            printf("\n%*s", (int)indent, "");
            column = indent;
            first = true;
        }
        char word[512];
        snprintf(word, sizeof word, "%.*s", (int)n, text);
        if (!first) putchar(' ');
        out_escaped(stdout, word);
        column += n + !first;
        first = false;
        text += n;
        text += strspn(text, " ");
    }
    putchar('\n');
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
        snprintf(text + used, sizeof text - used, ", %s %d bits in groups of %d", m->quant_name, m->quant_bits,
                 m->quant_group_size);
    printf("%s", out_on(OUT_BOLD));
    out_escaped(stdout, m->architecture[0] ? m->architecture : m->model_type);
    printf("%s  ", out_off(OUT_BOLD));
    flow(text, strlen(m->architecture[0] ? m->architecture : m->model_type) + 2, 2);
    if (!m->family[0]) {
        printf("%sfitq can plan this family from its dimensions, but not pad it%s (`fitq help families`)\n", out_on(OUT_YELLOW),
               out_off(OUT_YELLOW));
    }
}

/* ---- overview -------------------------------------------------------------------------------------------------- */

static void overview_cell(out_table *t, const fq_plan_entry *x)
{
    const char *mark = is_silent(x) ? " !" : "";
    if (x->verdict == FQ_RUNS) out_cell(t, OUT_GREEN, "runs");
    else if (x->verdict == FQ_IMPOSSIBLE || x->n_option == 0) out_cell(t, OUT_RED, "no%s", mark);
    else if (x->option[0].expert_parallel) out_cell(t, OUT_YELLOW, "experts%s", mark);
    else if (x->option[0].group_size) out_cell(t, OUT_YELLOW, "groups of %d%s", x->option[0].group_size, mark);
    else out_cell(t, OUT_YELLOW, "pad %s%s", out_percent(x->option[0].param_percent).s, mark);
}

static void overview(const plan_view *v)
{
    size_t n_tp = v->request->n_tp, n = fq_plan_n_entry(v->plan), n_row = n / n_tp;
    char title[OUT_MAX_COLUMN][16];
    const char *head[OUT_MAX_COLUMN] = { "ENGINE", "FORMAT" };
    bool silent = false;
    if (n_tp + 2 > OUT_MAX_COLUMN || n_row < 2) return;
    for (size_t i = 0; i < n_tp; i++) {
        int tp = fq_plan_get_entry(v->plan, i)->tp;
        snprintf(title[i], sizeof title[i], "%d GPU%s", tp, tp == 1 ? "" : "s");
        head[i + 2] = title[i];
    }
    out_table t;
    out_table_start(&t, head, n_tp + 2);
    for (size_t i = 0; i < n; i++) {
        const fq_plan_entry *x = fq_plan_get_entry(v->plan, i);
        if (i % n_tp == 0) {
            out_cell(&t, OUT_PLAIN, "%s", x->engine->id);
            out_cell(&t, OUT_PLAIN, "%s", x->format->id);
        }
        overview_cell(&t, x);
        silent |= is_silent(x);
    }
    putchar('\n');
    out_table_print(&t, 0);
    if (silent) printf("%s!  loads without an error and computes something else%s\n", out_on(OUT_RED), out_off(OUT_RED));
}

/* ---- one engine and format ------------------------------------------------------------------------------------- */

static void prices(const block *b)
{
    static const char *const head[] = { ">GPUS", "VERDICT", ">WEIGHTS/GPU", ">KV/TOKEN/GPU", ">PARAMETERS", "FIX" };
    out_table t;
    out_table_start(&t, head, 6);
    for (size_t i = 0; i < b->n; i++) {
        const fq_plan_entry *x = entry_of(b, i);
        const fq_option *o = x->n_option ? &x->option[0] : NULL;
        bool priced = o && x->verdict != FQ_IMPOSSIBLE;
        out_cell(&t, OUT_PLAIN, "%d", x->tp);
        if (x->verdict == FQ_RUNS) out_cell(&t, OUT_GREEN, "runs as it is");
        else if (x->verdict == FQ_NEEDS_FIT) out_cell(&t, OUT_YELLOW, "does not run");
        else out_cell(&t, OUT_RED, "no way known");
        out_cell(&t, OUT_PLAIN, "%s", priced ? out_bytes(o->weight_bytes_per_gpu).s : "");
        out_cell(&t, OUT_PLAIN, "%s", priced ? out_bytes(o->kv_bytes_per_token_per_gpu).s : "");
        out_cell(&t, OUT_PLAIN, "%s", priced && x->verdict == FQ_NEEDS_FIT ? out_percent(o->param_percent).s : "");
        out_cell(&t, OUT_PLAIN, "%s", x->verdict == FQ_RUNS ? "" : priced ? o->what : "-");
    }
    out_table_print(&t, 2);
}

static void notes(const block *b)
{
    for (size_t i = 0; i < b->n; i++) {
        const fq_plan_entry *x = entry_of(b, i);
        if (!x->note[0]) continue;
        /* the same note for several counts is said once */
        bool said = false;
        for (size_t k = 0; k < i; k++) said |= strcmp(entry_of(b, k)->note, x->note) == 0;
        if (said) continue;
        printf("  note: ");
        flow(x->note, 8, 8);
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
        if (x->verdict == FQ_IMPOSSIBLE) {
            for (int c = 0; c < 4; c++) out_cell(&t, OUT_PLAIN, "-");
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

/* Is this violation's rule (with its source) named earlier in the block? */
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

static void rule_text(const block *b, const fq_violation *rule)
{
    static const char *const head[] = { ">", "", "" };
    printf("    %s%s%s  %s", out_on(OUT_BOLD), rule->rule, out_off(OUT_BOLD), out_on(OUT_DIM));
    out_escaped(stdout, rule->source);
    printf("%s\n", out_off(OUT_DIM));
    if (rule->silent)
        printf("      %snot refused: the engine loads it and computes something else%s\n", out_on(OUT_RED), out_off(OUT_RED));
    if (rule->engine_text) {
        printf("      prints \"");
        char quoted[512];
        snprintf(quoted, sizeof quoted, "%s\"", rule->engine_text);
        flow(quoted, 14, 14);
    }
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
            rule_text(b, &entry_of(b, i)->violation[k]);
        }
    }
}

static void alternatives(const block *b)
{
    static const char *const head[] = { ">GPUS", ">WEIGHTS/GPU", ">KV/TOKEN/GPU", ">PARAMETERS", "INSTEAD" };
    out_table t;
    out_table_start(&t, head, 5);
    for (size_t i = 0; i < b->n; i++) {
        const fq_plan_entry *x = entry_of(b, i);
        for (size_t k = 1; k < x->n_option && x->verdict == FQ_NEEDS_FIT; k++) {
            const fq_option *o = &x->option[k];
            out_cell(&t, OUT_PLAIN, "%d", x->tp);
            out_cell(&t, OUT_PLAIN, "%s", out_bytes(o->weight_bytes_per_gpu).s);
            out_cell(&t, OUT_PLAIN, "%s", out_bytes(o->kv_bytes_per_token_per_gpu).s);
            out_cell(&t, OUT_PLAIN, "%s", out_percent(o->param_percent).s);
            out_cell(&t, OUT_PLAIN, "%s", o->what);
        }
    }
    if (t.n_cell > 0) printf("\n  alternatives\n");
    out_table_print(&t, 2);
}

static void block_text(const block *b)
{
    const fq_plan_entry *x = entry_of(b, 0);
    char title[512];
    size_t used = (size_t)snprintf(title, sizeof title, "%s %s, %s", x->engine->name, x->engine->version, x->format->name);
    if (x->group_size > 0 && used < sizeof title)
        snprintf(title + used, sizeof title - used, ", groups of %d", x->group_size);
    else if (x->group_size < 0 && used < sizeof title)
        snprintf(title + used, sizeof title - used, ", one group per row");
    heading(title);
    prices(b);
    notes(b);
    memory(b);
    violations(b);
    alternatives(b);
}

/* ---- what to do ------------------------------------------------------------------------------------------------ */

static void counts(const plan_advice *a)
{
    for (size_t i = 0; i < a->n_tp; i++) printf("%s%d", i == 0 ? "" : i + 1 == a->n_tp ? " and " : ", ", a->tp[i]);
    printf(" GPU%s: ", a->n_tp == 1 && a->tp[0] == 1 ? "" : "s");
}

static void fit_line(const fq_model *m, const fq_fit *f)
{
    const struct { const char *name; int64_t from, to; } row[] = {
        { "intermediate_size", m->intermediate_size, f->intermediate_size_pad },
        { "moe_intermediate_size", m->moe_intermediate_size, f->moe_intermediate_size_pad },
        { "shared_expert_intermediate_size", m->shared_expert_intermediate_size, f->shared_expert_intermediate_size_pad },
        { "num_attention_heads", m->num_attention_heads, f->num_attention_heads_pad },
        { "num_key_value_heads", m->num_key_value_heads, f->num_key_value_heads_pad },
        { "vocab_size", m->vocab_size, f->vocab_size_pad },
    };
    const char *between = "";
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        if (row[i].to == 0) continue;
        printf("%s%s %" PRId64 " -> %" PRId64, between, row[i].name, row[i].from, row[i].to);
        between = ", ";
    }
    if (f->kv_replication > 1) printf("%severy KV head %" PRId64 " times", between, f->kv_replication);
    putchar('\n');
}

static void advice_text(const plan_view *v, const plan_advice *a)
{
    printf("  ");
    counts(a);
    if (!a->needs && a->possible) {
        printf("nothing to do\n");
    } else if (!a->possible) {
        printf("no single checkpoint suits every engine and format above; ask for one --engine and --format\n");
    } else if (!a->changes) {
        printf("the weights can stay; see the fix above\n");
    } else {
        fit_line(v->model, &a->fit);
        if (v->model->quant != FQ_QUANT_NONE) {
            printf("    this checkpoint is quantized already: pad the original weights, then quantize them\n");
            return;
        }
        if (!v->model->family[0]) return;
        char *command = plan_command(v, a);
        printf("    %s", out_on(OUT_BOLD));
        if (command) out_escaped(stdout, command);
        printf("%s\n", out_off(OUT_BOLD));
        free(command);
    }
}

void plan_print_text(const plan_view *v)
{
    size_t n = fq_plan_n_entry(v->plan), n_tp = v->request->n_tp;
    model_line(v);
    overview(v);
    for (size_t i = 0; i + n_tp <= n; i += n_tp) block_text(&(block){ v, i, n_tp });
    heading("What to do");
    for (size_t i = 0; i < v->n_advice; i++) advice_text(v, &v->advice[i]);
}
