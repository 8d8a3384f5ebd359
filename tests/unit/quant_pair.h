/* quant_pair.h - a quantized checkpoint beside its dense twin: are the weights that the forward pass gets the same, bit for bit? */
#ifndef FITQ_TESTS_QUANT_PAIR_H
#define FITQ_TESTS_QUANT_PAIR_H

#include "make_quantized.h"
#include "model/weights.h"

typedef struct fqt_opened { fq_ckpt *c; fqi_decoder d; fqi_weights *w; char *dir; } fqt_opened;

/* A folder in fqt_dir, which must be sound. */
fqt_opened fqt_open_at(const char *dir);
/* Removes the folder too. */
void fqt_close(fqt_opened *o);
/* Makes o->w. */
void fqt_hold(fqt_opened *o, fq_dtype served, int64_t head_rows);
/* All weights of all layers, and the head by head_rows rows; fails the running test, with `what` in its text. */
void fqt_same_weights(const char *what, fqt_opened *a, fqt_opened *b, int64_t head_rows);
/* Makes both, compares them, removes both. */
void fqt_check_quantized(const char *what, const fqt_model *m, const fqt_quant *q, int64_t head_rows);

#endif
