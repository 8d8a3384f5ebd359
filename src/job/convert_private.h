/* convert_private.h - what the parts of fq_convert share.
 *
 *     convert.c          the request: opening, the steps, the report
 *     convert_scan.c     what the weights are: orders, zero points, shapes; mislabelled ones are refused
 *     convert_table.c    what the form asked for can hold, and the table of tensors that are made
 *     convert_make.c     their bytes, in bounded memory
 *     convert_config.c   what config.json, quantize_config.json and fitq.json say of it
 *
 * No pair of formats has code of its own. A form is a row of checkpoint/quant_layout.h; a target is a form and four settings; the bytes of a
 * part are fields of the same part of the source (quant/transcode.h). */
#ifndef FITQ_JOB_CONVERT_PRIVATE_H
#define FITQ_JOB_CONVERT_PRIVATE_H

#include "base/mem.h"
#include "job/quant_text.h"
#include "job/write.h"
#include "model/dense.h"

/* What can be asked for. */
typedef struct fqi_convert_to {
    const char *name;          /* of fq_form_name */
    bool dense;                /* numbers of `dtype` instead of codes; what follows says nothing then */
    fq_dtype dtype;
    const char *torch_dtype;   /* config.json's name of it */
    fqi_quant_layout layout;
    bool zeros_v1;             /* zero points are stored minus one */
    bool always_order;         /* some readers want the group of each channel also where it is k / group_size */
    const char *own_file;      /* beside config.json; NULL: none */
    void (*text)(const fqi_quant_text *w, const char *pad, fqi_str *s);
} fqi_convert_to;

/* A made tensor: fqi_made.id is its place in the table. */
typedef struct fqi_convert_part { uint32_t module; uint8_t part; } fqi_convert_part;

typedef struct fqi_convert {
    const fq_convert_options *o;
    const fq_run *run;
    const fqi_convert_to *to;
    fq_ckpt *ckpt;
    fqi_quant_scheme scheme;
    bool label_v1;               /* zero points, as config.json says; the scheme's is what they are */
    fqi_maps maps;               /* identities */
    fqi_parts parts;             /* its modules, with zeros_v1 as it is */
    /* found in the weights (convert_scan.c) */
    bool sym;                    /* every zero point is in the middle */
    bool ordered;                /* some g_idx is another than k / group_size */
    bool *is_ordered;            /* by module */
    const fqi_tensor *zero_zero; /* a tensor with a zero point 0, which v1 cannot hold, and where; NULL: none */
    int64_t zero_group, zero_row;
    int64_t group_size;          /* of all modules; -1: one group a row */
    /* decided */
    fqi_made *made; fqi_convert_part *made_part; size_t n_made;
    const char **skip; size_t n_skip;
    fqi_outplan plan;
    char *config; size_t n_config;
    char *own; size_t n_own;     /* quantize_config.json */
    char *record; size_t n_record;   /* fitq.json of a model that fitq quantized */
    char *order; size_t n_order; /* fitq.order, which belongs to it */
    struct fqi_convert_maker *maker;
    fqi_arena arena;
} fqi_convert;

extern const fqi_convert_to fqi_convert_targets[FQ_N_FORM];

/* Elements of a part along its other axis than N: input channels of codes, groups of the others. */
static inline int64_t fqi_convert_length_x(const fqi_quant_module *q, fqi_part part)
{
    const fqi_quant_size *s = &q->size;
    return part == FQI_PART_CODES ? s->cols : s->cols / s->group_cols;
}

/* ---- convert_scan.c ---- */
/* Reads orders, zero points and stored shapes of every module of integers. "zero-version", "packed-zero", "packed-order", "packed-shape". */
fq_status fqi_convert_scan(fqi_convert *c, fq_err *e);

/* ---- convert_table.c ---- */
/* "convert-floats", "convert-bits", "convert-mixed", "convert-words", "convert-order", "convert-zero": what the form cannot hold;
 * "nothing-to-convert": it is that already. */
fq_status fqi_convert_check(fqi_convert *c, fq_err *e);
fq_status fqi_convert_make_table(fqi_convert *c, fq_err *e);      /* c->made, c->skip */

/* ---- convert_make.c ---- */
typedef struct fqi_convert_maker fqi_convert_maker;
fq_status fqi_convert_maker_create(fqi_convert *c, fq_err *e);
void fqi_convert_maker_free(fqi_convert_maker *m);
uint64_t fqi_convert_bytes(const fqi_convert *c);                 /* that making takes in memory, beside the stream */
/* fqi_write_request.made; user: the fqi_convert. */
fq_status fqi_convert_fill(void *user, size_t tensor, uint64_t off, uint8_t *to, size_t n, fq_err *e);
void fqi_convert_cost(const fqi_convert *c, fqi_rounding *out);
/* Fields [g0, g0 + n) x [0, rows) of a zero part, one byte each, groups first, valid until the next call. */
fq_status fqi_convert_zeros(fqi_convert *c, const fqi_quant_module *q, int64_t g0, int64_t n, const uint8_t **out, fq_err *e);
int64_t fqi_convert_zero_groups(const fqi_convert *c, const fqi_quant_module *q);   /* that are read together */

/* ---- convert_config.c ---- */
fq_status fqi_convert_config(fqi_convert *c, fq_err *e);          /* c->config, own, record, order */

#endif
