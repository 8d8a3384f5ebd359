/* segments.c - the walk that turns maps into byte runs. See segments.h.
 *
 * A dimension is walked by runs of its map, never by index, except where the source is strided against the walk. Trailing
 * dimensions that no map changes and that lie together in the source form one unit; the last dimension before them is the
 * leaf, and the fast path is its run array:
 *
 *     down_proj [8192, 29568 -> 29696]:   leaf = columns, unit = 2 bytes, a row = 464 runs
 *     gate_proj [29568 -> 29696, 8192]:   leaf = rows,    unit = 8192 elements
 *
 * A run of zeros in an outer dimension is one segment, whatever stands below it. Init checks every product, after which the walk
 * adds and multiplies freely: it only forms offsets below the ones that were checked. */
#include "axis/segments.h"

#include <assert.h>

#include "base/checked.h"

static fq_status too_large(fq_err *e)
{
    return fqi_fail(e, FQ_E_INPUT, NULL, "tensor-size", "found a tensor of 2^63 bytes or more, expected less");
}

/* Strides and the furthest byte that the source has. */
static fq_status check_source(fqi_segments *s, const int64_t *shape, const int64_t *stride, fq_err *e)
{
    int64_t dense = 1, reach = 0, bytes;
    bool empty = false;
    for (int d = s->rank - 1; d >= 0; d--) {
        int64_t step, sum;
        if (shape[d] < 0)
            return fqi_fail(e, FQ_E_USAGE, NULL, "segment-shape", "found dimension %lld, expected 0 or more", (long long)shape[d]);
        s->stride[d] = stride ? stride[d] : dense;
        if (s->stride[d] < 0)
            return fqi_fail(e, FQ_E_USAGE, NULL, "segment-stride", "found stride %lld, expected 0 or more", (long long)s->stride[d]);
        if (shape[d] == 0) {
            empty = true;
            continue;
        }
        if (!fqi_mul_i64(shape[d] - 1, s->stride[d], &step) || !fqi_add_i64(reach, step, &sum)) return too_large(e);
        reach = sum;
        if (!fqi_mul_i64(dense, shape[d], &dense)) return too_large(e);
    }
    if (!empty && (!fqi_add_i64(reach, 1, &reach) || !fqi_mul_i64(reach, s->elem_bytes, &bytes))) return too_large(e);
    return FQ_OK;
}

static fq_status check_maps(fqi_segments *s, const int64_t *shape, const fqi_map *const *map, fq_err *e)
{
    for (int d = 0; d < s->rank; d++) {
        const fqi_map *m = map ? map[d] : NULL;
        s->map[d] = m && !fqi_map_is_identity(m) ? m : NULL;
        s->shape_new[d] = m ? m->n_new : shape[d];
        if (m && m->n_old != shape[d])
            return fqi_fail(e, FQ_E_USAGE, NULL, "segment-map", "found a map of %lld indices, expected %lld", (long long)m->n_old,
                            (long long)shape[d]);
    }
    return FQ_OK;
}

/* below[] and the size of the output. A dimension of length 0 makes everything above it 0, which must not hide an overflow. */
static fq_status measure(fqi_segments *s, fq_err *e)
{
    int64_t bytes = s->elem_bytes;
    bool empty = false;
    for (int d = s->rank - 1; d >= 0; d--) {
        s->below[d] = (uint64_t)bytes;
        if (s->shape_new[d] == 0) empty = true;
        else if (!fqi_mul_i64(bytes, s->shape_new[d], &bytes)) return too_large(e);
    }
    s->bytes = empty ? 0 : (uint64_t)bytes;
    return FQ_OK;
}

/* Finds leaf and unit. A dimension of one index has no stride worth the name. */
static void find_leaf(fqi_segments *s)
{
    int64_t together = 1;
    int d = s->rank - 1;
    for (; d >= 0 && !s->map[d] && (s->stride[d] == together || s->shape_new[d] == 1); d--) together *= s->shape_new[d];
    s->leaf = d;
    s->unit = (uint64_t)together * s->elem_bytes;
    s->leaf_whole = d < 0 || s->stride[d] == together || (s->map[d] && s->map[d]->n_old == 1);
}

fq_status fqi_segments_init(fqi_segments *s, int rank, const int64_t *shape, const int64_t *stride, unsigned elem_bytes, const fqi_map *const *map, fq_err *e)
{
    if (rank < 0 || rank > FQ_MAX_RANK)
        return fqi_fail(e, FQ_E_USAGE, NULL, "segment-rank", "found %d dimensions, expected 0 to %d", rank, FQ_MAX_RANK);
    if (elem_bytes == 0 || elem_bytes > 16)
        return fqi_fail(e, FQ_E_USAGE, NULL, "segment-element", "found elements of %u bytes, expected 1 to 16", elem_bytes);
    fqi_segments b = { .rank = rank, .elem_bytes = elem_bytes };
    FQI_TRY(check_source(&b, shape, stride, e));
    FQI_TRY(check_maps(&b, shape, map, e));
    FQI_TRY(measure(&b, e));
    b.ended = b.bytes == 0;
    if (!b.ended) find_leaf(&b);
    *s = b;
    return FQ_OK;
}

/* ---- walking ---- */

static inline fqi_run run_of(const fqi_segments *s, int d)
{
    if (s->map[d]) return s->map[d]->run[s->run[d]];
    return (fqi_run){ .src = 0, .count = s->shape_new[d] };
}
static inline size_t n_run_of(const fqi_segments *s, int d) { return s->map[d] ? s->map[d]->n_run : 1; }

/* Moves dimension d on by n indices inside its run, and carries. */
static void advance(fqi_segments *s, int d, int64_t n)
{
    for (; d >= 0; d--, n = 1) {
        s->in_run[d] += n;
        if (s->in_run[d] < run_of(s, d).count) return;
        s->in_run[d] = 0;
        if (++s->run[d] < n_run_of(s, d)) return;
        s->run[d] = 0;
    }
    s->ended = true;
}

/* Enters the row that the outer dimensions name. True: an outer dimension stands in zeros; *out is all of them and the position
 * is behind them. */
static bool enter_row(fqi_segments *s, fqi_segment *out)
{
    uint64_t row = 0;
    for (int d = 0; d < s->leaf; d++) {
        fqi_run r = run_of(s, d);
        if (r.src < 0) {
            *out = (fqi_segment){ .src = FQI_ZERO_SEGMENT, .bytes = (uint64_t)r.count * s->below[d] };
            advance(s, d, r.count); /* zeros are taken whole, so the position was at their first index */
            return true;
        }
        row += (uint64_t)(r.src + s->in_run[d]) * (uint64_t)s->stride[d] * s->elem_bytes;
    }
    s->row = row;
    s->in_row = true;
    return false;
}

/* A leaf whose neighbours are apart in the source: one unit at a time, zeros by the run. */
static void next_apart(fqi_segments *s, fqi_segment *out)
{
    int d = s->leaf;
    fqi_run r = run_of(s, d);
    uint64_t step = (uint64_t)s->stride[d] * s->elem_bytes;
    bool zero = r.src < 0;
    out->src = zero ? FQI_ZERO_SEGMENT : s->row + (uint64_t)(r.src + s->in_run[d]) * step;
    out->bytes = zero ? (uint64_t)r.count * s->unit : s->unit;
    s->in_run[d] = zero ? r.count : s->in_run[d] + 1;
    if (s->in_run[d] < r.count) return;
    s->in_run[d] = 0;
    if (++s->run[d] == n_run_of(s, d)) {
        s->run[d] = 0;
        s->in_row = false;
        advance(s, d - 1, 1);
    }
}

/* One run, not merged with its neighbours. */
static inline bool next_raw(fqi_segments *s, fqi_segment *out)
{
    if (!s->in_row) {
        if (s->ended) return false;
        if (s->leaf < 0) {
            s->ended = true;
            *out = (fqi_segment){ .src = 0, .bytes = s->bytes };
            return true;
        }
        if (enter_row(s, out)) return true;
    }
    const fqi_map *m = s->map[s->leaf];
    if (!s->leaf_whole || !m) {
        next_apart(s, out);
        return true;
    }
    size_t i = s->run[s->leaf];
    fqi_run r = m->run[i];
    out->src = r.src < 0 ? FQI_ZERO_SEGMENT : s->row + (uint64_t)r.src * s->unit;
    out->bytes = (uint64_t)r.count * s->unit;
    if (++i == m->n_run) {
        i = 0;
        s->in_row = false;
        advance(s, s->leaf - 1, 1);
    }
    s->run[s->leaf] = i;
    return true;
}

static inline bool joins(const fqi_segment *a, const fqi_segment *b)
{
    if (a->src == FQI_ZERO_SEGMENT || b->src == FQI_ZERO_SEGMENT) return a->src == b->src;
    return a->src + a->bytes == b->src;
}

bool fqi_segments_next(fqi_segments *s, uint64_t max_bytes, fqi_segment *out)
{
    assert(max_bytes > 0);
    fqi_segment next;
    while (s->held.bytes < max_bytes) {
        if (!next_raw(s, &next)) {
            if (s->held.bytes == 0) return false;
            *out = s->held;
            s->held.bytes = 0;
            return true;
        }
        if (s->held.bytes == 0) {
            s->held = next;
        } else if (joins(&s->held, &next)) {
            s->held.bytes += next.bytes;
        } else {
            *out = s->held;
            s->held = next;
            return true;
        }
    }
    *out = (fqi_segment){ .src = s->held.src, .bytes = max_bytes };
    s->held.bytes -= max_bytes;
    if (s->held.src != FQI_ZERO_SEGMENT) s->held.src += max_bytes;
    return true;
}
