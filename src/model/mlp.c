/* mlp.c - the gated MLP of a dense layer, of one expert and of a shared expert: down(silu(gate(x)) * up(x)). */
#include "model/work.h"

void fqi_mlp_run(const fqi_pass *p, const fqi_mlp_weights *m, const float *x, const uint32_t *token, size_t n, float *out, fqi_tap_point down,
                 int64_t expert)
{
    const fqi_compute *c = p->c;
    float *gate = p->work->gate, *up = p->work->up;
    const size_t width = (size_t)m->gate.rows;
    fqi_matmul(c, &m->gate, m->gate_bias, x, n, gate, width);
    fqi_matmul(c, &m->up, m->up_bias, x, n, up, width);
#pragma omp parallel for num_threads(fqi_pass_threads(p, n)) schedule(static)
    for (size_t t = 0; t < n; t++) c->kernel->silu_mul(gate + t * width, up + t * width, c->served, width);
    fqi_pass_tap(p, down, expert, gate, token, n, width);
    if (p->step == FQI_STEP_DOWN_IN) return;
    fqi_matmul(c, &m->down, m->down_bias, gate, n, out, (size_t)m->down.rows);
}
