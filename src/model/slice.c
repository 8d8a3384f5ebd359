/* slice.c - ranges of axes for one rank (see slice.h). */
#include "model/slice.h"

#include <inttypes.h>
#include <string.h>

#define VOCAB_UNIT 64   /* vllm, layers/vocab_parallel_embedding.py: DEFAULT_VOCAB_PADDING_SIZE */

/* Part `rank` of n, which `size` divides. */
static fqi_range equal(int64_t n, int rank, int size) { return (fqi_range){ n / size * rank, n / size }; }

/* As equal as can be: the first ranks have one more. */
static fqi_range nearly(int64_t n, int rank, int size)
{
    const int64_t each = n / size, more = n % size;
    return (fqi_range){ each * rank + (rank < more ? rank : more), each + (rank < more) };
}

fqi_range fqi_slice_vocab(int64_t n, int rank, int size)
{
    const int64_t padded = (n + VOCAB_UNIT - 1) / VOCAB_UNIT * VOCAB_UNIT;
    if (padded % size != 0 || padded / size * (size - 1) >= n) return nearly(n, rank, size);   /* or the last rank had none */
    const int64_t each = padded / size, first = each * rank;
    return (fqi_range){ first, n - first < each ? n - first : each };
}

static fq_status refuse(const char *path, const char *what, int64_t n, int size, fq_err *e)
{
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "ranks", "found %s %" PRId64 ", expected one that %d ranks can share; `fitq plan` says which numbers of ranks fit, and what makes it fit", what, n, size);
}

static fq_status check(const fq_model *m, int size, bool expert_parallel, const char *path, fq_err *e)
{
    const int64_t kv = m->num_key_value_heads;
    const struct { const char *what; int64_t n; } width[] = {
        { "num_attention_heads", m->num_attention_heads }, { "intermediate_size", m->n_dense_layer > 0 ? m->intermediate_size : 0 },
        { "moe_intermediate_size", m->n_moe_layer > 0 && !expert_parallel ? m->moe_intermediate_size : 0 },
        { "shared_expert_intermediate_size", m->n_moe_layer > 0 ? m->shared_expert_intermediate_size : 0 },
    };
    for (size_t i = 0; i < sizeof width / sizeof width[0]; i++)
        if (width[i].n % size != 0) return refuse(path, width[i].what, width[i].n, size, e);
    if (kv % size != 0 && size % kv != 0) return refuse(path, "num_key_value_heads", kv, size, e);
    if (expert_parallel && m->n_moe_layer > 0 && m->num_experts < size) return refuse(path, "num_experts", m->num_experts, size, e);
    return m->vocab_size >= size ? FQ_OK : refuse(path, "vocab_size", m->vocab_size, size, e);
}

/* In heads. */
static fqi_range kv_heads(int64_t kv, int rank, int size)
{
    return kv >= size ? equal(kv, rank, size) : (fqi_range){ rank / (size / kv), 1 };
}

fq_status fqi_slice_make(const fqi_decoder *d, int rank, int size, bool expert_parallel, const char *path, fqi_slice *out, fq_err *e)
{
    const fq_model *m = &d->model;
    fqi_slice s = { .rank = rank, .size = size, .local = *d };
    fq_model *left = &s.local.model;
    FQI_TRY(check(m, size, expert_parallel, path, e));
    for (int a = 0; a < FQI_N_AXIS; a++) s.axis[a] = (fqi_range){ 0, fqi_axis_length(m, (fqi_axis)a) };
    const fqi_range q = equal(m->num_attention_heads, rank, size), kv = kv_heads(m->num_key_value_heads, rank, size);
    s.axis[FQI_AX_Q] = (fqi_range){ q.first * m->head_dim, q.n * m->head_dim };
    s.axis[FQI_AX_KV] = (fqi_range){ kv.first * m->head_dim, kv.n * m->head_dim };
    if (m->n_dense_layer > 0) s.axis[FQI_AX_FF] = equal(m->intermediate_size, rank, size);
    s.axis[FQI_AX_SHARED_FF] = equal(m->shared_expert_intermediate_size, rank, size);
    if (!expert_parallel) s.axis[FQI_AX_MOE_FF] = equal(m->moe_intermediate_size, rank, size);
    s.expert = expert_parallel ? nearly(m->num_experts, rank, size) : (fqi_range){ 0, m->num_experts };
    s.axis[FQI_AX_VOCAB] = fqi_slice_vocab(m->vocab_size, rank, size);
    left->num_attention_heads = q.n;
    left->num_key_value_heads = kv.n;
    left->intermediate_size = s.axis[FQI_AX_FF].n;
    left->moe_intermediate_size = s.axis[FQI_AX_MOE_FF].n;
    left->shared_expert_intermediate_size = s.axis[FQI_AX_SHARED_FF].n;
    *out = s;
    return FQ_OK;
}

bool fqi_slice_has(const fqi_slice *slice, const fqi_row *row, int64_t expert)
{
    if (!slice) return true;
    if (slice->rank > 0 && (strcmp(row->role, "o_bias") == 0 || strcmp(row->role, "down_bias") == 0)) return false;   /* added once */
    return expert < 0 || (expert >= slice->expert.first && expert < slice->expert.first + slice->expert.n);
}

/* ---- cuts ---------------------------------------------------------------------------------------------------------- */

void fqi_cut_make(const fqi_slice *slice, const fqi_row *row, const int64_t *shape, fqi_cut *out)
{
    *out = (fqi_cut){ .rank = row->rank };
    for (int d = 0; d < row->rank && d < 3; d++) {
        const uint8_t axis = row->dim[d].axis, parts = row->dim[d].parts > 1 ? row->dim[d].parts : 1;
        out->whole[d] = shape[d];
        out->parts[d] = parts;
        out->dim[d] = (fqi_range){ 0, shape[d] / parts };
        if (!slice || axis == FQI_AX_FIXED || axis == FQI_AX_ONE) continue;
        if (axis != FQI_AX_EXPERT) out->dim[d] = slice->axis[axis];
        else if (row->rank == 3) out->dim[d] = slice->expert;   /* fused experts; the router is whole */
    }
}

bool fqi_cut_inner(const fqi_cut *c)
{
    for (int d = 1; d < c->rank; d++)
        if (fqi_cut_length(c, d) != c->whole[d]) return true;
    return false;
}

uint64_t fqi_cut_origin(const fqi_cut *c, uint64_t at)
{
    uint64_t place[3] = { 0 }, out = 0;
    for (int d = c->rank - 1; d >= 0; d--) {
        const uint64_t n = (uint64_t)fqi_cut_length(c, d);
        place[d] = n ? at % n : 0;
        at = n ? at / n : 0;
    }
    for (int d = 0; d < c->rank; d++) {
        const uint64_t each = (uint64_t)c->dim[d].n, part = each ? place[d] / each : 0;
        out = out * (uint64_t)c->whole[d] + part * ((uint64_t)c->whole[d] / c->parts[d]) + (uint64_t)c->dim[d].first + (each ? place[d] % each : 0);
    }
    return out;
}
