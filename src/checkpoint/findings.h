/* findings.h - collecting everything that is unsound about a checkpoint, with a bound.
 *
 * A damaged checkpoint can break one rule a million times. Each (rule, severity) keeps its first FQI_FINDINGS_PER_RULE texts and
 * counts the others; one closing line says how many. So memory is bounded by the number of rules, and a counted finding costs no
 * formatting. */
#ifndef FITQ_CHECKPOINT_FINDINGS_H
#define FITQ_CHECKPOINT_FINDINGS_H

#include "base/err.h"
#include "base/mem.h"

#define FQI_FINDINGS_PER_RULE 20

typedef struct fqi_finding_group { fq_severity severity; const char *rule; size_t n; } fqi_finding_group;
typedef struct fqi_finding_item { fq_finding f; size_t group; } fqi_finding_item;

typedef struct fqi_findings {
    fqi_arena *arena;                            /* owns the texts; lives longer than this */
    fqi_finding_item *item; size_t n_item, cap_item;
    fqi_finding_group *group; size_t n_group, cap_group;
    bool failed;                                 /* out of memory; sticks */
} fqi_findings;

void fqi_findings_free(fqi_findings *f);
/* Counts one finding. True if its text is wanted: then fqi_finding_put must follow. */
bool fqi_finding_count(fqi_findings *f, fq_severity severity, const char *rule);
/* n more of a rule that was counted before, without their texts. */
void fqi_finding_more(fqi_findings *f, fq_severity severity, const char *rule, size_t n);
void fqi_finding_put(fqi_findings *f, const fq_err *text);
/* An error that was returned becomes a finding. */
void fqi_finding_from(fqi_findings *f, fq_severity severity, const fq_err *e);
size_t fqi_findings_n_error(const fqi_findings *f);   /* the counted ones too */
/* Sorted: errors first, then rules in the order of their first finding; file stands in the closing lines. Texts in the arena.
 * FQ_E_NOMEM also if any call before failed. */
fq_status fqi_findings_finish(fqi_findings *f, const char *file, fq_finding **out, size_t *n, fq_err *e);

/* FIND(&findings, FQ_ERROR, FQI_TENSOR(file, name), "rule", "found %d, expected %d", a, b); arguments are evaluated only
 * if the text is kept. */
#define FQI_FIND(f, severity, where, rule, ...)                       \
    do {                                                              \
        if (fqi_finding_count(f, severity, rule)) {                   \
            fq_err fqi_find_e_;                                       \
            fqi_fail(&fqi_find_e_, FQ_E_INPUT, where, rule, __VA_ARGS__); \
            fqi_finding_put(f, &fqi_find_e_);                         \
        }                                                             \
    } while (0)

#endif
