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
} progress;

/* Fills the run options that every job has, with callbacks that report to p. Both must outlive the job. */
void progress_run(progress *p, fq_run *run, const arg_values *a);
/* Removes the bar. */
void progress_end(progress *p);

#endif
