/* fuzz_decoder.c - any bytes as the config.json of a model to run: refused with a message, or read into numbers by which the forward
 * pass can be planned: frequencies and a table of cosines that are finite, windows and ids in range. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "arch/decoder.h"
#include "model/rope.h"

#define MAX_DIM 65536   /* of a head */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good) abort();
}

static void check_rope(const fqi_rope *r)
{
    static double inv[MAX_DIM / 2];
    static const int64_t length[] = { 1, 4096, INT64_C(1) << 40 };
    fqi_rope_table t;
    double scale;
    require(r->dim >= 2 && r->dim <= MAX_DIM && r->dim % 2 == 0);
    for (size_t i = 0; i < sizeof length / sizeof length[0]; i++) {
        fqi_rope_frequencies(r, length[i], inv, &scale);
        require(isfinite(scale) && scale > 0);
        for (int64_t j = 0; j < r->dim / 2; j++) require(isfinite(inv[j]) && inv[j] >= 0 && inv[j] <= 1 + 1e-12);
    }
    if (fqi_rope_table_create(r, 3, FQ_DTYPE_BF16, &t, NULL) != FQ_OK) return;
    for (size_t j = 0; j < 3 * t.half; j++) require(isfinite(t.cos[j]) && isfinite(t.sin[j]));
    fqi_rope_table_free(&t);
}

static void check_decoder(const fqi_decoder *d)
{
    bool any = false;
    require(d->family && d->rms_norm_eps > 0 && (float)d->rms_norm_eps > 0 && d->n_eos <= sizeof d->eos / sizeof d->eos[0]);
    for (size_t i = 0; i < d->n_eos; i++) require(d->eos[i] < (uint64_t)d->model.vocab_size);
    for (int64_t i = 0; i < d->model.num_hidden_layers; i++) {
        require(d->window[i] >= 0);
        any = any || d->window[i] > 0;
    }
    require(any == d->model.sliding_window);   /* what the planner was told */
    check_rope(&d->rope);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fqi_config c;
    fqi_decoder d;
    fq_err e = { .code = FQ_OK };
    if (fqi_config_parse((const char *)data, size, "fuzz", &c, NULL) != FQ_OK) return 0;
    fq_status s = fqi_decoder_read(&c, "fuzz", &d, &e);
    if (s == FQ_OK) {
        check_decoder(&d);
        fqi_decoder_free(&d);
    } else {
        require(s == FQ_E_INPUT && e.code == s && e.rule[0] != '\0' && strlen(e.text) < sizeof e.text);
    }
    fqi_config_free(&c);
    return 0;
}
