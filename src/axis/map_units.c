/* map_units.c - the map of an axis, seen by arrays that are coarser than it: words of packed codes, scales of blocks. See map.h.
 *
 *     elements, blocks of 4:     0 1 2 3 | 4 5 - - | 6 7 8 9 ...
 *     fqi_map_blocks:            0       | 1       | !          6 7 are of old block 1, 8 9 of old block 2
 *
 * Like the other maps, proportional to runs and to blocks that change, not to elements. */
#include <inttypes.h>

#include "axis/map.h"
#include "base/checked.h"

static fq_status check_unit(int64_t unit, fq_err *e)
{
    if (unit > 0) return FQ_OK;
    return fqi_fail(e, FQ_E_USAGE, NULL, "map-unit", "found unit %" PRId64 ", expected 1 or more", unit);
}

/* Hands over what was built, or frees it. */
static fq_status finish(fqi_map *built, fq_status s, fqi_map *out)
{
    if (s != FQ_OK) fqi_map_free(built);
    else *out = *built;
    return s;
}

static fq_status shrink(const fqi_map *in, int64_t unit, fqi_map *b, fq_err *e)
{
    int64_t at = 0;
    if (in->n_old % unit != 0 || in->n_new % unit != 0)
        return fqi_fail(e, FQ_E_INPUT, NULL, "map-unit", "found lengths %" PRId64 " and %" PRId64 ", expected multiples of %" PRId64, in->n_old, in->n_new, unit);
    for (size_t i = 0; i < in->n_run; i++) {
        const fqi_run *r = &in->run[i];
        if (r->count % unit != 0 || (r->src >= 0 && r->src % unit != 0))
            return fqi_fail(e, FQ_E_INPUT, NULL, "map-unit", "found a run of %" PRId64 " at %" PRId64 " of the new axis that cuts a unit of %" PRId64, r->count, at, unit);
        if (!fqi_map_append(b, r->src < 0 ? -1 : r->src / unit, r->count / unit)) return fqi_fail_nomem(e, "axis map");
        at += r->count;
    }
    return FQ_OK;
}

fq_status fqi_map_shrink(const fqi_map *in, int64_t unit, fqi_map *out, fq_err *e)
{
    FQI_TRY(check_unit(unit, e));
    fqi_map b = { .n_old = in->n_old / unit };
    return finish(&b, shrink(in, unit, &b, e), out);
}

/* A walk along the new axis that knows which old block the new block at hand has so far. */
typedef struct walk {
    int64_t unit_old, unit_new;
    int64_t at;          /* of the new axis */
    int64_t block;       /* old block of the new block at hand; -1: no real element yet */
    fqi_map *out;
} walk;

static bool close_block(walk *w)
{
    const bool ok = fqi_map_append(w->out, w->block, 1);
    w->block = -1;
    return ok;
}

static fq_status mixed(const walk *w, int64_t src, fq_err *e)
{
    return fqi_fail(e, FQ_E_INPUT, NULL, "map-block", "found elements of blocks %" PRId64 " and %" PRId64 " in new block %" PRId64 ", expected one scale for each of its %" PRId64 " elements",
                    w->block, src / w->unit_old, w->at / w->unit_new, w->unit_new);
}

/* Whole new blocks that lie inside a run, where old and new ones are in step or empty: in one go. */
static int64_t whole_blocks(const walk *w, const fqi_run *r, int64_t done)
{
    const int64_t left = r->count - done;
    if (w->at % w->unit_new != 0 || left < w->unit_new) return 0;
    if (r->src < 0) return left / w->unit_new;
    return w->unit_old == w->unit_new && (r->src + done) % w->unit_old == 0 ? left / w->unit_new : 0;
}

static fq_status walk_run(walk *w, const fqi_run *r, fq_err *e)
{
    for (int64_t done = 0, step; done < r->count; done += step, w->at += step) {
        const int64_t src = r->src < 0 ? -1 : r->src + done, whole = whole_blocks(w, r, done);
        if (whole > 0) {
            step = whole * w->unit_new;
            if (!fqi_map_append(w->out, src < 0 ? -1 : src / w->unit_old, whole)) return fqi_fail_nomem(e, "axis map");
            continue;
        }
        step = w->unit_new - w->at % w->unit_new;   /* to the end of the new block, of the old one, or of the run */
        if (src >= 0 && w->unit_old - src % w->unit_old < step) step = w->unit_old - src % w->unit_old;
        if (r->count - done < step) step = r->count - done;
        if (src >= 0 && w->block >= 0 && w->block != src / w->unit_old) return mixed(w, src, e);
        if (src >= 0) w->block = src / w->unit_old;
        if ((w->at + step) % w->unit_new == 0 && !close_block(w)) return fqi_fail_nomem(e, "axis map");
    }
    return FQ_OK;
}

fq_status fqi_map_blocks(const fqi_map *in, int64_t unit_old, int64_t unit_new, fqi_map *out, fq_err *e)
{
    FQI_TRY(check_unit(unit_old, e));
    FQI_TRY(check_unit(unit_new, e));
    fqi_map b = { .n_old = in->n_old / unit_old + (in->n_old % unit_old != 0) };
    walk w = { .unit_old = unit_old, .unit_new = unit_new, .block = -1, .out = &b };
    fq_status s = FQ_OK;
    for (size_t i = 0; i < in->n_run && s == FQ_OK; i++) s = walk_run(&w, &in->run[i], e);
    if (s == FQ_OK && w.at % unit_new != 0 && !close_block(&w)) s = fqi_fail_nomem(e, "axis map");
    return finish(&b, s, out);
}

/* ---- equal shares of whole blocks ------------------------------------------------------------------------------------- */

static fq_status check_split(int64_t n_old, int64_t n_new, int64_t n_rank, int64_t unit, int64_t grain, fq_err *e)
{
    FQI_TRY(check_unit(unit, e));
    FQI_TRY(check_unit(grain, e));
    if (n_rank < 1 || n_old < 0 || n_new < n_old || n_new / n_rank % unit != 0 || n_new % n_rank != 0 || n_old % grain != 0 || unit % grain != 0)
        return fqi_fail(e, FQ_E_USAGE, NULL, "split-blocks", "found %" PRId64 " channels to deal to %" PRId64 " slices of %" PRId64 ", expected whole blocks of %" PRId64 " and words of %" PRId64,
                        n_old, n_rank, n_rank > 0 ? n_new / n_rank : 0, unit, grain);
    return FQ_OK;
}

/* Channels [begin, end) as parts of old blocks, each from the begin of a new one; zeros up to `slots`. */
static fq_status deal_slice(int64_t begin, int64_t end, int64_t slots, int64_t unit, fqi_map *b, fq_err *e)
{
    int64_t used = 0;
    while (begin < end) {
        int64_t stop = begin - begin % unit + unit, n;
        if (begin % unit == 0) stop = end - end % unit > begin ? end - end % unit : stop;   /* whole blocks in one go */
        if (stop > end) stop = end;
        n = stop - begin;
        const int64_t holes = n % unit == 0 ? 0 : unit - n % unit;
        if (n > slots - used || holes > slots - used - n)
            return fqi_fail(e, FQ_E_USAGE, NULL, "split-blocks", "found slices of %" PRId64 ", expected more: an equal share of the channels is parts of more blocks of %" PRId64, slots, unit);
        if (!fqi_map_append(b, begin, n) || !fqi_map_append(b, -1, holes)) return fqi_fail_nomem(e, "axis map");
        used += n + holes;
        begin = stop;
    }
    return fqi_map_append(b, -1, slots - used) ? FQ_OK : fqi_fail_nomem(e, "axis map");
}

fq_status fqi_map_split(fqi_map *m, int64_t n_old, int64_t n_new, int64_t n_rank, int64_t unit, int64_t grain, fq_err *e)
{
    FQI_TRY(check_split(n_old, n_new, n_rank, unit, grain, e));
    fqi_map b = { .n_old = n_old };
    const int64_t words = n_old / grain, quotient = words / n_rank, remainder = words % n_rank;
    int64_t begin = 0, gathered = 0;
    fq_status s = FQ_OK;
    for (int64_t k = 0; k < n_rank && s == FQ_OK; k++) {   /* as fqi_map_spread deals */
        int64_t share = quotient;
        gathered += remainder;
        if (gathered >= n_rank) {
            gathered -= n_rank;
            share++;
        }
        s = deal_slice(begin, begin + share * grain, n_new / n_rank, unit, &b, e);
        begin += share * grain;
    }
    return finish(&b, s, m);
}
