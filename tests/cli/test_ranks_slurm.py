#!/usr/bin/env python3
"""Ranks that Slurm starts: the result of one rank, a killed and a stopped rank, scancel, and a job that goes on with another number of ranks.

Skipped where no Slurm runs, or its MPI plugin pmix is not there: a machine of its own is not made for this. One node is enough.

Environment: FITQ_BINARY, FITQ_SOURCE_DIR.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
FITQ = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))
MODEL, TEXT = os.path.join(SOURCE, 'examples', 'tiny-qwen2'), os.path.join(SOURCE, 'examples', 'calib.txt')
COMMON = ['-q', '-t', '1']
LIMIT = 120


class Failed(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Failed(text)


def has_slurm():
    if not shutil.which('srun') or not shutil.which('sinfo'):
        return False
    try:
        nodes = subprocess.run(['sinfo', '-h', '-t', 'idle', '-o', '%D'], capture_output=True, text=True, timeout=20, check=False)
        plugins = subprocess.run(['srun', '--mpi=list'], capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return nodes.returncode == 0 and bool(nodes.stdout.strip()) and 'pmix' in plugins.stdout + plugins.stderr


def srun(n, *args):
    return ['srun', '-n', str(n), '--overcommit', '--mpi=pmix', '--kill-on-bad-exit=1', FITQ, *args, *COMMON]


def run(command):
    p = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False)
    return p.returncode, p.stdout, p.stderr


def quantize(out, n=None, *more):
    args = ['quantize', MODEL, '-o', out, '--calib', TEXT, '--samples', '64', '--seqlen', '128', *more]
    return srun(n, *args) if n else [FITQ, *args, *COMMON]


def weights(folder):
    with open(os.path.join(folder, 'model.safetensors'), 'rb') as f:
        return f.read()


def of_rank(out, rank):
    """The process of this rank that writes to `out`."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as f:
                words = f.read().split(b'\0')
            with open(f'/proc/{pid}/environ', 'rb') as f:
                environ = f.read().split(b'\0')
        except OSError:
            continue
        if words[0] == FITQ.encode() and out.encode() in words and f'SLURM_PROCID={rank}'.encode() in environ:
            return int(pid)
    return None


def broken(work, rank, sig, *more):
    """A signal for one rank of three, then the same command on two. -> (seconds, lines)"""
    out = os.path.join(work, f'out{rank}{sig}')
    p = subprocess.Popen(quantize(out, 3, *more), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        pid, end = None, time.monotonic() + 30
        while time.monotonic() < end and not (pid and os.path.isdir(out + '.fitq-partial')):
            pid = of_rank(out, rank)
            time.sleep(0.02)
        need(pid, f'rank {rank}: not started')
        os.kill(pid, sig)
        begin = time.monotonic()
        _, err = p.communicate(timeout=LIMIT)
    finally:
        p.kill()
    need(p.returncode != 0, f'rank {rank}: exit 0')
    need(not os.path.exists(out), f'rank {rank}: something that looks finished')
    seconds = time.monotonic() - begin
    status, _, text = run(quantize(out, 2, *more))
    need(status == 0, f'rank {rank}: it does not go on: exit {status}: {text}')
    return out, seconds, [x for x in err.splitlines() if x.startswith('fitq: rank ')]


def main():
    if not os.path.exists(os.path.join(os.path.dirname(FITQ), 'libfitq_mpi.so')) or os.environ.get('FITQ_SANITIZE') or not has_slurm():
        print('skipped: built without MPI, or with sanitizers, or no Slurm with an idle node and the plugin pmix')
        return 77
    with tempfile.TemporaryDirectory(prefix='fitq-slurm.') as work:
        try:
            args = ['eval', MODEL, '--text', TEXT, '--context', '64', '--chunks', '4']
            one, two = run([FITQ, *args, *COMMON]), run(srun(2, *args))
            number = [re.search(r'perplexity +([\d.]+)', x[1]) for x in (one, two)]
            need(all(number) and abs(float(number[0][1]) - float(number[1][1])) < 1e-4, f'eval: {one}, {two}')
            need(run(quantize(os.path.join(work, 'one')))[0] == 0, 'one rank')
            expected = weights(os.path.join(work, 'one'))
            for rank in range(3):
                out, seconds, lines = broken(work, rank, signal.SIGKILL)
                need(seconds < 10 and len(lines) == 1 and f'fitq: rank {rank} (' in lines[0] and 'rank-lost' in lines[0], f'rank {rank} killed: {seconds:.1f} s, {lines}')
                need(weights(out) == expected, f'rank {rank} killed: other bytes')
                print(f'rank {rank} killed: all ended after {seconds:.1f} s, and went on')
            out, seconds, lines = broken(work, 1, signal.SIGSTOP, '--heartbeat', '2')
            need(seconds < 10 and any('fitq: rank 1 (' in x for x in lines), f'stopped: {seconds:.1f} s, {lines}')
            need(weights(out) == expected, 'stopped: other bytes')
            print(f'rank 1 stopped: all ended after {seconds:.1f} s, and went on')
        except Failed as e:
            print(f'FAILED: {e}')
            return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
