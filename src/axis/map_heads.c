/* map_heads.c - maps of attention heads, which are two axes tied together.
 *
 * An engine does not store which KV head a query head reads: it computes j / (h / kv). So a query head may only move together
 * with its KV head, and a dummy query head may only stand behind the real ones of its own group; one placed anywhere else would
 * shift every later head to a foreign KV head, and the model would run and be wrong.
 *
 *     h 6 kv 2 -> h_pad 12 kv_pad 4, kv_rep 1, tail:   kv    0       1       -       -
 *                                                      q     0 1 2   3 4 5   - - -   - - -
 *     h 6 kv 2 -> h_pad 8 kv_pad 4, kv_rep 2:          kv    0    0    1    1
 *                                                      q     0 1  2 -  3 4  5 -
 *     h 6 kv 2 -> h_pad 8 kv_pad 2, block 2:           kv    0          1
 *                                                      q     0 1 2 -    3 - 4 5      2 and 3 share a scale, 4 and 5 another one
 */
#include "axis/map.h"

#include "base/checked.h"
#include "base/mem.h"

static fq_status usage(fq_err *e, const char *what, int64_t found, const char *expected, int64_t than)
{
    return fqi_fail(e, FQ_E_USAGE, NULL, "heads", "found %s %lld, expected %s %lld", what, (long long)found, expected,
                    (long long)than);
}

static fq_status check(const fqi_heads *s, fq_err *e)
{
    int64_t n_stored;
    if (s->kv <= 0) return usage(e, "KV heads", s->kv, "at least", 1);
    if (s->h <= 0 || s->h % s->kv != 0) return usage(e, "query heads", s->h, "a multiple of KV heads", s->kv);
    if (s->kv_rep <= 0) return usage(e, "KV replication", s->kv_rep, "at least", 1);
    if (!fqi_mul_i64(s->kv, s->kv_rep, &n_stored) || s->kv_pad < n_stored)
        return fqi_fail(e, FQ_E_USAGE, NULL, "heads", "found padded KV heads %lld, expected at least %lld KV heads x %lld copies",
                        (long long)s->kv_pad, (long long)s->kv, (long long)s->kv_rep);
    if (s->h_pad < s->h) return usage(e, "padded query heads", s->h_pad, "at least the real", s->h);
    if (s->h_pad % s->kv_pad != 0) return usage(e, "padded query heads", s->h_pad, "a multiple of padded KV heads", s->kv_pad);
    if (s->h_pad > (int64_t)FQI_MAP_MAX_RUN) return usage(e, "padded query heads", s->h_pad, "at most", FQI_MAP_MAX_RUN);
    if (s->kv_pad > (int64_t)FQI_MAP_MAX_RUN / 4) return usage(e, "padded KV heads", s->kv_pad, "at most", FQI_MAP_MAX_RUN / 4);   /* two runs for each, and twice over */
    int64_t group = s->h / s->kv, group_pad = s->h_pad / s->kv_pad;
    int64_t largest = group / s->kv_rep + (group % s->kv_rep != 0);
    if (group_pad < largest) return usage(e, "query heads per padded KV head", group_pad, "at least the share of one copy,", largest);
    return FQ_OK;
}

/* Query heads of copy `c` of a KV head: ceil shares first, then floor shares. */
typedef struct share { int64_t first, count; } share;
static share share_of(int64_t group, int64_t kv_rep, int64_t c)
{
    int64_t quotient = group / kv_rep, extra = group % kv_rep;
    return (share){ .first = c * quotient + (c < extra ? c : extra), .count = quotient + (c < extra) };
}

/* What the new block that was filled last holds heads of: new block, old block. */
typedef struct open_block { int64_t at, old; } open_block;

/* The query heads of one copy, and its dummies. A new block takes heads of one old block only: where the next head is of another one, dummies fill the
 * block up, while there are any. Where they do not suffice a block mixes, which who applies the map to scales refuses. */
static bool fill_group(const fqi_heads *s, share mine, int64_t dummies, fqi_map *q, open_block *open)
{
    const int64_t block = s->block > 1 ? s->block : 1;
    for (int64_t h = mine.first; h < mine.first + mine.count; h++) {
        int64_t gap = q->n_new / block == open->at && h / block != open->old ? block - q->n_new % block : 0;
        if (gap > dummies) gap = 0;
        if (!fqi_map_append(q, -1, gap) || !fqi_map_append(q, h, 1)) return false;
        dummies -= gap;
        *open = (open_block){ (q->n_new - 1) / block, h / block };
    }
    return fqi_map_append(q, -1, dummies);
}

/* `slot` says for every padded KV head which stored one it holds (0 .. kv * kv_rep - 1), or nothing. */
static bool fill(const fqi_heads *s, const fqi_map *slot, fqi_map *q, fqi_map *kv)
{
    int64_t group = s->h / s->kv, group_pad = s->h_pad / s->kv_pad;
    open_block open = { -1, -1 };
    for (size_t i = 0; i < slot->n_run; i++) {
        const fqi_run *r = &slot->run[i];
        if (r->src < 0) {
            if (!fqi_map_append(kv, -1, r->count) || !fqi_map_append(q, -1, r->count * group_pad)) return false;
            continue;
        }
        for (int64_t t = r->src; t < r->src + r->count; t++) {
            int64_t head = t / s->kv_rep;
            share mine = share_of(group, s->kv_rep, t % s->kv_rep);
            mine.first += head * group;
            if (!fqi_map_append(kv, head, 1) || !fill_group(s, mine, group_pad - mine.count, q, &open)) return false;
        }
    }
    return true;
}

fq_status fqi_map_heads(const fqi_heads *s, fqi_map *q, fqi_map *kv, fq_err *e)
{
    FQI_TRY(check(s, e));
    fqi_map slot = { 0 }, new_q = { .n_old = s->h }, new_kv = { .n_old = s->kv };
    int64_t n_stored = s->kv * s->kv_rep;
    /* groups of one slot each: the balance of fqi_map_spread then holds for every rank count that divides kv_pad */
    FQI_TRY(s->spread ? fqi_map_spread(&slot, n_stored, s->kv_pad, s->kv_pad, e) : fqi_map_tail(&slot, n_stored, s->kv_pad, e));
    bool ok = fill(s, &slot, &new_q, &new_kv);
    fqi_map_free(&slot);
    if (!ok) {
        fqi_map_free(&new_q);
        fqi_map_free(&new_kv);
        return fqi_fail_nomem(e, "head map");
    }
    *q = new_q;
    *kv = new_kv;
    return FQ_OK;
}
