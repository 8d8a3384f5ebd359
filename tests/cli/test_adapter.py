#!/usr/bin/env python3
"""`fitq pad --adapter` and `unpad --adapter`: a LoRA adapter goes by the maps of its model.

Random models are fitted in every layout (widths, heads, copies of KV heads, vocabulary, experts; one is quantized, with channels in another order), random
adapters in the layout of PEFT are carried to them, and read by tests/tools/st_reader.py. For each layer the product B A must be the one of the original where
the maps of fitq.json (and fitq.order) say so, and exactly zero elsewhere: then base and adapter together are the same function. The way back must give
the same bytes, and must refuse what the original has no place for.

Environment: FITQ_BINARY, FITQ_SOURCE_DIR, FITQ_TEST_SEED (printed)."""
import json
import os
import random
import shutil
import struct
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import test_repair as repair  # noqa: E402
from test_repair import AXES, Failed, expand, fitq, need, st_reader, unpack_quantized  # noqa: E402

SOURCE = repair.SOURCE
R = 3


# ---- adapters ---------------------------------------------------------------------------------------------------------


def linear_shapes(folder):
    return {name[:-len('.weight')]: t.shape for name, t in st_reader.read_folder(folder).items() if name.endswith('_proj.weight') or name.startswith(('lm_head', 'model.embed'))}


def numbers(rng, n):
    return struct.pack(f'<{n}f', *(rng.choice((-1, 1)) * rng.randrange(1, 64) / 16 for _ in range(n)))   # no zeros; products are exact


def write(folder, tensors, settings=None):
    os.mkdir(folder)
    unpack_quantized.write(os.path.join(folder, 'adapter_model.safetensors'), tensors)
    with open(os.path.join(folder, 'adapter_config.json'), 'w', encoding='utf-8') as f:
        json.dump(settings or {'peft_type': 'LORA', 'r': R, 'lora_alpha': 8, 'base_model_name_or_path': 'original', 'target_modules': 'all-linear'}, f, indent=2)


def make_adapter(folder, rng, shapes, middle=''):
    out = {}
    for module, (n, k) in shapes.items():
        name = 'base_model.model.' + module
        if 'embed' in module:
            out[f'{name}.lora_embedding_A{middle}'] = ('F32', (R, n), numbers(rng, R * n))
            out[f'{name}.lora_embedding_B{middle}'] = ('F32', (k, R), numbers(rng, R * k))
        elif module == 'lm_head':
            out[f'{name}.weight'] = ('F32', (n, k), numbers(rng, n * k))   # modules_to_save
        else:
            out[f'{name}.lora_A{middle}.weight'] = ('F32', (R, k), numbers(rng, R * k))
            out[f'{name}.lora_B{middle}.weight'] = ('F32', (n, R), numbers(rng, n * R))
    write(folder, out)


def tensors_of(folder):
    return st_reader.read_folder(folder)


def product(tensors, module, middle=''):
    """B A of a layer, or the matrix that stands for it."""
    name = 'base_model.model.' + module
    if name + '.weight' in tensors:
        return [list(row) for row in repair.grid(tensors[name + '.weight'])]
    if 'embed' in module:   # [vocabulary][hidden]: (B A) transposed
        a, b = (repair.grid(tensors[f'{name}.lora_embedding_{x}{middle}']) for x in 'AB')
        return [[sum(b[h][r] * a[r][v] for r in range(R)) for h in range(len(b))] for v in range(len(a[0]))]
    a, b = (repair.grid(tensors[f'{name}.lora_{x}{middle}.weight']) for x in 'AB')
    return [[sum(row[r] * a[r][k] for r in range(R)) for k in range(len(a[0]))] for row in b]


# ---- maps -------------------------------------------------------------------------------------------------------------


def orders(like):
    path = os.path.join(like, 'fitq.order')
    if not os.path.exists(path):
        return {}
    with open(path, 'rb') as f:
        n = struct.unpack('<Q', f.read(8))[0]
        head, data = json.loads(f.read(n)), f.read()
    return {name.rsplit('.', 2)[0]: struct.unpack(f'<{t["shape"][0]}i', data[t['data_offsets'][0]:t['data_offsets'][1]]) for name, t in head.items()}


def maps_of(like, module, shape):
    with open(os.path.join(like, 'fitq.json'), encoding='utf-8') as f:
        maps = {name: expand(m) for name, m in json.load(f)['maps'].items()}
    part = next((x for x in AXES if x in module), None)
    axes = [('moe_intermediate_size' if '.experts.' in module else 'intermediate_size') if x == 'ff' else x for x in AXES[part]]
    by_order = orders(like).get(module.removeprefix('model.').rsplit('.', 1)[0])
    out = []
    for axis, n in zip(axes, shape):
        out.append(list(by_order) if by_order and axis and 'intermediate' in axis else maps.get(axis) or list(range(n)))
    return out


def check(source, target, like, shapes, middle=''):
    old, new = tensors_of(source), tensors_of(target)
    need(set(old) == set(new), f'other tensors: {set(old) ^ set(new)}')
    for module, shape in shapes.items():
        rows, cols = maps_of(like, module, shape)
        x, y = product(old, module, middle), product(new, module, middle)
        need(y == [[x[r][k] if r >= 0 and k >= 0 else 0 for k in cols] for r in rows], f'{module}: B A is another matrix')


def there_and_back(work, adapter, like, shapes, middle=''):
    target, back = os.path.join(work, 'target'), os.path.join(work, 'back')
    code, out, err = repair_run('pad', '--adapter', adapter, '--like', like, '-o', target, '--quiet')
    need(code == 0, f'pad: exit {code}: {out}{err}')
    check(adapter, target, like, shapes, middle)
    with open(os.path.join(target, 'adapter_config.json'), encoding='utf-8') as f:
        need(json.load(f)['base_model_name_or_path'] == like, 'base_model_name_or_path is another one')
    code, out, err = repair_run('unpad', '--adapter', target, '--like', like, '-o', back, '--quiet')
    need(code == 0 and 'left out' not in out, f'unpad: exit {code}: {out}{err}')
    a, b = tensors_of(adapter), tensors_of(back)
    need(set(a) == set(b) and all((t.dtype, t.shape, t.data) == (b[n].dtype, b[n].shape, b[n].data) for n, t in a.items()), 'the way back gives other bytes')
    return target


def repair_run(*args):
    code, text = fitq(*args)
    return code, text, ''


def refused(rule, *args):
    code, text = fitq(*args)
    need(code in (2, 3) and rule in text, f'{" ".join(args)}: exit {code}: {text}')


def edited(folder, source, change):
    """A copy of the adapter in which change(tensors) was made."""
    tensors = {n: (t.dtype, t.shape, bytearray(t.data)) for n, t in tensors_of(source).items()}
    change(tensors)
    write(folder, {n: (d, s, bytes(x)) for n, (d, s, x) in tensors.items()})
    return folder


# ---- cases ------------------------------------------------------------------------------------------------------------


def layouts(rng, work):
    for n, (layout, moe, ask) in enumerate((
            ('spread', False, 'intermediate_size=104,vocab_size=100'), ('tail', False, 'intermediate_size=96,num_attention_heads=6,num_key_value_heads=2'),
            ('interleave', False, 'intermediate_size=112'), ('spread', True, 'moe_intermediate_size=48'),
            ('spread', False, 'num_key_value_heads=4,kv_replication=2,num_attention_heads=8'))):
        model, like, adapter = (os.path.join(work, f'{x}{n}') for x in ('model', 'like', 'adapter'))
        repair.make_model(model, rng, moe, 40 if moe else 88, 4, 2)
        shapes = linear_shapes(model)
        if n != 0:
            shapes = {m: s for m, s in shapes.items() if 'embed' not in m and m != 'lm_head'}
        code, text = fitq('pad', model, '-o', like, '--layout', layout, '--set', ask, '--quiet')
        need(code == 0, text)
        middle = '.default' if n == 1 else ''
        make_adapter(adapter, rng, shapes, middle)
        try:
            target = there_and_back(work, adapter, like, shapes, middle)
        except Failed as e:
            raise Failed(f'{layout} {ask}: {e}') from e
        if n == 0:
            trained(work, target, like, shapes)
            wrong(work, adapter, target, like, model)
        if n == 4:
            copies(work, target, like)
        if n == 1:
            heads(work, target, like)
        for folder in ('target', 'back'):
            shutil.rmtree(os.path.join(work, folder))


def name_of(tensors, part):
    return next(n for n in tensors if part in n)


def trained(work, target, like, shapes):
    """What training on the fitted model leaves: values in A's new columns of down_proj are without effect while gate's B has none, and reach the outputs else."""
    added = [i for i, s in enumerate(maps_of(like, next(m for m in shapes if 'gate_proj' in m), (88, 64))[0]) if s < 0][0]

    def down(t):
        n = name_of(t, 'down_proj.lora_A')
        t[n][2][4 * added:4 * added + 4] = struct.pack('<f', 0.5)

    def up(t):
        n = name_of(t, 'up_proj.lora_B')
        t[n][2][4 * R * added:4 * R * added + 4] = struct.pack('<f', 0.5)

    def gate(t):
        n = name_of(t, 'gate_proj.lora_B')
        t[n][2][4 * R * added:4 * R * added + 4] = struct.pack('<f', -0.5)

    harmless = edited(os.path.join(work, 'harmless'), target, lambda t: (down(t), up(t)))
    code, text = fitq('unpad', '--adapter', harmless, '--like', like, '-o', os.path.join(work, 'h'), '--quiet')
    need(code == 0, f'without effect, and refused: {text}')
    harmful = edited(os.path.join(work, 'harmful'), target, lambda t: (down(t), up(t), gate(t)))
    ask = ['unpad', '--adapter', harmful, '--like', like, '-o', os.path.join(work, 'h2')]
    refused('adapter-drop: found values that reach the outputs in 1 of 16 MLP channels', *ask)
    code, text = fitq(*ask, '--drop', '--quiet')
    need(code == 0 and 'left out: 1 places' in text, text)


def heads(work, target, like):
    cols = maps_of(like, 'model.layers.0.self_attn.o_proj', (64, 64))[1]
    added = cols.index(-1)

    def change(t):
        n = name_of(t, 'o_proj.lora_A')
        t[n][2][4 * added:4 * added + 4] = struct.pack('<f', 0.5)

    refused('adapter-drop: found values that reach the outputs in 1 of', 'unpad', '--adapter', edited(os.path.join(work, 'dummy'), target, change), '--like', like, '-o', os.path.join(work, 'no'))


def copies(work, target, like):
    def change(t):
        n = name_of(t, 'k_proj.lora_B')
        t[n][2][0:4] = struct.pack('<f', 17.0)

    refused('adapter-drop: found 1 rows that differ between copies', 'unpad', '--adapter', edited(os.path.join(work, 'copies'), target, change), '--like', like, '-o', os.path.join(work, 'no'))


def wrong(work, adapter, target, like, model):
    no = os.path.join(work, 'no')
    refused('fitted model\'s lengths already', 'pad', '--adapter', target, '--like', like, '-o', no)
    refused('original\'s lengths already', 'unpad', '--adapter', adapter, '--like', like, '-o', no)
    refused('fitq-json', 'pad', '--adapter', adapter, '--like', model, '-o', no)
    refused('adapter-files', 'pad', '--adapter', model, '--like', like, '-o', no)
    refused('--like DIR is missing', 'pad', '--adapter', adapter, '-o', no)
    refused('found both PATH and --adapter', 'pad', model, '--adapter', adapter, '--like', like, '-o', no)
    refused('no other lengths', 'pad', '--adapter', adapter, '--like', like, '-o', no, '--tp', '2')
    refused('adapter-tensor: found module model.layers.9.mlp.up_proj', 'pad', '--adapter', edited(os.path.join(work, 'w1'), adapter, lambda t: t.update({'base_model.model.model.layers.9.mlp.up_proj.lora_A.weight': ('F32', (R, 4), bytes(16 * R))})), '--like', like, '-o', no)
    refused('adapter-tensor: found a name', 'pad', '--adapter', edited(os.path.join(work, 'w2'), adapter, lambda t: t.update({'base_model.model.prompt_embeddings': ('F32', (1,), bytes(4))})), '--like', like, '-o', no)
    refused('adapter-dora', 'pad', '--adapter', edited(os.path.join(work, 'w3'), adapter, lambda t: t.update({'base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector': ('F32', (88,), bytes(352))})), '--like', like, '-o', no)
    other = os.path.join(work, 'w4')
    write(other, {n: (t.dtype, t.shape, t.data) for n, t in tensors_of(adapter).items()}, {'peft_type': 'IA3'})
    refused('adapter-type: found peft_type IA3', 'pad', '--adapter', other, '--like', like, '-o', no)
    need(not os.path.exists(no), 'a refusal left something')


def quantized(rng, work):
    """Channels of a quantized model are stored in the order of their importance, each MLP in its own."""
    model, like, adapter = os.path.join(SOURCE, 'examples', 'tiny-qwen2'), os.path.join(work, 'like'), os.path.join(work, 'adapter')
    code, text = fitq('quantize', model, '-o', like, '--calib', os.path.join(SOURCE, 'examples', 'calib.txt'), '--samples', '1', '--seqlen', '64', '--set', 'intermediate_size=1024', '--quiet')
    need(code == 0, text)
    need(orders(like), 'no fitq.order')
    shapes = {m: s for m, s in linear_shapes(model).items() if '.layers.1.' in m and ('mlp' in m or 'v_proj' in m)}
    make_adapter(adapter, rng, shapes)
    there_and_back(work, adapter, like, shapes)
    os.remove(os.path.join(like, 'fitq.order'))
    refused('fitq-order: found no file', 'pad', '--adapter', adapter, '--like', like, '-o', os.path.join(work, 'no'))


def main():
    seed = int(os.environ.get('FITQ_TEST_SEED', '20261123'))
    failed = 0
    for name, case in (('layouts', layouts), ('quantized', quantized)):
        with tempfile.TemporaryDirectory(prefix='fitq-adapter.') as work:
            try:
                case(random.Random(seed), work)
                print(f'{name}: ok', flush=True)
            except (Failed, ValueError, KeyError, StopIteration) as e:
                failed += 1
                print(f'FAILED {name}: {e!r}', flush=True)
    print(f'{failed} failed, seed {seed}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
