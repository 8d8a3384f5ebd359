/* pretok.c - cutting text. See pretok.h. */
#include "tokenizer/pretok.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

fq_status fqi_pretok_add(fqi_pretok *p, fqi_stage stage, const char *file, fq_err *e)
{
    if (p->n_stage < FQI_STAGE_MAX) {
        p->stage[p->n_stage++] = stage;
        return FQ_OK;
    }
    pcre2_code_free(stage.code);
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "pre-tokenizer", "found more than %d stages, expected fewer", FQI_STAGE_MAX);
}

void fqi_pretok_free(fqi_pretok *p)
{
    for (size_t i = 0; i < p->n_stage; i++) pcre2_code_free(p->stage[i].code);
    p->n_stage = 0;
}

/* A pattern that backtracks without end is stopped: the steps of one match are bounded. A run of white space as long as the text
 * takes a few for each of its characters, with the patterns of published tokenizers. */
#define STEP_MIN 20000000u
#define STEP_PER_BYTE 16u
#define STACK_MAX ((size_t)16 << 20)

fq_status fqi_pretok_start(fqi_pretok_run *r, const fqi_pretok *p, fq_err *e)
{
    r->pretok = p;
    r->data = pcre2_match_data_create(1, NULL);
    r->context = pcre2_match_context_create(NULL);
    r->stack = pcre2_jit_stack_create(32 << 10, STACK_MAX, NULL);   /* NULL without a JIT */
    if (r->data == NULL || r->context == NULL) {
        fqi_pretok_end(r);
        return fqi_fail_nomem(e, "pattern matching");
    }
    if (r->stack != NULL) pcre2_jit_stack_assign(r->context, NULL, r->stack);
    return FQ_OK;
}

void fqi_pretok_end(fqi_pretok_run *r)
{
    pcre2_match_data_free(r->data);
    pcre2_match_context_free(r->context);
    pcre2_jit_stack_free(r->stack);
    r->data = NULL;
    r->context = NULL;
    r->stack = NULL;
}

/* ---- one stage -------------------------------------------------------------------------------------------------- */

static fq_status cut(fqi_pretok_run *r, size_t stage, const char *text, size_t n, fq_err *e);

/* A piece that waits for what follows it. */
typedef struct cutter {
    fqi_pretok_run *run;
    size_t stage;
    const char *text;
    size_t begin, end;   /* of the waiting piece; empty: none */
    bool match;          /* kind of the last span */
} cutter;

static fq_status flush(cutter *c, fq_err *e)
{
    size_t begin = c->begin, end = c->end;
    c->begin = end;
    return begin < end ? cut(c->run, c->stage + 1, c->text + begin, end - begin, e) : FQ_OK;
}

/* The next span of the text; spans touch each other. */
static fq_status span(cutter *c, size_t begin, size_t end, bool match, fq_err *e)
{
    const fqi_stage *s = &c->run->pretok->stage[c->stage];
    bool join = false, before = c->match, waiting = c->begin < c->end;
    match = match != s->invert;
    c->match = match;
    switch (s->split) {
    case FQI_SPLIT_ISOLATED: break;
    case FQI_SPLIT_REMOVED:
        if (match) {
            FQI_TRY(flush(c, e));
            c->begin = c->end = end;
            return FQ_OK;
        }
        break;
    case FQI_SPLIT_CONTIGUOUS: join = match == before; break;
    case FQI_SPLIT_PREVIOUS: join = match && !before; break;
    case FQI_SPLIT_NEXT: join = before && !match; break;
    }
    if (join && waiting) {
        c->end = end;
        return FQ_OK;
    }
    FQI_TRY(flush(c, e));
    c->begin = begin;
    c->end = end;
    return FQ_OK;
}

static fq_status match_failed(int code, fq_err *e)
{
    if (code == PCRE2_ERROR_NOMEMORY) return fqi_fail_nomem(e, "pattern matching");
    if (code == PCRE2_ERROR_MATCHLIMIT || code == PCRE2_ERROR_JIT_STACKLIMIT || code == PCRE2_ERROR_HEAPLIMIT || code == PCRE2_ERROR_DEPTHLIMIT)
        return fqi_fail(e, FQ_E_INPUT, NULL, "pattern-steps",
                        "found a text on which the pre-tokenizer's pattern takes too many steps, expected one that does not backtrack so much");
    return fqi_fail(e, FQ_E_INPUT, NULL, "pattern", "found PCRE2's error %d, expected a match or none", code);
}

static size_t character(const char *text, size_t n)
{
    uint32_t c;
    return fqi_utf8_sequence((const unsigned char *)text, n, &c);
}

static fq_status split(fqi_pretok_run *r, size_t stage, const char *text, size_t n, fq_err *e)
{
    const pcre2_code *code = r->pretok->stage[stage].code;
    cutter c = { .run = r, .stage = stage, .text = text };
    size_t done = 0, last = SIZE_MAX;   /* end of what was cut; end of the last match */
    for (size_t from = 0; from <= n;) {
        int got = pcre2_match(code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, r->data, r->context);
        if (got == PCRE2_ERROR_NOMATCH) break;
        if (got < 0) return match_failed(got, e);
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(r->data);
        size_t begin = at[0], end = at[1];
        if (begin > end || begin < done) return match_failed(PCRE2_ERROR_INTERNAL, e);
        if (begin < end || begin != last) {   /* an empty match right behind a match is none */
            if (done < begin) FQI_TRY(span(&c, done, begin, false, e));
            if (begin < end) FQI_TRY(span(&c, begin, end, true, e));
            done = end;
            last = end;
        }
        from = begin < end ? end : end < n ? end + character(text + end, n - end) : n + 1;
    }
    if (done < n) FQI_TRY(span(&c, done, n, false, e));
    return flush(&c, e);
}

static fq_status with_space(fqi_pretok_run *r, size_t stage, const char *text, size_t n, fq_err *e)
{
    if (text[0] == ' ') return cut(r, stage + 1, text, n, e);
    char *copy = malloc(n + 1);
    if (copy == NULL) return fqi_fail_nomem(e, "text with a space before it");
    copy[0] = ' ';
    memcpy(copy + 1, text, n);
    fq_status s = cut(r, stage + 1, copy, n + 1, e);
    free(copy);
    return s;
}

/* Recursion is as deep as there are stages. */
static fq_status cut(fqi_pretok_run *r, size_t stage, const char *text, size_t n, fq_err *e)
{
    if (stage == r->pretok->n_stage) return r->piece(r->user, text, n, e);
    if (r->pretok->stage[stage].code == NULL) return with_space(r, stage, text, n, e);
    return split(r, stage, text, n, e);
}

fq_status fqi_pretok_cut(fqi_pretok_run *r, const char *text, size_t n, fq_err *e)
{
    size_t steps = n < UINT32_MAX / (2 * STEP_PER_BYTE) ? STEP_MIN + n * STEP_PER_BYTE : UINT32_MAX;
    pcre2_set_match_limit(r->context, (uint32_t)steps);
    return n > 0 ? cut(r, 0, text, n, e) : FQ_OK;
}
