#!/usr/bin/env python3
"""How much does quantizing cost the model? KL divergence on a text that calibration did not see, against GPTQ as published.

    run_quality.py [--work DIR] [--seeds 1,2,3] [--settings 4:128,4:32,3:128] [--samples 64] [--seqlen 512] [--chunks N] [--csv FILE]
                   [--only NAME,...] [--variant NAME=OPTION,OPTION... ...]

For every setting (bits : group size) and calibration seed: `fitq quantize` with its defaults, with --textbook, and (once, it has no seed) with
--method rtn; then `fitq eval` of the result against the original: mean KL divergence over the second halves of windows of 512 tokens. Prints
every value with its error over tokens, then means over seeds with their standard error, and ratios against the textbook. The
seeds draw different windows, so their spread is what the choice of calibration text makes; a ratio is taken seed by seed.
--variant adds a run with further options, e.g. --variant damp=--damp,0.02; --only keeps the variants that are named.

The bars: at most 0.78 of the textbook's divergence at 4 bits in groups of 128, 0.76 in groups of 32, 0.68 at 3 bits. Exit 1 if one is missed.
Environment: FITQ_BINARY (default build/release/fitq), FITQ_TEST_DATA (text/fitq/calib.txt and eval.txt).
"""
import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
FITQ = os.environ.get('FITQ_BINARY', os.path.join(ROOT, 'build/release/fitq'))
MODEL = os.path.join(ROOT, 'examples/tiny-qwen2')
BARS = {(4, 128): 0.78, (4, 32): 0.76, (3, 128): 0.68}
BASE = 'textbook'


def run(args):
    p = subprocess.run(args, stdout=subprocess.PIPE, check=False)
    if p.returncode != 0:
        sys.exit(f'{" ".join(args)}: exit {p.returncode}')
    return p.stdout.decode()


def mean(x):
    return sum(x) / len(x)


def deviation(x):
    """Standard error of the mean; NaN for a single value."""
    if len(x) < 2:
        return math.nan
    m = mean(x)
    return math.sqrt(sum((v - m) ** 2 for v in x) / (len(x) - 1) / len(x))


def measure(a, text, bits, group, seed, options):
    """-> (divergence, its error over tokens, seconds of quantizing)"""
    out = os.path.join(a.work, 'quantized')
    shutil.rmtree(out, ignore_errors=True)
    calib = [] if 'rtn' in options else ['--calib', os.path.join(text, 'calib.txt'), '--samples', str(a.samples), '--seqlen', str(a.seqlen), '--seed', str(seed)]
    start = time.monotonic()
    run([FITQ, 'quantize', MODEL, '-o', out, '--bits', str(bits), '--group-size', str(group), '--quiet', *calib, *options])
    seconds = time.monotonic() - start
    chunks = ['--chunks', str(a.chunks)] if a.chunks else []
    r = json.loads(run([FITQ, 'eval', out, '--reference', MODEL, '--text', os.path.join(text, 'eval.txt'), '--context', '512', '--json', '--quiet', *chunks]))
    shutil.rmtree(out)
    return r['kld']['value'], r['kld']['error'], seconds


def summary(name, values, base):
    line = f'  {name:16} mean {mean(values):.6f}'
    if len(values) > 1:
        line += f' +- {deviation(values):.6f}'
    if name == BASE or not base:
        return line, None
    ratios = [v / b for v, b in zip(values * len(base) if len(values) == 1 else values, base)]
    line += f'   of the textbook {mean(ratios):.3f}'
    if len(ratios) > 1:
        line += f' +- {deviation(ratios):.3f}'
    return line, mean(ratios)


def run_setting(a, text, bits, group, variants):
    print(f'{bits} bits, groups of {group}', flush=True)
    result = {}
    for name, options in variants:
        values = result[name] = []
        for seed in a.seeds[:1] if 'rtn' in options else a.seeds:
            kld, error, seconds = measure(a, text, bits, group, seed, options)
            values.append(kld)
            print(f'    {name:16} seed {seed}: {kld:.6f} +- {error:.6f}   ({seconds:.0f} s)', flush=True)
            if a.csv:
                with open(a.csv, 'a', encoding='ascii') as f:
                    f.write(f'{bits},{group},{name},{seed},{a.samples},{a.seqlen},{a.chunks},{kld:.8f},{error:.8f}\n')
    good = True
    for name, values in result.items():
        line, ratio = summary(name, values, result.get(BASE))
        bar = BARS.get((bits, group)) if name == 'default' and ratio is not None else None
        if bar:
            good = good and ratio <= bar
            line += f', bar {bar}: {"kept" if ratio <= bar else "MISSED"}'
        print(line, flush=True)
    return good


def parse_variant(text):
    name, _, options = text.partition('=')
    return name, [o for o in options.split(',') if o]


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--work', help='default: a temporary folder')
    p.add_argument('--seeds', default='1,2,3', type=lambda s: [int(x) for x in s.split(',')])
    p.add_argument('--settings', default='4:128,4:32,3:128', type=lambda s: [tuple(int(x) for x in t.split(':')) for t in s.split(',')])
    p.add_argument('--samples', type=int, default=64)
    p.add_argument('--seqlen', type=int, default=512)
    p.add_argument('--chunks', type=int, default=0, help='most windows to evaluate on; default: all')
    p.add_argument('--csv', help='appends bits, group, variant, seed, samples, seqlen, chunks, divergence, error')
    p.add_argument('--only', type=lambda s: s.split(','))
    p.add_argument('--variant', action='append', default=[], type=parse_variant)
    a = p.parse_args()
    data = os.environ.get('FITQ_TEST_DATA')
    if not data:
        sys.exit('FITQ_TEST_DATA is not set: text/fitq/calib.txt and eval.txt of it are needed')
    variants = [('rtn', ['--method', 'rtn', '--scale', 'min-max', '--scale-type', 'fp16', '--positive-scales']), (BASE, ['--textbook']), ('default', []), *a.variant]
    if a.only:
        variants = [v for v in variants if v[0] in a.only]
    made = None if a.work else tempfile.mkdtemp(prefix='fitq-quality.')
    a.work = a.work or made
    try:
        good = [run_setting(a, os.path.join(data, 'text/fitq'), b, g, variants) for b, g in a.settings]
        return 0 if all(good) else 1
    finally:
        if made:
            shutil.rmtree(made)


if __name__ == '__main__':
    sys.exit(main())
