/* verify_forms.c - quantized modules compared as numbers. See verify_forms.h. */
#include "job/verify_forms.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "job/parts.h"
#include "model/dense.h"

#define BLOCK_BYTES ((uint64_t)32 << 20)   /* of numbers of one side */
#define UNIT 32                            /* rows that are whole words */
#define NAME_MAX_BYTES 1024

typedef struct side { const fq_ckpt *c; fqi_maps maps; fqi_parts parts; fqi_dense *dense; float *row; } side;

static fq_status open_side(side *s, const fq_ckpt *c, const fq_run *run, fq_err *e)
{
    const fqi_layout layout = { .kind = FQ_LAYOUT_TAIL, .group = 1, .ranks = 1 };
    const fq_fit none = { 0 };
    int64_t cols = 1;
    s->c = c;
    FQI_TRY(fqi_maps_create(&c->info.model, &none, &layout, &s->maps, e));
    FQI_TRY(fqi_parts_create(c, &(fqi_parts_request){ .maps = &s->maps }, &s->parts, e));
    for (size_t i = 0; i < s->parts.n_module; i++)
        if (s->parts.module[i].now.size.cols > cols) cols = s->parts.module[i].now.size.cols;
    return fqi_dense_create(c, cols, run, &s->dense, e);
}

static void close_side(side *s)
{
    fqi_dense_free(s->dense);
    fqi_parts_free(&s->parts);
    fqi_maps_free(&s->maps);
    free(s->row);
}

fq_status fqi_forms_differ(const fq_ckpt *a, const fq_ckpt *b, bool *differ, fq_err *e)
{
    fqi_quant_scheme x, y;
    *differ = false;
    if (a->info.model.quant == FQ_QUANT_NONE || b->info.model.quant == FQ_QUANT_NONE || !a->bound || !b->bound) return FQ_OK;
    FQI_TRY(fqi_quant_scheme_read(a, &x, e));
    FQI_TRY(fqi_quant_scheme_read(b, &y, e));
    *differ = x.layouts != y.layouts || x.zeros_v1 != y.zeros_v1;
    return FQ_OK;
}

/* The module of B that has the name of A's; NULL: there is none, or it is of other lengths. */
static const fqi_quant_module *counterpart(const side *a, const side *b, const fqi_quant_module *q)
{
    char name[NAME_MAX_BYTES];
    const fqi_tensor *codes = q->part[FQI_PART_CODES];
    size_t n;
    if (!fqi_quant_is_codes(a->c, (size_t)(codes - a->c->tensor), &n)) return NULL;
    for (int l = 0; l < FQI_N_QL; l++) {
        const char *suffix = fqi_quant_form_of((fqi_quant_layout)l)->part[FQI_PART_CODES].suffix;
        if (n + strlen(suffix) >= sizeof name) continue;
        memcpy(name, codes->name, n);
        memcpy(name + n, suffix, strlen(suffix) + 1);
        const size_t i = fqi_ckpt_find(b->c, name);
        if (i == SIZE_MAX || b->parts.of[i].module == FQI_NO_PART || b->parts.of[i].part != FQI_PART_CODES) continue;
        const fqi_quant_module *m = &b->parts.module[b->parts.of[i].module].now;
        return m->size.rows == q->size.rows && m->size.cols == q->size.cols ? m : NULL;
    }
    return NULL;
}

static size_t use_parts(const side *s, const fqi_quant_module *q, bool *used)
{
    size_t n = 0;
    for (int k = 0; k < FQI_N_PART; k++)
        if (q->part[k]) {
            used[q->part[k] - s->c->tensor] = true;
            n++;
        }
    return n;
}

/* Rows from `row` on that are in both buffers. Returns how many weights differ. */
static uint64_t compare_rows(fqi_forms *f, const side *a, const side *b, const fqi_quant_module *q, int64_t row, size_t count)
{
    uint64_t wrong = 0;
    if (memcmp(a->row, b->row, count * sizeof(float)) == 0) return 0;
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&a->row[i], &b->row[i], sizeof(float)) == 0) continue;
        const fqi_tensor *t = q->part[FQI_PART_CODES];
        if (wrong++ == 0 && !f->differs)
            (void)fqi_fail(&f->first, FQ_E_DIFFERS, FQI_TENSOR(f->b->shard[t->shard].path, t->name), "element-differs", "output channel %" PRId64 ", input channel %" PRId64 ": found the weight %.9g, expected %.9g",
                           row + (int64_t)(i / (size_t)q->size.cols), (int64_t)(i % (size_t)q->size.cols), (double)b->row[i], (double)a->row[i]);
        f->differs = true;
    }
    return wrong;
}

static fq_status compare_module(fqi_forms *f, side *a, side *b, const fqi_quant_module *x, const fqi_quant_module *y, fq_err *e)
{
    const uint64_t asked = f->run->memory_bytes / 4, budget = asked != 0 && asked < BLOCK_BYTES ? asked : BLOCK_BYTES, unit = (uint64_t)x->size.cols * UNIT * sizeof(float);
    const int64_t most = (int64_t)(budget / unit > 0 ? budget / unit : 1) * UNIT, n = most < x->size.rows ? most : x->size.rows;
    uint64_t wrong = 0;
    a->row = fqi_calloc((size_t)n * (size_t)x->size.cols, sizeof *a->row);
    b->row = fqi_calloc((size_t)n * (size_t)x->size.cols, sizeof *b->row);
    fq_status s = a->row && b->row ? FQ_OK : fqi_fail_nomem(e, "buffers for weights");
    for (int64_t row = 0; row < x->size.rows && s == FQ_OK; row += n) {
        const int64_t k = x->size.rows - row < n ? x->size.rows - row : n;
        s = fqi_dense_rows(a->dense, x, row, k, a->row, e);
        if (s == FQ_OK) s = fqi_dense_rows(b->dense, y, row, k, b->row, e);
        if (s == FQ_OK) wrong += compare_rows(f, a, b, y, row, (size_t)k * (size_t)x->size.cols);
        if (s == FQ_OK && f->run->cancelled && f->run->cancelled(f->run->user)) s = fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped on request");
    }
    free(a->row);
    free(b->row);
    a->row = b->row = NULL;
    FQI_TRY(s);
    const size_t n_part = use_parts(b, y, f->b_used);
    (void)use_parts(a, x, f->a_used);
    f->n_part += n_part;
    f->n_part_bad += wrong > 0 ? n_part : 0;
    f->n_wrong += wrong;
    f->n_same += (uint64_t)x->size.rows * (uint64_t)x->size.cols - wrong;
    return FQ_OK;
}

static void report(const fqi_forms *f, const side *a, size_t i)
{
    char shown[FQI_NAME_MAX + 1];
    if (!f->run->progress) return;
    const fq_progress p = { .phase = "verify", .item = fqi_escape(shown, a->parts.module[i].now.part[FQI_PART_CODES]->name), .done_items = i, .total_items = a->parts.n_module,
                            .done_bytes = i, .total_bytes = a->parts.n_module };
    f->run->progress(f->run->user, &p);
}

fq_status fqi_forms_compare(fqi_forms *f, fq_err *e)
{
    side a = { 0 }, b = { 0 };
    fq_status s = open_side(&a, f->a, f->run, e);
    if (s == FQ_OK) s = open_side(&b, f->b, f->run, e);
    for (size_t i = 0; s == FQ_OK && i < a.parts.n_module; i++) {
        const fqi_quant_module *x = &a.parts.module[i].now, *y = counterpart(&a, &b, x);
        report(f, &a, i);
        if (y) s = compare_module(f, &a, &b, x, y, e);
    }
    close_side(&a);
    close_side(&b);
    return s;
}
