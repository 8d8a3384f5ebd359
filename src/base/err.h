/* err.h - building the one error line that fitq prints.
 *
 * Every failure is made here, so that every message has the same form:
 *     FILE: tensor NAME: byte OFFSET: RULE: found X, expected Y
 * Names come from files and may hold anything: they are escaped (control bytes, quotes and invalid UTF-8 as \xNN) and
 * cut at 200 bytes before they reach a terminal or a log. */
#ifndef FITQ_BASE_ERR_H
#define FITQ_BASE_ERR_H

#include "fitq.h"

#define FQI_NO_OFFSET UINT64_MAX
#define FQI_NAME_MAX 200 /* bytes of an escaped name in a message, without the NUL */

/* Where it happened. file and tensor may be NULL; offset may be FQI_NO_OFFSET; line counts from 1, 0 = none. */
typedef struct fqi_where {
    const char *file;
    const char *tensor;
    uint64_t offset;
    uint64_t line;
} fqi_where;

#define FQI_AT(f, t, o) (&(fqi_where){ .file = (f), .tensor = (t), .offset = (o) })
#define FQI_FILE(f) FQI_AT(f, NULL, FQI_NO_OFFSET)
#define FQI_TENSOR(f, t) FQI_AT(f, t, FQI_NO_OFFSET)

/* Fills *e (if not NULL) and returns `code`. rule: kebab-case, or NULL for none. fmt: "found X, expected Y". Arguments that
 * are names from a file must have gone through fqi_escape. where may be NULL. */
fq_status fqi_fail(fq_err *e, fq_status code, const fqi_where *where, const char *rule, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* The same for a failed system call: code FQ_E_IO, text ends in strerror(err). what: "open", "write", ... */
fq_status fqi_fail_sys(fq_err *e, const char *file, const char *what, int err);
/* Hands on a failure that did not know where it happened: status s (not FQ_OK), the place, then the message of why, whose rule stays. Want
 * of memory has no place: why as it is. */
fq_status fqi_fail_at(fq_err *e, fq_status s, const fqi_where *where, const fq_err *why);
/* The same for the failure of another rank: "WHO: " before its message. who: escaped. */
fq_status fqi_fail_from(fq_err *e, fq_status s, const char *who, const fq_err *why);
/* FQ_E_NOMEM. what: "tensor table", ... */
fq_status fqi_fail_nomem(fq_err *e, const char *what);

/* Escapes `len` bytes of a name into out[FQI_NAME_MAX + 1] (longer names end in "..."). Returns out. */
char *fqi_escape_n(char out[FQI_NAME_MAX + 1], const char *name, size_t len);
char *fqi_escape(char out[FQI_NAME_MAX + 1], const char *name);

/* A budget of memory: whole MiB, cut, or bytes below one. Returns out. */
#define FQI_BUDGET_MAX 31
char *fqi_show_budget(char out[FQI_BUDGET_MAX + 1], uint64_t bytes);

/* Forwards a failure. */
#define FQI_TRY(call)                          \
    do {                                       \
        fq_status fqi_try_s_ = (call);         \
        if (fqi_try_s_ != FQ_OK) return fqi_try_s_; \
    } while (0)

#endif
