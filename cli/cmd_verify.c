/* cmd_verify.c - the structural proof: every element of B is the element of A that the map names, or a zero, and every
 * element of A is there. */
#include <stdio.h>

#include "commands.h"
#include "output.h"
#include "progress.h"

static void text(const fq_verify_report *r, const arg_values *a, bool same)
{
    static const char *const head[] = { "", ">", "" };
    out_table t;
    const struct { const char *what; uint64_t n; const char *note; bool rare; } row[] = {
        { "tensors", r->n_tensor, "", false },
        { "  equal", r->n_tensor_equal, "byte for byte", false },
        { "  mapped", r->n_tensor_mapped, "elements moved as fitq.json says", false },
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

static int print_json(const fq_verify_report *r, bool same)
{
    json_t *o = json_object();
    out_put_bool(o, "same", same);
    out_put_u64(o, "tensors", r->n_tensor);
    out_put_u64(o, "tensors_equal", r->n_tensor_equal);
    out_put_u64(o, "tensors_mapped", r->n_tensor_mapped);
    out_put_u64(o, "tensors_added", r->n_tensor_added);
    out_put_u64(o, "tensors_different", r->n_tensor_bad);
    out_put_u64(o, "elements_in_place", r->n_element_same);
    out_put_u64(o, "elements_copies", r->n_element_copy);
    out_put_u64(o, "elements_zero", r->n_element_zero);
    out_put_u64(o, "elements_missing", r->n_element_missing);
    out_put_u64(o, "elements_wrong", r->n_element_wrong);
    out_put_str(o, "first_difference", r->first_bad[0] ? r->first_bad : NULL);
    return out_json(o);
}

static int run_verify(const arg_values *a)
{
    if (!a->weights) return args_usage("verify", "say what to verify: --weights");
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
    if (a->json) status = print_json(&r, s == FQ_OK);
    else text(&r, a, s == FQ_OK);
    return status ? status : -(int)s;
}

static const arg_option options[] = {
    { "weights", 'w', ARG_FLAG, NULL, ARG_OFFSET(weights), "compare every element of the weights under the maps", NULL, 0,
      0, ARG_ANY },
    ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_MEMORY, ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_verify = {
    .name = "verify", .summary = "prove that a fitted checkpoint is still the same model",
    .synopsis = "--weights A B [--json]",
    .text = "B is compared with A, element by element, under the maps in B's fitq.json (without one: the identity). Every "
            "element of B is the element of A that the map names, or a zero, and every element of A is there; or the first "
            "difference is named.",
    .examples = "  fitq verify --weights Qwen2-72B Qwen2-72B-tp8\n",
    .exit_status = "; 1 they differ",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 2, .max_operand = 2, .run = run_verify,
};
