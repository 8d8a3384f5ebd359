#!/usr/bin/env python3
"""Random quantized checkpoints of hostile dimensions, for tests of what moves their weights: Python standard library only, and nothing of fitq's.

    make(folder, rng, form, **lengths) -> config

Codes, zero points, scales and orders of channels are drawn, not made from weights: every code comes up, zero points differ in each group, FP8
weights have both zeros. FORMS says what can be made. The layouts are written from the descriptions of the formats and share no code with
pack_quantized.py, which rounds real weights.
"""
import json
import math
import os
import random
import struct

import unpack_quantized

AWQ_COLUMN = (0, 2, 4, 6, 1, 3, 5, 7)   # nibble i of a word holds this column of its eight
MODULES = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')

# method, bits, and what is special: asym, v2, one (one group a row), order (shuffled channels), missing (no g_idx); of make: whole (shuffled
# into whole groups), kept (not shuffled)
FORMS = {
    'gptq': ('gptq', 4), 'gptq 8 bits': ('gptq', 8), 'gptq 2 bits': ('gptq', 2), 'gptq 3 bits': ('gptq', 3), 'gptq_v2': ('gptq', 4, 'v2'),
    'gptq asymmetric': ('gptq', 4, 'asym'), 'gptq_v2 asymmetric 8 bits': ('gptq', 8, 'asym', 'v2'), 'gptq one group': ('gptq', 4, 'one'),
    'gptq without g_idx': ('gptq', 4, 'missing'), 'desc_act': ('gptq', 4, 'order'), 'desc_act asymmetric': ('gptq', 8, 'asym', 'v2', 'order'),
    'ct': ('ct', 4), 'ct 8 bits': ('ct', 8), 'ct asymmetric': ('ct', 4, 'asym'), 'ct channel': ('ct', 8, 'one'), 'ct order': ('ct', 4, 'order'),
    'awq': ('awq', 4, 'asym'), 'fp8 blocks': ('fp8', 8, 'block'), 'fp8 tensor': ('fp8', 8, 'tensor'), 'ct fp8 blocks': ('ct_fp8', 8, 'block'),
    'ct fp8 channel': ('ct_fp8', 8, 'channel'), 'ct fp8 tensor': ('ct_fp8', 8, 'tensor'),
}

# What fitq does not read, and what it reads and engines run in another kernel: by name alone. Experts only, where that is said.
OTHERS = {'nvfp4': ('nvfp4', 4), 'w4afp8': ('w4afp8', 4, 'experts'), 'ct w4afp8': ('ct', 4, 'inputs', 'experts')}


def pack(rows, bits):
    """Rows of fields as rows of words: a little-endian stream without gaps, cut to whole words."""
    out = []
    for row in rows:
        stream, n = 0, (len(row) * bits + 31) // 32
        for x in reversed(row):
            stream = stream << bits | x
        out.append(struct.unpack(f'<{n}I', stream.to_bytes(4 * n, 'little')))
    return out


def turned(rows):
    return list(zip(*rows))


def words(rows):
    flat = [x & 0xffffffff for row in rows for x in row]
    return 'I32', (len(rows), len(rows[0])), struct.pack(f'<{len(flat)}I', *flat)


def numbers(rng, shape, dtype):
    """Positive, from 2^-9 to 2^-3: sums stay small. A few are subnormal where the type has some near."""
    values = [rng.uniform(1, 2) * 2.0 ** rng.randrange(-9, -3) for _ in range(math.prod(shape))]
    if dtype == 'F16' and rng.random() < 0.3:
        values[rng.randrange(len(values))] = 3 * 2.0 ** -24
    if dtype == 'BF16':
        return dtype, shape, b''.join(struct.pack('<f', x)[2:] for x in values)
    return dtype, shape, struct.pack(f'<{len(values)}{"e" if dtype == "F16" else "f"}', *values)


def integer_parts(rng, form, group, scale, rows, cols):
    """suffix -> (dtype, shape, bytes)"""
    method, bits, *special = form
    size = cols if 'one' in special else group
    n_group, middle, most = cols // size, 1 << (bits - 1), (1 << bits) - 1
    codes = [[rng.randrange(most + 1) for _ in range(cols)] for _ in range(rows)]
    v1 = method == 'gptq' and 'v2' not in special
    zero = [[rng.randrange(v1, most + 1) if 'asym' in special else middle for _ in range(rows)] for _ in range(n_group)]
    order = [k // size for k in range(cols)]
    if 'order' in special and not {'whole', 'kept'} & set(special) and rng.random() < 0.5:   # some groups may then be large and some empty
        order = [rng.randrange(n_group) for _ in range(cols)]
    elif 'order' in special and 'kept' not in special:
        rng.shuffle(order)
    order = 'I32', (cols,), struct.pack(f'<{cols}i', *order)
    if method == 'awq':
        def nibbles(row):
            return [sum(row[c + column] << 4 * i for i, column in enumerate(AWQ_COLUMN)) for c in range(0, len(row), 8)]
        return {'qweight': words([nibbles(r) for r in turned(codes)]), 'qzeros': words([nibbles(r) for r in zero]), 'scales': numbers(rng, (n_group, rows), scale)}
    if method == 'ct':
        out = {'weight_packed': words(pack(codes, bits)), 'weight_scale': numbers(rng, (rows, n_group), scale), 'weight_shape': ('I64', (2,), struct.pack('<2q', rows, cols))}
        if 'asym' in special:
            out['weight_zero_point'] = words(turned(pack(zero, bits)))
        return out | ({'weight_g_idx': order} if 'order' in special else {})
    out = {'qweight': words(turned(pack(codes, bits))), 'qzeros': words(pack([[z - v1 for z in r] for r in zero], bits)), 'scales': numbers(rng, (n_group, rows), scale)}
    return out | ({} if 'missing' in special else {'g_idx': order})


def float_parts(rng, form, group, scale, rows, cols):
    method, _, kind = form
    codes = bytes(x if x & 0x7f != 0x7f else x ^ 1 for x in rng.randbytes(rows * cols))   # no NaN
    shape = {'block': (-(-rows // group), -(-cols // group)), 'tensor': (1,), 'channel': (rows, 1)}[kind]
    return {'weight': ('F8_E4M3', (rows, cols), codes), 'weight_scale_inv' if form[:1] + (kind,) == ('fp8', 'block') else 'weight_scale': numbers(rng, shape, scale)}


def other_parts(rng, form, group, scale, rows, cols):
    """NVFP4 as ModelOpt writes it: two E2M1 numbers a byte, an E4M3 scale for each 16, one number for the tensor. W4AFP8: two signed integers a byte."""
    one = 'F32', (), struct.pack('<f', 0.5)
    if form[0] == 'nvfp4':
        n_group = -(-cols // group)
        return {'weight': ('U8', (rows, cols // 2), rng.randbytes(rows * cols // 2)), 'weight_scale': ('F8_E4M3', (rows, n_group), bytes(rng.randrange(1, 126) for _ in range(rows * n_group))),
                'weight_scale_2': one, 'input_scale': one}
    return {'weight': ('I8', (rows, cols // 2), rng.randbytes(rows * cols // 2)), 'weight_scale_inv': numbers(rng, (rows, cols // group), 'F32'), 'input_scale': one}


def settings(form, group):
    method, bits, *special = form
    if method == 'nvfp4':
        return {'quant_method': 'modelopt', 'quant_algo': 'NVFP4', 'group_size': group, 'ignore': ['lm_head']}
    if method == 'w4afp8':
        return {'quant_method': 'w4afp8', 'linear_activation_scheme': 'dynamic', 'moe_activation_scheme': 'static', 'group_size': group}
    if method == 'gptq':
        return {'quant_method': 'gptq', 'bits': bits, 'group_size': -1 if 'one' in special else group, 'sym': 'asym' not in special, 'desc_act': 'order' in special,
                'checkpoint_format': 'gptq_v2' if 'v2' in special else 'gptq'}
    if method == 'awq':
        return {'quant_method': 'awq', 'bits': 4, 'group_size': group, 'zero_point': True, 'version': 'gemm', 'modules_to_not_convert': None}
    if method == 'fp8':
        return {'quant_method': 'fp8', 'fmt': 'e4m3', 'activation_scheme': 'dynamic', **({'weight_block_size': [group, group]} if 'block' in special else {})}
    weights = {'num_bits': bits, 'type': 'int', 'symmetric': 'asym' not in special, 'strategy': 'channel' if 'one' in special else 'group', 'actorder': 'group' if 'order' in special else None}
    if 'one' not in special:
        weights['group_size'] = group
    if method == 'ct_fp8':
        weights = {'num_bits': 8, 'type': 'float', 'symmetric': True, 'strategy': special[0], **({'block_structure': [group, group]} if special[0] == 'block' else {})}
    inputs = {'num_bits': 8, 'type': 'float', 'dynamic': True, 'strategy': 'token', 'symmetric': True} if 'inputs' in special else None
    return {'quant_method': 'compressed-tensors', 'format': 'float-quantized' if method == 'ct_fp8' else 'pack-quantized', 'ignore': ['lm_head'],
            'config_groups': {'group_0': {'targets': ['Linear'], 'weights': weights, 'input_activations': inputs}}}


def shapes(c):
    hidden, hd, moe = c['hidden_size'], c['head_dim'], c.get('num_experts', 0)
    q, kv = c['num_attention_heads'] * hd, c['num_key_value_heads'] * hd
    width = c['moe_intermediate_size'] if moe else c['intermediate_size']
    out = {'model.embed_tokens.weight': (c['vocab_size'], hidden), 'model.norm.weight': (hidden,)}
    if not c['tie_word_embeddings']:
        out['lm_head.weight'] = (c['vocab_size'], hidden)
    for i in range(c['num_hidden_layers']):
        p = f'model.layers.{i}.'
        out.update({f'{p}self_attn.{x}_proj.weight': (n, k) for x, n, k in (('q', q, hidden), ('k', kv, hidden), ('v', kv, hidden), ('o', hidden, q))})
        if c['model_type'].startswith('qwen3'):
            out.update({f'{p}self_attn.{x}_norm.weight': (hd,) for x in 'qk'})
        if c['model_type'] == 'qwen2' or c.get('attention_bias'):
            out.update({f'{p}self_attn.{x}_proj.bias': (n,) for x, n in (('q', q), ('k', kv), ('v', kv))})
        if c.get('attention_bias'):
            out[p + 'self_attn.o_proj.bias'] = (hidden,)
        if moe:
            out[p + 'mlp.gate.weight'] = (moe, hidden)
        for at in [f'{p}mlp.experts.{x}.' for x in range(moe)] or [p + 'mlp.']:
            out.update({at + 'gate_proj.weight': (width, hidden), at + 'up_proj.weight': (width, hidden), at + 'down_proj.weight': (hidden, width)})
        out.update({f'{p}{x}_layernorm.weight': (hidden,) for x in ('input', 'post_attention')})
    return out


def configuration(rng, kind, hidden, head_dim, width, heads, kv, vocab):
    c = {'hidden_size': hidden, 'intermediate_size': width, 'num_attention_heads': heads, 'num_key_value_heads': kv, 'num_hidden_layers': 1, 'vocab_size': vocab,
         'max_position_embeddings': 64, 'rms_norm_eps': 1e-6, 'rope_theta': 10000.0, 'hidden_act': 'silu', 'head_dim': head_dim, 'torch_dtype': 'float16',
         'tie_word_embeddings': rng.random() < 0.5, 'model_type': kind,
         'architectures': [{'qwen2': 'Qwen2ForCausalLM', 'llama': 'LlamaForCausalLM', 'qwen3': 'Qwen3ForCausalLM', 'qwen3_moe': 'Qwen3MoeForCausalLM'}[kind]]}
    if kind in ('llama', 'qwen3'):
        c['attention_bias'] = rng.random() < 0.5
    if kind == 'qwen3_moe':
        c.update(num_experts=3, num_experts_per_tok=2, moe_intermediate_size=width, norm_topk_prob=True, intermediate_size=128, decoder_sparse_step=1, mlp_only_layers=[])
    return c


def make(folder, rng, form, kind, group=16, hidden=32, head_dim=8, width=48, heads=4, kv=2, vocab=40, plain=(), head=False, whole=False, ordered=('',)):
    """plain: modules that stay as they are, by a part of their names. head: lm_head is quantized too, and untied. whole: shuffled channels make whole
    groups. ordered: modules that are shuffled, in the forms that are, by a part of their names; others have their channels in order."""
    form = (FORMS | OTHERS)[form]
    form += ('whole',) if whole and 'order' in form else ()
    c = configuration(rng, kind, hidden, head_dim, width, heads, kv, vocab)
    c['tie_word_embeddings'] = c['tie_word_embeddings'] and not head
    dense, scale = rng.choice(('F16', 'BF16', 'F32')), 'F32' if 'fp8' in form[0] else rng.choice(('F16', 'BF16', 'F16'))
    tensors = {}
    for name, shape in shapes(c).items():
        module, last = name.rpartition('.')[0], name.rpartition('.')[2]
        if 'experts' in form and '.experts.' not in name:
            tensors[name] = numbers(rng, shape, dense)
        elif last == 'weight' and (module.rpartition('.')[2] in MODULES or (head and module == 'lm_head')) and not any(p in name for p in plain):
            parts = (other_parts if form in OTHERS.values() and form[0] != 'ct' else float_parts if 'fp8' in form[0] else integer_parts)(rng, form + (('kept',) if 'order' in form and not any(p in name for p in ordered) else ()), group, scale, *shape)
            tensors.update({f'{module}.{part}': t for part, t in parts.items()})
        else:
            tensors[name] = numbers(rng, shape, dense)
    c['quantization_config'] = settings(form, group)
    if head:
        c['quantization_config'].update({'lm_head': True} if form[0] in ('gptq', 'awq') else {'ignore': []})
    os.mkdir(folder)
    unpack_quantized.write(os.path.join(folder, 'model.safetensors'), tensors)
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump(c, f, indent=2)
    return c


if __name__ == '__main__':
    import sys
    if len(sys.argv) != 4 or sys.argv[2] not in FORMS:
        sys.exit(f'usage: random_quantized.py OUT_DIR FORM SEED\n{", ".join(FORMS)}')
    make(sys.argv[1], random.Random(int(sys.argv[3])), sys.argv[2], 'qwen2')
