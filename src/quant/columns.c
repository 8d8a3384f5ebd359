/* columns.c - slots of columns, their map, orders of processing. See columns.h. It refuses maps that copy or leave out a column: a column
 * that is stored twice has no one place in a sum of errors. */
#include "quant/columns.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define NOWHERE UINT32_MAX

void fqi_columns_free(fqi_columns *c)
{
    if (!c) return;
    free(c->slot_of);
    *c = (fqi_columns){ 0 };
}

static fq_status check_sizes(const fqi_map *map, size_t n_col, int64_t group_size, size_t slice, size_t *n_col_pad, fq_err *e)
{
    bool identity = !map || map->n_run == 0;
    if (!identity && (map->n_old < 0 || (uint64_t)map->n_old != n_col))
        return fqi_fail(e, FQ_E_INPUT, NULL, "columns-length", "found a map of %lld columns, expected %zu", (long long)map->n_old, n_col);
    *n_col_pad = identity ? n_col : (size_t)map->n_new;
    if (n_col >= NOWHERE || *n_col_pad >= NOWHERE)
        return fqi_fail(e, FQ_E_INPUT, NULL, "columns-length", "found %zu columns in %zu slots, expected less than 2^32 - 1", n_col, *n_col_pad);
    if (group_size != -1 && group_size <= 0)
        return fqi_fail(e, FQ_E_USAGE, NULL, "group-size", "found %lld, expected -1 or more than 0", (long long)group_size);
    if (slice == 0 || *n_col_pad % slice != 0)
        return fqi_fail(e, FQ_E_USAGE, NULL, "columns-slice", "found %zu slices, expected a divisor of %zu slots", slice, *n_col_pad);
    return FQ_OK;
}

/* slot_of as the map has it. */
static fq_status follow(const fqi_map *map, size_t n_col, uint32_t *slot_of, fq_err *e)
{
    for (size_t k = 0; k < n_col; k++) slot_of[k] = map && map->n_run > 0 ? NOWHERE : (uint32_t)k;
    size_t slot = 0;
    for (size_t i = 0; map && i < map->n_run; i++) {
        const fqi_run *r = &map->run[i];
        for (int64_t j = 0; j < r->count; j++, slot++) {
            if (r->src < 0) continue;
            size_t k = (size_t)(r->src + j);
            if (k >= n_col || slot_of[k] != NOWHERE)
                return fqi_fail(e, FQ_E_INPUT, NULL, "columns-copied", "found column %zu of %zu in slot %zu, expected every column once", k, n_col, slot);
            slot_of[k] = (uint32_t)slot;
        }
    }
    for (size_t k = 0; k < n_col; k++)
        if (slot_of[k] == NOWHERE)
            return fqi_fail(e, FQ_E_INPUT, NULL, "columns-copied", "found no slot for column %zu of %zu, expected every column once", k, n_col);
    return FQ_OK;
}

/* Gives the slots that hold a column to the columns in order of rank: slices in turn, each front to back. holds: by slot; cursor: of slice. */
static fq_status deal(const uint32_t *rank, size_t n_col, size_t n_col_pad, size_t slice, bool *holds, size_t *cursor, uint32_t *slot_of, fq_err *e)
{
    const size_t per_slice = slice > 0 ? n_col_pad / slice : 0;
    for (size_t k = 0; k < n_col; k++) {
        holds[slot_of[k]] = true;
        slot_of[k] = NOWHERE;
    }
    for (size_t s = 0; s < slice; s++) cursor[s] = s * per_slice;
    for (size_t i = 0, s = 0; i < n_col; s = s + 1 == slice ? 0 : s + 1) {
        size_t end = (s + 1) * per_slice;
        while (cursor[s] < end && !holds[cursor[s]]) cursor[s]++;
        if (cursor[s] == end) continue;   /* full; another one is not, since there are as many slots as columns */
        uint32_t k = rank[i++];
        if (k >= n_col || slot_of[k] != NOWHERE)
            return fqi_fail(e, FQ_E_INPUT, NULL, "columns-order", "found column %u of %zu as number %zu, expected every column once", k, n_col, i - 1);
        slot_of[k] = (uint32_t)cursor[s]++;
    }
    return FQ_OK;
}

static fq_status reorder(fqi_columns *c, const uint32_t *rank, size_t slice, fq_err *e)
{
    bool *holds = fqi_calloc(c->n_col_pad, sizeof *holds);
    size_t *cursor = fqi_calloc(slice, sizeof *cursor);
    fq_status s = holds && cursor ? deal(rank, c->n_col, c->n_col_pad, slice, holds, cursor, c->slot_of, e) : fqi_fail_nomem(e, "columns");
    free(cursor);
    free(holds);
    return s;
}

fq_status fqi_columns_create(const fqi_map *map, size_t n_col, int64_t group_size, const uint32_t *rank, size_t slice, fqi_columns *out, fq_err *e)
{
    fqi_columns c = { .n_col = n_col };
    FQI_TRY(check_sizes(map, n_col, group_size, slice, &c.n_col_pad, e));
    c.group_size = group_size < 0 || (uint64_t)group_size > c.n_col_pad ? c.n_col_pad : (size_t)group_size;
    c.n_group = c.group_size > 0 ? (c.n_col_pad + c.group_size - 1) / c.group_size : 0;
    c.slot_of = fqi_calloc(n_col, sizeof *c.slot_of);
    fq_status s = c.slot_of ? follow(map, n_col, c.slot_of, e) : fqi_fail_nomem(e, "columns");
    if (s == FQ_OK && rank) s = reorder(&c, rank, slice, e);
    if (s != FQ_OK) {
        fqi_columns_free(&c);
        return s;
    }
    *out = c;
    return FQ_OK;
}

fq_status fqi_columns_map(const fqi_columns *c, fqi_map *out, fq_err *e)
{
    fqi_map m = { .n_old = (int64_t)c->n_col };
    uint32_t *column = fqi_calloc(c->n_col_pad, sizeof *column);
    bool ok = column != NULL;
    for (size_t slot = 0; ok && slot < c->n_col_pad; slot++) column[slot] = NOWHERE;
    for (size_t k = 0; ok && k < c->n_col; k++) column[c->slot_of[k]] = (uint32_t)k;
    for (size_t slot = 0; ok && slot < c->n_col_pad; slot++) ok = fqi_map_append(&m, column[slot] == NOWHERE ? -1 : (int64_t)column[slot], 1);
    free(column);
    if (!ok) {
        fqi_map_free(&m);
        return fqi_fail_nomem(e, "columns");
    }
    *out = m;
    return FQ_OK;
}

/* ---- orders ---- */

typedef struct diagonal { const float *h; size_t n; } diagonal;

/* A total order, so that the sort need not be stable: larger first, then the lower number. */
static int by_importance(const void *a, const void *b, void *user)
{
    const diagonal *d = user;
    const uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    const float x = d->h[i * (d->n + 1)], y = d->h[j * (d->n + 1)];
    if (x != y) return x > y ? -1 : 1;
    return i < j ? -1 : i > j;
}

void fqi_order_by_diag(const float *h, size_t n, uint32_t *out)
{
    diagonal d = { h, n };
    for (size_t i = 0; i < n; i++) out[i] = (uint32_t)i;
    if (n > 1) qsort_r(out, n, sizeof *out, by_importance, &d);
}

static int by_slot_back_to_front(const void *a, const void *b, void *user)
{
    const uint32_t *slot_of = user, i = slot_of[*(const uint32_t *)a], j = slot_of[*(const uint32_t *)b];
    return i < j ? 1 : i > j ? -1 : 0;
}

void fqi_order_natural(const fqi_columns *c, uint32_t *out)
{
    for (size_t i = 0; i < c->n_col; i++) out[i] = (uint32_t)i;
    if (c->n_col > 1) qsort_r(out, c->n_col, sizeof *out, by_slot_back_to_front, c->slot_of);
}
