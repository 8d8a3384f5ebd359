#!/usr/bin/env python3
"""`fitq pad --fold-order`: MLP channels of checkpoints in activation order go into the order of their groups, and not one weight changes.

Random checkpoints whose channels are shuffled into whole groups (tests/tools/random_quantized.py) are folded, alone and with new lengths, layouts and
smaller groups. tests/tools/unpack_quantized.py, which knows nothing of fitq's code, dequantizes both; with the channels that fitq.order states every
weight of gate, up and down must be the same number where it is real and exactly zero where it is not, and g_idx of down_proj must be k / group_size.
The proof must go through and must fail when a bit is turned; unpad must give every tensor back byte for byte. What cannot be folded is refused by
name, and a record that was damaged is not followed.

Environment: FITQ_BINARY, FITQ_SOURCE_DIR, FITQ_TEST_SEED (printed). FITQ_FULL=1: every form with every request in every layout.
"""
import json
import os
import random
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import test_repair  # noqa: E402
from test_repair import FULL, Failed, dense, expand, fitq, grid, need, same_tensors, turn_bits  # noqa: E402
import random_quantized  # noqa: E402
import st_edit  # noqa: E402
import st_reader  # noqa: E402
import unpack_quantized  # noqa: E402

WIDTH, GROUP = 96, 16
random_quantized.FORMS.update({'desc_act 2 bits': ('gptq', 2, 'order'), 'desc_act v1 asymmetric': ('gptq', 4, 'asym', 'order'), 'ct order asymmetric 8 bits': ('ct', 8, 'asym', 'order')})
# form, kind of model
MODELS = [('desc_act', 'qwen2'), ('desc_act', 'qwen3_moe'), ('desc_act asymmetric', 'llama'), ('desc_act asymmetric', 'qwen3_moe'), ('desc_act 2 bits', 'qwen2'), ('desc_act v1 asymmetric', 'qwen3'),
          ('ct order', 'qwen2'), ('ct order', 'qwen3_moe'), ('ct order asymmetric 8 bits', 'llama')]
REQUESTS = {'alone': [], 'one group more': ['WIDTH=112'], 'many more': ['WIDTH=192'], 'and heads': ['WIDTH=128,num_key_value_heads=4,kv_replication=2'], 'and the vocabulary': ['vocab_size=64']}


def config(folder, name='config.json'):
    with open(os.path.join(folder, name), encoding='utf-8') as f:
        return json.load(f)


def channels(source, target):
    """'layers.0.mlp.down_proj' -> for each slot the channel of the source or -1. A channel for each, in no other place."""
    orders, _ = st_reader.read_file(os.path.join(target, 'fitq.order'))
    c, width = config(source), config(target)
    key = 'moe_intermediate_size' if 'num_experts' in c else 'intermediate_size'
    out = {name.removesuffix('.channels'): unpack_quantized.integers(t) for name, t in orders.items()}
    for name, slots in out.items():
        need(len(slots) == width[key] and sorted(x for x in slots if x >= 0) == list(range(c[key])), f'{name}: not a place for each channel')
    return out


def check_weights(source, target, folded):
    maps = {name: expand(m) for name, m in config(target, 'fitq.json')['maps'].items()}
    order = channels(source, target)
    need(len(order) == folded, f'{len(order)} MLPs with an order, expected {folded}')
    old, new = dense(source), dense(target)
    need(set(old) == set(new), 'other tensors')
    for name, a in old.items():
        mlp, _, part = name.removeprefix('model.').rpartition('_proj.')[0].rpartition('.')
        axes = [None, None]
        if part in ('gate', 'up', 'down') and '.mlp.' in name:
            axes[part == 'down'] = order.get(f'{mlp}.down_proj', maps.get('moe_intermediate_size' if '.experts.' in name else 'intermediate_size'))
        else:
            names = test_repair.AXES.get(next((x for x in test_repair.AXES if x in name), None), (None, None))
            axes = [maps.get(x) for x in names]
        if len(a.shape) == 1:
            axes[1] = None
        x, y = grid(a), grid(new[name])
        rows, cols = axes[0] or range(len(x)), axes[1] or range(len(x[0]))
        need([tuple(x[r][k] if r >= 0 and k >= 0 else 0.0 for k in cols) for r in rows] == y, f'{name}: a weight is another one')


def check_order(target, group):
    """down_proj in order; what config.json says is what stands in the others."""
    left = 0
    for name, t in st_reader.read_folder(target).items():
        if not name.endswith('g_idx'):
            continue
        g = unpack_quantized.integers(t)
        trivial = g == tuple(k // group for k in range(len(g)))
        need(trivial or 'down_proj' not in name, f'{name}: not in order')
        left += not trivial
    q = config(target)['quantization_config']
    need('desc_act' not in q or q['desc_act'] == (left > 0), f'desc_act {q.get("desc_act")} with {left} modules out of order')
    return left


def fold(rng, source, work, ask, layout='spread', group=GROUP, folded=1):
    target, back = os.path.join(work, 'folded'), os.path.join(work, 'back')
    code, text = fitq('pad', source, '-o', target, '--fold-order', '--layout', layout, '--quiet', *ask)
    need(code == 0, f'pad: exit {code}: {text}')
    check_weights(source, target, folded)
    left = check_order(target, group)
    need(f'{left} module' in text or left == 0, f'what stays is not said: {text}')
    code, text = fitq('verify', '--weights', source, target, '--quiet')
    need(code == 0 and 'proved: ' in text, f'verify --weights: exit {code}: {text}')
    code, text = fitq('verify', source, target, '--context', '16', '--chunks', '1', '--quiet', '--threads', '1')
    need(code == 0 and 'same: ' in text, f'verify: exit {code}: {text}')
    if ask or FULL:
        turn_bits(rng, source, target)
    code, text = fitq('unpad', target, '-o', back, '--quiet')
    need(code == 0, f'unpad: exit {code}: {text}')
    same_tensors(source, back)
    for name in ('config.json', 'quantize_config.json'):
        if os.path.exists(os.path.join(source, name)):
            with open(os.path.join(source, name), 'rb') as a, open(os.path.join(back, name), 'rb') as b:
                need(a.read() == b.read(), f'{name} is not what it was')
    need(not os.path.exists(os.path.join(back, 'fitq.order')), 'the order is still there')
    shutil.rmtree(target)
    shutil.rmtree(back)


def forms(rng, work):
    source = os.path.join(work, 'source')
    for i, (form, kind) in enumerate(MODELS):
        names = list(REQUESTS) if FULL else [list(REQUESTS)[1 + i % 4]] + ['alone'] * (i % 3 == 0)
        for name in names:
            for layout in test_repair.LAYOUTS if FULL else (test_repair.LAYOUTS[i % 3],):
                if layout == 'interleave' and name == 'many more':
                    layout = 'tail'   # it interleaves no more than there is
                random_quantized.make(source, rng, form, kind, group=GROUP, width=WIDTH, whole=True)
                ask = [x.replace('WIDTH', 'moe_intermediate_size' if kind == 'qwen3_moe' else 'intermediate_size') for x in REQUESTS[name]]
                try:
                    fold(rng, source, work, ['--set', *ask] if ask else [], layout, folded=3 if kind == 'qwen3_moe' else 1)
                except (Failed, ValueError) as e:
                    raise Failed(f'{form}, {kind}, {name}, {layout}: {e}') from e
                shutil.rmtree(source)


def only_down(rng, work):
    """Nothing is left out of order: engines are told so, and groups can be made smaller. One module stays dense, and biases go along."""
    source = os.path.join(work, 'source')
    for form, plain in (('desc_act', ()), ('desc_act asymmetric', ('up_proj',))):
        random_quantized.make(source, rng, form, 'qwen2', group=64, hidden=64, heads=8, width=192, whole=True, ordered=('down_proj',), plain=plain)
        tensors, meta = st_edit.load(os.path.join(source, 'model.safetensors'))
        tensors += [[f'model.layers.0.mlp.{x}_proj.bias', 'F16', [n], bytearray(random_quantized.numbers(rng, (n,), 'F16')[2])] for x, n in (('gate', 192), ('up', 192), ('down', 64)) if f'{x}_proj' not in plain]
        st_edit.save(os.path.join(source, 'model.safetensors'), tensors, meta)   # as some packers write beside codes
        with open(os.path.join(source, 'quantize_config.json'), 'w', encoding='utf-8') as f:
            f.write('{"desc_act": true, "bits": 4, "group_size": 64}\n')
        fold(rng, source, work, [], group=64)
        fold(rng, source, work, ['--regroup', '32'], group=32)
        fold(rng, source, work, ['--regroup', '32', '--set', 'intermediate_size=256'], group=32)
        shutil.rmtree(source)


def refused(rng, work):
    source, target = os.path.join(work, 'source'), os.path.join(work, 'folded')
    def no(rule, code, *ask):
        found, text = fitq('pad', source, '-o', target, '--fold-order', '--quiet', *ask)
        need(found == code and rule in text and not os.path.exists(target) and not os.path.exists(target + '.fitq-partial'), f'expected {rule}, exit {code}: {found}: {text}')
        return text
    random_quantized.make(source, rng, 'desc_act', 'qwen2', whole=True)
    tensors, meta = st_edit.load(os.path.join(source, 'model.safetensors'))
    for t in tensors:
        if t[0].endswith('down_proj.g_idx'):   # a group of 17 and one of 15
            g = list(unpack_quantized.integers(st_reader.Tensor(*t[:3], bytes(t[3]))))
            g[g.index(0)] = 1
            t[3] = bytearray(b''.join(x.to_bytes(4, 'little') for x in g))
    st_edit.save(os.path.join(source, 'model.safetensors'), tensors, meta)
    need('down_proj.g_idx' in no('packed-order: ', 3), 'no module named')
    need('group' in no('packed-order: ', 3, '--set', 'intermediate_size=64'), 'no reason')
    shutil.rmtree(source)
    random_quantized.make(source, rng, 'gptq', 'qwen2')
    need('changes nothing' in no('nothing-to-pad: ', 2), 'not said why')
    shutil.rmtree(source)


def damaged(rng, work):
    """The record: turned, cut, gone, or of another model."""
    source, target, back = (os.path.join(work, x) for x in ('source', 'folded', 'back'))
    random_quantized.make(source, rng, 'desc_act', 'qwen3_moe', width=48, whole=True)
    code, text = fitq('pad', source, '-o', target, '--fold-order', '--quiet')
    need(code == 0, text)
    path = os.path.join(target, 'fitq.order')
    with open(path, 'rb') as f:
        good = f.read()
    for what, data in (('a bit', good[:-5] + bytes([good[-5] ^ 1]) + good[-4:]), ('the end', good[:-4]), ('all', b''), ('the file', None)):
        if data is None:
            os.unlink(path)
        else:
            with open(path, 'wb') as f:
                f.write(data)
        for args in (('unpad', target, '-o', back), ('verify', '--weights', source, target)):
            code, text = fitq(*args, '--quiet')
            need(code == 3 and 'fitq-order: ' in text and not os.path.exists(back), f'{what} of fitq.order is damaged: {args[0]}: exit {code}: {text}')


def main():
    seed = int(os.environ.get('FITQ_TEST_SEED', '20261124'))
    failed = 0
    memory = '/dev/shm' if os.access('/dev/shm', os.W_OK | os.X_OK) else None
    for name, part in (('forms', forms), ('only down_proj', only_down), ('refused', refused), ('damaged', damaged)):
        with tempfile.TemporaryDirectory(prefix='fitq-fold.', dir=memory) as work:
            try:
                part(random.Random(seed), work)
                print(f'{name}: ok')
            except (Failed, ValueError) as e:
                failed += 1
                print(f'FAILED {name}: {e}')
    print(f'{failed} failed, seed {seed}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
