/* adapter_back.c - what an adapter that was trained on a fitted model says in places that the original does not have.
 *
 * Such a channel of an MLP is silu(gate) * up, and the fitted model's own weights are zeros there. It reaches the outputs only if the adapter has values
 * in gate's outputs, in up's outputs and in down's inputs at once: training begins with B = 0, and then none of the three gets a gradient that
 * leaves zero, whatever A holds. A query head without a source attends to real values, so what o_proj's A holds there reaches the outputs as soon
 * as its B does. Copies of a KV head are one head again, so they must be alike. The vocabulary's new entries are no words: they are left out.
 *
 * Tensors of one MLP stand together in name order, so one MLP at a time is looked at. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/gather.h"
#include "job/adapter.h"

#define CHUNK ((size_t)1 << 20)
#define MAX_COPIES ((uint64_t)1 << 30)

enum { GATE, UP, DOWN, N_ROLE };

typedef struct mlp {
    int64_t layer, expert, n;
    uint8_t axis;
    const fqi_map *map;
    unsigned char *used[N_ROLE];   /* [n]: holds a value; of all places, with and without a source */
    bool seen[N_ROLE];
    const fqi_tensor *tensor;      /* one of them, for the message */
} mlp;

typedef struct check {
    const fqi_lora *l;
    const fq_run *run;
    bool drop;
    uint64_t n;
    fqi_slot slot;
    mlp now;
} check;

static const fqi_where *place_of(const check *c, const fqi_tensor *t, fqi_where *where)
{
    *where = *FQI_TENSOR(c->l->ckpt->shard[t->shard].path, t->name);
    return where;
}

/* ---- reading --------------------------------------------------------------------------------------------------------- */

typedef void take(void *user, const unsigned char *data, uint64_t at, size_t n);

static fq_status read_all(check *c, const fqi_tensor *t, take *fn, void *user, fq_err *e)
{
    static const fqi_map *const no_map[FQ_MAX_RANK] = { 0 };
    fqi_file f;
    fqi_gather g;
    uint64_t at = 0;
    FQI_TRY(fqi_ckpt_open_shard(c->l->ckpt, t->shard, c->run->io, &f, e));
    fq_status s = fqi_gather_begin(&g, &f, t, no_map, t->bytes, e);
    do {
        if (s == FQ_OK) s = fqi_gather_fill(&g, &c->slot, e);
        if (s != FQ_OK) break;
        fqi_slot_assemble(&c->slot);
        fn(user, c->slot.data, at, c->slot.bytes);
        at += c->slot.bytes;
    } while (!c->slot.last);
    fqi_file_close(&f);
    return s;
}

/* Marks the entries of a dimension in which some element is not zero. */
typedef struct marking { unsigned char *used; uint64_t cols; unsigned bytes; bool by_col; } marking;

static void mark(void *user, const unsigned char *data, uint64_t at, size_t n)
{
    const marking *m = user;
    for (size_t i = 0; i + m->bytes <= n; i += m->bytes) {
        unsigned any = data[i + m->bytes - 1] & 0x7fu;   /* -0 is 0 */
        for (unsigned k = 0; k + 1 < m->bytes; k++) any |= data[i + k];
        if (!any) continue;
        const uint64_t index = (at + i) / m->bytes;
        m->used[m->by_col ? index % m->cols : index / m->cols] = 1;
    }
}

static fq_status mark_used(check *c, const fqi_tensor *t, int dim, unsigned char *used, fq_err *e)
{
    marking m = { .used = used, .cols = t->rank == 2 ? (uint64_t)t->shape[1] : 1, .bytes = fq_dtype_bits((fq_dtype)t->dtype) / 8, .by_col = dim == 1 };
    fqi_where where;
    if (m.bytes == 0) return fqi_fail(e, FQ_E_INPUT, place_of(c, t, &where), "dtype", "found %s, expected whole bytes per element", fq_dtype_name((fq_dtype)t->dtype));
    return m.cols == 0 ? FQ_OK : read_all(c, t, mark, &m, e);
}

/* ---- MLP channels ------------------------------------------------------------------------------------------------------- */

static fq_status fail_drop(check *c, const fqi_tensor *t, uint64_t n, uint64_t of, const char *what, fq_err *e)
{
    fqi_where where;
    c->n += n;
    if (n == 0 || c->drop) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, place_of(c, t, &where), "adapter-drop", "found values that reach the outputs in %" PRIu64 " of %" PRIu64 " %s, expected none: the original has no place for them; --drop leaves them out", n, of, what);
}

static fq_status end_mlp(check *c, fq_err *e)
{
    mlp *m = &c->now;
    uint64_t n = 0, of = 0, at = 0;
    for (size_t r = 0; m->map && r < m->map->n_run; r++)
        for (int64_t i = 0; i < m->map->run[r].count; i++, at++) {
            if (m->map->run[r].src >= 0) continue;
            of++;
            n += m->seen[GATE] && m->seen[UP] && m->seen[DOWN] && m->used[GATE][at] && m->used[UP][at] && m->used[DOWN][at];
        }
    const fq_status s = m->map ? fail_drop(c, m->tensor, n, of, "MLP channels that padding added", e) : FQ_OK;
    for (int k = 0; k < N_ROLE; k++) free(m->used[k]);
    *m = (mlp){ .layer = -1 };
    return s;
}

static int role_of(const fqi_row *row, int k)
{
    if (k == 1) return DOWN;
    return strstr(row->role, "gate") ? GATE : UP;
}

static fq_status look_at_mlp(check *c, const fqi_lora_tensor *x, const fqi_tensor *t, int dim, uint8_t axis, int k, fq_err *e)
{
    mlp *m = &c->now;
    const int role = role_of(x->bound.row, k);
    if (!m->map || m->layer != x->bound.layer || m->expert != x->bound.expert || m->axis != axis) {
        FQI_TRY(end_mlp(c, e));
        *m = (mlp){ .layer = x->bound.layer, .expert = x->bound.expert, .axis = axis, .n = x->map[dim]->n_new, .map = x->map[dim] };
    }
    if (!m->used[role] && !(m->used[role] = fqi_calloc((size_t)m->n, 1))) return fqi_fail_nomem(e, "channels");
    m->seen[role] = true;
    if (role == DOWN || !m->tensor) m->tensor = t;
    return mark_used(c, t, dim, m->used[role], e);
}

/* ---- heads ------------------------------------------------------------------------------------------------------------- */

static fq_status look_at_o_proj(check *c, const fqi_lora_tensor *x, const fqi_tensor *t, int dim, fq_err *e)
{
    const fqi_map *map = x->map[dim];
    uint64_t n = 0, of = 0, at = 0;
    unsigned char *used = fqi_calloc((size_t)map->n_new, 1);
    if (!used) return fqi_fail_nomem(e, "heads");
    const fq_status s = mark_used(c, t, dim, used, e);
    for (size_t r = 0; r < map->n_run; r++)
        for (int64_t i = 0; i < map->run[r].count; i++, at++) {
            of += map->run[r].src < 0;
            n += map->run[r].src < 0 && used[at];
        }
    free(used);
    FQI_TRY(s);
    return fail_drop(c, t, n, of, "inputs of query heads that padding added", e);
}

static void copy_to(void *user, const unsigned char *data, uint64_t at, size_t n) { memcpy((unsigned char *)user + at, data, n); }

/* Rows that read the same row of the original. */
static fq_status look_at_copies(check *c, const fqi_lora_tensor *x, const fqi_tensor *t, fq_err *e)
{
    const fqi_map *map = x->map[0];
    fqi_where where;
    fqi_map_count count;
    uint64_t differ = 0, at = 0;
    FQI_TRY(fqi_map_count_uses(map, &count, e));
    if (count.copy == 0 || t->bytes == 0) return FQ_OK;
    if (t->bytes > MAX_COPIES) return fqi_fail(e, FQ_E_INPUT, place_of(c, t, &where), "adapter-shape", "found %" PRIu64 " bytes, expected a projection of at most 1 GiB", t->bytes);
    const size_t row = (size_t)(t->bytes / (uint64_t)map->n_new);
    unsigned char *all = malloc((size_t)t->bytes);
    int64_t *first = fqi_calloc((size_t)map->n_old, sizeof *first);   /* 1 + the first row that reads it */
    fq_status s = all && first ? read_all(c, t, copy_to, all, e) : fqi_fail_nomem(e, "copies of KV heads");
    for (size_t r = 0; r < map->n_run && s == FQ_OK; r++)
        for (int64_t i = 0; i < map->run[r].count; i++, at++) {
            if (map->run[r].src < 0) continue;
            int64_t *one = &first[map->run[r].src + i];
            if (*one == 0) *one = (int64_t)at + 1;
            else differ += memcmp(all + ((size_t)*one - 1) * row, all + at * row, row) != 0;
        }
    free(all);
    free(first);
    FQI_TRY(s);
    c->n += differ;
    if (differ == 0 || c->drop) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, place_of(c, t, &where), "adapter-drop", "found %" PRIu64 " rows that differ between copies of one KV head, expected copies that are alike: the original has one of them; --drop keeps the first", differ);
}

/* ---- all ---------------------------------------------------------------------------------------------------------------- */

static fq_status look_at(check *c, size_t i, fq_err *e)
{
    const fqi_lora_tensor *x = &c->l->tensor[i];
    const fqi_tensor *t = &c->l->ckpt->tensor[i];
    if (x->kind == FQI_LORA_MAGNITUDE) return FQ_OK;   /* of rows that are zeros: it scales nothing */
    for (int d = 0; d < t->rank; d++) {
        if (!x->map[d]) continue;
        const int k = x->kind == FQI_LORA_A || (x->kind == FQI_LORA_WEIGHT && d == 1);   /* inputs of the layer */
        const uint8_t axis = x->bound.row->dim[k].axis;
        if (axis == FQI_AX_FF || axis == FQI_AX_MOE_FF || axis == FQI_AX_SHARED_FF) FQI_TRY(look_at_mlp(c, x, t, d, axis, k, e));
        if (axis == FQI_AX_Q && k == 1) FQI_TRY(look_at_o_proj(c, x, t, d, e));
        if (axis == FQI_AX_KV) FQI_TRY(look_at_copies(c, x, t, e));
    }
    return FQ_OK;
}

fq_status fqi_lora_check_back(const fqi_lora *l, const fq_run *run, bool drop, uint64_t *n, fq_err *e)
{
    check c = { .l = l, .run = run, .drop = drop, .now = { .layer = -1 } };
    FQI_TRY(fqi_slot_init(&c.slot, CHUNK, e));
    fq_status s = FQ_OK;
    for (size_t i = 0; i < l->ckpt->n_tensor && s == FQ_OK; i++) s = look_at(&c, i, e);
    const fq_status end = end_mlp(&c, s == FQ_OK ? e : NULL);
    fqi_slot_free(&c.slot);
    *n = c.n;
    return s == FQ_OK ? end : s;
}
