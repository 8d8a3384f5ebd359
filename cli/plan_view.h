/* plan_view.h - a plan together with what was asked and what to advise, ready to be printed. */
#ifndef FITQ_CLI_PLAN_VIEW_H
#define FITQ_CLI_PLAN_VIEW_H

#include "args.h"

/* One checkpoint that runs on these GPU counts under every engine and format that was asked for. */
typedef struct plan_advice {
    int tp[ARG_MAX_LIST];
    size_t n_tp;
    bool possible;   /* the library knows one */
    bool changes;    /* and it is not the checkpoint as it is */
    bool needs;      /* some entry does not run as it is */
    bool as_llama;
    bool by_experts; /* where it does not run, the cheapest fix is expert parallelism: the weights can stay */
    int by_groups;   /* ... or quantization groups of this size; 0 = no */
    fq_fit fit;
} plan_advice;

typedef struct plan_view {
    const arg_values *values;
    const fq_model *model;
    const fq_plan_request *request;
    const fq_plan *plan;
    arg_strings formats;               /* ids in plan order */
    plan_advice advice[ARG_MAX_LIST];  /* disjoint; together all GPU counts */
    size_t n_advice;
} plan_view;

/* The `fitq pad` command line that makes the checkpoint of the advice. Caller frees; NULL when out of memory. */
char *plan_command(const plan_view *v, const plan_advice *a);

void plan_print_text(const plan_view *v);
int plan_print_json(const plan_view *v);   /* 0 or an exit status */

#endif
