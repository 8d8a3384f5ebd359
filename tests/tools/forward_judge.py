#!/usr/bin/env python3
"""A forward pass of its own, as a judge of ours: float64, numpy, as few lines as it takes, and nothing of fitq's.

    forward_judge.py golden          compares itself with the published logits under FITQ_TEST_DATA; exit 77 without numpy or data
    forward_judge.py logits DIR ID... prints the logits after the last id

It follows transformers' definitions (models/FAMILY/modeling_*.py and configuration_*.py, modeling_rope_utils.py). One sequence at a
time, all positions at once, without a cache: what fitq does in blocks, with a cache and in float32 must come to the same.
"""
import glob
import json
import math
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import st_reader  # noqa: E402

try:
    import numpy as np
except ImportError:
    np = None


def widen(t):
    """A tensor of st_reader as float64."""
    if t.dtype == 'BF16':
        a = (np.frombuffer(t.data, '<u2').astype('<u4') << 16).view('<f4')
    else:
        a = np.frombuffer(t.data, {'F16': '<f2', 'F32': '<f4', 'F64': '<f8'}[t.dtype])
    return a.astype(np.float64).reshape(t.shape)


# What a family's configuration class fills in, where it is not (10000, 1e-6, hidden_size / heads).
DEFAULTS = {
    'mixtral': {'rope_theta': 1e6, 'rms_norm_eps': 1e-5, 'norm_topk_prob': True, 'sliding_window': None},
    'mistral': {'sliding_window': 4096},
    'qwen3': {'head_dim': 128},
    'qwen3_vl': {'head_dim': 128, 'rope_theta': 5e6},
    'qwen2_vl': {'rope_theta': 1e6, 'rms_norm_eps': 1e-5},
    'qwen2_5_vl': {'rope_theta': 1e6, 'rms_norm_eps': 1e-5},
}


def layer_windows(c, kind, n_layer):
    """Per layer: how many keys a query sees, itself included; 0 = all before it."""
    width = c.get('sliding_window', 4096)
    if c.get('layer_types'):
        return [width if t == 'sliding_attention' else 0 for t in c['layer_types']]
    if kind in ('mistral', 'mixtral'):
        return [c.get('sliding_window') or 0] * n_layer
    if kind == 'llama' or kind == 'qwen3_vl' or not c.get('use_sliding_window', False) or width is None:
        return [0] * n_layer
    upper = c.get('max_window_layers', 28)
    if kind == 'qwen2_moe':
        return [width if (i + 1) % 2 == 1 and i < upper else 0 for i in range(n_layer)]
    if kind == 'qwen3_moe':
        return [width] * n_layer
    return [width if i >= upper else 0 for i in range(n_layer)]


def rope_frequencies(c, head_dim, n_position):
    """-> (inverse frequencies, attention factor)"""
    p = dict(c.get('rope_parameters') or c.get('rope_scaling') or {})
    kind = p.get('rope_type', p.get('type', 'default'))
    theta = p.get('rope_theta', c.get('rope_theta', 10000.0))
    dim = int(head_dim * p.get('partial_rotary_factor', c.get('partial_rotary_factor', 1.0)))
    longest = c['max_position_embeddings']
    exponent = np.arange(0, dim, 2, dtype=np.float64) / dim
    if kind == 'dynamic':
        length = max(n_position, longest)
        theta = theta * (p['factor'] * length / longest - (p['factor'] - 1)) ** (dim / (dim - 2))
    inv = 1.0 / theta ** exponent
    if kind in ('default', 'dynamic', 'mrope'):
        return inv, 1.0
    factor = p['factor']
    if kind == 'linear':
        return inv / factor, 1.0
    original = p.get('original_max_position_embeddings') or longest
    if kind == 'llama3':
        low, high = p['low_freq_factor'], p['high_freq_factor']
        out = []
        for f in inv:
            wavelen = 2 * math.pi / f
            if wavelen > original / low:
                out.append(f / factor)
            elif wavelen < original / high:
                out.append(f)
            else:
                smooth = (original / wavelen - low) / (high - low)
                out.append((1 - smooth) * f / factor + smooth * f)
        return np.array(out), 1.0
    if kind != 'yarn':
        raise ValueError(f'rope kind {kind}')

    def dim_of_rotations(r):
        return dim * math.log(original / (r * 2 * math.pi)) / (2 * math.log(theta))
    low, high = dim_of_rotations(p.get('beta_fast') or 32), dim_of_rotations(p.get('beta_slow') or 1)
    if p.get('truncate', True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float64) - low) / (high - low), 0, 1)

    def mscale(by):
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0
    scale = p.get('attention_factor')
    if scale is None:
        both = p.get('mscale') and p.get('mscale_all_dim')
        scale = mscale(p['mscale']) / mscale(p['mscale_all_dim']) if both else mscale(1.0)
    return inv / factor * ramp + inv * (1 - ramp), scale


def as_is(x):
    return x


def to_fp16(x):
    return x.astype(np.float16).astype(np.float64)


def to_bf16(x):
    """To the nearest, ties to even; finite numbers only."""
    bits = x.astype('<f4').view('<u4').astype(np.uint64)
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 << 16
    return bits.astype('<u4').view('<f4').astype(np.float64)


ROUND = {'f32': as_is, 'bf16': to_bf16, 'fp16': to_fp16}


def normalise(x, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


class Model:
    def __init__(self, config, tensors, served='f32'):
        """config: the whole config.json; tensors: name -> st_reader.Tensor; served: what weights and results are rounded to, as in
        transformers' code when it runs in that type, but for products that engines keep in registers: rotation and scores are rounded
        once, when they are stored"""
        self.served = ROUND[served]
        self.kind = config['model_type']
        c = dict(config, **config.get('text_config', {})) if 'hidden_size' not in config else dict(config)
        c = dict({k: v for k, v in DEFAULTS.get(self.kind, {}).items()}, **c)
        self.c = c
        root = next(n for n in tensors if n.endswith('embed_tokens.weight'))
        self.root = root[:-len('embed_tokens.weight')]
        self.t, self.wide = tensors, {}
        self.heads = c['num_attention_heads']
        self.kv = c.get('num_key_value_heads') or self.heads
        self.hd = c.get('head_dim') or c['hidden_size'] // self.heads
        self.eps = c.get('rms_norm_eps', 1e-6)
        self.layers = c['num_hidden_layers']
        self.windows = layer_windows(c, self.kind, self.layers)
        self.margin = math.inf    # smallest gap between the last expert that was chosen and the first that was not

    def w(self, name, full=False):
        full_name = name if full else self.root + name
        if full_name not in self.wide:
            self.wide[full_name] = self.served(widen(self.t[full_name])) if full_name in self.t else None
        return self.wide[full_name]

    def linear(self, x, name):
        y = x @ self.w(name + '.weight').T
        b = self.w(name + '.bias')
        return self.served(y if b is None else y + b)

    def norm(self, x, name):
        return self.served(self.served(normalise(x, self.eps)) * self.w(name + '.weight'))

    def rotate(self, x):
        """x: [T, heads, hd]"""
        inv, scale = self.rope
        half = len(inv)
        angle = np.arange(x.shape[0], dtype=np.float64)[:, None] * inv
        cos, sin = self.served(np.cos(angle)[:, None, :] * scale), self.served(np.sin(angle)[:, None, :] * scale)
        a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
        return self.served(np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1))

    def attention(self, x, i):
        p = f'layers.{i}.self_attn.'
        n = x.shape[0]
        q = self.linear(x, p + 'q_proj').reshape(n, self.heads, self.hd)
        k = self.linear(x, p + 'k_proj').reshape(n, self.kv, self.hd)
        v = self.linear(x, p + 'v_proj').reshape(n, self.kv, self.hd)
        if self.kind in ('qwen3', 'qwen3_moe', 'qwen3_vl'):
            q, k = self.norm(q, p + 'q_norm'), self.norm(k, p + 'k_norm')
        q, k = self.rotate(q), self.rotate(k)
        at = np.arange(n)
        hidden = at[None, :] > at[:, None]
        if self.windows[i]:
            hidden |= at[None, :] <= at[:, None] - self.windows[i]
        out = np.empty((n, self.heads, self.hd))
        for h in range(self.heads):
            g = h // (self.heads // self.kv)
            s = q[:, h] @ k[:, g].T * self.hd ** -0.5
            out[:, h] = self.served(softmax(np.where(hidden, -np.inf, s))) @ v[:, g]
        return self.linear(self.served(out.reshape(n, -1)), p + 'o_proj')

    def mlp(self, x, p, names=('gate_proj', 'up_proj', 'down_proj')):
        r = self.served
        return self.linear(r(r(silu(self.linear(x, p + names[0]))) * self.linear(x, p + names[1])), p + names[2])

    def expert(self, x, p, e):
        """p: of the mixture. Experts lie one by one, or all gates over all ups in one tensor."""
        if self.kind == 'mixtral':
            return self.mlp(x, f'{p}experts.{e}.', ('w1', 'w3', 'w2'))
        fused = self.w(p + 'experts.gate_up_proj')
        if fused is None:
            return self.mlp(x, f'{p}experts.{e}.')
        gate, up = np.split(fused[e], 2)
        r = self.served
        return r(r(r(silu(r(x @ gate.T))) * r(x @ up.T)) @ self.w(p + 'experts.down_proj')[e].T)

    def mixture(self, x, i):
        p = f'layers.{i}.' + ('block_sparse_moe.' if self.kind == 'mixtral' else 'mlp.')
        prob = softmax(self.served(x @ self.w(p + 'gate.weight').T))
        k = self.c['num_experts_per_tok']
        order = np.argsort(-prob, axis=-1, kind='stable')
        chosen = order[:, :k]
        if k < prob.shape[1]:
            last = np.take_along_axis(prob, order[:, k - 1:k + 1], axis=-1)
            self.margin = min(self.margin, float((last[:, 0] - last[:, 1]).min()))
        weight = np.take_along_axis(prob, chosen, axis=-1)
        if self.kind == 'mixtral' or self.c.get('norm_topk_prob', False):
            weight = weight / weight.sum(axis=-1, keepdims=True)
        weight = self.served(weight)
        out = np.zeros_like(x)
        for e in range(prob.shape[1]):
            token, slot = np.nonzero(chosen == e)
            if len(token):
                out[token] = self.served(out[token] + self.served(weight[token, slot][:, None] * self.expert(x[token], p, e)))
        if self.kind == 'qwen2_moe' and self.w(p + 'shared_expert.gate_proj.weight') is not None:
            gate = self.served(1 / (1 + np.exp(-self.served(x @ self.w(p + 'shared_expert_gate.weight').T))))
            out = self.served(out + self.served(gate * self.mlp(x, p + 'shared_expert.')))
        return out

    def is_sparse(self, i):
        if self.kind == 'mixtral':
            return True
        n = self.c.get('num_experts', self.c.get('num_local_experts', 0))
        return (self.kind in ('qwen2_moe', 'qwen3_moe') and n > 0 and i not in self.c.get('mlp_only_layers', [])
                and (i + 1) % self.c.get('decoder_sparse_step', 1) == 0)

    def logits(self, ids, n_position=None):
        """[T, vocab]. n_position: length that dynamic scaling is computed for (default: of this sequence)."""
        self.rope = rope_frequencies(self.c, self.hd, n_position or len(ids))
        x = self.w('embed_tokens.weight')[np.asarray(ids)]
        for i in range(self.layers):
            p = f'layers.{i}.'
            x = self.served(x + self.attention(self.norm(x, p + 'input_layernorm'), i))
            h = self.norm(x, p + 'post_attention_layernorm')
            x = self.served(x + (self.mixture(h, i) if self.is_sparse(i) else self.mlp(h, p + 'mlp.')))
        x = self.norm(x, 'norm')
        head = next((n for n in self.t if n.endswith('lm_head.weight')), None)
        if self.c.get('tie_word_embeddings', False):
            head = self.root + 'embed_tokens.weight'
        return self.served(x @ self.w(head, full=True).T)


def open_model(folder, served='f32'):
    with open(os.path.join(folder, 'config.json'), encoding='utf-8') as f:
        return Model(json.load(f), st_reader.read_folder(folder), served)


# ---- against what others published -------------------------------------------------------------------------------------

def tiny_golden(folder):
    """Yields (name, largest difference) of five families, and of one of them in two shards."""
    for path in sorted(glob.glob(os.path.join(folder, '*_config.json'))):
        base = path[:-len('_config.json')]
        with open(path, encoding='utf-8') as f:
            config = json.load(f)
        with open(base + '_logits.json', encoding='utf-8') as f:
            golden = json.load(f)
        for files in ([base + '.safetensors'], sorted(glob.glob(base + '-0*.safetensors'))):
            if not files:
                continue
            tensors = {}
            for name in files:
                tensors.update(st_reader.read_file(name)[0])
            m = Model(config, tensors)
            worst = max(float(np.abs(m.logits(ids) - np.array(want)).max()) for ids, want in zip(golden['sequences'], golden['logits']))
            yield f'{os.path.basename(base)}, {len(files)} files', worst


def own_golden(folder):
    for path in sorted(glob.glob(os.path.join(folder, 'golden', '*', 'golden.json'))):
        name = os.path.basename(os.path.dirname(path))
        with open(path, encoding='utf-8') as f:
            ids = json.load(f)['prompt_ids']
        want = np.fromfile(os.path.join(os.path.dirname(path), 'logits.f32'), '<f4').reshape(len(ids), -1)
        yield name, float(np.abs(open_model(os.path.join(folder, name)).logits(ids) - want).max())


def golden():
    data = os.environ.get('FITQ_TEST_DATA')
    if not data:
        print('skipped: FITQ_TEST_DATA is not set')
        return 77
    failed = n = 0
    for limit, results in ((1e-5, tiny_golden(os.path.join(data, 'models', 'tiny-golden'))), (2e-4, own_golden(os.path.join(data, 'own')))):
        for name, worst in results:
            n += 1
            failed += worst > limit
            print(f'[{"  FAILED  " if worst > limit else "       OK "}] {name}: {worst:.2e}, at most {limit:.0e}', flush=True)
    print(f'{n} models')
    return 1 if failed or n < 8 else 0


def main(args):
    if np is None:
        if sys.executable != '/usr/bin/python3' and os.path.exists('/usr/bin/python3'):
            os.execv('/usr/bin/python3', ['/usr/bin/python3', *sys.argv])   # where a distribution's numpy is
        print('skipped: no numpy')
        return 77
    if args[1:] == ['golden']:
        return golden()
    if len(args) > 3 and args[1] == 'logits':
        print(*open_model(args[2]).logits([int(a) for a in args[3:]])[-1], sep='\n')
        return 0
    print('usage: forward_judge.py golden | logits DIR ID...', file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main(sys.argv))
