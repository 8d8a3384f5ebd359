/* plan_cost.h - fitq plan --quantize-cost: a table of seconds, a line for each number of ranks. Model only: nothing is read but config.json. */
#ifndef FITQ_CLI_PLAN_COST_H
#define FITQ_CLI_PLAN_COST_H

#include "args.h"

/* Prints; the exit status. */
int plan_cost(const arg_values *a, const fq_model *m);

#endif
