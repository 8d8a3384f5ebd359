/* test_report_html.c - the page about a quantized model: whole, self-contained, and names cannot leave their place in it. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fitq.h"
#include "support.h"

#define EVIL "<script>alert(\"&\")</script>\x1b[31m"

static fq_module_report modules[3] = {
    { .name = "layers.0.mlp.up_proj", .layer = 0, .role = "up_proj", .rows = 8, .cols = 8, .bits = 4, .group_size = 128, .method = "gptq", .why = "", .relative = 1e-3, .damp = 0.01, .n_token = 12345678, .seconds = 1 },
    { .name = EVIL, .layer = 1, .role = EVIL, .rows = 8, .cols = 8, .bits = 4, .group_size = 128, .method = "weighted rounding", .why = EVIL, .relative = 2e-3 },
    { .name = "lm_head", .layer = -1, .role = "lm_head", .bits = 4, .group_size = 128, .method = "gptq", .why = "" },
};
static fq_stage stages[] = { { "forward pass", 2.5, 1 << 20 }, { "solving", 0, 3 << 20 } };

static fq_quantize_report report(void)
{
    fq_quantize_report r = { .n_module = 3, .module = modules, .n_fallback = 1, .file_bytes = 5 << 20, .n_stage = 2, .stage = stages, .seconds = 3 };
    r.plan = (fq_quantize_plan){ .weight_bytes = 9 << 20, .n_module = 3, .n_token = 262144, .samples = 512, .seqlen = 512, .n_distinct = 1234, .calib_source = EVIL, .n_thread = 2, .kernel = "avx2" };
    snprintf(r.plan.model.architecture, sizeof r.plan.model.architecture, "%s", "Qwen2ForCausalLM");
    r.plan.model.intermediate_size = 896;
    r.plan.model_pad = r.plan.model;
    r.plan.model_pad.intermediate_size = 1024;
    return r;
}

static char *page(const fq_quantize_report *r, const fq_eval_report *v)
{
    char path[] = "/tmp/fitq-report.XXXXXX";
    fq_err e;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(fq_write_report(path, r, v, &e), FQ_OK);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, f) > 500);
    fclose(f);
    unlink(path);
    return text;
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

static void check_page(const char *text)
{
    static const char *const pairs[][2] = { { "<table", "</table>" }, { "<svg", "</svg>" }, { "<details", "</details>" }, { "<div", "</div>" }, { "<h2", "</h2>" }, { "<p", "</p>" }, { "<title>", "</title>" } };
    static const char *const never[] = { "<script", "http", "src=", "href=", "url(", "\x1b", "@import", "nan", "inf\"", "-inf" };
    assert_ptr_equal(strstr(text, "<!doctype html>"), text);
    assert_non_null(strstr(text, "</html>\n"));
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (count(text, pairs[i][0]) != count(text, pairs[i][1])) fail_msg("%zu of %s, %zu of %s", count(text, pairs[i][0]), pairs[i][0], count(text, pairs[i][1]), pairs[i][1]);
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (strstr(text, never[i])) fail_msg("found %s: %.80s", never[i], strstr(text, never[i]));
}

static void names_are_escaped(void **state)
{
    (void)state;
    const fq_quantize_report r = report();
    char *text = page(&r, NULL);
    check_page(text);
    assert_non_null(strstr(text, "&lt;script&gt;alert(\\x22&amp;\\x22)&lt;/script&gt;\\x1b[31m"));
    assert_non_null(strstr(text, "262,144 tokens"));
    assert_non_null(strstr(text, "12,345,678"));
    assert_non_null(strstr(text, "+14.29 %"));
    assert_non_null(strstr(text, "1 modules were not done"));
    assert_non_null(strstr(text, "Not measured"));
    free(text);
}

static void distances_have_the_digits_that_their_errors_leave(void **state)
{
    (void)state;
    const fq_quantize_report r = report();
    fq_eval_report v = { .kld = { 0.0055391, 0.000148 }, .same_top = { 0.9366, 0.0036 }, .ppl = { 13.83032, 0.44129 }, .ppl_reference = { 13.74505, 0.43883 }, .ln_ratio = { 0.006185, 0.001572 } };
    const double p[FQ_N_PERCENTILE] = { 0.1085, 0.0357, 0.0173, 0.0122, 0.0031, 0.0006, 0.0003, 2e-5, 2e-6 };
    memcpy(v.kld_percentile, p, sizeof p);
    v.plan.n_scored = 4590;
    char *text = page(&r, &v);
    check_page(text);
    assert_non_null(strstr(text, "0.00554 &plusmn; 0.00015"));
    assert_non_null(strstr(text, "93.66 &plusmn; 0.36"));
    assert_non_null(strstr(text, "13.83 &plusmn; 0.44"));
    assert_non_null(strstr(text, "0.0062 &plusmn; 0.0016"));
    assert_int_equal(count(text, "<circle"), 3);
    free(text);
}

static void nothing_to_show_is_a_page_too(void **state)
{
    (void)state;
    const fq_quantize_report none = { .plan = { .calib_source = "none", .kernel = "c" } };
    const fq_eval_report same = { .ppl = { 10, 0 }, .ppl_reference = { 10, 0 } };   /* no distance at all: no axis to draw */
    char *text = page(&none, &same);
    check_page(text);
    assert_int_equal(count(text, "<circle"), 0);
    assert_non_null(strstr(text, "Rounded without data"));
    free(text);
}

static void a_folder_that_is_not_there_is_said(void **state)
{
    (void)state;
    const fq_quantize_report r = report();
    fq_err e;
    assert_int_equal(fq_write_report("/no/such/folder/report.html", &r, NULL, &e), FQ_E_IO);
    assert_non_null(strstr(e.text, "/no/such/folder"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_escaped), cmocka_unit_test(distances_have_the_digits_that_their_errors_leave), cmocka_unit_test(nothing_to_show_is_a_page_too),
        cmocka_unit_test(a_folder_that_is_not_there_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
