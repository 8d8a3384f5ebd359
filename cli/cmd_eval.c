/* cmd_eval.c - perplexity of a checkpoint, and with a reference how far its predictions are from the reference's. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "output.h"
#include "progress.h"
#include "report.h"

typedef struct seen {
    const arg_values *a;
    progress *p;
    fq_layer_diff *layer; size_t n, cap;
    bool lost;
} seen;

static void on_layer(void *user, const fq_layer_diff *d)
{
    seen *s = user;
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        fq_layer_diff *more = realloc(s->layer, cap * sizeof *more);
        if (!more) {
            s->lost = true;
            return;
        }
        s->layer = more;
        s->cap = cap;
    }
    s->layer[s->n++] = *d;
}

static void on_plan(void *user, const fq_run_plan *plan)
{
    const seen *s = user;
    if (s->a->quiet) return;
    progress_end(s->p);
    report_run_plan("eval", plan);
}

/* ---- text ------------------------------------------------------------------------------------------------------------- */

typedef struct figure { char s[48]; } figure;

/* Six digits behind the point, as llama.cpp prints them; what would be 0.00 then is written with its exponent. */
static figure number(double x)
{
    figure f;
    if (isinf(x)) snprintf(f.s, sizeof f.s, "above 1e308");   /* exp of a mean of more than 709: not a number, but an answer */
    else if (fabs(x) < 1e-300) snprintf(f.s, sizeof f.s, "0");
    else snprintf(f.s, sizeof f.s, fabs(x) < 1e-4 ? "%.3e" : "%.6f", x);
    return f;
}

static void row(out_table *t, const char *what, figure value, const char *unit, const fq_value *with_error, double scale, const char *note)
{
    out_cell(t, OUT_PLAIN, "%s", what);
    out_cell(t, OUT_BOLD, "%s%s", value.s, unit);
    if (with_error) out_cell(t, OUT_PLAIN, "+- %s%s", number(scale * with_error->error).s, unit);
    else out_cell(t, OUT_PLAIN, "%s", "");
    out_cell(t, OUT_DIM, "%s", note);
}

static void value_row(out_table *t, const char *what, const fq_value *v, const char *note) { row(t, what, number(v->value), "", v, 1, note); }
static void share_row(out_table *t, const char *what, const fq_value *v, const char *note) { row(t, what, number(100 * v->value), " %", v, 100, note); }
static void plain_row(out_table *t, const char *what, double x) { row(t, what, number(x), "", NULL, 1, ""); }

static void percentiles(out_table *t, const fq_eval_report *r)
{
    plain_row(t, "  largest", r->kld_max);
    for (size_t i = 0; i < FQ_N_PERCENTILE; i++) {
        char what[32];
        if (fabs(fq_percentile(i) - 0.5) < 1e-9) snprintf(what, sizeof what, "  median");
        else snprintf(what, sizeof what, "  %.1f %%", 100 * fq_percentile(i));
        plain_row(t, what, r->kld_percentile[i]);
    }
    plain_row(t, "  smallest", r->kld_min);
}

/* Several layers on a line: a model of 80 would fill three screens. */
static void layers_text(const seen *s)
{
    enum { CELL = 19 };
    size_t per_line = (size_t)(out_width() - 2) / CELL, i;
    bool same = true;
    for (i = 0; i < s->n; i++) same = same && s->layer[i].same_bits;
    if (s->n == 0) return;
    if (same) {
        printf("  hidden states have the same bits after the embedding and every layer\n");
        return;
    }
    printf("  relative error of the hidden states, after the embedding and each layer:\n");
    for (i = 0; i < s->n; i++) {
        char name[24] = "embed";
        if (s->layer[i].layer >= 0) snprintf(name, sizeof name, "%" PRId64, s->layer[i].layer);
        printf("%s%7s %9.2e%s", i % per_line == 0 ? "" : "  ", name, s->layer[i].relative, i % per_line == per_line - 1 || i + 1 == s->n ? "\n" : "");
    }
}

static void text(const seen *s, const fq_eval_report *r)
{
    static const char *const head[] = { "", ">", "", "" };
    const arg_values *a = s->a;
    char note[96];
    out_table t;
    out_table_start(&t, head, 4);
    snprintf(note, sizeof note, "%s tokens%s", out_grouped(r->plan.n_scored).s, a->score == FQ_SCORE_ALL ? "" : ", second halves of windows");
    value_row(&t, "perplexity", &r->ppl, note);
    if (a->reference) {
        value_row(&t, "perplexity of the reference", &r->ppl_reference, "");
        value_row(&t, "ln(perplexity / reference)", &r->ln_ratio, "paired");
        value_row(&t, "KL divergence", &r->kld, "mean; next token, from the reference");
        percentiles(&t, r);
        share_row(&t, "same top token", &r->same_top, "");
        share_row(&t, "delta p", &r->delta_p, "mean; of the right token's probability");
        share_row(&t, "delta p, RMS", &r->rms_delta_p, "");
        plain_row(&t, "largest logit difference", r->max_logit_diff);
    }
    out_table_print(&t, 2);
    layers_text(s);
    printf("  %s tokens in %.1f s, %s tokens/s\n", out_grouped(r->plan.n_token).s, r->seconds, out_grouped((uint64_t)r->tokens_per_second).s);
}

/* ---- JSON ------------------------------------------------------------------------------------------------------------- */

static json_t *layers_json(const seen *s)
{
    json_t *list = json_array();
    for (size_t i = 0; i < s->n; i++) {
        json_t *o = json_object();
        out_put_int(o, "layer", s->layer[i].layer);
        out_put_real(o, "relative", s->layer[i].relative);
        out_put_real(o, "max_abs", s->layer[i].max_abs);
        out_put_real(o, "cosine", s->layer[i].cosine);
        out_put_bool(o, "same_bits", s->layer[i].same_bits);
        out_append(list, o);
    }
    return list;
}

static json_t *kld_json(const fq_eval_report *r)
{
    json_t *o = json_object(), *list = json_array();
    out_put_real(o, "value", r->kld.value);
    out_put_real(o, "error", r->kld.error);
    out_put_real(o, "min", r->kld_min);
    out_put_real(o, "max", r->kld_max);
    for (size_t i = 0; i < FQ_N_PERCENTILE; i++) {
        json_t *pair = json_array();
        out_append(pair, json_real(fq_percentile(i)));
        out_append(pair, json_real(r->kld_percentile[i]));
        out_append(list, pair);
    }
    out_put(o, "percentiles", list);
    return o;
}

static int print_json(const seen *s, const fq_eval_report *r)
{
    const arg_values *a = s->a;
    json_t *o = json_object();
    out_put_str(o, "path", a->operand[0]);
    out_put_str(o, "reference", a->reference);
    out_put_str(o, "score", arg_score_names[a->score]);
    out_put_str(o, "bos", arg_bos_names[a->bos]);
    out_put_str(o, "served_dtype", arg_served_names[a->served]);
    out_put_bool(o, "exact", a->exact);
    out_put_int(o, "vocab", r->n_vocab);
    out_put_int(o, "layers", r->n_layer);
    out_put(o, "plan", report_run_plan_json(&r->plan));
    out_put_value(o, "nll", &r->nll);
    out_put_value(o, "perplexity", &r->ppl);
    if (a->reference) {
        out_put_value(o, "nll_reference", &r->nll_reference);
        out_put_value(o, "perplexity_reference", &r->ppl_reference);
        out_put_value(o, "ln_ratio", &r->ln_ratio);
        out_put(o, "kld", kld_json(r));
        out_put_value(o, "same_top", &r->same_top);
        out_put_value(o, "delta_p", &r->delta_p);
        out_put_value(o, "rms_delta_p", &r->rms_delta_p);
        out_put_real(o, "max_logit_diff", r->max_logit_diff);
        out_put(o, "layer_diffs", layers_json(s));
    }
    out_put_real(o, "seconds", r->seconds);
    out_put_real(o, "tokens_per_second", r->tokens_per_second);
    return out_json(o);
}

/* ---- the command --------------------------------------------------------------------------------------------------------- */

static int run_eval(const arg_values *a)
{
    if (!a->text && !a->ids) return args_usage("eval", "say what to run the model on: --text FILE or --ids FILE");
    if (a->text && a->ids) return args_usage("eval", "--text does not go with --ids");
    progress p;
    fq_run run;
    fq_err e = { 0 };
    fq_eval_report r = { 0 };
    progress_run(&p, &run, a);
    seen s = { .a = a, .p = &p };
    const fq_eval_options o = {
        .path = a->operand[0], .reference = a->reference,
        .text = { .text = a->text, .ids = a->ids, .context = a->context, .chunks = a->chunks, .score = (fq_score)a->score, .bos = (fq_bos)a->bos },
        .served = (fq_served)a->served, .exact = a->exact, .scratch = a->scratch, .on_plan = on_plan, .on_layer = on_layer, .user = &s,
    };
    fq_status status = fq_eval(&o, &run, &r, &e);
    progress_end(&p);
    int exit_status = 0;
    if (status == FQ_OK && s.lost) {
        e = (fq_err){ .code = FQ_E_NOMEM, .text = "out of memory: layers" };
        status = FQ_E_NOMEM;
    }
    if (status != FQ_OK) exit_status = out_error(&e);
    else if (fq_rank() > 0) exit_status = 0;   /* rank 0 has the numbers */
    else if (a->json) exit_status = print_json(&s, &r);
    else text(&s, &r);
    free(s.layer);
    return exit_status;
}

static const arg_option options[] = {
    ARG_OPT_TEXT, ARG_OPT_IDS,
    { "reference", 'r', ARG_STRING, "PATH2", ARG_OFFSET(reference), "checkpoint to compare with; both are run side by side", NULL, 0, 0, ARG_PATH },
    ARG_OPT_WINDOW("512"),
    ARG_OPT_CHUNKS("all"),
    { "score", 0, ARG_CHOICE, "RULE", ARG_OFFSET(score),
      "which predictions of a window of N tokens count: second-half, from those for token N/2 + 1 on, or all (default: second-half)", arg_score_names, 0, 0, ARG_ANY },
    { "bos", 0, ARG_CHOICE, "RULE", ARG_OFFSET(bos),
      "put the beginning-of-text token over token 0 of every window: auto, if the tokenizer begins a text with one; always; never (default: auto)", arg_bos_names, 0,
      0, ARG_ANY },
    ARG_OPT_SERVED, ARG_OPT_EXACT, ARG_OPT_SCRATCH,
    { "memory", 0, ARG_SIZE, "SIZE", ARG_OFFSET(memory), "bound for the whole process (default: what runs well, at most 3/4 of what is free)", NULL, 0, 0, ARG_ANY },
    ARG_OPT_THREADS, ARG_OPT_RANKS, ARG_OPT_EXPERT_PARALLEL, ARG_OPT_HEARTBEAT, ARG_OPT_JSON, ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_eval = {
    .name = "eval", .summary = "perplexity over a text, and the distance from a reference model",
    .synopsis = "PATH (--text FILE | --ids FILE) [--reference PATH2] [options]",
    .text = "The definitions are those of llama.cpp's perplexity tool. The text is tokenized once, with the tokenizer.json of PATH (of PATH2 if PATH has none), and "
            "cut into windows that do not overlap. Perplexity is exp of the mean -ln p of the tokens that count; with a reference, the mean KL divergence with its "
            "percentiles (terms with ln p of the reference above -16), the share of equal top tokens, ln(PPL / PPL2) with its paired error, and the RMS "
            "difference of the right token's probability. Rows that fitting added behind a vocabulary do not count. Models are read a layer at a time, side by side: "
            "memory need not hold them. What it will take is printed first.",
    .examples = "  fitq eval Qwen2-72B --text corpus.txt\n"
                "  fitq eval Qwen2-72B-tp8 --text corpus.txt --reference Qwen2-72B --chunks 4\n"
                "  fitq eval Qwen2-72B --text corpus.txt --context 256 --memory 24GiB --json\n",
    .exit_status = "; 6 NaN or infinity in weights or results",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 1, .max_operand = 1, .run = run_eval,
};
