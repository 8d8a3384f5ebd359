#!/usr/bin/env python3
"""Is the memory budget of `fitq eval` kept? A model of twice the budget is evaluated, alone and beside a padded copy of itself.

    run_eval_memory.py [--work DIR] [--size 2GB] [--tokens 8192] [--context 512] [--budget MIB] [--keep]

Makes a checkpoint of that size (bench/make_checkpoint --family layers) and a padded copy, evaluates with --memory size / 2, and prints what fitq said
it would need, the peak that the kernel counted (ru_maxrss), their ratio, and seconds. The bar: measured within 10 % of the
estimate, and not above the budget. Needs 2.2 times the size on the disk of DIR; what it made is deleted.
Environment: FITQ_BINARY (default build/release/fitq).
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
FITQ = os.environ.get('FITQ_BINARY', os.path.join(ROOT, 'build/release/fitq'))
UNITS = {'MB': 10 ** 6, 'GB': 10 ** 9, 'MiB': 2 ** 20, 'GiB': 2 ** 30}


def parse_bytes(text):
    for unit, k in UNITS.items():
        if text.endswith(unit):
            return int(float(text[:-len(unit)]) * k)
    return int(text)


def run(args):
    """-> (stdout, seconds, peak bytes)"""
    start = time.monotonic()
    with subprocess.Popen(args, stdout=subprocess.PIPE) as p:
        out = p.stdout.read()
        _, status, use = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode != 0:
        sys.exit(f'{" ".join(args)}: exit {p.returncode}')
    return out.decode(), time.monotonic() - start, use.ru_maxrss * 1024


def write_ids(path, n):
    """Random ids, the same ones every time."""
    with open(path, 'w', encoding='ascii') as f:
        x = 12345
        for _ in range(n):
            x = (x * 6364136223846793005 + 1442695040888963407) % 2 ** 64
            f.write(f'{(x >> 33) % 32000}\n')


def evaluate(name, a, path, ids, budget, extra):
    text, seconds, peak = run([FITQ, 'eval', path, '--ids', ids, '--context', str(a.context), '--memory', f'{budget >> 20}MiB', '--json', '--quiet', *extra])
    plan = json.loads(text)['plan']
    estimate = plan['peak_memory_bytes']
    good = abs(peak / estimate - 1) <= 0.10 and peak <= budget
    print(f'{name:28} budget {budget >> 20} MiB, estimate {estimate >> 20} MiB, peak {peak >> 20} MiB, peak/estimate {peak / estimate:.3f}; '
          f'scratch {plan["scratch_bytes"] >> 20} MiB; {seconds:.1f} s: {"kept" if good else "MISSED"}', flush=True)
    return good


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--work', default='/tmp')
    p.add_argument('--size', default='2GB')
    p.add_argument('--tokens', type=int, default=8192)
    p.add_argument('--context', type=int, default=512)
    p.add_argument('--budget', type=int, help='MiB; default half of the size')
    p.add_argument('--keep', action='store_true')
    a = p.parse_args()
    size = parse_bytes(a.size)
    free = shutil.disk_usage(a.work).free
    if free < 2.5 * size:
        sys.exit(f'{a.work}: {free >> 20} MiB free, {int(2.5 * size) >> 20} wanted')
    work = os.path.join(a.work, f'fitq-eval-memory.{os.getpid()}')
    os.mkdir(work)
    try:
        model, padded, ids = (os.path.join(work, n) for n in ('model', 'padded', 'ids.txt'))
        maker = os.path.join(os.path.dirname(FITQ), 'bench', 'make_checkpoint')
        run([maker, model, '--size', a.size, '--family', 'layers', '--buffered'])
        run([FITQ, 'pad', model, '-o', padded, '--set', 'intermediate_size=6144', '--quiet'])
        write_ids(ids, a.tokens)
        budget = a.budget << 20 if a.budget else size // 2
        good = evaluate('alone', a, model, ids, budget, [])
        good &= evaluate('beside a padded copy', a, model, ids, budget, ['--reference', padded])
        good &= evaluate('as much as it likes', a, model, ids, 8 << 30, [])
        return 0 if good else 1
    finally:
        if not a.keep:
            shutil.rmtree(work)


if __name__ == '__main__':
    sys.exit(main())
