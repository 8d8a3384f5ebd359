/* plan_advice.h - what to do: the ways to make one checkpoint run under everything that was asked for, cheapest first. */
#ifndef FITQ_CLI_PLAN_ADVICE_H
#define FITQ_CLI_PLAN_ADVICE_H

#include "args.h"

struct plan_view;

/* One way. With fit, group_size, expert_parallel and as_llama empty it would be the checkpoint as it is. */
typedef struct plan_way {
    fq_fit fit;
    int group_size;        /* another group size than the one that was asked for, or than the checkpoint has; 0 = that one */
    bool regroups;         /* the checkpoint is quantized: its scales are repeated for groups of group_size */
    const char *engine;    /* runs under this one only; NULL = under all */
    bool expert_parallel;
    bool as_llama;         /* engines ignore head_dim in this family: write it as llama */
    bool pads;             /* fit is not empty; a way that neither pads nor is as_llama leaves the checkpoint alone */
    bool by_tp;            /* `fitq pad --tp` finds the fit by itself */
    double param_percent;  /* NaN = not known */
    double cost;           /* bytes per GPU, added over all entries */
    uint64_t weight_bytes_per_gpu[ARG_MAX_LIST];  /* for every GPU count; 0 = not the same for all entries that need the way */
} plan_way;

typedef enum plan_state {
    PLAN_RUNS,         /* nothing to do */
    PLAN_WAYS,         /* way[0..n_way) */
    PLAN_NO_WAY,       /* fitq knows none for any entry */
    PLAN_PARTLY,       /* none for some entries: `able` names the others */
    PLAN_NOT_TOGETHER, /* each entry has a way, but no checkpoint suits all */
    PLAN_NOT_JUDGED    /* the tables have no rules for any entry */
} plan_state;

#define PLAN_MAX_WAY 8

/* The texts are owned; NULL = there is nothing to say (or no memory to say it). */
typedef struct plan_advice {
    int tp[ARG_MAX_LIST];
    size_t n_tp;
    plan_state state;
    plan_way way[PLAN_MAX_WAY];
    size_t n_way;
    char *why;        /* NO_WAY: the reasons */
    char *able;       /* PARTLY: engines and formats that have a way or run */
    char *idle;       /* WAYS: engines and formats that run as they are */
    char *unjudged;   /* engines and formats whose rules are not known */
} plan_advice;

/* Fills v->advice: one per GPU count, or for several whose cheapest way is the same and serves all of them. */
void plan_advise(struct plan_view *v);
void plan_advice_drop(plan_advice *a);

/* Is the checkpoint written anew? Else it is used as it is, with other settings. */
bool plan_way_writes(const plan_way *w);

/* Why no command can be given for any way that changes the weights, or NULL. */
const char *plan_no_command(const struct plan_view *v);

/* The `fitq pad` command line of a way that changes the checkpoint. Caller frees; NULL when out of memory. */
char *plan_command(const struct plan_view *v, const plan_advice *a, const plan_way *w);

#endif
