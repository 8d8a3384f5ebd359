/* driver.c - runs a fuzz target on the files and folders named as arguments, once each.
 *
 * In place of libFuzzer, so that every compiler can replay seeds and past crashes in the ordinary tests. Folders are walked in
 * name order; links are not followed. A file or folder that cannot be read fails the run, no argument at all as well: a replay of
 * nothing proves nothing. A folder that is missing is only said, so that a target may come without seeds. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_FILE ((uint64_t)256 << 20)

static int run_file(const char *path)
{
    char *text;
    size_t n;
    fq_err e;
    if (fqi_file_slurp(path, MAX_FILE, &text, &n, &e) != FQ_OK) {
        fprintf(stderr, "%s\n", e.text);
        return -1;
    }
    /* A copy of exactly n bytes: slurp's NUL would hide a read past the end from the sanitizers. */
    uint8_t *data = malloc(n != 0 ? n : 1);
    if (data != NULL)
        for (size_t i = 0; i < n; i++) data[i] = (uint8_t)text[i];
    free(text);
    if (data == NULL) return -1;
    LLVMFuzzerTestOneInput(data, n);
    free(data);
    return 1;
}

/* Number of files run, or -1. */
static int run_path(const char *path)
{
    fqi_arena a = { 0 };
    fqi_dirent *d;
    size_t n;
    fq_err e;
    int count = 0;
    if (!fqi_path_is_dir(path)) return run_file(path);
    if (fqi_dir_list(path, &a, &d, &n, &e) != FQ_OK) {
        fprintf(stderr, "%s\n", e.text);
        return -1;
    }
    for (size_t i = 0; i < n && count >= 0; i++) {
        if (d[i].is_link || !(d[i].is_dir || d[i].is_file)) continue;
        char *inside = fqi_path_join(path, d[i].name);
        int r = inside != NULL ? run_path(inside) : -1;
        free(inside);
        count = r < 0 ? -1 : count + r;
    }
    fqi_arena_free(&a);
    return count;
}

int main(int argc, char **argv)
{
    int total = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: %s FILE-OR-FOLDER...\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        if (!fqi_path_exists(argv[i])) {
            printf("%s: not there, nothing to replay\n", argv[i]);
            continue;
        }
        int r = run_path(argv[i]);
        if (r < 0) return 1;
        total += r;
    }
    printf("%d inputs\n", total);
    return 0;
}
