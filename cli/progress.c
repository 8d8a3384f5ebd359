/* progress.c - a bar that is redrawn at most ten times a second, or one line per ten percent when nobody watches. */
#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "output.h"
#include "signals.h"

#define REDRAW_SECONDS 0.1
#define LINE_SECONDS 5.0   /* shorter jobs print no plain lines */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static size_t terminal_width(void)
{
    struct winsize w;
    if (ioctl(2, TIOCGWINSZ, &w) != 0 || w.ws_col < 20) return 80;
    return w.ws_col > 120 ? 120 : w.ws_col;
}

static bool by_item(const progress *p) { return p->unit && p->said.total_items > 0 && strcmp(p->phase, p->unit_phase) == 0; }

/* Bytes done at time t. Where items are what is reported, the one in hand is taken to go on at the rate of those before it. */
static uint64_t done_by(const progress *p, double rate, double t)
{
    const fq_progress *r = &p->said;
    if (!by_item(p) || r->done_items >= r->total_items) return r->done_bytes;
    const double item = (double)r->total_bytes / (double)r->total_items, more = rate * (t - p->said_at);
    return r->done_bytes + (uint64_t)(more < 0.99 * item ? more : 0.99 * item);
}

static double rate_of(const progress *p)
{
    const double spent = p->said_at - p->start;
    return spent > 0.2 && p->said.done_bytes > p->start_bytes ? (double)(p->said.done_bytes - p->start_bytes) / spent : 0;
}

/* How far: "layer 3 of 80", or bytes with their rate. */
static out_text how_far(const progress *p, uint64_t done, double rate, const char *gap)
{
    const fq_progress *r = &p->said;
    out_text t;
    if (by_item(p)) snprintf(t.s, sizeof t.s, "%s %zu of %zu", p->unit, r->done_items < r->total_items ? r->done_items + 1 : r->total_items, r->total_items);
    else snprintf(t.s, sizeof t.s, "%.12s of %.12s%s%.12s/s", out_bytes(done).s, out_bytes(r->total_bytes).s, gap, out_bytes((uint64_t)rate).s);
    return t;
}

static void bar(progress *p, double t)
{
    char line[512];
    const double rate = rate_of(p);
    const uint64_t done = done_by(p, rate, t), total = p->said.total_bytes;
    const double fraction = (double)done / (double)total;
    int n = snprintf(line, sizeof line, "%s %3.0f %%  %s  %s left  ", p->phase, 100 * fraction, how_far(p, done, rate, "  ").s, rate > 0 ? out_duration((double)(total - done) / rate).s : "?");
    size_t used = n > 0 && (size_t)n < sizeof line ? (size_t)n : 0, width = terminal_width() - 1;
    if (used + 12 < width) {
        size_t cells = width - used - 2 > 40 ? 40 : width - used - 2, full = (size_t)(fraction * (double)cells);
        line[used++] = '[';
        for (size_t i = 0; i < cells; i++) line[used++] = i < full ? '=' : i == full ? '>' : ' ';
        line[used++] = ']';
    } else if (used > width) {
        used = width;
    }
    fprintf(stderr, "\r%.*s\033[K", (int)used, line);
    fflush(stderr);
    p->shown = true;
    p->last = t;
}

/* For logs: a line per ten percent, if the job takes that long. None at the end, which says itself. */
static void plain_line(progress *p, double t)
{
    const double rate = rate_of(p), fraction = (double)p->said.done_bytes / (double)p->said.total_bytes;
    const unsigned decile = (unsigned)(fraction * 10);
    if (decile <= p->last_decile || decile >= 10 || t - p->last < LINE_SECONDS) return;
    p->last_decile = decile;
    p->last = t;
    fprintf(stderr, "%s: %.0f %%, %s, %s left\n", p->phase, 100 * fraction, how_far(p, p->said.done_bytes, rate, ", ").s,
            out_duration(rate > 0 ? (double)(p->said.total_bytes - p->said.done_bytes) / rate : 0).s);
}

static void on_progress(void *user, const fq_progress *r)
{
    progress *p = user;
    double t = now();
    if (p->quiet || r->total_bytes == 0) return;
    const char *phase = r->phase ? r->phase : "";
    const bool begins = strncmp(p->phase, phase, sizeof p->phase - 1) != 0;
    p->said = *r;
    p->said.phase = p->said.item = NULL;   /* not ours to keep */
    p->said_at = t;
    if (p->said.done_bytes > r->total_bytes) p->said.done_bytes = r->total_bytes;
    if (begins) {
        snprintf(p->phase, sizeof p->phase, "%s", phase);
        p->start = p->last = t;
        p->start_bytes = r->done_bytes;
        p->last_decile = 0;
        return;
    }
    if (!p->tty) plain_line(p, t);
    else if (t - p->last >= REDRAW_SECONDS) bar(p, t);
}

void progress_tick(progress *p)
{
    const double t = now();
    if (p->quiet || !p->tty || p->said.total_bytes == 0 || t - p->last < REDRAW_SECONDS) return;
    bar(p, t);
}

static void on_log(void *user, fq_log_level level, const char *line)
{
    progress *p = user;
    if (p->quiet && level != FQ_LOG_WARN) return;
    progress_end(p);
    fputs(level == FQ_LOG_WARN ? "fitq: warning: " : "fitq: ", stderr);
    out_escaped(stderr, line);
    fputc('\n', stderr);
}

/* From whatever thread, and the last thing that this process says. */
static void on_lost(void *user, const char *line)
{
    (void)user;
    fputs("fitq: ", stderr);
    out_escaped(stderr, line);
    fputc('\n', stderr);
}

void progress_run(progress *p, fq_run *run, const arg_values *a)
{
    *p = (progress){ .quiet = a->quiet || fq_rank() > 0, .tty = isatty(2) != 0 };
    *run = (fq_run){
        .n_thread = (int)a->threads,
        .memory_bytes = a->memory,
        .io = (fq_io)a->io,
        .progress = on_progress,
        .log = on_log,
        .cancelled = signals_cancelled,
        .user = p,
        .n_rank = (int)a->ranks,
        .expert_parallel = a->expert_parallel,
        .heartbeat_seconds = a->heartbeat,
        .lost = on_lost,
    };
}

void progress_end(progress *p)
{
    if (p->shown) fputs("\r\033[K", stderr);
    p->shown = false;
}
