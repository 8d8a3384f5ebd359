/* soundness_quant.c - quantized modules in the table of tensors: are their parts there and of their shapes, is what is stored what
 * config.json lists, and what is it all in all. Header-only, like soundness.c.
 *
 * A module that cannot be read is a warning: a job that reads it says the same and stops, and one that only copies it need not. A method or
 * format that fitq does not read is a note. Codes beside a plain weight of the same module, and codes without quantization_config, are errors:
 * nobody can tell what such a checkpoint means. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/opening.h"
#include "checkpoint/packed.h"
#include "checkpoint/quant_rules.h"
#include "checkpoint/quantized.h"

#define MAX_KIND 16   /* different bits, groups and forms that are told apart */

/* Modules of one form, counted. group of a whole row: -1 */
typedef struct kind { fqi_quant_layout layout; int bits; int64_t group_cols; bool sym, v1, order; size_t n; } kind;
/* Modules for which config.json and the files disagree. */
typedef struct disagreement { size_t n, first, n_first; const char *key; } disagreement;

typedef struct checking {
    fqi_opening *o;
    fq_ckpt *c;
    fqi_quant_scheme scheme;
    bool readable;                 /* scheme is one that fitq reads */
    fqi_quant_rules *rules;        /* NULL: the method has none */
    kind kind[MAX_KIND]; size_t n_kind;
    disagreement packed, plain;
} checking;

static const fqi_where *where(const checking *k, size_t i, fqi_where *out)
{
    const fqi_tensor *t = &k->c->tensor[i];
    *out = *FQI_TENSOR(k->c->shard[t->shard].path, t->name);
    return out;
}

/* ---- shapes ---- */

/* Lengths of the weight that tensor i stands for: from config.json, or of a family without a table from the codes themselves. */
static bool lengths_of(const checking *k, size_t i, int64_t length[2], const fqi_row **row)
{
    const fq_ckpt *c = k->c;
    const fqi_tensor *t = &c->tensor[i];
    fqi_bound b = { 0 };
    *row = NULL;
    if (c->bound) {
        if (c->bound[i].row) b = c->bound[i];
        else if (!fqi_packed_bind(c->config.family, &c->naming, t->name, &b)) return false;
        *row = b.row;
        if (b.row->rank != 2) return false;
        for (int d = 0; d < 2; d++)
            if (__builtin_mul_overflow(fqi_axis_length(&c->config.model, (fqi_axis)b.row->dim[d].axis), b.row->dim[d].parts > 1 ? b.row->dim[d].parts : 1, &length[d])) return false;
        return true;
    }
    if (k->scheme.varies || t->rank != 2) return false;
    for (int l = 0; l < FQI_N_QL; l++) {
        if (!(k->scheme.layouts & 1u << l)) continue;
        const fqi_part_form *p = &fqi_quant_form_of((fqi_quant_layout)l)->part[FQI_PART_CODES];
        for (int d = 0; d < 2; d++) {
            int64_t n = t->shape[d];
            if (p->dim[d].unit == FQI_UNIT_WORD && (__builtin_mul_overflow(n, 32, &n) || k->scheme.bits <= 0 || n % k->scheme.bits != 0)) return false;
            length[p->dim[d].along == FQI_ALONG_N ? 0 : 1] = p->dim[d].unit == FQI_UNIT_WORD ? n / k->scheme.bits : n;
        }
        return true;
    }
    return false;
}

static void count(checking *k, const fqi_quant_module *m)
{
    const kind x = { .layout = m->layout, .bits = m->size.bits, .group_cols = m->size.group_cols == m->size.cols ? -1 : m->size.group_cols, .sym = m->sym, .v1 = m->zeros_v1, .order = m->part[FQI_PART_ORDER] && !m->form->floats, .n = 1 };
    for (size_t i = 0; i < k->n_kind; i++) {
        kind *y = &k->kind[i];
        if (y->layout != x.layout || y->bits != x.bits || (y->group_cols != x.group_cols && !m->form->floats) || y->sym != x.sym || y->order != x.order) continue;
        y->n++;
        return;
    }
    if (k->n_kind < MAX_KIND) k->kind[k->n_kind++] = x;
}

static void check_module(checking *k, size_t i)
{
    const fqi_row *row;
    int64_t length[2];
    fqi_quant_module m;
    fqi_where at;
    fq_err why;
    if (!k->readable) return;
    if (!lengths_of(k, i, length, &row)) {
        if (row && row->rank == 3) FQI_FIND(k->o->find, FQ_NOTE, where(k, i, &at), "fused-experts", "found codes of all experts in one tensor: fitq does not run them");
        return;
    }
    if (fqi_quant_module_find(k->c, &k->scheme, i, length[0], length[1], &m, &why) == FQ_OK) count(k, &m);
    else if (!k->c->partial || strcmp(why.rule, "packed-parts") != 0) fqi_finding_from(k->o->find, FQ_WARNING, &why);
}

/* ---- lists ---- */

static bool is_linear(const fqi_row *row)
{
    static const char end[] = "_proj";
    const size_t n = strlen(row->role);
    return row->rank == 2 && (row->scope == FQI_HEAD || (n > sizeof end - 1 && strcmp(row->role + n - (sizeof end - 1), end) == 0));
}

static void disagree(disagreement *d, size_t i, size_t n_module, const char *key)
{
    if (d->n++ > 0) return;
    d->first = i;
    d->n_first = n_module;
    d->key = key;
}

static void ask(checking *k, size_t i, size_t n_module, bool codes)
{
    char name[1024];
    const char *key;
    fqi_bound b = { 0 };
    const fq_ckpt *c = k->c;
    if (!k->rules || !c->bound || n_module >= sizeof name) return;
    if (c->bound[i].row) b = c->bound[i];
    else if (!fqi_packed_bind(c->config.family, &c->naming, c->tensor[i].name, &b)) return;
    if (!is_linear(b.row)) return;
    memcpy(name, c->tensor[i].name, n_module);
    name[n_module] = '\0';
    const fqi_quant_says says = fqi_quant_rules_ask(k->rules, name, b.row->scope == FQI_HEAD, &key);
    if (says == FQI_SAYS_PLAIN && codes) disagree(&k->packed, i, n_module, key);
    if (says == FQI_SAYS_CODES && !codes) disagree(&k->plain, i, n_module, key);
}

/* ---- what is said ---- */

static void say_lists(checking *k)
{
    char shown[FQI_NAME_MAX + 1];
    const char *file = k->c->info.path;
    if (k->packed.n > 0)
        FQI_FIND(k->o->find, FQ_WARNING, FQI_FILE(file), "module-lists", "found %zu layer%s stored as codes (first: %s), expected plain weights: quantization_config%s%s exempts %s, so that engines find no weight",
                 k->packed.n, k->packed.n == 1 ? "" : "s", fqi_escape_n(shown, k->c->tensor[k->packed.first].name, k->packed.n_first), k->packed.key[0] ? " " : "", k->packed.key,
                 k->packed.n == 1 ? "it" : "them");
    if (k->plain.n > 0 && k->n_kind > 0)
        FQI_FIND(k->o->find, FQ_WARNING, FQI_FILE(file), "module-lists", "found %zu layer%s with plain weights (first: %s), expected codes: %s%s, so that engines find no codes",
                 k->plain.n, k->plain.n == 1 ? "" : "s", fqi_escape_n(shown, k->c->tensor[k->plain.first].name, k->plain.n_first),
                 k->plain.key[0] ? "quantization_config lists them in " : "quantization_config does not exempt them", k->plain.key);
}

/* "4 bits in groups of 128", "E4M3 in blocks of 128 x 128" */
static void kind_text(const checking *k, const kind *x, char *out, size_t n)
{
    const fqi_quant_form *form = fqi_quant_form_of(x->layout);
    const bool blocks = form->floats && fqi_part_has(&form->part[FQI_PART_SCALE], FQI_ALONG_N, FQI_UNIT_GROUP), rows = fqi_part_has(&form->part[FQI_PART_SCALE], FQI_ALONG_N, FQI_UNIT_ELEMENT);
    int at = form->floats ? snprintf(out, n, "E4M3") : snprintf(out, n, "%d bits", x->bits);
    if (at < 0 || (size_t)at >= n) return;
    if (blocks) (void)snprintf(out + at, n - (size_t)at, " in blocks of %" PRId64 " x %" PRId64, k->scheme.block[0], k->scheme.block[1]);
    else if (!form->floats && x->group_cols > 0) (void)snprintf(out + at, n - (size_t)at, " in groups of %" PRId64, x->group_cols);
    else (void)snprintf(out + at, n - (size_t)at, ", one scale for each %s", rows ? "output channel" : "tensor");
}

static void say_kinds(checking *k)
{
    char text[96];
    for (size_t i = 0; i < k->n_kind; i++) {
        const kind *x = &k->kind[i];
        const fqi_quant_form *form = fqi_quant_form_of(x->layout);
        kind_text(k, x, text, sizeof text);
        FQI_FIND(k->o->find, FQ_NOTE, FQI_FILE(k->c->info.path), "quantized-layers", "found %zu linear layer%s as %s: %s%s%s%s", x->n, x->n == 1 ? "" : "s", form->name, text,
                 form->floats ? "" : x->sym ? ", symmetric" : ", with zero points", x->layout != FQI_QL_GPTQ ? "" : x->v1 ? ", checkpoint_format gptq" : ", checkpoint_format gptq_v2",
                 x->order ? ", with g_idx" : "");
    }
    if (k->n_kind > 0 && k->scheme.rounds_inputs)
        FQI_FIND(k->o->find, FQ_NOTE, FQI_FILE(k->c->info.path), "rounded-activations", "found activations that engines round to FP8: fitq computes with the weights and does not round activations");
}

/* ---- all of it ---- */

static void check_all(checking *k)
{
    fq_ckpt *c = k->c;
    size_t first = SIZE_MAX, n_module;
    fqi_where at;
    for (size_t i = 0; i < c->n_tensor; i++) {
        const fqi_tensor *t = &c->tensor[i];
        const bool codes = fqi_quant_is_codes(c, i, &n_module);
        const bool named = t->name[n_module] && strcmp(t->name + n_module, ".weight") == 0;
        if (named || codes) ask(k, i, n_module, codes);
        if (!codes) continue;
        if (first == SIZE_MAX) first = i;
        char plain[1024];
        const int n = named ? -1 : snprintf(plain, sizeof plain, "%.*s.weight", (int)(n_module < sizeof plain ? n_module : sizeof plain), t->name);
        if (n > 0 && (size_t)n < sizeof plain && fqi_ckpt_find(c, plain) != SIZE_MAX)
            FQI_FIND(k->o->find, FQ_ERROR, where(k, i, &at), "packed-and-plain", "found a plain weight of the same module too, expected one of them");
        else check_module(k, i);
    }
    if (first != SIZE_MAX && c->has_config && c->config.model.quant == FQ_QUANT_NONE) {
        fqi_quant_module m;
        fq_err why;
        if (fqi_quant_module_find(c, &(fqi_quant_scheme){ 0 }, first, 1, 1, &m, &why) != FQ_OK) fqi_finding_from(k->o->find, FQ_ERROR, &why);
    }
    say_lists(k);
    say_kinds(k);
}

fq_status fqi_soundness_quantized(fqi_opening *o, fq_err *e)
{
    checking k = { .o = o, .c = o->c };
    fq_err why;
    const bool quantized = o->c->has_config && o->c->config.model.quant != FQ_QUANT_NONE;
    k.readable = quantized && fqi_quant_scheme_read(o->c, &k.scheme, &why) == FQ_OK;
    if (quantized && !k.readable) fqi_finding_from(o->find, FQ_NOTE, &why);
    if (k.readable && !o->c->partial) FQI_TRY(fqi_quant_rules_make(&o->c->config, &k.rules, e));
    check_all(&k);
    fqi_quant_rules_free(k.rules);
    return FQ_OK;
}
