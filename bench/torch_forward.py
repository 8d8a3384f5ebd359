#!/usr/bin/python3
"""The same model in torch on the CPU, as a yardstick for bench_forward: tokens per second of a prefill and of decoding.

    /usr/bin/python3 torch_forward.py MODEL [--tokens 2048] [--decode 16] [--rounds 3] [--dtype float32|bfloat16]

A dense qwen2, llama or mistral, written by hand with what torch is quick at: one matmul per linear layer, attention over all heads at once
with a causal mask, no gradients. Needs python3-torch.
"""
import argparse
import json
import os
import statistics
import struct
import time

import torch


def load(folder, dtype):
    out = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith('.safetensors'):
            continue
        path = os.path.join(folder, name)
        with open(path, 'rb') as f:
            n, = struct.unpack('<Q', f.read(8))
            header = json.loads(f.read(n))
        data = torch.from_file(path, size=os.path.getsize(path), dtype=torch.uint8)[8 + n:].clone()
        for tensor, t in header.items():
            if tensor != '__metadata__':
                begin, end = t['data_offsets']
                out[tensor] = data[begin:end].view(torch.bfloat16).reshape(t['shape']).to(dtype)
    return out


class Model:
    def __init__(self, folder, dtype):
        with open(os.path.join(folder, 'config.json'), encoding='utf-8') as f:
            c = json.load(f)
        self.w, self.dtype = load(folder, dtype), dtype
        self.n_layer, self.heads, self.kv = c['num_hidden_layers'], c['num_attention_heads'], c['num_key_value_heads']
        self.hd = c.get('head_dim') or c['hidden_size'] // self.heads
        self.eps, self.theta = c['rms_norm_eps'], c['rope_theta']
        self.head = self.w['model.embed_tokens.weight' if c['tie_word_embeddings'] else 'lm_head.weight']
        self.cache = []

    def norm(self, x, w):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)).to(self.dtype) * w

    def linear(self, x, name):
        return torch.nn.functional.linear(x, self.w[name + '.weight'], self.w.get(name + '.bias'))

    def rotate(self, x, cos, sin):
        half = self.hd // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def layer(self, x, i, cos, sin, mask):
        p, n = f'model.layers.{i}.', x.shape[0]
        h = self.norm(x, self.w[p + 'input_layernorm.weight'])
        q, k, v = (self.linear(h, f'{p}self_attn.{s}_proj').view(n, m, self.hd).transpose(0, 1)
                   for s, m in (('q', self.heads), ('k', self.kv), ('v', self.kv)))
        q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
        if self.cache[i]:
            k, v = torch.cat((self.cache[i][0], k), 1), torch.cat((self.cache[i][1], v), 1)
        self.cache[i] = (k, v)
        times = self.heads // self.kv
        s = q @ k.repeat_interleave(times, 0).transpose(1, 2) * self.hd ** -0.5
        a = torch.softmax((s + mask).float(), -1).to(self.dtype) @ v.repeat_interleave(times, 0)
        x = x + self.linear(a.transpose(0, 1).reshape(n, -1), p + 'self_attn.o_proj')
        h = self.norm(x, self.w[p + 'post_attention_layernorm.weight'])
        return x + self.linear(torch.nn.functional.silu(self.linear(h, p + 'mlp.gate_proj')) * self.linear(h, p + 'mlp.up_proj'), p + 'mlp.down_proj')

    def forward(self, ids, at):
        """Logits after the last id."""
        if at == 0:
            self.cache = [None] * self.n_layer
        n = len(ids)
        angle = torch.arange(at, at + n)[:, None] * self.theta ** (-torch.arange(0, self.hd, 2) / self.hd)
        angle = torch.cat((angle, angle), -1)
        cos, sin = angle.cos().to(self.dtype), angle.sin().to(self.dtype)
        mask = torch.full((n, at + n), float('-inf')).triu(at + 1).to(self.dtype)
        x = self.w['model.embed_tokens.weight'][ids]
        for i in range(self.n_layer):
            x = self.layer(x, i, cos, sin, mask)
        return self.norm(x[-1:], self.w['model.norm.weight']) @ self.head.T


def main():
    a = argparse.ArgumentParser()
    a.add_argument('model')
    a.add_argument('--tokens', type=int, default=2048)
    a.add_argument('--decode', type=int, default=16)
    a.add_argument('--rounds', type=int, default=3)
    a.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16'))
    o = a.parse_args()
    prefill, step = [], []
    torch.set_num_threads(os.cpu_count())
    with torch.no_grad():
        m = Model(o.model, getattr(torch, o.dtype))
        ids = torch.randint(0, m.head.shape[0], (o.tokens + o.decode,), generator=torch.Generator().manual_seed(1))
        for _ in range(o.rounds):
            start = time.monotonic()
            m.forward(ids[:o.tokens], 0)
            prefill.append(time.monotonic() - start)
            m.forward(ids[:16], 0)
            for k in range(o.decode):
                start = time.monotonic()
                m.forward(ids[16 + k:17 + k], 16 + k)
                step.append(time.monotonic() - start)
    p, s = statistics.median(prefill), statistics.median(step)
    print(f'torch {torch.__version__}, {o.dtype}, {torch.get_num_threads()} threads: prefill {o.tokens} tokens {p:.2f} s, {o.tokens / p:.0f} tokens/s; '
          f'decode {1e3 * s:.1f} ms a token, {1 / s:.1f} tokens/s')


if __name__ == '__main__':
    main()
