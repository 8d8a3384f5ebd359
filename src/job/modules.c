/* modules.c - the linear layers that are quantized, as one table in the order of the work. See modules.h.
 *
 * Roles are the words of arch/family.h, so no family is named here. What stands in the catalogue was checked when it was opened (every
 * weight there, once, with its shape): nothing is checked twice. Fused experts are one tensor and many modules. */
#include "job/modules.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

#define IN_LAYER(m) offsetof(fqi_layer_weights, m)
#define IN_EXPERT(m) offsetof(fqi_mlp_weights, m)
#define NOWHERE SIZE_MAX

/* In the order of the work among those that share an input. */
static const struct role { const char *name; uint8_t input, row_axis, col_axis; bool of_expert; size_t member; } roles[] = {
    { "q_proj", FQI_TAP_ATTENTION, FQI_AX_Q, FQI_AX_HIDDEN, false, IN_LAYER(q) },
    { "k_proj", FQI_TAP_ATTENTION, FQI_AX_KV, FQI_AX_HIDDEN, false, IN_LAYER(k) },
    { "v_proj", FQI_TAP_ATTENTION, FQI_AX_KV, FQI_AX_HIDDEN, false, IN_LAYER(v) },
    { "o_proj", FQI_TAP_O, FQI_AX_HIDDEN, FQI_AX_Q, false, IN_LAYER(o) },
    { "gate_proj", FQI_TAP_MLP, FQI_AX_FF, FQI_AX_HIDDEN, false, IN_LAYER(mlp.gate) },
    { "up_proj", FQI_TAP_MLP, FQI_AX_FF, FQI_AX_HIDDEN, false, IN_LAYER(mlp.up) },
    { "shared_gate_proj", FQI_TAP_MLP, FQI_AX_SHARED_FF, FQI_AX_HIDDEN, false, IN_LAYER(shared.gate) },
    { "shared_up_proj", FQI_TAP_MLP, FQI_AX_SHARED_FF, FQI_AX_HIDDEN, false, IN_LAYER(shared.up) },
    { "down_proj", FQI_TAP_DOWN, FQI_AX_HIDDEN, FQI_AX_FF, false, IN_LAYER(mlp.down) },
    { "expert_gate_proj", FQI_TAP_EXPERT_MLP, FQI_AX_MOE_FF, FQI_AX_HIDDEN, true, IN_EXPERT(gate) },
    { "expert_up_proj", FQI_TAP_EXPERT_MLP, FQI_AX_MOE_FF, FQI_AX_HIDDEN, true, IN_EXPERT(up) },
    { "expert_down_proj", FQI_TAP_EXPERT_DOWN, FQI_AX_HIDDEN, FQI_AX_MOE_FF, true, IN_EXPERT(down) },
    { "shared_down_proj", FQI_TAP_SHARED_DOWN, FQI_AX_HIDDEN, FQI_AX_SHARED_FF, false, IN_LAYER(shared.down) },
    { "lm_head", FQI_TAP_HEAD, FQI_AX_VOCAB, FQI_AX_HIDDEN, false, NOWHERE },
};

/* One tensor that holds a module of every expert, or two. */
static const struct fused { const char *name; const char *holds[2]; } fused[] = {
    { "fused_gate_up_proj", { "expert_gate_proj", "expert_up_proj" } },
    { "fused_down_proj", { "expert_down_proj", NULL } },
};

static const struct role *role_of(const char *name)
{
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(roles[i].name, name) == 0) return &roles[i];
    return NULL;
}

static const struct fused *fused_of(const char *name)
{
    for (size_t i = 0; i < sizeof fused / sizeof fused[0]; i++)
        if (strcmp(fused[i].name, name) == 0) return &fused[i];
    return NULL;
}

typedef struct finding {
    const fqi_fitting *f;
    const fq_model *model;
    bool lm_head;
    fqi_modules *out;
    size_t cap;
} finding;

/* ---- names ---- */

/* The row of the family that stores this role of one expert; NULL: it only knows the fused form. */
static const fqi_row *expert_row(const fqi_family *f, const char *role)
{
    for (size_t i = 0; i < f->n_row; i++)
        if (f->row[i].scope == FQI_EXPERT && strcmp(f->row[i].role, role) == 0) return &f->row[i];
    return NULL;
}

static void cut_weight(char *name)
{
    const size_t n = strlen(name), k = strlen(".weight");
    if (n > k && strcmp(name + n - k, ".weight") == 0) name[n - k] = '\0';
}

/* A module of a fused tensor is called what it would be called alone. */
static bool name_module(const finding *s, const fqi_bound *b, fqi_module *m)
{
    const fqi_row *row = b->row;
    char name[512];
    if (b->expert < 0 && m->expert >= 0) row = expert_row(s->f->ckpt->config.family, m->role);
    if (!row) return false;
    fqi_row_name(s->f->ckpt->config.family, row, m->layer, m->expert, name, sizeof name);
    cut_weight(name);
    return snprintf(m->name, sizeof m->name, "%s", name) < (int)sizeof m->name;
}

/* ---- finding ---- */

static const fqi_map *map_of(const finding *s, uint8_t axis)
{
    const fqi_map *map = &s->f->maps.map[axis];
    return map->n_run ? map : NULL;
}

static fq_status add(finding *s, size_t tensor, const struct role *r, int64_t expert, fq_err *e)
{
    const fq_ckpt *c = s->f->ckpt;
    if (!fqi_grow((void **)&s->out->at, &s->cap, s->out->n + 1, sizeof *s->out->at)) return fqi_fail_nomem(e, "modules");
    fqi_module *m = &s->out->at[s->out->n];
    *m = (fqi_module){ .role = r->name, .tensor = &c->tensor[tensor], .layer = c->bound[tensor].layer, .expert = expert, .input = (fqi_tap_point)r->input,
                       .rows = fqi_axis_length(s->model, (fqi_axis)r->row_axis), .cols = fqi_axis_length(s->model, (fqi_axis)r->col_axis),
                       .row_map = map_of(s, r->row_axis), .col_map = map_of(s, r->col_axis) };
    m->rows_pad = m->row_map ? m->row_map->n_new : m->rows;
    m->cols_pad = m->col_map ? m->col_map->n_new : m->cols;
    if (!name_module(s, &c->bound[tensor], m)) {
        char shown[FQI_NAME_MAX + 1];
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "module-name", "found %s, expected at most %zu bytes", fqi_escape(shown, m->tensor->name), sizeof m->name - 1);
    }
    s->out->n++;
    return FQ_OK;
}

static fq_status add_fused(finding *s, size_t tensor, const struct fused *f, fq_err *e)
{
    for (int64_t x = 0; x < s->model->num_experts; x++)
        for (size_t i = 0; i < 2 && f->holds[i]; i++) FQI_TRY(add(s, tensor, role_of(f->holds[i]), x, e));
    return FQ_OK;
}

static fq_status add_tensor(finding *s, size_t tensor, fq_err *e)
{
    const fqi_bound *b = &s->f->ckpt->bound[tensor];
    if (!b->row || b->layer >= s->model->num_hidden_layers) return FQ_OK;
    const struct role *r = role_of(b->row->role);
    const struct fused *f = fused_of(b->row->role);
    if (f) return add_fused(s, tensor, f, e);
    if (!r || (b->layer < 0 && !s->lm_head)) return FQ_OK;
    return add(s, tensor, r, b->expert, e);
}

/* ---- order ---- */

static int compare(uint64_t a, uint64_t b) { return a < b ? -1 : a > b; }

/* No layer (-1) is behind all layers, no expert before all experts. */
static int by_work(const void *a, const void *b)
{
    const fqi_module *x = a, *y = b;
    int d = compare((uint64_t)x->layer, (uint64_t)y->layer);
    if (d == 0) d = compare((uint64_t)x->input, (uint64_t)y->input);
    if (d == 0) d = compare((uint64_t)(x->expert + 1), (uint64_t)(y->expert + 1));
    return d ? d : compare((uint64_t)(role_of(x->role) - roles), (uint64_t)(role_of(y->role) - roles));
}

static fq_status index_layers(finding *s, fq_err *e)
{
    const size_t n_layer = (size_t)s->model->num_hidden_layers;
    size_t at = 0;
    s->out->first_of_layer = fqi_calloc(n_layer + 1, sizeof *s->out->first_of_layer);
    if (!s->out->first_of_layer) return fqi_fail_nomem(e, "modules");
    for (size_t l = 0; l <= n_layer; l++) {
        s->out->first_of_layer[l] = at;
        while (at < s->out->n && s->out->at[at].layer == (int64_t)l) at++;
    }
    return FQ_OK;
}

static fq_status find(finding *s, fq_err *e)
{
    const fq_ckpt *c = s->f->ckpt;
    if (s->lm_head && s->model->tie_word_embeddings)
        return fqi_fail(e, FQ_E_USAGE, FQI_FILE(c->info.path), "lm-head", "found tie_word_embeddings, expected a head of its own: a tied one is the embedding, which stays as it is");
    for (size_t i = 0; c->bound && i < c->n_tensor; i++) FQI_TRY(add_tensor(s, i, e));
    if (s->out->n == 0) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "no-linear", "found no linear layer, expected some");
    qsort(s->out->at, s->out->n, sizeof *s->out->at, by_work);
    return index_layers(s, e);
}

fq_status fqi_modules_find(const fqi_fitting *f, bool lm_head, fqi_modules *out, fq_err *e)
{
    finding s = { .f = f, .model = &f->ckpt->config.model, .lm_head = lm_head, .out = out };
    *out = (fqi_modules){ 0 };
    fq_status status = find(&s, e);
    if (status != FQ_OK) fqi_modules_free(out);
    return status;
}

void fqi_modules_free(fqi_modules *m)
{
    if (!m) return;
    free(m->at);
    free(m->first_of_layer);
    *m = (fqi_modules){ 0 };
}

/* ---- the matrices of a layer ---- */

/* The byte address of a module's matrix: in the layer, or in its expert. */
static uintptr_t place(uintptr_t layer, uintptr_t expert, const fqi_module *m)
{
    const struct role *r = role_of(m->role);
    if (!r || r->member == NOWHERE) return 0;
    return r->of_expert ? expert + (size_t)m->expert * sizeof(fqi_mlp_weights) + r->member : layer + r->member;
}

const fqi_matrix *fqi_module_matrix(const fqi_layer_weights *w, const fqi_module *m)
{
    return (const fqi_matrix *)place((uintptr_t)w, (uintptr_t)w->expert, m);
}

fqi_matrix *fqi_module_slot(fqi_layer_weights *w, fqi_mlp_weights *expert, const fqi_module *m)
{
    return (fqi_matrix *)place((uintptr_t)w, (uintptr_t)expert, m);
}
