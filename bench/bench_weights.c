/* bench_weights.c - reading a checkpoint layer by layer as the forward pass does, beside reading its files and doing nothing with them.
 *
 *     bench_weights MODEL [--rounds N] [--slots N] [--served bf16|f16] [--io auto|buffered|direct] [--work MS]
 *
 * In turn, another one first in every round, each from an empty page cache and from a filled one: `cat` (read, 128 KiB), O_DIRECT (4 MiB, one at
 * a time), and the reader of weights with the caller idle. --work: milliseconds that the caller computes with every layer (it spins), as a forward pass would; then the floor is the
 * larger of both times. What the host of a virtual machine caches is not emptied. */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "checkpoint/catalogue.h"
#include "model/weights.h"

#define BLOCK ((size_t)4 << 20)

typedef struct setting { const char *path; size_t slots; fq_dtype served; fq_io io; double work; } setting;

static void check(fq_status s, const fq_err *e)
{
    if (s == FQ_OK) return;
    fprintf(stderr, "bench_weights: %s\n", e->text);
    exit(1);
}

static fq_ckpt *open_model(const setting *s, fqi_decoder *d)
{
    fq_ckpt *c;
    fq_err e = { 0 };
    const fq_run run = { .n_thread = 1 };
    check(fq_ckpt_open(s->path, &run, &c, &e), &e);
    check(fqi_decoder_read(&c->config, s->path, d, &e), &e);
    return c;
}

/* Out of the page cache, or into it. */
static void prepare(const fq_ckpt *c, bool warm, void *buf)
{
    for (size_t i = 0; i < c->n_shard; i++) {
        int fd = open(c->shard[i].path, O_RDONLY);
        if (fd < 0) continue;
        if (!warm) (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        while (warm && read(fd, buf, BLOCK) > 0) {}
        (void)close(fd);
    }
}

static uint64_t read_files(const fq_ckpt *c, int flags, size_t block, void *buf)
{
    uint64_t n = 0;
    for (size_t i = 0; i < c->n_shard; i++) {
        int fd = open(c->shard[i].path, O_RDONLY | flags);
        ssize_t k;
        while (fd >= 0 && (k = read(fd, buf, block)) > 0) n += (uint64_t)k;
        if (fd >= 0) (void)close(fd);
    }
    return n;
}

static uint64_t read_weights(const fq_ckpt *c, const fqi_decoder *d, const setting *s)
{
    fq_err e = { 0 };
    const fq_run run = { .n_thread = 1, .io = s->io };
    const fqi_weights_options o = { .n_slot = s->slots, .served = s->served, .run = &run };
    fqi_weights *w;
    const fqi_layer_weights *layer;
    fqi_matrix head;
    check(fqi_weights_create(c, d, &o, &w, &e), &e);
    for (int64_t l = 0; l < d->model.num_hidden_layers; l++) {
        check(fqi_weights_layer(w, l, &layer, &e), &e);
        for (double until = fqi_now_seconds() + s->work; s->work > 0 && fqi_now_seconds() < until;) {}
    }
    check(fqi_weights_head(w, 0, d->model.vocab_size, &head, &e), &e);
    uint64_t n = fqi_weights_bytes_read(w);
    fqi_weights_free(w);
    return n;
}

/* Bytes that this process made the disk read. */
static double from_disk(void)
{
    char line[128];
    unsigned long long n = 0;
    FILE *f = fopen("/proc/self/io", "r");
    while (f && fgets(line, sizeof line, f)) (void)sscanf(line, "read_bytes: %llu", &n);
    if (f) (void)fclose(f);
    return (double)n / 1e9;
}

int main(int argc, char **argv)
{
    static const struct option option[] = { { "rounds", 1, 0, 'r' }, { "slots", 1, 0, 's' }, { "served", 1, 0, 'd' }, { "io", 1, 0, 'i' }, { "work", 1, 0, 'w' }, { 0 } };
    setting s = { .slots = 2, .served = FQ_DTYPE_F32 };
    int rounds = 3, o;
    while ((o = getopt_long(argc, argv, "", option, NULL)) != -1) {
        if (o == 'r') rounds = atoi(optarg);
        else if (o == 's') s.slots = (size_t)atoi(optarg);
        else if (o == 'd') s.served = strcmp(optarg, "f16") == 0 ? FQ_DTYPE_F16 : FQ_DTYPE_BF16;
        else if (o == 'i') s.io = strcmp(optarg, "direct") == 0 ? FQ_IO_DIRECT : strcmp(optarg, "buffered") == 0 ? FQ_IO_BUFFERED : FQ_IO_AUTO;
        else if (o == 'w') s.work = atof(optarg) / 1000;
        else return 2;
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "usage: bench_weights MODEL [--rounds N] [--slots N] [--served bf16|f16] [--io auto|buffered|direct] [--work MS]\n");
        return 2;
    }
    s.path = argv[optind];
    fqi_decoder d;
    fq_ckpt *c = open_model(&s, &d);
    void *buf = aligned_alloc(4096, BLOCK);
    if (!buf) return 1;
    printf("%-8s %-6s %8s %8s %8s %8s\n", "", "cache", "GB", "disk GB", "seconds", "GB/s");
    for (int r = 0; r < rounds; r++)
        for (int warm = 0; warm < 2; warm++)
            for (int turn = 0; turn < 3; turn++) {
                const int kind = (turn + r) % 3;
                if (kind == 1 && warm) continue;
                prepare(c, warm, buf);
                double t = fqi_now_seconds(), disk = from_disk();
                uint64_t n = kind == 0 ? read_files(c, 0, (size_t)128 << 10, buf) : kind == 1 ? read_files(c, O_DIRECT, BLOCK, buf) : read_weights(c, &d, &s);
                t = fqi_now_seconds() - t;
                printf("%-8s %-6s %8.2f %8.2f %8.2f %8.2f\n", (const char *[]){ "cat", "direct", "weights" }[kind], warm ? "full" : "empty", (double)n / 1e9, from_disk() - disk, t,
                       (double)n / 1e9 / t);
                fflush(stdout);
            }
    free(buf);
    fqi_decoder_free(&d);
    fq_ckpt_close(c);
    return 0;
}
