/* report.h - what several commands say: pad and unpad when they are done, what runs a model before it starts. */
#ifndef FITQ_CLI_REPORT_H
#define FITQ_CLI_REPORT_H

#include <jansson.h>

#include "fitq.h"

/* Lengths that changed, one per line. fit may be NULL. */
void report_lengths(const fq_model *from, const fq_model *to, const fq_fit *fit);
/* "wrote 51 tensors (12 changed) in 1 file, 8.5 MiB -> 9.0 MiB, in 0.1 s"; for a dry run what would be, and the memory. */
void report_size(const fq_pad_report *r, bool dry_run);
json_t *report_json(const fq_pad_report *r);
/* "364 windows of 512 tokens, 92,820 scored; ...; peak memory: about 63.2 MiB" on stderr. */
void report_run_plan(const char *phase, const fq_run_plan *p);
json_t *report_run_plan_json(const fq_run_plan *p);

#endif
