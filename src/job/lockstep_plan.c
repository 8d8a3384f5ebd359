/* lockstep_plan.c - how a lockstep run fits into memory: every way that fits is priced in seconds, the cheapest is taken.
 *
 *     always       the process as it is, tables, one compute per order of summation, rotary tables, n_slot layers per model,
 *                  hidden states of all tokens (or a scratch file)
 *     the layers   work of a batch, its caches, and buffers if hidden states are on disk
 *     the head     a panel of head rows per model, logits and hidden states of a block of positions
 *
 * The second and third are never there at the same time. A larger budget allows all that a smaller one does, so it is never slower by this
 * reckoning. The rates are round numbers of ordinary machines: they weigh reading against computing, and promise nothing. */
#include "job/lockstep_private.h"
#include "job/rank_run.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/fs_memory.h"
#include "base/pipeline.h"

#define MIB ((uint64_t)1 << 20)
#define READ_RATE 2e9           /* bytes/s of weights */
#define SCRATCH_RATE 1e9        /* bytes/s of hidden states that go to disk and come back */
#define FLOP_RATE 3e10          /* of one thread */
#define HALF_EFFICIENT 64.0     /* tokens at which a matrix product reaches half its rate: the panel must be widened first */
#define BATCH_TOKENS 2048       /* more do not make a layer faster */
#define BLOCK_TOKENS_MIN 32
#define HEAD_ROWS_MIN 256
#define LOGIT_ROWS_MIN 16
#define LOGIT_ROWS 256          /* more do not make the head faster, when all of it is held... */
#define LOGIT_BYTES (16 * MIB)  /* ...but cost nothing worth speaking of up to here, of one stream */
#define CODE_BYTES (5 * MIB / 2) /* pages of code and stacks that are touched only when the work begins (measured) */
#define N_BATCH_MAX 256

/* ---- lengths that the run uses too ---- */

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t fqi_lockstep_max_cols(const fqi_lockstep *l)
{
    int64_t n = 1;
    for (size_t i = 0; i < l->n_model; i++) {
        const fq_model *m = &fqi_lockstep_local(l, i)->model;
        n = larger(n, larger(m->hidden_size, m->num_attention_heads * m->head_dim));
        n = larger(n, larger(m->intermediate_size, larger(m->moe_intermediate_size, m->shared_expert_intermediate_size)));
    }
    return n;
}

int64_t fqi_lockstep_capacity(const fqi_lockstep *l) { return ((int64_t)l->n_context + FQI_TILE - 1) / FQI_TILE * FQI_TILE; }

size_t fqi_lockstep_kv_floats(const fqi_lockstep *l)
{
    size_t most = 0;
    for (size_t i = 0; i < l->n_model; i++) {
        size_t n = fqi_kv_floats(fqi_lockstep_local(l, i), fqi_lockstep_capacity(l));
        if (n > most) most = n;
    }
    return (most + FQI_LANES - 1) / FQI_LANES * FQI_LANES;   /* the next window's cache begins aligned as well */
}

size_t fqi_lockstep_max_hidden(const fqi_lockstep *l)
{
    int64_t n = 0;
    for (size_t i = 0; i < l->n_model; i++) n = larger(n, l->decoder[i]->model.hidden_size);
    return (size_t)n;
}

bool fqi_lockstep_comparable(const fqi_lockstep *l, size_t pair)
{
    const fq_model *a = &l->decoder[l->stream[l->pair[pair].a].model]->model, *b = &l->decoder[l->stream[l->pair[pair].b].model]->model;
    return a->hidden_size == b->hidden_size && a->num_hidden_layers == b->num_hidden_layers;
}

void fqi_lockstep_layer_bytes(const fq_ckpt *c, uint64_t *bytes, size_t n_layer)
{
    memset(bytes, 0, n_layer * sizeof *bytes);
    for (size_t i = 0; i < c->n_tensor; i++) {
        const fqi_bound *b = &c->bound[i];
        if (b->canonical && b->row && b->layer >= 0 && (size_t)b->layer < n_layer) bytes[b->layer] = fqi_sat_add(bytes[b->layer], c->tensor[i].bytes);
    }
}

/* ---- what everything takes ---- */

typedef struct batch { size_t window, block; } batch;   /* windows at once, tokens of each at once */

typedef struct sizes {
    const fqi_lockstep *l;
    uint64_t limit;
    uint64_t always;                       /* whatever is chosen */
    uint64_t act_bytes, hidden_row_bytes;  /* of all streams; of one token */
    uint64_t slot[FQI_MAX_MODEL], head_row[FQI_MAX_MODEL];
    uint64_t layer_bytes, head_bytes;      /* stored: of all layers of all models, of all heads */
    double layer_flops, head_flops;        /* of the whole run */
    uint64_t logit_row_bytes;              /* of one position, all streams */
    uint64_t logit_row_less;               /* ranks behind rank 0 have so much less of it: only their part of a row */
    uint64_t always_less;                  /* and of `always` */
    int64_t vocab_max;
    size_t n_scored, n_row;
    int n_thread;
    batch batch[N_BATCH_MAX]; uint64_t batch_bytes[N_BATCH_MAX]; size_t n_batch;   /* growing */
} sizes;

/* From the least to what more would not make faster. */
static void list_batches(sizes *z)
{
    const fqi_lockstep *l = z->l;
    for (size_t n = BLOCK_TOKENS_MIN; n < l->n_context && n <= BATCH_TOKENS; n *= 2) z->batch[z->n_batch++] = (batch){ 1, n };
    for (size_t w = 1; w <= l->n_window && (w == 1 || w * l->n_context <= BATCH_TOKENS); w += 1 + w / 8) {
        if (z->n_batch > 0 && l->n_context > BATCH_TOKENS) break;
        if (z->n_batch < N_BATCH_MAX) z->batch[z->n_batch++] = (batch){ w, l->n_context };
    }
}

/* Tokens of the comparison of hidden states, and of the buffers when these are on disk. */
static size_t batch_tokens(const batch *b) { return b->window * b->block; }

static uint64_t layers_bytes(const sizes *z, const batch *b)
{
    const fqi_lockstep *l = z->l;
    uint64_t sum = fqi_sat_mul(fqi_sat_mul(fqi_lockstep_kv_floats(l), sizeof(float)), b->window);
    for (size_t i = 0; i < l->n_model; i++) sum = fqi_sat_add(sum, fqi_layer_work_bytes(fqi_lockstep_local(l, i), z->n_thread, batch_tokens(b), (int64_t)l->n_context));
    sum = fqi_sat_add(sum, fqi_comm_sum_bytes(l->comm, fqi_sat_mul(batch_tokens(b), fqi_lockstep_max_hidden(l)), sizeof(float)));
    return fqi_sat_add(sum, fqi_sat_mul(batch_tokens(b), sizeof(fqi_row_diff)));
}

static uint64_t disk_buffers(const sizes *z, const batch *b) { return fqi_sat_mul(fqi_sat_mul(batch_tokens(b), z->hidden_row_bytes), z->l->n_pair ? 2 : 1); }

static uint64_t rope_bytes(const fqi_lockstep *l, size_t i)
{
    return fqi_sat_mul(fqi_sat_mul(l->n_context, (uint64_t)l->decoder[i]->rope.dim), sizeof(float));   /* a cosine and a sine for each half */
}

/* Elements of the largest matrix that one product takes whole. */
static uint64_t largest_matrix(const fqi_lockstep *l)
{
    uint64_t most = 0;
    for (size_t i = 0; i < l->n_model; i++) {
        const fq_model *m = &fqi_lockstep_local(l, i)->model;
        int64_t rows = larger(m->num_attention_heads * m->head_dim, larger(m->intermediate_size, larger(m->moe_intermediate_size, m->shared_expert_intermediate_size)));
        uint64_t n = fqi_sat_mul((uint64_t)m->hidden_size, (uint64_t)larger(rows, m->vocab_size < 512 ? m->vocab_size : 512));
        most = n > most ? n : most;
    }
    return most;
}

/* Of the panels and of what the BLAS packs no more is touched than matrices are large; in fixed order only one packed tile of rows. */
static uint64_t compute_bytes(const sizes *z)
{
    const fqi_lockstep *l = z->l;
    uint64_t whole = fqi_compute_bytes(z->n_thread, fqi_lockstep_max_cols(l)), sum = 0, threads = (uint64_t)z->n_thread;
    bool used[2] = { false, false };
    for (size_t s = 0; s < l->n_stream; s++) used[l->stream[s].order == FQI_ORDER_FIXED] = true;
    uint64_t fast = fqi_sat_mul(fqi_sat_mul(largest_matrix(l), 2 * sizeof(float)), threads);
    uint64_t fixed = fqi_sat_mul(fqi_sat_mul((uint64_t)fqi_lockstep_max_cols(l) + 512, FQI_TILE * sizeof(float)), threads);
    if (used[0]) sum = fqi_sat_add(sum, fast < whole ? fast : whole);
    if (used[1]) sum = fqi_sat_add(sum, fixed < whole ? fixed : whole);
    return sum;
}

static fq_status measure_model(sizes *z, size_t i, fq_err *e)
{
    const fqi_lockstep *l = z->l;
    const fq_model *m = &l->decoder[i]->model;
    const int64_t vocab = fqi_lockstep_vocab(l, i);
    const uint64_t shared = l->slice[i] ? (uint64_t)fqi_comm_size(l->comm) / (uint64_t)fqi_comm_n_here(l->comm) : 1;   /* processes that read it together */
    fqi_weights_size w;
    FQI_TRY(fqi_weights_measure(l->ckpt[i], l->decoder[i], l->slice[i], l->served, &w, e));
    size_t n_stream = 0;
    for (size_t s = 0; s < l->n_stream; s++) n_stream += l->stream[s].model == i;
    z->slot[i] = w.slot_bytes;
    z->head_row[i] = w.head_row_bytes;
    z->always = fqi_sat_add(z->always, fqi_sat_add(w.fixed_bytes, rope_bytes(l, i)));
    z->act_bytes = fqi_sat_add(z->act_bytes, fqi_sat_mul(fqi_sat_mul(z->n_row, (uint64_t)m->hidden_size * sizeof(float)), n_stream));
    z->logit_row_bytes = fqi_sat_add(z->logit_row_bytes, fqi_sat_mul((uint64_t)(m->vocab_size + m->hidden_size) * sizeof(float), n_stream));
    z->vocab_max = larger(z->vocab_max, vocab);
    if (l->slice[i]) {
        const uint64_t collect = fqi_sat_mul(fqi_rank_logit_floats(l->comm, z->n_scored < LOGIT_ROWS ? z->n_scored : LOGIT_ROWS, m->vocab_size), sizeof(float));
        z->always = fqi_sat_add(z->always, collect);
        z->always_less = fqi_sat_add(z->always_less, collect);
        z->logit_row_less = fqi_sat_add(z->logit_row_less, fqi_sat_mul((uint64_t)(m->vocab_size - vocab) * sizeof(float), n_stream));
    }
    for (size_t t = 0; t < l->ckpt[i]->n_tensor; t++) {
        const fqi_bound *b = &l->ckpt[i]->bound[t];
        if (b->canonical && b->row && b->layer >= 0) z->layer_bytes = fqi_sat_add(z->layer_bytes, l->ckpt[i]->tensor[t].bytes / shared);
    }
    uint64_t head = fqi_sat_mul(w.head_row_bytes, (uint64_t)vocab);
    z->head_bytes = fqi_sat_add(z->head_bytes, head);
    /* two operations for each weight of two bytes */
    z->layer_flops += (double)w.slot_bytes * (double)m->num_hidden_layers * (double)z->n_row * (double)n_stream;
    z->head_flops += (double)head * (double)z->n_scored * (double)n_stream;
    return FQ_OK;
}

static fq_status measure(sizes *z, fq_err *e)
{
    const fqi_lockstep *l = z->l;
    z->n_row = l->n_window * l->n_context;
    z->n_scored = l->n_window * fqi_lockstep_scored(l);
    z->n_thread = fqi_n_thread(l->run->n_thread);
    z->hidden_row_bytes = (uint64_t)fqi_lockstep_max_hidden(l) * sizeof(float);
    for (size_t i = 0; i < l->n_model; i++) FQI_TRY(measure_model(z, i, e));
    z->always = fqi_sat_add(z->always, fqi_sat_add(compute_bytes(z), l->extra_bytes));
    z->always = fqi_sat_add(z->always, CODE_BYTES);
    list_batches(z);
    for (size_t b = 0; b < z->n_batch; b++) z->batch_bytes[b] = layers_bytes(z, &z->batch[b]);
    return FQ_OK;
}

/* ---- ways to do it ---- */

typedef struct way {
    size_t n_slot, batch;
    bool acts_in_memory, whole_head;
    int64_t head_rows;          /* of each model, if it has as many */
    size_t logit_rows;
    uint64_t bytes;             /* the larger of these two */
    uint64_t layer_bytes, head_bytes;
    double seconds;
} way;

static uint64_t common_bytes(const sizes *z, size_t n_slot, bool acts_in_memory)
{
    uint64_t sum = fqi_sat_add(z->always, acts_in_memory ? z->act_bytes : 0);
    for (size_t i = 0; i < z->l->n_model; i++) {
        size_t n_layer = (size_t)z->l->decoder[i]->model.num_hidden_layers;
        sum = fqi_sat_add(sum, fqi_sat_mul(z->slot[i], n_slot < n_layer ? n_slot : n_layer));
    }
    return sum;
}

static uint64_t head_panel_bytes(const sizes *z, int64_t rows)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < z->l->n_model; i++) {
        int64_t n = fqi_lockstep_vocab(z->l, i);
        sum = fqi_sat_add(sum, fqi_sat_mul(z->head_row[i], (uint64_t)(rows < n ? rows : n)));
    }
    return sum;
}

static uint64_t logit_bytes(const sizes *z, const way *w, size_t rows)
{
    return fqi_sat_add(fqi_sat_mul(rows, z->logit_row_bytes), w->acts_in_memory ? 0 : fqi_sat_mul(rows, z->hidden_row_bytes));
}

/* False: the layers do not fit beside `common`. */
static bool choose_batch(const sizes *z, way *w, uint64_t common)
{
    bool fits = false;
    for (size_t b = 0; b < z->n_batch; b++) {
        uint64_t bytes = fqi_sat_add(common, fqi_sat_add(z->batch_bytes[b], w->acts_in_memory ? 0 : disk_buffers(z, &z->batch[b])));
        if (bytes > z->limit) break;
        w->batch = b;
        w->bytes = w->layer_bytes = bytes;
        fits = true;
    }
    return fits;
}

static size_t least_rows(const sizes *z) { return z->n_scored < LOGIT_ROWS_MIN ? z->n_scored : LOGIT_ROWS_MIN; }

/* The whole head is read once, and a block needs only as many positions as make the product efficient; a panel is read again for every
 * block, so blocks should be few. False: it does not fit beside `common`. */
static bool choose_head(const sizes *z, way *w, uint64_t common)
{
    int64_t least = z->vocab_max < HEAD_ROWS_MIN ? z->vocab_max : HEAD_ROWS_MIN;
    w->head_rows = w->whole_head ? z->vocab_max : least;
    uint64_t fixed = fqi_sat_add(common, head_panel_bytes(z, w->head_rows)), one = logit_bytes(z, w, 1);
    if (fqi_sat_add(fixed, logit_bytes(z, w, least_rows(z))) > z->limit) return false;
    uint64_t most = (z->limit - fixed) / one;
    uint64_t enough = LOGIT_BYTES / ((uint64_t)z->vocab_max * sizeof(float));
    if (enough < LOGIT_ROWS) enough = LOGIT_ROWS;
    if (w->whole_head && most > enough) most = enough;
    w->logit_rows = most < z->n_scored ? (size_t)most : z->n_scored;
    uint64_t bytes = fqi_sat_add(fixed, logit_bytes(z, w, w->logit_rows));
    if (!w->whole_head && z->limit != UINT64_MAX) {
        /* what is left over makes panels longer */
        uint64_t row = head_panel_bytes(z, 1), more = (z->limit - bytes) / (row ? row : 1);
        w->head_rows = more < (uint64_t)(z->vocab_max - least) ? least + (int64_t)more : z->vocab_max;
        bytes = fqi_sat_add(bytes, head_panel_bytes(z, w->head_rows) - head_panel_bytes(z, least));
    }
    w->head_bytes = bytes;
    if (bytes > w->bytes) w->bytes = bytes;
    return true;
}

static void price(const sizes *z, way *w)
{
    double flops = FLOP_RATE * z->n_thread, tokens = (double)batch_tokens(&z->batch[w->batch]), rows = (double)w->logit_rows, even = fmin(rows, LOGIT_ROWS);
    double read = (double)z->layer_bytes / READ_RATE, compute = z->layer_flops / flops * (1 + HALF_EFFICIENT / tokens);
    double blocks = w->whole_head ? 1 : ceil((double)z->n_scored / rows);
    double head = blocks * (double)z->head_bytes / READ_RATE + z->head_flops / flops * (1 + HALF_EFFICIENT / even);
    double disk = 0, layers = 0;
    for (size_t i = 0; i < z->l->n_model; i++) layers = fmax(layers, (double)z->l->decoder[i]->model.num_hidden_layers);
    if (!w->acts_in_memory) disk = (double)z->act_bytes * layers * (z->l->n_pair ? 3 : 2) / SCRATCH_RATE;
    w->seconds = (w->n_slot > 1 ? fmax(read, compute) : read + compute) + head + disk;
}

static bool find_best(const sizes *z, way *best)
{
    bool found = false;
    for (unsigned i = 0; i < 8; i++) {
        way w = { .n_slot = i & 1 ? 1 : 2, .acts_in_memory = !(i & 2), .whole_head = !(i & 4) };
        uint64_t common = common_bytes(z, w.n_slot, w.acts_in_memory);
        if (!choose_batch(z, &w, common) || !choose_head(z, &w, common)) continue;
        price(z, &w);
        if (found && (w.seconds > best->seconds || (!(w.seconds < best->seconds) && w.bytes >= best->bytes))) continue;
        *best = w;
        found = true;
    }
    return found;
}

/* Bytes of the way that needs least. */
static uint64_t least_bytes(const sizes *z)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
        way w = { .acts_in_memory = i == 1 };
        uint64_t common = common_bytes(z, 1, w.acts_in_memory), head = head_panel_bytes(z, HEAD_ROWS_MIN);
        uint64_t layers = fqi_sat_add(z->batch_bytes[0], w.acts_in_memory ? 0 : disk_buffers(z, &z->batch[0]));
        uint64_t last = fqi_sat_add(head, logit_bytes(z, &w, least_rows(z)));
        uint64_t bytes = fqi_sat_add(common, layers > last ? layers : last);
        if (bytes < least) least = bytes;
    }
    return least;
}

/* ---- the plan ---- */

/* Of one rank: ranks of this process share what it is now, and divide what is left of the limit. The rank that has least decides for all. */
static fq_status set_limit(sizes *z, const fqi_memory *now, fq_err *e)
{
    const fqi_comm *c = z->l->comm;
    const uint64_t free_bytes = fqi_memory_available(), here = (uint64_t)fqi_comm_n_here(c), processes = (uint64_t)fqi_comm_n_local(c) / here;
    uint64_t all[FQI_MAX_RANK];
    size_t bytes[FQI_MAX_RANK];
    if (z->l->run->memory_bytes) z->limit = z->l->run->memory_bytes;
    else z->limit = free_bytes == UINT64_MAX ? UINT64_MAX : fqi_sat_add(now->resident, free_bytes / 4 * 3 / (processes ? processes : 1));
    if (!c) return FQ_OK;
    if (z->limit > now->resident && z->limit != UINT64_MAX) z->limit = now->resident + (z->limit - now->resident) / here;
    for (int r = 0; r < fqi_comm_size(c); r++) bytes[r] = sizeof z->limit;
    FQI_TRY(fqi_comm_gather(z->l->comm, &z->limit, bytes, all, e));
    for (int r = 0; r < fqi_comm_size(c); r++) z->limit = all[r] < z->limit ? all[r] : z->limit;
    return FQ_OK;
}

/* Of the process, from what one of its ranks takes. */
static uint64_t of_process(const sizes *z, const fqi_memory *now, uint64_t rank_bytes)
{
    if (rank_bytes <= now->resident) return rank_bytes;
    return fqi_sat_add(now->resident, fqi_sat_mul(rank_bytes - now->resident, (uint64_t)fqi_comm_n_here(z->l->comm)));
}

static uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

/* Rank 0, and those behind it. A model that only rank 0 has is not subtracted: there the estimate is too large. */
static uint64_t of_all_ranks(const sizes *z, const way *w, const fqi_memory *now)
{
    const uint64_t here = (uint64_t)fqi_comm_n_here(z->l->comm), head = minus(w->head_bytes, fqi_sat_mul(w->logit_rows, z->logit_row_less));
    const uint64_t other = minus(w->layer_bytes > head ? w->layer_bytes : head, z->always_less);
    return fqi_sat_add(w->bytes, fqi_sat_mul(minus(other, now->resident), here - 1));
}

static void fill(const sizes *z, const way *w, const fqi_memory *now, fqi_lockstep_plan *out)
{
    const fqi_lockstep *l = z->l;
    double blocks = w->whole_head ? 1 : ceil((double)z->n_scored / (double)w->logit_rows);
    fqi_lockstep_plan p = { .batch_window = z->batch[w->batch].window, .block_tokens = z->batch[w->batch].block, .acts_in_memory = w->acts_in_memory,
                            .scratch_bytes = w->acts_in_memory ? 0 : z->act_bytes, .logit_rows = w->logit_rows, .n_thread = z->n_thread };
    const uint64_t all_ranks = of_all_ranks(z, w, now);
    p.memory_bytes = all_ranks > now->peak ? all_ranks : now->peak;
    p.weight_bytes = fqi_sat_add(z->layer_bytes, fqi_sat_mul(z->head_bytes, (uint64_t)blocks));
    for (size_t i = 0; i < l->n_model; i++) {
        const fq_model *m = &l->decoder[i]->model;
        p.n_slot[i] = w->n_slot < (size_t)m->num_hidden_layers ? w->n_slot : (size_t)m->num_hidden_layers;
        const int64_t vocab = fqi_lockstep_vocab(l, i);
        p.head_rows[i] = w->head_rows < vocab ? w->head_rows : vocab;
        p.head_bytes[i] = fqi_sat_mul(z->head_row[i], (uint64_t)vocab);
        p.weight_bytes = fqi_sat_add(p.weight_bytes, fqi_sat_mul(z->n_row, (uint64_t)m->hidden_size * 2));   /* rows of the embedding, near enough */
    }
    *out = p;
}

static fq_status make(const fqi_lockstep *l, fqi_lockstep_plan *out, fq_err *e)
{
    sizes z = { .l = l };
    way best = { 0 };
    fqi_memory_trim();
    fqi_memory now = fqi_memory_now();
    z.always = now.resident;
    FQI_TRY(set_limit(&z, &now, e));
    if (fqi_comm_rank(l->comm) > 0) return FQ_OK;
    FQI_TRY(measure(&z, e));
    uint64_t least = least_bytes(&z);
    if (now.peak > least) least = now.peak;
    if (least > z.limit || !find_best(&z, &best)) {
        /* The process is not of the same size each time it runs: the number must still do when it is asked for. */
        uint64_t least_mib = of_process(&z, &now, least) / MIB + 2;
        char found[FQI_BUDGET_MAX + 1];
        return fqi_fail(e, FQ_E_NOMEM, NULL, "memory-budget", "found %s%s, expected at least %llu MiB", fqi_show_budget(found, of_process(&z, &now, z.limit)),
                        l->run->memory_bytes ? "" : " (three quarters of what is free)", (unsigned long long)least_mib);
    }
    fill(&z, &best, &now, out);
    return FQ_OK;
}

fq_status fqi_lockstep_plan_make(const fqi_lockstep *l, fqi_lockstep_plan *out, fq_err *e)
{
    const fqi_kernels *kernel;
    FQI_TRY(fqi_kernels_choose(&kernel, e));
    FQI_TRY(make(l, out, e));
    if (l->comm) FQI_TRY(fqi_comm_broadcast(l->comm, 0, out, sizeof *out, e));
    out->n_thread = fqi_n_thread(l->run->n_thread);
    out->kernel = kernel->name;
    return FQ_OK;
}

void fqi_lockstep_run_plan(const fqi_lockstep *l, const fqi_lockstep_plan *p, fq_run_plan *out)
{
    *out = (fq_run_plan){ .memory_bytes = p->memory_bytes, .weight_bytes = p->weight_bytes, .scratch_bytes = p->scratch_bytes, .n_window = l->n_window,
                          .n_token = l->n_window * l->n_context, .n_scored = l->n_window * fqi_lockstep_scored(l), .context = (int64_t)l->n_context,
                          .n_thread = p->n_thread, .kernel = p->kernel };
}
