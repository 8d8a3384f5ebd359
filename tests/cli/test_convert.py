#!/usr/bin/env python3
"""`fitq convert`: every form that fitq reads to every form that it writes. Not one weight changes, or the refusal says why.

Checkpoints are drawn by tests/tools/random_quantized.py (odd lengths, random codes, zero points and orders) and read by
tests/tools/unpack_quantized.py, which know nothing of fitq. What must be possible is computed here, from what the formats are. Where it is, the
numbers of both checkpoints have the same bits (rounded once where 16 bits are asked for), everything else has the same bytes, the way back gives
the same tensors, and the model runs to the same bits. Where it is not, one line names the rule and nothing is left. Labels of zero points that
are wrong are found, and repaired when told.

Environment: FITQ_BINARY, FITQ_SOURCE_DIR, FITQ_TEST_SEED (printed), FITQ_FULL=1: many more.
"""
import json
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
import st_reader  # noqa: E402
import unpack_quantized  # noqa: E402

LIMIT = 120
GROUP = 16
CODES = ('gptq', 'gptq_v2', 'compressed-tensors', 'awq')
DENSE = {'bf16': ('BF16', 'bfloat16'), 'fp16': ('F16', 'float16'), 'fp32': ('F32', 'float32')}


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


def write_config(folder, config):
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump(config, f)


# ---- what must come out -----------------------------------------------------------------------------------------------


def numbers(folder):
    """name -> (dtype, shape, bytes), codes as the F32 numbers that they stand for"""
    q = config_of(folder).get('quantization_config')
    tensors = st_reader.read_folder(folder)
    return unpack_quantized.unpack(tensors, q) if q else {n: (t.dtype, t.shape, t.data) for n, t in tensors.items()}


def bf16(data):
    out = []
    for u in struct.unpack(f'<{len(data) // 4}I', data):
        out.append((u + 0x7fff + (u >> 16 & 1)) >> 16)
    return struct.pack(f'<{len(out)}H', *out)


def f16(data):
    n = len(data) // 4
    return struct.pack(f'<{n}e', *struct.unpack(f'<{n}f', data))


def rounded(data, dtype):
    return {'F32': bytes, 'BF16': bf16, 'F16': f16}[dtype](data)


def quantized(folder):
    """Modules that are codes."""
    return {n.rpartition('.')[0] + '.weight' for n, t in st_reader.read_folder(folder).items() if n.endswith(('.qweight', '.weight_packed')) or t.dtype == 'F8_E4M3'}


def check_same_weights(source, target, to):
    old, new, codes = numbers(source), numbers(target), quantized(source)
    need(set(old) == set(new), f'other tensors: {set(old) ^ set(new)}')
    for name, (dtype, shape, data) in old.items():
        if name in codes and to in DENSE:
            dtype, data = DENSE[to][0], rounded(data, DENSE[to][0])
        need(new[name][:2] == (dtype, shape), f'{name}: {new[name][:2]}, expected {dtype} {shape}')
        need(new[name][2] == data, f'{name}: a number is another one')
    q = config_of(target).get('quantization_config')
    need((q is None) == (to in DENSE), f'quantization_config: {q}')
    if to in DENSE:
        need(config_of(target)['torch_dtype'] == DENSE[to][1], 'torch_dtype')
    need(os.path.exists(os.path.join(target, 'quantize_config.json')) == (to in ('gptq', 'gptq_v2') and 'gptq' not in config_of(source)['quantization_config']['quant_method']),
         'quantize_config.json')


def same_tensors(a, b):
    x, y = st_reader.read_folder(a), st_reader.read_folder(b)
    need(set(x) <= set(y) and all(n.endswith('.g_idx') for n in set(y) - set(x)), f'there and back: other tensors: {set(x) ^ set(y)}')
    for name, t in x.items():
        need((t.dtype, t.shape, t.data) == (y[name].dtype, y[name].shape, y[name].data), f'there and back: {name} is not what it was')


def check_runs(rng, source, target, to):
    code, text = fitq('verify', source, target, '--context', '8', '--chunks', '1', '--quiet', '--threads', '1')
    need(code == 0 and 'fixed order  the same bits' in text, f'verify: exit {code}: {text}')
    if to in DENSE:
        return
    code, text = fitq('verify', '--weights', source, target, '--quiet')
    need(code == 0 and 'proved: ' in text, f'verify --weights: exit {code}: {text}')
    path = os.path.join(target, 'model.safetensors')
    tensors = st_reader.read_folder(target)
    name = rng.choice([n for n in tensors if n.endswith(('.qweight', '.weight_packed', 'scales', 'weight_scale'))])
    with open(path, 'r+b') as f:
        n, = struct.unpack('<Q', f.read(8))
        at = 8 + n + json.loads(f.read(n))[name]['data_offsets'][0]
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 2]))
    code, text = fitq('verify', '--weights', source, target, '--quiet')
    need(code == 1 and name.rpartition('.')[0] in text, f'a bit of {name}: exit {code}: {text}')


# ---- what must be possible --------------------------------------------------------------------------------------------


def form_of(form):
    method, bits, *special = random_quantized.FORMS[form]
    return method, bits, special


def rows_of(folder):
    codes = quantized(folder)
    return [shape[0] for n, (_, shape, _) in numbers(folder).items() if n in codes]


def has_zero(folder):
    """Some zero point is 0, which v1 does not hold."""
    q, tensors = config_of(folder)['quantization_config'], st_reader.read_folder(folder)
    read = {'gptq': unpack_quantized.gptq, 'awq': unpack_quantized.awq, 'compressed-tensors': unpack_quantized.compressed_tensors}[q['quant_method']]
    return any(0 in row for n in quantized(folder) for row in read(tensors, n[:-len('.weight')], q).zero)


def expected(form, folder, to):
    """None, or the rules one of which must be named."""
    method, bits, special = form_of(form)
    if to in DENSE:
        return None
    if 'fp8' in method:
        return ('convert-floats',)
    now = {'ct': 'compressed-tensors', 'gptq': 'gptq_v2' if 'v2' in special else 'gptq'}.get(method, method)
    if now == to:
        return ('nothing-to-convert',)
    if to == 'awq' and bits != 4:
        return ('convert-bits',)
    if to == 'awq' and any(n % 8 for n in rows_of(folder)):
        return ('convert-words',)
    if to == 'awq' and 'order' in special:
        return ('convert-order',)
    if to == 'gptq' and 'asym' in special and has_zero(folder):
        return ('convert-zero',)
    return None


def check_refusal(code, text, target, rules):
    lines = [s for s in text.splitlines() if s.startswith('fitq: ') and not s.startswith('fitq: warning')]
    need(code in (2, 3) and len(lines) == 1 and any(f'{r}: ' in lines[0] for r in rules), f'expected {rules}: exit {code}: {text}')
    need(not os.path.exists(target) and not os.path.exists(target + '.fitq-partial'), 'a refusal left something')


# ---- cases ------------------------------------------------------------------------------------------------------------


def lengths(rng, form):
    """Lengths at which words and tiles have ends: few and many output channels, channels that no word has whole."""
    method, bits, special = form_of(form)
    one = 'one' in special or 'tensor' in special or 'channel' in special
    width = rng.choice((20, 36, 44, 100)) if one and method != 'awq' else GROUP * rng.choice((1, 3, 5, 9))
    if 'missing' in special or method == 'awq':   # without g_idx a file does not say how long its rows are
        width += -width % (32 // bits * 4)
    kv = rng.choice((1, 2, 3))
    return {'width': width, 'heads': kv * rng.choice((2, 4)), 'kv': kv, 'vocab': rng.choice((16, 40))}


def convert_all(rng, work, form, kind, targets, tally):
    source, out, back = (os.path.join(work, x) for x in ('source', 'out', 'back'))
    n = lengths(rng, form)
    method, _, special = form_of(form)
    head = method != 'fp8' and 'fp8' not in method and rng.random() < 0.4
    plain = rng.choice((('experts.1.',), ('down_proj',), ())) if kind == 'qwen3_moe' and 'fp8' not in method else ()
    random_quantized.make(source, rng, form, kind, GROUP, 32, 8, plain=plain, head=head, **n)
    now = {'ct': 'compressed-tensors', 'gptq': 'gptq_v2' if 'v2' in special else 'gptq'}.get(method, method)
    for to in targets:
        rules = expected(form, source, to)
        extra = rng.choice(((), ('--memory', '40MiB'), ('--threads', '1'), ('--io', 'buffered')))
        try:
            code, text = fitq('convert', source, '-o', out, '--to', to, '--quiet', *extra)
            if rules:
                check_refusal(code, text, out, rules)
                tally['refused'] += 1
                continue
            need(code == 0, f'exit {code}: {text}')
            check_same_weights(source, out, to)
            tally['done'] += 1
            if to in CODES:
                code, text = fitq('convert', out, '-o', back, '--to', now, '--quiet')
                need(code == 0, f'back: exit {code}: {text}')
                same_tensors(source, back)
                shutil.rmtree(back)
            if to in ('compressed-tensors', 'awq', 'fp32') and (FULL or rng.random() < 0.3):
                check_runs(rng, source, out, to)
            shutil.rmtree(out)
        except (Failed, ValueError) as e:
            raise Failed(f'{form} -> {to}, {kind}, {n}, head {head}, plain {plain}, {extra}: {e}') from e
    shutil.rmtree(source)


def labels(rng, work):
    """A symmetric checkpoint with the label of the other version is found; told which it is, it comes out right."""
    source, out = os.path.join(work, 'source'), os.path.join(work, 'out')
    for form, wrong, said in (('gptq', 'gptq_v2', 'v1'), ('gptq_v2', 'gptq', 'v2'), ('gptq 3 bits', 'gptq_v2', 'v1')):
        c = random_quantized.make(source, rng, form, 'qwen2', GROUP)
        want = {n: t for n, t in numbers(source).items()}
        c['quantization_config']['checkpoint_format'] = wrong
        write_config(source, c)
        for to in ('compressed-tensors', wrong, 'bf16'):
            code, text = fitq('convert', source, '-o', out, '--to', to, '--quiet')
            need(code == 3 and 'zero-version: ' in text and f'--zeros {said}' in text, f'{form} as {wrong}: exit {code}: {text}')
        for to in ('compressed-tensors', 'gptq', 'gptq_v2'):
            code, text = fitq('convert', source, '-o', out, '--to', to, '--zeros', said, '--quiet')
            need(code == 0, f'{form} --zeros {said}: exit {code}: {text}')
            need(numbers(out) == want, f'{form} as {wrong} -> {to} --zeros {said}: other numbers')
            if to != 'compressed-tensors':
                q = config_of(out)['quantization_config']
                need(q['checkpoint_format'] == to and q['format'] == to, f'label: {q}')
            shutil.rmtree(out)
        code, text = fitq('convert', source, '-o', out, '--to', 'bf16', '--zeros', 'v1' if said == 'v2' else 'v2', '--quiet')
        need(code == 3 and 'zero-version: ' in text, f'{form}, told wrongly: exit {code}: {text}')
        shutil.rmtree(source)


def files(rng, work):
    """What lies beside the weights: copied, replaced, left out."""
    source, out = os.path.join(work, 'source'), os.path.join(work, 'out')
    c = random_quantized.make(source, rng, 'gptq', 'llama', GROUP)
    for name, text in (('tokenizer.json', '{}'), ('quantize_config.json', json.dumps(c['quantization_config'] | {'note': 1})), ('quant_config.json', '{}')):
        with open(os.path.join(source, name), 'w', encoding='utf-8') as f:
            f.write(text)
    code, text = fitq('convert', source, '-o', out, '--to', 'awq', '--json', '--quiet')
    report = json.loads(text[:text.rindex('}') + 1]) if code == 0 else {}
    need(report.get('to') == 'awq' and report.get('exact') is True, f'exit {code}: {text}')
    need(sorted(os.listdir(out)) == ['config.json', 'model.safetensors', 'tokenizer.json'], f'awq: {sorted(os.listdir(out))}')
    code, text = fitq('convert', source, '-o', out, '--to', 'gptq_v2', '--overwrite', '--quiet')
    need(code == 0, text)
    with open(os.path.join(out, 'quantize_config.json'), encoding='utf-8') as f:
        own = json.load(f)
    need(own['note'] == 1 and own['format'] == own['checkpoint_format'] == 'gptq_v2', f'quantize_config.json: {own}')
    need(not os.path.exists(os.path.join(out, 'quant_config.json')), 'quant_config.json is there')
    padded = os.path.join(work, 'padded')
    code, text = fitq('pad', source, '-o', padded, '--set', f'intermediate_size={c["intermediate_size"] + GROUP}', '--quiet')
    need(code == 0, text)
    code, text = fitq('convert', padded, '-o', out, '--to', 'awq', '--overwrite', '--quiet')
    need(code == 3 and 'already-fitted: ' in text and 'fitq unpad' in text, f'padded: exit {code}: {text}')
    for folder in (source, out, padded):
        shutil.rmtree(folder)


def lies(rng, work):
    """Inputs that say what they are not are refused before anything is written."""
    source, out = os.path.join(work, 'source'), os.path.join(work, 'out')

    def edit(form, change, rule, to='compressed-tensors', expect=3):
        random_quantized.make(source, rng, form, 'qwen2', GROUP)
        tensors = {n: [t.dtype, t.shape, bytearray(t.data)] for n, t in st_reader.read_folder(source).items()}
        change(tensors)
        unpack_quantized.write(os.path.join(source, 'model.safetensors'), tensors)
        code, text = fitq('convert', source, '-o', out, '--to', to, '--quiet')
        need(code == expect and f'{rule}: ' in text and not os.path.exists(out) and not os.path.exists(out + '.fitq-partial'), f'{form}, {rule}: exit {code}: {text}')
        shutil.rmtree(source)

    def part(tensors, suffix):
        return next(t for n, t in sorted(tensors.items()) if n.endswith(suffix))

    def one_zero(tensors):
        part(tensors, '.qzeros')[2][0] ^= 1

    def far_group(tensors):
        struct.pack_into('<i', part(tensors, '.g_idx')[2], 8, 77)

    def other_shape(tensors):
        part(tensors, '.weight_shape')[2][0] ^= 1

    def stray(tensors):
        name = next(n for n in sorted(tensors) if n.endswith('.qweight'))
        tensors[name.replace('.qweight', '.g_idx')] = ['I32', (32,), bytes(128)]

    def not_a_number(tensors):
        t = part(tensors, '.weight_scale')
        struct.pack_into('<f', t[2], 0, float('nan'))

    edit('gptq', one_zero, 'packed-zero')
    edit('desc_act', far_group, 'packed-order')
    edit('ct', other_shape, 'packed-shape', 'gptq')
    edit('awq', stray, 'packed-parts')
    edit('ct fp8 channel', not_a_number, 'non-finite', 'bf16', 6)


def main():
    seed = int(os.environ.get('FITQ_TEST_SEED', '20261123'))
    rng = random.Random(seed)
    failed, tally = 0, {'done': 0, 'refused': 0}
    kinds = ('qwen2', 'llama', 'qwen3', 'qwen3_moe')
    with tempfile.TemporaryDirectory(prefix='fitq-convert.') as work:
        for form in random_quantized.FORMS:
            for kind in kinds if FULL else (rng.choice(kinds),):
                targets = [*CODES, *DENSE] if FULL else [*CODES, rng.choice(list(DENSE))]
                try:
                    convert_all(rng, work, form, kind, targets, tally)
                except Failed as e:
                    failed += 1
                    print(f'FAILED {e}')
                    for name in os.listdir(work):
                        shutil.rmtree(os.path.join(work, name))
        for check in (labels, files, lies):
            try:
                check(rng, work)
            except (Failed, ValueError) as e:
                failed += 1
                print(f'FAILED {check.__name__}: {e}')
                for name in os.listdir(work):
                    shutil.rmtree(os.path.join(work, name))
    print(f'{tally["done"]} converted, {tally["refused"]} refused, {failed} failed, seed {seed}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
