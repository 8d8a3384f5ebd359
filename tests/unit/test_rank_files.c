/* test_rank_files.c - fitq-ranks.json is written, read back equal, and refused when something in it is not what fitq shard writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "job/rank_files.h"
#include "make_ckpt.h"
#include "seal.h"

static char *sample(void)
{
    static const char *file[] = { "model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors", "model-rank-1-part-1.safetensors", "fitq-rest.safetensors" };
    static const char *source[] = { "a.safetensors", "b.safetensors" };
    static const fqi_range halves[] = { { 0, 3 }, { 3, 2 } }, second[] = { { 0, 0 }, { 0, 1 } };
    static const fqi_rank_cut cut = { .dim = 1, .parts = 2, .length = 10, .range = halves }, one = { .dim = -1, .parts = 1, .length = 1, .range = second };
    const fqi_rank_cut *cuts[] = { &cut, &one };
    size_t first[] = { 0, 1, 3, 4 }, n;
    fqi_rank_tensor t[] = {
        { .name = "x", .dtype = FQ_DTYPE_BF16, .rank = 2, .shape = { 4, 10 }, .file = 1, .cut = &cut, .in = "y", .at_dim = 0, .at = 7, .hash = { 1, 2 } },
        { .name = "z", .dtype = FQ_DTYPE_F32, .rank = 0, .cut = &one, .in = "z", .at_dim = -1, .hash = { UINT64_MAX, 0 } },
        { .name = "rest", .dtype = FQ_DTYPE_U8, .rank = 5, .shape = { 1, 2, 3, 4, 5 }, .in = "rest", .at_dim = -1 },
    };
    fqi_rank_files f = { .tp = 2, .expert_parallel = true, .engine_names = true, .file = file, .n_file = 4, .first = first, .source_file = source, .n_source_file = 2,
                               .cut = cuts, .n_cut = 2, .tensor = t, .n_tensor = 3 };
    char *text;
    fq_err e;
    if (fqi_rank_files_print(&f, &text, &n, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(strlen(text), n);
    return text;
}

static fq_status load(const char *text, fqi_rank_files *f, fq_err *e)
{
    char *dir = fqt_tempdir();
    fqt_write(dir, FQI_RANKS_FILE, text, strlen(text));
    const fq_status s = fqi_rank_files_load(dir, f, e);
    fqt_remove(dir);
    free(dir);
    return s;
}

static void test_round_trip(void **state)
{
    (void)state;
    char *text = sample();
    fqi_rank_files f;
    fq_err e;
    if (load(text, &f, &e) != FQ_OK) fail_msg("%s", e.text);
    free(text);
    assert_true(f.tp == 2 && f.expert_parallel && f.engine_names && f.n_file == 4 && f.n_source_file == 2 && f.n_cut == 2 && f.n_tensor == 3);
    assert_true(f.first[0] == 0 && f.first[1] == 1 && f.first[2] == 3 && f.first[3] == 4);
    assert_string_equal(f.file[3], "fitq-rest.safetensors");
    assert_string_equal(f.source_file[1], "b.safetensors");
    for (size_t i = 0; i < f.n_tensor; i++) {
        const fqi_rank_tensor *t = &f.tensor[i];
        if (strcmp(t->name, "x") == 0) {
            assert_string_equal(t->in, "y");
            assert_true(t->dtype == FQ_DTYPE_BF16 && t->rank == 2 && t->shape[1] == 10 && t->file == 1 && t->at_dim == 0 && t->at == 7 && t->hash.hi == 1 && t->hash.lo == 2);
            assert_true(t->cut->dim == 1 && t->cut->parts == 2 && t->cut->length == 10 && t->cut->range[1].first == 3 && t->cut->range[1].n == 2);
        } else if (strcmp(t->name, "z") == 0) {
            assert_true(t->rank == 0 && t->cut->dim == -1 && t->cut->range[0].n == 0 && t->cut->range[1].n == 1 && t->at_dim == -1 && t->hash.hi == UINT64_MAX);
        } else {
            assert_true(!t->cut && t->rank == 5 && t->shape[4] == 5);
        }
    }
    fqi_rank_files_free(&f);
}

/* One value replaced: where (members and indices), by what. */
static const struct { const char *path, *value, *says; } wrong[] = {
    { "schema", "2", "another schema" },
    { "tp", "3", "no list of files for each rank" }, { "tp", "0", "no number of ranks" }, { "tp", "65", "no number of ranks" }, { "tp", "2.0", "no number of ranks" },
    { "ranks", "{}", "no list of files for each rank" }, { "ranks.1", "[]", "a rank without files" }, { "ranks.0.0", "\"../x\"", "a file that is no plain name" }, { "ranks.0.0", "7", "a file that is no plain name" },
    { "rest", "7", "no list of files for each rank" }, { "rest.0", "\"a/b\"", "a file that is no plain name" }, { "source_files.0", "\"\"", "a file that is no plain name" },
    { "cuts", "7", "no cuts" }, { "cuts.0", "[]", "a cut without" }, { "cuts.0.dim", "3", "a cut without" }, { "cuts.0.parts", "3", "a cut without" }, { "cuts.0.length", "11", "a cut without" },
    { "cuts.0.length", "-10", "a cut without" }, { "cuts.0.ranks", "[]", "a cut without" }, { "cuts.0.ranks.0", "[0, 6]", "outside of its dimension" }, { "cuts.0.ranks.1", "[5, 1]", "outside of its dimension" },
    { "cuts.0.ranks.1", "[3, 0]", "outside of its dimension" }, { "cuts.0.ranks.1", "[-1, 2]", "outside of its dimension" }, { "cuts.0.ranks.1", "[9223372036854775807, 2]", "outside of its dimension" },
    { "cuts.1.length", "2", "a cut without" },
    { "tensors", "[]", "no tensors" }, { "tensors", "{}", "no tensors" }, { "tensors.x.dtype", "\"F7\"", "without a dtype" }, { "tensors.x.shape", "7", "without a shape" }, { "tensors.x.shape", "[1,1,1,1,1,1,1,1,1]", "without a shape" },
    { "tensors.x.shape.0", "-1", "a length that is no number" }, { "tensors.x.shape.1", "9", "a cut of a dimension" }, { "tensors.x.file", "2", "a file that is not listed" }, { "tensors.x.cut", "2", "a cut that is not listed" },
    { "tensors.x.cut", "-1", "a cut that is not listed" }, { "tensors.z.cut", "0", "a cut of a dimension" }, { "tensors.x.in", "7", "\"in\" other than a name" }, { "tensors.x.at", "[2, 0]", "\"at\" other than" },
    { "tensors.x.at", "[0, -1]", "\"at\" other than" }, { "tensors.rest.at", "[0, 0]", "\"at\" other than" }, { "tensors.x.xxh3", "\"12\"", "32 hex digits" }, { "tensors.x", "null", "without a dtype" },
};

static json_t *member(json_t *o, const char *name, size_t n)
{
    char key[32];
    snprintf(key, sizeof key, "%.*s", (int)n, name);
    return json_is_array(o) ? json_array_get(o, (size_t)atoi(key)) : json_object_get(o, key);
}

static char *changed(const char *path, const char *value)
{
    char *text = sample();
    json_t *root = json_loads(text, 0, NULL), *o = root, *v = json_loads(value, JSON_DECODE_ANY, NULL);
    free(text);
    assert_non_null(v);
    for (const char *dot; (dot = strchr(path, '.')) != NULL; path = dot + 1) o = member(o, path, (size_t)(dot - path));
    assert_non_null(o);
    if (json_is_array(o)) assert_int_equal(json_array_set_new(o, (size_t)atoi(path), v), 0);
    else assert_int_equal(json_object_set_new(o, path, v), 0);
    text = json_dumps(root, 0);
    json_decref(root);
    return fqt_seal(text);
}

static void test_wrong(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char *text = changed(wrong[i].path, wrong[i].value);
        fqi_rank_files f = { 0 };
        fq_err e;
        const fq_status s = load(text, &f, &e);
        if (s != FQ_E_INPUT || strcmp(e.rule, "fitq-ranks") != 0 || !strstr(e.text, wrong[i].says))
            fail_msg("%s = %s: status %d, %s, expected \"%s\"", wrong[i].path, wrong[i].value, s, s == FQ_OK ? "read" : e.text, wrong[i].says);
        free(text);
    }
}

static void test_seal(void **state)
{
    (void)state;
    char *text = sample(), *at = strstr(text, "b.safetensors");
    fqi_rank_files f;
    fq_err e;
    assert_non_null(at);
    at[0] = 'c';
    assert_int_equal(load(text, &f, &e), FQ_E_INPUT);
    assert_non_null(strstr(e.text, "record_xxh3"));
    text = fqt_seal(text);
    assert_int_equal(load(text, &f, &e), FQ_OK);
    fqi_rank_files_free(&f);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_round_trip), cmocka_unit_test(test_wrong), cmocka_unit_test(test_seal) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
