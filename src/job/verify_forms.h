/* verify_forms.h - two quantized checkpoints that say the same in different forms: their weights are compared as numbers.
 *
 * gptq and compressed-tensors, v1 and v2 zero points, a scale that is stored transposed: no tensor of one has its counterpart in the other, and every
 * weight may still be the same. So modules are compared, by the exact products of codes and scales (model/dense.h), bit by bit; what is no part
 * of a module is left to who compares tensors. */
#ifndef FITQ_JOB_VERIFY_FORMS_H
#define FITQ_JOB_VERIFY_FORMS_H

#include "checkpoint/catalogue.h"

typedef struct fqi_forms {
    const fq_ckpt *a, *b;
    const fq_run *run;            /* not NULL */
    bool *a_used, *b_used;        /* by tensor: parts of modules that both have are set */
    /* found */
    size_t n_part, n_part_bad;    /* tensors of B */
    uint64_t n_same, n_wrong;     /* weights */
    bool differs; fq_err first;   /* the first that does */
} fqi_forms;

/* Are both quantized, in different forms? */
fq_status fqi_forms_differ(const fq_ckpt *a, const fq_ckpt *b, bool *differ, fq_err *e);
/* Compares all modules that have the same name and lengths. FQ_OK also when something differs; an error of reading codes names its tensor. */
fq_status fqi_forms_compare(fqi_forms *f, fq_err *e);

#endif
