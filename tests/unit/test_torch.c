/* The whole reader: files that the real torch or torch_bin.py wrote, element for element, and damage everywhere. Python makes the
 * files; it is there because the build needs it. The corpus of bad files is test_corpus_torch.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "make_ckpt.h"
#include "support.h"
#include "torch_mem.h"

#define MAX_PICKLE (64u << 20)
#define SKIP_STATUS 77

/* ---- contents --------------------------------------------------------------------------------------------------- */

/* Elements in row-major, little-endian order, as hex. */
static char *elements(const mem_file *m, const fqi_tensor *t)
{
    unsigned width = fq_dtype_bits(t->dtype) / 8;
    uint64_t n = t->bytes / width;
    int64_t at[FQ_MAX_RANK] = { 0 }, step[FQ_MAX_RANK] = { 0 }, row = 1;
    char *hex = calloc(2 * t->bytes + 1, 1), *h = hex;
    if (!hex) abort();
    for (unsigned d = t->rank; d-- > 0; row *= t->shape[d]) step[d] = t->stride ? t->stride[d] : row;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t place = t->off;
        for (unsigned d = 0; d < t->rank; d++) place += (uint64_t)(at[d] * step[d]) * width;
        assert_true(place + width <= m->n);
        for (unsigned k = 0; k < width; k++) h += sprintf(h, "%02x", m->bytes[place + (t->byteswap ? width - 1 - k : k)]);
        for (unsigned d = t->rank; d-- > 0 && ++at[d] == t->shape[d];) at[d] = 0;
    }
    return hex;
}

/* The table in the words of torch_bin.py's expected(). */
static char *describe(const mem_file *m, const fqi_torch_table *t)
{
    fqi_str s = { 0 };
    for (size_t i = 0; i < t->n_tensor; i++) {
        const fqi_tensor *x = &t->tensor[i];
        fqi_str_printf(&s, "%s\t%s\t", x->name, fq_dtype_name(x->dtype));
        for (unsigned d = 0; d < x->rank; d++) fqi_str_printf(&s, "%s%lld", d ? "," : "", (long long)x->shape[d]);
        char *hex = elements(m, x);
        fqi_str_printf(&s, "\t%s\n", hex);
        free(hex);
    }
    assert_false(s.failed);
    return s.s;
}

static mem_file load(const char *name)
{
    mem_file m = { 0 };
    m.bytes = (unsigned char *)fqt_read(fqt_dir, name, &m.n);
    if (!m.bytes) fail_msg("cannot read %s", name);
    return m;
}

/* NAME.bin (or NAME) has exactly what NAME.expect says. */
static void check_file(const char *file, const char *expect, const char *wrapper)
{
    mem_file m = load(file), want = load(expect);
    fqi_bytes b = mem_bytes(&m);
    fqi_torch_table t = { 0 };
    fq_err e = { 0 };
    if (fqi_torch_parse(&b, MAX_PICKLE, true, &t, &e) != FQ_OK) fail_msg("%s: %s", file, e.text);
    assert_string_equal(t.wrapper, wrapper);
    assert_false(t.crc_unchecked);
    char *got = describe(&m, &t);
    if (strcmp(got, (char *)want.bytes) != 0) fail_msg("%s differs from what %s says", file, expect);
    free(got);
    fqi_torch_free(&t);
    free(m.bytes);
    free(want.bytes);
}

static void example(void **state)
{
    (void)state;
    static const struct { const char *flags, *wrapper; } v[] = {
        { "", "" }, { "--big", "" }, { "--wrapper model", "model" }, { "--wrapper state_dict --big", "state_dict" },
        { "--wrapper module", "module" },
    };
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++) {
        char args[600];
        snprintf(args, sizeof args, "'%s/example.bin' %s", fqt_dir, v[i].flags);
        assert_int_equal(fqt_python(NULL, "tests/tools/torch_bin.py", args), 0);
        check_file("example.bin", "example.bin.expect", v[i].wrapper);
    }
}

static void judged_by_torch(void **state)
{
    (void)state;
    static const struct { const char *name, *wrapper; } v[] = {
        { "plain", "" }, { "shared", "" }, { "params", "" }, { "many", "" }, { "module", "" }, { "wrapped", "state_dict" },
        { "wrapped_model", "model" },
    };
    const char *python = getenv("FITQ_TORCH_PYTHON");   /* a Python that has torch, if it is not the system's */
    char args[300];
    snprintf(args, sizeof args, "'%s'", fqt_dir);
    int r = fqt_python(python ? python : "/usr/bin/python3", "tests/tools/torch_judge.py", args);
    if (r == SKIP_STATUS || r == 127) {
        print_message("no torch to judge by\n");
        skip();
    }
    assert_int_equal(r, 0);
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++) {
        char file[100], expect[100];
        snprintf(file, sizeof file, "%s.bin", v[i].name);
        snprintf(expect, sizeof expect, "%s.expect", v[i].name);
        check_file(file, expect, v[i].wrapper);
    }
    mem_file m = load("legacy.bin");
    fqi_bytes b = mem_bytes(&m);
    fqi_torch_table t = { 0 };
    fq_err e = { 0 };
    assert_int_equal(fqi_torch_parse(&b, MAX_PICKLE, false, &t, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "torch-legacy");
    free(m.bytes);
}

/* ---- damage ----------------------------------------------------------------------------------------------------- */

static fq_status parse(mem_file *m, uint64_t max_pickle, bool check_crc)
{
    fqi_bytes b = mem_bytes(m);
    fqi_torch_table t = { 0 };
    fq_err e = { 0 };
    fq_status s = fqi_torch_parse(&b, max_pickle, check_crc, &t, &e);
    if (s != FQ_OK) assert_true(e.code == s && e.text[0] != '\0' && t.tensor == NULL);
    else free(describe(m, &t));
    fqi_torch_free(&t);
    return s;
}

/* With CRCs checked no bit of a tensor may change unseen; without, nothing may crash. */
static void every_bit(void **state)
{
    (void)state;
    char args[300];
    snprintf(args, sizeof args, "'%s/example.bin'", fqt_dir);
    assert_int_equal(fqt_python(NULL, "tests/tools/torch_bin.py", args), 0);
    mem_file m = load("example.bin"), want = load("example.bin.expect");
    size_t accepted = 0;
    for (size_t bit = 0; bit < 8 * m.n; bit++) {
        fqi_bytes b = mem_bytes(&m);
        fqi_torch_table t = { 0 };
        m.bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        fq_status s = fqi_torch_parse(&b, MAX_PICKLE, true, &t, NULL);
        if (s == FQ_OK) {
            char *got = describe(&m, &t);
            if (strcmp(got, (char *)want.bytes) != 0) fail_msg("bit %zu changes a tensor unseen", bit);
            free(got);
            accepted++;
        } else {
            assert_int_equal(s, FQ_E_INPUT);
        }
        fqi_torch_free(&t);
        m.bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }
    print_message("%zu of %zu single-bit changes change nothing that is read\n", accepted, 8 * m.n);
    free(m.bytes);
    free(want.bytes);
}

static void every_length(void **state)
{
    (void)state;
    mem_file m = load("example.bin");
    for (size_t n = 0; n < m.n; n++) {
        mem_file cut = { .bytes = m.bytes, .n = n };
        assert_int_equal(parse(&cut, MAX_PICKLE, false), FQ_E_INPUT);
    }
    free(m.bytes);
}

static void every_read(void **state)
{
    (void)state;
    mem_file m = load("example.bin");
    size_t n = 1;
    for (;; n++) {
        m.n_read = 0;
        m.fail_at = n;
        fq_status s = parse(&m, MAX_PICKLE, true);
        if (s == FQ_OK) break;
        assert_int_equal(s, FQ_E_IO);
    }
    assert_true(n > 30);
    free(m.bytes);
}

static void pickle_limit(void **state)
{
    (void)state;
    mem_file m = load("example.bin");
    assert_int_equal(parse(&m, 100, false), FQ_E_INPUT);
    assert_int_equal(parse(&m, 4096, false), FQ_OK);
    assert_true(m.largest <= 65536);   /* without CRC checks no storage is read */
    free(m.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(example), cmocka_unit_test(judged_by_torch), cmocka_unit_test(every_bit),
        cmocka_unit_test(every_length), cmocka_unit_test(every_read), cmocka_unit_test(pickle_limit),
    };
    return cmocka_run_group_tests(tests, fqt_dir_setup, fqt_dir_teardown);
}
