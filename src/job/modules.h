/* modules.h - which linear layers of a model are quantized, which of them share an input, and in what order they are done.
 *
 *     input (one Hessian)                       modules
 *     attention norm            TAP_ATTENTION   q_proj k_proj v_proj
 *     attention                 TAP_O           o_proj
 *     MLP norm                  TAP_MLP         gate_proj up_proj          (shared_gate_proj shared_up_proj in a sparse layer)
 *     act(gate) * up            TAP_DOWN        down_proj
 *     tokens routed to expert   TAP_EXPERT_MLP  expert_gate_proj expert_up_proj
 *     ...                       TAP_EXPERT_DOWN expert_down_proj;  TAP_SHARED_DOWN  shared_down_proj
 *     final norm                TAP_HEAD        lm_head
 *
 * Never quantized: routers, shared_expert_gate, norms, embeddings, vision towers; lm_head only if asked. */
#ifndef FITQ_JOB_MODULES_H
#define FITQ_JOB_MODULES_H

#include "job/fitting.h"
#include "model/layer.h"

typedef struct fqi_module {
    char name[128];              /* canonical: "layers.3.mlp.experts.7.up_proj" */
    const char *role;            /* arch/family.h */
    const fqi_tensor *tensor;    /* of the catalogue; fused experts: one tensor for many modules */
    int64_t layer, expert;       /* -1: none (lm_head) */
    fqi_tap_point input;
    int64_t rows, cols, rows_pad, cols_pad;
    const fqi_map *row_map, *col_map;   /* of the fitting; NULL = identity */
    size_t first_made;           /* its tensors in the table of made ones */
} fqi_module;

typedef struct fqi_modules { fqi_module *at; size_t n; size_t *first_of_layer; /* n_layer + 1; lm_head behind the last */ } fqi_modules;

/* Order: layers, inside a layer by input in the order above (experts before the shared one's down_proj), experts ascending. lm_head of a
 * tied model is FQ_E_USAGE "lm-head". *out keeps pointers into f. */
fq_status fqi_modules_find(const fqi_fitting *f, bool lm_head, fqi_modules *out, fq_err *e);
void fqi_modules_free(fqi_modules *m);
/* The fqi_matrix of w that a module is; NULL: of no layer. */
const fqi_matrix *fqi_module_matrix(const fqi_layer_weights *w, const fqi_module *m);
/* The same for changing it in a copy of the layer's weights (quantized parts are put in place of the originals). */
fqi_matrix *fqi_module_slot(fqi_layer_weights *w, fqi_mlp_weights *expert, const fqi_module *m);

#endif
