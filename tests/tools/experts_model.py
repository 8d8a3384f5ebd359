#!/usr/bin/env python3
"""Writes a small Qwen3-MoE checkpoint of random weights, for tests that quantize one many times. Python standard library only.

    experts_model.py FOLDER [LAYERS [DENSE-LAYERS]]

With one expert per token and random routers some experts get few tokens or none. The first DENSE-LAYERS layers have a plain MLP instead."""
import json
import os
import random
import sys

import st_edit

HIDDEN, HEADS, EXPERTS, FF, DENSE_FF, VOCAB = 64, 4, 4, 96, 128, 256


def bf16(rng, n, norm):
    """Norms are 1 to 2, weights 2^-4 to 2^-3 of either sign."""
    sign, exponent = (0, 127) if norm else (1, 123)
    return b''.join(((rng.getrandbits(1) << 15 if sign else 0) | exponent << 7 | rng.getrandbits(7)).to_bytes(2, 'little') for _ in range(n))


def shapes(layers, dense):
    """[(name, shape)], in the order of the file."""
    out = [('model.embed_tokens.weight', [VOCAB, HIDDEN])]
    for i in range(layers):
        p = f'model.layers.{i}.'
        out += [(f'{p}self_attn.{name}_proj.weight', [HIDDEN, HIDDEN]) for name in ('q', 'k', 'v', 'o')]
        out += [(f'{p}self_attn.{name}_norm.weight', [HIDDEN // HEADS]) for name in ('q', 'k')]
        mlps = [(p + 'mlp.', DENSE_FF)] if i < dense else [(f'{p}mlp.experts.{x}.', FF) for x in range(EXPERTS)]
        if i >= dense:
            out.append((p + 'mlp.gate.weight', [EXPERTS, HIDDEN]))
        for mlp, width in mlps:
            out += [(mlp + 'gate_proj.weight', [width, HIDDEN]), (mlp + 'up_proj.weight', [width, HIDDEN]), (mlp + 'down_proj.weight', [HIDDEN, width])]
        out += [(f'{p}{name}_layernorm.weight', [HIDDEN]) for name in ('input', 'post_attention')]
    return out + [('model.norm.weight', [HIDDEN]), ('lm_head.weight', [VOCAB, HIDDEN])]


def make(folder, layers=3, dense=0):
    rng, tensors = random.Random(1), []
    for name, shape in shapes(layers, dense):
        n = 1
        for length in shape:
            n *= length
        tensors.append([name, 'BF16', shape, bf16(rng, n, len(shape) == 1)])
    os.mkdir(folder)
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump({'architectures': ['Qwen3MoeForCausalLM'], 'model_type': 'qwen3_moe', 'hidden_act': 'silu', 'hidden_size': HIDDEN, 'intermediate_size': DENSE_FF,
                   'moe_intermediate_size': FF, 'num_experts': EXPERTS, 'num_experts_per_tok': 1, 'norm_topk_prob': True, 'decoder_sparse_step': 1,
                   'mlp_only_layers': list(range(dense)), 'num_attention_heads': HEADS, 'num_key_value_heads': HEADS, 'head_dim': HIDDEN // HEADS,
                   'num_hidden_layers': layers, 'max_position_embeddings': 256, 'rms_norm_eps': 1e-6, 'rope_theta': 10000.0, 'attention_bias': False,
                   'tie_word_embeddings': False, 'torch_dtype': 'bfloat16', 'vocab_size': VOCAB}, f)
    st_edit.save(os.path.join(folder, 'model.safetensors'), tensors, {'format': 'pt'})


if __name__ == '__main__':
    make(sys.argv[1], *map(int, sys.argv[2:]))
