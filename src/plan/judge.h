/* judge.h - the rules applied to one model: what breaks, and which lengths would not.
 *
 * Both answers come from the same rows: fqi_judge says which rows the given lengths break, fqi_units says of what every axis must be
 * a multiple so that none is broken. Whatever a solver makes of the second is put through the first again before it is offered. */
#ifndef FITQ_PLAN_JUDGE_H
#define FITQ_PLAN_JUDGE_H

#include "base/mem.h"
#include "plan/heads.h"
#include "plan/linears.h"

typedef struct fqi_broken {
    const fqi_rule *rule;
    fqi_axis axis;            /* FQI_AX_FIXED: nothing that a fit can change */
    fq_violation v;
} fqi_broken;

/* Growing list, owned. */
typedef struct fqi_broken_list { fqi_broken *at; size_t n, cap; bool failed; } fqi_broken_list;
void fqi_broken_free(fqi_broken_list *l);

/* Appends what these lengths break, one entry per rule and tensor. out may be NULL: only the result is wanted. Returns whether the
 * engine would run it (nothing broken but soft rules). */
bool fqi_judge(const fqi_case *c, const fqi_dims *d, fqi_broken_list *out);

/* Does the engine take another head_dim than the model's, because it ignores the key? */
bool fqi_misreads(const fqi_case *c, const fqi_dims *d);

typedef struct fqi_units {
    int64_t ff, moe_ff, shared_ff, vocab;   /* the length is a multiple of this; 1 = any */
    bool vocab_legal;                       /* the real vocabulary needs nothing (engines round it up themselves) */
    fqi_head_rule heads;                    /* costs not filled in */
    bool overflow;                          /* a unit does not fit: no length does */
} fqi_units;

void fqi_units_of(const fqi_case *c, fqi_units *out);

#endif
