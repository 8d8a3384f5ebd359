/* test_outdir.c - the output folder: where it may be made, what it may replace, what is copied into it.
 *
 * The catalogue is made by hand: a folder and the names of its shards are all that this part of a job looks at. Runs in a temporary
 * folder. A refusal must leave the disk as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "job/outdir.h"
#include "make_ckpt.h"
#include "support.h"

static char *root;

static int setup(void **state)
{
    (void)state;
    root = fqt_tempdir();
    return chdir(root);
}

static int teardown(void **state)
{
    (void)state;
    if (chdir("/") != 0) return -1;
    fqt_remove(root);
    free(root);
    return 0;
}

static bool is_there(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static void folder(const char *path) { assert_int_equal(mkdir(path, 0777), 0); }
static void file(const char *path, const char *text) { fqt_write_text(".", path, text); }
static void link_to(const char *to, const char *path) { assert_int_equal(symlink(to, path), 0); }

static bool holds(const char *path, const char *text)
{
    size_t n;
    char *got = fqt_read(".", path, &n);
    bool same = got && n == strlen(text) && memcmp(got, text, n) == 0;
    free(got);
    return same;
}

/* ---- what a run says ---- */

typedef struct said { char text[4096]; size_t n; } said;

static void keep_line(void *user, fq_log_level level, const char *line)
{
    (void)level;
    said *s = user;
    size_t used = strlen(s->text);
    snprintf(s->text + used, sizeof s->text - used, "%s\n", line);
    s->n++;
}

static const fq_run quiet = { 0 };

/* A whole job without weights. */
static fq_status make_output(const char *target, bool overwrite, fq_err *e)
{
    fqi_outdir o = { 0 };
    FQI_TRY(fqi_outdir_open(&o, "src", target, overwrite, e));
    fq_status s = fqi_outdir_begin(&o, false, &quiet, e);
    if (s == FQ_OK) s = fqi_outdir_write(&o, "config.json", "new", 3, e);
    if (s == FQ_OK) s = fqi_outdir_commit(&o, e);
    fqi_outdir_close(&o, s);
    return s;
}

static void in_new_folder(const char *name)
{
    assert_int_equal(chdir(root), 0);
    folder(name);
    assert_int_equal(chdir(name), 0);
    folder("src");
    file("src/config.json", "{}");
}

/* ---- where ---- */

static size_t count_entries(void)
{
    fqi_arena a = { 0 };
    fqi_dirent *d;
    size_t n;
    FQT_OK(fqi_dir_list(".", &a, &d, &n, e));
    fqi_arena_free(&a);
    return n;
}

static void bad_targets(void **state)
{
    (void)state;
    static char long_name[301], nearly[236];
    memset(long_name, 'x', 300);
    memset(nearly, 'x', 235);   /* the folder would be fine, TARGET.fitq-lock.PID would not */
    static const struct { const char *target; fq_status code; const char *rule; } t[] = {
        { "", FQ_E_USAGE, "target" },                   { ".", FQ_E_USAGE, "target" },           { "..", FQ_E_USAGE, "target" },
        { "./", FQ_E_USAGE, "target" },                 { "other/.", FQ_E_USAGE, "target" },     { "other/..", FQ_E_USAGE, "target" },
        { "other/./", FQ_E_USAGE, "target" },           { "missing/.", FQ_E_USAGE, "target" },   { "no/x", FQ_E_IO, "parent-missing" },
        { "no/../x", FQ_E_IO, "parent-missing" },       { "a-file/x", FQ_E_IO, "parent-missing" }, { long_name, FQ_E_IO, "name-too-long" },
        { nearly, FQ_E_IO, "name-too-long" },           { "src", FQ_E_IO, "target-is-source" },  { "./src/", FQ_E_IO, "target-is-source" },
        { "src/x", FQ_E_IO, "target-is-source" },       { "src/\n", FQ_E_IO, "target-is-source" }, { "/", FQ_E_IO, "target-is-source" },
        { "link-to-src", FQ_E_IO, "target-is-source" }, { "link-to-other", FQ_E_IO, "target-exists" }, { "link-to-none", FQ_E_IO, "target-exists" },
        { "a-file", FQ_E_IO, "target-exists" },
    };
    in_new_folder("where");
    folder("other");
    file("other/config.json", "{}");
    file("a-file", "");
    link_to("src", "link-to-src");
    link_to("other", "link-to-other");
    link_to("none", "link-to-none");
    size_t before = count_entries();
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++)
        for (int overwrite = 0; overwrite < 2; overwrite++) {
            fq_err e = { 0 };
            fq_status s = make_output(t[i].target, overwrite, &e);
            if (s != t[i].code || strcmp(e.rule, t[i].rule) != 0) fail_msg("\"%s\": %s", t[i].target, s == FQ_OK ? "accepted" : e.text);
            assert_int_equal(count_entries(), before);
        }
    assert_true(is_there("other/config.json"));
}

static void good_targets(void **state)
{
    (void)state;
    static char most[235];
    memset(most, 'x', 234);
    static const char *const t[] = { "x", "a\nb", "\x01\x7f", "...", ".hidden", " ", "deep/x", "deep/y/", "deep/../z", most };
    in_new_folder("fine");
    folder("deep");
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        FQT_OK(make_output(t[i], false, e));
        char *made = fqt_join(t[i], "config.json");
        assert_true(is_there(made));
        free(made);
    }
}

/* ---- what is replaced ---- */

static void overwrite_replaces_models_only(void **state)
{
    (void)state;
    static const struct { const char *folder, *holds; fq_status want; } t[] = {
        { "empty", NULL, FQ_OK },               { "model", "config.json", FQ_OK }, { "fitted", "fitq.json", FQ_OK },
        { "notes", "notes.txt", FQ_E_IO },      { "hidden", ".profile", FQ_E_IO }, { "weights", "model.safetensors", FQ_E_IO },
        { "parent", "model/", FQ_E_IO },        { "odd", "config.json/", FQ_E_IO },
    };
    in_new_folder("replace");
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        char path[64] = "";
        folder(t[i].folder);
        if (t[i].holds) snprintf(path, sizeof path, "%s/%s", t[i].folder, t[i].holds);
        if (t[i].holds && strchr(t[i].holds, '/')) folder(path);
        else if (t[i].holds) file(path, "old");
        fq_err e = { 0 };
        fq_status s = make_output(t[i].folder, true, &e);
        if (s != t[i].want) fail_msg("%s: found %d (%s), expected %d", t[i].folder, s, e.text, t[i].want);
        if (s != FQ_OK) assert_string_equal(e.rule, "target-foreign");
        if (s != FQ_OK) assert_true(is_there(path));
        char *made = fqt_join(t[i].folder, "config.json");
        if (s == FQ_OK) assert_true(holds(made, "new"));
        free(made);
    }
}

/* Somebody makes the target while the job runs: refused at the end, and nothing of the work is lost. */
static void target_appears_meanwhile(void **state)
{
    (void)state;
    in_new_folder("meanwhile");
    for (int overwrite = 0; overwrite < 2; overwrite++) {
        fqi_outdir o = { 0 };
        fq_err why = { 0 };
        FQT_OK(fqi_outdir_open(&o, "src", "o", overwrite, e));
        FQT_OK(fqi_outdir_begin(&o, false, &quiet, e));
        FQT_OK(fqi_outdir_write(&o, "fitq.journal", "J", 1, e));
        folder("o");
        file("o/notes.txt", "mine");
        fq_status s = fqi_outdir_commit(&o, &why);
        assert_int_equal(s, FQ_E_IO);
        assert_string_equal(why.rule, overwrite ? "target-foreign" : "target-exists");
        fqi_outdir_close(&o, s);
        assert_true(holds("o/notes.txt", "mine"));
        assert_true(holds("o.fitq-partial/fitq.journal", "J"));
        fqt_remove("o");
    }
}

/* ---- the unfinished output ---- */

static void partial_is_a_real_folder(void **state)
{
    (void)state;
    in_new_folder("partial");
    folder("victim");
    file("victim/fitq.journal", "J");
    file("victim/notes.txt", "mine");
    for (int kind = 0; kind < 3; kind++)
        for (int resume = 0; resume < 2; resume++) {
            fqi_outdir o = { 0 };
            fq_err why = { 0 };
            if (kind == 0) link_to("victim", "o.fitq-partial");
            else if (kind == 1) link_to("nowhere", "o.fitq-partial");
            else file("o.fitq-partial", "a file");
            FQT_OK(fqi_outdir_open(&o, "src", "o", false, e));
            fq_status s = fqi_outdir_begin(&o, resume, &quiet, &why);
            assert_int_equal(s, FQ_E_IO);
            assert_string_equal(why.rule, "partial-kind");
            fqi_outdir_close(&o, s);
            assert_true(is_there("o.fitq-partial"));
            assert_false(is_there("o.fitq-lock"));
            assert_true(holds("victim/fitq.journal", "J") && holds("victim/notes.txt", "mine"));
            assert_int_equal(unlink("o.fitq-partial"), 0);
        }
}

static void resume_wants_a_journal(void **state)
{
    (void)state;
    in_new_folder("journal");
    static const struct { bool resume, journal, stays; } t[] = {
        { true, true, true }, { true, false, false }, { false, true, false }, { false, false, false },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        fqi_outdir o = { 0 };
        said log = { 0 };
        fq_run run = { .log = keep_line, .user = &log };
        folder("o.fitq-partial");
        file("o.fitq-partial/model.safetensors", "half");
        if (t[i].journal) file("o.fitq-partial/fitq.journal", "J");
        FQT_OK(fqi_outdir_open(&o, "src", "o", false, e));
        FQT_OK(fqi_outdir_begin(&o, t[i].resume, &run, e));
        assert_int_equal(is_there("o.fitq-partial/model.safetensors"), t[i].stays);
        assert_int_equal(log.n, t[i].resume ? 0 : 1);
        fqi_outdir_close(&o, FQ_E_INPUT);
        assert_false(is_there("o.fitq-partial"));
    }
}

/* ---- what is copied ---- */

static mode_t mode_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_mode & 0777 : 0;
}

/* A source with one of everything; `shard` was read. */
static void make_source(void)
{
    static const char *const dirs[] = { "src/.git", "src/sub", "src/sub/.cache", "src/sub/deep", "outside" };
    static const char *const files[] = {
        "src/model.safetensors", "src/model.safetensors.index.json", "src/pytorch_model.bin.index.json", "src/pytorch_model-00001-of-00001.bin",
        "src/model.bin", "src/consolidated.00.pth", "src/model_card.bin", "src/modeling.bin", "src/consolidated_notes.bin", "src/fitq.json",
        "src/fitq.journal", "src/tokenizer.json", "src/.hidden", "src/x\ny", "src/.git/HEAD", "src/sub/model.safetensors", "src/sub/config.json",
        "src/sub/fitq.json", "src/sub/fitq.journal", "src/sub/.cache/x", "src/sub/deep/a", "outside/secret",
    };
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) folder(dirs[i]);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) file(files[i], files[i]);
    link_to("tokenizer.json", "src/to-file");
    link_to("nowhere", "src/to-nothing");
    link_to("..", "src/loop");
    link_to("../..", "src/sub/loop");
    link_to("sub", "src/to-sub");
    link_to("../outside", "src/to-outside");
    assert_int_equal(mkfifo("src/fifo", 0666), 0);
    file("src/run.sh", "#!/bin/sh\n");
    assert_int_equal(chmod("src/run.sh", 0755), 0);
    assert_int_equal(chmod("src/tokenizer.json", 0600), 0);
}

static const char *const want_said =
    "not copied: .git (a hidden folder)\n"
    "not copied: consolidated.00.pth (weights of the source model)\n"
    "not copied: fifo (neither a file nor a folder)\n"
    "not copied: fitq.journal (fitq keeps a file of its own under this name)\n"
    "not copied: loop (a link to a folder)\n"
    "not copied: model.bin (weights of the source model)\n"
    "not copied: pytorch_model-00001-of-00001.bin (weights of the source model)\n"
    "not copied: pytorch_model.bin.index.json (weights of the source model)\n"
    "not copied: sub/.cache (a hidden folder)\n"
    "not copied: sub/loop (a link to a folder)\n"
    "not copied: sub/model.safetensors (weights of the source model)\n"
    "not copied: to-nothing (a link to no file)\n"
    "not copied: to-outside (a link to a folder)\n"
    "not copied: to-sub (a link to a folder)\n";

static const char *const want_copied[] = {
    ".hidden", "consolidated_notes.bin", "model_card.bin", "modeling.bin", "sub/config.json", "sub/deep/a", "sub/fitq.journal",
    "sub/fitq.json", "tokenizer.json", "x\ny",
};

static void copies_the_rest(void **state)
{
    (void)state;
    in_new_folder("copy");
    make_source();
    fqi_shard shard = { .name = (char *)(uintptr_t)"model.safetensors" };
    fq_ckpt c = { .dir = (char *)(uintptr_t)"src", .shard = &shard, .n_shard = 1 };
    said log = { 0 };
    fq_run run = { .log = keep_line, .user = &log };
    fqi_outdir o = { 0 };
    FQT_OK(fqi_outdir_open(&o, c.dir, "o", false, e));
    FQT_OK(fqi_outdir_begin(&o, false, &run, e));
    FQT_OK(fqi_outdir_write(&o, "fitq.journal", "J", 1, e));
    FQT_OK(fqi_outdir_copy_rest(&o, &c, &run, e));
    assert_true(holds("o.fitq-partial/fitq.journal", "J"));
    assert_string_equal(log.text, want_said);
    FQT_OK(fqi_outdir_commit(&o, e));
    fqi_outdir_close(&o, FQ_OK);

    for (size_t i = 0; i < sizeof want_copied / sizeof want_copied[0]; i++) {
        char *from = fqt_join("src", want_copied[i]), *to = fqt_join("o", want_copied[i]);
        if (!holds(to, from)) fail_msg("%s was not copied", want_copied[i]);
        free(from);
        free(to);
    }
    struct stat st;
    assert_true(lstat("o/to-file", &st) == 0 && S_ISREG(st.st_mode));
    assert_true(holds("o/to-file", "src/tokenizer.json"));
    assert_int_equal(mode_of("o/run.sh"), 0755);
    assert_int_equal(mode_of("o/tokenizer.json"), 0600);
    static const char *const gone[] = { "o/.git", "o/sub/.cache", "o/config.json", "o/fitq.json", "o/fitq.journal", "o/model.safetensors",
                                        "o/model.safetensors.index.json", "o/loop", "o/sub/loop", "o/to-sub", "o/to-outside", "o/fifo" };
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
        if (is_there(gone[i])) fail_msg("%s was copied", gone[i]);
}

/* Deeper than any model; refusing it after the weights are written would waste them. */
static void copies_deep_folders(void **state)
{
    (void)state;
    in_new_folder("depth");
    char path[512] = "src", want[600];
    for (int i = 0; i < 60; i++) {
        strcat(path, "/d");
        folder(path);
    }
    strcat(path, "/f");
    file(path, "bottom");
    fq_ckpt c = { .dir = (char *)(uintptr_t)"src" };
    fqi_outdir o = { 0 };
    FQT_OK(fqi_outdir_open(&o, "src", "o", false, e));
    FQT_OK(fqi_outdir_begin(&o, false, &quiet, e));
    FQT_OK(fqi_outdir_copy_rest(&o, &c, &quiet, e));
    fqi_outdir_close(&o, FQ_E_IO);
    snprintf(want, sizeof want, "o.fitq-partial%s", path + 3);
    assert_true(holds(want, "bottom"));
}

/* A resumed job keeps shards and journal, if they are files of its own, and makes everything else again. */
static void sweeps_what_is_left(void **state)
{
    (void)state;
    in_new_folder("sweep");
    file("victim", "mine");
    folder("o.fitq-partial");
    folder("o.fitq-partial/more");
    file("o.fitq-partial/more/half", "h");
    file("o.fitq-partial/model.safetensors", "W");
    file("o.fitq-partial/fitq.journal", "J");
    file("o.fitq-partial/other.journal", "x");
    file("o.fitq-partial/tokenizer.json.tmp-1", "x");
    link_to("../victim", "o.fitq-partial/extra.safetensors");
    fq_ckpt c = { .dir = (char *)(uintptr_t)"src" };
    fqi_outdir o = { 0 };
    FQT_OK(fqi_outdir_open(&o, "src", "o", false, e));
    FQT_OK(fqi_outdir_begin(&o, true, &quiet, e));
    FQT_OK(fqi_outdir_copy_rest(&o, &c, &quiet, e));
    assert_true(holds("o.fitq-partial/model.safetensors", "W") && holds("o.fitq-partial/fitq.journal", "J"));
    FQT_OK(fqi_outdir_commit(&o, e));
    fqi_outdir_close(&o, FQ_OK);
    assert_int_equal(chdir("o"), 0);
    assert_int_equal(count_entries(), 1);
    assert_int_equal(chdir(".."), 0);
    assert_true(holds("victim", "mine"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_targets),
        cmocka_unit_test(good_targets),
        cmocka_unit_test(overwrite_replaces_models_only),
        cmocka_unit_test(target_appears_meanwhile),
        cmocka_unit_test(partial_is_a_real_folder),
        cmocka_unit_test(resume_wants_a_journal),
        cmocka_unit_test(copies_the_rest),
        cmocka_unit_test(copies_deep_folders),
        cmocka_unit_test(sweeps_what_is_left),
    };
    return cmocka_run_group_tests_name("outdir", tests, setup, teardown);
}
