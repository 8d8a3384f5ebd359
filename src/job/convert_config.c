/* convert_config.c - what is said of converted weights: quantization_config in config.json, quantize_config.json, fitq.json. See
 * convert_private.h.
 *
 * Which layers are plain is read from the tensors and not from the source's lists, which name layers in another format's way and on which
 * readers disagree. A layer that is plain everywhere is one expression; one that is plain here and there is named where it is, and so are the
 * names under which engines know it after they fused it. Where the form stays (gptq to gptq_v2) the source's own text stays too, but for the
 * members that name the version.
 *
 * A model that fitq padded is not converted (convert.c). One that it quantized keeps its record: nothing in it could be undone before. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/convert_private.h"
#include "job/outdir.h"

#define MAX_OWN ((size_t)16 << 20)
#define MAX_ORDER ((uint64_t)1 << 30)
#define PATH_MAX_BYTES 160

/* ---- which layers are plain ------------------------------------------------------------------------------------------ */

typedef struct list { const char **at; size_t n, cap; } list;

/* By row of the family's table and layer: linear layers that are plain, and quantized. */
typedef struct count { uint32_t plain, packed; } count;

typedef struct saying {
    fqi_convert *c;
    const fqi_family *f;
    size_t n_layer;
    count *of;                   /* [n_row][n_layer] */
    count *total;                /* [n_row] */
    list plain, skipped;
    bool lm_head, vision;
} saying;

/* Layers that engines fuse, and their name then. Sources: vllm model_executor/models (packed_modules_mapping). */
static const struct { const char *role[3]; const char *name; } fused[] = {
    { { "q_proj", "k_proj", "v_proj" }, "self_attn.qkv_proj" },
    { { "gate_proj", "up_proj", NULL }, "mlp.gate_up_proj" },
    { { "expert_gate_proj", "expert_up_proj", "expert_down_proj" }, "mlp.experts" },
    { { "shared_gate_proj", "shared_up_proj", NULL }, "mlp.shared_expert.gate_up_proj" },
};

/* Roles of the lists of modules that are quantized, each with one input. */
static const char *const block_role[][3] = {
    { "q_proj", "k_proj", "v_proj" }, { "o_proj" }, { "gate_proj", "up_proj" }, { "down_proj" }, { "expert_gate_proj", "expert_up_proj" }, { "expert_down_proj" },
    { "shared_gate_proj", "shared_up_proj" }, { "shared_down_proj" },
};
#define N_BLOCK (sizeof block_role / sizeof block_role[0])

static const char *const vision_name[] = { "visual", "vision_tower", "merger" };

static bool add(list *l, const char *text)
{
    void *at = l->at;
    if (!text || !fqi_grow(&at, &l->cap, l->n + 1, sizeof *l->at)) return false;
    l->at = at;
    l->at[l->n++] = text;
    return true;
}

/* A name as an expression that matches it. */
static void put_escaped(fqi_str *s, const char *text)
{
    for (; *text; text++) {
        if (strchr(".\\+*?[](){}^$|", *text)) fqi_str_puts(s, "\\");
        fqi_str_add(s, text, 1);
    }
}

/* Without ".weight". */
static void put_plain_suffix(fqi_str *s, const char *suffix, bool escaped)
{
    char text[128];
    const size_t n = strlen(suffix), tail = strlen(".weight");
    snprintf(text, sizeof text, "%.*s", (int)(n > tail && strcmp(suffix + n - tail, ".weight") == 0 ? n - tail : n), suffix);
    if (escaped) put_escaped(s, text);
    else fqi_str_puts(s, text);
}

static const char *keep(saying *s, fqi_str *text)
{
    const char *out = text->failed || !text->s ? NULL : fqi_arena_strdup(&s->c->arena, text->s);
    fqi_str_free(text);
    return out;
}

/* layer, expert: -1 any. name: of a fused layer, else the row's. */
static const char *expression(saying *s, const fqi_row *r, const char *name, int64_t layer, int64_t expert)
{
    fqi_str t = { 0 };
    fqi_str_puts(&t, ".*");
    if (layer >= 0) fqi_str_printf(&t, "layers\\.%" PRId64, layer);
    fqi_str_puts(&t, "\\.");
    if (!name && r->scope == FQI_EXPERT) {
        put_escaped(&t, s->f->expert_infix);
        if (expert >= 0) fqi_str_printf(&t, "%" PRId64 "\\.", expert);
        else fqi_str_puts(&t, "[0-9]+\\.");
    }
    if (name) put_escaped(&t, name);
    else put_plain_suffix(&t, r->suffix, true);
    fqi_str_puts(&t, "$");
    return keep(s, &t);
}

/* A part of the names of the row's layers. */
static const char *part_of_name(saying *s, const fqi_row *r, int64_t layer, int64_t expert)
{
    fqi_str t = { 0 };
    if (layer >= 0) fqi_str_printf(&t, "layers.%" PRId64 ".", layer);
    if (r->scope == FQI_EXPERT) {
        fqi_str_puts(&t, s->f->expert_infix);
        if (expert >= 0) fqi_str_printf(&t, "%" PRId64 ".", expert);
    }
    if (r->scope != FQI_EXPERT || expert >= 0) put_plain_suffix(&t, r->suffix, false);
    return keep(s, &t);
}

/* Would the part also name a quantized layer, as "mlp.gate" does "mlp.gate_proj"? Layers of experts have a number in between. */
static bool names_others(const saying *s, const char *part)
{
    for (size_t r = 0; r < s->f->n_row; r++)
        if (s->total[r].packed > 0 && s->f->row[r].scope == FQI_LAYER && strstr(s->f->row[r].suffix, part)) return true;
    return false;
}

static const count *at(const saying *s, size_t row, size_t layer) { return &s->of[row * s->n_layer + layer]; }

static bool say_row_in_layer(saying *s, size_t row, size_t layer)
{
    const fqi_row *r = &s->f->row[row];
    const fq_ckpt *c = s->c->ckpt;
    if (at(s, row, layer)->plain == 0) return true;
    if (at(s, row, layer)->packed == 0)
        return add(&s->plain, expression(s, r, NULL, (int64_t)layer, -1)) && add(&s->skipped, part_of_name(s, r, (int64_t)layer, -1));
    for (size_t i = 0; i < c->n_tensor; i++)   /* some experts of a layer */
        if (c->bound[i].row == r && c->bound[i].layer == (int64_t)layer &&
            (!add(&s->plain, expression(s, r, NULL, (int64_t)layer, c->bound[i].expert)) || !add(&s->skipped, part_of_name(s, r, (int64_t)layer, c->bound[i].expert)))) return false;
    return true;
}

static bool say_row(saying *s, size_t row)
{
    const fqi_row *r = &s->f->row[row];
    if (s->total[row].plain == 0 || (r->scope != FQI_LAYER && r->scope != FQI_EXPERT)) return true;
    const bool everywhere = s->total[row].packed == 0;
    const char *part = part_of_name(s, r, -1, -1);
    bool ok = part != NULL;
    if (everywhere) ok = ok && add(&s->plain, expression(s, r, NULL, -1, -1));
    if (everywhere && ok && !names_others(s, part)) return add(&s->skipped, part);
    for (size_t l = 0; l < s->n_layer && ok; l++) {
        if (!everywhere) ok = say_row_in_layer(s, row, l);
        else if (at(s, row, l)->plain > 0) ok = add(&s->skipped, part_of_name(s, r, (int64_t)l, -1));
    }
    return ok;
}

static size_t row_of_role(const saying *s, const char *role)
{
    for (size_t r = 0; r < s->f->n_row; r++)
        if (strcmp(s->f->row[r].role, role) == 0) return r;
    return SIZE_MAX;
}

/* All that is fused is plain: in a layer, or (NULL) wherever it is. */
static bool all_plain(const saying *s, const char *const role[3], const size_t *layer)
{
    for (size_t i = 0; i < 3 && role[i]; i++) {
        const size_t r = row_of_role(s, role[i]);
        const count *x = r == SIZE_MAX ? NULL : layer ? at(s, r, *layer) : &s->total[r];
        if (!x || x->plain == 0 || x->packed > 0) return false;
    }
    return true;
}

static bool say_fused(saying *s, size_t i)
{
    if (all_plain(s, fused[i].role, NULL)) return add(&s->plain, expression(s, NULL, fused[i].name, -1, -1));
    for (size_t l = 0; l < s->n_layer; l++)
        if (all_plain(s, fused[i].role, &l) && !add(&s->plain, expression(s, NULL, fused[i].name, (int64_t)l, -1))) return false;
    return true;
}

static bool is_vision(const char *name)
{
    for (size_t i = 0; i < sizeof vision_name / sizeof vision_name[0]; i++)
        if (strstr(name, vision_name[i])) return true;
    return false;
}

/* A matrix that no table knows: named as it is stored. */
static bool say_stranger(saying *s, const fqi_tensor *t)
{
    const size_t n = strlen(t->name), tail = strlen(".weight");
    fqi_str name = { 0 }, escaped = { 0 };
    if (t->rank != 2 || n <= tail || strcmp(t->name + n - tail, ".weight") != 0) return true;
    if (is_vision(t->name)) {
        s->vision = true;
        return true;
    }
    fqi_str_add(&name, t->name, n - tail);
    if (name.s) put_escaped(&escaped, name.s);
    fqi_str_puts(&escaped, "$");
    return add(&s->skipped, keep(s, &name)) && add(&s->plain, keep(s, &escaped));
}

static bool is_linear(const fqi_row *r) { return r->rank == 2 && strcmp(r->role, "embed_tokens") != 0; }

static bool look_at(saying *s, size_t i)
{
    const fq_ckpt *c = s->c->ckpt;
    fqi_bound b = c->bound[i];
    const uint32_t module = s->c->parts.of[i].module;
    const bool packed = module != FQI_NO_PART;
    int64_t length[2];
    if (packed && s->c->parts.of[i].part != FQI_PART_CODES) return true;
    if (packed && !fqi_quant_row(c, i, &b, length)) return true;
    if (!b.row) return packed || say_stranger(s, &c->tensor[i]);
    if (b.row->scope == FQI_HEAD) s->lm_head = s->lm_head || packed;
    if (!is_linear(b.row) || b.layer < 0 || (size_t)b.layer >= s->n_layer) return true;
    const size_t r = (size_t)(b.row - s->f->row);
    count *x = &s->of[r * s->n_layer + (size_t)b.layer];
    x->packed += packed;
    x->plain += !packed;
    s->total[r].packed += packed;
    s->total[r].plain += !packed;
    return true;
}

static fq_status look_at_all(saying *s, fq_err *e)
{
    const fq_ckpt *c = s->c->ckpt;
    bool ok = true;
    s->f = c->config.family;
    s->n_layer = (size_t)c->info.model.num_hidden_layers;
    s->of = fqi_calloc(s->f->n_row * (s->n_layer + 1), sizeof *s->of);
    s->total = fqi_calloc(s->f->n_row + 1, sizeof *s->total);
    ok = s->of && s->total;
    for (size_t i = 0; i < c->n_tensor && ok; i++) ok = look_at(s, i);
    for (size_t r = 0; r < s->f->n_row && ok; r++) ok = say_row(s, r);
    for (size_t i = 0; i < sizeof fused / sizeof fused[0] && ok; i++) ok = say_fused(s, i);
    if (ok && s->vision) ok = add(&s->plain, ".*(visual|vision_tower|merger).*");
    for (size_t i = 0; i < sizeof vision_name / sizeof vision_name[0] && ok && s->vision; i++) ok = add(&s->skipped, vision_name[i]);
    return ok ? FQ_OK : fqi_fail_nomem(e, "names of modules");
}

/* ---- which are quantized --------------------------------------------------------------------------------------------- */

static bool list_row(saying *s, const fqi_row *r, list *out)
{
    if (r->scope != FQI_EXPERT) return add(out, part_of_name(s, r, -1, -1));
    for (int64_t x = 0; x < s->c->ckpt->info.model.num_experts; x++)
        if (!add(out, part_of_name(s, r, -1, x))) return false;
    return true;
}

static bool list_block(saying *s, const char *const role[3], list *out)
{
    for (size_t i = 0; i < 3 && role[i]; i++) {
        const size_t r = row_of_role(s, role[i]);
        if (r != SIZE_MAX && s->total[r].packed > 0 && !list_row(s, &s->f->row[r], out)) return false;
    }
    return true;
}

/* ---- texts ----------------------------------------------------------------------------------------------------------- */

static fq_status print(fqi_convert *c, const char *pad, fqi_str *out, fq_err *e)
{
    saying s = { .c = c };
    list name[N_BLOCK] = { { NULL, 0, 0 } };
    fqi_quant_block block[N_BLOCK];
    bool ok = true;
    fq_status status = look_at_all(&s, e);
    for (size_t i = 0; i < N_BLOCK && status == FQ_OK; i++) {
        ok = ok && list_block(&s, block_role[i], &name[i]);
        block[i] = (fqi_quant_block){ .name = name[i].at, .n = name[i].n, .experts = strcmp(block_role[i][0], "expert_gate_proj") == 0 && name[i].n > 0 };
    }
    if (status == FQ_OK && ok) {
        const fqi_quant_text w = {
            .bits = c->parts.module[0].now.size.bits, .group_size = c->group_size, .sym = c->sym, .order = c->ordered, .lm_head = s.lm_head, .format = c->to->name,
            .plain = s.plain.at, .n_plain = s.plain.n, .skipped = s.skipped.at, .n_skipped = s.skipped.n, .block = block, .n_block = N_BLOCK,
        };
        c->to->text(&w, pad, out);
    }
    if (status == FQ_OK && (!ok || out->failed)) status = fqi_fail_nomem(e, "quantization_config");
    for (size_t i = 0; i < N_BLOCK; i++) free(name[i].at);
    free(s.plain.at);
    free(s.skipped.at);
    free(s.of);
    free(s.total);
    return status;
}

typedef struct edits { fqi_edit edit[16]; char path[16][PATH_MAX_BYTES]; size_t n; } edits;

static void edit(edits *x, const char *where, const char *key, const char *value)
{
    snprintf(x->path[x->n], sizeof x->path[0], "%.64s%s%.64s", where, *where ? "." : "", key);
    x->edit[x->n] = (fqi_edit){ .path = x->path[x->n], .value = value };
    x->n++;
}

static const char *sub_key(const fqi_convert *c)
{
    const fqi_family *f = c->ckpt->config.family;
    return f->text_config[0] ? f->text_config : "text_config";
}

static const json_t *object_at(const fqi_convert *c, const char *where)
{
    return *where ? json_object_get(c->ckpt->config.root, where) : c->ckpt->config.root;
}

static const char *const quant_key[] = { "quantization_config", "compression_config" };   /* the second is the older name */

/* Where the source says how it is quantized: "" or the member for the text model; *key: under which name. */
static const char *place_of_config(const fqi_convert *c, const char **key)
{
    const char *const where[] = { "", sub_key(c) };
    const json_t *found = fqi_config_quant(&c->ckpt->config);
    for (size_t k = 0; k < 2; k++)
        for (size_t w = 0; w < 2; w++)
            if (json_object_get(object_at(c, where[w]), quant_key[k]) == found && found) {
                *key = quant_key[k];
                return where[w];
            }
    *key = quant_key[0];
    return "";
}

/* One place says it afterwards, whatever the source had. NULL: none. */
static void replace_config(const fqi_convert *c, const char *value, edits *x)
{
    const char *const where[] = { "", sub_key(c) };
    const char *key, *place = place_of_config(c, &key);
    for (size_t w = 0; w < 2; w++)
        for (size_t k = 0; k < 2; k++)
            if (json_object_get(object_at(c, where[w]), quant_key[k]) && (k > 0 || !value || strcmp(where[w], place) != 0)) edit(x, where[w], quant_key[k], NULL);
    if (value) edit(x, place, quant_key[0], value);
}

/* The type that engines load weights in. */
static void set_dtype(const fqi_convert *c, const char *value, edits *x)
{
    static const char *const key[] = { "torch_dtype", "dtype" };
    const char *const where[] = { "", sub_key(c) };
    bool said = false;
    for (size_t w = 0; w < 2; w++)
        for (size_t k = 0; k < 2; k++)
            if (json_is_string(json_object_get(object_at(c, where[w]), key[k]))) {
                edit(x, where[w], key[k], value);
                said = true;
            }
    if (!said) edit(x, "", key[0], value);
}

static bool keeps_text(const fqi_convert *c) { return c->to->layout == FQI_QL_GPTQ && !c->to->dense && c->ckpt->info.model.quant == FQ_QUANT_GPTQ; }

/* The members that name the version of zero points. */
static void set_version(const char *where, const char *value, edits *x)
{
    edit(x, where, "checkpoint_format", value);
    edit(x, where, "format", value);
}

/* quantize_config.json of the source with another version; nothing where it has none. */
static fq_status own_with_version(fqi_convert *c, const char *value, fq_err *e)
{
    char *path = fqi_path_join(c->ckpt->dir, c->to->own_file), *text = NULL;
    size_t n = 0;
    edits x = { .n = 0 };
    if (!path) return fqi_fail_nomem(e, "path");
    fq_status s = FQ_OK;
    set_version("", value, &x);
    if (fqi_path_exists(path)) {
        s = fqi_file_slurp(path, MAX_OWN, &text, &n, e);
        if (s == FQ_OK) s = fqi_json_edit(text, n, path, x.edit, x.n, &c->own, &c->n_own, e);
    }
    free(text);
    free(path);
    return s;
}

static fq_status new_own(fqi_convert *c, fq_err *e)
{
    fqi_str own = { 0 };
    fq_status s = print(c, "", &own, e);
    if (s == FQ_OK) fqi_str_puts(&own, "\n");
    if (s == FQ_OK && own.failed) s = fqi_fail_nomem(e, c->to->own_file);
    if (s != FQ_OK) {
        fqi_str_free(&own);
        return s;
    }
    c->own = own.s;
    c->n_own = own.len;
    return FQ_OK;
}

static fq_status edit_config(fqi_convert *c, const edits *x, fq_err *e)
{
    const fqi_config *k = &c->ckpt->config;
    return fqi_json_edit(k->text, k->n_text, c->o->source, x->edit, x->n, &c->config, &c->n_config, e);
}

static fq_status dense_config(fqi_convert *c, fq_err *e)
{
    char value[32];
    edits x = { .n = 0 };
    snprintf(value, sizeof value, "\"%s\"", c->to->torch_dtype);
    replace_config(c, NULL, &x);
    set_dtype(c, value, &x);
    return edit_config(c, &x, e);
}

static fq_status version_config(fqi_convert *c, fq_err *e)
{
    char value[32], path[PATH_MAX_BYTES];
    const char *key, *place = place_of_config(c, &key);
    edits x = { .n = 0 };
    snprintf(value, sizeof value, "\"%s\"", c->to->name);
    snprintf(path, sizeof path, "%.64s%s%.64s", place, *place ? "." : "", key);
    set_version(path, value, &x);
    FQI_TRY(edit_config(c, &x, e));
    return own_with_version(c, value, e);
}

static fq_status new_config(fqi_convert *c, fq_err *e)
{
    edits x = { .n = 0 };
    fqi_str in = { 0 };
    fq_status s = print(c, "  ", &in, e);
    if (s == FQ_OK) {
        replace_config(c, in.s, &x);
        s = edit_config(c, &x, e);
    }
    fqi_str_free(&in);
    return s == FQ_OK && c->to->own_file ? new_own(c, e) : s;
}

/* ---- the record of fitq quantize ------------------------------------------------------------------------------------- */

static fq_status carry_record(fqi_convert *c, fq_err *e)
{
    if (!c->ckpt->info.fitted) return FQ_OK;
    FQI_TRY(fqi_prov_converted(c->ckpt->dir, c->to->name, c->config, &c->record, &c->n_record, e));
    char *path = fqi_path_join(c->ckpt->dir, FQI_ORDER_FILE);
    if (!path) return fqi_fail_nomem(e, "path");
    const fq_status s = fqi_path_exists(path) ? fqi_file_slurp(path, MAX_ORDER, &c->order, &c->n_order, e) : FQ_OK;
    free(path);
    return s;
}

fq_status fqi_convert_config(fqi_convert *c, fq_err *e)
{
    FQI_TRY(c->to->dense ? dense_config(c, e) : keeps_text(c) ? version_config(c, e) : new_config(c, e));
    return carry_record(c, e);
}
