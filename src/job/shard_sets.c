/* shard_sets.c - names and fused tensors of the ranks' files. See shard_private.h.
 *
 * Engines that load what a rank holds (load format sharded_state) compare it with the state of the model that they have built, before kernels turn it
 * into forms of their own: names of parameters, so fused ones, and nothing else. Sources: vllm model_loader/sharded_state_loader.py (a tied head stands
 * for both, since lm_head sorts before model.embed_tokens), models/{llama,qwen2,qwen3}.py (qkv_proj, gate_up_proj), layers/vocab_parallel_embedding.py (rows
 * rounded up to 64); sglang srt/model_loader/loader.py is the same. What is known like that: dense decoders whose weights are not quantized, or GPTQ or AWQ. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/shard_private.h"

#define VOCAB_UNIT 64

static const char *file_of(const fqi_shard_job *j, const fqi_tensor *t) { return j->ckpt->shard[t->shard].path; }

/* The order in which sets are made: by dtype as the reference writer does, so that every tensor stands at a multiple of its entry, then as they lie. */
static int by_place(const void *a, const void *b, void *tensors)
{
    const fqi_tensor *t = tensors;
    const fqi_tensor *x = &t[((const fqi_shard_set *)a)->member[0]], *y = &t[((const fqi_shard_set *)b)->member[0]];
    if (x->dtype != y->dtype) return x->dtype > y->dtype ? -1 : 1;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    return x->off < y->off ? -1 : x->off > y->off;
}

/* ---- engines' names ---- */

static const struct { const char *role, *from, *to; uint8_t slot; } fused[] = {
    { "q_proj", ".q_proj.", ".qkv_proj.", 0 }, { "k_proj", ".k_proj.", ".qkv_proj.", 1 }, { "v_proj", ".v_proj.", ".qkv_proj.", 2 },
    { "q_bias", ".q_proj.", ".qkv_proj.", 0 }, { "k_bias", ".k_proj.", ".qkv_proj.", 1 }, { "v_bias", ".v_proj.", ".qkv_proj.", 2 },
    { "gate_proj", ".gate_proj.", ".gate_up_proj.", 0 }, { "up_proj", ".up_proj.", ".gate_up_proj.", 1 },
    { "gate_bias", ".gate_proj.", ".gate_up_proj.", 0 }, { "up_bias", ".up_proj.", ".gate_up_proj.", 1 },
};

static fq_status refuse(const fqi_shard_job *j, const char *found, fq_err *e)
{
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "engine-names", "found %s, expected a dense decoder that is not quantized, or gptq or awq: engines' own names are known of those; without --names engine every tensor keeps its name", found);
}

static fq_status check_engine(const fqi_shard_job *j, fq_err *e)
{
    const fq_model *m = &j->ckpt->info.model;
    const fqi_family *f = j->ckpt->config.family;
    if (m->n_moe_layer > 0 || f->expert_infix) return refuse(j, "a mixture of experts", e);
    if (m->quant != FQ_QUANT_NONE && m->quant != FQ_QUANT_GPTQ && m->quant != FQ_QUANT_AWQ) return refuse(j, m->quant_name, e);
    if (!j->ckpt->naming.usual || strcmp(j->ckpt->naming.body_prefix, "model.") != 0) return refuse(j, "names with another prefix than model.", e);
    return FQ_OK;
}

/* Dimension along which outputs go; -1: none does. */
static int output_dim(const fqi_shard_job *j, size_t tensor)
{
    const fqi_part_plan *p = fqi_parts_of(&j->parts, tensor);
    if (!p || p->module == FQI_NO_PART) return 0;
    const fqi_part_form *form = &j->parts.module[p->module].now.form->part[p->part];
    for (int d = 0; d < form->rank; d++)
        if (form->dim[d].along == FQI_ALONG_N) return d;
    return -1;
}

/* Rows that each rank has of the vocabulary. */
static fq_status vocab_rows(const fqi_shard_job *j, const fqi_tensor *t, int64_t *rows, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    const int64_t n = t->shape[0], padded = (n + VOCAB_UNIT - 1) / VOCAB_UNIT * VOCAB_UNIT;
    *rows = padded / j->o->tp;
    if (padded % j->o->tp == 0 && *rows * (j->o->tp - 1) < n) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file_of(j, t), fqi_escape(shown, t->name)), "engine-vocab", "found %" PRId64 " rows (%" PRId64 " rounded up to 64), expected a number that %d ranks share", n, padded, j->o->tp);
}

/* Where an engine has tensor i; *slot: which one it is of the fused one. */
static fq_status engine_name(fqi_shard_job *j, size_t i, fqi_shard_set *s, uint8_t *slot, fq_err *e)
{
    const fqi_tensor *t = &j->ckpt->tensor[i];
    const fqi_row *row = j->cuts.bound[i].row;
    char shown[FQI_NAME_MAX + 1];
    *slot = 0;
    s->name = t->name;
    if (!row || row->need == FQI_BESIDE_CODES) {
        const size_t n = strlen(t->name);
        const bool known = row || (n > 8 && strcmp(t->name + n - 8, "inv_freq") == 0);   /* neither is a parameter of the engines' models */
        s->rest = true;
        return known ? FQ_OK : refuse(j, fqi_escape(shown, t->name), e);
    }
    const bool embedding = strcmp(row->role, "embed_tokens") == 0, head = strcmp(row->role, "lm_head") == 0;
    if ((embedding || head) && output_dim(j, i) == 0 && t->rank == 2) FQI_TRY(vocab_rows(j, t, &s->rows_pad, e));
    if (s->rows_pad == j->cuts.of[i]->range[0].n && s->rows_pad * j->o->tp == t->shape[0]) s->rows_pad = 0;   /* nothing is rounded up */
    if (embedding && j->ckpt->info.model.tie_word_embeddings) s->name = "lm_head.weight";
    for (size_t k = 0; k < sizeof fused / sizeof fused[0]; k++) {
        const char *at = strcmp(row->role, fused[k].role) == 0 ? strstr(t->name, fused[k].from) : NULL;
        if (!at) continue;
        *slot = fused[k].slot;
        s->dim = (int8_t)output_dim(j, i);
        s->name = fqi_arena_printf(&j->arena, "%.*s%s%s", (int)(at - t->name), t->name, fused[k].to, at + strlen(fused[k].from));
    }
    return s->name ? FQ_OK : fqi_fail_nomem(e, "tensor table");
}

typedef struct named { fqi_shard_set set; uint8_t slot; } named;

static int by_name(const void *a, const void *b)
{
    const named *x = a, *y = b;
    const int c = strcmp(x->set.name, y->set.name);
    return c != 0 ? c : x->slot < y->slot ? -1 : x->slot > y->slot;
}

/* Tensors of one name become one set. */
static fq_status fuse(fqi_shard_job *j, const named *n, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    for (size_t i = 0; i < j->ckpt->n_tensor;) {
        fqi_shard_set *s = &j->set[j->n_set++];
        *s = n[i].set;
        for (size_t first = i++; i < j->ckpt->n_tensor && strcmp(n[i].set.name, s->name) == 0; i++) {
            const fqi_tensor *x = &j->ckpt->tensor[n[first].set.member[0]], *y = &j->ckpt->tensor[n[i].set.member[0]];
            if (s->n_member == FQI_SET_MAX || n[i].slot == n[i - 1].slot)
                return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file_of(j, y), fqi_escape(shown, y->name)), "duplicate-name", "found two tensors that would be written under one name, expected one");
            bool alike = x->dtype == y->dtype && x->rank == y->rank;
            for (int d = 0; d < x->rank && alike; d++) alike = d == s->dim || x->shape[d] == y->shape[d];
            if (!alike) return refuse(j, "layers of different dtypes or lengths that engines fuse", e);
            s->member[s->n_member++] = n[i].set.member[0];
        }
    }
    return FQ_OK;
}

static fq_status engine_sets(fqi_shard_job *j, fq_err *e)
{
    named *n = fqi_calloc(j->ckpt->n_tensor + 1, sizeof *n);
    fq_status s = n ? check_engine(j, e) : fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < j->ckpt->n_tensor && s == FQ_OK; i++) {
        n[i].set = (fqi_shard_set){ .member = { (uint32_t)i }, .n_member = 1 };
        s = engine_name(j, i, &n[i].set, &n[i].slot, e);
    }
    if (s == FQ_OK) {
        qsort(n, j->ckpt->n_tensor, sizeof *n, by_name);
        s = fuse(j, n, e);
    }
    free(n);
    return s;
}

fq_status fqi_shard_sets(fqi_shard_job *j, fq_err *e)
{
    const size_t n = j->ckpt->n_tensor;
    j->set = fqi_calloc(n + 1, sizeof *j->set);
    if (!j->set || n > UINT32_MAX) return fqi_fail_nomem(e, "tensor table");
    if (j->o->names == FQ_NAMES_ENGINE) {
        FQI_TRY(engine_sets(j, e));
    } else {
        for (size_t i = 0; i < n; i++) j->set[j->n_set++] = (fqi_shard_set){ .name = j->ckpt->tensor[i].name, .member = { (uint32_t)i }, .n_member = 1 };
    }
    qsort_r(j->set, j->n_set, sizeof *j->set, by_place, j->ckpt->tensor);
    return FQ_OK;
}
