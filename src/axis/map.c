/* map.c - axis maps as runs: building, combining, undoing, counting. See map.h; what the maps mean is in docs/padding.md.
 *
 * Lengths come from a config.json, from the command line or from a fitq.json, so every sum and product is checked and the
 * number of runs is bounded. Nothing here is proportional to the length of an axis, only to its runs: a text that claims
 * 2^60 channels costs what it is long. Heads are in map_heads.c, the text form in map_text.c. */
#include "axis/map.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

void fqi_map_free(fqi_map *m)
{
    if (!m) return;
    free(m->run);
    *m = (fqi_map){ 0 };
}

static bool continues(const fqi_run *last, int64_t src)
{
    if (last->src < 0 || src < 0) return last->src < 0 && src < 0;
    return last->src + last->count == src;
}

bool fqi_map_append(fqi_map *m, int64_t src, int64_t count)
{
    int64_t n_new;
    if (count <= 0) return count == 0;
    if (src < 0) src = -1;
    if (!fqi_add_i64(m->n_new, count, &n_new)) return false;
    if (m->n_run > 0 && continues(&m->run[m->n_run - 1], src)) {
        m->run[m->n_run - 1].count += count;
        m->n_new = n_new;
        return true;
    }
    void *run = m->run;
    if (m->n_run >= FQI_MAP_MAX_RUN || !fqi_grow(&run, &m->cap, m->n_run + 1, sizeof *m->run)) return false;
    m->run = run;
    m->run[m->n_run++] = (fqi_run){ .src = src, .count = count };
    m->n_new = n_new;
    return true;
}

bool fqi_map_is_identity(const fqi_map *m)
{
    if (m->n_old != m->n_new) return false;
    return m->n_run == 0 || (m->n_run == 1 && m->run[0].src == 0);
}

/* Ends every constructor: hands over what was built, or frees it. */
static fq_status finish(fqi_map *built, bool ok, fqi_map *out, fq_err *e)
{
    if (!ok) {
        fqi_map_free(built);
        return fqi_fail_nomem(e, "axis map");
    }
    *out = *built;
    return FQ_OK;
}

static fq_status check_lengths(int64_t n_old, int64_t n_new, fq_err *e)
{
    if (n_old < 0)
        return fqi_fail(e, FQ_E_USAGE, NULL, "map-length", "found axis length %lld, expected 0 or more", (long long)n_old);
    if (n_new < n_old)
        return fqi_fail(e, FQ_E_USAGE, NULL, "map-length", "found padded length %lld, expected at least the real length %lld",
                        (long long)n_new, (long long)n_old);
    return FQ_OK;
}

/* Pairs of a real and an empty run. */
static fq_status check_pairs(int64_t n_pair, fq_err *e)
{
    int64_t most = FQI_MAP_MAX_RUN / 2 - 1;
    if (n_pair <= most) return FQ_OK;
    return fqi_fail(e, FQ_E_USAGE, NULL, "map-length", "found a map with %lld gaps, expected at most %lld", (long long)n_pair,
                    (long long)most);
}

fq_status fqi_map_identity(fqi_map *m, int64_t n, fq_err *e)
{
    FQI_TRY(check_lengths(n, n, e));
    fqi_map b = { .n_old = n };
    return finish(&b, fqi_map_append(&b, 0, n), m, e);
}

fq_status fqi_map_tail(fqi_map *m, int64_t n_old, int64_t n_new, fq_err *e)
{
    FQI_TRY(check_lengths(n_old, n_new, e));
    fqi_map b = { .n_old = n_old };
    return finish(&b, fqi_map_append(&b, 0, n_old) && fqi_map_append(&b, -1, n_new - n_old), m, e);
}

fq_status fqi_map_interleave(fqi_map *m, int64_t n_old, int64_t n_new, fq_err *e)
{
    FQI_TRY(check_lengths(n_old, n_new, e));
    int64_t n_zero = n_new - n_old;
    if (n_zero > n_old)
        return fqi_fail(e, FQ_E_USAGE, NULL, "interleave-length",
                        "found %lld zeros to interleave, expected at most one behind each of the %lld real channels",
                        (long long)n_zero, (long long)n_old);
    FQI_TRY(check_pairs(n_zero, e));
    fqi_map b = { .n_old = n_old };
    bool ok = true;
    for (int64_t i = 0; i < n_zero && ok; i++) ok = fqi_map_append(&b, i, 1) && fqi_map_append(&b, -1, 1);
    ok = ok && fqi_map_append(&b, n_zero, n_old - n_zero);
    return finish(&b, ok, m, e);
}

fq_status fqi_map_spread(fqi_map *m, int64_t n_old, int64_t n_new, int64_t n_group, fq_err *e)
{
    FQI_TRY(check_lengths(n_old, n_new, e));
    if (n_group <= 0 || n_new % n_group != 0)
        return fqi_fail(e, FQ_E_USAGE, NULL, "spread-groups", "found %lld groups, expected a divisor of the padded length %lld",
                        (long long)n_group, (long long)n_new);
    FQI_TRY(check_pairs(n_group, e));
    fqi_map b = { .n_old = n_old };
    /* floor((k+1) n_old / n_group) without the product, which may not fit: each group gets the quotient, and one more whenever
     * the remainders gathered so far fill a whole n_group. */
    int64_t slots = n_new / n_group, quotient = n_old / n_group, remainder = n_old % n_group, gathered = 0, src = 0;
    bool ok = true;
    for (int64_t k = 0; k < n_group && ok; k++) {
        int64_t n_real = quotient;
        gathered += remainder;
        if (gathered >= n_group) {
            gathered -= n_group;
            n_real++;
        }
        ok = fqi_map_append(&b, src, n_real) && fqi_map_append(&b, -1, slots - n_real);
        src += n_real;
    }
    return finish(&b, ok, m, e);
}

/* ---- combining ---- */

static fq_status too_long(fq_err *e, const fqi_map *m, int64_t times)
{
    return fqi_fail(e, FQ_E_USAGE, NULL, "map-length", "found %lld times an axis of %lld, expected a product below 2^63",
                    (long long)times, (long long)(m->n_new > m->n_old ? m->n_new : m->n_old));
}

fq_status fqi_map_scale(const fqi_map *in, int64_t unit, fqi_map *out, fq_err *e)
{
    if (unit <= 0)
        return fqi_fail(e, FQ_E_USAGE, NULL, "map-unit", "found unit %lld, expected 1 or more", (long long)unit);
    fqi_map b = { 0 };
    int64_t n_new;
    /* no run reaches beyond n_old or counts beyond n_new, so these two products bound all the others */
    if (!fqi_mul_i64(in->n_old, unit, &b.n_old) || !fqi_mul_i64(in->n_new, unit, &n_new)) return too_long(e, in, unit);
    bool ok = true;
    for (size_t i = 0; i < in->n_run && ok; i++)
        ok = fqi_map_append(&b, in->run[i].src < 0 ? -1 : in->run[i].src * unit, in->run[i].count * unit);
    return finish(&b, ok, out, e);
}

fq_status fqi_map_stack(const fqi_map *in, int parts, fqi_map *out, fq_err *e)
{
    if (parts <= 0) return fqi_fail(e, FQ_E_USAGE, NULL, "map-parts", "found %d parts, expected 1 or more", parts);
    if (in->n_run > FQI_MAP_MAX_RUN / (size_t)parts)
        return fqi_fail(e, FQ_E_USAGE, NULL, "map-length", "found %d times %zu runs, expected at most %u", parts, in->n_run, FQI_MAP_MAX_RUN);
    fqi_map b = { 0 };
    int64_t n_new;
    if (!fqi_mul_i64(in->n_old, parts, &b.n_old) || !fqi_mul_i64(in->n_new, parts, &n_new)) return too_long(e, in, parts);
    bool ok = true;
    for (int p = 0; p < parts && ok; p++)
        for (size_t i = 0; i < in->n_run && ok; i++)
            ok = fqi_map_append(&b, in->run[i].src < 0 ? -1 : in->run[i].src + p * in->n_old, in->run[i].count);
    return finish(&b, ok, out, e);
}

/* ---- undoing and counting ---- */

/* A run seen from the old axis: [begin, end) is read by new indices from `at` on. `order` is its number among the runs: the
 * new axis is cut into runs in order, so of two runs that read one index the lower order reads it first. */
typedef struct span { int64_t begin, end, at; size_t order; } span;

static int compare_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* The runs that read something, by old index. NULL when out of memory; caller frees. */
static span *sorted_spans(const fqi_map *m, size_t *n_span)
{
    span *s = fqi_calloc(m->n_run, sizeof *s);
    if (!s) return NULL;
    size_t n = 0;
    int64_t at = 0;
    for (size_t i = 0; i < m->n_run; i++) {
        const fqi_run *r = &m->run[i];
        if (r->src >= 0) s[n++] = (span){ .begin = r->src, .end = r->src + r->count, .at = at, .order = i };
        at += r->count;
    }
    if (n > 1) qsort(s, n, sizeof *s, compare_begin);
    *n_span = n;
    return s;
}

/* Binary heap of indices into spans, the lowest order on top. */
typedef struct heap { const span *span; size_t *item; size_t n; } heap;

static bool above(const heap *h, size_t a, size_t b) { return h->span[h->item[a]].order < h->span[h->item[b]].order; }
static void swap_items(heap *h, size_t a, size_t b)
{
    size_t t = h->item[a];
    h->item[a] = h->item[b];
    h->item[b] = t;
}

static void heap_push(heap *h, size_t item)
{
    size_t i = h->n++;
    h->item[i] = item;
    for (; i > 0 && above(h, i, (i - 1) / 2); i = (i - 1) / 2) swap_items(h, i, (i - 1) / 2);
}

static void heap_pop(heap *h)
{
    h->item[0] = h->item[--h->n];
    for (size_t i = 0;;) {
        size_t best = i, left = 2 * i + 1;
        if (left < h->n && above(h, left, best)) best = left;
        if (left + 1 < h->n && above(h, left + 1, best)) best = left + 1;
        if (best == i) return;
        swap_items(h, i, best);
        i = best;
    }
}

/* Sweeps the old axis from 0 to n_old. At every position the open span of lowest order is the first reader; it stays so until it
 * ends or another span begins. *hole receives the first index that nobody reads, or n_old. False: out of memory. */
static bool sweep(const fqi_map *in, const span *s, size_t n_span, heap *open, fqi_map *b, int64_t *hole)
{
    size_t next = 0;
    int64_t pos = 0;
    *hole = in->n_old;
    while (pos < in->n_old) {
        while (next < n_span && s[next].begin <= pos) heap_push(open, next++);
        while (open->n > 0 && s[open->item[0]].end <= pos) heap_pop(open);
        if (open->n == 0) {
            *hole = pos;
            return true;
        }
        const span *first = &s[open->item[0]];
        int64_t until = first->end;
        if (next < n_span && s[next].begin < until) until = s[next].begin;
        if (!fqi_map_append(b, first->at + (pos - first->begin), until - pos)) return false;
        pos = until;
    }
    return true;
}

fq_status fqi_map_inverse(const fqi_map *in, fqi_map *out, fq_err *e)
{
    size_t n_span = 0;
    int64_t hole = 0;
    fqi_map b = { .n_old = in->n_new };
    span *s = sorted_spans(in, &n_span);
    heap open = { .span = s, .item = fqi_calloc(in->n_run, sizeof *open.item) };
    bool ok = s && open.item && sweep(in, s, n_span, &open, &b, &hole);
    free(open.item);
    free(s);
    if (ok && hole < in->n_old) {
        fqi_map_free(&b);
        return fqi_fail(e, FQ_E_INPUT, NULL, "map-not-onto",
                        "found no padded index that holds channel %lld of %lld, expected one: the map cannot be undone",
                        (long long)hole, (long long)in->n_old);
    }
    return finish(&b, ok, out, e);
}

fq_status fqi_map_count_uses(const fqi_map *m, fqi_map_count *out, fq_err *e)
{
    size_t n_span = 0;
    span *s = sorted_spans(m, &n_span);
    if (!s) return fqi_fail_nomem(e, "axis map");
    fqi_map_count c = { 0 };
    int64_t seen_to = 0, n_read = 0;
    for (size_t i = 0; i < n_span; i++) {
        n_read += s[i].end - s[i].begin;
        int64_t begin = s[i].begin > seen_to ? s[i].begin : seen_to;
        if (s[i].end > begin) c.same += s[i].end - begin;
        if (s[i].end > seen_to) seen_to = s[i].end;
    }
    free(s);
    c.copy = n_read - c.same;
    c.zero = m->n_new - n_read;
    c.missing = m->n_old - c.same;
    *out = c;
    return FQ_OK;
}
