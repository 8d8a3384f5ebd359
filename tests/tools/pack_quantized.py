#!/usr/bin/env python3
"""A quantized form of a dense checkpoint, for tests of what reads one: Python standard library only, and nothing of fitq's.

    pack_quantized.py IN_DIR OUT_DIR [gptq | gptq_v2 | desc_act | ct | awq | fp8 | fp8_tensor | ct_fp8] [BITS] [GROUP] [PART]

Every linear layer of the decoder (..._proj.weight) is rounded to the nearest of 2^BITS steps (4) between the least and the largest weight of
each GROUP (32) of input channels, symmetric. desc_act: gptq whose groups are channels GROUP apart. fp8: the nearest E4M3 number, with a scale for each
block of GROUP x GROUP, each tensor, or (ct_fp8) each output channel; BITS is not asked. PART: only layers that have it in their name. OUT_DIR must not exist. Not a quantizer that anybody should use: scales are not searched for.
"""
import json
import os
import shutil
import struct
import sys

import st_reader
import unpack_quantized


def words_of(fields, bits):
    out = []
    for at in range(0, len(fields), 32):   # 32 fields end with a word
        some, stream = fields[at:at + 32], 0
        for field in reversed(some):
            stream = stream << bits | field
        n = unpack_quantized.word_count(len(some), bits)
        out += struct.unpack(f'<{n}I', stream.to_bytes(4 * n, 'little'))
    return out


def round_rows(values, rows, cols, bits, group_of):
    """-> codes[row], scales[row]: one scale for each group; scales are numbers of F16"""
    middle, n_group = 1 << (bits - 1), max(group_of) + 1
    codes, scales = [], []
    for r in range(rows):
        row = values[r * cols:(r + 1) * cols]
        members = [[] for _ in range(n_group)]
        for x, g in zip(row, group_of):
            members[g].append(x)
        most = [max(max(m), -min(m)) for m in members]
        scale = struct.unpack(f'<{n_group}e', struct.pack(f'<{n_group}e', *(max(m / (middle - 0.5), 2.0 ** -14) for m in most)))
        codes.append([min(max(round(x / scale[g]) + middle, 0), 2 * middle - 1) for x, g in zip(row, group_of)])
        scales.append(list(scale))
    return codes, scales


def transposed(rows):
    return [x for column in zip(*rows) for x in column]


def e4m3_of(x):
    """The byte of the nearest E4M3 number."""
    a = min(abs(x), 448.0)
    low, high = 0, 126
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if unpack_quantized.E4M3[middle] <= a else (low, middle)
    byte = low if a - unpack_quantized.E4M3[low] <= unpack_quantized.E4M3[high] - a else high
    return byte | (128 if x < 0 else 0)


def fp8_parts(module, values, rows, cols, form, group):
    """(name, (dtype, shape, bytes)) of a module"""
    height, width = {'fp8': (group, group), 'fp8_tensor': (rows, cols), 'ct_fp8': (1, cols)}[form]
    down, across = -(-rows // height), -(-cols // width)
    most = [1e-6] * (down * across)
    for i, x in enumerate(values):
        block = i // cols // height * across + i % cols // width
        most[block] = max(most[block], abs(x))
    scale = struct.unpack(f'<{len(most)}f', struct.pack(f'<{len(most)}f', *(m / 448 for m in most)))
    codes = bytes(e4m3_of(x / scale[i // cols // height * across + i % cols // width]) for i, x in enumerate(values))
    yield f'{module}.weight', ('F8_E4M3', (rows, cols), codes)
    name = 'weight_scale_inv' if form == 'fp8' else 'weight_scale'
    shape = (1,) if form == 'fp8_tensor' else (down, across)
    yield f'{module}.{name}', ('F32', shape, struct.pack(f'<{len(scale)}f', *scale))


def awq_words(row):
    return [sum(row[8 * c + column] << 4 * i for i, column in enumerate(unpack_quantized.AWQ_ORDER)) for c in range(len(row) // 8)]


def awq_parts(module, codes, scales):
    n, k, n_group = len(codes), len(codes[0]), len(scales[0])
    words = [w for column in zip(*codes) for w in awq_words(column)]
    yield f'{module}.qweight', ('I32', (k, n // 8), struct.pack(f'<{len(words)}I', *words))
    zeros = awq_words([8] * n) * n_group
    yield f'{module}.qzeros', ('I32', (n_group, n // 8), struct.pack(f'<{len(zeros)}I', *zeros))
    number = transposed(scales)
    yield f'{module}.scales', ('F16', (n_group, n), struct.pack(f'<{len(number)}e', *number))


def parts(module, codes, scales, bits, form, group_of):
    """(name, (dtype, shape, bytes)) of a module"""
    n, k, n_group, middle = len(codes), len(codes[0]), len(scales[0]), 1 << (bits - 1)
    packed = [words_of(c, bits) for c in codes]

    def tensor(part, dtype, shape, letter, values):
        return f'{module}.{part}', (dtype, shape, struct.pack(f'<{len(values)}{letter}', *values))

    if form == 'ct':
        yield tensor('weight_packed', 'I32', (n, len(packed[0])), 'I', [w for row in packed for w in row])
        yield tensor('weight_scale', 'F16', (n, n_group), 'e', [s for row in scales for s in row])
        yield tensor('weight_shape', 'I64', (2,), 'q', [n, k])
        return
    zeros = words_of([middle - (form != 'gptq_v2')] * n, bits)
    yield tensor('qweight', 'I32', (len(packed[0]), n), 'I', transposed(packed))
    yield tensor('scales', 'F16', (n_group, n), 'e', transposed(scales))
    yield tensor('qzeros', 'I32', (n_group, len(zeros)), 'I', list(zeros) * n_group)
    yield tensor('g_idx', 'I32', (k,), 'i', group_of)


def settings(bits, group, form):
    if form == 'ct':
        weights = {'num_bits': bits, 'type': 'int', 'symmetric': True, 'strategy': 'group', 'group_size': group}
        return {'quant_method': 'compressed-tensors', 'format': 'pack-quantized', 'ignore': ['lm_head'],
                'config_groups': {'group_0': {'targets': ['Linear'], 'weights': weights}}}
    if form == 'awq':
        return {'quant_method': 'awq', 'bits': 4, 'group_size': group, 'zero_point': True, 'version': 'gemm', 'modules_to_not_convert': None}
    if form in ('fp8', 'fp8_tensor'):
        block = {'weight_block_size': [group, group]} if form == 'fp8' else {}
        return {'quant_method': 'fp8', 'fmt': 'e4m3', 'activation_scheme': 'dynamic', **block}
    if form == 'ct_fp8':
        weights = {'num_bits': 8, 'type': 'float', 'symmetric': True, 'strategy': 'channel'}
        inputs = {'num_bits': 8, 'type': 'float', 'strategy': 'token', 'dynamic': True}
        return {'quant_method': 'compressed-tensors', 'format': 'float-quantized', 'ignore': ['lm_head'],
                'config_groups': {'group_0': {'targets': ['Linear'], 'weights': weights, 'input_activations': inputs}}}
    return {'quant_method': 'gptq', 'bits': bits, 'group_size': group, 'sym': True, 'desc_act': form == 'desc_act',
            'checkpoint_format': 'gptq' if form == 'desc_act' else form}


def main(args):
    if not 2 <= len(args) <= 6:
        print(__doc__)
        return 2
    source, target = args[:2]
    form, bits, group, only = args[2:] + ['gptq', '4', '32', ''][len(args) - 2:]
    bits, group = int(bits), int(group)
    with open(os.path.join(source, 'config.json'), encoding='utf-8') as f:
        config = json.load(f)
    out = {}
    for name, t in st_reader.read_folder(source).items():
        if name.endswith('_proj.weight') and len(t.shape) == 2 and only in name:
            module, values, cols = name[:-len('.weight')], unpack_quantized.floats(t), t.shape[1]
            if 'fp8' in form:
                out.update(fp8_parts(module, values, *t.shape, form, group))
                continue
            group_of = [i % (cols // group) if form == 'desc_act' else i // group for i in range(cols)]
            codes, scales = round_rows(values, *t.shape, bits, group_of)
            out.update(awq_parts(module, codes, scales) if form == 'awq' else parts(module, codes, scales, bits, form, group_of))
        else:
            out[name] = (t.dtype, t.shape, t.data)
    config['quantization_config'] = settings(bits, group, form)
    os.mkdir(target)
    unpack_quantized.write(os.path.join(target, 'model.safetensors'), out)
    with open(os.path.join(target, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump(config, f, indent=2)
    for name in os.listdir(source):
        if name != 'config.json' and not name.endswith(('.safetensors', '.safetensors.index.json')) and os.path.isfile(os.path.join(source, name)):
            shutil.copyfile(os.path.join(source, name), os.path.join(target, name))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
