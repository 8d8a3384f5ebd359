/* soundness.c - the table of tensors against config.json: everything that would make an engine stop, or compute something else.
 *
 * Header-only: values are never read. All checks run, whatever the others found; a check is left out only when what it compares
 * against is unknown (no config.json, an unknown family, names that follow no naming). The severity says what a job does: an
 * error stops it, a warning is something a user should look at, a note is a fact. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/opening.h"
#include "checkpoint/packed.h"
#include "checkpoint/quantized.h"

#define RULE_NO_PLACE "tensor-without-place"

typedef struct checking {
    fqi_opening *o;
    fq_ckpt *c;
    const fqi_family *family;   /* NULL = unknown */
    const char *config_path;
} checking;

static const char *shard_path(const fq_ckpt *c, const fqi_tensor *t) { return c->shard[t->shard].path; }

/* ---- config.json ---------------------------------------------------------------------------------------------------- */

static fq_status load_config(checking *k, fq_err *e)
{
    fq_ckpt *c = k->c;
    fqi_findings *find = k->o->find;
    if (!fqi_path_exists(k->config_path)) {
        FQI_FIND(find, k->o->single ? FQ_NOTE : FQ_WARNING, FQI_FILE(c->dir), "config-missing",
                 "found no config.json, expected one: only the files themselves can be checked");
        return FQ_OK;
    }
    bool allowed;
    FQI_TRY(fqi_source_allows(c->dir, k->config_path, &allowed, e));
    if (!allowed) {
        FQI_FIND(find, FQ_ERROR, FQI_FILE(k->config_path), "link-leaves-folder", "found a link to nothing or to something outside, expected a file in the folder");
        return FQ_OK;
    }
    if (fqi_path_is_dir(k->config_path)) {   /* of a folder fqi_config_load would read the config.json in it */
        FQI_FIND(find, FQ_ERROR, FQI_FILE(k->config_path), "file-kind", "found a folder, expected a regular file");
        return FQ_OK;
    }
    fq_err why;
    fq_status s = fqi_config_load(k->config_path, &c->config, &why);
    if (s == FQ_E_INPUT) {
        fqi_finding_from(find, FQ_ERROR, &why);
        return FQ_OK;
    }
    if (s != FQ_OK) {
        if (e) *e = why;
        return s;
    }
    c->has_config = true;
    k->family = c->config.family;
    if (!k->family && fqi_family_unknown(c->config.model.model_type, k->config_path, &why) != FQ_OK) fqi_finding_from(find, FQ_WARNING, &why);
    return FQ_OK;
}

/* ---- names ---------------------------------------------------------------------------------------------------------- */

static void say_unusual(checking *k)
{
    const fqi_naming *n = &k->c->naming;
    if (n->usual) return;
    char wrapper[FQI_NAME_MAX + 1], body[FQI_NAME_MAX + 1], head[FQI_NAME_MAX + 1];
    fqi_escape(wrapper, n->wrapper);
    fqi_escape(body, n->body_prefix);
    fqi_escape(head, n->head_prefix);
    const char *usual = k->family->body_prefix[0];
    if (n->wrapper[0])
        FQI_FIND(k->o->find, FQ_WARNING, FQI_FILE(k->o->path), "prefix",
                 "found names that begin with \"%s%s\", expected \"%s\": a trainer left \"%s\"; fitq pad --prefix strip writes names without it", wrapper, body,
                 usual, wrapper);
    else
        FQI_FIND(k->o->find, FQ_WARNING, FQI_FILE(k->o->path), "prefix",
                 "found names that begin with \"%s\" (output head: \"%s\"), expected \"%s\": engines find no weights; fitq pad --prefix %s writes the usual names",
                 body, head, usual, usual);
}

/* Without a known family the prefix is still worth telling; then nothing is judged by it. */
static fq_status detect_naming(checking *k, fq_err *e)
{
    fq_ckpt *c = k->c;
    if (c->n_tensor == 0) return FQ_OK;
    const char **name = fqi_calloc(c->n_tensor, sizeof *name);
    if (!name) return fqi_fail_nomem(e, "names");
    for (size_t i = 0; i < c->n_tensor; i++) name[i] = c->tensor[i].name;
    const fqi_family *f = k->family ? k->family : fqi_family_at(0);
    fq_err why;
    fq_status s = fqi_naming_detect(f, name, c->n_tensor, k->o->path, &c->naming, &why);
    free(name);
    c->has_naming = s == FQ_OK;
    if (!k->family) return FQ_OK;
    if (s == FQ_OK) say_unusual(k);
    else fqi_finding_from(k->o->find, FQ_ERROR, &why);
    return FQ_OK;
}

static fq_status bind_all(checking *k, fq_err *e)
{
    fq_ckpt *c = k->c;
    size_t n_passed = 0;
    c->bound = fqi_calloc(c->n_tensor, sizeof *c->bound);
    if (!c->bound) return fqi_fail_nomem(e, "bindings");
    for (size_t i = 0; i < c->n_tensor; i++) {
        const fqi_tensor *t = &c->tensor[i];
        fqi_bound *b = &c->bound[i];
        if (fqi_bind_name(k->family, &c->naming, t->name, b)) {
            n_passed += b->row == NULL;
            continue;
        }
        if (fqi_packed_bind(k->family, &c->naming, t->name, b)) continue;
        if (fqi_bind_extra_bias(k->family, &c->naming, t->name, b) && fqi_quant_beside(c, t->name, strlen(t->name) - strlen(".bias"))) continue;
        *b = (fqi_bound){ .layer = -1, .expert = -1 };
        FQI_FIND(k->o->find, FQ_ERROR, FQI_TENSOR(shard_path(c, t), t->name), "unknown-tensor", "found no such tensor in family %s", k->family->name);
    }
    if (n_passed > 0)
        FQI_FIND(k->o->find, FQ_NOTE, FQI_FILE(k->o->path), "passed-through", "found %zu tensor%s that no fit changes (vision tower, rotary buffers and the like): copied unchanged", n_passed,
                 n_passed == 1 ? "" : "s");
    return FQ_OK;
}

/* ---- what must be there, and what nobody announces ------------------------------------------------------------------------------------------------ */

/* A layer or an expert past the last one; or a part of a mixture in a dense layer, or the reverse. */
static void say_no_place(checking *k, const fqi_misfit *m)
{
    const fq_model *model = &k->c->config.model;
    const fqi_tensor *t = &k->c->tensor[m->index];
    const fqi_where *where = FQI_TENSOR(shard_path(k->c, t), t->name);
    if (m->layer >= model->num_hidden_layers)
        FQI_FIND(k->o->find, FQ_ERROR, where, RULE_NO_PLACE, "found layer %" PRId64 ", expected one below num_hidden_layers %" PRId64, m->layer, model->num_hidden_layers);
    else if (model->num_experts > 0 && m->expert >= model->num_experts)
        FQI_FIND(k->o->find, FQ_ERROR, where, RULE_NO_PLACE, "found expert %" PRId64 ", expected one below the number of experts %" PRId64, m->expert, model->num_experts);
    else if (m->row->need == FQI_IF_DENSE || m->row->need == FQI_IF_MLP_BIAS)
        FQI_FIND(k->o->find, FQ_ERROR, where, RULE_NO_PLACE, "found a part of a dense MLP in layer %" PRId64 ", expected none: config.json makes this layer sparse", m->layer);
    else
        FQI_FIND(k->o->find, FQ_ERROR, where, RULE_NO_PLACE, "found a part of a mixture of experts in layer %" PRId64 ", expected none: config.json makes this layer dense", m->layer);
}

static const char *misfit_rule(const fqi_misfit *m)
{
    switch (m->kind) {
    case FQI_NO_PLACE: return RULE_NO_PLACE;
    case FQI_TWO_FORMS: return "experts-in-two-forms";
    case FQI_MISSING: break;
    }
    return m->row->scope == FQI_HEAD ? "tied-embeddings" : "tensor-missing";
}

static void say_misfit(checking *k, const fqi_misfit *m)
{
    char name[512], shown[FQI_NAME_MAX + 1];
    const fq_ckpt *c = k->c;
    if (m->kind == FQI_NO_PLACE) {
        say_no_place(k, m);
        return;
    }
    fqi_row_name(k->family, m->row, m->layer, m->expert, name, sizeof name);
    if (m->kind == FQI_TWO_FORMS)
        FQI_FIND(k->o->find, FQ_ERROR, FQI_FILE(k->o->path), misfit_rule(m),
                 "found %s%s%s and experts of that layer one by one too, expected one form: engines read one and drop the other", c->naming.wrapper,
                 c->naming.body_prefix, fqi_escape(shown, name));
    else if (m->row->scope == FQI_HEAD)
        FQI_FIND(k->o->find, FQ_ERROR, FQI_FILE(k->o->path), misfit_rule(m),
                 "found no %s, expected one: tie_word_embeddings is false (engines would take random values)", fqi_escape(shown, name));
    else
        FQI_FIND(k->o->find, FQ_ERROR, FQI_FILE(k->o->path), misfit_rule(m), "found no %s%s%s%s, expected one", c->naming.wrapper,
                 c->naming.body_prefix, fqi_escape(shown, name), c->config.model.quant != FQ_QUANT_NONE && m->row->rank == 2 ? " and no codes of it" : "");
}

bool fqi_ckpt_bias_unannounced(const fq_ckpt *c, size_t i)
{
    const fqi_bound *b = &c->bound[i];
    if (!b->row || b->layer >= c->config.model.num_hidden_layers) return false;
    bool bias = b->row->need == FQI_IF_Q_BIAS || b->row->need == FQI_IF_KV_BIAS || b->row->need == FQI_IF_O_BIAS || b->row->need == FQI_IF_MLP_BIAS || b->row->need == FQI_BESIDE_CODES;
    return bias && !fqi_row_expected(b->row, &c->config.model, b->layer, c->config.layer_is_sparse);
}

/* An engine builds the layer without it and then stops or drops it, so what it computes may differ from what was trained; fitq itself only
 * moves values. */
static void check_unannounced(checking *k)
{
    const fq_ckpt *c = k->c;
    size_t n_beside = 0;
    for (size_t i = 0; i < c->n_tensor; i++) {
        const fqi_tensor *t = &c->tensor[i];
        if (!fqi_ckpt_bias_unannounced(c, i)) continue;
        const bool beside = fqi_quant_beside(c, t->name, strlen(t->name) - strlen(".bias"));
        n_beside += beside;
        if (!beside) FQI_FIND(k->o->find, FQ_WARNING, FQI_TENSOR(shard_path(c, t), t->name), "unannounced-bias",
                 "found a bias that config.json does not announce, expected none: engines stop at it or leave it out");
    }
    if (n_beside)
        FQI_FIND(k->o->find, FQ_NOTE, FQI_FILE(k->o->path), "unannounced-bias", "found %zu bias%s beside codes that config.json does not announce: packers write them, mostly zeros, and engines leave them out", n_beside,
                 n_beside == 1 ? "" : "es");
}

#define MAX_MISFIT ((size_t)64)

/* The codes of a packed module stand in for its weight here, and only here: everywhere else a packed tensor has no row, since its
 * shape is not the one that the row describes. */
static void lend_rows(checking *k, bool lend)
{
    fq_ckpt *c = k->c;
    fqi_packed p;
    for (size_t i = 0; i < c->n_tensor; i++) {
        fqi_bound *b = &c->bound[i];
        if (!b->canonical || !fqi_packed_split(c->tensor[i].name, &p)) continue;
        if (!lend || p.part != FQI_PART_CODES) b->row = NULL;
    }
}

static fq_status check_presence(checking *k, fq_err *e)
{
    fq_ckpt *c = k->c;
    if (c->partial) {
        FQI_FIND(k->o->find, FQ_NOTE, FQI_FILE(k->o->path), "one-of-several", "found one file of several: missing tensors are not looked for");
        return FQ_OK;
    }
    fqi_misfit misfit[MAX_MISFIT];
    size_t n;
    FQI_TRY(fqi_bind_check(k->family, &c->config.model, c->config.layer_is_sparse, c->bound, c->n_tensor, misfit, MAX_MISFIT, &n, e));
    for (size_t i = 0; i < n && i < MAX_MISFIT; i++) say_misfit(k, &misfit[i]);
    if (n > MAX_MISFIT)
        fqi_finding_more(k->o->find, FQ_ERROR, misfit_rule(&misfit[MAX_MISFIT - 1]), n - MAX_MISFIT);
    return FQ_OK;
}

/* ---- shapes ------------------------------------------------------------------------------------------------------------- */

static void check_dim(checking *k, const fqi_tensor *t, const fqi_row *row, int d)
{
    fqi_axis axis = (fqi_axis)row->dim[d].axis;
    if (axis == FQI_AX_FIXED) return;
    int64_t parts = row->dim[d].parts > 1 ? row->dim[d].parts : 1, want;
    if (__builtin_mul_overflow(fqi_axis_length(&k->c->config.model, axis), parts, &want) || t->shape[d] == want) return;
    FQI_FIND(k->o->find, FQ_ERROR, FQI_TENSOR(shard_path(k->c, t), t->name), "tensor-shape", "found %" PRId64 " in dimension %d, expected %" PRId64 " (%s%s)",
             t->shape[d], d, want, parts > 1 ? "2 x " : "", fqi_axis_name(axis));
}

static void check_shapes(checking *k)
{
    const fq_ckpt *c = k->c;
    for (size_t i = 0; i < c->n_tensor; i++) {
        const fqi_row *row = c->bound[i].row;
        const fqi_tensor *t = &c->tensor[i];
        if (!row) continue;
        if (t->rank != row->rank) {
            FQI_FIND(k->o->find, FQ_ERROR, FQI_TENSOR(shard_path(c, t), t->name), "tensor-rank", "found %d dimensions, expected %d", t->rank, row->rank);
            continue;
        }
        for (int d = 0; d < t->rank; d++) check_dim(k, t, row, d);
    }
}

/* ---- tied embeddings ------------------------------------------------------------------------------------------------------ */

static void drop(fq_ckpt *c, size_t i)
{
    memmove(&c->tensor[i], &c->tensor[i + 1], (c->n_tensor - i - 1) * sizeof *c->tensor);
    memmove(&c->bound[i], &c->bound[i + 1], (c->n_tensor - i - 1) * sizeof *c->bound);
    c->n_tensor--;
}

static bool same_storage(const fqi_tensor *a, const fqi_tensor *b)
{
    return a->shard == b->shard && a->off == b->off && a->bytes == b->bytes && a->dtype == b->dtype && a->rank == b->rank && a->rank > 0 && !a->stride && !b->stride &&
           memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

/* A head beside tied embeddings. torch.save writes both names over one storage: that is one tensor, and the second name is left
 * out. Two tensors are a warning: published models have them (a copy that engines skip), and fitq changes both alike. The other
 * contradiction, no head although the flag is false, is an error, since engines then start from random values. */
static void check_head(checking *k)
{
    fq_ckpt *c = k->c;
    size_t head = SIZE_MAX, embed = SIZE_MAX;
    for (size_t i = 0; i < c->n_tensor; i++) {
        const fqi_row *row = c->bound[i].row;
        if (row && row->scope == FQI_HEAD) head = i;
        if (row && row->scope == FQI_BODY && strcmp(row->role, "embed_tokens") == 0) embed = i;
    }
    if (head == SIZE_MAX || !c->config.model.tie_word_embeddings) return;
    const fqi_tensor *t = &c->tensor[head];
    if (embed != SIZE_MAX && same_storage(t, &c->tensor[embed])) {
        FQI_FIND(k->o->find, FQ_NOTE, FQI_TENSOR(shard_path(c, t), t->name), "tied-alias", "found the storage of the embeddings under a second name: it is read once");
        drop(c, head);
        return;
    }
    FQI_FIND(k->o->find, FQ_WARNING, FQI_TENSOR(shard_path(c, t), t->name), "tied-embeddings",
             "found an output head, expected none: tie_word_embeddings is true, so engines use the embeddings (this head is kept and fitted like them)");
}

/* ---- facts ------------------------------------------------------------------------------------------------------------------ */

static bool is_float(fq_dtype d)
{
    switch (d) {
    case FQ_DTYPE_F4: case FQ_DTYPE_F6_E2M3: case FQ_DTYPE_F6_E3M2: case FQ_DTYPE_F8_E5M2: case FQ_DTYPE_F8_E4M3: case FQ_DTYPE_F8_E8M0:
    case FQ_DTYPE_F8_E4M3FNUZ: case FQ_DTYPE_F8_E5M2FNUZ: case FQ_DTYPE_F16: case FQ_DTYPE_BF16: case FQ_DTYPE_F32: case FQ_DTYPE_C64: case FQ_DTYPE_F64:
        return true;
    default: return false;
    }
}

/* bytes * 8 / bits without going through bytes * 8. */
static uint64_t n_element(const fqi_tensor *t)
{
    unsigned bits = fq_dtype_bits((fq_dtype)t->dtype);
    return bits == 0 ? 0 : t->bytes / bits * 8 + t->bytes % bits * 8 / bits;
}

static uint64_t count_params(const checking *k, const fqi_tensor *t)
{
    fqi_packed p;
    const fq_model *m = &k->c->config.model;
    bool quantized = k->c->has_config && m->quant != FQ_QUANT_NONE;
    if (!fqi_packed_split(t->name, &p)) {
        size_t n = strlen(t->name);
        bool int_weight = quantized && n > 7 && strcmp(t->name + n - 7, ".weight") == 0;   /* W8A8 keeps the plain name */
        return is_float((fq_dtype)t->dtype) || int_weight ? n_element(t) : 0;
    }
    if (p.part != FQI_PART_CODES) return 0;
    unsigned bits = quantized && m->quant_bits >= 1 && m->quant_bits <= 8 ? (unsigned)m->quant_bits : 4;
    return t->bytes / bits * 8 + t->bytes % bits * 8 / bits;
}

static void say_dtypes(checking *k, const size_t n_of[FQ_N_DTYPE])
{
    int main = -1, other = -1;
    for (int d = 0; d < FQ_N_DTYPE; d++) {
        if (!is_float((fq_dtype)d) || n_of[d] == 0) continue;
        if (main < 0 || n_of[d] > n_of[main]) {
            other = main;
            main = d;
        } else if (other < 0 || n_of[d] > n_of[other]) {
            other = d;
        }
    }
    if (other >= 0)
        FQI_FIND(k->o->find, FQ_NOTE, FQI_FILE(k->o->path), "dtype-mix", "found %zu tensors in %s and %zu in %s", n_of[main], fq_dtype_name((fq_dtype)main),
                 n_of[other], fq_dtype_name((fq_dtype)other));
    static const struct { const char *torch; fq_dtype dtype; } spelled[] = {
        { "bfloat16", FQ_DTYPE_BF16 }, { "float16", FQ_DTYPE_F16 }, { "float32", FQ_DTYPE_F32 }, { "float64", FQ_DTYPE_F64 } };
    for (size_t i = 0; main >= 0 && k->c->has_config && i < sizeof spelled / sizeof *spelled; i++) {
        if (strcmp(k->c->config.model.torch_dtype, spelled[i].torch) != 0 || (int)spelled[i].dtype == main || k->c->config.model.quant != FQ_QUANT_NONE) continue;
        FQI_FIND(k->o->find, FQ_NOTE, FQI_FILE(k->config_path), "torch-dtype", "found %s, expected what most tensors are: %s", spelled[i].torch, fq_dtype_name((fq_dtype)main));
    }
}

static void count_all(checking *k)
{
    fq_ckpt *c = k->c;
    size_t n_of[FQ_N_DTYPE] = { 0 };
    for (size_t i = 0; i < c->n_tensor; i++) {
        const fqi_tensor *t = &c->tensor[i];
        c->info.tensor_bytes += t->bytes;
        c->info.dtype_bytes[t->dtype] += t->bytes;
        c->info.n_param += count_params(k, t);
        if (n_element(t) > 0) n_of[t->dtype]++;
        else FQI_FIND(k->o->find, FQ_NOTE, FQI_TENSOR(shard_path(c, t), t->name), "zero-size", "found a tensor without elements");
    }
    for (size_t i = 0; i < c->n_shard; i++) c->info.file_bytes += c->shard[i].bytes;
    say_dtypes(k, n_of);
    const fqi_index *x = &k->o->index;
    if (k->o->has_index && x->has_total && x->total != c->info.tensor_bytes && fqi_findings_n_error(k->o->find) == 0)
        FQI_FIND(k->o->find, FQ_NOTE, FQI_FILE(k->o->index_path), "total-size", "found %" PRIu64 ", expected %" PRIu64 "%s", x->total, c->info.tensor_bytes,
                 x->total == c->info.file_bytes ? " (it counts whole files)" : "");
}

static bool has_head(const fq_ckpt *c)
{
    for (size_t i = 0; i < c->n_tensor; i++) {
        const char *s = strstr(c->tensor[i].name, "lm_head.");
        if (s && (s == c->tensor[i].name || s[-1] == '.')) return true;
    }
    return false;
}

static fq_status fill_info(checking *k, fq_err *e)
{
    fq_ckpt *c = k->c;
    fq_ckpt_info *i = &c->info;
    i->has_model = c->has_config;
    if (c->has_config) i->model = c->config.model;
    i->container = c->n_shard > 0 && c->shard[0].torch ? "torch zip" : "safetensors";
    i->n_tensor = c->n_tensor;
    i->n_shard = c->n_shard;
    i->wrapper = c->has_naming ? c->naming.wrapper : "";
    i->prefix = c->has_naming ? fqi_arena_printf(&c->arena, "%s%s", c->naming.wrapper, c->naming.body_prefix) : "";
    if (!i->prefix) return fqi_fail_nomem(e, "prefix");
    i->tied = c->n_tensor > 0 && c->has_naming && !has_head(c);
    char *fitted = fqi_path_join(c->dir, "fitq.json");
    if (!fitted) return fqi_fail_nomem(e, "path");
    i->fitted = fqi_path_exists(fitted);
    free(fitted);
    if (i->fitted) FQI_FIND(k->o->find, FQ_NOTE, FQI_FILE(k->o->path), "fitted", "found fitq.json: fitq unpad gives the original back");
    return FQ_OK;
}

fq_status fqi_soundness_check(fqi_opening *o, fq_err *e)
{
    fq_ckpt *c = o->c;
    checking k = { .o = o, .c = c, .config_path = fqi_arena_printf(&c->arena, "%s/config.json", c->dir) };
    if (!k.config_path) return fqi_fail_nomem(e, "path");
    FQI_TRY(load_config(&k, e));
    FQI_TRY(detect_naming(&k, e));
    if (k.family && c->has_naming) {
        FQI_TRY(bind_all(&k, e));
        lend_rows(&k, true);
        FQI_TRY(check_presence(&k, e));
        check_unannounced(&k);
        check_head(&k);
        lend_rows(&k, false);
        check_shapes(&k);
    }
    FQI_TRY(fqi_soundness_quantized(o, e));
    count_all(&k);
    return fill_info(&k, e);
}
