#!/usr/bin/env python3
"""Pads examples/tiny-qwen2 and holds every tensor element against maps that are computed here, in Python.

Nothing of fitq's is used but its command line: the maps follow docs/padding.md, the files are read by tests/tools/st_reader.py.
Checked: every tensor of every layout, the text of config.json, the index of a sharded output, the files that are copied, and
that unpad gives everything back.
"""
import filecmp
import math
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BINARY = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))
MODEL = os.path.join(SOURCE, 'examples', 'tiny-qwen2')
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'tools'))
import st_reader  # noqa: E402

I, H, KV, D, VOCAB = 896, 8, 2, 32, 2048


class Wrong(Exception):
    pass


# ---- maps: new index -> old index, None = zero ----

def tail(n, n_pad):
    return list(range(n)) + [None] * (n_pad - n)


def interleave(n, n_pad):
    out = []
    for i in range(n):
        out.append(i)
        if i < n_pad - n:
            out.append(None)
    return out


def spread(n, n_pad, group):
    out, groups = [], n_pad // group
    for k in range(groups):
        real = list(range(k * n // groups, (k + 1) * n // groups))
        out += real + [None] * (group - len(real))
    return out


def heads(h_pad, kv_pad, rep, layout):
    """-> (query map, KV map), in heads."""
    share = H // KV
    per_kv = h_pad // kv_pad
    groups = []   # (KV head, its query heads), one per stored KV head
    for k in range(KV):
        q = list(range(k * share, (k + 1) * share))
        for c in range(rep):
            n = share // rep + (1 if c < share % rep else 0)
            groups.append((k, q[:n]))
            q = q[n:]
    order = spread(len(groups), kv_pad, 1) if layout == 'spread' else tail(len(groups), kv_pad)
    qmap, kvmap = [], []
    for g in order:
        k, q = groups[g] if g is not None else (None, [])
        kvmap.append(k)
        qmap += q + [None] * (per_kv - len(q))
    return qmap, kvmap


def scaled(m, unit):
    return [None if i is None else i * unit + j for i in m for j in range(unit)]


# ---- tensors ----

def map_rows(t, m):
    rows = t.rows()
    zero = bytes(len(rows[0]))
    return b''.join(zero if i is None else rows[i] for i in m)


def map_columns(t, m):
    out, zero = [], bytes(t.item)
    for row in t.rows():
        cells = [row[i:i + t.item] for i in range(0, len(row), t.item)]
        out += [zero if i is None else cells[i] for i in m]
    return b''.join(out)


ROWS = {'gate_proj.weight': 'ff', 'up_proj.weight': 'ff', 'q_proj.weight': 'q', 'q_proj.bias': 'q', 'k_proj.weight': 'kv',
        'k_proj.bias': 'kv', 'v_proj.weight': 'kv', 'v_proj.bias': 'kv', 'embed_tokens.weight': 'vocab', 'lm_head.weight': 'vocab'}
COLUMNS = {'down_proj.weight': 'ff', 'o_proj.weight': 'q'}


def expected(t, maps):
    """-> (shape, bytes) of tensor t under the maps."""
    for table, axis, function in ((ROWS, 0, map_rows), (COLUMNS, 1, map_columns)):
        for suffix, name in table.items():
            if t.name.endswith(suffix) and name in maps:
                shape = list(t.shape)
                shape[axis] = len(maps[name])
                return tuple(shape), function(t, maps[name])
    return t.shape, t.data


def check_tensors(source, out, maps, added=()):
    if set(out) != set(source) | set(added):
        raise Wrong(f'tensors {sorted(set(out) ^ (set(source) | set(added)))}')
    for name, t in source.items():
        shape, data = expected(t, maps)
        got = out[name]
        if (got.dtype, got.shape) != (t.dtype, shape):
            raise Wrong(f'{name}: {got.dtype} {got.shape}, expected {t.dtype} {shape}')
        if got.data != data:
            at = next(i for i in range(len(data)) if data[i] != got.data[i])
            raise Wrong(f'{name}: byte {at} differs')
    for name in added:
        if any(out[name].data):
            raise Wrong(f'{name}: not zero')


# ---- the rest of the folder ----

def read(*path):
    with open(os.path.join(*path), encoding='utf-8') as f:
        return f.read()


def check_config(folder, changes, inserted):
    """The text is the old one but for the changed numbers and inserted members, each on its own line."""
    text, want = read(folder, 'config.json'), read(MODEL, 'config.json')
    for key, value in changes.items():
        want, n = re.subn(rf'("{key}": )\d+', rf'\g<1>{value}', want)
        if n != 1:
            raise Wrong(f'{key} stands {n} times in the model\'s config.json')
    for key, value in inserted.items():
        member = f',\n  "{key}": {value}'
        if text.count(member) != 1:
            raise Wrong(f'config.json: expected {member!r} once')
        text = text.replace(member, '')
    if text != want:
        raise Wrong('config.json has other differences than ' + str(changes))


def check_copied(folder):
    for name in os.listdir(MODEL):
        if name in ('config.json', 'model.safetensors'):
            continue
        if not filecmp.cmp(os.path.join(MODEL, name), os.path.join(folder, name), shallow=False):
            raise Wrong(f'{name} was not copied byte for byte')


def fitq(*args):
    p = subprocess.run([BINARY, *args], capture_output=True, text=True, timeout=120)
    if p.returncode != 0:
        raise Wrong(f'fitq {" ".join(args)}: exit {p.returncode}: {p.stderr.strip()}')
    return p.stdout


def check_back(source, folder, back):
    fitq('unpad', folder, '-o', back)
    check_tensors(source, st_reader.read_folder(back), {})
    names = set(os.listdir(back))
    if names != set(os.listdir(MODEL)):
        raise Wrong(f'unpad: files {sorted(names ^ set(os.listdir(MODEL)))}')
    if read(back, 'config.json') != read(MODEL, 'config.json'):
        raise Wrong('unpad: config.json differs')
    check_copied(back)


# ---- cases: name, options, maps, changes in config.json, inserted members ----

def cases():
    for layout, ff in (('tail', tail(I, 1024)), ('interleave', interleave(I, 1024)), ('spread', spread(I, 1024, 128))):
        yield (f'mlp-{layout}', ['--set', 'intermediate_size=1024', '--layout', layout], {'ff': ff}, {'intermediate_size': 1024}, {})
    # 4 GPUs with groups of 64: 896 -> 1024, a rank holds 256 = 4 groups
    yield ('mlp-tp4', ['--tp', '4', '--format', 'gptq', '--group-size', '64'], {'ff': spread(I, 1024, math.gcd(64, 1024 // 4))},
           {'intermediate_size': 1024}, {})
    yield ('mlp-tp2-3-shards', ['--tp', '2,3', '--engine', 'lmdeploy', '--format', 'bf16', '--set',
                                'intermediate_size=960,num_attention_heads=12,num_key_value_heads=6,kv_replication=2',
                                '--shard-size', '2MB'],
           {'ff': spread(I, 960, math.gcd(128, 960 // 6)), **head_maps(12, 6, 2, 'spread')},
           {'intermediate_size': 960, 'num_attention_heads': 12, 'num_key_value_heads': 6}, {'head_dim': 32})
    for layout in ('tail', 'spread'):
        for h, kv, rep in ((10, 2, 1), (12, 3, 1), (8, 4, 2), (15, 5, 2), (12, 6, 3)):
            changes = {'num_attention_heads': h, 'num_key_value_heads': kv}
            yield (f'heads-{h}-{kv}-x{rep}-{layout}',
                   ['--set', f'num_attention_heads={h},num_key_value_heads={kv},kv_replication={rep}', '--layout', layout],
                   head_maps(h, kv, rep, layout), {k: v for k, v in changes.items()}, {} if h == H else {'head_dim': 32})
    yield ('vocab', ['--set', 'vocab_size=2112'], {'vocab': tail(VOCAB, 2112)}, {'vocab_size': 2112}, {})


def head_maps(h, kv, rep, layout):
    q, k = heads(h, kv, rep, layout)
    return {'q': scaled(q, D), 'kv': scaled(k, D)}


def check_case(source, work, options, maps, changes, inserted):
    out, back = os.path.join(work, 'out'), os.path.join(work, 'back')
    fitq('pad', MODEL, '-o', out, *options)
    tensors = st_reader.read_folder(out)
    check_tensors(source, tensors, maps)
    check_config(out, changes, inserted)
    check_copied(out)
    proof = fitq('verify', '--weights', MODEL, out)
    if 'proved' not in proof:
        raise Wrong('verify does not say "proved"')
    if '--shard-size' in options and not os.path.exists(os.path.join(out, 'model.safetensors.index.json')):
        raise Wrong('no index')
    check_back(source, out, back)


def check_damage(work):
    """verify and unpad must notice one changed byte."""
    out = os.path.join(work, 'damaged')
    fitq('pad', MODEL, '-o', out, '--set', 'intermediate_size=1024')
    path = os.path.join(out, 'model.safetensors')
    with open(path, 'r+b') as f:
        f.seek(-3, os.SEEK_END)
        byte = f.read(1)[0]
        f.seek(-3, os.SEEK_END)
        f.write(bytes([byte ^ 1]))
    for args in (['verify', '--weights', MODEL, out], ['unpad', out, '-o', os.path.join(work, 'undamaged')]):
        p = subprocess.run([BINARY, *args], capture_output=True, text=True, timeout=120)
        if p.returncode != 1:
            raise Wrong(f'{args[0]} of a damaged checkpoint: exit {p.returncode}, expected 1')
    if os.path.exists(os.path.join(work, 'undamaged')):
        raise Wrong('unpad wrote a checkpoint from damaged weights')


def main():
    source, failed = st_reader.read_folder(MODEL), 0
    jobs = [(name, lambda w, a=args: check_case(source, w, *a)) for name, *args in cases()] + [('damage', check_damage)]
    for name, job in jobs:
        with tempfile.TemporaryDirectory(prefix='fitq-pad.') as work:
            try:
                job(work)
                print(f'[       OK ] {name}')
            except (Wrong, ValueError, OSError) as e:
                failed += 1
                print(f'    {e}\n[  FAILED  ] {name}', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
