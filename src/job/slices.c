/* slices.c - fq_verify_slices: would each GPU's slice of a checkpoint compute the same model?
 *
 *     plan (engine rules) ── refuses? ──> named by its rule, and nothing more is asked
 *                         ── silent rules of kernels ──> named
 *     every quantized Linear: what the engine's loader takes for each slice (plan/loads.h), against the whole (job/slice_values.h)
 *     query heads: do they read the KV heads that they were trained with?
 *
 *     every weight that is cut: each slice read alone, times a vector, against the whole (job/slice_products.h)
 *
 * A difference is measured once for each rule and kind of layer; of the others only is said how many have it. No model is run. Engines cut dense weights,
 * FP8 and what is not quantized by the same ranges, and refuse blocks that would be cut: of these the products alone are looked at. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "job/provenance.h"
#include "job/slice_products.h"
#include "job/slice_values.h"
#include "plan/linears.h"

#define MAX_FAULT 64

/* A quantized Linear. */
typedef struct linear {
    fqi_bound bound;
    fqi_quant_module q;
    size_t tensor;             /* of its codes */
    unsigned bit;              /* FQI_L_... */
} linear;

typedef struct fault { fq_slice_fault f; char text[1024], tensor[FQI_NAME_MAX + 1]; const fqi_load *load; unsigned bit; } fault;

typedef struct slices {
    const fq_slices_options *o;
    const fq_run *run;
    fq_ckpt *ckpt;
    fqi_quant_scheme scheme;
    unsigned order;            /* FQI_ORDER_... */
    linear *linear; size_t n_linear;
    fqi_slice_reader reader;
    fq_plan *plan;
    fq_slices_report report;
    fault fault[MAX_FAULT]; size_t n_fault;   /* of one case */
    fq_err differs, refused;   /* the first of each */
} slices;

/* ---- layers ---- */

static const struct { const char *role; unsigned bit; } roles[] = {
    { "q_proj", FQI_L_Q }, { "k_proj", FQI_L_KV }, { "v_proj", FQI_L_KV }, { "o_proj", FQI_L_O },
    { "gate_proj", FQI_L_GATE_UP }, { "up_proj", FQI_L_GATE_UP }, { "down_proj", FQI_L_DOWN },
    { "shared_gate_proj", FQI_L_SHARED_GATE_UP }, { "shared_up_proj", FQI_L_SHARED_GATE_UP }, { "shared_down_proj", FQI_L_SHARED_DOWN },
    { "expert_gate_proj", FQI_L_EXPERT_GATE_UP }, { "expert_up_proj", FQI_L_EXPERT_GATE_UP }, { "expert_down_proj", FQI_L_EXPERT_DOWN },
};

static unsigned bit_of(const fqi_row *row)
{
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(roles[i].role, row->role) == 0) return roles[i].bit;
    return 0;
}

static bool is_row_parallel(unsigned bit) { return (bit & (FQI_L_O | FQI_L_ALL_DOWN)) != 0; }

/* q, k and v are loaded into one layer, so are gate and up. */
static unsigned fused_bit(unsigned bit) { return bit == FQI_L_KV ? FQI_L_Q : bit; }

static int by_fusion(const void *a, const void *b)
{
    const linear *x = a, *y = b;
    if (x->bound.layer != y->bound.layer) return x->bound.layer < y->bound.layer ? -1 : 1;
    if (x->bound.expert != y->bound.expert) return x->bound.expert < y->bound.expert ? -1 : 1;
    if (fused_bit(x->bit) != fused_bit(y->bit)) return fused_bit(x->bit) < fused_bit(y->bit) ? -1 : 1;
    return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

static fq_status collect(slices *v, fq_err *e)
{
    const fq_ckpt *c = v->ckpt;
    v->linear = fqi_calloc(c->n_tensor + 1, sizeof *v->linear);
    if (!v->linear) return fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < c->n_tensor; i++) {
        linear l = { .tensor = i };
        int64_t length[2];
        if (!fqi_quant_row(c, i, &l.bound, length)) {
            v->report.n_dense += c->bound && c->bound[i].row && c->bound[i].row->rank > 1;
            continue;
        }
        l.bit = bit_of(l.bound.row);
        if (l.bit == 0 || l.bound.row->rank != 2) continue;   /* an output head: loaded by other rules */
        FQI_TRY(fqi_quant_module_find(c, &v->scheme, i, length[0], length[1], &l.q, e));
        if (l.q.form->floats) v->report.n_dense++;
        else v->linear[v->n_linear++] = l;
    }
    qsort(v->linear, v->n_linear, sizeof *v->linear, by_fusion);
    v->report.n_module = v->n_linear;
    return FQ_OK;
}

/* g_idx of the layer that is loaded last of those which engines fuse with linear i: files one after another, tensors in the order of their
 * data, which is how safetensors are read. */
static const fqi_tensor *last_order(const slices *v, size_t i)
{
    const linear *l = &v->linear[i];
    const fqi_tensor *last = l->q.part[FQI_PART_ORDER];
    for (int way = -1; way <= 1; way += 2)
        for (size_t k = i; k < v->n_linear; k += (size_t)way) {   /* past 0 it wraps to SIZE_MAX, which ends the loop */
            const linear *o = &v->linear[k];
            const fqi_tensor *t = o->q.part[FQI_PART_ORDER];
            if (o->bound.layer != l->bound.layer || o->bound.expert != l->bound.expert || fused_bit(o->bit) != fused_bit(l->bit)) break;
            if (t && (!last || t->shard > last->shard || (t->shard == last->shard && t->off > last->off))) last = t;
        }
    return last;
}

/* ---- config.json ---- */

/* compressed-tensors alone has an order that is not stored. */
static unsigned order_of(const fq_ckpt *c)
{
    if (c->info.model.quant_desc_act) return FQI_ORDER_STORED;
    const json_t *groups = json_object_get(fqi_config_quant(&c->config), "config_groups"), *group;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)groups, key, group) {
        const char *kind = json_string_value(json_object_get(json_object_get(group, "weights"), "actorder"));
        if (kind && (strcmp(kind, "static") == 0 || strcmp(kind, "weight") == 0)) return FQI_ORDER_STATIC;
    }
    return FQI_ORDER_NONE;
}

/* ---- names ---- */

/* The first stored weight of one of these layers; NULL: none is found. */
static const char *stored_weight(const slices *v, unsigned bit)
{
    const fq_ckpt *c = v->ckpt;
    for (size_t i = 0; c->bound && i < c->n_tensor; i++)
        if (c->bound[i].row && bit_of(c->bound[i].row) == bit) return c->tensor[i].name;
    for (size_t i = 0; i < v->n_linear; i++)
        if (v->linear[i].bit == bit) return c->tensor[v->linear[i].tensor].name;
    return NULL;
}

/* By name alone, of what has none of the known forms: "mlp.experts.*.down_proj" -> ...mlp.experts.0.down_proj.weight_packed. */
static const char *stored_name(const slices *v, const char *module, size_t n)
{
    static const char *const part[] = { "experts.", "shared_expert" };
    char last[64];
    size_t from = n;
    while (from > 0 && module[from - 1] != '.') from--;
    snprintf(last, sizeof last, "%s%.*s", from > 0 ? "." : "", (int)(n - from), module + from);
    if (last[from > 0] == '*') last[0] = '\0';   /* any weight of experts */
    for (size_t i = 0; i < v->ckpt->n_tensor; i++) {
        const char *name = v->ckpt->tensor[i].name;
        bool same = strstr(name, last) != NULL && strstr(name, ".bias") == NULL;
        for (size_t k = 0; k < 2; k++) same = same && (strstr(name, part[k]) != NULL) == (strstr(module, part[k]) != NULL);
        if (same) return name;
    }
    return NULL;
}

/* The linear layer that a rule of the plan speaks of: it names them "mlp.gate_proj, up_proj". */
static const fqi_linear *linear_of(const char *module)
{
    const fqi_linear *l;
    const size_t n = strcspn(module, ",");
    for (size_t i = 0; n > 0 && (l = fqi_linear_at(i)); i++)
        if (strcspn(l->tensor, ",") == n && strncmp(l->tensor, module, n) == 0) return l;
    return NULL;
}

static void name_tensor(const slices *v, const char *module, fault *f)
{
    const fqi_linear *l = linear_of(module);
    const char *name = l ? stored_weight(v, l->bit) : NULL;
    if (!name && module[0]) name = stored_name(v, module, strcspn(module, ","));
    if (name) snprintf(f->tensor, sizeof f->tensor, "%s", name);
}

/* ---- faults ---- */

static fault *new_fault(slices *v, fq_slice_fault_kind kind, const fq_plan_entry *entry, const char *rule, const char *source)
{
    fault *f = &v->fault[v->n_fault < MAX_FAULT ? v->n_fault++ : MAX_FAULT - 1];
    *f = (fault){ .f = { .kind = kind, .engine = entry->engine, .format = entry->format, .rule = rule, .source = source, .rank = -1, .row = -1, .col = -1 } };
    f->f.text = f->text;
    f->f.tensor = f->tensor;
    return f;
}

static void keep(slices *v, const fault *f)
{
    const bool refused = f->f.kind == FQ_SLICE_REFUSED;
    fq_err *first = refused ? &v->refused : &v->differs;
    char shown[FQI_NAME_MAX + 1];
    if (first->code != FQ_OK) return;
    fqi_fail(first, refused ? FQ_E_INPUT : FQ_E_DIFFERS, f->tensor[0] ? FQI_TENSOR(v->ckpt->info.path, fqi_escape(shown, f->tensor)) : FQI_FILE(v->ckpt->info.path), f->f.rule, "%s on %d GPUs: %s", f->f.engine->id, v->o->tp, f->text);
}

/* Tells what one case has. */
static void tell(slices *v)
{
    bool refused = false, differs = false;
    for (size_t i = 0; i < v->n_fault; i++) {
        refused = refused || v->fault[i].f.kind == FQ_SLICE_REFUSED;
        differs = differs || v->fault[i].f.kind != FQ_SLICE_REFUSED;
        keep(v, &v->fault[i]);
        if (v->o->on_fault) v->o->on_fault(v->o->user, &v->fault[i].f);
    }
    v->report.n_refused += refused;
    v->report.n_differs += differs;
    v->n_fault = 0;
}

/* The first rank that has a part of a group, and which one. */
static void name_group(const slices *v, const fq_plan_entry *entry, const fq_violation *x, fault *f)
{
    const fqi_linear *l = linear_of(x->tensor);
    const int64_t cols = l && l->cut == FQI_CUT_ROW ? fqi_axis_length(&v->ckpt->info.model, l->k) : 0, each = cols / v->o->tp, group = entry->group_size;
    if ((strcmp(x->rule, "group-split") != 0 && strcmp(x->rule, "moe-group") != 0) || each < 1 || cols % v->o->tp != 0 || group < 1 || each % group == 0) return;
    const int64_t first = each / group * group, last = first + group < cols ? first + group : cols;
    const size_t n = strlen(f->text);
    f->f.rank = 0;
    f->f.col = first;
    snprintf(f->text + n, sizeof f->text - n, "; rank 0 ends at input channel %" PRId64 ", inside of the group of channels %" PRId64 " to %" PRId64, each, first, last - 1);
}

/* A rule of the plan. Rows of loads.h say more about what they follow. */
static void take_violation(slices *v, const fq_plan_entry *entry, const fq_violation *x)
{
    fault *f = new_fault(v, x->silent ? FQ_SLICE_KERNEL : FQ_SLICE_REFUSED, entry, x->rule, x->source);
    const char *colon = x->tensor[0] ? ": " : "", *quote = x->engine_text ? "\"" : "";
    if (x->silent)
        snprintf(f->text, sizeof f->text, "%s%s%s; nothing is refused, and the kernel is known to compute something else", x->tensor, colon, x->text);
    else
        snprintf(f->text, sizeof f->text, "%s%s%s%s%s%s%s; `fitq plan --tp %d` says what makes it fit", x->tensor, colon, x->text, x->engine_text ? "; the engine says " : "", quote, x->engine_text ? x->engine_text : "",
                 quote, v->o->tp);
    name_tensor(v, x->tensor, f);
    name_group(v, entry, x, f);
}

/* ---- values ---- */

static void take_difference(slices *v, const fq_plan_entry *entry, const linear *l, const fqi_load *load, const fqi_slice_diff *d)
{
    const bool zeros = d->zeros;
    fault *f = new_fault(v, FQ_SLICE_DIFFERS, entry, zeros ? "zeros-ignored" : load->name, load->source);
    f->load = load;
    f->bit = l->bit | (zeros ? 1u << 31 : 0);
    snprintf(f->tensor, sizeof f->tensor, "%s", v->ckpt->tensor[l->tensor].name);
    f->f.n_tensor = 1;
    f->f.rank = d->rank;
    f->f.row = d->row;
    f->f.col = d->col;
    f->f.expected = d->expected;
    f->f.found = d->found;
    f->f.beyond = d->scale_row < 0;
    f->f.n_wrong = d->n_wrong;
    f->f.n_element = d->n_element;
    f->f.max_abs = d->max_abs;
    f->f.relative = d->relative;
    f->f.product = d->product;
    char found[48] = "no scale";
    if (!f->f.beyond) snprintf(found, sizeof found, "%g", d->found);
    snprintf(f->text, sizeof f->text, "rank %d, output channel %" PRId64 ", input channel %" PRId64 ": found %s, expected %g; %" PRIu64 " of %" PRIu64 " weights differ, by up to %.3g; of a product with a random input %.3g is wrong; %s", d->rank, d->row, d->col, found, d->expected,
             d->n_wrong, d->n_element, d->max_abs, d->product, zeros ? "the kernel has the middle as zero point and never reads the stored ones, others do" : load->says);
}

static fault *known_fault(slices *v, const fqi_load *load, unsigned bit)
{
    for (size_t i = 0; i < v->n_fault; i++)
        if (v->fault[i].load == load && v->fault[i].bit == bit) return &v->fault[i];
    return NULL;
}

static void take_derived(slices *v, const fq_plan_entry *entry, const linear *l, const fqi_load *load, int64_t found)
{
    fault *f = known_fault(v, load, l->bit);
    if (f) {
        f->f.n_tensor++;
        return;
    }
    f = new_fault(v, FQ_SLICE_REFUSED, entry, load->name, load->source);
    f->load = load;
    f->bit = l->bit;
    f->f.n_tensor = 1;
    snprintf(f->tensor, sizeof f->tensor, "%s", v->ckpt->tensor[l->tensor].name);
    snprintf(f->text, sizeof f->text, "found groups of %" PRId64 ", expected 32, 64 or 128: %s; the engine says \"Invalid thread config\"", found, load->says);
}

/* Output channels of one rank, or of a KV head that several have. */
static void cut_columns(const slices *v, const linear *l, fqi_slice_case *c)
{
    const fq_model *m = &v->ckpt->info.model;
    c->step = 1;
    c->rows_each = l->q.size.rows / v->o->tp;
    if (l->bit == FQI_L_KV && m->num_key_value_heads > 0 && m->num_key_value_heads < v->o->tp) {
        c->rows_each = m->head_dim;
        c->step = v->o->tp / (int)m->num_key_value_heads;
    }
    if (c->rows_each < 1) c->rows_each = l->q.size.rows > 0 ? l->q.size.rows : 1;
}

/* The rank that has a whole expert: as fqi_slice_make deals them. */
static int owner(const slices *v, int64_t expert)
{
    const int64_t n = v->ckpt->info.model.num_experts, each = n / v->o->tp, more = n % v->o->tp;
    if (expert < 0 || each < 1) return 0;
    return (int)(expert < more * (each + 1) ? expert / (each + 1) : more + (expert - more * (each + 1)) / each);
}

static fq_status check_linear(slices *v, const fq_plan_entry *entry, unsigned engine, unsigned format, size_t i, fq_err *e)
{
    const linear *l = &v->linear[i];
    const bool whole = v->o->expert_parallel && l->bit & FQI_L_EXPERT, row = is_row_parallel(l->bit) && !whole;
    const fqi_load *load = fqi_load_find(engine, format, l->bit, v->order, v->scheme.rounds_ints_inputs);
    if (!load || (row && l->q.size.cols % v->o->tp != 0)) return FQ_OK;   /* the latter is refused by a rule of the plan */
    fqi_slice_case c = { .load = load, .cut = { .cols = l->q.size.cols, .group = l->q.size.group_cols, .tp = row ? v->o->tp : 1 }, .order_read = load->group == FQI_LOAD_ORDER };
    fqi_slice_diff d;
    int64_t found;
    cut_columns(v, l, &c);
    if (whole) {
        c.rows_each = l->q.size.rows > 0 ? l->q.size.rows : 1;
        c.rank = owner(v, l->bound.expert);
    }
    v->report.n_slice += whole ? 1 : (size_t)v->o->tp;
    if (load->last_order) c.order = last_order(v, i);
    if (fqi_load_refuses(load, &c.cut, &found)) {
        take_derived(v, entry, l, load, found);
        return FQ_OK;
    }
    fault *zero = known_fault(v, load, l->bit | 1u << 31), *seen = known_fault(v, load, l->bit);
    FQI_TRY(fqi_slice_compare(&v->reader, &l->q, &c, !zero && !seen, &d, e));
    if (!d.differs) return FQ_OK;
    if (!zero && !seen) {
        take_difference(v, entry, l, load, &d);
        return FQ_OK;
    }
    fault *same = d.zeros ? zero : seen;
    if (same) {
        same->f.n_tensor++;
        return FQ_OK;
    }
    FQI_TRY(fqi_slice_compare(&v->reader, &l->q, &c, true, &d, e));
    if (d.differs) take_difference(v, entry, l, load, &d);
    return FQ_OK;
}

/* ---- heads ---- */

/* The old index that a map has at `at`; -1: nothing. No map: the same. */
static int64_t source_at(const fqi_map *m, int64_t at)
{
    if (m->n_run == 0) return at;
    int64_t first = 0;
    for (size_t i = 0; i < m->n_run; first += m->run[i++].count)
        if (at < first + m->run[i].count) return m->run[i].src < 0 ? -1 : m->run[i].src + at - first;
    return -1;
}

typedef struct head_fault { int64_t head, reads, meant, n_wrong; const char *why; } head_fault;

/* By the maps of fitq.json: the query head's own KV head against that which engines give it, head / (heads / KV heads). */
static void heads_by_maps(const slices *v, const fqi_maps *maps, head_fault *f)
{
    const fq_model *m = &v->ckpt->info.model;
    const fqi_map *q = &maps->map[FQI_AX_Q], *kv = &maps->map[FQI_AX_KV];
    const int64_t dim = m->head_dim, h_old = q->n_run ? q->n_old / dim : m->num_attention_heads, kv_old = kv->n_run ? kv->n_old / dim : m->num_key_value_heads;
    const int64_t each = m->num_attention_heads / m->num_key_value_heads, each_old = kv_old > 0 ? h_old / kv_old : 0;
    f->why = "by the maps in fitq.json";
    for (int64_t h = 0; h < m->num_attention_heads && each > 0 && each_old > 0; h++) {
        const int64_t old = source_at(q, h * dim), read = source_at(kv, h / each * dim);
        if (old < 0 || (read >= 0 && read / dim == old / dim / each_old)) continue;
        if (f->n_wrong++ == 0) { f->head = h; f->reads = h / each; f->meant = old / dim / each_old; }
    }
}

/* Without maps: dummies all behind the real heads are what padding without regard to KV heads leaves. */
static void heads_by_zeros(const fq_model *m, const bool *zero, head_fault *f)
{
    const int64_t n = m->num_attention_heads, kv = m->num_key_value_heads;
    int64_t real = n;
    while (real > 0 && zero[real - 1]) real--;
    for (int64_t h = 0; h < real; h++)
        if (zero[h]) return;   /* heads were dealt in some other way, which weights do not tell */
    if (real == n || real < kv || real % kv != 0) return;
    f->why = "the heads behind the real ones are zeros, and the real ones stand as if each KV head had fewer";
    for (int64_t h = 0; h < real; h++) {
        if (h / (n / kv) == h / (real / kv)) continue;
        if (f->n_wrong++ == 0) { f->head = h; f->reads = h / (n / kv); f->meant = h / (real / kv); }
    }
}

/* The first layer's q_proj: what stands for all, since fitting treats them alike. */
static fq_status zero_heads(slices *v, size_t *tensor, head_fault *f, fq_err *e)
{
    const fq_ckpt *c = v->ckpt;
    const fq_model *m = &c->info.model;
    const fqi_quant_module *q = NULL;
    *tensor = SIZE_MAX;
    for (size_t i = 0; i < v->n_linear && !q; i++)
        if (v->linear[i].bit == FQI_L_Q) { q = &v->linear[i].q; *tensor = v->linear[i].tensor; }
    for (size_t i = 0; i < c->n_tensor && !q && *tensor == SIZE_MAX; i++)
        if (c->bound[i].row && strcmp(c->bound[i].row->role, "q_proj") == 0) *tensor = i;
    if (*tensor == SIZE_MAX) return FQ_OK;
    bool *zero = fqi_calloc((size_t)m->num_attention_heads + 1, sizeof *zero);
    if (!zero) return fqi_fail_nomem(e, "heads");
    fq_status s = fqi_slice_zero_heads(&v->reader, &c->tensor[*tensor], q, m->head_dim, zero, m->num_attention_heads, e);
    if (s == FQ_OK) heads_by_zeros(m, zero, f);
    free(zero);
    return s;
}

static fq_status find_head_fault(slices *v, size_t *tensor, head_fault *f, fq_err *e)
{
    const fq_model *m = &v->ckpt->info.model;
    *f = (head_fault){ .head = -1 };
    *tensor = SIZE_MAX;
    if (m->head_dim < 1 || m->num_key_value_heads < 1 || m->num_attention_heads % m->num_key_value_heads != 0 || !v->ckpt->bound) return FQ_OK;
    if (!v->ckpt->info.fitted) return zero_heads(v, tensor, f, e);
    fqi_prov prov;
    FQI_TRY(fqi_prov_load(v->ckpt->dir, &prov, e));
    heads_by_maps(v, &prov.maps, f);
    fqi_prov_free(&prov);
    for (size_t i = 0; i < v->ckpt->n_tensor && *tensor == SIZE_MAX; i++)
        if (v->ckpt->bound[i].row && strcmp(v->ckpt->bound[i].row->role, "q_proj") == 0) *tensor = i;
    return FQ_OK;
}

static void take_heads(slices *v, const fq_plan_entry *entry, size_t tensor, const head_fault *h)
{
    const fq_model *m = &v->ckpt->info.model;
    if (h->n_wrong == 0) return;
    fault *f = new_fault(v, FQ_SLICE_DIFFERS, entry, "head-map", "vllm-project/vllm vllm/model_executor/layers/linear.py QKVParallelLinear; local-inference-lab/vllm#44 (64 heads padded to 66)");
    const int64_t each = m->num_attention_heads / v->o->tp;
    f->f.rank = each > 0 ? (int)(h->head / each) : -1;
    f->f.row = h->head * m->head_dim;
    f->f.col = 0;
    if (tensor != SIZE_MAX) snprintf(f->tensor, sizeof f->tensor, "%s", v->ckpt->tensor[tensor].name);
    snprintf(f->text, sizeof f->text, "rank %d, query head %" PRId64 ": found KV head %" PRId64 ", expected %" PRId64 "; %" PRId64 " of %" PRId64 " query heads read another one's keys: %s", f->f.rank, h->head, h->reads, h->meant,
             h->n_wrong, m->num_attention_heads, h->why);
}

/* ---- the job ---- */

/* Methods that fitq does not read, and still knows to be read wrongly. */
static void check_fixed(slices *v, const fq_plan_entry *entry, unsigned engine)
{
    const fqi_load_fixed *x = fqi_load_fixed_find(engine, v->ckpt->info.model.quant_name);
    const json_t *group = json_object_get(fqi_config_quant(&v->ckpt->config), "group_size");
    if (!x || !json_is_integer(group) || json_integer_value(group) == x->group) return;
    fault *f = new_fault(v, FQ_SLICE_KERNEL, entry, "group-fixed", x->source);
    snprintf(f->text, sizeof f->text, "found groups of %lld in config.json, expected %d: the kernel of %s experts has that built in and does not ask", (long long)json_integer_value(group), x->group, x->method);
    name_tensor(v, "mlp.experts.*", f);
    f->f.rank = 0;
}

static fq_status check_case(slices *v, const fq_plan_entry *entry, const head_fault *heads, size_t q_tensor, fq_err *e)
{
    size_t engine, format;
    if (!fqi_engine_find(entry->engine->id, &engine) || !fqi_format_find(entry->format->id, &format)) return FQ_OK;
    v->report.n_case++;
    bool refused = false;
    for (size_t i = 0; i < entry->n_violation; i++) refused = refused || !entry->violation[i].silent;
    for (size_t i = 0; i < entry->n_violation; i++) {
        const fq_violation *x = &entry->violation[i];
        if (x->silent == refused || (x->silent && strcmp(x->rule, "group-split") == 0)) continue;   /* what is refused computes nothing */
        take_violation(v, entry, x);
    }
    if (!refused) {
        take_heads(v, entry, q_tensor, heads);
        check_fixed(v, entry, 1u << engine);
        for (size_t i = 0; i < v->n_linear; i++) FQI_TRY(check_linear(v, entry, 1u << engine, 1u << format, i, e));
    }
    tell(v);
    return FQ_OK;
}

static fq_status check_engines(const fq_slices_options *o, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    size_t at;
    for (size_t i = 0; i < o->n_engine; i++)
        if (fqi_engine_find(o->engine[i], &at) && at > 2)   /* the first three: see loads.h */
            return fqi_fail(e, FQ_E_USAGE, NULL, "engine", "found \"%s\", expected vllm, vllm-2025 or sglang: how others load slices is not modelled", fqi_escape(shown, o->engine[i]));
    return FQ_OK;
}

/* A checkpoint is loaded in the format that it has. */
static fq_status check_formats(const slices *v, const char **usual, fq_err *e)
{
    static const struct { fq_quant_method quant; const char *of[2]; } own[] = {
        { FQ_QUANT_NONE, { "bf16", "fp16" } }, { FQ_QUANT_GPTQ, { "gptq-marlin", "gptq" } }, { FQ_QUANT_AWQ, { "awq-marlin", "awq" } },
        { FQ_QUANT_COMPRESSED_TENSORS, { "ct-int4", "ct-int8" } }, { FQ_QUANT_FP8, { "fp8", "fp8-block" } }, { FQ_QUANT_OTHER, { "nvfp4", "mxfp4" } },
    };
    const fq_model *m = &v->ckpt->info.model;
    char shown[FQI_NAME_MAX + 1];
    *usual = m->quant != FQ_QUANT_NONE ? NULL : strcmp(m->torch_dtype, "float16") == 0 ? "fp16" : "bf16";
    for (size_t k = 0; k < sizeof own / sizeof own[0]; k++)
        for (size_t i = 0; own[k].quant == m->quant && i < v->o->n_format; i++)
            if (strcmp(v->o->format[i], own[k].of[0]) != 0 && strcmp(v->o->format[i], own[k].of[1]) != 0)
                return fqi_fail(e, FQ_E_USAGE, NULL, "format", "found \"%s\", expected %s or %s: slices are those of the checkpoint as it is stored", fqi_escape(shown, v->o->format[i]), own[k].of[0], own[k].of[1]);
    return FQ_OK;
}

/* What all engines do alike: each slice by itself, multiplied. */
static fq_status multiply(slices *v, fq_err *e)
{
    const fq_model *m = &v->ckpt->info.model;
    const fqi_decoder d = { .model = *m };
    fqi_slice *slice = fqi_calloc((size_t)v->o->tp, sizeof *slice);
    fqi_products p = { 0 };
    bool divides = v->ckpt->bound != NULL;
    if (!slice) return fqi_fail_nomem(e, "slices");
    for (int r = 0; r < v->o->tp && divides; r++) divides = m->num_key_value_heads > 0 && fqi_slice_make(&d, r, v->o->tp, v->o->expert_parallel, "", &slice[r], NULL) == FQ_OK;
    const fq_status s = divides ? fqi_slice_products(v->ckpt, &v->scheme, slice, v->o->tp, v->run, &p, e) : FQ_OK;
    free(slice);
    v->report.n_product = p.n_weight;
    v->report.n_product_slice = p.n_slice;
    v->report.n_product_left_out = p.n_unread;
    v->report.product_bytes = p.bytes;
    v->report.product_error = p.worst;
    return s;
}

static fq_status run_slices(slices *v, fq_err *e)
{
    const fq_slices_options *o = v->o;
    const char *usual;
    fq_plan_request request = { .tp = &o->tp, .n_tp = 1, .engine = o->engine, .n_engine = o->n_engine, .format = o->format, .n_format = o->n_format, .expert_parallel = o->expert_parallel };
    head_fault heads;
    size_t q_tensor;
    FQI_TRY(check_engines(o, e));
    FQI_TRY(fq_ckpt_open(o->path, v->run, &v->ckpt, e));
    if (!v->ckpt->has_config) FQI_TRY(fq_ckpt_check(v->ckpt, e));   /* it may be there and unreadable */
    if (!v->ckpt->has_config) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(o->path), "config", "found no config.json, expected one: slices follow from its lengths");
    FQI_TRY(check_formats(v, &usual, e));
    if (usual && !o->n_format) { request.format = &usual; request.n_format = 1; }
    FQI_TRY(fq_plan_create(&v->ckpt->info.model, &request, &v->plan, e));
    if (v->ckpt->info.model.quant == FQ_QUANT_OTHER) {   /* its parts are not read; what rules say about its numbers is */
        heads = (head_fault){ .head = -1 };
        for (size_t i = 0; i < fq_plan_n_entry(v->plan); i++) FQI_TRY(check_case(v, fq_plan_get_entry(v->plan, i), &heads, SIZE_MAX, e));
        if (v->report.n_refused + v->report.n_differs > 0) return FQ_OK;
    }
    FQI_TRY(fq_ckpt_check(v->ckpt, e));
    FQI_TRY(fqi_quant_scheme_read(v->ckpt, &v->scheme, e));
    v->order = order_of(v->ckpt);
    FQI_TRY(collect(v, e));
    FQI_TRY(fqi_slice_reader_open(&v->reader, v->ckpt, v->run, e));
    FQI_TRY(find_head_fault(v, &q_tensor, &heads, e));
    for (size_t i = 0; i < fq_plan_n_entry(v->plan); i++) FQI_TRY(check_case(v, fq_plan_get_entry(v->plan, i), &heads, q_tensor, e));
    return v->report.n_refused < v->report.n_case ? multiply(v, e) : FQ_OK;
}

fq_status fq_verify_slices(const fq_slices_options *o, const fq_run *run, fq_slices_report *report, fq_err *e)
{
    static const fq_run default_run = { 0 };
    if (!o->path) return fqi_fail(e, FQ_E_USAGE, NULL, "paths", "found no checkpoint, expected one");
    if (o->tp < 2 || o->tp > 64) return fqi_fail(e, FQ_E_USAGE, NULL, "tp", "found %d GPUs, expected 2 to 64", o->tp);
    slices *v = fqi_calloc(1, sizeof *v);
    if (!v) return fqi_fail_nomem(e, "slices");
    v->o = o;
    v->run = run ? run : &default_run;
    const double start = fqi_now_seconds();
    fq_status s = run_slices(v, e);
    v->report.seconds = fqi_now_seconds() - start;
    if (s == FQ_OK && v->report.n_differs + v->report.n_refused > 0) {
        const fq_err *first = v->report.n_differs > 0 ? &v->differs : &v->refused;
        s = first->code;
        if (e) *e = *first;
        if (report) *report = v->report;
    }
    if (s == FQ_OK && report) *report = v->report;
    fqi_slice_reader_close(&v->reader);
    fq_plan_free(v->plan);
    fq_ckpt_close(v->ckpt);
    free(v->linear);
    free(v);
    return s;
}
