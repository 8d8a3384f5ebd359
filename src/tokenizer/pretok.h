/* pretok.h - the pre-tokenizer: cuts text into the pieces that BPE works on.
 *
 * A list of stages; each cuts the pieces of the one before it, and sees nothing of the text around a piece. Pieces are handed on
 * one by one, so that nothing grows with the text. */
#ifndef FITQ_TOKENIZER_PRETOK_H
#define FITQ_TOKENIZER_PRETOK_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/err.h"
#include "base/mem.h"

/* What becomes of matches and of what lies between them. */
typedef enum fqi_split {
    FQI_SPLIT_ISOLATED,     /* each is a piece */
    FQI_SPLIT_REMOVED,      /* matches are dropped */
    FQI_SPLIT_CONTIGUOUS,   /* matches side by side are one piece */
    FQI_SPLIT_PREVIOUS,     /* a match belongs to what lies before it */
    FQI_SPLIT_NEXT          /* ... behind it */
} fqi_split;

typedef struct fqi_stage {
    pcre2_code *code;       /* NULL: puts a space before a piece that does not begin with one */
    fqi_split split;
    bool invert;            /* matches and gaps change places */
} fqi_stage;

#define FQI_STAGE_MAX 32
typedef struct fqi_pretok {
    fqi_stage stage[FQI_STAGE_MAX];
    size_t n_stage;
} fqi_pretok;

/* regex.c: the pattern of a tokenizer.json (Oniguruma's syntax, as the tokenizers library uses it) for PCRE2, with the same
 * matches. FQ_E_INPUT for a construct that the two read differently or that no tokenizer needs. */
fq_status fqi_regex_translate(const char *pattern, size_t n, const char *file, fqi_str *out, fq_err *e);
/* literal: the pattern is plain text. */
fq_status fqi_regex_compile(const char *pattern, size_t n, bool literal, const char *file, pcre2_code **out, fq_err *e);

/* Takes code, also when the table is full (FQ_E_INPUT). */
fq_status fqi_pretok_add(fqi_pretok *p, fqi_stage stage, const char *file, fq_err *e);
void fqi_pretok_free(fqi_pretok *p);

/* One call's memory. */
typedef struct fqi_pretok_run {
    const fqi_pretok *pretok;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    fq_status (*piece)(void *user, const char *text, size_t n, fq_err *e);   /* n > 0 */
    void *user;
} fqi_pretok_run;

fq_status fqi_pretok_start(fqi_pretok_run *r, const fqi_pretok *p, fq_err *e);
fq_status fqi_pretok_cut(fqi_pretok_run *r, const char *text, size_t n, fq_err *e);
void fqi_pretok_end(fqi_pretok_run *r);

#endif
