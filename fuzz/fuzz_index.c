/* fuzz_index.c - the index parser on arbitrary bytes. What it accepts must be sorted, unique and complete. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const fqi_index *x)
{
    if (x->n_entry == 0 || x->n_file == 0 || x->n_file > x->n_entry) abort();
    for (size_t i = 0; i < x->n_entry; i++) {
        if (x->entry[i].at >= x->n_file || strcmp(x->file[x->entry[i].at], x->entry[i].file) != 0) abort();
        if (i > 0 && strcmp(x->entry[i - 1].name, x->entry[i].name) >= 0) abort();
        if (fqi_index_find(x, x->entry[i].name) != &x->entry[i]) abort();
    }
    for (size_t i = 1; i < x->n_file; i++) {
        if (strcmp(x->file[i - 1], x->file[i]) >= 0) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Exactly as long as the input: a read past the end is seen. */
    char *text = malloc(size ? size : 1);
    if (!text) return 0;
    if (size) memcpy(text, data, size);
    fqi_index x = { 0 };
    fq_err e = { 0 };
    if (fqi_index_parse(text, size, "index.json", &x, &e) == FQ_OK) check(&x);
    else if (e.code == FQ_OK || e.rule[0] == '\0' || strlen(e.text) < strlen(e.rule)) abort();   /* every refusal is explained */
    fqi_index_free(&x);
    free(text);
    return 0;
}
