/* cmd_verify.c - the proof that a fitted checkpoint is still the same model.
 *
 * --weights: structure only; every element of B is the element of A that the map names, or a zero, and every element of A is there. Without
 * it both are run over the same tokens as well, and the verdict says which kind of sameness was found, never more than that. With --tp one
 * checkpoint is looked at as engines would cut it (verify_slices.c). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "output.h"
#include "progress.h"
#include "report.h"
#include "verify_slices.h"

/* ---- weights only -------------------------------------------------------------------------------------------------- */

static void weights_text(const fq_verify_report *r, const arg_values *a, bool same)
{
    static const char *const head[] = { "", ">", "" };
    out_table t;
    const struct { const char *what; uint64_t n; const char *note; bool rare; } row[] = {
        { "tensors", r->n_tensor, "", false },
        { "  equal", r->n_tensor_equal, "byte for byte", false },
        { "  mapped", r->n_tensor_mapped, "elements moved as fitq.json says", false },
        { "  recoded", r->n_tensor_recoded, "codes in another form, the same numbers", true },
        { "  added", r->n_tensor_added, "all zero, not in the original", true },
        { "  different", r->n_tensor_bad, "", false },
        { "elements in place", r->n_element_same, "each is the element of the original that the map names", false },
        { "  of these copies", r->n_element_copy, "of replicated KV heads", true },
        { "zeros", r->n_element_zero, "where the map has nothing", false },
        { "elements missing", r->n_element_missing, "of the original", false },
        { "elements wrong", r->n_element_wrong, "", false },
    };
    out_table_start(&t, head, 3);
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        if (row[i].rare && row[i].n == 0) continue;
        out_cell(&t, OUT_PLAIN, "%s", row[i].what);
        out_cell(&t, OUT_BOLD, "%s", out_grouped(row[i].n).s);
        out_cell(&t, OUT_DIM, "%s", row[i].note);
    }
    out_table_print(&t, 2);
    if (same) {
        printf("%sproved%s: ", out_on(OUT_GREEN), out_off(OUT_GREEN));
        out_escaped(stdout, a->operand[1]);
        printf(" holds every element of ");
        out_escaped(stdout, a->operand[0]);
        printf(" where the map says, and zeros elsewhere\n");
        return;
    }
    printf("%sdifferent%s", out_on(OUT_RED), out_off(OUT_RED));
    if (r->first_bad[0]) {
        printf(": ");
        out_escaped(stdout, r->first_bad);
    }
    putchar('\n');
}

static json_t *weights_json(const fq_verify_report *r, bool same)
{
    json_t *o = json_object();
    out_put_bool(o, "same", same);
    out_put_u64(o, "tensors", r->n_tensor);
    out_put_u64(o, "tensors_equal", r->n_tensor_equal);
    out_put_u64(o, "tensors_mapped", r->n_tensor_mapped);
    out_put_u64(o, "tensors_recoded", r->n_tensor_recoded);
    out_put_u64(o, "tensors_added", r->n_tensor_added);
    out_put_u64(o, "tensors_different", r->n_tensor_bad);
    out_put_u64(o, "elements_in_place", r->n_element_same);
    out_put_u64(o, "elements_copies", r->n_element_copy);
    out_put_u64(o, "elements_zero", r->n_element_zero);
    out_put_u64(o, "elements_missing", r->n_element_missing);
    out_put_u64(o, "elements_wrong", r->n_element_wrong);
    out_put_str(o, "first_difference", r->first_bad[0] ? r->first_bad : NULL);
    return o;
}

static int run_weights(const arg_values *a)
{
    progress p;
    fq_run run;
    fq_verify_report r = { 0 };
    fq_err e = { 0 };
    progress_run(&p, &run, a);
    fq_status s = fq_verify_weights(a->operand[0], a->operand[1], &run, &r, &e);
    progress_end(&p);
    if (s != FQ_OK && s != FQ_E_DIFFERS) return out_error(&e);
    /* Without counts there is nothing to tabulate: the error line says it all. */
    if (s == FQ_E_DIFFERS && r.n_tensor == 0) return out_error(&e);
    int status = 0;
    if (a->json) status = out_json(weights_json(&r, s == FQ_OK));
    else weights_text(&r, a, s == FQ_OK);
    return status ? status : -(int)s;
}

/* ---- the whole proof, as text ----------------------------------------------------------------------------------------- */

typedef struct short_text { char s[64]; } short_text;

/* Two digits or so: what rounding does is known no better. */
static short_text measured(double x)
{
    short_text t;
    if (x == 0) snprintf(t.s, sizeof t.s, "0");
    else snprintf(t.s, sizeof t.s, fabs(x) >= 0.01 && fabs(x) < 1000 ? "%.3f" : "%.1e", x);
    return t;
}

static short_text share(double x)
{
    short_text t;
    snprintf(t.s, sizeof t.s, x == 1 ? "all" : "%.2f %%", 100 * x);
    return t;
}

static void fact(out_table *t, const char *what) { out_cell(t, OUT_PLAIN, "%s", what); }

static void weights_fact(out_table *t, const fq_proof *r)
{
    const fq_verify_report *w = &r->weights;
    fact(t, "weights");
    if (r->weights_same) {
        char added[160] = "";
        if (w->n_tensor_recoded) snprintf(added, sizeof added, ", %s in another form with the same numbers", out_grouped(w->n_tensor_recoded).s);
        if (w->n_tensor_added) snprintf(added + strlen(added), sizeof added - strlen(added), ", %s added (all zero)", out_grouped(w->n_tensor_added).s);
        out_cell(t, OUT_GREEN, "the same: %s tensors, %s equal, %s mapped%s; no element missing or wrong", out_grouped(w->n_tensor).s,
                 out_grouped(w->n_tensor_equal).s, out_grouped(w->n_tensor_mapped).s, added);
    } else if (w->n_tensor_bad > w->n_tensor_form || r->weights_compared) {
        out_cell(t, OUT_RED, "different: %s of %s tensors, elements wrong: %s, missing: %s", out_grouped(w->n_tensor_bad).s, out_grouped(w->n_tensor).s,
                 out_grouped(w->n_element_wrong).s, out_grouped(w->n_element_missing).s);
    } else if (w->n_tensor == 0) {
        out_cell(t, OUT_YELLOW, "not compared: of a quantized model no weight is the same");
    } else {
        out_cell(t, OUT_YELLOW, "not comparable: %s of %s tensors have no counterpart of the same name, shape and type, %s are equal",
                 out_grouped(w->n_tensor_form).s, out_grouped(w->n_tensor).s, out_grouped(w->n_tensor_equal).s);
    }
}

static void facts(const fq_proof *r, const arg_values *a)
{
    static const char *const head[] = { "", "" };
    out_table t;
    out_table_start(&t, head, 2);
    weights_fact(&t, r);
    if (!r->numbers_compared) {
        fact(&t, "numbers");
        out_cell(&t, OUT_YELLOW, "not compared");
        out_table_print(&t, 2);
        return;
    }
    fact(&t, "run on");
    out_cell(&t, OUT_PLAIN, "%s window%s of %s %s, held as %s", out_grouped(r->plan.n_window).s, r->plan.n_window == 1 ? "" : "s",
             out_grouped((uint64_t)r->plan.context).s, r->random_ids ? "pseudo-random ids" : "tokens", arg_served_names[a->served]);
    fact(&t, "fixed order");
    if (r->fixed_bits) out_cell(&t, OUT_GREEN, "the same bits: every hidden state and every logit");
    else out_cell(&t, r->fixed_diff <= r->bound ? OUT_PLAIN : OUT_RED, "a logit differs by up to %s", measured(r->fixed_diff).s);
    fact(&t, "bound");
    out_cell(&t, OUT_PLAIN, "%s for a logit, 16 times what order alone does; the largest logit is %.1f", measured(r->bound).s, r->max_logit);
    if (r->n_vocab_pad > 0) {
        fact(&t, "padded ids");
        out_cell(&t, OUT_PLAIN, "%s logits behind the %s that were compared, %s", out_grouped((uint64_t)r->n_vocab_pad).s, out_grouped((uint64_t)r->n_vocab).s,
                 r->vocab_pad_zero ? "all exactly 0" : "not all 0");
    }
    if (r->first_bad_layer != -2) {
        fact(&t, "first bad layer");
        if (r->first_bad_layer == -1) out_cell(&t, OUT_RED, "the embedding: relative error %s; bound %s", measured(r->first_bad_relative).s, measured(r->first_bad_bound).s);
        else out_cell(&t, OUT_RED, "%lld: relative error %s; bound %s", (long long)r->first_bad_layer, measured(r->first_bad_relative).s, measured(r->first_bad_bound).s);
    }
    out_table_print(&t, 2);
}

/* What an engine would see: the same two models in the order of a tuned matrix product, and beside it what order does to A alone. */
static void drift(const fq_proof *r)
{
    static const char *const head[] = { "IN FAST ORDER", ">B FROM A", ">ORDER ALONE" };
    out_table t;
    out_table_start(&t, head, 3);
    const struct { const char *what; short_text padding, alone; } row[] = {
        { "largest logit difference", measured(r->fast_diff), measured(r->noise) },
        { "KL divergence", measured(r->kld.value), measured(r->kld_noise.value) },
        { "same top token", share(r->same_top.value), share(r->same_top_noise.value) },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        out_cell(&t, OUT_PLAIN, "%s", row[i].what);
        out_cell(&t, OUT_BOLD, "%s", row[i].padding.s);
        out_cell(&t, OUT_PLAIN, "%s", row[i].alone.s);
    }
    out_table_print(&t, 2);
}

static void say_names(const arg_values *a, const char *between)
{
    out_escaped(stdout, a->operand[1]);
    fputs(between, stdout);
    out_escaped(stdout, a->operand[0]);
}

static void verdict(const fq_proof *r, const arg_values *a, const fq_err *e)
{
    switch (r->verdict) {
    case FQ_SAME_BITS:
        printf("%ssame%s: ", out_on(OUT_GREEN), out_off(OUT_GREEN));
        say_names(a, " has the weights of ");
        printf(" and, in fitq's order of summation, computes the same bits\n");
        break;
    case FQ_SAME_REAL:
        printf("%ssame%s: ", out_on(OUT_GREEN), out_off(OUT_GREEN));
        say_names(a, " has the weights of ");
        printf(", so it is the same function; its logits differ within what rounding does\n");
        break;
    case FQ_SAME_NUMBERS:
        printf("%sagrees on this text%s: ", out_on(OUT_YELLOW), out_off(OUT_YELLOW));
        say_names(a, " gives the logits of ");
        printf(" within the bound %s\n  weights could not be compared, so this says nothing about other texts: ", measured(r->bound).s);
        out_escaped(stdout, r->why_not);
        putchar('\n');
        break;
    case FQ_DIFFERENT:
        printf("%sdifferent%s: ", out_on(OUT_RED), out_off(OUT_RED));
        out_escaped(stdout, e->text);
        putchar('\n');
        break;
    }
    if (!r->numbers_compared && strcmp(r->why_not, e->text) != 0) {
        printf("  numbers could not be compared: ");
        out_escaped(stdout, r->why_not);
        putchar('\n');
    }
}

static void proof_text(const fq_proof *r, const arg_values *a, const fq_err *e)
{
    facts(r, a);
    if (r->numbers_compared) {
        putchar('\n');
        drift(r);
    }
    verdict(r, a, e);
}

/* ---- as JSON ------------------------------------------------------------------------------------------------------------ */

static json_t *numbers_json(const fq_proof *r, const arg_values *a)
{
    json_t *o = json_object();
    out_put_str(o, "served_dtype", arg_served_names[a->served]);
    out_put_bool(o, "random_ids", r->random_ids);
    out_put_bool(o, "fixed_bits", r->fixed_bits);
    out_put_real(o, "max_logit", r->max_logit);
    out_put_real(o, "fixed_diff", r->fixed_diff);
    out_put_real(o, "fast_diff", r->fast_diff);
    out_put_real(o, "noise", r->noise);
    out_put_real(o, "bound", r->bound);
    out_put_value(o, "kld", &r->kld);
    out_put_value(o, "kld_order_alone", &r->kld_noise);
    out_put_value(o, "same_top", &r->same_top);
    out_put_value(o, "same_top_order_alone", &r->same_top_noise);
    if (r->first_bad_layer == -2) out_put(o, "first_bad_layer", json_null());
    else out_put_int(o, "first_bad_layer", r->first_bad_layer);
    out_put_real(o, "first_bad_relative", r->first_bad_relative);
    out_put_real(o, "first_bad_bound", r->first_bad_bound);
    out_put_int(o, "vocab", r->n_vocab);
    out_put_int(o, "vocab_padding", r->n_vocab_pad);
    out_put_bool(o, "vocab_padding_zero", r->vocab_pad_zero);
    out_put(o, "plan", report_run_plan_json(&r->plan));
    return o;
}

typedef struct seen { progress *p; bool quiet; json_t *layer; } seen;

static void on_plan(void *user, const fq_run_plan *plan)
{
    const seen *s = user;
    if (s->quiet) return;
    progress_end(s->p);
    report_run_plan("verify", plan);
}

static void on_layer(void *user, const fq_layer_diff *d)
{
    json_t *o = json_object();
    out_put_int(o, "layer", d->layer);
    out_put_real(o, "relative", d->relative);
    out_put_real(o, "max_abs", d->max_abs);
    out_put_real(o, "cosine", d->cosine);
    out_put_bool(o, "same_bits", d->same_bits);
    out_append(((seen *)user)->layer, o);
}

static int proof_json(const fq_proof *r, const arg_values *a, const fq_err *e, json_t *layer)
{
    static const char *const name[] = { [FQ_SAME_BITS] = "same-bits", [FQ_SAME_REAL] = "same-real", [FQ_SAME_NUMBERS] = "same-numbers", [FQ_DIFFERENT] = "different" };
    json_t *o = json_object();
    out_put_str(o, "verdict", name[r->verdict]);
    out_put_str(o, "difference", r->verdict == FQ_DIFFERENT ? e->text : NULL);
    out_put_str(o, "why_not", r->why_not[0] ? r->why_not : NULL);
    out_put_bool(o, "weights_compared", r->weights_compared);
    out_put(o, "weights", weights_json(&r->weights, r->weights_same));
    out_put(o, "numbers", r->numbers_compared ? numbers_json(r, a) : json_null());
    out_put(o, "layers", layer);
    out_put_real(o, "seconds", r->seconds);
    return out_json(o);
}

/* ---- the command --------------------------------------------------------------------------------------------------------- */

static int run_proof(const arg_values *a)
{
    progress p;
    fq_run run;
    fq_proof r = { 0 };
    fq_err e = { 0 };
    seen here = { .p = &p, .quiet = a->quiet, .layer = json_array() };
    progress_run(&p, &run, a);
    fq_verify_options o = {
        .a = a->operand[0], .b = a->operand[1], .text = { .text = a->text, .ids = a->ids, .context = a->context, .chunks = a->chunks },
        .served = (fq_served)a->served, .scratch = a->scratch, .on_plan = on_plan, .on_layer = on_layer, .user = &here,
    };
    fq_status s = fq_verify(&o, &run, &r, &e);
    progress_end(&p);
    int status = 0;
    if (s != FQ_OK && s != FQ_E_DIFFERS) {
        json_decref(here.layer);
        return out_error(&e);
    }
    if (fq_rank() > 0) {   /* rank 0 judges */
        json_decref(here.layer);
        return 0;
    }
    if (a->json) {
        status = proof_json(&r, a, &e, here.layer);
    } else {
        json_decref(here.layer);
        proof_text(&r, a, &e);
    }
    return status ? status : -(int)s;
}

/* PATH --tp N: no second checkpoint, and nothing is run. */
static int run_slices(const arg_values *a)
{
    arg_values names = *a;
    if (a->n_operand != 1) return args_usage("verify", "--tp looks at the slices of one checkpoint, two were given");
    if (a->tp.n != 1 || a->tp.v[0] < 2) return args_usage("verify", "--tp wants one number of GPUs, 2 to 64");
    if (a->weights || a->text || a->ids || a->context || a->chunks || a->served || a->scratch || a->ranks)
        return args_usage("verify", "--tp runs no model: it goes with --engine, --format, --expert-parallel, --threads, --json and --quiet");
    if (!command_engines(&cmd_verify, &names.engine) || !command_formats(&cmd_verify, &names.format)) return -FQ_E_USAGE;
    return fq_rank() > 0 ? 0 : verify_slices(&names);
}

static int run_verify(const arg_values *a)
{
    if (a->tp.n > 0) return run_slices(a);
    if (a->engine.n || a->format.n) return args_usage("verify", "--engine and --format go with --tp");
    if (a->n_operand != 2) return args_usage("verify", "it compares two checkpoints, one was given; with --tp N it looks at the slices of one");
    if (a->weights && a->ranks) return args_usage("verify", "--weights is not divided over ranks: it does not go with --ranks");
    if (a->weights && fq_rank() > 0) return 0;   /* rank 0 does it */
    bool runs = a->text || a->ids || a->context || a->chunks || a->served || a->scratch;
    if (a->weights && runs) return args_usage("verify", "--weights runs no model: it does not go with --text, --ids, --context, --chunks, --served-dtype or --scratch");
    if (a->text && a->ids) return args_usage("verify", "--text does not go with --ids");
    return a->weights ? run_weights(a) : run_proof(a);
}

static const arg_option options[] = {
    { "weights", 'w', ARG_FLAG, NULL, ARG_OFFSET(weights), "compare every element of the weights under the maps, and run nothing", NULL, 0,
      0, ARG_ANY },
    { "tp", 0, ARG_INTS, "N", ARG_OFFSET(tp), "look at what engines would load of PATH on each of N GPUs", NULL, 1, 64, ARG_ANY },
    { "engine", 'e', ARG_STRINGS, "ID,...", ARG_OFFSET(engine), "with --tp: whose loaders; vllm, vllm-2025, sglang (default: vllm,sglang)", NULL, 0, 0, ARG_ENGINE },
    ARG_OPT_FORMAT("the checkpoint's own; with --tp"),
    ARG_OPT_TEXT, ARG_OPT_IDS,
    ARG_OPT_WINDOW("512; 256 without text or ids"),
    ARG_OPT_CHUNKS("all; 2 without text or ids"),
    ARG_OPT_SERVED, ARG_OPT_SCRATCH,
    ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_RANKS,
    { "expert-parallel", 0, ARG_FLAG, NULL, ARG_OFFSET(expert_parallel), "ranks (with --tp: GPUs) hold whole experts, not a slice of each", NULL, 0, 0, ARG_ANY },
    ARG_OPT_HEARTBEAT,
    { "memory", 0, ARG_SIZE, "SIZE", ARG_OFFSET(memory), "bound for the whole process (default: three quarters of what is free); with --weights, for I/O buffers (default: 128MiB)",
      NULL, 0, 0, ARG_ANY },
    ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_verify = {
    .name = "verify", .summary = "prove that a fitted checkpoint is still the same model",
    .synopsis = "A B [--weights | --text FILE | --ids FILE] [options]\n       fitq verify PATH --tp N [--engine ID,...] [options]",
    .text = "Weights: B is compared with A, element by element, under the maps in B's fitq.json (without one: the identity). Every "
            "element of B is the element of A that the map names, or a zero, and every element of A is there; or the first "
            "difference is named. Numbers: both are run over the same tokens (without text or ids: over pseudo-random ids), in fitq's fixed order of "
            "summation and in the order of a tuned matrix product. The verdict is one of: the same bits; the same function in real arithmetic, "
            "with logits within the bound; agreement on this text only (weights that no map makes comparable); different. The bound is 16 times what another order of summation "
            "does to A alone. "
            "With --tp one checkpoint is looked at as engines would load it on N GPUs: codes, scales, zero points and g_idx of every slice as each engine "
            "cuts them, and query heads with their KV heads. What an engine would refuse is named with its rule; what it would load and compute wrongly, "
            "without a word, with rank, tensor, the first element that differs, and how much of the layer's output is wrong. Then every weight that is cut, of any type, "
            "is read slice by slice, each times a random input, and held against the product of the whole.",
    .examples = "  fitq verify Qwen2-72B Qwen2-72B-tp8\n"
                "  fitq verify Qwen2-72B Qwen2-72B-tp8 --text corpus.txt --chunks 4 --served-dtype bf16\n"
                "  fitq verify --weights Qwen2-72B Qwen2-72B-tp8\n"
                "  fitq verify Qwen2-72B-tp8 --tp 8\n",
    .exit_status = "; 1 they differ, or slices do; 6 NaN or infinity in weights or results",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 1, .max_operand = 2, .run = run_verify,
};
