/* signals.h - INT, TERM, HUP and XCPU ask a job to stop; it saves its state and the program then dies of the signal. */
#ifndef FITQ_CLI_SIGNALS_H
#define FITQ_CLI_SIGNALS_H

#include <stdbool.h>

/* PIPE and XFSZ become errors of the write; the stopping signals set a flag, once: a second one kills at once. */
void signals_start(void);
/* For fq_run.cancelled; user is not used. */
bool signals_cancelled(void *user);
/* Dies of the signal that came, so that the caller sees 128 + n. Returns if none came. */
void signals_reraise(void);

#endif
