#!/usr/bin/env python3
"""`fitq verify PATH --tp N` finds what engines load without a word and compute wrongly, on checkpoints that are made to have it, and says nothing
about those that have not. The engine's slices are cut here a second time, from the bytes, and turned into numbers: rank, first element, both
numbers, how many differ and by how much must be what the program says.

FITQ_BINARY names the program."""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BINARY = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'tools'))
sys.dont_write_bytecode = True
import random_quantized  # noqa: E402
import unpack_quantized  # noqa: E402

SEED = int(os.environ.get('FITQ_TEST_SEED', '20261123'))
SMALL = {'group': 32, 'hidden': 64, 'head_dim': 16, 'width': 96, 'vocab': 64}    # 96 / 2 is one group and a half
LEFT_OUT = ('wrong zero point', 'wrong zero point, a kernel that reads it')        # one layer, whose zero points readers disagree about
WHOLE = dict(SMALL, width=128)                                                   # each of 2 GPUs has whole groups


def load(folder):
    """-> tensors (name -> dtype, shape, bytes), names in the order of their data"""
    with open(os.path.join(folder, 'model.safetensors'), 'rb') as f:
        blob = f.read()
    n = struct.unpack('<Q', blob[:8])[0]
    header = json.loads(blob[8:8 + n])
    header.pop('__metadata__', None)
    order = sorted(header, key=lambda k: header[k]['data_offsets'])
    return {k: (header[k]['dtype'], tuple(header[k]['shape']), blob[8 + n + header[k]['data_offsets'][0]:8 + n + header[k]['data_offsets'][1]]) for k in order}


def save(folder, tensors, config=None):
    unpack_quantized.write(os.path.join(folder, 'model.safetensors'), tensors)
    if config:
        with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
            json.dump(config, f)


def rows_of(t):
    """A tensor of two dimensions as rows of numbers; words unsigned."""
    dtype, shape, data = t
    if dtype == 'BF16':
        flat = [struct.unpack('<f', b'\0\0' + data[i:i + 2])[0] for i in range(0, len(data), 2)]
    else:
        flat = struct.unpack(f'<{len(data) // {"I32": 4, "F16": 2, "F32": 4}[dtype]}{ {"I32": "I", "F16": "e", "F32": "f"}[dtype]}', data)
    width = shape[-1] if len(shape) > 1 else len(flat)
    return [flat[i:i + width] for i in range(0, len(flat), width)]


class Layer:
    """What a rank has loaded, or the whole: codes[n][k], scales[group][n], g_idx."""

    def __init__(self, tensors, module, method):
        self.order = None
        if method == 'gptq':
            words, self.scales = rows_of(tensors[module + '.qweight']), rows_of(tensors[module + '.scales'])
            self.codes = [[words[k // 8][n] >> 4 * (k % 8) & 15 for k in range(8 * len(words))] for n in range(len(words[0]))]
            zeros = rows_of(tensors[module + '.qzeros'])
            self.zeros = [[(z[n // 8] >> 4 * (n % 8) & 15) + 1 for n in range(len(self.codes))] for z in zeros]
            name = module + '.g_idx'
        else:
            words = rows_of(tensors[module + '.weight_packed'])
            self.scales = [list(x) for x in zip(*rows_of(tensors[module + '.weight_scale']))]
            self.codes = [[w[k // 8] >> 4 * (k % 8) & 15 for k in range(8 * len(w))] for w in words]
            self.zeros = [[8] * len(words) for _ in self.scales]
            name = module + '.weight_g_idx'
        if name in tensors:
            self.order = rows_of(tensors[name])[0]

    def value(self, n, k, group, zero=None):
        return struct.unpack('<f', struct.pack('<f', self.scales[group][n] * (self.codes[n][k] - (self.zeros[group][n] if zero is None else zero))))[0]


def differences(layer, size, tp, engine):
    """engine(rank, k of the slice) -> row of the whole's scales, None. Rows are cut by tp if engine says so with tp > 1. -> fields of the fault"""
    cols, first, wrong, most = len(layer.codes[0]), None, 0, 0.0
    for rank in range(tp):
        for n in range(len(layer.codes)):
            for k in range(rank * cols // tp, (rank + 1) * cols // tp):
                group = layer.order[k] if layer.order else k // size
                whole, row = layer.value(n, k, group), engine(rank, k - rank * cols // tp)
                got = None if row is None else layer.value(n, k, row, 8)
                if got == whole:
                    continue
                wrong += 1
                most = max(most, abs(got - whole)) if got is not None else most
                first = first or {'rank': rank, 'row': n, 'column': k, 'expected': whole, 'found': got}
    return dict(first, elements_wrong=wrong, elements=cols * len(layer.codes), max_abs=most)


class Checks:
    def __init__(self, folder):
        self.folder, self.n, self.failed = folder, 0, 0
        self.rng = random.Random(SEED)

    def make(self, form, kind='qwen2', **lengths):
        self.n += 1
        folder = os.path.join(self.folder, str(self.n))
        return folder, random_quantized.make(folder, self.rng, form, kind, **lengths)

    def run(self, what, folder, tp, engine, status, rules, fmt=None, fields=None, more=()):
        """rules: kind and rule of every fault. fields: of faults with the first of them, by module."""
        done = subprocess.run([BINARY, 'verify', folder, '--tp', str(tp), '--engine', engine, '--json', '--quiet'] + (['--format', fmt] if fmt else []) + list(more), capture_output=True, text=True, timeout=60, check=False)
        try:
            out = json.loads(done.stdout)
        except ValueError:
            self.fail(what, f'no JSON: {done.stdout!r} {done.stderr!r}')
            return
        faults = out['faults']
        found = sorted({(f['kind'], f['rule']) for f in faults})
        if done.returncode != status or found != sorted(rules):
            self.fail(what, f'found {done.returncode} {found}, expected {status} {sorted(rules)}: {done.stderr}')
        if any(f['kind'] != 'refused' for f in faults) or not faults:
            if (out['products'] == 0) != ('w4afp8' in what and 'own' in what) or out['products_left_out'] != (what in LEFT_OUT) or out['product_error'] > 1e-12:
                self.fail(what, f'products {out["products"]}, left out {out["products_left_out"]}, error {out["product_error"]}')
        for fault in faults:
            if 'product_relative' in fault and not 0.2 < fault['product_relative'] / fault['relative'] < 5 and fault['elements_wrong'] > fault['elements'] / 10:
                self.fail(what, f'product_relative {fault["product_relative"]}, relative {fault["relative"]}')
            if fields and fault['rule'] == rules[0][1] and fault['tensor'].rpartition('.')[0] in fields:
                want = fields.pop(fault['tensor'].rpartition('.')[0])
                for key, value in want.items():
                    if not (fault[key] == value or (isinstance(value, float) and isinstance(fault[key], float) and abs(fault[key] - value) <= 2e-7 * abs(value))):
                        self.fail(what, f'{key}: found {fault[key]}, expected {value}')
        if fields:
            self.fail(what, f'nothing was said about {sorted(fields)}')

    def fail(self, what, text):
        self.failed += 1
        print(f'{what}: {text} (seed {SEED})')


def sound(c):
    """Nothing to find. Plain kernels have no tiles that these lengths would miss."""
    cases = (('gptq', 'vllm', None), ('gptq asymmetric', 'vllm-2025', 'gptq'), ('gptq_v2', 'sglang', 'gptq'), ('ct', 'vllm', None), ('awq', 'vllm', None), ('fp8 blocks', 'vllm', None),
             ('gptq one group', 'vllm', None), ('desc_act', 'sglang', 'gptq'))
    for form, engine, fmt in cases:
        folder, _ = c.make(form, **dict(WHOLE, group=16) if 'fp8' in form else WHOLE)
        if form == 'desc_act':
            same_orders(folder)
        c.run(f'sound {form}', folder, 2, engine, 0, [], fmt=fmt)


def same_orders(folder):
    """q, k and v have one g_idx, gate and up too."""
    tensors = load(folder)
    for one, others in (('self_attn.q_proj', ('self_attn.k_proj', 'self_attn.v_proj')), ('mlp.gate_proj', ('mlp.up_proj',))):
        for o in others:
            tensors[f'model.layers.0.{o}.g_idx'] = tensors[f'model.layers.0.{one}.g_idx']
    save(folder, tensors)


def split_group(c):
    """Row 11: a group that two ranks share, of o_proj and of down_proj. Lengths that SGLang's kernels have tiles for."""
    for lengths, name in ((dict(heads=6, width=512), 'self_attn.o_proj'), (dict(heads=4, width=384), 'mlp.down_proj')):
        folder, _ = c.make('gptq', 'llama', group=128, hidden=256, head_dim=64, vocab=64, **lengths)
        name = 'model.layers.0.' + name
        layer = Layer(load(folder), name, 'gptq')
        want = differences(layer, 128, 2, lambda rank, k: rank)   # one row of scales for a group and a half
        c.run(f'split group of {name}, sglang', folder, 2, 'sglang', 1, [('differs', 'group-split')], fields={name: want})
        c.run(f'split group of {name}, vllm', folder, 2, 'vllm', 3, [('refused', 'group-split')], fields={name: {'rank': 0, 'column': 128}})
    folder, _ = c.make('gptq', **SMALL)   # no tile for 48 channels of a rank, whatever the groups
    c.run('no tile, sglang', folder, 2, 'sglang', 3, [('refused', 'tile-k'), ('refused', 'tile-n')])


def orders(c):
    """Row 31, and g_idx that fusing loses or that config.json does not announce."""
    folder, config = c.make('desc_act', whole=True, **WHOLE)
    tensors = load(folder)
    order = rows_of(tensors['model.layers.0.self_attn.v_proj.g_idx'])[0]
    assert [n for n in tensors if n.endswith('_proj.g_idx') and 'self_attn' in n][-1].endswith('v_proj.g_idx')   # loaded last
    name = 'model.layers.0.self_attn.k_proj'
    want = differences(Layer(tensors, name, 'gptq'), 32, 1, lambda _, k: order[k])
    for x in ('q', 'gate'):   # leaves k beside v
        tensors[f'model.layers.0.{"self_attn" if x == "q" else "mlp"}.{x}_proj.g_idx'] = tensors[f'model.layers.0.{"self_attn.v" if x == "q" else "mlp.up"}_proj.g_idx']
    save(folder, tensors)
    c.run('fused orders', folder, 2, 'sglang', 1, [('differs', 'fused-order')], fmt='gptq', fields={name: want})
    config['quantization_config']['desc_act'] = False
    save(folder, tensors, config)
    o = Layer(tensors, 'model.layers.0.self_attn.o_proj', 'gptq')
    want = differences(o, 32, 2, lambda rank, k: rank + k // 32)
    assert len(o.scales) == 2
    c.run('order not announced', folder, 2, 'vllm', 1, [('differs', 'order-ignored')], fields={'model.layers.0.self_attn.o_proj': want})
    folder, _ = c.make('desc_act', whole=True, **dict(WHOLE, hidden=256, head_dim=64, width=256))
    same_orders(folder)
    # The slices are right, and so are all numbers that can be followed: a kernel of ROCm is not, on any rank. Rule and tensor are all that can be said.
    c.run('desc_act, plain kernel', folder, 2, 'vllm-2025', 1, [('kernel', 'act-order')], fmt='gptq', fields={'model.layers.0.self_attn.o_proj': {'kind': 'kernel'}})


def zeros(c):
    folder, _ = c.make('gptq', **WHOLE)
    tensors = load(folder)
    name = 'model.layers.0.mlp.up_proj.qzeros'
    dtype, shape, data = tensors[name]
    tensors[name] = dtype, shape, bytes([data[0] ^ 1]) + data[1:]   # output channel 0 of group 0
    save(folder, tensors)
    up = Layer(tensors, 'model.layers.0.mlp.up_proj', 'gptq')
    want = differences(up, 32, 1, lambda _, k: k // 32)
    c.run('wrong zero point', folder, 2, 'vllm', 1, [('differs', 'zeros-ignored')], fields={'model.layers.0.mlp.up_proj': want})
    c.run('wrong zero point, a kernel that reads it', folder, 2, 'sglang', 0, [], fmt='gptq')


def derived(c):
    """Rows 28 and 29: all scales of w2 on every rank, and a kernel that divides."""
    lengths = {'group': 128, 'hidden': 128, 'head_dim': 64, 'width': 256, 'vocab': 64}
    for group, status, rules in ((128, 1, [('differs', 'group-derived')]), (32, 3, [('refused', 'group-derived')])):
        folder, config = c.make('ct', 'qwen3_moe', **dict(lengths, group=group))
        config['quantization_config']['config_groups']['group_0']['weights']['actorder'] = 'static'
        save(folder, load(folder), config)
        name = 'model.layers.0.mlp.experts.0.down_proj'
        want = {name: differences(Layer(load(folder), name, 'ct'), 128, 2, lambda _, k: k // 64)} if group == 128 else None
        c.run(f'derived group of {group}', folder, 2, 'vllm-2025', status, rules, fields=want)
        c.run(f'derived group of {group}, repaired', folder, 2, 'vllm', 0, [])


def nvfp4(c):
    """Row 23: 232 channels a rank are 14 groups and a half. Engines refuse it, so that nothing is computed; fitq reads no E2M1 numbers either: what is said is
    the rule, the tensor, and the group that ranks 0 and 1 share."""
    folder, _ = c.make('nvfp4', group=16, hidden=128, head_dim=16, heads=8, kv=8, width=1856, vocab=64)
    name = 'model.layers.0.mlp.down_proj'
    c.run('nvfp4, 232 channels a rank', folder, 8, 'vllm', 3, [('refused', 'group-split')], fields={name: {'rank': 0, 'column': 224}})


def fixed(c):
    """Row 32: W4AFP8 in groups of 64, in a kernel that has 128 built in; as compressed-tensors, whose numbers are read, and as DeepSeek-R1-W4AFP8, of which
    config.json says it all."""
    lengths = {'hidden': 256, 'head_dim': 64, 'width': 256, 'vocab': 64, 'kv': 2, 'heads': 4}
    folder, _ = c.make('ct w4afp8', 'qwen3_moe', group=64, **lengths)
    tensors, want = load(folder), {}
    for x, tp in (('gate', 1), ('down', 2)):
        name = f'model.layers.0.mlp.experts.0.{x}_proj'
        want[name] = differences(Layer(tensors, name, 'ct'), 64, tp, lambda rank, k: rank * 2 + k // 128)
    c.run('w4afp8 in groups of 64', folder, 2, 'sglang', 1, [('differs', 'group-fixed')], fields=want)
    folder, _ = c.make('ct w4afp8', 'qwen3_moe', group=128, **lengths)
    c.run('w4afp8 in groups of 128', folder, 2, 'sglang', 0, [])
    folder, _ = c.make('w4afp8', 'qwen3_moe', group=64, **lengths)
    c.run('w4afp8, its own method', folder, 2, 'sglang', 1, [('kernel', 'group-fixed')], fields={'model.layers.0.mlp.experts.0.down_proj': {'rank': 0}})


def whole_experts(c):
    """--expert-parallel: no rule on the width of experts, one on their number; a fault of an expert is its owner's."""
    lengths = dict(WHOLE, group=128, hidden=256, head_dim=64, width=128, heads=4, kv=2)   # 64 of 128 channels: half a group
    folder, config = c.make('ct', 'qwen3_moe', **lengths)
    c.run('experts cut', folder, 2, 'vllm', 3, [('refused', 'moe-group')], fields={'model.layers.0.mlp.experts.0.down_proj': {'rank': 0, 'column': 0}})
    c.run('experts whole, 3 on 2 GPUs', folder, 2, 'vllm', 0, [], more=['--expert-parallel'])
    c.run('experts whole, 3 on 2 GPUs, sglang', folder, 2, 'sglang', 3, [('refused', 'experts-split')], more=['--expert-parallel'])
    folder, config = c.make('ct w4afp8', 'qwen3_moe', **dict(lengths, group=64))
    tensors = load(folder)
    for part in ('weight_packed', 'weight_scale', 'weight_shape'):   # a fourth one; of the first two those of down_proj are right, all scales being 1
        for x in ('gate', 'up', 'down'):
            tensors[f'model.layers.0.mlp.experts.3.{x}_proj.{part}'] = tensors[f'model.layers.0.mlp.experts.2.{x}_proj.{part}']
    for name in list(tensors):
        if '.experts.' in name and name.endswith('.weight_scale') and not ('.2.' in name and 'down' in name):
            dtype, shape, data = tensors[name]
            tensors[name] = dtype, shape, (struct.pack('<e', 1) if dtype == 'F16' else b'\x80\x3f') * (len(data) // 2)
    gate = tensors['model.layers.0.mlp.gate.weight']
    tensors['model.layers.0.mlp.gate.weight'] = gate[0], (4, gate[1][1]), gate[2] + gate[2][:len(gate[2]) // 3]
    config['num_experts'] = 4
    save(folder, tensors, config)
    name = 'model.layers.0.mlp.experts.2.down_proj'
    want = dict(differences(Layer(tensors, name, 'ct'), 64, 1, lambda _, k: k // 128), rank=1)
    c.run('the third of 4 experts is wrong', folder, 2, 'sglang', 1, [('differs', 'group-fixed')], fields={name: want}, more=['--expert-parallel'])


def heads(c):
    """Row 43: query heads added behind the others, where engines give each KV head the same number of them."""
    for form in ('gptq', ''):
        folder, config = c.make('gptq', plain=() if form else ('proj',), **dict(WHOLE, heads=6, kv=2, hidden=192, head_dim=32))
        tensors = load(folder)
        name = 'model.layers.0.self_attn.q_proj.' + ('qweight' if form else 'weight')
        dtype, shape, data = tensors[name]
        if form:   # columns of words are output channels
            words = rows_of(tensors[name])
            tensors[name] = dtype, shape, b''.join(struct.pack(f'<{shape[1]}I', *(0x88888888 if n >= 128 else w for n, w in enumerate(r))) for r in words)
        else:
            del config['quantization_config']
            tensors[name] = dtype, shape, data[:len(data) * 4 // 6] + bytes(len(data) - len(data) * 4 // 6)
        save(folder, tensors, config)
        c.run(f'heads behind {form}', folder, 2, 'vllm', 1, [('differs', 'head-map')], fields={'model.layers.0.self_attn.q_proj': {'rank': 0, 'row': 2 * 32}})


def padded(c):
    """What fitq makes of a model that does not fit is cut without loss."""
    folder, _ = c.make('gptq', 'llama', **SMALL)
    out = folder + '-tp2'
    subprocess.run([BINARY, 'pad', folder, '-o', out, '--set', 'intermediate_size=128,num_attention_heads=8', '--quiet'], check=True, stdout=subprocess.DEVNULL)
    c.run('padded', out, 2, 'vllm', 0, [])


def main():
    with tempfile.TemporaryDirectory(prefix='fitq-slices.') as folder:
        c = Checks(folder)
        for part in (sound, split_group, orders, zeros, derived, nvfp4, fixed, whole_experts, heads, padded):
            part(c)
    if c.failed:
        sys.exit(f'{c.failed} checks failed')
    print(f'{c.n} checkpoints')


main()
