#!/usr/bin/env python3
"""`fitq shard` and `fitq unshard`: every rank's file has what that rank's part is, and together they are the checkpoint again, byte for byte.

Models of every family (tests/tools/random_model.py) and quantized ones of every form (random_quantized.py) are cut for random numbers of ranks. What
each rank must have is computed here, from names and shapes: a rule per kind of layer, applied to whichever dimension of a tensor goes with it. Engines'
fused tensors are put together here as vllm's parameters are. What does not divide must be refused. Then records and files are damaged, one at a time.

Environment: FITQ_BINARY, FITQ_SOURCE_DIR, FITQ_TEST_SEED (printed), FITQ_FULL=1: many more.
"""
import fractions
import json
import math
import os
import random
import shutil
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

try:
    import random_model
except ImportError:
    random_model = None

LIMIT = 120
N_MODEL, N_QUANTIZED = (300, 600) if FULL else (24, 44)
OUTPUTS = ('q_proj', 'k_proj', 'v_proj', 'gate_proj', 'up_proj', 'w1', 'w3')     # their output channels are divided
INPUTS = ('o_proj', 'down_proj', 'w2')                                           # their input channels are
# Dimension of a part that goes along outputs and inputs of its layer; None: none does
PARTS = {'weight': (0, 1), 'bias': (0, None), 'qweight': (1, 0), 'qzeros': (1, 0), 'scales': (1, 0), 'g_idx': (None, 0), 'weight_packed': (0, 1), 'weight_zero_point': (0, 1),
         'weight_g_idx': (None, 0), 'weight_scale_inv': (0, 1), 'weight_scale': (0, 1), 'weight_shape': (None, None), 'input_scale': (None, None)}
GROUPS = ('qzeros', 'scales', 'weight_zero_point', 'weight_scale')


class Failed(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Failed(text)


def fitq(*args):
    p = subprocess.run([BINARY, *args, '-q'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False)
    return p.returncode, p.stdout + p.stderr


def config_of(folder):
    with open(os.path.join(folder, 'config.json'), encoding='utf-8') as f:
        c = json.load(f)
    return {**c, **c.get('text_config', {})}


# ---- what ranks must have -------------------------------------------------------------------------------------------


def cut(t, dim, ranges):
    """Entries [first, first + n) of a dimension, several ranges behind each other -> (shape, bytes)"""
    shape = list(t.shape)
    inner = t.item
    for n in shape[dim + 1:]:
        inner *= n
    outer = 1
    for n in shape[:dim]:
        outer *= n
    row = shape[dim] * inner
    data = b''.join(t.data[o * row + first * inner:o * row + (first + n) * inner] for o in range(outer) for first, n in ranges)
    shape[dim] = sum(n for _, n in ranges)
    return shape, data


def vocab_range(n, rank, tp):
    padded = (n + 63) // 64 * 64
    if padded % tp == 0 and padded // tp * (tp - 1) < n:
        each = padded // tp
        return rank * each, min(each, n - rank * each)
    return nearly(n, rank, tp)


def nearly(n, rank, tp):
    return rank * (n // tp) + min(rank, n % tp), n // tp + (rank < n % tp)


class Model:
    def __init__(self, folder):
        c = self.config = config_of(folder)
        self.tensors = st_reader.read_folder(folder)
        self.heads, self.kv = c['num_attention_heads'], c['num_key_value_heads']
        self.experts = c.get('num_experts', c.get('num_local_experts', 0))
        quant = c.get('quantization_config', {})
        weights = quant.get('config_groups', {}).get('group_0', {}).get('weights', {})
        self.ordered = bool(quant.get('desc_act')) or weights.get('actorder') == 'group'
        self.quantized = bool(quant)

    def divides(self, tp, whole_experts):
        """None: what the tensors' lengths leave to ask is not answered here."""
        c = self.config
        sparse = [n for n in self.tensors if '.experts.' in n]
        dense = [n for n in self.tensors if '.mlp.gate_proj.' in n or '.mlp.down_proj.' in n]
        lengths = [self.heads]
        if dense:
            lengths.append(c['intermediate_size'])
        if sparse and not whole_experts:
            lengths.append(c.get('moe_intermediate_size', c['intermediate_size']))
        if any('shared_expert.' in n for n in self.tensors):
            lengths.append(c['shared_expert_intermediate_size'])
        if any(n % tp for n in lengths) or (self.kv % tp and tp % self.kv) or (sparse and whole_experts and self.experts < tp):
            return False
        return c['vocab_size'] >= tp

    def has(self, name, rank, tp, whole_experts):
        if not whole_experts or '.experts.' not in name:
            return True
        number = name.split('.experts.')[1].split('.')[0]
        if not number.isdigit():
            return True
        first, n = nearly(self.experts, rank, tp)
        return first <= int(number) < first + n

    def part(self, name, rank, tp, whole_experts):
        """-> (dimension or None, ranges)"""
        t = self.tensors[name]
        if name.endswith(('experts.gate_up_proj', 'experts.down_proj')):
            if whole_experts:
                return 0, [nearly(t.shape[0], rank, tp)]
            if name.endswith('down_proj'):
                return 2, [(t.shape[2] // tp * rank, t.shape[2] // tp)]
            half = t.shape[1] // 2
            return 1, [(p * half + half // tp * rank, half // tp) for p in range(2)]
        module, _, last = name.rpartition('.')
        layer = module.rpartition('.')[2]
        if layer in ('embed_tokens', 'lm_head'):
            dim = PARTS[last][0]
            if dim is None or math.prod(t.shape) == 1:
                return None, None
            unit = self.head_unit(last, t.shape[dim])
            first, n = vocab_range(self.config['vocab_size'], rank, tp)
            begin, end = math.floor(first / unit), math.ceil((first + n) / unit)
            return dim, [(begin, end - begin)]
        if layer not in OUTPUTS + INPUTS or (whole_experts and '.experts.' in name):
            return None, None
        dim = PARTS[last][0 if layer in OUTPUTS else 1]
        if dim is None or dim >= len(t.shape) or math.prod(t.shape) == 1 and last in ('weight_scale', 'input_scale'):   # one number
            return None, None
        if layer in INPUTS and last in GROUPS and t.shape[dim] == 1:   # one group
            return None, None
        if layer in INPUTS and last in GROUPS and self.ordered:
            return None, None
        parts, at = (tp, rank) if layer not in ('k_proj', 'v_proj') or self.kv >= tp else (self.kv, rank // (tp // self.kv))
        return dim, [(t.shape[dim] // parts * at, t.shape[dim] // parts)]

    def head_unit(self, last, n):
        """Rows of the vocabulary that an entry of a part of the head stands for."""
        if n == self.config['vocab_size']:
            return 1
        quant = self.config['quantization_config']
        weights = quant.get('config_groups', {}).get('group_0', {}).get('weights', {})
        if last.startswith('weight_scale'):
            return (weights.get('block_structure') or quant.get('weight_block_size'))[0]
        bits = quant.get('bits') or weights['num_bits']
        return fractions.Fraction(32, bits)

    def whole_words(self, tp, whole_experts):
        """Does every part divide? Words and groups may not where the channels do."""
        for name, t in self.tensors.items():
            dim, _ = self.part(name, 0, tp, whole_experts)
            last = name.rpartition('.')[2]
            if dim is None or last in ('weight', 'bias') or last not in PARTS:
                continue
            if name.startswith('lm_head.'):
                rows, unit = self.config['vocab_size'], self.head_unit(last, t.shape[dim])
                if any(vocab_range(rows, rank, tp)[0] % unit for rank in range(tp)):
                    return False
                continue
            parts = tp if not any(x in name for x in ('.k_proj.', '.v_proj.')) or self.kv >= tp else self.kv
            if not self.fits(name, t.shape[dim], parts):
                return False
        return True

    def fits(self, name, n, parts):
        """n entries of a part in `parts` equal ones, none of which cuts a word or a group."""
        if parts == 1:
            return True
        module, _, last = name.rpartition('.')
        layer = module.rpartition('.')[2]
        k = self.config
        hd = k.get('head_dim', k['hidden_size'] // self.heads)
        width = k['moe_intermediate_size'] if '.experts.' in name else k['intermediate_size']
        channels = {'q_proj': self.heads * hd, 'o_proj': self.heads * hd, 'k_proj': self.kv * hd, 'v_proj': self.kv * hd, 'lm_head': k['vocab_size']}.get(layer, width)
        quant = k['quantization_config']
        if n == channels:
            return n % parts == 0
        bits = quant.get('bits', quant.get('config_groups', {}).get('group_0', {}).get('weights', {}).get('num_bits', 4))
        words = last in ('qweight', 'weight_packed') or (layer in OUTPUTS + ('lm_head',) and last in ('qzeros', 'weight_zero_point'))
        if words:
            return channels % parts == 0 and channels // parts * bits % 32 == 0
        group = quant.get('group_size') or quant.get('weight_block_size', [0])[0]
        if not group:
            weights = quant['config_groups']['group_0']['weights']
            group = weights.get('group_size') or weights.get('block_structure', [0])[0]
        return channels % parts == 0 and (parts == 1 or channels // parts % group == 0)


def files_of(folder, rank):
    with open(os.path.join(folder, 'fitq-ranks.json'), encoding='utf-8') as f:
        record = json.load(f)
    out = {}
    for name in record['ranks'][rank] if rank is not None else record.get('rest', []):
        for key, t in st_reader.read_file(os.path.join(folder, name))[0].items():
            need(key not in out, f'{key} twice on rank {rank}')
            out[key] = t
    return out


def compare(what, found, shape, data, dtype):
    need(found is not None, f'{what}: not there')
    need(list(found.shape) == list(shape), f'{what}: shape {found.shape}, expected {shape}')
    need(found.dtype == dtype, f'{what}: {found.dtype}, expected {dtype}')
    need(found.data == data, f'{what}: other bytes')


def check_ranks(model, folder, tp, whole_experts):
    for rank in range(tp):
        files, n = files_of(folder, rank), 0
        for name, t in model.tensors.items():
            if not model.has(name, rank, tp, whole_experts):
                need(name not in files, f'{name}: on rank {rank}, which has other experts')
                continue
            dim, ranges = model.part(name, rank, tp, whole_experts)
            shape, data = (list(t.shape), t.data) if dim is None else cut(t, dim, ranges)
            compare(f'rank {rank} of {tp}: {name}', files.get(name), shape, data, t.dtype)
            n += 1
        need(n == len(files), f'rank {rank}: {len(files)} tensors, expected {n}')


def data_of(path):
    """What stands behind the header."""
    with open(path, 'rb') as f:
        n = int.from_bytes(f.read(8), 'little')
        return f.read()[n:]


def check_back(model, source, folder, work):
    back = os.path.join(work, 'back')
    status, text = fitq('unshard', folder, '-o', back)
    need(status == 0, f'unshard: exit {status}: {text}')
    tensors = st_reader.read_folder(back)
    need(set(tensors) == set(model.tensors), 'unshard: other names')
    for name, t in tensors.items():
        compare(f'unshard: {name}', t, model.tensors[name].shape, model.tensors[name].data, model.tensors[name].dtype)
    names = sorted(n for n in os.listdir(source))
    need(sorted(os.listdir(back)) == names, f'unshard: {sorted(os.listdir(back))}, expected {names}')
    for name in names:
        if name.endswith('.safetensors'):
            need(data_of(os.path.join(back, name)) == data_of(os.path.join(source, name)), f'unshard: {name} has its tensors in another order')
        if name.endswith('.safetensors') or name.endswith('index.json'):
            continue
        with open(os.path.join(source, name), 'rb') as a, open(os.path.join(back, name), 'rb') as b:
            need(a.read() == b.read(), f'unshard: {name} differs')
    shutil.rmtree(back)


def one_line(text, rule):
    lines = [x for x in text.splitlines() if x.startswith('fitq: ') and not x.startswith(('fitq: note', 'fitq: warning'))]
    need(len(lines) == 1, f'expected one line, found {text}')
    need(f': {rule}: ' in lines[0], f'expected rule {rule}, found {lines[0]}')


def check_model(rng, source, work):
    """-> 1 if it was cut, 0 if refused"""
    model = Model(source)
    whole_experts = model.experts > 0 and rng.random() < 0.5
    good = [n for n in range(2, 15) if model.divides(n, whole_experts)]
    tp = rng.choice(good if good and rng.random() < 0.7 else (1, 2, 3, 4, 5, 6, 7, 8, 14))
    out = os.path.join(work, 'out')
    more = (['--expert-parallel'] if whole_experts else []) + (['--shard-size', '20KB'] if rng.random() < 0.3 else [])
    status, text = fitq('shard', source, '-o', out, '--tp', str(tp), *more)
    if not model.divides(tp, whole_experts):
        need(status == 3, f'tp {tp} {more}: exit {status}, expected a refusal: {text}')
        one_line(text, 'ranks')
        return 0
    if model.quantized and not model.whole_words(tp, whole_experts):
        need(status == 3 and ('shard-words' in text or 'shard-groups' in text), f'tp {tp} {more}: exit {status}, expected a refusal: {text}')
        need(not os.path.exists(out) and not os.path.exists(out + '.fitq-partial'), 'a refusal leaves something')
        return 0
    need(status == 0, f'tp {tp} {more}: exit {status}: {text}')
    check_ranks(model, out, tp, whole_experts)
    check_back(model, source, out, work)
    shutil.rmtree(out)
    return 1


def each_model(rng, work):
    cut_n, n = 0, 0
    for i in range(N_MODEL if random_model else 0):
        kind = random_model.FAMILIES[i % len(random_model.FAMILIES)]
        source, seed = os.path.join(work, 'source'), rng.randrange(1 << 30)
        random_model.make(source, kind, 'default', seed)
        try:
            for _ in range(3):
                cut_n += check_model(rng, source, work)
                n += 1
        except Failed as e:
            raise Failed(f'{kind}, seed {seed}: {e}') from None
        shutil.rmtree(source)
    return cut_n, n


def draw_quantized(rng, source, form):
    tp = rng.choice((2, 3, 4))
    kind = rng.choice(('qwen2', 'llama', 'qwen3', 'qwen3_moe'))
    kv = rng.choice((1, 2, tp))
    heads = kv * tp
    return random_quantized.make(source, rng, form, kind, group=16, hidden=rng.choice((32, 64)), head_dim=rng.choice((16, 32)), width=16 * rng.choice((1, 2, 3, 4, 6, 8, 12)), heads=heads, kv=kv,
                                 vocab=rng.choice((40, 64, 96)), head=rng.random() < 0.2)


def each_quantized(rng, work):
    cut_n, n = 0, 0
    forms = list(random_quantized.FORMS)
    for i in range(N_QUANTIZED):
        source, form, seed = os.path.join(work, 'source'), forms[i % len(forms)], rng.randrange(1 << 30)
        own = random.Random(seed)
        try:
            draw_quantized(own, source, form)
            for _ in range(2):
                cut_n += check_model(own, source, work)
                n += 1
        except Failed as e:
            raise Failed(f'{form}, seed {seed}: {e}') from None
        shutil.rmtree(source)
    return cut_n, n


def each_many(rng, work):
    """More ranks than files that grow side by side, and rows of the vocabulary that do not divide."""
    cases = ((17, 'awq', 'qwen3', False), (32, 'gptq', 'qwen2', False), (64, 'ct', 'llama', False), (3, 'gptq', 'qwen3_moe', True))
    source, out = os.path.join(work, 'source'), os.path.join(work, 'out')
    for tp, form, kind, whole_experts in cases:
        random_quantized.make(source, rng, form, kind, head_dim=32, width=16 * tp, heads=tp * 2, kv=tp, vocab=64 * tp + 1)
        model = Model(source)
        status, text = fitq('shard', source, '-o', out, '--tp', str(tp), *(['--expert-parallel'] if whole_experts else []))
        need(status == 0, f'{form}, tp {tp}: exit {status}: {text}')
        check_ranks(model, out, tp, whole_experts)
        check_back(model, source, out, work)
        shutil.rmtree(source)
        shutil.rmtree(out)
    return len(cases)


# ---- engines' names ---------------------------------------------------------------------------------------------------


def engine_state(model, rank, tp):
    """Parameters of vllm's model for this rank: {name: (dtype, shape, bytes)}."""
    state, groups = {}, {}
    tied = model.config['tie_word_embeddings'] and 'lm_head.weight' not in model.tensors
    for name, t in model.tensors.items():
        if name.endswith('inv_freq'):
            continue
        dim, ranges = model.part(name, rank, tp, False)
        shape, data = (list(t.shape), t.data) if dim is None else cut(t, dim, ranges)
        module, _, last = name.rpartition('.')
        stem, _, layer = module.rpartition('.')
        if layer in ('embed_tokens', 'lm_head') and last == 'weight':
            rows = (t.shape[0] + 63) // 64 * 64 // tp
            data += bytes((rows - shape[0]) * (len(data) // shape[0]))
            shape[0] = rows
            name = 'lm_head.weight' if tied else name
        for fused, members in (('qkv_proj', ('q_proj', 'k_proj', 'v_proj')), ('gate_up_proj', ('gate_proj', 'up_proj'))):
            if layer in members:
                groups.setdefault(f'{stem}.{fused}.{last}', {})[members.index(layer)] = (t.dtype, t.item, shape, data)
                break
        else:
            state[name] = (t.dtype, shape, data)
    for name, members in groups.items():
        parts = [members[k] for k in sorted(members)]
        dim = PARTS[name.rpartition('.')[2]][0]
        if dim is None:
            state[name] = (parts[0][0], parts[0][2], parts[0][3])
            continue
        shape = list(parts[0][2])
        shape[dim] = sum(p[2][dim] for p in parts)
        rows = 1 if dim == 0 else shape[0]
        state[name] = (parts[0][0], shape, b''.join(p[3][len(p[3]) // rows * r:len(p[3]) // rows * (r + 1)] for r in range(rows) for p in parts))
    return state


def check_engine(rng, work, form):
    source, out, tp = os.path.join(work, 'source'), os.path.join(work, 'out'), rng.choice((2, 4))
    random_quantized.make(source, rng, form or 'gptq', rng.choice(('qwen2', 'llama', 'qwen3')), hidden=64, head_dim=32, width=64 * tp, heads=tp * 2, kv=rng.choice((1, tp, 2 * tp)), vocab=rng.choice((64, 100, 128)),
                          plain=() if form else ('proj',))
    if not form:
        c = config_of(source)
        del c['quantization_config']
        with open(os.path.join(source, 'config.json'), 'w', encoding='utf-8') as f:
            json.dump(c, f)
    extra = {}
    path = os.path.join(source, 'model.safetensors')
    if rng.random() < 0.5:   # what engines have no parameter for: a buffer that old transformers stored
        tensors, meta = st_edit.load(path)
        tensors.append(['model.layers.0.self_attn.rotary_emb.inv_freq', 'F32', [4], bytes(range(16))])
        st_edit.save(path, tensors, meta)
        extra = {'model.layers.0.self_attn.rotary_emb.inv_freq': bytes(range(16))}
    model = Model(source)
    status, text = fitq('shard', source, '-o', out, '--tp', str(tp), '--names', 'engine')
    orders = {n: model.tensors[n].data for n in model.tensors if n.endswith('.g_idx') and any(f'.{x}_proj.' in n for x in 'qkv')}
    gates = {n: model.tensors[n].data for n in model.tensors if n.endswith('.g_idx') and ('gate_proj' in n or 'up_proj' in n)}
    if len(set(orders.values())) > 1 or len(set(gates.values())) > 1:
        need(status == 3, f'{form}, tp {tp}: exit {status}, expected a refusal: {text}')
        one_line(text, 'engine-order')
        need(not os.path.exists(out) and not os.path.exists(out + '.fitq-partial'), 'a refusal leaves something')
    else:
        need(status == 0, f'{form}, tp {tp}: exit {status}: {text}')
        for rank in range(tp):
            found, expected = files_of(out, rank), engine_state(model, rank, tp)
            need(set(found) == set(expected), f'{form}, rank {rank}: names differ: {sorted(set(found) ^ set(expected))}')
            for name, (dtype, shape, data) in expected.items():
                compare(f'{form}, rank {rank} of {tp}: {name}', found[name], shape, data, dtype)
        need({k: t.data for k, t in files_of(out, None).items()} == extra, 'rest')
        check_back(model, source, out, work)
        shutil.rmtree(out)
    shutil.rmtree(source)


def each_engine(rng, work):
    forms = [None, 'gptq', 'gptq 8 bits', 'desc_act', 'awq', 'gptq one group', None, 'gptq without g_idx'] * (20 if FULL else 1)
    for form in forms:
        seed = rng.randrange(1 << 30)
        try:
            check_engine(random.Random(seed), work, form)
        except Failed as e:
            raise Failed(f'{form}, seed {seed}: {e}') from None
    source, out = os.path.join(work, 'source'), os.path.join(work, 'out')
    for form, kind in (('ct', 'qwen2'), ('fp8 blocks', 'llama'), ('gptq', 'qwen3_moe')):
        random_quantized.make(source, rng, form, kind, width=64, head_dim=16)
        status, text = fitq('shard', source, '-o', out, '--tp', '2', '--names', 'engine')
        need(status == 3, f'{form}: exit {status}')
        one_line(text, 'engine-names')
        shutil.rmtree(source)
    return len(forms)


# ---- damage ------------------------------------------------------------------------------------------------------------


def flip(path, name, at=0):
    tensors, meta = st_edit.load(path)
    for t in tensors:
        if t[0] == name:
            data = bytearray(t[3])
            data[at] ^= 1
            t[3] = bytes(data)
    st_edit.save(path, tensors, meta)


def edit_record(folder, change, seal=True):
    """A record that was changed and sealed again, as somebody would who means it."""
    path = os.path.join(folder, 'fitq-ranks.json')
    with open(path, encoding='utf-8') as f:
        record = json.load(f)
    change(record)
    if seal:
        del record['record_xxh3']
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(record, f)


def damages(folder):
    """(what, change, exit status, rule)"""
    rank1 = os.path.join(folder, 'model-rank-1-part-0.safetensors')
    rank0 = os.path.join(folder, 'model-rank-0-part-0.safetensors')
    record = os.path.join(folder, 'fitq-ranks.json')

    def without(path, name):
        tensors, meta = st_edit.load(path)
        st_edit.save(path, [t for t in tensors if t[0] != name], meta)

    def reshape(path, name):
        tensors, meta = st_edit.load(path)
        for t in tensors:
            if t[0] == name:
                t[2] = [t[2][0] * 2, t[2][1] // 2]
        st_edit.save(path, tensors, meta)

    return [
        ('a norm of rank 1', lambda: flip(rank1, 'model.norm.weight', 3), 1, 'rank-copies'),
        ('a norm of rank 0', lambda: flip(rank0, 'model.norm.weight', 3), 1, 'rank-copies'),
        ('a slice of rank 1', lambda: flip(rank1, 'model.layers.0.mlp.down_proj.weight', 5), 1, 'tensor-hash'),
        ('a copy of a KV head', lambda: flip(rank1, 'model.layers.0.self_attn.k_proj.weight', 7), 1, 'rank-copies'),
        ('no file of rank 1', lambda: os.unlink(rank1), 3, 'rank-files'),
        ('a tensor that is gone', lambda: without(rank1, 'model.layers.0.mlp.up_proj.weight'), 3, 'rank-files'),
        ('another shape', lambda: reshape(rank0, 'model.layers.0.mlp.down_proj.weight'), 3, 'rank-files'),
        ('no record', lambda: os.unlink(record), 3, 'fitq-ranks'),
        ('an edited record', lambda: edit_record(folder, lambda r: r.update(tp=3), seal=False), 3, 'fitq-ranks'),
        ('a record without its checksum', lambda: edit_record(folder, lambda r: None), 3, 'fitq-ranks'),
        ('a cut file', lambda: os.truncate(rank1, os.path.getsize(rank1) - 10), 3, 'file-size'),
    ]


def check_damage(rng, work):
    source, fresh, folder, out = (os.path.join(work, x) for x in ('source', 'fresh', 'folder', 'out'))
    random_quantized.make(source, rng, 'gptq', 'llama', heads=4, kv=1, width=64, plain=('proj',))
    c = config_of(source)
    del c['quantization_config']
    with open(os.path.join(source, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump(c, f)
    need(fitq('shard', source, '-o', fresh, '--tp', '2')[0] == 0, 'shard')
    for k in range(len(damages(fresh))):
        shutil.copytree(fresh, folder)
        what, change, code, rule = damages(folder)[k]
        change()
        status, text = fitq('unshard', folder, '-o', out)
        try:
            need(status == code, f'exit {status}, expected {code}: {text}')
            one_line(text, rule)
            need(not os.path.exists(out), 'something is written')
        except Failed as e:
            raise Failed(f'{what}: {e}') from None
        shutil.rmtree(folder)
        shutil.rmtree(out + '.fitq-partial', ignore_errors=True)
    status, text = fitq('inspect', fresh)
    need(status == 3 and 'rank-files' in text and 'fitq unshard' in text, f'inspect: exit {status}: {text}')
    return len(damages(fresh))


def main():
    seed = int(os.environ.get('FITQ_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 30)
    rng = random.Random(seed)
    print(f'seed {seed}')
    if not random_model:
        print('skipped: models of every family (python3-numpy is missing)')
    with tempfile.TemporaryDirectory(prefix='fitq-shard.') as work:
        try:
            print('families: %d of %d requests cut, the rest refused' % each_model(rng, work))
            print('quantized: %d of %d requests cut, the rest refused' % each_quantized(rng, work))
            print(f'many ranks: {each_many(rng, work)} checkpoints')
            print(f'engines\' names: {each_engine(rng, work)} checkpoints')
            print(f'damage: {check_damage(rng, work)} kinds')
        except Failed as e:
            print(f'FAILED (seed {seed}): {e}')
            return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
