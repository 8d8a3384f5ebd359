/* shard.c - fq_shard: what each of several ranks holds, in files of its own.
 *
 *     open, check -> cuts of every tensor (rank_cuts.h) -> sets -> table of all ranks' tensors -> [dry run ends here]
 *       -> the writer of pad: ranks' files side by side, journal, resume -> config.json as it is, fitq-ranks.json -> one rename
 *
 * Bytes are moved and nothing is computed. Everything that can be refused is refused before the staging folder is made, but for engines' fused layers
 * whose g_idx differ, which reading finds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/outdir.h"
#include "job/shard_private.h"

/* What readers of the result should know. */
static void say_engines(const fqi_shard_job *j)
{
    if (j->run->log && j->o->names == FQ_NAMES_ENGINE && j->ckpt->info.model.quant != FQ_QUANT_NONE)
        j->run->log(j->run->user, FQ_LOG_WARN, "quantized weights under engines' names are for vllm: SGLang rearranges its parameters before it loads such files, and does not refuse those of another form");
}

static fq_status prepare(fqi_shard_job *j, fq_err *e)
{
    const fqi_layout layout = { .kind = FQ_LAYOUT_TAIL, .group = 1, .ranks = 1 };
    const fq_fit none = { 0 };
    FQI_TRY(fq_ckpt_open(j->o->source, j->run, &j->ckpt, e));
    FQI_TRY(fqi_ckpt_check_model(j->ckpt, e));
    FQI_TRY(fqi_maps_create(&j->ckpt->info.model, &none, &layout, &j->maps, e));
    FQI_TRY(fqi_parts_create(j->ckpt, &(fqi_parts_request){ .maps = &j->maps }, &j->parts, e));
    FQI_TRY(fqi_rank_cuts_make(j->ckpt, &j->parts, j->o->tp, j->o->expert_parallel, &j->cuts, e));
    FQI_TRY(fqi_shard_sets(j, e));
    FQI_TRY(fqi_shard_table(j, e));
    say_engines(j);
    if (!j->ckpt->info.fitted) return FQ_OK;
    FQI_TRY(fqi_outdir_keep(j->ckpt->dir, FQI_PROV_FILE, &j->prov, &j->n_prov, e));   /* the record of what was done before: unshard gives it back */
    return fqi_outdir_keep(j->ckpt->dir, FQI_ORDER_FILE, &j->order, &j->n_order, e);
}

static void list_tensors(const fqi_shard_job *j)
{
    for (size_t i = 0; i < j->n_item && j->o->on_tensor; i++) {
        const fqi_out_tensor *t = &j->plan.tensor[i];
        const fqi_shard_set *s = &j->set[j->item[i].set];
        const fqi_tensor *src = &j->ckpt->tensor[s->member[0]];
        fq_tensor_change x = { .name = t->name, .source_name = src->name, .dtype = (fq_dtype)t->dtype, .rank = t->rank, .bytes = src->bytes, .bytes_pad = t->bytes_pad, .shard = j->plan.shard[t->shard].name };
        memcpy(x.shape, src->shape, src->rank * sizeof x.shape[0]);
        memcpy(x.shape_pad, t->shape_pad, t->rank * sizeof x.shape_pad[0]);
        j->o->on_tensor(j->o->user, &x);
    }
}

static fq_status fill(void *user, size_t tensor, uint64_t off, uint8_t *to, size_t n, fq_err *e)
{
    return fqi_boxes_fill(&((fqi_shard_job *)user)->boxes, tensor, off, to, n, e);
}

/* The record, once the weights are there. */
static fq_status write_record(void *user, const char *dir, fq_err *e)
{
    fqi_shard_job *j = user;
    char *text = NULL, *path = NULL;
    size_t n = 0;
    fq_status s = FQ_OK;
    for (size_t i = 0; i < j->ckpt->n_tensor && s == FQ_OK; i++) s = fqi_boxes_hash(&j->boxes, i, &j->files.tensor[i].hash, e);
    if (s == FQ_OK) s = fqi_rank_files_print(&j->files, &text, &n, e);
    if (s == FQ_OK && !(path = fqi_path_join(dir, FQI_RANKS_FILE))) s = fqi_fail_nomem(e, "path");
    if (s == FQ_OK) s = fqi_write_file(path, text, n, e);
    free(text);
    free(path);
    return s;
}

static void report_ranks(const fqi_shard_job *j, fq_shard_report *r)
{
    const fqi_rank_files *f = &j->files;
    const fq_model *m = &j->ckpt->info.model;
    uint64_t bytes[64] = { 0 };
    for (size_t i = 0; i < j->n_item; i++)
        if (j->item[i].rank != FQI_SHARD_REST) bytes[j->item[i].rank] += j->plan.tensor[i].bytes_pad;
    r->least_bytes = r->most_bytes = bytes[0];
    for (int k = 1; k < f->tp; k++) {
        if (bytes[k] < r->least_bytes) r->least_bytes = bytes[k];
        if (bytes[k] > r->most_bytes) r->most_bytes = bytes[k];
    }
    for (size_t i = 0; i < f->n_tensor; i++) r->n_cut += !f->tensor[i].cut || !fqi_rank_cut_is_whole(f->tensor[i].cut, f->tp);
    r->kv_copies = m->num_key_value_heads > 0 && m->num_key_value_heads < f->tp ? f->tp / m->num_key_value_heads : 1;
    for (int k = 0; k < f->tp && m->vocab_size > 0; k++) {
        const int64_t n = fqi_slice_vocab(m->vocab_size, k, f->tp).n;
        if (k == 0 || n < r->vocab_rows_least) r->vocab_rows_least = n;
        if (n > r->vocab_rows_most) r->vocab_rows_most = n;
    }
}

static void report(const fqi_shard_job *j, const fqi_write_result *w, double seconds, fq_shard_report *out)
{
    *out = (fq_shard_report){
        .wrote = { .model = j->ckpt->info.model, .model_pad = j->ckpt->info.model, .n_tensor = j->plan.n_tensor, .n_tensor_changed = j->plan.n_tensor, .n_shard = j->plan.n_shard, .bytes = j->ckpt->info.tensor_bytes,
                   .bytes_pad = j->plan.bytes_pad, .file_bytes = w->file_bytes, .peak_memory_bytes = w->peak_memory_bytes + fqi_boxes_bytes(&j->boxes), .resumed_bytes = w->resumed_bytes, .exact_bits = true, .seconds = seconds },
        .tp = j->o->tp, .n_source_tensor = j->ckpt->n_tensor,
    };
    report_ranks(j, out);
}

static fq_status run_job(fqi_shard_job *j, fq_shard_report *out, fq_err *e)
{
    const double start = fqi_now_seconds();
    FQI_TRY(prepare(j, e));
    char tp[16];
    snprintf(tp, sizeof tp, "%d", j->o->tp);
    const fqi_journal_key key[] = { { "tp", tp }, { "experts", j->o->expert_parallel ? "whole" : "sliced" }, { "names", j->o->names == FQ_NAMES_ENGINE ? "engine" : "checkpoint" } };
    const fqi_extra_file extra[] = { { FQI_PROV_FILE, j->prov, j->n_prov }, { FQI_ORDER_FILE, j->order, j->n_order } };
    static const char *const leave[] = { FQI_RANKS_FILE };
    fqi_write_result result = { 0 };
    const fqi_write_request w = {
        .ckpt = j->ckpt, .plan = &j->plan, .target = j->o->target, .overwrite = j->o->overwrite, .resume = j->o->resume, .run = j->run, .phase = "shard",
        .config = j->ckpt->config.text, .n_config = j->ckpt->config.n_text, .key = key, .n_key = sizeof key / sizeof key[0], .extra = extra,
        .n_extra = j->prov ? j->order ? 2 : 1 : 0, .leave = leave, .n_leave = 1, .files = write_record, .made = fill, .user = j,
    };
    j->boxes = (fqi_boxes){ .ckpt = j->ckpt, .describe = fqi_shard_describe, .user = j, .io = j->run->io, .hashes = true,
                            .differs = { FQ_E_INPUT, "engine-order", "found another g_idx than that of the layer which engines fuse with this one, expected the same: engines keep one" } };
    if (j->o->dry_run) {
        FQI_TRY(fqi_write_estimate(&w, &result, e));
        list_tensors(j);
    } else {
        FQI_TRY(fqi_boxes_open(&j->boxes, e));
        FQI_TRY(fqi_write_checkpoint(&w, &result, e));
    }
    if (out) report(j, &result, fqi_now_seconds() - start, out);
    return FQ_OK;
}

fq_status fq_shard(const fq_shard_options *o, const fq_run *run, fq_shard_report *report_out, fq_err *e)
{
    static const fq_run default_run = { 0 };
    if (!o->source || (!o->target && !o->dry_run)) return fqi_fail(e, FQ_E_USAGE, NULL, "paths", "found no %s", o->source ? "target" : "source");
    if (o->tp < 1 || o->tp > 64) return fqi_fail(e, FQ_E_USAGE, NULL, "tp", "found %d ranks, expected 1 to 64", o->tp);
    if ((unsigned)o->names > FQ_NAMES_ENGINE) return fqi_fail(e, FQ_E_USAGE, NULL, "names", "found a number that is none of fq_rank_names");
    fqi_shard_job j = { .o = o, .run = run ? run : &default_run };
    const fq_status s = run_job(&j, report_out, e);
    fqi_boxes_close(&j.boxes);
    fqi_outplan_free(&j.plan);
    fqi_rank_cuts_free(&j.cuts);
    fqi_parts_free(&j.parts);
    fqi_maps_free(&j.maps);
    free(j.prov);
    free(j.order);
    free(j.set);
    free(j.item);
    fqi_arena_free(&j.arena);
    fq_ckpt_close(j.ckpt);
    return s;
}
