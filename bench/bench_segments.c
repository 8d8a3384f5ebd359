/* bench_segments.c - what applying a map costs: nanoseconds per segment of the bare walk, and GB/s of copying through it beside
 * a plain memcpy of the same bytes, in the same run on the same buffers.
 *
 *     cc -O2 -D_GNU_SOURCE -Iinclude -Isrc bench/bench_segments.c src/axis/{map,map_heads,segments}.c src/base/{err,mem}.c -o bench_segments
 *     ./bench_segments [ROWS]
 *
 * The shapes are those of a 72B model, down_proj [8192, 29568 -> 29696] and gate_proj [29568 -> 29696, 8192], bf16, with fewer
 * rows or columns (default 1024) so that it runs in a small memory. Prints CSV. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "axis/segments.h"

#define CHUNK (8u << 20) /* as the padder cuts */
#define ROUNDS 5

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check(fq_status s, const fq_err *e)
{
    if (s == FQ_OK) return;
    fprintf(stderr, "bench_segments: %s\n", e->text);
    exit(2);
}

typedef struct job { const char *name; int64_t shape[2]; const fqi_map *map[2]; } job;

/* The walk alone. The sum keeps the compiler from dropping it. */
static double walk(const job *j, uint64_t *n, uint64_t *sum)
{
    fq_err e;
    fqi_segments s;
    fqi_segment seg;
    check(fqi_segments_init(&s, 2, j->shape, NULL, 2, j->map, &e), &e);
    double begin = now();
    *n = 0;
    while (fqi_segments_next(&s, CHUNK, &seg)) {
        (*n)++;
        *sum += seg.src ^ seg.bytes;
    }
    return now() - begin;
}

static double copy(const job *j, const unsigned char *src, unsigned char *dst)
{
    fq_err e;
    fqi_segments s;
    fqi_segment seg;
    check(fqi_segments_init(&s, 2, j->shape, NULL, 2, j->map, &e), &e);
    double begin = now();
    while (fqi_segments_next(&s, CHUNK, &seg)) {
        if (seg.src == FQI_ZERO_SEGMENT) memset(dst, 0, seg.bytes);
        else memcpy(dst, src + seg.src, seg.bytes);
        dst += seg.bytes;
    }
    return now() - begin;
}

static double plain(const unsigned char *src, unsigned char *dst, size_t n)
{
    double begin = now();
    for (size_t at = 0; at < n; at += CHUNK) memcpy(dst + at, src + at, n - at < CHUNK ? n - at : CHUNK);
    return now() - begin;
}

/* Best of ROUNDS, the three in turn, so that a disturbance hits all of them. */
static void measure(const job *j)
{
    fq_err e;
    fqi_segments s;
    check(fqi_segments_init(&s, 2, j->shape, NULL, 2, j->map, &e), &e);
    size_t n_src = (size_t)(j->shape[0] * j->shape[1]) * 2, n_dst = s.bytes;
    unsigned char *src = malloc(n_src), *dst = malloc(n_dst);
    if (!src || !dst) {
        fprintf(stderr, "bench_segments: out of memory\n");
        exit(2);
    }
    memset(src, 1, n_src);
    memset(dst, 2, n_dst);
    double best_walk = 1e9, best_copy = 1e9, best_plain = 1e9;
    uint64_t n = 0, sum = 0;
    for (int i = 0; i < ROUNDS; i++) {
        double t = walk(j, &n, &sum);
        if (t < best_walk) best_walk = t;
        t = copy(j, src, dst);
        if (t < best_copy) best_copy = t;
        t = plain(src, dst, n_src);
        if (t < best_plain) best_plain = t;
    }
    printf("%s,%" PRIu64 ",%.2f,%.2f,%.2f\n", j->name, n, best_walk / (double)n * 1e9, (double)n_dst / best_copy * 1e-9,
           (double)n_src / best_plain * 1e-9);
    if (sum == 42) fprintf(stderr, "\n");
    free(src);
    free(dst);
}

int main(int argc, char **argv)
{
    int64_t rows = argc > 1 ? strtoll(argv[1], NULL, 10) : 1024;
    if (rows < 1 || rows > 8192) {
        fprintf(stderr, "usage: bench_segments [ROWS 1..8192]\n");
        return 2;
    }
    fq_err e;
    fqi_map spread = { 0 }, interleave = { 0 }, tail = { 0 };
    check(fqi_map_spread(&spread, 29568, 29696, 232, &e), &e);
    check(fqi_map_interleave(&interleave, 29568, 29696, &e), &e);
    check(fqi_map_tail(&tail, 29568, 29696, &e), &e);
    const job jobs[] = {
        { "down_proj spread", { rows, 29568 }, { NULL, &spread } },
        { "down_proj interleave", { rows, 29568 }, { NULL, &interleave } },
        { "down_proj tail", { rows, 29568 }, { NULL, &tail } },
        { "gate_proj spread", { 29568, rows }, { &spread, NULL } },
        { "identity", { rows, 29568 }, { NULL, NULL } },
    };
    printf("case,segments,ns_per_segment,copy_GBps,memcpy_GBps\n");
    for (size_t i = 0; i < sizeof jobs / sizeof jobs[0]; i++) measure(&jobs[i]);
    fqi_map_free(&spread);
    fqi_map_free(&interleave);
    fqi_map_free(&tail);
    return 0;
}
