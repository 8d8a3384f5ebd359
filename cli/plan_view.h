/* plan_view.h - a plan together with what was asked and what to advise, ready to be printed. */
#ifndef FITQ_CLI_PLAN_VIEW_H
#define FITQ_CLI_PLAN_VIEW_H

#include "args.h"
#include "plan_advice.h"

typedef struct plan_view {
    const arg_values *values;
    const fq_model *model;
    const fq_plan_request *request;
    const fq_plan *plan;
    bool fitted;                       /* a fitq.json lies beside the config */
    arg_strings formats;               /* ids in plan order */
    plan_advice advice[ARG_MAX_LIST];  /* disjoint; together all GPU counts */
    size_t n_advice;
} plan_view;

void plan_print_text(const plan_view *v);
int plan_print_json(const plan_view *v);   /* 0 or an exit status */

#endif
