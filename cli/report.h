/* report.h - what pad and unpad say when they are done. */
#ifndef FITQ_CLI_REPORT_H
#define FITQ_CLI_REPORT_H

#include <jansson.h>

#include "fitq.h"

/* Lengths that changed, one per line. fit may be NULL. */
void report_lengths(const fq_model *from, const fq_model *to, const fq_fit *fit);
/* "wrote 51 tensors (12 changed) in 1 file, 8.5 MiB -> 9.0 MiB, in 0.1 s"; for a dry run what would be, and the memory. */
void report_size(const fq_pad_report *r, bool dry_run);
json_t *report_json(const fq_pad_report *r);

#endif
