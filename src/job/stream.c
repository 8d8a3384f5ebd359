/* stream.c - the writing loop of pad and unpad. See stream.h. */
#include "job/stream.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/pipeline.h"

#define MAX_CHUNK (4u << 20)
#define MIN_CHUNK (64u << 10)
#define N_SLOT 6
#define DEFAULT_MEMORY ((uint64_t)128 << 20)
#define WRITER_BYTES ((uint64_t)2 * FQI_WRITE_BLOCK) /* one filling, one on its way to the disk */
#define TABLE_BYTES ((uint64_t)256 << 10)   /* pieces that a chunk of a column map needs */
#define PROGRAM_BYTES ((uint64_t)4 << 20)   /* code, libraries, stacks */
/* Work that a power cut may cost. An fsync after direct writes is cheap, so the figure only has to be small beside a model. */
#define RECORD_BYTES ((uint64_t)512 << 20)

/* A shard that is being written. */
typedef struct lane { fqi_writer w; bool open; size_t n_done; } lane;

struct fqi_stream {
    fqi_stream_request request;
    const fqi_stream_request *r;     /* the same */
    fqi_slot slot[N_SLOT];
    /* reader's */
    size_t next;                 /* tensor to begin next */
    size_t upto;                 /* and where to stop */
    bool in_tensor;
    uint64_t made_off;           /* of a made tensor: bytes that were filled */
    fqi_gather gather;
    fqi_file file;
    uint32_t file_shard;         /* index of the open source shard; UINT32_MAX = none */
    /* writer's */
    lane *lane;                  /* of each shard */
    size_t tensor;               /* tensor being written */
    uint64_t unrecorded;         /* bytes since the last record */
    XXH3_state_t *source, *out;
    uint64_t source_pos;         /* bytes of the source tensor hashed so far */
    bool source_in_order;
    uint64_t done_bytes;
    fqi_slot scratch;            /* for hashing a tensor that was not read front to back */
};

typedef struct fqi_stream stream;

/* ---- sizes ---- */

static uint64_t writer_bytes(const fqi_outplan *p) { return WRITER_BYTES * (p->n_open > 1 ? p->n_open : 1); }

static size_t chunk_of(const fq_run *run, const fqi_outplan *p)
{
    uint64_t memory = run->memory_bytes != 0 ? run->memory_bytes : DEFAULT_MEMORY + writer_bytes(p) - WRITER_BYTES;
    size_t chunk = MAX_CHUNK;
    while (chunk >= MIN_CHUNK && fqi_slot_memory(chunk) * (N_SLOT + 1) + writer_bytes(p) > memory) chunk /= 2;
    return chunk;
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

fq_status fqi_stream_memory(const fq_run *run, const fqi_outplan *plan, uint64_t *bytes, fq_err *e)
{
    char found[FQI_BUDGET_MAX + 1];
    size_t chunk = chunk_of(run, plan);
    uint64_t enough = fqi_slot_memory(MIN_CHUNK) * (N_SLOT + 1) + writer_bytes(plan);
    if (chunk < MIN_CHUNK)
        return fqi_fail(e, FQ_E_NOMEM, NULL, "memory-budget", "found %s, expected at least %llu MiB for buffers", fqi_show_budget(found, run->memory_bytes),
                        (unsigned long long)((enough + 0xfffff) >> 20));
    uint64_t in = 0, out = 0, pieces = 0;
    for (size_t i = 0; i < plan->n_tensor; i++) {
        const fqi_out_tensor *t = &plan->tensor[i];
        if (t->src && t->src->bytes > in) in = t->src->bytes;
        if (t->changed && t->bytes_pad > out) out = t->bytes_pad;
        pieces = t->changed ? TABLE_BYTES : pieces;
    }
    *bytes = N_SLOT * (least(in, chunk) + least(out, chunk) + pieces) + least(plan->bytes_pad, writer_bytes(plan)) + PROGRAM_BYTES;
    return FQ_OK;
}

/* ---- reading (reader thread) ---- */

static fq_status open_source(stream *st, uint32_t shard, fq_err *e)
{
    if (st->file_shard == shard) return FQ_OK;
    fqi_file_close(&st->file);
    st->file_shard = UINT32_MAX;
    FQI_TRY(fqi_ckpt_open_shard(st->r->ckpt, shard, st->r->run->io, &st->file, e));
    st->file_shard = shard;
    return FQ_OK;
}

static bool is_made(const fqi_out_tensor *t) { return t->made || t->computed; }

/* The next piece of tensor st->next, from whoever makes it. */
static fq_status fill_made(stream *st, fqi_slot *slot, fq_err *e)
{
    const fqi_out_tensor *t = &st->r->plan->tensor[st->next];
    const uint64_t left = t->bytes_pad - st->made_off;
    const size_t n = left < slot->chunk ? (size_t)left : slot->chunk;
    FQI_TRY(st->r->made(st->r->user, st->next, st->made_off, slot->out, n, e));
    st->made_off += n;
    slot->n_piece = slot->n_extent = 0;   /* nothing to put together: the bytes are where they belong */
    slot->single = false;
    slot->swap = 0;
    slot->bytes = n;
    slot->last = st->made_off == t->bytes_pad;
    return FQ_OK;
}

static fq_status produce(void *user, void *slot_, bool *done, fq_err *e)
{
    stream *st = user;
    fqi_slot *slot = slot_;
    const fqi_outplan *p = st->r->plan;
    if (!st->in_tensor) {
        if (st->next == st->upto) { *done = true; return FQ_OK; }
        const fqi_out_tensor *t = &p->tensor[st->next];
        st->made_off = 0;
        if (t->src) FQI_TRY(open_source(st, t->src->shard, e));
        if (!is_made(t)) {
            FQI_TRY(fqi_gather_begin(&st->gather, &st->file, t->src, t->map, t->bytes_pad, e));
            memcpy(st->gather.fill, t->fill, sizeof t->fill);
        }
        st->in_tensor = true;
    }
    FQI_TRY(is_made(&p->tensor[st->next]) ? fill_made(st, slot, e) : fqi_gather_fill(&st->gather, slot, e));
    slot->item = st->next;
    if (slot->last) { st->in_tensor = false; st->next++; }
    return FQ_OK;
}

static fq_status work(void *user, void *slot, fq_err *e)
{
    (void)user;
    (void)e;
    fqi_slot_assemble(slot);
    return FQ_OK;
}

/* ---- hashing ---- */

static fqi_hash128 digest(const XXH3_state_t *s)
{
    XXH128_hash_t h = XXH3_128bits_digest(s);
    return (fqi_hash128){ .hi = h.high64, .lo = h.low64 };
}

fq_status fqi_hash_tensor(const fqi_file *file, const fqi_tensor *t, fqi_slot *slot, fqi_hash128 *out, fq_err *e)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state) return fqi_fail_nomem(e, "hash state");
    XXH3_128bits_reset(state);
    fqi_gather g;
    fq_status s = fqi_gather_begin(&g, file, t, NULL, t->bytes, e);
    do {
        if (s == FQ_OK) s = fqi_gather_fill(&g, slot, e);
        if (s != FQ_OK) break;
        fqi_slot_assemble(slot);
        XXH3_128bits_update(state, slot->data, slot->bytes);
    } while (!slot->last);
    if (s == FQ_OK) *out = digest(state);
    XXH3_freeState(state);
    return s;
}

/* The reader's extents cover the source front to back for every map that keeps order, so its hash costs no second read; what
 * does not (a transposed tensor, swapped bytes) is read again at the end. */
static void hash_source(stream *st, const fqi_slot *slot, const fqi_tensor *src)
{
    if (src->stride || src->byteswap) st->source_in_order = false;
    for (size_t i = 0; i < slot->n_extent && st->source_in_order; i++) {
        const fqi_extent *x = &slot->extent[i];
        if (x->src > st->source_pos) { st->source_in_order = false; break; }
        uint64_t skip = st->source_pos - x->src;
        if (skip >= x->bytes) continue;
        XXH3_128bits_update(st->source, x->data + skip, (size_t)(x->bytes - skip));
        st->source_pos = x->src + x->bytes;
    }
}

static fq_status finish_hashes(stream *st, size_t k, fq_err *e)
{
    const fqi_out_tensor *t = &st->r->plan->tensor[k];
    st->r->out_hash[k] = digest(st->out);
    if (!t->src) { st->r->source_hash[k] = (fqi_hash128){ 0, 0 }; return FQ_OK; }
    if (!t->changed) { st->r->source_hash[k] = st->r->out_hash[k]; return FQ_OK; }   /* the same bytes */
    if (t->computed && st->r->made_from && st->r->made_from(st->r->user, k, &st->r->source_hash[k])) return FQ_OK;
    if (st->source_in_order && st->source_pos == t->src->bytes) {
        st->r->source_hash[k] = digest(st->source);
        return FQ_OK;
    }
    fqi_file f;
    FQI_TRY(fqi_ckpt_open_shard(st->r->ckpt, t->src->shard, st->r->run->io, &f, e));
    fq_status s = fqi_hash_tensor(&f, t->src, &st->scratch, &st->r->source_hash[k], e);
    fqi_file_close(&f);
    return s;
}

/* ---- writing (calling thread) ---- */

static char *shard_path(const stream *st, size_t shard) { return fqi_path_join(st->r->dir, st->r->plan->shard[shard].name); }

/* Opens a shard so that the tensor behind those that it has comes next. */
static fq_status open_shard(stream *st, size_t shard, fq_err *e)
{
    const fqi_out_shard *s = &st->r->plan->shard[shard];
    lane *l = &st->lane[shard];
    fqi_str header = { 0 };
    char *path = shard_path(st, shard);
    fq_status status = path ? fqi_outplan_header(st->r->plan, shard, &header, e) : fqi_fail_nomem(e, "path");
    uint64_t at = 0;
    if (l->n_done > 0) {
        at = header.len;
        for (size_t i = 0; i < l->n_done; i++) at += st->r->plan->tensor[fqi_outplan_at(s, i)].bytes_pad;
    }
    if (status == FQ_OK && at == 0) status = fqi_remove_tree(path, e);
    if (status == FQ_OK) status = fqi_writer_open(&l->w, path, header.len + s->data_bytes, at, st->r->run->io, e);
    if (status == FQ_OK) {
        l->open = true;
        if (at == 0) status = fqi_writer_put(&l->w, header.s, header.len, e);
    }
    fqi_str_free(&header);
    free(path);
    return status;
}

/* All tensors before `upto` are written: they are made durable, then recorded. */
static fq_status record(stream *st, size_t upto, fq_err *e)
{
    for (size_t i = 0; i < st->r->plan->n_shard; i++)
        if (st->lane[i].open) FQI_TRY(fqi_writer_sync(&st->lane[i].w, e));
    st->unrecorded = 0;
    return fqi_journal_record(st->r->journal, upto, st->r->source_hash, st->r->out_hash, e);
}

static fq_status close_shard(stream *st, lane *l, size_t next_tensor, fq_err *e)
{
    l->open = false;
    FQI_TRY(fqi_writer_close(&l->w, e));
    return record(st, next_tensor, e);
}

static fq_status begin_tensor(stream *st, size_t k, fq_err *e)
{
    size_t shard = st->r->plan->tensor[k].shard;
    if (!st->lane[shard].open) FQI_TRY(open_shard(st, shard, e));
    st->tensor = k;
    st->source_pos = 0;
    st->source_in_order = true;
    XXH3_128bits_reset(st->source);
    XXH3_128bits_reset(st->out);
    return FQ_OK;
}

static fq_status end_tensor(stream *st, size_t k, fq_err *e)
{
    const fqi_outplan *p = st->r->plan;
    const size_t shard = p->tensor[k].shard;
    FQI_TRY(finish_hashes(st, k, e));
    if (++st->lane[shard].n_done == p->shard[shard].n) return close_shard(st, &st->lane[shard], k + 1, e);
    return st->unrecorded < RECORD_BYTES ? FQ_OK : record(st, k + 1, e);
}

static void report(const stream *st, size_t k)
{
    const fq_run *run = st->r->run;
    if (!run->progress) return;
    char shown[FQI_NAME_MAX + 1];
    fq_progress p = {
        .phase = st->r->phase, .item = fqi_escape(shown, st->r->plan->tensor[k].name),
        .done_bytes = st->done_bytes, .total_bytes = st->r->plan->bytes_pad,
        .done_items = k, .total_items = st->r->plan->n_tensor,
    };
    run->progress(run->user, &p);
}

/* Everything up to the tensor in hand is made durable, so that a resumed run loses at most that one. */
static fq_status save_and_stop(stream *st, fq_err *e)
{
    FQI_TRY(record(st, st->tensor, e));
    return fqi_fail(e, FQ_E_CANCELLED, FQI_FILE(st->r->dir), "interrupted", "found a request to stop after %zu of %zu tensors; --resume goes on from here", st->tensor, st->r->plan->n_tensor);
}

static fq_status consume(void *user, void *slot_, fq_err *e)
{
    stream *st = user;
    fqi_slot *slot = slot_;
    size_t k = slot->item;
    const fqi_out_tensor *t = &st->r->plan->tensor[k];
    const fq_run *run = st->r->run;
    if (st->tensor != k) FQI_TRY(begin_tensor(st, k, e));
    if (run->cancelled && run->cancelled(run->user)) return save_and_stop(st, e);
    if (t->src && t->changed) hash_source(st, slot, t->src);
    XXH3_128bits_update(st->out, slot->data, slot->bytes);
    FQI_TRY(fqi_writer_put(&st->lane[t->shard].w, slot->data, slot->bytes, e));
    st->done_bytes += slot->bytes;
    st->unrecorded += slot->bytes;
    report(st, k);
    return slot->last ? end_tensor(st, k, e) : FQ_OK;
}

/* ---- resuming ---- */

/* Does the shard file hold its header, and tensor after tensor what the journal says? Returns how many of `n` tensors are
 * good. The data is read back: a record says what was on the disk then, not what a power cut or a copy left of it. */
static fq_status check_shard(stream *st, size_t shard, size_t n, size_t *good, fq_err *e)
{
    const fqi_out_shard *s = &st->r->plan->shard[shard];
    fqi_str header = { 0 };
    fqi_file f = FQI_FILE_NONE;
    char *path = shard_path(st, shard), *found = NULL;
    *good = 0;
    fq_status status = path ? fqi_outplan_header(st->r->plan, shard, &header, e) : fqi_fail_nomem(e, "path");
    if (status == FQ_OK && !(found = malloc(header.len))) status = fqi_fail_nomem(e, "shard header");
    if (status != FQ_OK || !fqi_path_exists(path)) goto out;
    status = fqi_file_open(&f, path, st->r->run->io, e);
    if (status != FQ_OK || f.bytes < header.len) goto out;
    status = fqi_file_read(&f, found, header.len, 0, e);
    if (status != FQ_OK || memcmp(found, header.s, header.len) != 0) goto out;
    for (uint64_t at = header.len; *good < n && status == FQ_OK; ++*good) {
        size_t k = fqi_outplan_at(s, *good);
        const fqi_out_tensor *t = &st->r->plan->tensor[k];
        int64_t bytes = (int64_t)t->bytes_pad;
        fqi_tensor raw = { .name = t->name, .shape = &bytes, .off = at, .bytes = t->bytes_pad, .dtype = FQ_DTYPE_U8, .rank = 1 };
        fqi_hash128 h = { 0 };
        if (at + t->bytes_pad > f.bytes) break;
        status = fqi_hash_tensor(&f, &raw, &st->scratch, &h, e);
        if (status == FQ_OK && (h.hi != st->r->out_hash[k].hi || h.lo != st->r->out_hash[k].lo)) break;
        at += t->bytes_pad;
    }
out:
    fqi_file_close(&f);
    fqi_str_free(&header);
    free(found);
    free(path);
    return status;
}

/* How many of the first n tensors of the table each shard has. */
static void count_done(stream *st, size_t n)
{
    for (size_t s = 0; s < st->r->plan->n_shard; s++) st->lane[s].n_done = 0;
    for (size_t k = 0; k < n; k++) st->lane[st->r->plan->tensor[k].shard].n_done++;
}

static fq_status resume(stream *st, uint64_t *resumed_bytes, fq_err *e)
{
    const fqi_outplan *p = st->r->plan;
    const size_t claimed = st->r->journal->n_done;
    size_t done = claimed, good;
    count_done(st, claimed);
    for (size_t s = 0; s < p->n_shard && done > 0; s++) {
        const size_t n = st->lane[s].n_done;
        if (n == 0 || fqi_outplan_at(&p->shard[s], 0) >= done) continue;
        FQI_TRY(check_shard(st, s, n, &good, e));
        if (good < n && fqi_outplan_at(&p->shard[s], good) < done) done = fqi_outplan_at(&p->shard[s], good);
    }
    if (done < claimed) {
        if (st->r->run->log) st->r->run->log(st->r->run->user, FQ_LOG_WARN, "part of the unfinished output does not match its journal and is written again");
        FQI_TRY(fqi_journal_rewind(st->r->journal, st->r->journal_path, st->r->key, st->r->n_key, done, st->r->source_hash, st->r->out_hash, e));
    }
    count_done(st, done);
    *resumed_bytes = 0;
    for (size_t k = 0; k < done; k++) *resumed_bytes += p->tensor[k].bytes_pad;
    st->next = done;
    st->done_bytes = *resumed_bytes;
    return FQ_OK;
}

/* ---- the whole ---- */

static fq_status init(stream *st, const fqi_stream_request *r, fq_err *e)
{
    size_t chunk = chunk_of(r->run, r->plan);
    *st = (stream){ .request = *r, .file = FQI_FILE_NONE, .file_shard = UINT32_MAX, .tensor = SIZE_MAX };
    st->r = &st->request;
    for (size_t i = 0; i < N_SLOT; i++) FQI_TRY(fqi_slot_init(&st->slot[i], chunk, e));
    FQI_TRY(fqi_slot_init(&st->scratch, chunk, e));
    st->lane = fqi_calloc(r->plan->n_shard + 1, sizeof *st->lane);
    if (!st->lane) return fqi_fail_nomem(e, "I/O buffers");
    st->source = XXH3_createState();
    st->out = XXH3_createState();
    return st->source && st->out ? FQ_OK : fqi_fail_nomem(e, "hash state");
}

void fqi_stream_close(fqi_stream *st)
{
    if (!st) return;
    for (size_t i = 0; i < N_SLOT; i++) fqi_slot_free(&st->slot[i]);
    fqi_slot_free(&st->scratch);
    XXH3_freeState(st->source);
    XXH3_freeState(st->out);
    fqi_file_close(&st->file);
    for (size_t i = 0; st->lane && i < st->r->plan->n_shard; i++)
        if (st->lane[i].open) fqi_writer_abandon(&st->lane[i].w);
    free(st->lane);
    free(st);
}

fq_status fqi_stream_open(const fqi_stream_request *r, uint64_t *resumed_bytes, fqi_stream **out, fq_err *e)
{
    stream *st = fqi_calloc(1, sizeof *st);
    if (!st) return fqi_fail_nomem(e, "I/O buffers");
    fq_status s = init(st, r, e);
    if (s == FQ_OK) s = resume(st, resumed_bytes, e);
    if (s != FQ_OK) fqi_stream_close(st);
    else *out = st;
    return s;
}

size_t fqi_stream_next(const fqi_stream *st) { return st->next; }

fq_status fqi_stream_write(fqi_stream *st, size_t upto, fq_err *e)
{
    void *slot[N_SLOT];
    if (upto <= st->next) return FQ_OK;
    for (size_t i = 0; i < N_SLOT; i++) slot[i] = &st->slot[i];
    int n_worker = fqi_n_thread(st->r->run->n_thread);
    const fqi_pipeline p = {
        .user = st, .slot = slot, .n_slot = N_SLOT, .n_worker = n_worker < N_SLOT ? n_worker : N_SLOT,
        .produce = produce, .work = work, .consume = consume,
    };
    st->upto = upto;
    FQI_TRY(fqi_pipeline_run(&p, e));
    if (st->r->journal->n_done == upto) return FQ_OK;   /* the end of a shard is on record already */
    return record(st, upto, e);
}

fq_status fqi_stream_run(const fqi_stream_request *r, uint64_t *resumed_bytes, fq_err *e)
{
    stream *st = NULL;
    FQI_TRY(fqi_stream_open(r, resumed_bytes, &st, e));
    fq_status s = fqi_stream_write(st, r->plan->n_tensor, e);
    fqi_stream_close(st);
    return s;
}
