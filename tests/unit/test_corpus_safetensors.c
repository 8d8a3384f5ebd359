/* test_corpus_safetensors.c - safetensors files that are wrong, or odd and legal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/fs.h"
#include "corpus_run.h"
#include "format/safetensors.h"

static fq_status parse_file(const char *path, fq_err *e)
{
    fqi_file f = FQI_FILE_NONE;
    fqi_st_header h = { 0 };
    unsigned char first8[8] = { 0 };
    uint64_t n = 0;
    char *text = NULL;
    FQI_TRY(fqi_file_open(&f, path, FQ_IO_BUFFERED, e));
    fq_status s = fqi_file_read(&f, first8, f.bytes < 8 ? (size_t)f.bytes : 8, 0, e);
    if (s == FQ_OK) s = fqi_st_length(first8, f.bytes, path, &n, e);
    if (s == FQ_OK) {
        text = malloc((size_t)n);
        assert_non_null(text);
        s = fqi_file_read(&f, text, (size_t)n, 8, e);
    }
    if (s == FQ_OK) s = fqi_st_parse(text, (size_t)n, f.bytes, path, &h, e);
    if (s == FQ_OK) /* what was accepted can be used */
        for (size_t i = 0; i < h.n_tensor; i++) assert_true(h.tensor[i].off + h.tensor[i].bytes <= f.bytes);
    fqi_st_free(&h);
    free(text);
    fqi_file_close(&f);
    return s;
}

int main(void) { return fqt_corpus_main("safetensors", 200, parse_file); }
