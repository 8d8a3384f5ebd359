#!/usr/bin/env python3
"""`fitq pad`, `unpad` and `verify` on checkpoints that are quantized already: not one weight changes.

Random models of odd lengths are packed in every form that fitq reads by tests/tools/pack_quantized.py, padded in every layout, and what was
written is dequantized by tests/tools/unpack_quantized.py, which knows nothing of fitq's code. With the maps that fitq.json states, every weight
must be the same number where it is real and exactly zero where it is not, and every scale a finite number. The proof must go through, must
fail when a bit of any part is turned, and unpad must give every tensor back byte for byte. A refusal names its rule and leaves nothing.

Environment: FITQ_BINARY, FITQ_SOURCE_DIR, FITQ_TEST_SEED (printed). FITQ_FULL=1: every form in every layout, else every form in one.
"""
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BINARY = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))
FULL = os.environ.get('FITQ_FULL') == '1'
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'tools'))
import pack_quantized  # noqa: E402
import st_edit  # noqa: E402
import st_reader  # noqa: E402
import unpack_quantized  # noqa: E402

LIMIT = 120
HIDDEN, HEAD_DIM, VOCAB = 64, 16, 96
GROUP = 32
FORMS = [('gptq', 4), ('gptq', 8), ('gptq', 2), ('gptq_v2', 4), ('desc_act', 4), ('ct', 4), ('ct', 8), ('awq', 4), ('fp8', 8), ('fp8_tensor', 8), ('ct_fp8', 8)]
LAYOUTS = ('spread', 'tail', 'interleave')
REFUSALS = ('map-block:', 'map-unit:', 'packed-zero:', 'packed-bits:')
AXES = {'gate_proj': ('ff', None), 'up_proj': ('ff', None), 'down_proj': (None, 'ff'), 'q_proj': ('query_channels', None), 'k_proj': ('kv_channels', None),
        'v_proj': ('kv_channels', None), 'o_proj': (None, 'query_channels'), 'embed_tokens': ('vocab_size', None), 'lm_head': ('vocab_size', None)}


class Failed(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Failed(text)


def fitq(*args):
    p = subprocess.run([BINARY, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False)
    return p.returncode, p.stdout + p.stderr


# ---- models ---------------------------------------------------------------------------------------------------------


def shapes(c):
    q, kv, layers = c['num_attention_heads'] * HEAD_DIM, c['num_key_value_heads'] * HEAD_DIM, c['num_hidden_layers']
    out = {'model.embed_tokens.weight': (VOCAB, HIDDEN), 'model.norm.weight': (HIDDEN,)}
    if not c['tie_word_embeddings']:
        out['lm_head.weight'] = (VOCAB, HIDDEN)
    moe = c.get('num_experts', 0)
    for i in range(layers):
        p = f'model.layers.{i}.'
        for name, rows, cols in (('q', q, HIDDEN), ('k', kv, HIDDEN), ('v', kv, HIDDEN), ('o', HIDDEN, q)):
            out[f'{p}self_attn.{name}_proj.weight'] = (rows, cols)
            if not moe and name != 'o':
                out[f'{p}self_attn.{name}_proj.bias'] = (rows,)
        if moe:
            out[p + 'mlp.gate.weight'] = (moe, HIDDEN)
            out.update({f'{p}self_attn.{x}_norm.weight': (HEAD_DIM,) for x in 'qk'})
        width = c['moe_intermediate_size'] if moe else c['intermediate_size']
        for mlp in [f'{p}mlp.experts.{x}.' for x in range(moe)] or [p + 'mlp.']:
            out.update({mlp + 'gate_proj.weight': (width, HIDDEN), mlp + 'up_proj.weight': (width, HIDDEN), mlp + 'down_proj.weight': (HIDDEN, width)})
        out.update({f'{p}{x}_layernorm.weight': (HIDDEN,) for x in ('input', 'post_attention')})
    return out


def make_model(folder, rng, moe, width, heads, kv):
    c = {'hidden_size': HIDDEN, 'intermediate_size': width, 'num_attention_heads': heads, 'num_key_value_heads': kv, 'num_hidden_layers': 1, 'vocab_size': VOCAB,
         'max_position_embeddings': 64, 'rms_norm_eps': 1e-6, 'rope_theta': 10000.0, 'hidden_act': 'silu', 'head_dim': HEAD_DIM, 'torch_dtype': 'float32',
         'tie_word_embeddings': rng.random() < 0.5}
    if moe:
        c.update(architectures=['Qwen3MoeForCausalLM'], model_type='qwen3_moe', num_experts=3, num_experts_per_tok=1, moe_intermediate_size=width, norm_topk_prob=True,
                 intermediate_size=128, decoder_sparse_step=1, mlp_only_layers=[])
    else:
        c.update(architectures=['Qwen2ForCausalLM'], model_type='qwen2')
    tensors = {}
    for name, shape in shapes(c).items():
        n = math.prod(shape)
        low, high = (0.5, 1.5) if 'norm' in name else (-0.5, 0.5)
        tensors[name] = ('F32', shape, struct.pack(f'<{n}f', *(rng.uniform(low, high) for _ in range(n))))
    os.mkdir(folder)
    unpack_quantized.write(os.path.join(folder, 'model.safetensors'), tensors)
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump(c, f, indent=2)
    return c


# ---- what must come out -----------------------------------------------------------------------------------------------


def expand(m):
    """fitq.json's "0:896 -:128" as one source for each new index, -1 for none."""
    out = []
    for run in m['runs'].split():
        src, count = run.split(':')
        out += [-1] * int(count) if src == '-' else range(int(src), int(src) + int(count))
    need(len(out) == m['new'] and max(out) < m['old'] and set(out) - {-1} == set(range(m['old'])), f'not a map onto the old axis: {m}')
    return out


def dense(folder):
    with open(os.path.join(folder, 'config.json'), encoding='utf-8') as f:
        tensors = unpack_quantized.unpack(st_reader.read_folder(folder), json.load(f)['quantization_config'])
    return {name: st_reader.Tensor(name, *t) for name, t in tensors.items()}


def grid(t):
    x, cols = unpack_quantized.floats(t), t.shape[1] if len(t.shape) == 2 else 1
    return [x[i:i + cols] for i in range(0, len(x), cols)]


def check_weights(source, target):
    with open(os.path.join(target, 'fitq.json'), encoding='utf-8') as f:
        maps = {name: expand(m) for name, m in json.load(f)['maps'].items()}
    old, new = dense(source), dense(target)
    need(set(old) == set(new), f'other tensors: {set(old) ^ set(new)}')
    for name, a in old.items():
        part = next((x for x in AXES if x in name), None)
        axes = [('moe_intermediate_size' if '.experts.' in name else 'intermediate_size') if x == 'ff' else x for x in AXES.get(part, (None, None))]
        x, y = grid(a), grid(new[name])
        rows, cols = maps.get(axes[0]) or range(len(x)), maps.get(axes[1]) or range(len(x[0]))
        need((len(y), len(y[0])) == (len(rows), len(cols)), f'{name}: {len(y)} x {len(y[0])}, expected {len(rows)} x {len(cols)}')
        want = [tuple(x[r][k] if r >= 0 and k >= 0 else 0.0 for k in cols) for r in rows]
        need(want == y, f'{name}: a weight is another one')
    for name, t in st_reader.read_folder(target).items():
        if 'scale' in name:
            need(all(math.isfinite(v) and v != 0 for v in unpack_quantized.floats(t)), f'{name}: a scale is no number, or 0')


def same_tensors(a, b):
    x, y = st_reader.read_folder(a), st_reader.read_folder(b)
    need(set(x) == set(y), f'{b}: other tensors')
    for name, t in x.items():
        need((t.dtype, t.shape, t.data) == (y[name].dtype, y[name].shape, y[name].data), f'{b}: {name} is not what it was')


def turn_bits(rng, source, target):
    """One bit of each part of some module, one after another: the proof names the tensor each time."""
    file = os.path.join(target, 'model.safetensors')
    tensors, meta = st_edit.load(file)
    module = rng.choice([t[0].rsplit('.', 1)[0] for t in tensors if t[0].endswith(('scales', '_scale', '_scale_inv'))])
    for t in tensors:
        if t[0].rsplit('.', 1)[0] != module:
            continue
        good, at = t[3], rng.randrange(len(t[3]))
        t[3] = good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1:]
        st_edit.save(file, tensors, meta)
        t[3] = good
        code, text = fitq('verify', '--weights', source, target, '--quiet')
        need(code in (1, 3) and t[0] in text, f'a bit of {t[0]}: exit {code}: {text}')
    st_edit.save(file, tensors, meta)


def repair(rng, source, work, layout, *ask):
    """Pads and takes it back. True if it was done, False if it was refused."""
    target, back = os.path.join(work, 'padded'), os.path.join(work, 'back')
    code, text = fitq('pad', source, '-o', target, '--layout', layout, '--quiet', *ask)
    if code != 0:
        lines = [s for s in text.splitlines() if s.startswith('fitq: ') and not s.startswith('fitq: warning')]
        need(code == 3 and len(lines) == 1 and any(rule in lines[0] for rule in REFUSALS) and 'module ' in lines[0], f'pad: exit {code}: {text}')
        need(not os.path.exists(target) and not os.path.exists(target + '.fitq-partial'), 'a refusal left something')
        return False
    check_weights(source, target)
    code, text = fitq('verify', '--weights', source, target, '--quiet')
    need(code == 0 and 'proved: ' in text, f'verify --weights: exit {code}: {text}')
    code, text = fitq('verify', source, target, '--context', '16', '--chunks', '1', '--quiet', '--threads', '1')
    need(code == 0 and 'same: ' in text, f'verify: exit {code}: {text}')
    turn_bits(rng, source, target)
    code, text = fitq('unpad', target, '-o', back, '--quiet')
    need(code == 0, f'unpad: exit {code}: {text}')
    same_tensors(source, back)
    shutil.rmtree(target)
    shutil.rmtree(back)
    return True


# ---- cases ------------------------------------------------------------------------------------------------------------


def asks(rng, form, moe, width, heads, kv):
    """What is asked of a checkpoint: widths in whole groups, in equal shares, and heads."""
    key = 'moe_intermediate_size' if moe else 'intermediate_size'
    step = 1 if form in ('fp8_tensor', 'ct_fp8') else GROUP   # one scale for a row or a tensor: any length
    more = width + step * rng.randrange(1, 3) + -width % GROUP * (step == GROUP)
    rep = rng.choice((2, 3))
    return [[f'{key}={more}'], [f'num_key_value_heads={kv * rep},kv_replication={rep},num_attention_heads={heads * rep}'],
            [f'{key}={more + GROUP},num_key_value_heads={kv * rep},kv_replication={rep},num_attention_heads={heads * rep}']]


def run_form(rng, work, form, bits, moe):
    done = refused = 0
    floats = 'fp8' in form
    width = rng.choice((88, 72, 104)) if form == 'fp8' and not moe else GROUP * rng.choice((3, 5, 7))   # the last block may be short
    kv = rng.choice((1, 2))
    heads = kv * rng.choice((2, 4) if not floats else (1, 2, 3))
    if heads * HEAD_DIM % GROUP:
        heads *= 2
    model, source = os.path.join(work, 'model'), os.path.join(work, 'source')
    make_model(model, rng, moe, width, heads, kv)
    need(pack_quantized.main([model, source, form, str(bits), str(GROUP)]) == 0, 'not packed')
    for layout in LAYOUTS if FULL else ('spread', 'tail') if form == 'gptq' else (rng.choice(('spread', 'tail')),):
        for ask in asks(rng, form, moe, width, heads, kv):
            if layout == 'interleave' and width % GROUP and form == 'fp8':
                continue
            try:
                ok = repair(rng, source, work, layout, '--set', *ask)
            except (Failed, ValueError) as e:
                raise Failed(f'{form} {bits} bits, {"experts" if moe else "dense"}, width {width}, heads {heads}/{kv}, {layout} {ask[0]}: {e}') from e
            done += ok
            refused += not ok
    shutil.rmtree(model)
    shutil.rmtree(source)
    return done, refused


def regroups(rng, work):
    """Scales for smaller groups, alone and with new lengths."""
    model, source = os.path.join(work, 'model'), os.path.join(work, 'source')
    for form in ('gptq', 'awq', 'ct', 'gptq_v2'):
        make_model(model, rng, form == 'gptq', 3 * 2 * GROUP, 4, 2)
        need(pack_quantized.main([model, source, form, '4', str(2 * GROUP)]) == 0, 'not packed')
        key = 'moe_intermediate_size' if form == 'gptq' else 'intermediate_size'
        need(repair(rng, source, work, 'tail', '--regroup', str(GROUP)), f'{form}: refused')
        need(repair(rng, source, work, 'spread', '--regroup', str(GROUP), '--set', f'{key}={7 * GROUP}'), f'{form}: refused')
        shutil.rmtree(model)
        shutil.rmtree(source)


def plans(work):
    """Padded for GPU counts, the planner says that it runs on them."""
    source, target = (os.path.join(work, x) for x in ('source', 'padded'))
    example = os.path.join(SOURCE, 'examples', 'tiny-qwen2')
    for form, layout in (('gptq', 'spread'), ('awq', 'tail')):
        need(pack_quantized.main([example, source, form, '4', '128']) == 0, 'not packed')
        code, text = fitq('plan', source, '--tp', '2', '--engine', 'vllm')
        need(code == 0 and 'does not run' in text and '--regroup 64' in text and '--tp 2 --engine vllm' in text, f'plan {form}: exit {code}: {text}')
        code, text = fitq('pad', source, '-o', target, '--tp', '2', '--engine', 'vllm', '--layout', layout, '--quiet')
        need(code == 0, text)
        code, text = fitq('plan', target, '--tp', '2', '--engine', 'vllm')
        need(code == 0 and 'runs as it is' in text, f'plan of the padded {form}: exit {code}: {text}')
        code, text = fitq('verify', '--weights', source, target, '--quiet')
        need(code == 0 and 'proved: ' in text, f'verify of the padded {form}: exit {code}: {text}')
        shutil.rmtree(source)
        shutil.rmtree(target)


def main():
    seed = int(os.environ.get('FITQ_TEST_SEED', '20261123'))
    rng = random.Random(seed)
    failed = 0
    with tempfile.TemporaryDirectory(prefix='fitq-repair.') as work:
        for form, bits in FORMS:
            for moe in (False, True) if form in ('gptq', 'awq', 'fp8') and bits != 2 else (False,):
                try:
                    done, refused = run_form(rng, work, form, bits, moe)
                    need(done >= (3 if FULL else 1), f'{form} {bits}: {done} repaired, {refused} refused')
                    print(f'{form} {bits} bits{", experts" if moe else ""}: {done} repaired, {refused} refused')
                except Failed as e:
                    failed += 1
                    print(f'FAILED {e}')
                    for name in os.listdir(work):
                        shutil.rmtree(os.path.join(work, name))
        for name, part in (('regrouped', lambda: regroups(rng, work)), ('planned', lambda: plans(work))):
            try:
                part()
                print(f'{name}: ok')
            except (Failed, ValueError) as e:
                failed += 1
                print(f'FAILED {name}: {e}')
    print(f'{failed} failed, seed {seed}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
