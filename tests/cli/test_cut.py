#!/usr/bin/env python3
"""Weights that change while a model runs: the file is cut, emptied, removed, or another kind of file comes in its place. The program must
end by itself, with 0 if it had read what it needed, else 3 or 4 and one line on stderr that names the file (6 for weights that are no
numbers any more); never by a signal, and never waiting for ever. Damage comes as soon as the program has the file open, and at a part of
the time that an undisturbed run takes. One of the two must have met eval, or the test says nothing.

FITQ_BINARY names the program. Exit 77 without /proc."""
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BINARY = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'tools'))
sys.dont_write_bytecode = True
import st_edit  # noqa: E402

HIDDEN, FF, LAYERS, VOCAB, TOKENS = 256, 1024, 12, 2048, 512
CONFIG = ('{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": %d, "intermediate_size": %d, '
          '"max_position_embeddings": 2048, "num_attention_heads": 4, "num_hidden_layers": %d, "num_key_value_heads": 2, '
          '"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": %d}')
WHEN = (0, 0.4)   # parts of the time of an undisturbed run
LIMIT = 120            # seconds; no run takes one of them


def small_numbers(n, rng):
    """n bf16 of magnitude 2^-7 to 2^-6, from a block that is repeated."""
    block = b''.join(struct.pack('<H', rng.getrandbits(1) << 15 | 120 << 7 | rng.getrandbits(7)) for _ in range(4099))
    return (block * (n * 2 // len(block) + 1))[:2 * n]


def make(folder):
    """A model that takes long enough for something to happen to it. -> its weight file"""
    rng = random.Random(1)
    tensors = []

    def add(name, *shape):
        n = 1
        for length in shape:
            n *= length
        tensors.append([name, 'BF16', list(shape), small_numbers(n, rng)])
    add('model.embed_tokens.weight', VOCAB, HIDDEN)
    for i in range(LAYERS):
        p = f'model.layers.{i}.'
        for name, rows in (('q', HIDDEN), ('k', HIDDEN // 2), ('v', HIDDEN // 2)):
            add(f'{p}self_attn.{name}_proj.weight', rows, HIDDEN)
            add(f'{p}self_attn.{name}_proj.bias', rows)
        add(p + 'self_attn.o_proj.weight', HIDDEN, HIDDEN)
        add(p + 'mlp.gate_proj.weight', FF, HIDDEN)
        add(p + 'mlp.up_proj.weight', FF, HIDDEN)
        add(p + 'mlp.down_proj.weight', HIDDEN, FF)
        add(p + 'input_layernorm.weight', HIDDEN)
        add(p + 'post_attention_layernorm.weight', HIDDEN)
    add('model.norm.weight', HIDDEN)
    os.mkdir(folder)
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
        f.write(CONFIG % (HIDDEN, FF, LAYERS, VOCAB))
    path = os.path.join(folder, 'model.safetensors')
    st_edit.save(path, tensors, {'format': 'pt'})
    return path


def has_open(process, path):
    folder = f'/proc/{process.pid}/fd'
    try:
        return any(os.readlink(os.path.join(folder, fd)) == path for fd in os.listdir(folder))
    except OSError:  # closed meanwhile, or the process is gone
        return False


def cut(path):
    os.truncate(path, os.path.getsize(path) // 3)


def empty(path):
    os.truncate(path, 0)


def remove(path):
    os.remove(path)


def fifo(path):
    os.remove(path)
    os.mkfifo(path)


def noise(path):
    """Other bytes of the same length: numbers change, nothing may break."""
    size = os.path.getsize(path)
    with open(path, 'r+b') as f:
        f.write(b'\xff' * size)


# what happens: exit statuses. A file that was removed is still there for who has it open.
DAMAGE = ((cut, (0, 3, 4)), (empty, (0, 3, 4)), (remove, (0, 3, 4)), (fifo, (0, 3, 4)), (noise, (0, 3, 4, 6)))
MEETS = (cut, empty)   # what eval cannot miss when it comes at once: it reads a layer at a time


def run(command, path, delay, damage):
    """-> exit status, stderr"""
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        if damage:
            while p.poll() is None and not has_open(p, path):
                time.sleep(0.0002)
            time.sleep(delay)
            damage(path)
        text = p.communicate(timeout=LIMIT)[1]
        return p.returncode, text
    finally:
        if p.poll() is None:
            p.kill()
            p.wait()


def judge(name, status, text, allowed, path):
    lines = text.splitlines()
    if status not in allowed:
        return f'{name}: exit {status}, expected one of {allowed}\n{text}'
    if status != 0 and (len(lines) != 1 or not lines[0].startswith('fitq: ')):
        return f'{name}: exit {status} with {len(lines)} lines, expected one\n{text}'
    if status in (3, 4) and os.path.dirname(path) not in lines[0]:
        return f'{name}: the line names no file of the model\n{text}'
    return None


def commands(model, ids):
    """{name: arguments}: eval and verify read a layer at a time, generate reads everything first."""
    on = ['--ids', ids, '--context', '128', '--threads', '1', '--quiet']
    return {'eval': [BINARY, 'eval', model, *on, '--exact'], 'verify': [BINARY, 'verify', model, model, *on, '--chunks', '1'],
            'generate': [BINARY, 'generate', model, '--prompt', 'a b', '-n', '20', '--ignore-eos', '--exact', '--threads', '1', '--quiet']}


def undisturbed(command, path):
    """-> seconds"""
    start = time.monotonic()
    status, text = run(command, path, 0, None)
    if status != 0:
        raise SystemExit(f'the model does not run: exit {status}\n{text}')
    return time.monotonic() - start


def disturb(name, command, path, damage, allowed, whole, took):
    """-> failures"""
    failures, met = [], 0
    for part in WHEN:
        status, text = run(command, path, part * took, damage)
        what = f'{name}, {damage.__name__} at {part:.0%} of {took:.2f} s'
        print(f'{what}: exit {status} {(text.splitlines() or [""])[0]}'.replace(os.path.dirname(path), 'MODEL'))
        failures.append(judge(what, status, text, allowed, path))
        met += status != 0
        if os.path.lexists(path):
            os.remove(path)
        with open(path, 'wb') as f:
            f.write(whole)
    if met == 0 and damage in MEETS and name == 'eval':
        failures.append(f'{name}, {damage.__name__}: no run met it')
    return [f for f in failures if f]


def main():
    if not os.path.isdir('/proc/self/fd'):
        print('skipped: no /proc')
        return 77
    failures = []
    with tempfile.TemporaryDirectory(prefix='fitq-cut.') as work:
        work = os.path.realpath(work)
        model, ids = os.path.join(work, 'model'), os.path.join(work, 'ids')
        path = make(model)
        shutil.copy(os.path.join(SOURCE, 'examples', 'tiny-qwen2', 'tokenizer.json'), model)
        with open(path, 'rb') as f:
            whole = f.read()
        with open(ids, 'w', encoding='utf-8') as f:
            f.write(' '.join(str(i * 7919 % VOCAB) for i in range(TOKENS)))
        for name, command in commands(model, ids).items():
            took = undisturbed(command, path)
            for damage, allowed in DAMAGE if name == 'eval' else DAMAGE[:1]:
                failures += disturb(name, command, path, damage, allowed, whole, took)
    for failure in failures:
        print(failure)
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
