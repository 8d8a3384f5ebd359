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

static void bar(progress *p, const fq_progress *r, double rate, double fraction)
{
    char line[512];
    double left = rate > 0 ? (double)(r->total_bytes - r->done_bytes) / rate : 0;
    int n = snprintf(line, sizeof line, "%s %3.0f %%  %s of %s  %s/s  %s left  ", r->phase ? r->phase : "",
                     100 * fraction, out_bytes(r->done_bytes).s, out_bytes(r->total_bytes).s,
                     out_bytes((uint64_t)rate).s, rate > 0 ? out_duration(left).s : "?");
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
}

static void on_progress(void *user, const fq_progress *r)
{
    progress *p = user;
    double t = now();
    if (p->quiet || r->total_bytes == 0) return;
    if (!r->phase || strncmp(p->phase, r->phase, sizeof p->phase - 1) != 0) {
        snprintf(p->phase, sizeof p->phase, "%s", r->phase ? r->phase : "");
        p->start = p->last = t;
        p->start_bytes = r->done_bytes;
        p->last_decile = 0;
        return;
    }
    uint64_t done = r->done_bytes > r->total_bytes ? r->total_bytes : r->done_bytes;
    double fraction = (double)done / (double)r->total_bytes, spent = t - p->start;
    double rate = spent > 0.2 && done > p->start_bytes ? (double)(done - p->start_bytes) / spent : 0;
    if (p->tty) {
        if (t - p->last < REDRAW_SECONDS) return;
        p->last = t;
        bar(p, r, rate, fraction);
        return;
    }
    unsigned decile = (unsigned)(fraction * 10);
    if (decile <= p->last_decile || t - p->last < LINE_SECONDS) return;
    p->last_decile = decile;
    p->last = t;
    fprintf(stderr, "%s: %.0f %%, %s of %s, %s/s, %s left\n", p->phase, 100 * fraction, out_bytes(done).s,
            out_bytes(r->total_bytes).s, out_bytes((uint64_t)rate).s,
            out_duration(rate > 0 ? (double)(r->total_bytes - done) / rate : 0).s);
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

void progress_run(progress *p, fq_run *run, const arg_values *a)
{
    *p = (progress){ .quiet = a->quiet, .tty = isatty(2) != 0 };
    *run = (fq_run){
        .n_thread = (int)a->threads,
        .memory_bytes = a->memory,
        .io = (fq_io)a->io,
        .progress = on_progress,
        .log = on_log,
        .cancelled = signals_cancelled,
        .user = p,
    };
}

void progress_end(progress *p)
{
    if (p->shown) fputs("\r\033[K", stderr);
    p->shown = false;
}
