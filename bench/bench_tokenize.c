/* bench_tokenize.c - how fast text becomes ids, on one core.
 *
 *     bench_tokenize TOKENIZER TEXT [MB [WORD-MB]]
 *
 * Repeats TEXT up to MB megabytes (100), encodes it, then single words of WORD-MB (64): the text's letters, random letters, one
 * letter; and as much white space. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/fs.h"

static double peak_mib(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss / 1024;
}

static int measure(const fq_tokenizer *t, const char *what, const char *text, size_t n)
{
    fq_err e;
    uint32_t *ids;
    size_t n_ids;
    double start = fqi_now_seconds();
    if (fq_tokenizer_encode(t, text, n, NULL, &ids, &n_ids, &e) != FQ_OK) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    double s = fqi_now_seconds() - start;
    printf("%-22s %7.1f MB  %8.2f s  %7.1f MB/s  %zu ids  peak %.0f MiB\n", what, (double)n / 1e6, s, (double)n / 1e6 / s, n_ids, peak_mib());
    fflush(stdout);
    fq_free(ids);
    return 0;
}

/* Words of a language without what parts them: ids as long as those of text, and more different ones than random letters give. */
static size_t letters_of(const char *text, size_t n, char *out, size_t want)
{
    size_t used = 0, before = SIZE_MAX;
    for (size_t i = 0; used < want; i = (i + 1) % n) {
        if (i == 0 && used == before) return 0;   /* no letter in it */
        if (i == 0) before = used;
        if ((text[i] | 32) >= 'a' && (text[i] | 32) <= 'z') out[used++] = text[i];
    }
    return used;
}

int main(int argc, char **argv)
{
    fq_tokenizer *t;
    fq_err e;
    char *text;
    size_t n, want = (argc > 3 ? strtoul(argv[3], NULL, 10) : 100) * 1000000, word = (argc > 4 ? strtoul(argv[4], NULL, 10) : 64) * 1000000;
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenize TOKENIZER TEXT [MB [WORD-MB]]\n");
        return 2;
    }
    double start = fqi_now_seconds();
    if (fq_tokenizer_open(argv[1], &t, &e) != FQ_OK || fqi_file_slurp(argv[2], UINT64_C(1) << 32, &text, &n, &e) != FQ_OK || n == 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    printf("opened in %.2f s, peak %.0f MiB\n", fqi_now_seconds() - start, peak_mib());
    char *buf = malloc(want > word ? want : word);
    if (buf == NULL) return 1;
    size_t used = 0;
    for (; used + n <= want; used += n) memcpy(buf + used, text, n);
    int status = measure(t, "text", buf, used);
    used = letters_of(text, n, buf, word);
    if (used > 0) status |= measure(t, "one word, text", buf, used);
    uint64_t r = 42;
    for (size_t i = 0; i < word; i++) {
        r = r * UINT64_C(6364136223846793005) + 1442695040888963407u;
        buf[i] = (char)('a' + (r >> 33) % 26);
    }
    if (word > 0) status |= measure(t, "one word, random", buf, word);
    memset(buf, 'a', word);
    if (word > 0) status |= measure(t, "one word, one letter", buf, word);
    memset(buf, ' ', word);
    if (word > 0) status |= measure(t, "white space", buf, word);
    fq_tokenizer_close(t);
    free(buf);
    free(text);
    return status;
}
