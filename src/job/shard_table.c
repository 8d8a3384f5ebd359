/* shard_table.c - the tensors of the ranks' files. See shard_private.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/shard_private.h"

#define REST_NAME "fitq-rest.safetensors"

/* ---- one tensor ---- */

/* Length of dimension d of what a rank has of source tensor i. */
static int64_t length_of(const fqi_shard_job *j, size_t i, int rank, int d)
{
    const fqi_rank_cut *c = j->cuts.of[i];
    return d == c->dim ? c->range[rank].n * c->parts : j->ckpt->tensor[i].shape[d];
}

static bool has(const fqi_shard_job *j, const fqi_shard_set *s, int rank) { return j->cuts.of[s->member[0]]->range[rank].n > 0; }

/* Shape of a set in a rank's file, in the tensor's own dimensions. */
static void shape_of(const fqi_shard_job *j, const fqi_shard_set *s, int rank, int64_t shape[FQ_MAX_RANK])
{
    const fqi_tensor *t = &j->ckpt->tensor[s->member[0]];
    for (int d = 0; d < t->rank; d++) {
        shape[d] = s->rest ? t->shape[d] : length_of(j, s->member[0], rank, d);
        for (int m = 1; m < s->n_member && d == s->dim; m++) shape[d] += length_of(j, s->member[m], rank, d);
    }
    if (s->rows_pad > 0) shape[0] = s->rows_pad;
}

/* Boxes of a member whose part begins at entry `at` of dimension s->dim. */
static void add_member(fqi_shard_job *j, const fqi_shard_set *s, int m, int rank, int64_t at, fqi_boxed *out)
{
    const fqi_tensor *t = &j->ckpt->tensor[s->member[m]];
    const fqi_rank_cut *c = j->cuts.of[s->member[m]];
    const int front = 3 - t->rank, cut = c->dim < 0 ? -1 : c->dim + front, fused = s->dim < 0 ? -1 : s->dim + front;
    for (int p = 0; p < c->parts; p++) {
        fqi_box *b = &j->box[out->n_box++];
        *b = (fqi_box){ .src = t, .same = m > 0 && s->dim < 0 };
        fqi_box_lengths(t->shape, t->rank, b->whole);
        memcpy(b->n, b->whole, sizeof b->n);
        if (cut >= 0) {
            b->n[cut] = c->range[rank].n;
            b->from[cut] = p * (c->length / c->parts) + c->range[rank].first;
            b->to[cut] = p * c->range[rank].n;
        }
        if (fused >= 0 && s->n_member > 1) b->to[fused] += at;
    }
}

fq_status fqi_shard_describe(void *user, size_t item, fqi_boxed *out, fq_err *e)
{
    fqi_shard_job *j = user;
    const fqi_shard_set *s = &j->set[j->item[item].set];
    const int rank = j->item[item].rank;
    const fqi_tensor *t = &j->ckpt->tensor[s->member[0]];
    int64_t shape[FQ_MAX_RANK], at = 0;
    (void)e;
    *out = (fqi_boxed){ .name = s->name, .box = j->box, .entry_bytes = fq_dtype_bits((fq_dtype)t->dtype) / 8, .gaps = s->rows_pad > 0 };
    if (s->rest || (s->n_member == 1 && s->rows_pad == 0 && j->cuts.of[s->member[0]]->dim < 0)) {
        j->box[0] = fqi_box_whole(t, false, out);
        out->n_box = 1;
        return FQ_OK;
    }
    shape_of(j, s, rank, shape);
    fqi_box_lengths(shape, t->rank, out->shape);
    for (int m = 0; m < s->n_member; m++) {
        add_member(j, s, m, rank, at, out);
        if (s->dim >= 0) at += length_of(j, s->member[m], rank, s->dim);
    }
    return FQ_OK;
}

/* ---- what the record says of source tensors ---- */

static fq_status record_set(fqi_shard_job *j, const fqi_shard_set *s, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    int64_t at = 0;
    for (int m = 0; m < s->n_member; m++) {
        const fqi_tensor *t = &j->ckpt->tensor[s->member[m]];
        const char *path = j->ckpt->shard[t->shard].path;
        fqi_rank_tensor *r = &j->files.tensor[s->member[m]];
        const fqi_rank_cut *c = s->rest ? NULL : j->cuts.of[s->member[m]];
        if (t->stride || t->byteswap) return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(path, fqi_escape(shown, t->name)), "tensor-order", "found entries in another order than row after row, expected safetensors or a tensor that was made contiguous");
        if (c && c->dim >= 0 && fq_dtype_bits((fq_dtype)t->dtype) % 8 != 0) return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(path, fqi_escape(shown, t->name)), "dtype", "found %s, expected whole bytes per entry in a tensor that is cut", fq_dtype_name((fq_dtype)t->dtype));
        *r = (fqi_rank_tensor){ .name = t->name, .dtype = (fq_dtype)t->dtype, .rank = t->rank, .file = t->shard, .off = t->off, .cut = c, .in = s->name, .at_dim = -1 };
        memcpy(r->shape, t->shape, t->rank * sizeof r->shape[0]);
        if (s->n_member > 1 && s->dim >= 0) {
            r->at_dim = s->dim;
            r->at = at;
            at += length_of(j, s->member[m], 0, s->dim);
        }
        if (s->rows_pad > 0) r->at_dim = 0;
    }
    return FQ_OK;
}

static fq_status record_all(fqi_shard_job *j, fq_err *e)
{
    fqi_rank_files *f = &j->files;
    f->tp = j->o->tp;
    f->expert_parallel = j->o->expert_parallel;
    f->engine_names = j->o->names == FQ_NAMES_ENGINE;
    f->cut = j->cuts.list;
    f->n_cut = j->cuts.n_list;
    f->n_tensor = j->ckpt->n_tensor;
    f->n_source_file = j->ckpt->n_shard;
    f->tensor = fqi_arena_alloc(&j->arena, (f->n_tensor + 1) * sizeof *f->tensor);
    f->source_file = fqi_arena_alloc(&j->arena, (f->n_source_file + 1) * sizeof *f->source_file);
    if (!f->tensor || !f->source_file) return fqi_fail_nomem(e, FQI_RANKS_FILE);
    for (size_t i = 0; i < f->n_source_file; i++) f->source_file[i] = j->ckpt->shard[i].name;
    for (size_t i = 0; i < j->n_set; i++) FQI_TRY(record_set(j, &j->set[i], e));
    return FQ_OK;
}

/* ---- files ---- */

/* Files of ranks while tensors are dealt out. */
typedef struct dealing {
    fqi_given *given; int64_t (*shape)[FQ_MAX_RANK]; size_t n;
    const char **file; size_t n_file, cap_file;
    uint32_t *owner; size_t cap_owner;                 /* rank of each file */
    struct { uint32_t file, part; uint64_t bytes; } *rank;   /* [tp + 1], the last: rest; part 0: it has no file yet */
    uint64_t limit;
} dealing;

static fq_status new_file(fqi_shard_job *j, dealing *d, int rank, fq_err *e)
{
    const char *name = rank == j->o->tp ? REST_NAME : fqi_arena_printf(&j->arena, "model-rank-%d-part-%u.safetensors", rank, d->rank[rank].part);
    if (!name || !fqi_grow((void **)&d->file, &d->cap_file, d->n_file + 1, sizeof *d->file) || !fqi_grow((void **)&d->owner, &d->cap_owner, d->n_file + 1, sizeof *d->owner)) return fqi_fail_nomem(e, "list of files");
    d->owner[d->n_file] = (uint32_t)rank;
    d->rank[rank].file = (uint32_t)d->n_file;
    d->rank[rank].part++;
    d->rank[rank].bytes = 0;
    d->file[d->n_file++] = name;
    return FQ_OK;
}

/* rank tp: rest. */
static fq_status deal(fqi_shard_job *j, dealing *d, size_t set, int rank, fq_err *e)
{
    const fqi_shard_set *s = &j->set[set];
    const fqi_tensor *t = &j->ckpt->tensor[s->member[0]];
    int64_t *shape = d->shape[d->n];
    uint64_t bytes = fq_dtype_bits((fq_dtype)t->dtype);
    shape_of(j, s, rank, shape);
    for (int k = 0; k < t->rank; k++) bytes *= (uint64_t)shape[k];   /* at most the source's, but for rows that are rounded up */
    bytes /= 8;
    if (d->rank[rank].part == 0 || (rank < j->o->tp && d->rank[rank].bytes > 0 && bytes > d->limit - (d->rank[rank].bytes < d->limit ? d->rank[rank].bytes : d->limit)))
        FQI_TRY(new_file(j, d, rank, e));
    d->rank[rank].bytes += bytes;
    j->item[d->n] = (fqi_shard_item){ .set = (uint32_t)set, .rank = rank == j->o->tp ? FQI_SHARD_REST : (uint16_t)rank };
    d->given[d->n] = (fqi_given){ .name = s->name, .shape = shape, .dtype = (fq_dtype)t->dtype, .rank = t->rank, .shard = d->rank[rank].file };
    d->n++;
    return FQ_OK;
}

static fq_status deal_all(fqi_shard_job *j, dealing *d, fq_err *e)
{
    for (int first = 0; first < j->o->tp; first += FQI_SHARD_SIDE)
        for (size_t i = 0; i < j->n_set; i++)
            for (int r = first; r < j->o->tp && r < first + FQI_SHARD_SIDE; r++)
                if (!j->set[i].rest && has(j, &j->set[i], r)) FQI_TRY(deal(j, d, i, r, e));
    for (size_t i = 0; i < j->n_set; i++)
        if (j->set[i].rest) FQI_TRY(deal(j, d, i, j->o->tp, e));
    return FQ_OK;
}

/* Names of files rank after rank, for the record. */
static fq_status list_files(fqi_shard_job *j, const dealing *d, fq_err *e)
{
    fqi_rank_files *f = &j->files;
    f->file = fqi_arena_alloc(&j->arena, (d->n_file + 1) * sizeof *f->file);
    f->first = fqi_arena_alloc(&j->arena, ((size_t)f->tp + 2) * sizeof *f->first);
    if (!f->file || !f->first) return fqi_fail_nomem(e, FQI_RANKS_FILE);
    for (int r = 0; r <= f->tp; r++) {
        f->first[r] = f->n_file;
        for (size_t i = 0; i < d->n_file; i++)
            if (d->owner[i] == (uint32_t)r) f->file[f->n_file++] = d->file[i];
    }
    f->first[f->tp + 1] = f->n_file;
    return FQ_OK;
}

static size_t count_items(const fqi_shard_job *j)
{
    size_t n = 0;
    for (size_t i = 0; i < j->n_set; i++) {
        for (int r = 0; r < j->o->tp && !j->set[i].rest; r++) n += has(j, &j->set[i], r);
        n += j->set[i].rest;
    }
    return n;
}

fq_status fqi_shard_table(fqi_shard_job *j, fq_err *e)
{
    const size_t n = count_items(j);
    dealing d = { .limit = j->o->shard_bytes != 0 ? j->o->shard_bytes : UINT64_MAX };
    j->item = fqi_calloc(n + 1, sizeof *j->item);
    d.given = fqi_calloc(n + 1, sizeof *d.given);
    d.shape = fqi_calloc(n + 1, sizeof *d.shape);
    d.rank = fqi_calloc((size_t)j->o->tp + 1, sizeof *d.rank);
    fq_status s = j->item && d.given && d.shape && d.rank ? record_all(j, e) : fqi_fail_nomem(e, "tensor table");
    if (s == FQ_OK) s = deal_all(j, &d, e);
    j->n_item = d.n;
    if (s == FQ_OK) s = fqi_outplan_given(d.given, d.n, d.file, d.n_file, &j->plan, e);
    if (s == FQ_OK) s = list_files(j, &d, e);
    free(d.given);
    free(d.shape);
    free(d.rank);
    free(d.file);
    free(d.owner);
    return s;
}
