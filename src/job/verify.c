/* verify.c - the structural proof: is checkpoint B what the maps in its fitq.json make of checkpoint A?
 *
 * Every tensor of A must stand in B under its new name, with the same dtype and the shape that the maps give, every element must
 * be the element that the map names or a zero, nothing else may be there, and no element of A may be left out. All of it is
 * compared, whatever was found first: the counts tell how bad it is. Without fitq.json the maps are identities, so the same
 * command tells whether two checkpoints hold the same weights, however they are sharded and stored; quantized ones also in two forms
 * (verify_forms.h).
 *
 * A zero of the padding is all bits zero: -0.0 would be as exact in the product and is still not what pad writes, so it
 * counts as wrong. What this does not look at: config.json, and what a network computes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/compare.h"
#include "job/outdir.h"
#include "job/parts.h"
#include "job/provenance.h"
#include "job/verify_forms.h"

#define NONE SIZE_MAX

typedef struct verify {
    const fq_run *run;
    fq_ckpt *a, *b;
    bool fitted;                     /* B has a fitq.json, which is in prov */
    fqi_prov prov;
    const fqi_family *family;        /* of A, when fitted */
    fqi_fold fold;                   /* of A, derived again, not taken from B */
    fqi_parts parts;                 /* of A under the maps, if it is quantized */
    bool *a_used, *b_used;           /* [a->n_tensor], [b->n_tensor] */
    fqi_compare_item *item; size_t n_item;
    fq_verify_report report;
    fq_err first;                    /* the first difference */
    bool differs;
} verify;

/* ---- differences ---- */

/* A tensor that has nothing to be compared with, element by element. Keeps the first. `found` is made by fqi_fail into a scratch error. */
static void differ(verify *v, const fq_err *found)
{
    v->report.n_tensor_bad++;
    v->report.n_tensor_form++;
    if (!v->differs) v->first = *found;
    v->differs = true;
}

static uint64_t n_element(const fqi_tensor *t)
{
    unsigned bits = fq_dtype_bits((fq_dtype)t->dtype);
    return bits < 8 ? t->bytes * 8 / bits : t->bytes / (bits / 8);
}

static void say_shape(char out[256], const int64_t *n, int rank)
{
    fqi_str s = { 0 };
    fqi_str_puts(&s, "[");
    for (int d = 0; d < rank; d++) fqi_str_printf(&s, "%s%lld", d > 0 ? ", " : "", (long long)n[d]);
    fqi_str_puts(&s, "]");
    snprintf(out, 256, "%s", s.failed ? "?" : s.s);
    fqi_str_free(&s);
}

static void differ_missing(verify *v, const char *name, const fqi_tensor *a)
{
    char escaped[FQI_NAME_MAX + 1];
    fq_err e;
    if (a)
        fqi_fail(&e, FQ_E_DIFFERS, FQI_TENSOR(v->b->info.path, name), "tensor-missing", "found no such tensor, expected the one that holds %s of %s",
                 fqi_escape(escaped, a->name), v->a->info.path);
    else
        fqi_fail(&e, FQ_E_DIFFERS, FQI_TENSOR(v->b->info.path, name), "tensor-missing", "found no such tensor, expected the zeros that fitq.json lists");
    if (a) v->report.n_element_missing += n_element(a);
    differ(v, &e);
}

static void differ_extra(verify *v, const fqi_tensor *b)
{
    fq_err e;
    fqi_fail(&e, FQ_E_DIFFERS, FQI_TENSOR(v->b->shard[b->shard].path, b->name), "tensor-extra", "found a tensor that no tensor of %s accounts for, expected none", v->a->info.path);
    v->report.n_element_wrong += n_element(b);
    differ(v, &e);
}

/* ---- what must be compared with what ---- */

/* part: of A, if it is computed; NULL: the maps say it. */
static bool same_form(verify *v, const fqi_tensor *a, const fqi_tensor *b, const fqi_map *const *map, const fqi_part_plan *part)
{
    int64_t want[FQ_MAX_RANK];
    char found[256], expected[256];
    fqi_where where = { .file = v->b->shard[b->shard].path, .tensor = b->name, .offset = FQI_NO_OFFSET };
    fq_err e;
    if (a->dtype != b->dtype) {
        fqi_fail(&e, FQ_E_DIFFERS, &where, "tensor-dtype", "found %s, expected %s", fq_dtype_name((fq_dtype)b->dtype), fq_dtype_name((fq_dtype)a->dtype));
        differ(v, &e);
        return false;
    }
    bool same = a->rank == b->rank;
    for (int d = 0; d < a->rank; d++) {
        if (!part && map[d] && map[d]->n_old != a->shape[d]) {
            fqi_fail(&e, FQ_E_DIFFERS, FQI_TENSOR(v->a->shard[a->shard].path, a->name), "tensor-shape",
                     "found dimension %d of %lld, expected %lld: %s was not made from this checkpoint", d, (long long)a->shape[d],
                     (long long)map[d]->n_old, v->b->info.path);
            differ(v, &e);
            return false;
        }
        want[d] = part ? part->shape_new[d] : map[d] ? map[d]->n_new : a->shape[d];
        same = same && want[d] == b->shape[d];
    }
    if (same) return true;
    say_shape(found, b->shape, b->rank);
    say_shape(expected, want, a->rank);
    fqi_fail(&e, FQ_E_DIFFERS, &where, "tensor-shape", "found shape %s, expected %s", found, expected);
    differ(v, &e);
    return false;
}

/* Copies and omissions follow from the maps alone: along each dimension some indices are read, some twice, and an element is read
 * when all its indices are. (The reader of fitq.json refuses a map that loses something; the proof does not lean on that.) */
static fq_status count_map(verify *v, const fqi_tensor *a, const fqi_map *const *map, fq_err *e)
{
    uint64_t n_read = 1, n_distinct = 1; /* bounded by the elements of b and a, which both fit */
    for (int d = 0; d < a->rank; d++) {
        fqi_map_count c = { .same = a->shape[d] };
        if (map[d]) FQI_TRY(fqi_map_count_uses(map[d], &c, e));
        n_read *= (uint64_t)(c.same + c.copy);
        n_distinct *= (uint64_t)c.same;
    }
    v->report.n_element_copy += n_read - n_distinct;
    uint64_t n_missing = n_element(a) - n_distinct;
    if (n_missing == 0) return FQ_OK;
    v->report.n_element_missing += n_missing;
    if (!v->differs)
        fqi_fail(&v->first, FQ_E_DIFFERS, FQI_TENSOR(v->a->shard[a->shard].path, a->name), "map-not-onto",
                 "found %llu elements that no element of %s holds, expected none", (unsigned long long)n_missing, v->b->info.path);
    v->differs = true;
    return FQ_OK;
}

static const fqi_part_plan *part_of(const verify *v, const fqi_tensor *a)
{
    return fqi_parts_of(&v->parts, (size_t)(a - v->a->tensor));
}

static fq_status make_part(void *user, const fqi_compare_item *i, uint64_t off, unsigned char *out, size_t n, fq_err *e)
{
    const verify *v = user;
    return fqi_parts_make(&v->parts, v->run, (size_t)(i->a - v->a->tensor), off, out, n, e);
}

/* The tensor of B that must hold tensor `a`, by name; its maps. */
static bool target_name(const verify *v, const fqi_tensor *a, char name[4096], const fqi_map *map[FQ_MAX_RANK])
{
    fqi_bound bound = { .layer = -1, .expert = -1, .canonical = a->name };
    for (int d = 0; d < FQ_MAX_RANK; d++) map[d] = NULL;
    if (!v->fitted) {
        size_t n = strlen(a->name);
        if (n >= 4096) return false;
        memcpy(name, a->name, n + 1);
        return true;
    }
    if (!fqi_bind_name(v->family, &v->prov.from, a->name, &bound) && !fqi_bind_extra_bias(v->family, &v->prov.from, a->name, &bound)) bound = (fqi_bound){ .layer = -1, .expert = -1, .canonical = a->name };
    const fqi_part_plan *part = part_of(v, a);
    if (!part && bound.row && bound.row->rank != a->rank) return false;
    if (part) memcpy(map, part->map, sizeof part->map);
    else fqi_maps_of_row(&v->prov.maps, bound.row, map);
    return fqi_rename(&v->prov.from, &v->prov.to, &bound, a->name, name, 4096);
}

static fq_status match_one(verify *v, const fqi_tensor *a, fq_err *e)
{
    char name[4096];
    fqi_compare_item *i = &v->item[v->n_item];
    *i = (fqi_compare_item){ .a = a };
    bool named = target_name(v, a, name, i->map);
    size_t k = named ? fqi_ckpt_find(v->b, name) : NONE;
    if (k == NONE || v->b_used[k]) {
        differ_missing(v, named ? name : a->name, a);
        return FQ_OK;
    }
    v->b_used[k] = true;
    i->b = &v->b->tensor[k];
    const fqi_part_plan *part = part_of(v, a);
    i->computed = part && part->computed;
    if (part) memcpy(i->fill, part->fill, sizeof i->fill);
    if (!same_form(v, a, i->b, i->map, i->computed ? part : NULL)) {
        v->report.n_element_missing += n_element(a);
        v->report.n_element_wrong += n_element(i->b);
        return FQ_OK;
    }
    v->n_item++;
    return i->computed ? FQ_OK : count_map(v, a, i->map, e);
}

/* Modules of two forms are compared as numbers, and their parts are done with. */
static fq_status compare_forms(verify *v, fq_err *e)
{
    fqi_forms f = { .a = v->a, .b = v->b, .run = v->run, .a_used = v->a_used, .b_used = v->b_used };
    bool differ_in_form;
    FQI_TRY(fqi_forms_differ(v->a, v->b, &differ_in_form, e));
    if (!differ_in_form) return FQ_OK;
    FQI_TRY(fqi_forms_compare(&f, e));
    v->report.n_tensor_recoded = f.n_part - f.n_part_bad;
    v->report.n_tensor_bad += f.n_part_bad;
    v->report.n_element_same += f.n_same;
    v->report.n_element_wrong += f.n_wrong;
    if (f.differs) v->first = f.first;
    v->differs = f.differs;
    return FQ_OK;
}

static fq_status match(verify *v, fq_err *e)
{
    v->a_used = fqi_calloc(v->a->n_tensor + 1, sizeof *v->a_used);
    v->b_used = fqi_calloc(v->b->n_tensor + 1, sizeof *v->b_used);
    v->item = fqi_calloc(v->a->n_tensor + v->b->n_tensor + 1, sizeof *v->item);
    if (!v->a_used || !v->b_used || !v->item) return fqi_fail_nomem(e, "tensor table");
    if (!v->fitted) FQI_TRY(compare_forms(v, e));
    for (size_t i = 0; i < v->a->n_tensor; i++)
        if (!v->a_used[i]) FQI_TRY(match_one(v, &v->a->tensor[i], e));
    for (size_t k = 0; k < v->b->n_tensor; k++) {
        const fqi_tensor *b = &v->b->tensor[k];
        if (v->b_used[k]) continue;
        if (v->fitted && fqi_prov_is_added(&v->prov, b->name)) {
            v->item[v->n_item++] = (fqi_compare_item){ .b = b };
            v->report.n_tensor_added++;
        } else {
            differ_extra(v, b);
        }
    }
    for (size_t i = 0; i < v->prov.n_added; i++)
        if (fqi_ckpt_find(v->b, v->prov.added[i]) == NONE) differ_missing(v, v->prov.added[i], NULL);
    return FQ_OK;
}

/* B is read front to back, shard after shard. */
static int by_place(const void *x, const void *y)
{
    const fqi_tensor *a = ((const fqi_compare_item *)x)->b, *b = ((const fqi_compare_item *)y)->b;
    if (a->shard != b->shard) return a->shard < b->shard ? -1 : 1;
    if (a->off != b->off) return a->off < b->off ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* ---- the job ---- */

static bool is_mapped(const fqi_compare_item *i)
{
    for (int d = 0; d < FQ_MAX_RANK; d++)
        if (i->map[d]) return true;
    return i->computed;
}

static fq_status compare(verify *v, fq_err *e)
{
    qsort(v->item, v->n_item, sizeof *v->item, by_place);
    fqi_compare c = { .ckpt_a = v->a, .ckpt_b = v->b, .item = v->item, .n_item = v->n_item, .make = make_part, .user = v, .run = v->run };
    FQI_TRY(fqi_compare_run(&c, e));
    fq_verify_report *r = &v->report;
    for (size_t k = 0; k < v->n_item; k++) {
        const fqi_compare_item *i = &v->item[k];
        r->n_element_same += i->n_same;
        r->n_element_zero += i->n_zero;
        r->n_element_wrong += i->n_wrong;
        if (i->n_wrong > 0) r->n_tensor_bad++;
        else if (i->a && is_mapped(i)) r->n_tensor_mapped++;
        else if (i->a) r->n_tensor_equal++;
    }
    if (c.differs && !v->differs) v->first = c.first;
    v->differs = v->differs || c.differs;
    return FQ_OK;
}

static fq_status load_provenance(verify *v, fq_err *e)
{
    char name[FQI_NAME_MAX + 1], *path = fqi_path_join(v->b->dir, FQI_PROV_FILE);
    if (!path) return fqi_fail_nomem(e, "path");
    v->fitted = fqi_path_exists(path);
    free(path);
    if (!v->fitted) {
        if (v->run->log) v->run->log(v->run->user, FQ_LOG_INFO, "no fitq.json: both must hold the same tensors under the same names");
        return FQ_OK;
    }
    FQI_TRY(fqi_prov_load(v->b->dir, &v->prov, e));
    if (v->prov.quantized && v->a->info.fitted && v->a->info.model.quant != FQ_QUANT_NONE) {   /* perhaps one of them is the other one, converted */
        fqi_prov_free(&v->prov);
        v->fitted = false;
        return FQ_OK;
    }
    if (v->prov.quantized)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(v->b->info.path), "quantized",
                        "found a model that fitq quantized, expected one that it padded: its weights were rounded, so none is the same; numbers can be compared (fitq eval, or fitq verify without --weights)");
    v->family = fqi_family_find(v->prov.family);
    if (v->family) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(v->b->info.path), "fitq-json", "found family \"%s\", expected one that this version knows",
                    fqi_escape(name, v->prov.family));
}

/* What the two are compared for anyway is judged by comparing: a tensor that B lacks is a difference, with the name it should
 * have, not an unreadable file. */
static fq_status check_b(const fq_ckpt *b, fq_err *e)
{
    static const char *const judged[] = { "tensor-missing", "tied-embeddings", "tensor-shape", "tensor-rank", "unknown-tensor", "tensor-without-place" };
    for (size_t i = 0; i < fq_ckpt_n_finding(b); i++) {
        const fq_finding *f = fq_ckpt_get_finding(b, i);
        bool ours = f->severity != FQ_ERROR;
        for (size_t k = 0; k < sizeof judged / sizeof judged[0]; k++) ours = ours || strcmp(f->rule, judged[k]) == 0;
        if (!ours) return fq_ckpt_check(b, e);
    }
    return FQ_OK;
}

/* The order follows from g_idx of A. The file that unpad will need is looked at too. */
static fq_status check_order(verify *v, fq_err *e)
{
    fqi_fold stored;
    fq_status s = fqi_fold_open(v->b, v->prov.order_hash, &stored, e);
    const size_t n = stored.n_mlp;
    fqi_fold_free(&stored);
    if (s == FQ_OK) s = fqi_fold_find(v->a, v->run, &v->fold, e);
    if (s != FQ_OK || n == v->fold.n_mlp) return s;
    return fqi_fail(e, FQ_E_DIFFERS, FQI_FILE(v->b->info.path), "fitq-order", "found %zu MLPs with an order in %s, expected the %zu whose g_idx in %s has one", n, FQI_ORDER_FILE, v->fold.n_mlp, v->a->info.path);
}

static fq_status run_verify(verify *v, const char *a, const char *b, fq_err *e)
{
    FQI_TRY(fq_ckpt_open(a, v->run, &v->a, e));
    FQI_TRY(fq_ckpt_open(b, v->run, &v->b, e));
    FQI_TRY(fq_ckpt_check(v->a, e));
    FQI_TRY(check_b(v->b, e));
    FQI_TRY(load_provenance(v, e));
    if (v->prov.n_folded) FQI_TRY(check_order(v, e));
    if (v->fitted) FQI_TRY(fqi_parts_create(v->a, &(fqi_parts_request){ .maps = &v->prov.maps, .regroup = v->prov.group_new, .fold = &v->fold }, &v->parts, e));
    FQI_TRY(match(v, e));
    v->report.n_tensor = v->b->n_tensor;
    FQI_TRY(compare(v, e));
    if (!v->differs) return fq_ckpt_check(v->b, e); /* the same weights, and still not a model */
    if (e) *e = v->first;
    size_t n = strnlen(v->first.text, sizeof v->report.first_bad - 1);
    memcpy(v->report.first_bad, v->first.text, n);
    v->report.first_bad[n] = '\0';
    return FQ_E_DIFFERS;
}

fq_status fq_verify_weights(const char *a, const char *b, const fq_run *run, fq_verify_report *report, fq_err *e)
{
    static const fq_run default_run = { 0 };
    verify v = { .run = run ? run : &default_run };
    if (!a || !b) return fqi_fail(e, FQ_E_USAGE, NULL, "paths", "found one checkpoint, expected two");
    fq_status s = run_verify(&v, a, b, e);
    if (report && (s == FQ_OK || s == FQ_E_DIFFERS)) *report = v.report;
    free(v.item);
    free(v.a_used);
    free(v.b_used);
    fqi_parts_free(&v.parts);
    fqi_fold_free(&v.fold);
    if (v.fitted) fqi_prov_free(&v.prov);
    fq_ckpt_close(v.a);
    fq_ckpt_close(v.b);
    return s;
}
