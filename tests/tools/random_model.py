"""Random tiny models of every family that fitq can run: config.json and weights, from a seed. Needs numpy.

A generator of its own, so that what the tests run was not written by what they test. Lengths are hostile on purpose: odd numbers of
heads, widths that no vector register divides, windows smaller than the sequence, rotary scaling that is used beyond the length
it was trained on. Weights are scaled so that every part of the model moves the logits: an error in any of them shows.
"""
import json
import os
import struct

import numpy as np

FAMILIES = ('llama', 'mistral', 'mixtral', 'qwen2', 'qwen2_moe', 'qwen3', 'qwen3_moe', 'qwen2_vl', 'qwen2_5_vl', 'qwen3_vl')
ROPES = ('default', 'linear', 'dynamic', 'llama3', 'yarn')
ARCHITECTURE = {
    'llama': 'LlamaForCausalLM', 'mistral': 'MistralForCausalLM', 'mixtral': 'MixtralForCausalLM', 'qwen2': 'Qwen2ForCausalLM',
    'qwen2_moe': 'Qwen2MoeForCausalLM', 'qwen3': 'Qwen3ForCausalLM', 'qwen3_moe': 'Qwen3MoeForCausalLM',
    'qwen2_vl': 'Qwen2VLForConditionalGeneration', 'qwen2_5_vl': 'Qwen2_5_VLForConditionalGeneration',
    'qwen3_vl': 'Qwen3VLForConditionalGeneration'}
DTYPES = ('F32', 'F16', 'BF16', 'mixed')


def coin(rng, p=0.5):
    return bool(rng.random() < p)


def pick(rng, *of):
    return of[int(rng.integers(len(of)))]


def rope_config(rng, kind, longest):
    """-> (scaling or None, max_position_embeddings); sequences are about 50 tokens long."""
    trained = pick(rng, 12, 16, 24)
    if kind == 'default':
        return None, 64
    if kind == 'linear':
        return {'rope_type': 'linear', 'factor': pick(rng, 2.0, 4.0, 2.5)}, 64
    if kind == 'dynamic':
        return {'rope_type': 'dynamic', 'factor': pick(rng, 2.0, 4.0)}, trained
    if kind == 'llama3':
        return {'rope_type': 'llama3', 'factor': pick(rng, 4.0, 8.0), 'low_freq_factor': 1.0, 'high_freq_factor': pick(rng, 2.0, 4.0),
                'original_max_position_embeddings': trained * 4}, longest * 8
    p = {'rope_type': 'yarn', 'factor': pick(rng, 2.0, 4.0), 'original_max_position_embeddings': trained * 2}
    if coin(rng, 0.4):
        p.update(beta_fast=pick(rng, 8.0, 16.0, 32.0), beta_slow=pick(rng, 1.0, 2.0))
    if coin(rng, 0.3):
        p['attention_factor'] = 1.25
    elif coin(rng, 0.3):
        p.update(mscale=1.0, mscale_all_dim=0.707)
    if coin(rng, 0.3):
        p['truncate'] = False
    return p, int(trained * 2 * p['factor'])


def add_rope(rng, c, kind, longest):
    scaling, c['max_position_embeddings'] = rope_config(rng, kind, longest)
    c['rope_theta'] = pick(rng, 10000.0, 500000.0, 1000000)
    if scaling is None and 'vl' in c['model_type'] and coin(rng):
        scaling = {'type': 'mrope', 'mrope_section': [1, 1, 2]}
    if scaling is not None and coin(rng, 0.3):    # both spellings of one thing
        if 'rope_type' in scaling and kind != 'yarn':
            scaling['type'] = scaling.pop('rope_type')
    if coin(rng, 0.3) and (scaling is None or 'rope_type' in scaling):
        c['rope_parameters'] = dict(scaling or {'rope_type': 'default'}, rope_theta=c.pop('rope_theta'))
    elif scaling is not None or coin(rng):
        c['rope_scaling'] = scaling


def add_window(rng, c):
    kind, n, width = c['model_type'], c['num_hidden_layers'], pick(rng, 1, 3, 7, 20)
    if kind in ('mistral', 'mixtral'):
        c['sliding_window'] = pick(rng, None, width)
    elif kind not in ('llama', 'qwen3_vl'):
        c['use_sliding_window'] = coin(rng)
        c['sliding_window'] = width
        c['max_window_layers'] = int(rng.integers(n + 1))
        if kind in ('qwen2', 'qwen3') and c['use_sliding_window'] and coin(rng, 0.3):
            c['layer_types'] = [pick(rng, 'full_attention', 'sliding_attention') for _ in range(n)]


def add_experts(rng, c):
    kind = c['model_type']
    c['num_experts_per_tok'] = pick(rng, 1, 2, 3)
    if kind == 'mixtral':
        c['num_local_experts'] = pick(rng, 3, 5, 8)
        return
    c['num_experts'] = pick(rng, 3, 5, 8)
    c['moe_intermediate_size'] = pick(rng, 5, 24, 37)
    c['norm_topk_prob'] = coin(rng)
    c['decoder_sparse_step'] = pick(rng, 1, 1, 2)
    c['mlp_only_layers'] = [0] if coin(rng, 0.3) else []
    if kind == 'qwen2_moe':
        c['shared_expert_intermediate_size'] = pick(rng, 7, 40)
        if coin(rng):
            c['qkv_bias'] = coin(rng)


def make_config(rng, kind, rope, longest):
    heads, kv = pick(rng, (1, 1), (3, 1), (3, 3), (5, 1), (6, 2), (7, 7), (9, 3), (14, 2))
    hd = pick(rng, 4, 6, 10, 16, 34)
    free = kind in ('llama', 'mistral', 'mixtral', 'qwen3', 'qwen3_moe', 'qwen3_vl') and coin(rng, 0.6)
    c = {'architectures': [ARCHITECTURE[kind]], 'model_type': kind, 'hidden_act': 'silu',
         'hidden_size': pick(rng, 1, 3, 5) * 8 * heads if free else heads * hd,
         'intermediate_size': pick(rng, 9, 33, 64, 100), 'num_hidden_layers': pick(rng, 2, 3), 'num_attention_heads': heads,
         'num_key_value_heads': kv, 'vocab_size': pick(rng, 17, 64, 101), 'rms_norm_eps': pick(rng, 1e-5, 1e-6, 0.001),
         'tie_word_embeddings': coin(rng, 0.4)}
    if free or kind in ('qwen3', 'qwen3_vl'):
        c['head_dim'] = hd
    if kind in ('llama', 'qwen3', 'qwen3_moe', 'qwen3_vl'):
        c['attention_bias'] = coin(rng)
    if kind == 'llama':
        c['mlp_bias'] = coin(rng)
    add_rope(rng, c, rope, longest)
    add_window(rng, c)
    if kind in ('mixtral', 'qwen2_moe', 'qwen3_moe'):
        add_experts(rng, c)
    if hd % 4 == 0 and rope in ('default', 'linear') and kind == 'llama' and coin(rng):
        c.get('rope_parameters', c)['partial_rotary_factor'] = 0.5
    return c


def sparse_layer(c, i):
    kind = c['model_type']
    return kind == 'mixtral' or (kind in ('qwen2_moe', 'qwen3_moe') and i not in c['mlp_only_layers'] and (i + 1) % c['decoder_sparse_step'] == 0)


def shapes(c, fused, prefix):
    """-> {name: shape} as the family stores it"""
    kind, h, heads, kv = c['model_type'], c['hidden_size'], c['num_attention_heads'], c['num_key_value_heads']
    hd = c.get('head_dim', h // heads)
    qkv_bias = c.get('attention_bias', kind in ('qwen2', 'qwen2_vl', 'qwen2_5_vl') or (kind == 'qwen2_moe' and c.get('qkv_bias', True)))
    out = {prefix + 'embed_tokens.weight': (c['vocab_size'], h), prefix + 'norm.weight': (h,)}
    if not c['tie_word_embeddings']:
        out['lm_head.weight'] = (c['vocab_size'], h)

    def mlp(at, width, names=('gate_proj', 'up_proj', 'down_proj'), bias=False):
        for name, (rows, cols) in zip(names, ((width, h), (width, h), (h, width))):
            out[f'{at}{name}.weight'] = (rows, cols)
            if bias:
                out[f'{at}{name}.bias'] = (rows,)

    for i in range(c['num_hidden_layers']):
        p = f'{prefix}layers.{i}.'
        out[p + 'input_layernorm.weight'] = out[p + 'post_attention_layernorm.weight'] = (h,)
        for name, rows, cols in (('q', heads * hd, h), ('k', kv * hd, h), ('v', kv * hd, h), ('o', h, heads * hd)):
            out[f'{p}self_attn.{name}_proj.weight'] = (rows, cols)
            if c.get('attention_bias') or (qkv_bias and name != 'o'):
                out[f'{p}self_attn.{name}_proj.bias'] = (rows,)
        if kind.startswith('qwen3'):
            out[p + 'self_attn.q_norm.weight'] = out[p + 'self_attn.k_norm.weight'] = (hd,)
        if not sparse_layer(c, i):
            mlp(p + 'mlp.', c['intermediate_size'], bias=c.get('mlp_bias', False))
            continue
        n = c.get('num_experts', c.get('num_local_experts'))
        at = p + ('block_sparse_moe.' if kind == 'mixtral' else 'mlp.')
        out[at + 'gate.weight'] = (n, h)
        if fused:
            width = c['moe_intermediate_size']
            out[at + 'experts.gate_up_proj'], out[at + 'experts.down_proj'] = (n, 2 * width, h), (n, h, width)
        else:
            for e in range(n):
                if kind == 'mixtral':
                    mlp(f'{at}experts.{e}.', c['intermediate_size'], ('w1', 'w3', 'w2'))
                else:
                    mlp(f'{at}experts.{e}.', c['moe_intermediate_size'])
        if kind == 'qwen2_moe':
            mlp(at + 'shared_expert.', c['shared_expert_intermediate_size'])
            out[at + 'shared_expert_gate.weight'] = (1, h)
    return out


def draw(rng, name, shape, dtype):
    """-> (dtype, bytes)"""
    if len(shape) == 1:
        x = rng.standard_normal(shape) * 0.3 + (1 if name.endswith('norm.weight') else 0)
        dtype = pick(rng, 'F32', 'BF16') if dtype == 'mixed' else dtype
    else:
        gain = 1.6 if any(s in name for s in ('q_proj', 'k_proj', 'mlp.gate.', 'moe.gate.')) else 1.0
        x = rng.standard_normal(shape) * (2.0 if 'embed' in name else gain) / np.sqrt(shape[-1])
        dtype = 'BF16' if dtype == 'mixed' else dtype
    x = x.astype('<f4')
    if dtype == 'BF16':
        return dtype, (x.view('<u4') >> 16).astype('<u2').tobytes()
    return dtype, x.astype({'F16': '<f2', 'F32': '<f4'}[dtype]).tobytes()


def write_safetensors(path, tensors):
    header, at = {'__metadata__': {'format': 'pt'}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {'dtype': dtype, 'shape': list(shape), 'data_offsets': [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + b''.join(t[2] for t in tensors.values()))


def make(folder, kind, rope, seed, longest=50):
    """Writes the model into a new folder; -> (config, a line that says what is special about it)"""
    rng = np.random.default_rng((seed, FAMILIES.index(kind), ROPES.index(rope)))
    c = make_config(rng, kind, rope, longest)
    fused = kind in ('qwen2_moe', 'qwen3_moe') and coin(rng, 0.4)
    dtype = pick(rng, *DTYPES)
    prefix = 'model.language_model.' if kind == 'qwen3_vl' or ('vl' in kind and coin(rng)) else 'model.'
    order = sorted(shapes(c, fused, prefix).items(), key=lambda t: t[0])
    tensors = {}
    for name, shape in order:
        stored, data = draw(rng, name, shape, dtype)
        tensors[name] = (stored, shape, data)
    if c['tie_word_embeddings'] and coin(rng, 0.3):
        tensors['lm_head.weight'] = tensors[prefix + 'embed_tokens.weight']
    # an element size at a time, largest first, so that every tensor lies at a multiple of its own
    tensors = dict(sorted(tensors.items(), key=lambda t: t[1][0] != 'F32'))
    os.makedirs(folder)
    if coin(rng, 0.2):
        names, where, total = list(tensors), {}, 0
        for k in range(2):
            part = names[k::2]
            file = f'model-{k + 1:05}-of-00002.safetensors'
            write_safetensors(os.path.join(folder, file), {n: tensors[n] for n in part})
            where.update(dict.fromkeys(part, file))
            total += sum(len(tensors[n][2]) for n in part)
        with open(os.path.join(folder, 'model.safetensors.index.json'), 'w', encoding='utf-8') as f:
            json.dump({'metadata': {'total_size': total}, 'weight_map': where}, f)
    else:
        write_safetensors(os.path.join(folder, 'model.safetensors'), tensors)
    written = c
    if kind == 'qwen3_vl' or ('vl' in kind and coin(rng)):
        top = ('architectures', 'model_type', 'tie_word_embeddings')
        written = {k: c[k] for k in top}
        written['text_config'] = {k: v for k, v in c.items() if k not in top} | {'model_type': kind + '_text'}
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump(written, f, indent=2)
    special = [dtype, f'{c["num_attention_heads"]}/{c["num_key_value_heads"]} heads']
    special += ['tied'] if c['tie_word_embeddings'] else []
    special += ['fused'] if fused else []
    special += [k for k in ('attention_bias', 'mlp_bias', 'use_sliding_window', 'layer_types', 'rope_parameters') if c.get(k)]
    return c, ', '.join(special)
