/* journal.h - what an unfinished output already holds, so that a killed run can go on.
 *
 * A text file in the staging folder. Every line ends in the XXH3 of the line and of all lines before it:
 *
 *     K version 0.1.0 #8a...          one per property that decides the output
 *     T 0 <source hash> <out hash> #  tensor 0 is on the disk, whole
 *
 * A record is appended only after the data it speaks of was fsync'd. Records that do not
 * check, and all behind them, are dropped: a power cut may leave anything there, and what is not on record is written again. The
 * keys were durable before the first record, so damage among them is FQ_E_RESUME: the journal no longer says whose it is. */
#ifndef FITQ_JOB_JOURNAL_H
#define FITQ_JOB_JOURNAL_H

#include "base/fs.h"
#include "job/provenance.h"

typedef struct fqi_journal_key { const char *name; const char *value; } fqi_journal_key;   /* no newline, no blank in name */

typedef struct fqi_journal {
    fqi_writer w;
    uint64_t chain;         /* running hash */
    size_t n_done;          /* tensors recorded, always 0 .. n_done-1 of the output table */
} fqi_journal;

/* source_hash, out_hash: n_tensor entries; the first n_done are filled when resuming. resume: an existing journal with the same
 * keys is continued, with other keys is FQ_E_RESUME naming the first that differs; without a journal it starts empty. */
fq_status fqi_journal_open(fqi_journal *j, const char *path, const fqi_journal_key *key, size_t n_key, bool resume,
                           fqi_hash128 *source_hash, fqi_hash128 *out_hash, size_t n_tensor, fq_err *e);
/* Forgets records from tensor `keep` on (their data was found damaged). */
fq_status fqi_journal_rewind(fqi_journal *j, const char *path, const fqi_journal_key *key, size_t n_key, size_t keep,
                             const fqi_hash128 *source_hash, const fqi_hash128 *out_hash, fq_err *e);
/* Records tensors n_done .. upto-1 and makes the record durable. */
fq_status fqi_journal_record(fqi_journal *j, size_t upto, const fqi_hash128 *source_hash, const fqi_hash128 *out_hash, fq_err *e);
void fqi_journal_close(fqi_journal *j);   /* zeroed is fine */

#endif
