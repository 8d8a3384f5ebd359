/* adapter.h - LoRA adapters (PEFT) and the maps of the model that they belong to; private to src/job.
 *
 *     ADAPTER/adapter_model.safetensors                                  LIKE/fitq.json, LIKE/fitq.order
 *     ...layers.0.mlp.down_proj.lora_A.weight [r, inputs]      <--       map of the inputs of down_proj
 *     ...layers.0.mlp.down_proj.lora_B.weight [outputs, r]     <--       map of its outputs: none, hidden_size stays
 *
 * A matrix W + B A keeps its function if W does and B A goes by the same maps: A has the inputs of the layer as columns, B its outputs as rows. So an
 * adapter is moved by the maps of its model's axes and nothing is computed; r, scaling and dropout stay.
 *
 *     adapter_names.c   name -> module, and what the tensor is to it
 *     adapter_maps.c    fitq.json and fitq.order -> a map for each dimension of each tensor
 *     adapter_back.c    what would be lost on the way back
 *     adapter.c         fq_adapt: the job
 *
 * Names and layouts: huggingface/peft, src/peft/tuners/lora/layer.py, src/peft/utils/save_and_load.py. */
#ifndef FITQ_JOB_ADAPTER_H
#define FITQ_JOB_ADAPTER_H

#include "checkpoint/catalogue.h"
#include "job/parts.h"
#include "job/provenance.h"

typedef enum fqi_lora_kind {
    FQI_LORA_A, FQI_LORA_B,
    FQI_LORA_EMBEDDING_A,    /* [r, vocabulary] */
    FQI_LORA_EMBEDDING_B,    /* [hidden_size, r] */
    FQI_LORA_MAGNITUDE,      /* of DoRA: the norm of each output's weights */
    FQI_LORA_WEIGHT,         /* a matrix of its own in place of the model's (modules_to_save) */
    FQI_LORA_BIAS
} fqi_lora_kind;

#define FQI_LORA_NAME_MAX 1024
typedef struct fqi_lora_name { fqi_lora_kind kind; char module[FQI_LORA_NAME_MAX]; } fqi_lora_name;   /* "model.layers.0.mlp.down_proj" */
/* False: no name that PEFT gives. */
bool fqi_lora_name_parse(const char *name, fqi_lora_name *out);

/* Channels of one MLP that fitq stored in another order. */
typedef struct fqi_lora_order { int64_t layer, expert; uint8_t axis; fqi_map map[2]; } fqi_lora_order;

typedef struct fqi_lora_tensor {
    fqi_lora_kind kind;
    fqi_bound bound;          /* of the layer's weight; canonical is not set */
    const fqi_map *map[2];    /* from the original model to the fitted one, whichever way the adapter goes; NULL: stays */
} fqi_lora_tensor;

typedef struct fqi_lora {
    const fq_ckpt *ckpt;      /* of the adapter */
    const char *like;
    bool back;
    fqi_prov prov;
    fqi_config source;        /* of the original model */
    fqi_maps inverse;
    fqi_lora_order *order; size_t n_order;
    fqi_lora_tensor *tensor;  /* [ckpt->n_tensor] */
    fqi_parts parts;          /* only its table of tensors, for the output table */
} fqi_lora;

/* Zero-initialise out (ckpt, like and back are set by the caller); freed by the caller also on failure. FQ_E_INPUT: "fitq-json", "fitq-order", "adapter-tensor"
 * (a name that is no part of a LoRA adapter, or of a layer that the model does not have), "adapter-shape", "adapter-dora" (magnitudes of outputs
 * that the fitted model has as zeros: a norm of 0 divides). */
fq_status fqi_lora_open(fqi_lora *out, fq_err *e);
void fqi_lora_free(fqi_lora *l);
/* FQ_E_INPUT "adapter-drop" if places that the original model does not have hold values that reach its outputs, or copies of a KV head differ.
 * *n: how many such places there are; drop: they are only counted. Reads those tensors. */
fq_status fqi_lora_check_back(const fqi_lora *l, const fq_run *run, bool drop, uint64_t *n, fq_err *e);

#endif
