#!/usr/bin/env python3
"""`fitq quantize` on weights that are hard to quantize: NaN and infinity in every kind of tensor, weights that no scale reaches, zeros, weights
next to zero, channels and experts that calibration never reaches, Hessians without a factor; on texts that are none; and on a second signal.
What is refused is refused with one line that names the tensor, before a layer is quantized, and leaves no target. What is not refused is read
back by an independent reader: finite, and nothing erased.

FITQ_BINARY names the program."""
import json
import math
import os
import shutil
import signal
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
import experts_model  # noqa: E402
import st_edit  # noqa: E402
import st_reader  # noqa: E402
import unpack_quantized  # noqa: E402

LIMIT = 120   # seconds; no run takes one of them
Q, DOWN, EXPERT = 'model.layers.1.self_attn.q_proj.weight', 'model.layers.0.mlp.down_proj.weight', 'model.layers.1.mlp.experts.3.up_proj.weight'
NORM, ROUTER = 'model.layers.1.input_layernorm.weight', 'model.layers.1.mlp.gate.weight'
METHODS = {'gptq': ['--ids', 'IDS', '--samples', '4', '--seqlen', '32'], 'rtn': ['--method', 'rtn'], 'self': ['--samples', '2', '--seqlen', '8']}


class Failed(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Failed(text)


def bf16(x):
    return struct.pack('<f', x)[2:]


class Lab:
    def __init__(self, work):
        self.work, self.serial = work, 0
        self.model = os.path.join(work, 'model')
        experts_model.make(self.model, 2, 1)
        self.ids = os.path.join(work, 'ids')
        with open(self.ids, 'w', encoding='ascii') as f:
            f.write(' '.join(str(i * i * 37 % 256) for i in range(400)))

    def path(self):
        self.serial += 1
        return os.path.join(self.work, f'w{self.serial}')

    def edited(self, edit):
        """A copy of the model; edit({name: [bytes of an element]}) changes elements."""
        folder = self.path()
        shutil.copytree(self.model, folder)
        file = os.path.join(folder, 'model.safetensors')
        tensors, meta = st_edit.load(file)
        cells = {t[0]: [bytes(t[3][i:i + 2]) for i in range(0, len(t[3]), 2)] for t in tensors}
        edit(cells)
        for t in tensors:
            t[3] = b''.join(cells[t[0]])
        st_edit.save(file, tensors, meta)
        return folder

    def command(self, model, method, target, *more):
        return [BINARY, 'quantize', model, '-o', target, '-g', '32', '--threads', '2', '--quiet', *(self.ids if a == 'IDS' else a for a in METHODS[method]), *more]

    def quantize(self, model, method, *more):
        """-> exit status, stderr, target"""
        target = os.path.join(self.path(), 'out')
        os.mkdir(os.path.dirname(target))
        p = subprocess.run(self.command(model, method, target, *more), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False)
        return p.returncode, p.stderr, target

    def refused(self, model, method, status, says, *more):
        code, text, target = self.quantize(model, method, *more)
        lines = [s for s in text.splitlines() if s.startswith('fitq') and not s.startswith(('fitq: warning', 'fitq: note'))]
        need(code == status and len(lines) == 1 and says in lines[0], f'{method}: expected exit {status}, "{says}": exit {code}: {text}')
        need(not os.path.exists(target), f'{method}: there is a target')
        return target

    def weights(self, model, method, *more):
        """-> {name: numbers} as an independent reader sees the quantized model, what was reported of the modules, stderr"""
        code, text, target = self.quantize(model, method, *more)
        need(code == 0, f'{method}: exit {code}: {text}')
        with open(os.path.join(target, 'config.json'), encoding='utf-8') as f:
            tensors = unpack_quantized.unpack(st_reader.read_folder(target), json.load(f)['quantization_config'])
        with open(os.path.join(target, 'fitq.json'), encoding='utf-8') as f:
            modules = json.load(f)['quantization']['modules']
        numbers = {name: unpack_quantized.floats(st_reader.Tensor(name, *t)) for name, t in tensors.items()}
        for name, x in numbers.items():
            need(all(map(math.isfinite, x)), f'{method}: {name} is not finite')
        return numbers, modules, text


def originals(model):
    return {name: unpack_quantized.floats(t) for name, t in st_reader.read_folder(model).items()}


def distance(a, b):
    """Of b from a, as a share of a."""
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / max(sum(x * x for x in a), 1e-300))


def not_finite(lab):
    """Also in what is only copied, and in rows that no text asks for."""
    where = {'model.embed_tokens.weight': 64 * 255 + 3, Q: 77, DOWN: 0, EXPERT: 5000, ROUTER: 200, NORM: 63, 'model.norm.weight': 5, 'lm_head.weight': 64 * 256 - 1}
    for i, (name, at) in enumerate(where.items()):
        bits, said = (b'\xc0\x7f', 'NaN') if i % 2 else (b'\x80\xff', 'infinity')

        def edit(cells, name=name, at=at, bits=bits):
            cells[name][at] = bits
        model = lab.edited(edit)
        for method in METHODS:
            target = lab.refused(model, method, 6, f'tensor {name}: non-finite: element {at} ')
            journal = target + '.fitq-partial/fitq.journal'
            if method != 'rtn' and os.path.exists(journal):   # rounding comes to a layer when it does
                with open(journal, 'rb') as f:
                    need(b'\nT ' not in f.read(), f'{method}, {name}: work was done before')
        need(said in lab.quantize(model, 'gptq')[1].replace('inf,', 'infinity,'), f'{name}: expected {said}')
    return f'{len(where) * len(METHODS)} refused'


def beyond_scales(lab):
    """One weight alone: it would be clipped."""
    for name, module in ((Q, 'layers.1.self_attn.q_proj'), (EXPERT, 'layers.1.mlp.experts.3.up_proj')):
        def edit(cells, name=name):
            cells[name][64 * 5 + 6] = bf16(-1e6)
        model = lab.edited(edit)
        for method in ('gptq', 'rtn'):
            lab.refused(model, method, 6, f'tensor {module}: scale-range: found -999424 in row 5, column 6, expected at most 456960')
            numbers, _, _ = lab.weights(model, method, '--bits', '8', '--order', 'static')   # the largest scale reaches farther with more bits
            need(abs(numbers[name][64 * 5 + 6] / -999424 - 1) < 0.01, f'{method}: {numbers[name][64 * 5 + 6]}')

    def edit_head(cells):
        cells['lm_head.weight'][0] = bf16(1e6)
    model = lab.edited(edit_head)
    lab.refused(model, 'gptq', 6, 'tensor lm_head: scale-range', '--lm-head')
    lab.weights(model, 'gptq')


def next_to_zero(lab):
    """Groups of zeros are exact, matrices of zeros with a shifted target too; a group next to zero spoils no other; a module of such groups is said to be lost."""
    def edit(cells):
        cells[Q][:32] = [bf16(0.0)] * 32
        cells[Q][64:96] = [bf16(1e-30 * (1 + i % 3)) for i in range(32)]
        cells[DOWN] = [bf16(-0.0)] * len(cells[DOWN])
        cells[EXPERT] = [bf16(1e-9 * (1 + i % 7)) for i in range(len(cells[EXPERT]))]
    model = lab.edited(edit)
    want = originals(model)
    numbers, _, _ = lab.weights(model, 'gptq')   # a shifted target of a row that is not empty need not be zero where its weights are
    need(not any(numbers[DOWN]), 'a matrix of zeros is not zero')
    for method in METHODS:
        numbers, modules, text = lab.weights(model, method, *([] if method == 'rtn' else ['--no-shift', '--order', 'static']))
        need(not any(numbers[Q][:32]) and not any(numbers[DOWN]), f'{method}: zeros are not zero')
        need(max(map(abs, numbers[Q][64:96])) < (3.1e-5 if method == 'rtn' else 0.02), f'{method}: {max(map(abs, numbers[Q][64:96]))} of 1e-30')
        for at in (32, 96, 128):   # GPTQ moves errors to other columns, here of weights of 0.1
            need(distance(want[Q][at:at + 32], numbers[Q][at:at + 32]) < 0.3, f'{method}: group at {at}: {distance(want[Q][at:at + 32], numbers[Q][at:at + 32])}')
        said = 'layers.1.mlp.experts.3.up_proj: relative error 1.00' in text
        need(said == (modules['layers.1.mlp.experts.3.up_proj']['relative'] >= 0.5), f'{method}: {text}')
        need(said or method == 'self', f'{method}: nothing is said of what is lost')


def never_reached(lab):
    """Channels without data keep their weights, and so do experts without tokens, which are counted and named."""
    def edit(cells):
        for i in (3, 5, 40):
            cells[NORM][i] = bf16(0.0)
        row = cells[ROUTER][:64]
        cells[ROUTER] = row + [struct.pack('<H', struct.unpack('<H', x)[0] ^ 0x8000) for x in row] + [bf16(0.0)] * 128   # x or -x is above 0
    model = lab.edited(edit)
    want = originals(model)
    for method in ('gptq', 'self'):
        numbers, modules, text = lab.weights(model, method, '--order', 'static', *(['--min-expert-tokens', '1'] if method == 'gptq' else []))
        for name in want:
            if '_proj' in name:
                need(distance(want[name], numbers[name]) < 0.2, f'{method}: {name}: {distance(want[name], numbers[name])}')
        for i in (3, 5, 40):
            need(distance(want[Q][i::64], numbers[Q][i::64]) < 0.2, f'{method}: channel {i} of {Q}: {distance(want[Q][i::64], numbers[Q][i::64])}')
        need(modules['layers.1.self_attn.q_proj']['silent_inputs'] == 3, f'{method}: {modules["layers.1.self_attn.q_proj"]}')
        for x in (2, 3):
            for part in ('gate', 'up', 'down'):
                m = modules[f'layers.1.mlp.experts.{x}.{part}_proj']
                need(m['method'] == 'rounding' and m['tokens'] == 0 and m['why'].startswith('0 tokens reached this expert'), f'{method}: expert {x}: {m}')
        need('of 12 matrices of experts rounded instead' in text, f'{method}: {text}')
        lab.refused(model, method, 6, ' tokens reached this expert, expected at least', '--strict')

    def silent(cells):
        cells[NORM] = [bf16(0.0)] * 64
    model = lab.edited(silent)   # H is zero
    numbers, modules, _ = lab.weights(model, 'gptq')
    need(modules['layers.1.self_attn.q_proj']['silent_inputs'] == 64, str(modules['layers.1.self_attn.q_proj']))
    need(distance(want[Q], numbers[Q]) < 0.2, f'without any data: {distance(want[Q], numbers[Q])}')


def no_factor(lab):
    more = ['--samples', '1', '--seqlen', '8', '--damp', '1e-12']   # of 8 tokens no H of 64 channels has one
    command = ['--ids', lab.ids]
    METHODS['bare'] = command
    numbers, modules, _ = lab.weights(lab.model, 'bare', *more)
    m = modules['layers.0.self_attn.q_proj']
    need(m['method'] == 'weighted rounding' and m['why'].startswith('cholesky'), str(m))
    want = originals(lab.model)
    need(distance(want[Q], numbers[Q]) < 0.2, f'{distance(want[Q], numbers[Q])}')
    lab.refused(lab.model, 'bare', 6, 'tensor layers.0.self_attn.q_proj: cholesky: column ', *more, '--strict')
    del METHODS['bare']


def no_text(lab):
    """A FIFO that nobody writes to and a terabyte are refused at once; NUL is a byte like another."""
    tiny = os.path.join(SOURCE, 'examples', 'tiny-qwen2')
    files = {'empty.txt': b'', 'empty.jsonl': b'', 'lines.jsonl': b'{"text": ""}\n\n', 'short.txt': b'a few words', 'utf8.txt': b'abc \xff def', 'nul.txt': b'a\0b ' * 60}
    for name, data in files.items():
        with open(os.path.join(lab.work, name), 'wb') as f:
            f.write(data)
    os.mkfifo(os.path.join(lab.work, 'fifo.txt'))
    os.mkdir(os.path.join(lab.work, 'folder.txt'))
    with open(os.path.join(lab.work, 'large.txt'), 'wb') as f:
        f.truncate(1 << 40)
    for name, status, says in (('empty.txt', 3, 'text-length: found 0 tokens'), ('empty.jsonl', 3, 'text-length: found 0 tokens'), ('lines.jsonl', 3, 'text-length: found 0 tokens'),
                               ('short.txt', 3, 'text-length'), ('utf8.txt', 3, 'byte 4: utf-8'), ('fifo.txt', 3, 'file-kind: found a FIFO'), ('folder.txt', 3, 'file-kind: found a folder'),
                               ('large.txt', 3, 'file-size: found 1099511627776 bytes'), ('/dev/zero', 3, 'file-kind: found a device'), ('none.txt', 4, 'open: No such file')):
        METHODS['text'] = ['--calib', os.path.join(lab.work, name), '--samples', '1', '--seqlen', '64']
        start = time.monotonic()
        target = lab.refused(tiny, 'text', status, says)
        need(not os.path.exists(target + '.fitq-partial'), f'{name}: something is left')
        need(time.monotonic() - start < 20, f'{name}: takes long')
    METHODS['text'] = ['--calib', os.path.join(lab.work, 'nul.txt'), '--samples', '1', '--seqlen', '32']
    code, text, _ = lab.quantize(tiny, 'text', '--dry-run')
    need(code == 0, f'NUL: exit {code}: {text}')
    del METHODS['text']


def signals(lab):
    """The first asks the run to stop, which it does within a layer; the second ends it at once. Both leave an output to go on with."""
    tiny = os.path.join(SOURCE, 'examples', 'tiny-qwen2')
    METHODS['long'] = ['--ids', lab.ids, '--samples', '2', '--seqlen', '64']
    for twice in (False, True):
        target = os.path.join(lab.path(), 'out')
        os.mkdir(os.path.dirname(target))
        command = lab.command(tiny, 'long', target)
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while p.poll() is None and not os.path.exists(target + '.fitq-partial/fitq.journal'):
                time.sleep(0.001)
            p.send_signal(signal.SIGINT)
            if twice:
                p.send_signal(signal.SIGINT)
            start = time.monotonic()
            p.wait(LIMIT)
            need(time.monotonic() - start < 5, f'stops after {time.monotonic() - start:.1f} s')
        finally:
            if p.poll() is None:
                p.kill()
                p.wait()
        need(p.returncode == -signal.SIGINT, f'exit {p.returncode}')
        need(not os.path.exists(target), 'there is a target')
        p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False)
        need(p.returncode == 0 and os.listdir(os.path.dirname(target)) == ['out'], f'afterwards: exit {p.returncode}: {p.stderr}')
    del METHODS['long']


def main():
    failed = 0
    with tempfile.TemporaryDirectory(prefix='fitq-hostile.', dir='/dev/shm' if os.access('/dev/shm', os.W_OK) and shutil.disk_usage('/dev/shm').free > 1 << 28 else None) as work:
        lab = Lab(work)
        for function in (not_finite, beyond_scales, next_to_zero, never_reached, no_factor, no_text, signals):
            start = time.monotonic()
            name = function.__name__.replace('_', ' ')
            try:
                said = function(lab)
            except Failed as e:
                failed += 1
                print(f'FAILED {name}: {e}', flush=True)
                continue
            print(f'{name}: {said or "ok"}, {time.monotonic() - start:.1f} s', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
