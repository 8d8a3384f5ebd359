/* support.h - what tests need besides checkpoints: where things lie, a folder of their own, random numbers, Python.
 *
 * What a test asserts about the library stands in the test. Files and folders are written with make_ckpt.h. */
#ifndef FITQ_TESTS_SUPPORT_H
#define FITQ_TESTS_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>

/* ---- where things lie ---- */

const char *fqt_source(void);   /* the repository: $FITQ_SOURCE_DIR, else "." */
/* Data of third parties: $FITQ_TEST_DATA. Where it is not set, the running test says so and is skipped: no return. */
const char *fqt_data(void);

/* ---- calls that must succeed ---- */

/* FQT_OK(fqi_f(a, b, e)): the call has `e` for its errors; a failure fails the running test with the error's line. */
#define FQT_OK(call)                                      \
    do {                                                  \
        fq_err e_ = { 0 };                                \
        fq_err *e = &e_;                                  \
        if ((call) != FQ_OK) fail_msg("%s", e_.text);     \
    } while (0)

/* ---- a folder for a test or a group of tests ---- */

/* Setup makes a new folder and sets fqt_dir; teardown removes it with all that is in it. Both are cmocka fixtures. */
extern char *fqt_dir;
int fqt_dir_setup(void **state);
int fqt_dir_teardown(void **state);

/* ---- random numbers ---- */

/* $FITQ_TEST_SEED, else `usual`; never 0, from which xorshift does not come away. Printed, so that a failure can be run again. */
uint64_t fqt_seed(uint64_t usual);
/* xorshift64 with shifts 13, 7, 17: G. Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8 (14), 2003. */
uint64_t fqt_random(uint64_t *state);

/* ---- Python ---- */

bool fqt_has_python(void);
void fqt_need_python(void);     /* no python3: the running test says so and is skipped */
/* Runs a script of the repository; python NULL = "python3"; `arguments` are as the shell takes them. Exit status, -1 if it did not exit. */
int fqt_python(const char *python, const char *script, const char *arguments);
/* The safetensors checkpoint `from` as a torch one in `to`; what: the number of shards, or "1 tie" for a head that is the embedding. */
int fqt_to_torch(const char *from, const char *to, const char *what);

#endif
