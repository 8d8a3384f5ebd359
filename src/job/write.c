/* write.c - from an output table to a committed folder. See write.h.
 *
 * Order matters: shards first, then what describes them (index, config.json, fitq.json), then the rename. A folder that has the
 * target's name is finished. */
#include "job/write.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "job/outdir.h"

#define DEFAULT_SHARD_BYTES ((uint64_t)5000000000)
#define INDEX_NAME "model.safetensors.index.json"

uint64_t fqi_shard_bytes(uint64_t asked) { return asked != 0 ? asked : DEFAULT_SHARD_BYTES; }

/* ---- what decides the output ---- */

enum { KEY_VERSION, KEY_SOURCE, KEY_CONFIG, KEY_PLAN, N_KEY };

typedef struct keys { fqi_journal_key key[N_KEY + FQI_WRITE_MAX_KEY]; char text[N_KEY][32]; size_t n; } keys;

/* Source files are named by content of their headers and by size and time, not by path: a moved model may be resumed. */
static uint64_t source_hash(const fq_ckpt *c)
{
    XXH3_state_t st;
    XXH3_64bits_reset(&st);
    for (size_t i = 0; i < c->n_shard; i++) {
        const fqi_shard *s = &c->shard[i];
        uint64_t v[3] = { s->bytes, (uint64_t)s->mtime_ns, s->header_hash };
        XXH3_64bits_update(&st, s->name, strlen(s->name) + 1);
        XXH3_64bits_update(&st, v, sizeof v);
    }
    return XXH3_64bits_digest(&st);
}

static void make_keys(const fqi_write_request *r, keys *k)
{
    static const char *const name[N_KEY] = { "version", "source", "config", "plan" };
    snprintf(k->text[KEY_VERSION], sizeof k->text[0], "%s", FQ_VERSION);
    snprintf(k->text[KEY_SOURCE], sizeof k->text[0], "%016" PRIx64, source_hash(r->ckpt));
    snprintf(k->text[KEY_CONFIG], sizeof k->text[0], "%016" PRIx64, (uint64_t)XXH3_64bits(r->config, r->n_config));
    snprintf(k->text[KEY_PLAN], sizeof k->text[0], "%016" PRIx64, fqi_outplan_hash(r->plan));
    /* The request's own keys first: a difference in them shows in config.json and in the plan too, and says more than their hashes. */
    k->n = 0;
    for (int i = 0; i < KEY_CONFIG; i++) k->key[k->n++] = (fqi_journal_key){ .name = name[i], .value = k->text[i] };
    for (size_t i = 0; i < r->n_key; i++) k->key[k->n++] = r->key[i];
    for (int i = KEY_CONFIG; i < N_KEY; i++) k->key[k->n++] = (fqi_journal_key){ .name = name[i], .value = k->text[i] };
}

/* ---- sizes ---- */

/* The writer's share of the memory: less what putting channels in order takes. */
static fq_run stream_run(const fqi_write_request *r)
{
    fq_run run = *r->run;
    if (run.memory_bytes) run.memory_bytes -= fqi_parts_memory(r->parts, r->run);   /* a quarter at most */
    return run;
}

fq_status fqi_write_estimate(const fqi_write_request *r, fqi_write_result *out, fq_err *e)
{
    const fq_run run = stream_run(r);
    FQI_TRY(fqi_stream_memory(&run, r->plan, &out->peak_memory_bytes, e));
    out->peak_memory_bytes += fqi_parts_memory(r->parts, r->run);
    out->peak_memory_bytes += r->plan->n_tensor * (sizeof(fqi_out_tensor) + sizeof(fqi_tensor) + sizeof(fqi_bound) + 2 * sizeof(fqi_hash128) + 128);
    out->file_bytes = 0;
    for (size_t i = 0; i < r->plan->n_shard; i++) {
        fqi_str header = { 0 };
        fq_status s = fqi_outplan_header(r->plan, i, &header, e);
        out->file_bytes += header.len + r->plan->shard[i].data_bytes;
        fqi_str_free(&header);
        if (s != FQ_OK) return s;
    }
    return FQ_OK;
}

static fq_status check_space(const fqi_outdir *o, uint64_t need, fq_err *e)
{
    uint64_t free_bytes = fqi_free_bytes(o->staging);
    if (need <= free_bytes) return FQ_OK;
    return fqi_fail(e, FQ_E_IO, FQI_FILE(o->target), "disk-space", "found %" PRIu64 " bytes free, expected %" PRIu64 " more for the weights", free_bytes, need);
}

/* ---- the steps ---- */

typedef struct hashes { fqi_hash128 *source, *out; } hashes;

/* A tensor that follows from the new lengths. */
static fq_status compute_part(void *user, size_t tensor, uint64_t off, uint8_t *to, size_t n, fq_err *e)
{
    const fqi_write_request *r = user;
    return fqi_parts_make(r->parts, r->run, (size_t)(r->plan->tensor[tensor].src - r->ckpt->tensor), off, to, n, e);
}

static bool source_of_part(void *user, size_t tensor, fqi_hash128 *hash)
{
    const fqi_write_request *r = user;
    return fqi_parts_source_hash(r->parts, (size_t)(r->plan->tensor[tensor].src - r->ckpt->tensor), hash);
}

static fq_status write_shards(const fqi_write_request *r, const fqi_outdir *o, const hashes *h, fqi_write_result *out, fq_err *e)
{
    keys k;
    const fq_run run = stream_run(r);
    make_keys(r, &k);
    fqi_journal journal = { 0 };
    FQI_TRY(fqi_journal_open(&journal, o->journal, k.key, k.n, r->resume, h->source, h->out, r->plan->n_tensor, e));
    fqi_stream_request s = {
        .plan = r->plan, .ckpt = r->ckpt, .dir = o->staging, .run = &run, .phase = r->phase,
        .journal = &journal, .journal_path = o->journal, .key = k.key, .n_key = k.n,
        .source_hash = h->source, .out_hash = h->out,
    };
    if (r->made) {
        s.made = r->made;
        s.user = r->user;
    } else if (r->parts) {
        s.made = compute_part;
        s.made_from = source_of_part;
        s.user = (void *)(uintptr_t)r;   /* const for us too */
    }
    fq_status status = journal.n_done > 0 ? FQ_OK : check_space(o, out->file_bytes, e);
    if (status == FQ_OK) status = r->shards ? r->shards(r->user, &s, &out->resumed_bytes, e) : fqi_stream_run(&s, &out->resumed_bytes, e);
    fqi_journal_close(&journal);
    return status;
}

static fq_status write_texts(const fqi_write_request *r, const fqi_outdir *o, const hashes *h, fq_err *e)
{
    fqi_str index = { 0 };
    fq_status s = fqi_outplan_index(r->plan, &index, e);
    if (s == FQ_OK && index.len > 0) s = fqi_outdir_write(o, INDEX_NAME, index.s, index.len, e);
    fqi_str_free(&index);
    if (s == FQ_OK && r->config) s = fqi_outdir_write(o, "config.json", r->config, r->n_config, e);
    for (size_t i = 0; i < r->n_extra && s == FQ_OK; i++) s = fqi_outdir_write(o, r->extra[i].name, r->extra[i].text, r->extra[i].n, e);
    if (s == FQ_OK && r->files) s = r->files(r->user, o->staging, e);
    if (s != FQ_OK || !r->provenance) return s;
    char *text;
    size_t n;
    FQI_TRY(r->provenance(r->user, h->source, &text, &n, e));
    s = fqi_outdir_write(o, FQI_PROV_FILE, text, n, e);
    free(text);
    return s;
}

static fq_status write_all(const fqi_write_request *r, fqi_outdir *o, const hashes *h, fqi_write_result *out, fq_err *e)
{
    FQI_TRY(fqi_outdir_begin(o, r->resume, r->run, e));
    FQI_TRY(write_shards(r, o, h, out, e));
    if (r->check) FQI_TRY(r->check(r->user, h->out, e));
    FQI_TRY(fqi_outdir_copy_rest(o, r->ckpt, r->run, e));
    FQI_TRY(write_texts(r, o, h, e));
    return fqi_outdir_commit(o, e);
}

fq_status fqi_write_checkpoint(const fqi_write_request *r, fqi_write_result *out, fq_err *e)
{
    fqi_outdir o = { 0 };
    hashes h = {
        .source = fqi_calloc(r->plan->n_tensor + 1, sizeof *h.source),
        .out = fqi_calloc(r->plan->n_tensor + 1, sizeof *h.out),
    };
    fq_status s = h.source && h.out ? fqi_write_estimate(r, out, e) : fqi_fail_nomem(e, "hash table");
    if (s == FQ_OK) s = fqi_outdir_open(&o, r->ckpt->dir, r->target, r->overwrite, e);
    o.leave = r->leave;
    o.n_leave = r->n_leave;
    if (s == FQ_OK) s = write_all(r, &o, &h, out, e);
    fqi_outdir_close(&o, s);
    free(h.source);
    free(h.out);
    return s;
}
