/* test_corpus_torch.c - pytorch_model.bin files that are wrong, or odd and legal. CRCs are checked here. */
#include "base/fs.h"
#include "corpus_run.h"
#include "format/torch.h"

#define MAX_PICKLE (UINT64_C(1) << 20)

static fq_status read_file(void *user, void *buf, size_t n, uint64_t off, fq_err *e)
{
    return fqi_file_read(user, buf, n, off, e);
}

static fq_status parse_file(const char *path, fq_err *e)
{
    fqi_file f;
    fqi_torch_table t = { 0 };
    FQI_TRY(fqi_file_open(&f, path, FQ_IO_BUFFERED, e));
    fqi_bytes b = { .user = &f, .n = f.bytes, .file = path, .read = read_file };
    fq_status s = fqi_torch_parse(&b, MAX_PICKLE, true, &t, e);
    fqi_torch_free(&t);
    fqi_file_close(&f);
    return s;
}

int main(void) { return fqt_corpus_main("torch", 150, parse_file); }
