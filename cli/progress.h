/* progress.h - how a job talks while it runs: a bar with rate and time left on a terminal, plain lines otherwise. All on
 * stderr. */
#ifndef FITQ_CLI_PROGRESS_H
#define FITQ_CLI_PROGRESS_H

#include "args.h"

typedef struct progress {
    bool quiet, tty;
    bool shown;             /* a bar stands on the line */
    double start, last;     /* seconds */
    uint64_t start_bytes;   /* done when the first report came: a resumed job starts high */
    unsigned last_decile;
    char phase[32];
    /* what was reported last, and when: between two reports that are far apart the bar goes on by the clock */
    fq_progress said;
    double said_at;
    const char *unit;       /* what the items of phase unit_phase are, "layer": they are shown instead of bytes. NULL = none */
    const char *unit_phase;
} progress;

/* Fills the run options that every job has, with callbacks that report to p. Both must outlive the job. */
void progress_run(progress *p, fq_run *run, const arg_values *a);
/* Draws the bar again as of now, on a terminal. For jobs that report seldom: call it whenever the job calls. */
void progress_tick(progress *p);
/* Removes the bar. */
void progress_end(progress *p);

#endif
