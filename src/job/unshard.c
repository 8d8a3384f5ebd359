/* unshard.c - fq_unshard: the checkpoint that the files of ranks were cut from.
 *
 *     fitq-ranks.json -> files of all ranks, opened apart -> for each tensor the boxes that it is made of -> the writer of pad -> hashes compared -> one rename
 *
 * Nothing of the model is known here: the record says how each tensor was cut. Ranges that several ranks have (norms, copies of KV heads) are taken from
 * the first and compared with the others. Refused: "fitq-ranks" (a record that contradicts itself or the files), "rank-files" (a file that is missing, a
 * tensor that is not there or has another shape); found while writing: "rank-copies", "tensor-hash". */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/boxes.h"
#include "job/outdir.h"
#include "job/rank_files.h"
#include "job/write.h"

typedef struct unshard_job {
    const fq_unshard_options *o;
    const fq_run *run;
    fqi_rank_files files;
    fq_ckpt *ckpt;              /* all ranks' files, apart */
    char *config; size_t n_config;
    char *prov, *order; size_t n_prov, n_order;
    uint32_t *tensor;           /* of the record, in the order of writing */
    fqi_outplan plan;
    fqi_boxes boxes;
    fqi_box *box; size_t cap_box;   /* of the tensor in hand */
} unshard_job;

static fq_status bad_tensor(const unshard_job *j, const fqi_rank_tensor *t, const char *file, const char *rule, const char *found, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file ? file : j->o->source, fqi_escape(shown, t->name)), rule, "found %s", found);
}

/* ---- what a rank has of a tensor ---- */

/* In the files [first, end) of one rank; the catalogue's shards are the record's files. */
static const fqi_tensor *find(const unshard_job *j, const fqi_rank_tensor *t, size_t first, size_t end)
{
    for (size_t f = first; f < end; f++) {
        const size_t i = fqi_ckpt_find_in(j->ckpt, t->in, (uint32_t)f);
        if (i != SIZE_MAX) return &j->ckpt->tensor[i];
    }
    return NULL;
}

/* Does the rank's tensor have the lengths that the record says? range n 0 of `c` is not asked about. */
static bool fits(const fqi_rank_tensor *t, const fqi_rank_cut *c, int rank, const fqi_tensor *x)
{
    if (x->dtype != t->dtype || x->rank != t->rank || x->stride || x->byteswap) return false;
    for (int d = 0; d < t->rank; d++) {
        const int64_t n = c && d == c->dim ? c->range[rank].n * c->parts : t->shape[d];
        if (d == t->at_dim ? t->at > x->shape[d] || n > x->shape[d] - t->at : n != x->shape[d]) return false;
    }
    return true;
}

static fq_status add_box(unshard_job *j, fqi_boxed *out, const fqi_box *b, fq_err *e)
{
    if (!fqi_grow((void **)&j->box, &j->cap_box, out->n_box + 1, sizeof *j->box)) return fqi_fail_nomem(e, "tensor table");
    j->box[out->n_box++] = *b;
    return FQ_OK;
}

/* A tensor that x has all of, and no more than it: bytes, whatever they mean. */
static fq_status add_whole(unshard_job *j, const fqi_rank_tensor *t, const fqi_tensor *x, bool same, fqi_boxed *out, fq_err *e)
{
    if (t->at_dim >= 0) {   /* a part of a fused one, or rows that were rounded up */
        fqi_box b = { .src = x, .same = same };
        fqi_box_lengths(x->shape, x->rank, b.whole);
        fqi_box_lengths(t->shape, t->rank, b.n);
        b.from[3 - t->rank + t->at_dim] = t->at;
        fqi_box_lengths(t->shape, t->rank, out->shape);
        return add_box(j, out, &b, e);
    }
    const fqi_box b = fqi_box_whole(x, same, out);
    return add_box(j, out, &b, e);
}

static fq_status add_cut(unshard_job *j, const fqi_rank_tensor *t, const fqi_tensor *x, int rank, bool same, fqi_boxed *out, fq_err *e)
{
    const fqi_rank_cut *c = t->cut;
    const int front = 3 - t->rank, cut = c->dim + front;
    fqi_box_lengths(t->shape, t->rank, out->shape);
    for (int p = 0; p < c->parts; p++) {
        fqi_box b = { .src = x, .same = same };
        fqi_box_lengths(x->shape, x->rank, b.whole);
        fqi_box_lengths(t->shape, t->rank, b.n);
        b.n[cut] = c->range[rank].n;
        b.to[cut] = p * (c->length / c->parts) + c->range[rank].first;
        if (t->at_dim >= 0) b.from[t->at_dim + front] = t->at;
        b.from[cut] += p * c->range[rank].n;
        FQI_TRY(add_box(j, out, &b, e));
    }
    return FQ_OK;
}

/* Do the ranks have every entry? They stand in the order of their ranges, and those that have the same are copies. */
static fq_status check_cover(const unshard_job *j, const fqi_rank_tensor *t, fq_err *e)
{
    const fqi_rank_cut *c = t->cut;
    const fqi_range *before = NULL;
    int64_t at = 0;
    for (int r = 0; r < j->files.tp; r++) {
        const fqi_range *x = &c->range[r];
        if (x->n == 0) continue;
        const bool copy = before && x->first == before->first && x->n == before->n;
        before = x;
        if (!copy && x->first != at) return bad_tensor(j, t, NULL, "fitq-ranks", "ranks whose parts overlap or leave a hole, expected each part once, or copies of the same", e);
        at = x->first + x->n;
    }
    return at * c->parts == c->length ? FQ_OK : bad_tensor(j, t, NULL, "fitq-ranks", "ranks that do not have all of it, expected every part in one of them", e);
}

static bool is_copy(const fqi_rank_cut *c, int rank)
{
    for (int r = 0; r < rank; r++)
        if (c->range[r].n > 0 && (c->dim < 0 || c->range[r].first == c->range[rank].first)) return true;
    return false;
}

/* The tensor of rank `rank` (tp: of the rest) that holds its part of t; NULL and FQ_OK: the rank has none. */
static fq_status locate(const unshard_job *j, const fqi_rank_tensor *t, int rank, const fqi_tensor **out, fq_err *e)
{
    const fqi_rank_cut *c = rank < j->files.tp ? t->cut : NULL;
    char found[FQI_NAME_MAX + 96], shown[FQI_NAME_MAX + 1];
    *out = NULL;
    if (c && c->range[rank].n == 0) return FQ_OK;
    const fqi_tensor *x = find(j, t, j->files.first[rank], j->files.first[rank + 1]);
    if (!x) {
        snprintf(found, sizeof found, "no tensor %s in the files of rank %d, expected it as " FQI_RANKS_FILE " says", fqi_escape(shown, t->in), rank);
        return bad_tensor(j, t, NULL, "rank-files", found, e);
    }
    if (!fits(t, c, rank, x)) {
        snprintf(found, sizeof found, "another dtype or shape of %s than " FQI_RANKS_FILE " says, expected what fitq shard wrote", fqi_escape(shown, t->in));
        return bad_tensor(j, t, j->ckpt->shard[x->shard].path, "rank-files", found, e);
    }
    *out = x;
    return FQ_OK;
}

static fq_status describe(void *user, size_t item, fqi_boxed *out, fq_err *e)
{
    unshard_job *j = user;
    const fqi_rank_tensor *t = &j->files.tensor[j->tensor[item]];
    const fqi_tensor *x;
    *out = (fqi_boxed){ .name = t->name, .entry_bytes = fq_dtype_bits(t->dtype) / 8 };
    if (!t->cut) {
        FQI_TRY(locate(j, t, j->files.tp, &x, e));
        FQI_TRY(add_whole(j, t, x, false, out, e));
    }
    for (int copies = 0; copies < 2 && t->cut; copies++)   /* what is compared stands behind what it is compared with */
        for (int r = 0; r < j->files.tp; r++) {
            if (is_copy(t->cut, r) != (copies == 1)) continue;
            FQI_TRY(locate(j, t, r, &x, e));
            if (!x) continue;
            FQI_TRY(t->cut->dim < 0 ? add_whole(j, t, x, copies == 1, out, e) : add_cut(j, t, x, r, copies == 1, out, e));
        }
    out->box = j->box;
    return FQ_OK;
}

/* ---- the table ---- */

static bool is_safetensors(const char *name)
{
    static const char suffix[] = ".safetensors";
    const size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

/* File after file; in each the order of the record, which is that of the source's data: it has the same bytes then. Of torch files, whose tensors have gaps
 * between them, the order of the reference writer, in which all stand at a multiple of their entries. */
static int by_file(const void *a, const void *b, void *files)
{
    const fqi_rank_files *f = files;
    const uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    const fqi_rank_tensor *x = &f->tensor[i], *y = &f->tensor[k];
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (!is_safetensors(f->source_file[x->file]) && x->dtype != y->dtype) return x->dtype > y->dtype ? -1 : 1;
    return i < k ? -1 : i > k;
}

/* Everything that can be refused, before anything is written. */
static fq_status check_tensors(unshard_job *j, fq_err *e)
{
    fqi_boxed boxed;
    for (size_t i = 0; i < j->files.n_tensor; i++) {
        const fqi_rank_tensor *t = &j->files.tensor[j->tensor[i]];
        if (t->cut) FQI_TRY(check_cover(j, t, e));
        if (((t->cut && t->cut->dim >= 0) || t->at_dim >= 0) && fq_dtype_bits(t->dtype) % 8 != 0) return bad_tensor(j, t, NULL, "fitq-ranks", "a cut of entries that are no whole bytes, expected what fitq shard wrote", e);
        FQI_TRY(describe(j, i, &boxed, e));
    }
    return FQ_OK;
}

/* Source files that are no safetensors (torch) are written as safetensors. */
static fq_status file_names(unshard_job *j, const char **name, fq_err *e)
{
    for (size_t i = 0; i < j->files.n_source_file; i++) {
        const char *old = j->files.source_file[i], *dot = strrchr(old, '.');
        name[i] = is_safetensors(old) ? old : fqi_arena_printf(&j->files.arena, "%.*s.safetensors", dot ? (int)(dot - old) : (int)strlen(old), old);
        if (!name[i]) return fqi_fail_nomem(e, "list of files");
        for (size_t k = 0; k < i; k++)
            if (strcmp(name[i], name[k]) == 0) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "fitq-ranks", "found two source files of one name, expected different ones");
    }
    return FQ_OK;
}

static fq_status make_table(unshard_job *j, fq_err *e)
{
    const size_t n = j->files.n_tensor;
    j->tensor = n <= UINT32_MAX ? fqi_calloc(n + 1, sizeof *j->tensor) : NULL;
    fqi_given *given = fqi_calloc(n + 1, sizeof *given);
    const char **name = fqi_calloc(j->files.n_source_file + 1, sizeof *name);
    bool *used = fqi_calloc(j->files.n_source_file + 1, sizeof *used);
    fq_status s = j->tensor && given && name && used ? file_names(j, name, e) : fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < n && s == FQ_OK; i++) {
        j->tensor[i] = (uint32_t)i;
        used[j->files.tensor[i].file] = true;
    }
    for (size_t i = 0; i < j->files.n_source_file && s == FQ_OK; i++)
        if (!used[i]) s = fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "fitq-ranks", "found a source file without tensors, expected one at least");
    if (s == FQ_OK) qsort_r(j->tensor, n, sizeof *j->tensor, by_file, &j->files);
    if (s == FQ_OK) s = check_tensors(j, e);
    for (size_t i = 0; i < n && s == FQ_OK; i++) {
        const fqi_rank_tensor *t = &j->files.tensor[j->tensor[i]];
        given[i] = (fqi_given){ .name = t->name, .shape = t->shape, .dtype = t->dtype, .rank = t->rank, .shard = t->file };
    }
    if (s == FQ_OK) s = fqi_outplan_given(given, n, name, j->files.n_source_file, &j->plan, e);
    j->plan.apart = false;      /* one checkpoint again, with an index */
    j->plan.restores = true;
    free(given);
    free(name);
    free(used);
    return s;
}

/* ---- the job ---- */

/* Files that the record names and that are not there would be as many errors of the catalogue. */
static fq_status check_files(const unshard_job *j, fq_err *e)
{
    for (size_t i = 0; i < j->files.n_file; i++) {
        char *path = fqi_path_join(j->o->source, j->files.file[i]);
        if (!path) return fqi_fail_nomem(e, "path");
        const fq_status s = fqi_path_exists(path) ? FQ_OK : fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "rank-files", "found no such file, expected those of all %d ranks", j->files.tp);
        free(path);
        FQI_TRY(s);
    }
    return FQ_OK;
}

static fq_status check_hashes(void *user, const fqi_hash128 *out_hash, fq_err *e)
{
    const unshard_job *j = user;
    for (size_t i = 0; i < j->files.n_tensor; i++) {
        const fqi_rank_tensor *t = &j->files.tensor[j->tensor[i]];
        char shown[FQI_NAME_MAX + 1];
        if (t->hash.hi != out_hash[i].hi || t->hash.lo != out_hash[i].lo)
            return fqi_fail(e, FQ_E_DIFFERS, FQI_TENSOR(j->o->source, fqi_escape(shown, t->name)), "tensor-hash", "found weights that differ from those that were cut, expected the same bytes");
    }
    return FQ_OK;
}

static fq_status fill(void *user, size_t tensor, uint64_t off, uint8_t *to, size_t n, fq_err *e)
{
    return fqi_boxes_fill(&((unshard_job *)user)->boxes, tensor, off, to, n, e);
}

static fq_status prepare(unshard_job *j, fq_err *e)
{
    FQI_TRY(fqi_rank_files_load(j->o->source, &j->files, e));
    FQI_TRY(check_files(j, e));
    FQI_TRY(fqi_ckpt_open_apart(j->o->source, j->files.file, j->files.n_file, &j->ckpt, e));
    FQI_TRY(fqi_outdir_keep(j->o->source, "config.json", &j->config, &j->n_config, e));
    FQI_TRY(fqi_outdir_keep(j->o->source, FQI_PROV_FILE, &j->prov, &j->n_prov, e));
    FQI_TRY(fqi_outdir_keep(j->o->source, FQI_ORDER_FILE, &j->order, &j->n_order, e));
    if (!j->config) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "config-missing", "found no config.json beside the ranks' files, expected the one that fitq shard copied");
    FQI_TRY(make_table(j, e));
    j->boxes = (fqi_boxes){ .ckpt = j->ckpt, .describe = describe, .user = j, .io = j->run->io,
                            .differs = { FQ_E_DIFFERS, "rank-copies", "found other bytes than another rank has of the same part, expected copies" } };
    return fqi_boxes_open(&j->boxes, e);
}

static fq_status run_job(unshard_job *j, fq_pad_report *out, fq_err *e)
{
    const double start = fqi_now_seconds();
    static const char *const leave[] = { FQI_RANKS_FILE };
    fqi_write_result result = { 0 };
    FQI_TRY(prepare(j, e));
    fqi_extra_file extra[2];
    fqi_write_request w = {
        .ckpt = j->ckpt, .plan = &j->plan, .target = j->o->target, .overwrite = j->o->overwrite, .resume = j->o->resume, .run = j->run, .phase = "unshard", .config = j->config, .n_config = j->n_config,
        .check = check_hashes, .extra = extra, .leave = leave, .n_leave = 1, .made = fill, .user = j,
    };
    if (j->prov) extra[w.n_extra++] = (fqi_extra_file){ FQI_PROV_FILE, j->prov, j->n_prov };
    if (j->order) extra[w.n_extra++] = (fqi_extra_file){ FQI_ORDER_FILE, j->order, j->n_order };
    FQI_TRY(fqi_write_checkpoint(&w, &result, e));
    if (!out) return FQ_OK;
    uint64_t bytes = 0;
    for (size_t i = 0; i < j->ckpt->n_tensor; i++) bytes += j->ckpt->tensor[i].bytes;
    *out = (fq_pad_report){
        .n_tensor = j->plan.n_tensor, .n_tensor_changed = j->plan.n_tensor, .n_shard = j->plan.n_shard, .bytes = bytes, .bytes_pad = j->plan.bytes_pad, .file_bytes = result.file_bytes,
        .peak_memory_bytes = result.peak_memory_bytes + fqi_boxes_bytes(&j->boxes), .resumed_bytes = result.resumed_bytes, .exact_bits = true, .seconds = fqi_now_seconds() - start,
    };
    return FQ_OK;
}

fq_status fq_unshard(const fq_unshard_options *o, const fq_run *run, fq_pad_report *report, fq_err *e)
{
    static const fq_run default_run = { 0 };
    if (!o->source || !o->target) return fqi_fail(e, FQ_E_USAGE, NULL, "paths", "found no %s", o->source ? "target" : "source");
    unshard_job j = { .o = o, .run = run ? run : &default_run };
    const fq_status s = run_job(&j, report, e);
    fqi_boxes_close(&j.boxes);
    fqi_outplan_free(&j.plan);
    fqi_rank_files_free(&j.files);
    free(j.config);
    free(j.prov);
    free(j.order);
    free(j.tensor);
    free(j.box);
    fq_ckpt_close(j.ckpt);
    return s;
}
