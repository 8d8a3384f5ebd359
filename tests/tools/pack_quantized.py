#!/usr/bin/env python3
"""A quantized form of a dense checkpoint, for tests of what reads one: Python standard library only, and nothing of fitq's.

    pack_quantized.py IN_DIR OUT_DIR [gptq | gptq_v2 | ct] [BITS] [GROUP]

Every linear layer of the decoder (..._proj.weight) is rounded to the nearest of 2^BITS steps (4) between the least and the largest weight of
each GROUP (32) of input channels, symmetric. OUT_DIR must not exist. Not a quantizer that anybody should use: scales are not searched for.
"""
import json
import os
import shutil
import struct
import sys

import st_reader
import unpack_quantized


def words_of(fields, bits):
    stream = 0
    for i, field in enumerate(fields):
        stream |= field << (bits * i)
    n = unpack_quantized.word_count(len(fields), bits)
    return struct.unpack(f'<{n}I', stream.to_bytes(4 * n, 'little'))


def round_rows(values, rows, cols, bits, group):
    """-> codes[row], scales[row]: one scale for each group; scales are numbers of F16"""
    middle = 1 << (bits - 1)
    codes, scales = [], []
    for r in range(rows):
        code, scale = [], []
        for g in range(0, cols, group):
            w = values[r * cols + g:r * cols + g + group]
            s, = struct.unpack('<e', struct.pack('<e', max(max(map(abs, w)) / (middle - 0.5), 2.0 ** -14)))
            scale.append(s)
            code += [min(max(round(x / s) + middle, 0), 2 * middle - 1) for x in w]
        codes.append(code)
        scales.append(scale)
    return codes, scales


def transposed(rows):
    return [x for column in zip(*rows) for x in column]


def parts(module, codes, scales, bits, form):
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
    zeros = words_of([middle - (form == 'gptq')] * n, bits)
    yield tensor('qweight', 'I32', (len(packed[0]), n), 'I', transposed(packed))
    yield tensor('scales', 'F16', (n_group, n), 'e', transposed(scales))
    yield tensor('qzeros', 'I32', (n_group, len(zeros)), 'I', list(zeros) * n_group)
    yield tensor('g_idx', 'I32', (k,), 'i', [i // (k // n_group) for i in range(k)])


def settings(bits, group, form):
    if form == 'ct':
        weights = {'num_bits': bits, 'type': 'int', 'symmetric': True, 'strategy': 'group', 'group_size': group}
        return {'quant_method': 'compressed-tensors', 'format': 'pack-quantized', 'ignore': ['lm_head'],
                'config_groups': {'group_0': {'targets': ['Linear'], 'weights': weights}}}
    return {'quant_method': 'gptq', 'bits': bits, 'group_size': group, 'sym': True, 'desc_act': False, 'checkpoint_format': form}


def main(args):
    if not 2 <= len(args) <= 5:
        print(__doc__)
        return 2
    source, target = args[:2]
    form, bits, group = (args[2:] + ['gptq', '4', '32'][len(args) - 2:])
    bits, group = int(bits), int(group)
    with open(os.path.join(source, 'config.json'), encoding='utf-8') as f:
        config = json.load(f)
    out = {}
    for name, t in st_reader.read_folder(source).items():
        if name.endswith('_proj.weight') and len(t.shape) == 2:
            codes, scales = round_rows(unpack_quantized.floats(t), *t.shape, bits, group)
            out.update(parts(name[:-len('.weight')], codes, scales, bits, form))
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
