#!/usr/bin/env python3
"""`fitq quantize` on several ranks, threads and real mpirun: the bytes of one rank, file for file, also when it was killed and went on with another
number of ranks; and ranks that differ are refused before they compute.

FITQ_FULL=1: more ranks, and many kills at random moments (seed printed, FITQ_SEED repeats it)."""
import json
import os
import random
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
FULL = os.environ.get('FITQ_FULL') == '1'
MPIRUN = os.environ.get('FITQ_MPIEXEC') or shutil.which('mpirun')
HAS_MPI = bool(MPIRUN) and os.path.exists(os.path.join(os.path.dirname(BINARY), 'libfitq_mpi.so')) and not os.environ.get('FITQ_SANITIZE')
OWN = tempfile.TemporaryDirectory(prefix='fitq-mpi.')   # others use the usual folder at the same time, and mpirun takes it away
ENV = dict(os.environ, OMPI_MCA_orte_tmpdir_base=OWN.name, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', OMPI_MCA_btl_base_warn_component_unused='0',
           OMPI_MCA_hwloc_base_binding_policy='none', OMP_NUM_THREADS='1')
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'tools'))
sys.dont_write_bytecode = True
import experts_model  # noqa: E402

LIMIT = 120
# batches are of 32 windows: three, or two, the last one not full, so that with two ranks rounds differ, and with five some have none
WINDOWS = {'experts': ['--samples', '70', '--seqlen', '128'], 'dense': ['--samples', '35', '--seqlen', '128']}
USUAL = ['--seed', '3', '--threads', '1', '--quiet']


class Wrong(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Wrong(what)


def files(folder):
    out = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), 'rb') as f:
            out[name] = f.read()
    return out


class Lab:
    def __init__(self, work):
        self.work, self.serial = work, 0
        self.rng = random.Random(int(os.environ.get('FITQ_SEED', '0')) or int(time.time()))
        self.ids = os.path.join(work, 'ids.txt')
        rng = random.Random(7)
        with open(self.ids, 'w') as f:
            f.write(' '.join(str(min(int(rng.expovariate(0.03)), 250)) for _ in range(80 * 128)))
        self.model = {'dense': os.path.join(SOURCE, 'examples', 'tiny-qwen2'), 'experts': os.path.join(work, 'experts')}
        experts_model.make(self.model['experts'])
        self.known = {}

    def target(self):
        self.serial += 1
        return os.path.join(self.work, f'out{self.serial}')

    def command(self, what, target, args, n=1, mpi=False):
        mine = [BINARY, 'quantize', self.model[what], '-o', target, '--ids', self.ids, *WINDOWS[what], *USUAL, *args]
        if mpi:
            return [MPIRUN, '--oversubscribe', '-n', str(n), *mine]
        return mine + (['--ranks', str(n)] if n > 1 else [])

    def run(self, *args, status=0, **kw):
        p = subprocess.run(self.command(*args, **kw), env=ENV, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT)
        expect(p.returncode == status, f'exit {p.returncode}, expected {status}: {p.stderr}')
        return p

    def one_rank(self, what, args):
        key = (what, *args)
        if key not in self.known:
            target = self.target()
            self.run(what, target, args)
            self.known[key] = files(target)
        return self.known[key]

    def same(self, what, args, target, who):
        want, got = self.one_rank(what, args), files(target)
        bad = [n for n in sorted(set(want) | set(got)) if want.get(n) != got.get(n)]
        expect(not bad, f'{what}, {who}: {", ".join(bad)} differ from one rank')
        shutil.rmtree(target)


CASES = [  # model, arguments, ranks of a quick run, of a full one
    ('experts', ['--group-size', '32', '--lm-head'], (3,), (2, 3, 5)),
    ('dense', ['--lm-head'], (), (2, 3, 5, 8)),
    ('dense', ['--no-shift', '--textbook'], (), (2, 3)),
    ('dense', ['--tp', '4', '--as', 'llama', '--format', 'compressed-tensors'], (), (2, 3)),
]


def threads(lab):
    for what, args, quick, full in CASES:
        for n in full if FULL else quick:
            target = lab.target()
            lab.run(what, target, args, n=n)
            lab.same(what, args, target, f'{n} ranks as threads {args}')


def processes(lab):
    if not HAS_MPI:
        print('    skipped: no mpirun, or built without MPI')
        return
    for what, args, n in (('experts', ['--group-size', '32', '--lm-head'], 2), ('dense', ['--lm-head'], 3))[:2 if FULL else 1]:
        target = lab.target()
        p = lab.run(what, target, args, n=n, mpi=True)
        expect(p.stdout.count('quantized') == 1, f'rank 0 alone must report: {p.stdout}')
        lab.same(what, args, target, f'{n} processes')


def recorded(target):
    try:
        with open(target + '.fitq-partial/fitq.journal', 'rb') as f:
            return f.read().count(b'\nT ')
    except OSError:
        return 0


def alive(lock):
    """Does the process that holds a target still run?"""
    try:
        with open(lock, encoding='ascii') as f:
            os.kill(int(f.read().split()[0]), 0)
        return True
    except (OSError, ValueError, IndexError):
        return False


def kill_after(lab, command, target, n_record, delay):
    """Kills one process of the job as soon as so many tensors are on record, and a moment later; false: it was faster."""
    p = subprocess.Popen(command, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    begin = time.monotonic()
    while p.poll() is None and recorded(target) < n_record and time.monotonic() - begin < LIMIT:
        time.sleep(0.002)
    time.sleep(delay)
    victims = [p.pid]
    if command[0] == MPIRUN:
        out = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(p.pid)], capture_output=True, text=True).stdout.split()
        victims = [int(lab.rng.choice(out))] if out else []
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    begin = time.monotonic()
    p.wait(timeout=LIMIT)
    while alive(target + '.fitq-lock') and time.monotonic() - begin < LIMIT:   # mpirun does not wait for its processes
        time.sleep(0.02)
    expect(time.monotonic() - begin < 10, f'ended {time.monotonic() - begin:.1f} s after a rank was killed')
    return p.returncode != 0


def kills(lab):
    """(model, arguments, ranks before, ranks after, by MPI)"""
    ways = [('experts', ['--group-size', '32', '--lm-head'], 2, 3, False)]
    if HAS_MPI:
        ways.append(('experts', ['--group-size', '32', '--lm-head'], 2, 1, True))
    if FULL:
        ways = [(what, args, before, after, mpi) for what, args in (('dense', ['--lm-head']), ('experts', ['--group-size', '32']))
                for before in (2, 3) for after in (1, 2, 4) for mpi in ((False, True) if HAS_MPI else (False,)) for _ in range(3)]
    for what, args, before, after, mpi in ways:
        target = lab.target()
        total = lab.rng.randrange(3, 30)
        killed = kill_after(lab, lab.command(what, target, args, n=before, mpi=mpi), target, total, lab.rng.random() * 0.05)
        if killed:
            expect(not os.path.exists(target), 'a killed run left something that looks finished')
            lab.run(what, target, args, n=after)
        lab.same(what, args, target, f'killed on {before} ranks (mpi {mpi}), went on with {after}')


def flip(path, tensor):
    """One bit of it, the lowest of its first number."""
    with open(path, 'r+b') as f:
        (n,) = struct.unpack('<Q', f.read(8))
        at = 8 + n + json.loads(f.read(n))[tensor]['data_offsets'][0]
        f.seek(at)
        old = f.read(1)[0]
        f.seek(at)
        f.write(bytes([old ^ 1]))


# what differs, and where that is found
WEIGHTS = {'model.layers.2.mlp.up_proj.weight': 'weights of layer 2', 'model.layers.1.input_layernorm.weight': 'weights of layer 1',
           'model.layers.0.self_attn.k_proj.bias': 'weights of layer 0', 'model.embed_tokens.weight': 'embedding', 'lm_head.weight': 'embedding', 'model.norm.weight': 'embedding'}


def differ(lab):
    """Ranks with other options, or other weights behind the same headers: exit status 3, nothing left."""
    if not HAS_MPI:
        return
    target = lab.target()
    tests = [('--bits 3', lab.model['dense'], 'found another set of options than on rank 0')]
    for tensor, text in WEIGHTS.items() if FULL else ():
        copy = os.path.join(lab.work, tensor)
        shutil.copytree(lab.model['dense'], copy)
        flip(os.path.join(copy, 'model.safetensors'), tensor)
        tests.append(('', copy, f'content of the {text}'))
    for args, model, text in tests:
        script = f'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then M={model}; A="{args}"; else M={lab.model["dense"]}; A=; fi; exec {BINARY} quantize $M $A -o {target} --ids {lab.ids} {" ".join(WINDOWS["dense"] + USUAL)}'
        p = subprocess.run([MPIRUN, '--oversubscribe', '-n', '2', 'sh', '-c', script], env=ENV, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT)
        lines = [line for line in p.stderr.splitlines() if line.startswith('fitq: ') and not line.startswith('fitq: warning')]
        expect(p.returncode == 3 and len(lines) == 1 and 'rank 1 (' in lines[0] and text in lines[0], f'exit {p.returncode}: {p.stderr}')
        expect(not os.path.exists(target), 'something is left')


def refused(lab):
    target = lab.target()
    p = subprocess.run([BINARY, 'quantize', lab.model['dense'], '-o', target, '--method', 'rtn', '--ranks', '2', '--quiet'], capture_output=True, text=True, timeout=LIMIT)
    expect(p.returncode == 2 and 'expected one: rounding is as fast as the disk' in p.stderr, f'exit {p.returncode}: {p.stderr}')


TESTS = {'threads have the bytes of one rank': threads, 'processes have the bytes of one rank': processes, 'killed, and on with other ranks': kills,
         'ranks that differ': differ, 'rounding is not divided': refused}


def main():
    failed = 0
    with tempfile.TemporaryDirectory(prefix='fitq-ranks-') as work:
        lab = Lab(work)
        for name, test in TESTS.items():
            begin = time.monotonic()
            try:
                test(lab)
                print(f'[       OK ] {name} ({time.monotonic() - begin:.1f} s)', flush=True)
            except (Wrong, OSError, subprocess.SubprocessError) as e:
                failed += 1
                print(f'    {e}\n[  FAILED  ] {name}', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
