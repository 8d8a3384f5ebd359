#!/usr/bin/env python3
"""Is the memory that `fitq quantize` says it needs what it needs, and is --memory kept?

    run_quantize_memory.py [--work DIR] [--samples 16] [--only NAME,...]

Models with the layers of Qwen2-0.5B (24 of them), of Qwen2-72B (one) and of Qwen3-235B-A22B (one, sparse) are quantized: by rounding, by GPTQ with
memory as it likes, and by GPTQ with as little as it takes, so that hidden states are on disk. Prints the estimate, the peak that the kernel
counted (ru_maxrss), their ratio, and seconds. The bar: measured within 10 % of the estimate, and not above the budget. Needs 16 GB of disk and 10 of
memory; what it made is deleted. GPTQ of the large layers takes minutes each.
Environment: FITQ_BINARY (default build/release/fitq).
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys

from run_eval_memory import FITQ, run, write_ids

MODELS = {'qwen2_0.5b': '24', 'qwen2': '1', 'qwen3_moe': '1'}   # family of make_checkpoint: layers


def least_memory(command):
    """What refusals name as the least that works, in MiB: buffers are asked about first, then the layers."""
    budget = 1
    while True:
        p = subprocess.run([*command, '--dry-run', '--memory', f'{budget}MiB'], capture_output=True, text=True, check=False)
        if p.returncode == 0:
            return budget
        found = re.search(r'expected at least (\d+) MiB', p.stderr)
        if p.returncode != 5 or not found or int(found.group(1)) <= budget:
            sys.exit(f'{" ".join(command)}: exit {p.returncode}, expected 5 and the least memory: {p.stderr}')
        budget = int(found.group(1))


def measure(name, command, budget):
    limit = ['--memory', f'{budget}MiB'] if budget else []
    out = command[command.index('-o') + 1]
    shutil.rmtree(out, ignore_errors=True)
    text, seconds, peak = run([*command, *limit, '--json'])
    report = json.loads(text)
    shutil.rmtree(out)
    estimate = report['memory_bytes']
    good = abs(peak / estimate - 1) <= 0.10 and (not budget or peak <= budget << 20)
    print(f'{name:28} budget {budget or "free":>6}, estimate {estimate / 2**20:8.1f} MiB, peak {peak / 2**20:8.1f} MiB, peak/estimate {peak / estimate:.3f}; '
          f'scratch {report["scratch_bytes"] >> 20} MiB; {seconds:.1f} s: {"kept" if good else "MISSED"}', flush=True)
    return good


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--work', default='/tmp')
    p.add_argument('--samples', type=int, default=16)
    p.add_argument('--only', default=','.join(MODELS))
    a = p.parse_args()
    work = os.path.join(a.work, f'fitq-quantize-memory.{os.getpid()}')
    os.mkdir(work)
    good = True
    try:
        ids = os.path.join(work, 'ids.txt')
        write_ids(ids, a.samples * 512)
        for family in a.only.split(','):
            model = os.path.join(work, 'model')
            run([os.path.join(os.path.dirname(FITQ), 'bench', 'make_checkpoint'), model, '--layers', MODELS[family], '--family', family, '--buffered'])
            command = [FITQ, 'quantize', model, '-o', os.path.join(work, 'out'), '--quiet']
            # the wide layers stand for models with odd widths: groups of 32 divide them all
            gptq = [*command, '--group-size', '32', '--ids', ids, '--samples', str(a.samples)]
            good &= measure(f'{family}, rounding', [*command, '--group-size', '32', '--method', 'rtn'], 0)
            good &= measure(f'{family}, gptq', gptq, 0)
            good &= measure(f'{family}, gptq, least', gptq, least_memory(gptq))
            good &= measure(f'{family}, gptq, one stream', [*gptq, '--no-shift'], 0)
            shutil.rmtree(model)
        return 0 if good else 1
    finally:
        shutil.rmtree(work)


if __name__ == '__main__':
    sys.exit(main())
