/* quant_memory.c - how a quantizing run fits into memory, before anything is allocated.
 *
 *     the process as it is + BLAS, tables
 *     n_slot layers of weights as stored
 *     hidden states of all tokens (or a scratch file), attention rows
 *     what a layer takes (fqi_quant_layer_bytes)
 *     codes of the layer before, and its largest packed tensor, at the writer; the writer's buffers
 *
 * Of several ranks each holds that, of the hidden states its share, and what a sum over ranks is made in; ranks that are threads of one process
 * are counted together, and processes on one machine leave each other their part of it.
 *
 * More memory makes nothing but hidden states and a second layer of weights stay: the bits do not depend on it. */
#include <inttypes.h>

#include "base/checked.h"
#include "base/fs_memory.h"
#include "job/quantize_private.h"

#define MIB (UINT64_C(1) << 20)
#define CODE_BYTES (6 * MIB)        /* pages of code and stacks that are touched only when the work begins */

static uint64_t codes_bytes(const fqi_quantize *q)
{
    uint64_t most = 0;
    for (int64_t layer = 0; layer <= q->decoder.model.num_hidden_layers; layer++) {
        uint64_t sum = 0;
        const size_t end = layer < q->decoder.model.num_hidden_layers ? q->modules.first_of_layer[layer + 1] : q->modules.n;
        for (size_t i = q->modules.first_of_layer[layer]; i < end; i++) {
            const fqi_module *m = &q->modules.at[i];
            const int64_t g = q->settings.group_size > 0 ? q->settings.group_size : m->cols_pad;
            sum = fqi_sat_add(sum, fqi_codes_bytes((size_t)m->rows, (size_t)m->cols, (size_t)((m->cols_pad + g - 1) / g)));
        }
        most = sum > most ? sum : most;
    }
    return most;
}

static uint64_t widest_matrix(const fqi_quantize *q)
{
    uint64_t most = 0;
    for (size_t i = 0; i < q->modules.n; i++) {
        const uint64_t n = (uint64_t)q->modules.at[i].cols;
        most = n > most ? n : most;
    }
    return most;
}

/* The output head is solved alone, when the layers are done. */
static uint64_t head_bytes(const fqi_quantize *q)
{
    const fq_model *m = &q->decoder.model;
    if (!q->o->lm_head) return 0;
    const size_t rows = (size_t)m->vocab_size, cols = (size_t)m->hidden_size;
    uint64_t sum = fqi_sat_mul(fqi_sat_mul(rows, cols), sizeof(float) + 2);   /* as fp32, and as stored */
    sum = fqi_sat_add(sum, fqi_gptq_bytes(rows, cols, q->n_thread));
    return fqi_sat_add(sum, fqi_sat_mul(2, fqi_hessian_bytes(cols)));
}

typedef struct sizes { uint64_t process, fixed, slot, acts, disk, stream; } sizes;   /* process: whatever its ranks; the others of each rank */

static fq_status measure(const fqi_quantize *q, sizes *z, fq_err *e)
{
    const fq_model *m = &q->decoder.model;
    const bool gptq = q->settings.method == FQ_METHOD_GPTQ;
    fqi_weights_size w;
    FQI_TRY(fqi_weights_measure(q->fitting.ckpt, &q->decoder, NULL, FQ_DTYPE_F32, &w, e));
    FQI_TRY(fqi_stream_memory(q->run, &q->table, &z->stream, e));
    const uint64_t rows = fqi_quant_share_of(q->comm, q->calib.n_window, q->calib.seqlen).n_row, per_row = (uint64_t)m->hidden_size * (q->settings.shift > 0 ? 2 : 1) + (uint64_t)(m->num_attention_heads * m->head_dim);
    z->slot = w.slot_bytes;
    z->acts = gptq ? fqi_sat_mul(rows, per_row * sizeof(float)) : 0;
    z->process = fqi_sat_add(fqi_memory_now().resident + CODE_BYTES, z->stream);
    z->fixed = fqi_sat_add(w.fixed_bytes, fqi_comm_sum_bytes(q->comm, fqi_sat_mul(widest_matrix(q), widest_matrix(q)), sizeof(float)));
    const uint64_t layer = fqi_quant_layer_bytes(m, &q->settings, q->calib.n_window, q->calib.seqlen, q->n_thread), head = head_bytes(q);
    z->fixed = fqi_sat_add(z->fixed, layer > head ? layer : head);
    z->disk = gptq ? fqi_quant_disk_bytes(m, &q->settings, q->calib.n_window, q->calib.seqlen) : 0;
    if (gptq) z->fixed = fqi_sat_add(z->fixed, fqi_compute_bytes(q->n_thread, (int64_t)widest_matrix(q)));
    z->fixed = fqi_sat_add(z->fixed, fqi_sat_add(codes_bytes(q), fqi_quant_made_bytes_max(q)));
    return FQ_OK;
}

fq_status fqi_quant_plan_make(const fqi_quantize *q, fqi_quant_plan *out, fq_err *e)
{
    sizes z;
    FQI_TRY(measure(q, &z, e));
    const uint64_t n_here = (uint64_t)fqi_comm_n_here(q->comm), n_process = (uint64_t)fqi_comm_n_local(q->comm) / n_here;
    const uint64_t asked = q->run->memory_bytes, available = fqi_memory_available();
    const uint64_t limit = asked != 0 ? asked : available == UINT64_MAX ? UINT64_MAX : fqi_sat_add(fqi_memory_now().resident, available / n_process / 4 * 3);
    for (int tight = 0; tight < 3; tight++) {   /* hidden states go to the disk before the read-ahead of weights is given up */
        const bool in_memory = tight == 0;
        const size_t n_slot = tight < 2 && q->decoder.model.num_hidden_layers > 1 ? 2 : 1;
        const uint64_t rank = fqi_sat_add(fqi_sat_add(z.fixed, n_slot * z.slot), in_memory ? z.acts : z.disk), bytes = fqi_sat_add(z.process, fqi_sat_mul(n_here, rank));
        *out = (fqi_quant_plan){ .memory_bytes = bytes, .scratch_bytes = in_memory ? 0 : fqi_sat_mul(n_here, z.acts), .n_slot = n_slot, .acts_in_memory = in_memory };
        if (bytes <= limit) return FQ_OK;
    }
    return fqi_fail(e, FQ_E_NOMEM, NULL, "memory-budget", "found %" PRIu64 " MiB, expected at least %" PRIu64 " MiB to quantize this model", limit / MIB, out->memory_bytes / MIB + 1);
}
