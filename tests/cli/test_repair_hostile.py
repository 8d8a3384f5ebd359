#!/usr/bin/env python3
"""`fitq pad`, `unpad` and `verify` on quantized checkpoints that nobody would make: every form, odd lengths, random codes, and lies.

Checkpoints are drawn by tests/tools/random_quantized.py and read by tests/tools/unpack_quantized.py, which know nothing of fitq. With the maps of
fitq.json every weight that was written must have the bits of the one it comes from, or be zero. What is asked is one of three kinds: asks that must
be done, asks that must be refused by name, and asks where either is right, as long as it is done exactly or refused cleanly. Then a bit of
every kind of part is turned, one after another: the proof must fail and name the tensor. Inputs that lie must be refused before anything
is written.

Environment: FITQ_BINARY, FITQ_SOURCE_DIR, FITQ_TEST_SEED (printed), FITQ_FULL=1: many more.
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
sys.dont_write_bytecode = True
import random_quantized  # noqa: E402
import st_edit  # noqa: E402
import st_reader  # noqa: E402
import unpack_quantized  # noqa: E402

LIMIT = 120
GROUP, HEAD_DIM = 16, 8
REFUSALS = ('map-block', 'map-unit', 'packed-zero', 'packed-bits', 'packed-group', 'packed-order', 'layout', 'split-blocks', 'interleave-length')
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


def config_of(folder):
    with open(os.path.join(folder, 'config.json'), encoding='utf-8') as f:
        return json.load(f)


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
    tensors = unpack_quantized.unpack(st_reader.read_folder(folder), config_of(folder)['quantization_config'])
    return {name: st_reader.Tensor(name, *t) for name, t in tensors.items()}


def moved(t, rows, cols):
    """Bytes of t with rows and columns from these places."""
    old, out = t.rows(), []
    blank = bytes(len(old[0]))
    for r in rows or range(len(old)):
        row = old[r] if r >= 0 else blank
        if cols:
            cells, zero = [row[i:i + t.item] for i in range(0, len(row), t.item)], bytes(t.item)
            row = b''.join([cells[k] if k >= 0 else zero for k in cols])
        out.append(row)
    return b''.join(out)


def check_weights(source, target):
    with open(os.path.join(target, 'fitq.json'), encoding='utf-8') as f:
        maps = {name: expand(m) for name, m in json.load(f)['maps'].items()}
    old, new = dense(source), dense(target)
    need(set(old) == set(new), f'other tensors: {set(old) ^ set(new)}')
    for name, a in old.items():
        part = next((x for x in AXES if x in name), None)
        axes = [('moe_intermediate_size' if '.experts.' in name else 'intermediate_size') if x == 'ff' else x for x in AXES.get(part, (None, None))]
        rows, cols = (maps.get(x) if i < len(a.shape) else None for i, x in enumerate(axes))   # o_proj's bias has none of its inputs
        shape = tuple(len(m) if m else n for m, n in zip((rows, cols), a.shape))
        need(new[name].shape == shape and new[name].dtype == a.dtype, f'{name}: {new[name].dtype} {new[name].shape}, expected {a.dtype} {shape}')
        need(moved(a, rows, cols) == new[name].data, f'{name}: a weight is another one')
    for name, t in st_reader.read_folder(target).items():
        if 'scale' in name:
            need(all(math.isfinite(v) and v != 0 for v in unpack_quantized.floats(t)), f'{name}: a scale is no number, or 0')


def same_tensors(a, b):
    x, y = st_reader.read_folder(a), st_reader.read_folder(b)
    need(set(x) == set(y), f'{b}: other tensors')
    for name, t in x.items():
        need((t.dtype, t.shape, t.data) == (y[name].dtype, y[name].shape, y[name].data), f'{name} is not what it was')
    need(config_of(a) == config_of(b), 'config.json is not what it was')


def places(path):
    """name -> (offset in the file, bytes)"""
    with open(path, 'rb') as f:
        n, = struct.unpack('<Q', f.read(8))
        header = json.loads(f.read(n))
    header.pop('__metadata__', None)
    return {name: (8 + n + t['data_offsets'][0], t['data_offsets'][1] - t['data_offsets'][0]) for name, t in header.items()}


def turn_bits(rng, source, target):
    """A bit of one tensor of every kind of part, one after another."""
    path, kinds = os.path.join(target, 'model.safetensors'), {}
    where = places(path)
    for name in where:
        kinds.setdefault(name.rpartition('.')[2], []).append(name)
    with open(path, 'r+b') as f:
        for names in kinds.values():
            name = rng.choice(names)
            at = where[name][0] + rng.randrange(where[name][1])
            f.seek(at)
            byte = f.read(1)
            for value in (bytes([byte[0] ^ 1 << rng.randrange(8)]), byte):
                f.seek(at)
                f.write(value)
                f.flush()
                if value != byte:
                    code, text = fitq('verify', '--weights', source, target, '--quiet')
                    need(code == 1 and name in text, f'a bit of {name}: exit {code}: {text}')


def check_refusal(code, text, target, rules):
    lines = [s for s in text.splitlines() if s.startswith('fitq') and not s.startswith('fitq: warning')]
    need(code in (2, 3) and len(lines) == 1, f'exit {code}: {text}')
    need(any(f'{rule}: ' in lines[0] for rule in rules), f'expected {" or ".join(rules)}: {lines[0]}')
    need(not os.path.exists(target) and not os.path.exists(target + '.fitq-partial'), 'a refusal left something')


def repair(rng, source, work, args, tail=False, bits=False):
    """Pads and takes it back -> None, or what a refusal says."""
    target, back = os.path.join(work, 'padded'), os.path.join(work, 'back')
    code, text = fitq('pad', source, '-o', target, '--quiet', *args)
    if code != 0:
        check_refusal(code, text, target, REFUSALS)
        return text
    check_weights(source, target)
    code, text = fitq('verify', '--weights', source, target, '--quiet')
    need(code == 0 and 'proved: ' in text, f'verify --weights: exit {code}: {text}')
    if tail:
        code, text = fitq('verify', source, target, '--context', '8', '--chunks', '1', '--quiet', '--threads', '1')
        need(code == 0 and 'same: ' in text, f'verify: exit {code}: {text}')
    if bits:
        turn_bits(rng, source, target)
    code, text = fitq('unpad', target, '-o', back, '--quiet')
    need(code == 0, f'unpad: exit {code}: {text}')
    same_tensors(source, back)
    shutil.rmtree(target)
    shutil.rmtree(back)
    return None


# ---- cases ------------------------------------------------------------------------------------------------------------


def lengths_of(rng, form):
    """Lengths at which a form has trouble. Heads: whole groups of o_proj, unless the form has none."""
    free = 'tensor' in form or 'channel' in form
    kv = rng.choice((1, 2, 3))
    heads = kv * rng.choice((2, 4))   # of 8 channels, so groups of 16 hold two
    width = rng.choice((20, 36, 52)) if free else GROUP * rng.choice((1, 3, 5))
    if 'fp8' in form and 'block' in form and rng.random() < 0.5:
        width += rng.choice((4, 8, 12))   # the last block is short
    if 'one group' in form:
        width = 8 * rng.choice((5, 7))
    if 'fp8' in form:   # o_proj may have odd heads too
        heads = kv * rng.choice((1, 2, 3))
    return {'width': width, 'heads': heads, 'kv': kv, 'vocab': rng.choice((17, 40))}


def asks(rng, form, n, moe):
    """-> (arguments of --set, must it be done)"""
    key, width = 'moe_intermediate_size' if moe else 'intermediate_size', n['width']
    whole = width + -width % GROUP + GROUP * rng.randrange(0 if width % GROUP else 1, 3)
    rep, heads, kv = rng.choice((2, 3)), n['heads'], n['kv']
    copies = f'num_key_value_heads={kv * rep},kv_replication={rep},num_attention_heads={heads * rep}'
    odd = width + rng.randrange(1, 2 * GROUP)
    return {
        'groups': (f'{key}={whole}', 'one group' not in form or 'asym' not in form),
        'vocabulary': (f'vocab_size={n["vocab"] + rng.randrange(1, 30)},{key}={whole}', True),
        'copies': (copies, False),
        'both': (f'{copies},{key}={whole}', False),
        'heads': (f'num_attention_heads={heads + kv}', False),
        'more KV heads': (f'num_key_value_heads={kv + 1},num_attention_heads={heads // kv * (kv + 1)}', False),
        'odd width': (f'{key}={odd}', False),
    }


def say(form, kind, n, args):
    return f'{form}, {kind}, ' + ', '.join(f'{k} {v}' for k, v in n.items()) + ': ' + ' '.join(args)


def run_form(rng, work, form, kind, tally):
    n, source = lengths_of(rng, form), os.path.join(work, 'source')
    plain = rng.choice((('experts.1.',), ())) if kind == 'qwen3_moe' and 'fp8' not in form else ()
    random_quantized.make(source, rng, form, kind, GROUP, 32, HEAD_DIM, plain=plain, **n)
    todo = asks(rng, form, n, kind == 'qwen3_moe')
    for layout in ('tail', 'spread', 'interleave'):
        names = list(todo) if FULL else (['groups'] if layout == 'tail' else []) + rng.sample(list(todo), 2)
        for i, name in enumerate(names):
            args = ['--layout', layout, '--set', todo[name][0]]
            must = todo[name][1] and layout == 'tail' and '3 bits' not in form
            try:
                refused = repair(rng, source, work, args, tail=layout == 'tail', bits=i == 0)
                need(not refused or not must, f'refused: {refused}')
            except Failed as e:
                keep(work, source)
                raise Failed(f'{say(form, kind, n, args)}: {e}') from e
            tally[0] += not refused
            tally[1] += bool(refused)
            for rule in REFUSALS:
                tally[2][rule] = tally[2].get(rule, 0) + (bool(refused) and f'{rule}: ' in refused)
    shutil.rmtree(source)


def keep(work, source):
    """FITQ_KEEP: a folder for what failed."""
    if os.environ.get('FITQ_KEEP'):
        shutil.copytree(source, os.environ['FITQ_KEEP'], dirs_exist_ok=True)


def random_cases(rng, work):
    failed, tally = 0, [0, 0, {}]
    for turn in range(6 if FULL else 1):
        for form in random_quantized.FORMS:
            kind = rng.choice(('qwen2', 'llama', 'qwen3', 'qwen3_moe')) if turn or form not in ('fp8 blocks', 'desc_act') else 'qwen3_moe'
            try:
                run_form(rng, work, form, kind, tally)
            except (Failed, ValueError) as e:
                failed += 1
                print(f'FAILED {e}')
                for name in os.listdir(work):
                    shutil.rmtree(os.path.join(work, name))
    print(f'{tally[0]} repaired, {tally[1]} refused: ' + ', '.join(f'{n} {rule}' for rule, n in tally[2].items() if n))
    return failed


# ---- what must be done, and what must be refused ------------------------------------------------------------------------

# form, lengths, arguments, rule (None: must be done)
CASES = {
    'whole groups': ('gptq', {'width': 48}, ['--set', 'intermediate_size=80', '--layout', 'spread'], None),
    'width is one group': ('gptq', {'width': 16}, ['--set', 'intermediate_size=48', '--layout', 'tail'], None),
    'one group a row': ('gptq one group', {'width': 48}, ['--set', 'intermediate_size=56', '--layout', 'tail'], None),
    'asymmetric, spread': ('awq', {'width': 80}, ['--set', 'intermediate_size=128', '--layout', 'spread'], None),
    'asymmetric zeros, interleaved': ('gptq asymmetric', {'width': 80}, ['--set', 'intermediate_size=128', '--layout', 'interleave'], None),
    'asymmetric, for 2 GPUs': ('awq', {'width': 384, 'group': 128, 'hidden': 256, 'head_dim': 32, 'heads': 8}, ['--tp', '2', '--engine', 'vllm'], None),
    'shuffled, for 2 GPUs': ('desc_act', {'width': 384, 'group': 128, 'hidden': 256, 'head_dim': 32, 'heads': 8}, ['--tp', '2', '--engine', 'vllm', '--layout', 'spread'], None),
    'short FP8 blocks': ('fp8 blocks', {'width': 40}, ['--set', 'intermediate_size=64', '--layout', 'tail'], None),
    'odd FP8 heads, copied': ('fp8 blocks', {'heads': 3, 'kv': 3}, ['--set', 'num_key_value_heads=6,kv_replication=2,num_attention_heads=6'], None),
    'any length with a scale for a tensor': ('fp8 tensor', {'width': 37}, ['--set', 'intermediate_size=41', '--layout', 'interleave'], None),
    'any length with a scale for a channel': ('ct fp8 channel', {'width': 37}, ['--set', 'intermediate_size=41', '--layout', 'spread'], None),
    'head': ('gptq', {'head': True}, ['--set', 'vocab_size=64'], None),
    'head, compressed-tensors': ('ct', {'head': True, 'vocab': 41}, ['--set', 'vocab_size=47'], None),
    'smaller groups': ('gptq asymmetric', {'width': 192, 'group': 64, 'hidden': 64, 'heads': 8}, ['--regroup', '32'], None),
    'smaller groups and more of them': ('ct', {'width': 192, 'group': 64, 'hidden': 64, 'heads': 8}, ['--regroup', '32', '--set', 'intermediate_size=224'], None),
    'heads of half a word': ('gptq 2 bits', {'heads': 4, 'kv': 2}, ['--set', 'num_key_value_heads=4,kv_replication=2'], None),
    'heads of half a word, AWQ': ('awq', {'head_dim': 4, 'heads': 8, 'kv': 2}, ['--set', 'num_key_value_heads=4,kv_replication=2'], None),
    '3 bits': ('gptq 3 bits', {'width': 32}, ['--set', 'intermediate_size=64'], 'packed-bits'),
    'half a group at the end': ('gptq', {'width': 48}, ['--set', 'intermediate_size=72', '--layout', 'tail'], 'packed-group'),
    'half a group, compressed-tensors': ('ct', {'width': 48}, ['--set', 'intermediate_size=56', '--layout', 'tail'], 'packed-group'),
    'half a group, shuffled': ('desc_act', {'width': 48}, ['--set', 'intermediate_size=72', '--layout', 'tail'], 'packed-group'),
    'half a group, AWQ': ('awq', {'width': 48}, ['--set', 'intermediate_size=72', '--layout', 'tail'], 'packed-'),
    'half a word': ('gptq one group', {'width': 48}, ['--set', 'intermediate_size=50', '--layout', 'tail'], 'map-unit'),
    'asymmetric heads fill up a group': ('awq', {'heads': 4, 'kv': 2}, ['--set', 'num_attention_heads=6'], None),
    'and in words of inputs': ('gptq_v2 asymmetric 8 bits', {'heads': 4, 'kv': 2}, ['--set', 'num_attention_heads=6'], None),
    'and of outputs first': ('ct asymmetric', {'heads': 4, 'kv': 2}, ['--set', 'num_attention_heads=6'], None),
    'asymmetric groups are split': ('awq', {'width': 112}, ['--set', 'intermediate_size=128', '--layout', 'interleave'], None),
    'one asymmetric group a row': ('gptq asymmetric', {'width': 48, 'group': 48, 'hidden': 48, 'heads': 6}, ['--set', 'intermediate_size=72'], 'packed-'),
    'words of zero points': ('gptq', {'head': True, 'vocab': 41}, ['--set', 'vocab_size=48'], 'map-unit'),
    'KV heads of half a word': ('gptq 2 bits', {'heads': 4, 'kv': 1}, ['--set', 'num_key_value_heads=2,kv_replication=2,num_attention_heads=4'], 'map-unit'),
    'smaller groups, shuffled': ('desc_act', {'width': 192, 'group': 64, 'hidden': 64, 'heads': 8}, ['--regroup', '32'], 'packed-order'),
    'down_proj in order, the others are not': ('desc_act', {'width': 192, 'group': 64, 'hidden': 128, 'heads': 16, 'whole': True}, ['--fold-order', '--regroup', '32'], 'packed-order'),
}


def listed_cases(rng, work):
    failed, source = 0, os.path.join(work, 'source')
    for name, (form, lengths, args, rule) in CASES.items():
        try:
            random_quantized.make(source, rng, form, 'qwen2', **lengths)
            refused = repair(rng, source, work, args)
            need(not refused or rule, f'refused: {refused}')
            need(refused or not rule, f'done, expected a refusal ({rule})')
            need(not rule or any(r in refused for r in ((rule,) if isinstance(rule, str) else rule)), f'expected {rule}: {refused}')
        except (Failed, ValueError) as e:
            failed += 1
            print(f'FAILED {name}: {e}')
        for left in os.listdir(work):
            shutil.rmtree(os.path.join(work, left))
    return failed


# ---- lies ---------------------------------------------------------------------------------------------------------------

DOWN = 'model.layers.0.mlp.down_proj.'


def set_number(part, i, value, letter='i'):
    def change(tensors):
        t = next(t for t in tensors if t[0] == DOWN + part)
        struct.pack_into('<' + letter, t[3], i * struct.calcsize(letter), value)
    return change


def drop(part):
    def change(tensors):
        tensors[:] = [t for t in tensors if t[0] != DOWN + part]
    return change


def rows(part, n):
    def change(tensors):
        t = next(t for t in tensors if t[0] == DOWN + part)
        t[3] = t[3][:len(t[3]) // t[2][0] * n]
        t[2][0] = n
    return change


def all_words(part, word):
    def change(tensors):
        t = next(t for t in tensors if t[0] == DOWN + part)
        t[3] = bytearray(struct.pack('<I', word) * (len(t[3]) // 4))
    return change


# form, what is changed, rule
LIES = {
    'g_idx behind the last group': ('desc_act', set_number('g_idx', 7, 3), 'packed-order'),
    'g_idx below 0': ('desc_act', set_number('g_idx', 0, -1), 'packed-order'),
    'g_idx far away': ('gptq', set_number('g_idx', 47, 0x7fffffff), 'packed-order'),
    'g_idx of compressed-tensors': ('ct order', set_number('weight_g_idx', 5, -3), 'packed-order'),
    'no g_idx': ('desc_act', drop('g_idx'), 'packed-parts'),
    'a short g_idx': ('desc_act', rows('g_idx', 40), 'packed-shape'),
    'no scales': ('gptq', drop('scales'), 'packed-parts'),
    'no zero points': ('awq', drop('qzeros'), 'packed-parts'),
    'scales of two groups': ('gptq', rows('scales', 2), 'packed-group'),
    'codes of fewer channels': ('awq', rows('qweight', 40), 'packed-shape'),
    'a shape with other rows': ('ct', set_number('weight_shape', 0, 31, 'q'), 'packed-shape'),
    'a shape with other columns': ('ct 8 bits', set_number('weight_shape', 1, 49, 'q'), 'packed-shape'),
    'a shape below 0': ('ct', set_number('weight_shape', 1, -48, 'q'), 'packed-shape'),
    'no shape': ('ct', drop('weight_shape'), 'packed-parts'),
    'no scale of blocks': ('fp8 blocks', drop('weight_scale_inv'), 'packed-parts'),
    'zero points of gptq_v2 in gptq': ('gptq', all_words('qzeros', 0x88888888), 'zero-version'),
    'zero points of gptq in gptq_v2': ('gptq_v2', all_words('qzeros', 0x77777777), 'zero-version'),
    'zero points of no symmetric codes': ('gptq', set_number('qzeros', 1, 0x77757777), 'packed-zero'),
    'fewer blocks': ('fp8 blocks', rows('weight_scale_inv', 1), 'packed-shape'),
}


def lies(rng, work):
    failed, source, target = 0, os.path.join(work, 'source'), os.path.join(work, 'padded')
    for name, (form, change, rule) in LIES.items():
        try:
            random_quantized.make(source, rng, form, 'qwen2')
            path = os.path.join(source, 'model.safetensors')
            tensors, meta = st_edit.load(path)
            change(tensors)
            st_edit.save(path, tensors, meta)
            code, text = fitq('pad', source, '-o', target, '--quiet', '--set', 'intermediate_size=64')
            check_refusal(code, text, target, [rule])
            need('down_proj' in text, f'no module named: {text}')
        except Failed as e:
            failed += 1
            print(f'FAILED {name}: {e}')
        for left in os.listdir(work):
            shutil.rmtree(os.path.join(work, left))
    return failed


def main():
    seed = int(os.environ.get('FITQ_TEST_SEED') or random.SystemRandom().randrange(1 << 30))
    print(f'seed {seed}', flush=True)
    memory = '/dev/shm' if os.access('/dev/shm', os.W_OK | os.X_OK) else None   # an fsync costs nothing there
    with tempfile.TemporaryDirectory(prefix='fitq-repair.', dir=memory) as work:
        failed = sum(part(random.Random(seed), work) for part in (lies, listed_cases, random_cases))
    print(f'{failed} failed, seed {seed}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
