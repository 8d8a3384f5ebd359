/* vocab.h - which logits stand for tokens: the real vocabulary of a checkpoint, and of two that are compared.
 *
 * A token id is a row number, so a padded vocabulary is the real one with rows behind it (docs/padding.md 1.5), and the real logits are
 * the first ones. How many they are stands in fitq.json; a checkpoint without one is taken at its word (vocab_size). */
#ifndef FITQ_JOB_VOCAB_H
#define FITQ_JOB_VOCAB_H

#include "checkpoint/catalogue.h"

/* Ids below *n_real are tokens; vocab_size - *n_real logits behind them are padding. FQ_E_INPUT: fitq.json is damaged, moves token ids or does
 * not belong to config.json. */
fq_status fqi_vocab_real(const fq_ckpt *c, int64_t *n_real, fq_err *e);

/* Ids that are tokens in both. b may be NULL: those of a. */
fq_status fqi_vocab_common(const fq_ckpt *a, const fq_ckpt *b, int64_t *n, fq_err *e);

#endif
