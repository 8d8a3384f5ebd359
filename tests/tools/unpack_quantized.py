#!/usr/bin/env python3
"""The dense form of a quantized checkpoint, by an independent reader: Python standard library only, and nothing of fitq's.

    unpack_quantized.py IN_DIR OUT_DIR

Reads GPTQ (v1 and v2 zero points, any g_idx) and compressed-tensors (pack-quantized) and writes OUT_DIR, which must not exist: one
model.safetensors with every quantized weight as F32 and everything else as it was, config.json without quantization_config, and the
other files, except fitq.json and quantize_config.json. What the numbers mean:

    W[n][k] = scale[g(k)][n] * (code[n][k] - zero[g(k)][n])

Fields of b bits lie in a stream of little-endian words without gaps: of codes along the input channels, of zero points along the output
channels.
"""
import json
import os
import shutil
import struct
import sys

import st_reader


def floats(t):
    """The numbers of a tensor of F16, BF16 or F32."""
    n = len(t.data) // t.item
    if t.dtype == 'BF16':
        halves = struct.unpack(f'<{n}H', t.data)
        return struct.unpack(f'<{n}f', b''.join(struct.pack('<HH', 0, h) for h in halves))
    return struct.unpack(f'<{n}' + {'F16': 'e', 'F32': 'f'}[t.dtype], t.data)


def integers(t):
    return struct.unpack(f'<{len(t.data) // t.item}' + {'I32': 'i', 'I64': 'q'}[t.dtype], t.data)


def fields(words, bits, n):
    """n numbers of `bits` bits from a sequence of words, the lowest bits first."""
    stream = int.from_bytes(b''.join(struct.pack('<i', w) for w in words), 'little')
    mask = (1 << bits) - 1
    return [stream >> (bits * i) & mask for i in range(n)]


def word_count(n, bits):
    return (n * bits + 31) // 32


def same(what, found, expected):
    if found != expected:
        raise ValueError(f'{what}: found {found}, expected {expected}')


class Module:
    """codes[n][k], scale[g][n], zero[g][n], group[k]"""

    def dense(self):
        rows = []
        for n, codes in enumerate(self.codes):
            values = [self.scale[g][n] * (q - self.zero[g][n]) for q, g in zip(codes, self.group)]
            rows.append(struct.pack(f'<{len(values)}f', *values))
        return (len(self.codes), len(self.group)), b''.join(rows)


def groups_of(tensors, name, k, size):
    """Group of every input channel."""
    n_group = 1 if size <= 0 else k // size
    group = integers(tensors[name]) if name in tensors else [0 if size <= 0 else i // size for i in range(k)]
    same(name, len(group), k)
    if any(g < 0 or g >= n_group for g in group):
        raise ValueError(f'{name}: a group out of range')
    return group, n_group


def gptq(tensors, module, config):
    bits, size = config['bits'], config.get('group_size', 128)
    v1 = config.get('checkpoint_format', config.get('format', 'gptq')) == 'gptq'
    codes, scales, zeros = (tensors[f'{module}.{x}'] for x in ('qweight', 'scales', 'qzeros'))
    n_word, n = codes.shape
    k = n_word * 32 // bits
    if f'{module}.g_idx' in tensors:
        k = tensors[f'{module}.g_idx'].shape[0]
    same(f'{module}.qweight', n_word, word_count(k, bits))
    m = Module()
    m.group, n_group = groups_of(tensors, f'{module}.g_idx', k, size)
    same(f'{module}.scales', scales.shape, (n_group, n))
    same(f'{module}.qzeros', zeros.shape, (n_group, word_count(n, bits)))
    word, number, zero = integers(codes), floats(scales), integers(zeros)
    m.codes = [fields(word[c::n], bits, k) for c in range(n)]
    m.scale = [number[g * n:(g + 1) * n] for g in range(n_group)]
    step = zeros.shape[1]
    m.zero = [[z + v1 for z in fields(zero[g * step:(g + 1) * step], bits, n)] for g in range(n_group)]
    return m


def compressed_tensors(tensors, module, config):
    weights = next(g['weights'] for g in config['config_groups'].values() if g.get('weights'))
    bits, size = weights['num_bits'], weights.get('group_size') or -1
    codes, scales = tensors[f'{module}.weight_packed'], tensors[f'{module}.weight_scale']
    n, k = integers(tensors[f'{module}.weight_shape'])
    same(f'{module}.weight_packed', codes.shape, (n, word_count(k, bits)))
    m = Module()
    m.group, n_group = groups_of(tensors, f'{module}.weight_g_idx', k, size)
    same(f'{module}.weight_scale', scales.shape, (n, n_group))
    word, number, step = integers(codes), floats(scales), codes.shape[1]
    m.codes = [fields(word[r * step:(r + 1) * step], bits, k) for r in range(n)]
    m.scale = [number[g::n_group] for g in range(n_group)]
    m.zero = [[1 << (bits - 1)] * n for _ in range(n_group)]
    name = f'{module}.weight_zero_point'
    if name in tensors:
        same(name, tensors[name].shape, (word_count(n, bits), n_group))
        zero = integers(tensors[name])
        m.zero = [fields(zero[g::n_group], bits, n) for g in range(n_group)]
    elif not weights.get('symmetric', True):
        raise ValueError(f'{name}: found none')
    return m


PARTS = ('.qweight', '.qzeros', '.scales', '.g_idx', '.weight_packed', '.weight_scale', '.weight_shape', '.weight_zero_point', '.weight_g_idx')


def unpack(tensors, config):
    """name -> (dtype, shape, bytes)"""
    out = {}
    for name, t in tensors.items():
        module, dot, part = name.rpartition('.')
        if part in ('qweight', 'weight_packed'):
            m = (gptq if part == 'qweight' else compressed_tensors)(tensors, module, config)
            shape, data = m.dense()
            out[module + '.weight'] = ('F32', shape, data)
        elif dot + part not in PARTS:
            out[name] = (t.dtype, t.shape, t.data)
    return out


def write(path, tensors):
    header, at = {'__metadata__': {'format': 'pt'}}, 0
    order = sorted(tensors, key=lambda name: (-st_reader.ITEM[tensors[name][0]], name))
    for name in order:
        dtype, shape, data = tensors[name]
        header[name] = {'dtype': dtype, 'shape': list(shape), 'data_offsets': [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text)
        for name in order:
            f.write(tensors[name][2])


def main(args):
    if len(args) != 2:
        print(__doc__)
        return 2
    source, target = args
    with open(os.path.join(source, 'config.json'), encoding='utf-8') as f:
        config = json.load(f)
    tensors = unpack(st_reader.read_folder(source), config.pop('quantization_config'))
    os.mkdir(target)
    write(os.path.join(target, 'model.safetensors'), tensors)
    with open(os.path.join(target, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump(config, f, indent=2)
    left = ('.safetensors', '.safetensors.index.json')
    for name in os.listdir(source):
        if name not in ('config.json', 'fitq.json', 'quantize_config.json') and not name.endswith(left) and os.path.isfile(os.path.join(source, name)):
            shutil.copyfile(os.path.join(source, name), os.path.join(target, name))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
