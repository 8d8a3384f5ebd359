#!/usr/bin/env python3
"""The dense form of a quantized checkpoint, by an independent reader: Python standard library only, and nothing of fitq's.

    unpack_quantized.py IN_DIR OUT_DIR

Reads GPTQ (v1 and v2 zero points, any g_idx), AWQ (gemm), compressed-tensors (pack-quantized, float-quantized) and FP8 (blocks, or a
scale for each tensor) and writes OUT_DIR, which must not exist: one
model.safetensors with every quantized weight as F32 and everything else as it was, config.json without quantization_config, and the
other files, except fitq.json and quantize_config.json. What the numbers mean:

    W[n][k] = scale[g(k)][n] * (code[n][k] - zero[g(k)][n])

Fields of b bits lie in a stream of little-endian words without gaps: of codes along the input channels, of zero points along the output
channels. AWQ has both along the output channels, eight to a word in an order of its own. An FP8 weight is its number times the scale of its
block, row or tensor.
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
        wide = bytearray(4 * n)      # the upper half of an F32
        wide[2::4], wide[3::4] = t.data[0::2], t.data[1::2]
        return struct.unpack(f'<{n}f', wide)
    return struct.unpack(f'<{n}' + {'F16': 'e', 'F32': 'f'}[t.dtype], t.data)


def integers(t):
    return struct.unpack(f'<{len(t.data) // t.item}' + {'I32': 'i', 'I64': 'q'}[t.dtype], t.data)


def fields(words, bits, n):
    """n numbers of `bits` bits from a sequence of words, the lowest bits first."""
    mask, out, raw = (1 << bits) - 1, [], struct.pack(f'<{len(words)}i', *words)
    for at in range(0, n, 32):   # 32 numbers end with a word
        stream = int.from_bytes(raw[at * bits // 8:(at + 32) * bits // 8], 'little')
        out += [stream >> (bits * i) & mask for i in range(min(32, n - at))]
    return out


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


AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)   # nibble i of a word holds column AWQ_ORDER[i] of its eight


def awq_row(words):
    out = []
    for word in words:
        eight = [0] * 8
        for i, column in enumerate(AWQ_ORDER):
            eight[column] = (word & 0xffffffff) >> 4 * i & 15
        out += eight
    return out


def awq(tensors, module, config):
    size = config.get('group_size', config.get('q_group_size'))
    codes, scales, zeros = (tensors[f'{module}.{x}'] for x in ('qweight', 'scales', 'qzeros'))
    k, n_word = codes.shape
    n = 8 * n_word
    m = Module()
    m.group, n_group = groups_of(tensors, f'{module}.g_idx', k, size)
    same(f'{module}.scales', scales.shape, (n_group, n))
    same(f'{module}.qzeros', zeros.shape, (n_group, n_word))
    word, number, zero = integers(codes), floats(scales), integers(zeros)
    rows = [awq_row(word[i * n_word:(i + 1) * n_word]) for i in range(k)]
    m.codes = [[row[c] for row in rows] for c in range(n)]
    m.scale = [number[g * n:(g + 1) * n] for g in range(n_group)]
    m.zero = [awq_row(zero[g * n_word:(g + 1) * n_word]) for g in range(n_group)]
    return m


def e4m3(byte):
    sign, exponent, fraction = -1.0 if byte >> 7 else 1.0, byte >> 3 & 15, byte & 7
    if exponent == 15 and fraction == 7:
        return float('nan')
    return sign * (fraction / 8 * 2.0 ** -6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7))


E4M3 = [e4m3(byte) for byte in range(256)]


def fp8(tensors, module, config):
    """shape, bytes"""
    weight = tensors[f'{module}.weight']
    scale = tensors.get(f'{module}.weight_scale_inv') or tensors[f'{module}.weight_scale']
    same(f'{module}.weight', weight.dtype, 'F8_E4M3')
    n, k = weight.shape
    number = floats(scale)
    block = config.get('weight_block_size')
    if 'config_groups' in config:
        block = next(g['weights'] for g in config['config_groups'].values() if g.get('weights')).get('block_structure')
    if len(number) == 1:
        height, width = n, k
    elif block:
        height, width = block
    else:
        height, width = 1, k
    across = -(-k // width)
    if len(number) > 1:
        same(f'{module}: shape of scales', tuple(scale.shape), (-(-n // height), across))
    out = []
    for r in range(n):
        row = weight.data[r * k:(r + 1) * k]
        values = [E4M3[byte] * number[r // height * across + i // width] for i, byte in enumerate(row)]
        out.append(struct.pack(f'<{k}f', *values))
    return (n, k), b''.join(out)


PARTS = ('.qweight', '.qzeros', '.scales', '.g_idx', '.weight_packed', '.weight_scale', '.weight_shape', '.weight_zero_point', '.weight_g_idx',
         '.weight_scale_inv', '.input_scale')


def unpack(tensors, config):
    """name -> (dtype, shape, bytes)"""
    out = {}
    for name, t in tensors.items():
        module, dot, part = name.rpartition('.')
        if t.dtype == 'F8_E4M3':
            out[name] = ('F32', *fp8(tensors, module, config))
        elif part in ('qweight', 'weight_packed'):
            read = compressed_tensors if part == 'weight_packed' else awq if config['quant_method'] == 'awq' else gptq
            shape, data = read(tensors, module, config).dense()
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
