/* map_text.c - an axis map as a line of text, "0:128 -:1 128:127": runs SOURCE:COUNT with one space between them, "-" for zeros.
 *
 * The text lies in a fitq.json that travels with published weights, so the parser trusts nothing: digits only, no leading
 * zeros, no run outside the source axis, a total that is exactly the padded length. What it returns keeps every promise of
 * map.h, and whoever walks the map need not check again. */
#include "axis/map.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

fq_status fqi_map_print(const fqi_map *m, char **out, fq_err *e)
{
    fqi_str b = { 0 };
    fqi_str_add(&b, "", 0); /* an axis of length 0 has an empty text, not a NULL one */
    for (size_t i = 0; i < m->n_run; i++) {
        const char *space = i > 0 ? " " : "";
        if (m->run[i].src < 0)
            fqi_str_printf(&b, "%s-:%lld", space, (long long)m->run[i].count);
        else
            fqi_str_printf(&b, "%s%lld:%lld", space, (long long)m->run[i].src, (long long)m->run[i].count);
    }
    if (b.failed || !b.s) {
        fqi_str_free(&b);
        return fqi_fail_nomem(e, "map text");
    }
    *out = b.s;
    return FQ_OK;
}

typedef struct text { const char *begin, *at, *file; } text;

static fq_status bad(const text *t, fq_err *e, const char *expected)
{
    char seen[FQI_NAME_MAX + 1];
    size_t n = strnlen(t->at, 12);
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(t->file), "map-text", "found \"%s\" at character %zu of a map, expected %s",
                    fqi_escape_n(seen, t->at, n), (size_t)(t->at - t->begin), expected);
}

/* A plain decimal number < 2^63. */
static bool read_number(text *t, int64_t *out)
{
    if (*t->at < '0' || *t->at > '9') return false;
    if (t->at[0] == '0' && t->at[1] >= '0' && t->at[1] <= '9') return false;
    int64_t v = 0;
    const char *p = t->at;
    for (; *p >= '0' && *p <= '9'; p++)
        if (!fqi_mul_i64(v, 10, &v) || !fqi_add_i64(v, *p - '0', &v)) return false;
    t->at = p;
    *out = v;
    return true;
}

static fq_status read_run(text *t, fqi_map *b, int64_t n_new, fq_err *e)
{
    int64_t src = -1, count, end, total;
    const text start = *t;
    if (*t->at == '-')
        t->at++;
    else if (!read_number(t, &src))
        return bad(t, e, "a source index or -");
    if (*t->at != ':') return bad(t, e, "a colon");
    t->at++;
    if (!read_number(t, &count) || count == 0) return bad(t, e, "a count of 1 or more");
    if (src >= 0 && (!fqi_add_i64(src, count, &end) || end > b->n_old)) return bad(&start, e, "a run inside the source axis");
    if (!fqi_add_i64(b->n_new, count, &total) || total > n_new) return bad(&start, e, "no more than the padded length");
    if (b->n_run == FQI_MAP_MAX_RUN) return bad(&start, e, "the end of the map: it has too many runs");
    if (!fqi_map_append(b, src, count)) return fqi_fail_nomem(e, "axis map");
    return FQ_OK;
}

static fq_status read_runs(text *t, fqi_map *b, int64_t n_new, fq_err *e)
{
    while (*t->at != '\0') {
        if (b->n_run > 0) {
            if (*t->at != ' ') return bad(t, e, "one space between runs");
            t->at++;
        }
        FQI_TRY(read_run(t, b, n_new, e));
    }
    if (b->n_new != n_new)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(t->file), "map-text", "found a map of %lld indices, expected %lld",
                        (long long)b->n_new, (long long)n_new);
    return FQ_OK;
}

fq_status fqi_map_parse(const char *s, int64_t n_old, int64_t n_new, const char *file, fqi_map *out, fq_err *e)
{
    if (n_old < 0 || n_new < 0)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "map-text", "found axis lengths %lld and %lld, expected 0 or more",
                        (long long)n_old, (long long)n_new);
    text t = { .begin = s, .at = s, .file = file };
    fqi_map b = { .n_old = n_old };
    fq_status status = read_runs(&t, &b, n_new, e);
    if (status != FQ_OK) {
        fqi_map_free(&b);
        return status;
    }
    *out = b;
    return FQ_OK;
}
