/* ends.c - reads generation_config.json (see ends.h). */
#include "job/ends.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"

#define FILE_MAX_BYTES (UINT64_C(1) << 20)   /* they have a few hundred */
#define FIELD "eos_token_id"

static fq_status fail_value(const char *file, const char *found, int64_t n_vocab, fq_err *e)
{
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "json-value", FIELD ": found %s, expected a token id from 0 to %lld, or a list of up to %d of them", found,
                    (long long)n_vocab - 1, FQI_ENDS_MAX);
}

static fq_status add(const json_t *v, const char *file, int64_t n_vocab, fqi_ends *out, fq_err *e)
{
    char found[32];
    if (!json_is_integer(v)) return fail_value(file, json_is_number(v) ? "a number that is no integer" : "something that is no number", n_vocab, e);
    json_int_t id = json_integer_value(v);
    if (id < 0 || id >= n_vocab) {
        snprintf(found, sizeof found, "%lld", (long long)id);
        return fail_value(file, found, n_vocab, e);
    }
    if (out->n == FQI_ENDS_MAX) return fail_value(file, "more", n_vocab, e);
    out->id[out->n++] = (uint32_t)id;
    return FQ_OK;
}

static fq_status from_value(const json_t *v, const char *file, int64_t n_vocab, fqi_ends *out, fq_err *e)
{
    if (!json_is_array(v)) return add(v, file, n_vocab, out, e);
    size_t n = json_array_size(v);
    if (n == 0) return fail_value(file, "an empty list", n_vocab, e);
    for (size_t i = 0; i < n; i++) FQI_TRY(add(json_array_get(v, i), file, n_vocab, out, e));
    return FQ_OK;
}

static fq_status from_file(const char *path, int64_t n_vocab, fqi_ends *out, fq_err *e)
{
    char *text;
    size_t n;
    json_t *root = NULL;
    FQI_TRY(fqi_file_slurp(path, FILE_MAX_BYTES, &text, &n, e));
    fq_status s = fqi_json_parse(text, n, path, &root, e);
    free(text);
    FQI_TRY(s);
    const json_t *v = json_object_get(root, FIELD);
    if (!json_is_object(root)) s = fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "json-type", "found a file that is no JSON object, expected an object");
    else if (v && !json_is_null(v)) s = from_value(v, path, n_vocab, out, e);
    json_decref(root);
    return s;
}

fq_status fqi_ends_read(const char *dir, const fqi_decoder *d, int64_t n_vocab, fqi_ends *out, fq_err *e)
{
    fqi_ends ends = { 0 };
    char *path = fqi_path_join(dir, "generation_config.json");
    if (!path) return fqi_fail_nomem(e, "path");
    fq_status s = fqi_path_exists(path) ? from_file(path, n_vocab, &ends, e) : FQ_OK;
    free(path);
    FQI_TRY(s);
    /* the decoder was read from config.json and its ids were checked there */
    for (size_t i = 0; ends.n == 0 && i < d->n_eos; i++) out->id[i] = d->eos[i];
    if (ends.n == 0) out->n = d->n_eos;
    else *out = ends;
    return FQ_OK;
}

bool fqi_ends_has(const fqi_ends *ends, uint32_t id)
{
    for (size_t i = 0; i < ends->n; i++)
        if (ends->id[i] == id) return true;
    return false;
}
