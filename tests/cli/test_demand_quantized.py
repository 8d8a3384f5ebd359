#!/usr/bin/env python3
"""Failures that people reported of quantized checkpoints, made again and repaired: each breaks the engine's rule, `fitq pad` as `fitq plan` prints it
writes one that keeps the rule, and `fitq verify` proves that it is the same model.

A checkpoint has one layer with the widths of the report; hidden_size, heads and the number of experts are smaller where the rule does not look at
them. Codes, scales and zero points are drawn. `row` is the number in the catalogue of docs/planning.md's tests (tests/unit/test_plan_demand.c has the
planner's side of it with the real sizes).

FITQ_FULL=1: every row is repaired; else a few are, and the others are planned. Environment: FITQ_BINARY, FITQ_SOURCE_DIR, FITQ_TEST_SEED (printed)."""
import json
import os
import random
import shlex
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
import st_reader  # noqa: E402,F401
import unpack_quantized  # noqa: E402

LIMIT = 120
VOCAB, HEAD_DIM = 256, 128
ITEM = {'I32': 4, 'I64': 8, 'F16': 2, 'BF16': 2, 'F32': 4, 'F8_E4M3': 1}

# row, family, lengths, form, group, engine, format, GPUs, the rule that is broken, what else is asked of pad
DENSE_29568 = {'intermediate_size': 29568}
ROWS = [
    (1, 'qwen2', DENSE_29568, 'awq', 128, 'vllm-2025', 'awq', 8, 'group-split'),
    (1, 'qwen2', DENSE_29568, 'awq', 128, 'vllm-2025', 'awq', 4, 'group-split'),
    (1, 'qwen2', DENSE_29568, 'gptq', 128, 'vllm', 'gptq-marlin', 8, 'group-split'),
    (2, 'qwen2', DENSE_29568, 'ct8', -1, 'vllm-2025', 'ct-int8', 4, 'tile-k'),
    (4, 'qwen2', DENSE_29568, 'awq', 128, 'vllm-2025', 'awq-marlin', 2, 'group-split'),
    (7, 'qwen2', {'intermediate_size': 13696}, 'gptq', 128, 'vllm', 'gptq-marlin', 2, 'group-split'),
    (8, 'qwen2', {'intermediate_size': 27392}, 'awq', 128, 'vllm-2025', 'awq', 4, 'group-split'),
    (9, 'llama', {'intermediate_size': 11008}, 'awq', 128, 'vllm-2025', 'awq', 4, 'group-split'),
    (11, 'llama', {'intermediate_size': 4864, 'num_attention_heads': 14, 'num_key_value_heads': 2, 'head_dim': 64}, 'gptq', 128, 'sglang', 'gptq-marlin', 2, 'group-split'),
    (11, 'llama', {'intermediate_size': 4864, 'num_attention_heads': 14, 'num_key_value_heads': 2, 'head_dim': 64}, 'awq', 128, 'sglang', 'awq', 2, 'group-split'),
    (12, 'qwen3_moe', {'moe_intermediate_size': 768}, 'awq', 128, 'vllm-2025', 'awq', 4, 'moe-group'),
    (12, 'qwen3_moe', {'moe_intermediate_size': 768}, 'awq', 128, 'vllm-2025', 'awq', 8, 'moe-group'),
    (13, 'qwen3_moe', {'moe_intermediate_size': 768}, 'gptq', 128, 'vllm', 'gptq-marlin', 4, 'moe-group'),
    (14, 'qwen3_moe', {'moe_intermediate_size': 768}, 'fp8', 128, 'vllm', 'fp8-block', 4, 'moe-block'),
    (15, 'qwen3_moe', {'moe_intermediate_size': 1536}, 'fp8', 128, 'vllm', 'fp8-block', 8, 'moe-block'),
    (18, 'qwen3_moe', {'moe_intermediate_size': 640}, 'fp8', 128, 'vllm', 'fp8-block', 2, 'moe-block'),
    (18, 'qwen3_moe', {'moe_intermediate_size': 640}, 'fp8', 128, 'vllm', 'fp8-block', 8, 'moe-block'),
    (19, 'qwen2_moe', {'moe_intermediate_size': 3072, 'shared_expert_intermediate_size': 3072, 'num_attention_heads': 16, 'num_key_value_heads': 16}, 'fp8', 128, 'vllm-2025', 'fp8-block', 16, 'block-split'),
    (20, 'qwen2_moe', {'moe_intermediate_size': 1280, 'shared_expert_intermediate_size': 1280}, 'fp8', 128, 'sglang', 'fp8-block', 4, 'block-split'),
    (20, 'qwen2_moe', {'moe_intermediate_size': 1280, 'shared_expert_intermediate_size': 1280}, 'fp8', 128, 'sglang', 'fp8-block', 8, 'moe-block'),
    (21, 'qwen3', {'intermediate_size': 10944}, 'fp8_tensor', 0, 'vllm-2025', 'fp8', 4, 'tile-n'),
    (21, 'qwen3', {'intermediate_size': 10944}, 'fp8_tensor', 0, 'vllm-2025', 'fp8', 8, 'tile-n'),
    (27, 'qwen3_moe', {'moe_intermediate_size': 640}, 'ct4', 128, 'vllm', 'ct-int4', 2, 'moe-group'),
    (47, 'qwen3', {'intermediate_size': 4544}, 'fp8', 128, 'vllm', 'fp8-block', 1, 'block-split'),
    (48, 'qwen3', {'intermediate_size': 1856}, 'ct8', -1, 'tensorrt-llm', 'ct-int8', 2, 'woq-tile'),
    (49, 'qwen2_moe', {'moe_intermediate_size': 1024, 'shared_expert_intermediate_size': 512}, 'fp8', 128, 'vllm', 'fp8-block', 8, 'block-split'),
]
# by default these are repaired
QUICK = {(11, 'awq'), (13, 'gptq'), (15, 'fp8'), (48, 'ct8')}

# Rows that name a quantized format and are not here.
LEFT_OUT = {
    3: 'marlin24 (2:4 sparse): not a form that fitq reads', 5: 'the language model of row 1 in another wrapper', 6: 'lmdeploy pads at load since',
    10: 'latent attention: not a family that fitq runs', 16: 'hybrid attention: not a family', 17: 'latent attention: not a family', 22: 'latent attention: heads of 192 and 128',
    23: 'NVFP4: refused as "quantized"', 24: 'NVFP4', 25: 'NVFP4', 26: 'NVFP4', 28: 'a kernel, mended since: groups of 32 run', 29: 'latent attention: not a family',
    30: 'linear attention: not a family', 31: 'activation order on a kernel that ignores it: no lengths mend it', 32: 'W4AFP8: not a form that fitq reads', 42: 'MXFP8: not a form', 44: 'MXFP8, a vision tower',
    45: 'GGUF', 46: 'GGUF', 50: 'linear attention', 51: 'MLX',
}


class Failed(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Failed(text)


def fitq(*args):
    p = subprocess.run([BINARY, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False)
    return p.returncode, p.stdout, p.stderr


# ---- checkpoints ------------------------------------------------------------------------------------------------------


def model(family, lengths):
    c = {'architectures': [{'qwen2': 'Qwen2ForCausalLM', 'llama': 'LlamaForCausalLM', 'qwen3': 'Qwen3ForCausalLM', 'qwen3_moe': 'Qwen3MoeForCausalLM', 'qwen2_moe': 'Qwen2MoeForCausalLM'}[family]],
         'model_type': family, 'num_hidden_layers': 1, 'num_attention_heads': 8, 'num_key_value_heads': 8, 'intermediate_size': 1024, 'vocab_size': VOCAB, 'hidden_act': 'silu',
         'rms_norm_eps': 1e-6, 'rope_theta': 10000.0, 'tie_word_embeddings': False, 'max_position_embeddings': 256, 'torch_dtype': 'float16'}
    if 'moe' in family:
        c.update(num_experts=16, num_experts_per_tok=2, decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True)
    c.update(lengths)
    c['hidden_size'] = c['num_attention_heads'] * HEAD_DIM if family in ('qwen2', 'qwen2_moe') else 256   # these compute head_dim from it
    if family not in ('qwen2', 'qwen2_moe'):
        c.setdefault('head_dim', HEAD_DIM)
    return c


def linears(c):
    hidden, d = c['hidden_size'], c.get('head_dim', HEAD_DIM)
    q, kv, at = c['num_attention_heads'] * d, c['num_key_value_heads'] * d, 'model.layers.0.'
    out = {at + 'self_attn.q_proj': (q, hidden), at + 'self_attn.k_proj': (kv, hidden), at + 'self_attn.v_proj': (kv, hidden), at + 'self_attn.o_proj': (hidden, q)}
    widths = {'mlp': c['intermediate_size']}
    if 'num_experts' in c:
        widths = {f'mlp.experts.{e}': c['moe_intermediate_size'] for e in range(c['num_experts'])}
        if 'shared_expert_intermediate_size' in c:
            widths['mlp.shared_expert'] = c['shared_expert_intermediate_size']
    for name, width in widths.items():
        out.update({f'{at}{name}.gate_proj': (width, hidden), f'{at}{name}.up_proj': (width, hidden), f'{at}{name}.down_proj': (hidden, width)})
    return out


class Drawn:
    """Bytes that are drawn once and cut from: megabytes of codes are no better for being all different."""

    def __init__(self, rng):
        self.codes = rng.randbytes(1 << 20)
        # E4M3 below 2 of either sign: no NaN
        self.e4m3 = self.codes.translate(bytes((b & 0xBF) for b in range(256)))
        self.f16 = struct.pack('<4096e', *(rng.uniform(0.5, 1) * 2.0 ** -9 for _ in range(4096)))
        self.f32 = struct.pack('<4096f', *(rng.uniform(0.5, 1) * 2.0 ** -6 for _ in range(4096)))

    @staticmethod
    def cut(block, n):
        return (block * (n // len(block) + 1))[:n]


def tensor(dtype, shape, data):
    n = ITEM[dtype]
    for length in shape:
        n *= length
    data = Drawn.cut(data, n) if len(data) != n else data
    return dtype, shape, data


def parts(module, n, k, form, group, drawn):
    g = k if group in (-1, 0) else group
    if form == 'gptq':
        yield module + '.qweight', tensor('I32', (k // 8, n), drawn.codes)
        yield module + '.qzeros', tensor('I32', (k // g, n // 8), b'\x77' * 4)
        yield module + '.scales', tensor('F16', (k // g, n), drawn.f16)
        yield module + '.g_idx', ('I32', (k,), struct.pack(f'<{k}i', *(i // g for i in range(k))))
    elif form == 'awq':
        yield module + '.qweight', tensor('I32', (k, n // 8), drawn.codes)
        yield module + '.qzeros', tensor('I32', (k // g, n // 8), drawn.codes[4:])
        yield module + '.scales', tensor('F16', (k // g, n), drawn.f16)
    elif form in ('ct4', 'ct8'):
        yield module + '.weight_packed', tensor('I32', (n, k // (32 // int(form[2]))), drawn.codes)
        yield module + '.weight_scale', tensor('F16', (n, k // g), drawn.f16)
        yield module + '.weight_shape', ('I64', (2,), struct.pack('<2q', n, k))
    elif form == 'fp8':
        yield module + '.weight', tensor('F8_E4M3', (n, k), drawn.e4m3)
        yield module + '.weight_scale_inv', tensor('F32', (-(-n // g), -(-k // g)), drawn.f32)
    else:
        yield module + '.weight', tensor('F8_E4M3', (n, k), drawn.e4m3)
        yield module + '.weight_scale', tensor('F32', (1,), drawn.f32)


def settings(form, group):
    if form == 'awq':
        return {'quant_method': 'awq', 'bits': 4, 'group_size': group, 'zero_point': True, 'version': 'gemm'}
    if form == 'gptq':
        return {'quant_method': 'gptq', 'bits': 4, 'group_size': group, 'sym': True, 'desc_act': False}
    if form in ('ct4', 'ct8'):
        weights = {'num_bits': int(form[2]), 'type': 'int', 'symmetric': True, 'strategy': 'channel' if group == -1 else 'group', 'group_size': None if group == -1 else group}
        return {'quant_method': 'compressed-tensors', 'format': 'pack-quantized', 'ignore': ['lm_head'], 'config_groups': {'group_0': {'targets': ['Linear'], 'weights': weights}}}
    return {'quant_method': 'fp8', 'fmt': 'e4m3', 'activation_scheme': 'dynamic', **({'weight_block_size': [group, group]} if form == 'fp8' else {})}


def make(folder, c, form, group, drawn):
    hidden, d = c['hidden_size'], c.get('head_dim', HEAD_DIM)
    plain = {'model.embed_tokens.weight': (VOCAB, hidden), 'lm_head.weight': (VOCAB, hidden), 'model.norm.weight': (hidden,),
             'model.layers.0.input_layernorm.weight': (hidden,), 'model.layers.0.post_attention_layernorm.weight': (hidden,)}
    if c['model_type'].startswith('qwen3'):
        plain.update({f'model.layers.0.self_attn.{x}_norm.weight': (d,) for x in 'qk'})
    if c['model_type'] in ('qwen2', 'qwen2_moe'):
        plain.update({f'model.layers.0.self_attn.{x}_proj.bias': (c[f'num_{"attention" if x == "q" else "key_value"}_heads'] * d,) for x in 'qkv'})
    if 'num_experts' in c:
        plain['model.layers.0.mlp.gate.weight'] = (c['num_experts'], hidden)
    if 'shared_expert_intermediate_size' in c:
        plain['model.layers.0.mlp.shared_expert_gate.weight'] = (1, hidden)
    out = {name: tensor('F16', shape, drawn.f16) for name, shape in plain.items()}
    for module, (n, k) in linears(c).items():
        out.update(parts(module, n, k, form, group, drawn))
        if form == 'gptq':
            out.setdefault(module + '.bias', ('F16', (n,), bytes(2 * n)))   # packers write one for every layer
    os.mkdir(folder)
    unpack_quantized.write(os.path.join(folder, 'model.safetensors'), out)
    write_config(folder, c, form, group)


def write_config(folder, c, form, group):
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump({**c, 'quantization_config': settings(form, group)}, f, indent=2)


# ---- before and after ---------------------------------------------------------------------------------------------------


def plan(path, row):
    code, out, err = fitq('plan', path, '--engine', row[5], '--format', row[6], '--tp', str(row[7]), '--json')
    need(code == 0, f'plan: exit {code}: {err}')
    return json.loads(out)


def broken(path, row):
    """-> the ways that the plan advises a command for"""
    p = plan(path, row)
    entry = p['entries'][0]
    rules = {v['rule'] for v in entry['violations']}
    need(entry['verdict'] == 'needs-fit' and row[8] in rules, f'plan: {entry["verdict"]}, broken {sorted(rules)}, expected {row[8]}')
    c = p['checkpoints'][0]
    ways = [w for w in [c, *c['alternatives']] if w['command']]
    need(ways, 'plan advises no command')
    return ways


def runs(path, row, way):
    entry = plan(path, row)['entries'][0]
    by_experts = way['expert_parallel'] and any(o['expert_parallel'] and not o['fit'] and not o['group_size'] for o in entry['options'])
    need(entry['verdict'] == 'runs' or by_experts, f'{way["command"]}: {entry["verdict"]} afterwards')


def repair(work, row, drawn):
    source = os.path.join(work, 'MODEL')
    make(source, model(row[1], row[2]), row[3], row[4], drawn)
    for n, way in enumerate(broken(source, row)):
        command = way['command']
        words = shlex.split(command)
        target = os.path.join(work, f'out{n}')
        need(words[:4] == ['fitq', 'pad', source, '-o'], f'not a command of this model: {command}')
        code, _, err = fitq('pad', source, '-o', target, '--quiet', *words[5:])
        need(code == 0, f'{command}: exit {code}: {err}')
        runs(target, row, way)
        code, out, err = fitq('verify', '--weights', source, target, '--quiet')
        need(code == 0 and 'proved: ' in out, f'{command}: verify --weights: exit {code}: {out}{err}')
        if n == 0:
            code, out, err = fitq('verify', source, target, '--context', '8', '--chunks', '1', '--quiet')
            need(code == 0 and 'same: ' in out, f'{command}: verify: exit {code}: {out}{err}')
        shutil.rmtree(target)
    shutil.rmtree(source)
    return n + 1


def main():
    seed = int(os.environ.get('FITQ_TEST_SEED', '20261123'))
    drawn = Drawn(random.Random(seed))
    failed = 0
    need(not {r[0] for r in ROWS} & set(LEFT_OUT), 'a row is here and left out')
    quick = set(QUICK)
    with tempfile.TemporaryDirectory(prefix='fitq-demand.') as work:
        for row in ROWS:
            name = f'row {row[0]}: {row[3]}, {row[2]}, {row[7]} GPUs, {row[5]}'
            try:
                if FULL or (row[0], row[3]) in quick:
                    quick.discard((row[0], row[3]))
                    print(f'{name}: {repair(work, row, drawn)} ways', flush=True)
                else:
                    write_config(work, model(row[1], row[2]), row[3], row[4])
                    broken(os.path.join(work, 'config.json'), row)
                    print(f'{name}: planned')
            except (Failed, KeyError) as e:
                failed += 1
                print(f'FAILED {name}: {e}', flush=True)
                for left in os.listdir(work):
                    if os.path.isdir(os.path.join(work, left)):
                        shutil.rmtree(os.path.join(work, left))
    print(f'{len(LEFT_OUT)} rows are not of forms and families that fitq repairs; {failed} failed, seed {seed}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
