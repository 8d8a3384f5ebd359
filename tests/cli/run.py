#!/usr/bin/env python3
"""Runs the recorded command-line cases: cases/NAME.sh against NAME.stdout, NAME.stderr and NAME.exit.

    run.py [--update] [NAME-PART ...]

A case is a bash script that is run in an empty folder, with `fitq` first in PATH, $DATA = tests/cli/data and $EXAMPLES =
examples/. A missing .stdout or .stderr means empty, a missing .exit means 0. What cannot be the same everywhere is replaced
before comparing: the folder (WORK), the repository (SOURCE), times (N s), rates, memory estimates, the instruction set,
the drift of verify, errors of quantized weights where the BLAS decides their last digits. --update writes what came out as
what is expected; look at the diff before you commit it.
"""
import difflib
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BINARY = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))
CASES = os.path.join(HERE, 'cases')
TIMEOUT = 180   # a hang; the slowest case takes a tenth of it, on a machine with nothing else to do


def normal(text, work):
    text = text.replace(work, 'WORK').replace(os.path.realpath(SOURCE), 'SOURCE').replace(SOURCE, 'SOURCE')
    text = re.sub(r'\bin \d+\.\d s\b', 'in N s', text)
    text = re.sub(r'"seconds": [0-9.e-]+', '"seconds": N', text)
    text = re.sub(r'"peak_memory_bytes": [0-9]+', '"peak_memory_bytes": N', text)
    text = re.sub(r'[0-9,]+ tokens/s', 'N tokens/s', text)
    text = re.sub(r'"tokens_per_second": [0-9.e+-]+', '"tokens_per_second": N', text)
    text = re.sub(r'\b(threads?, )(c|avx2|avx512)(;|$)', r'\1KERNEL\3', text, flags=re.M)
    text = re.sub(r'"kernel": "\w+"', '"kernel": "KERNEL"', text)
    # verify: what the order of the BLAS does
    text = re.sub(r'^(  (?:largest logit difference|KL divergence|same top token)) +\S+( %)? +\S+( %)?$', r'\1  N  N', text, flags=re.M)
    text = re.sub(r'^  IN FAST ORDER +B FROM A +ORDER ALONE$', '  IN FAST ORDER  B FROM A  ORDER ALONE', text, flags=re.M)
    text = re.sub(r'^(  bound +)\S+ for a logit', r'\1N for a logit', text, flags=re.M)
    # quantize and fit: what depends on the BLAS, and on the clock
    text = re.sub(r'^\w+: \d+ %, .* left\n', '', text, flags=re.M)   # said every few seconds, so only where it takes that long
    text = re.sub(r', in [0-9:]+( s)?$', ', in N s', text, flags=re.M)
    text = re.sub(r'^( +\d+|      )(  \w+(?: x \d+)? *)  \d\.\d\de[-+]\d\d( +[0-9.-]+ +[0-9,-]+) +[0-9.]+$', r'\1\2  N\3  N', text, flags=re.M)
    text = re.sub(r'(relative error of outputs: )\S+( on average, worst )\S+', r'\1N\2N', text)
    text = re.sub(r'^(  KL divergence from the original: ).*$', r'\1N', text, flags=re.M)
    text = re.sub(r'^(  perplexity: )[0-9.]+(, of the original )[0-9.]+', r'\1N\2N', text, flags=re.M)
    text = re.sub(r'(memory-budget: .*expected at least) \d+', r'\1 N', text)  # by the number of threads
    return re.sub(r'peak memory: about [0-9.]+ \w+', 'peak memory: about N', text)


def run(name):
    """-> dict of what came out."""
    with tempfile.TemporaryDirectory(prefix='fitq-cli.') as work:
        env = dict(os.environ, LC_ALL='C.UTF-8', DATA=os.path.join(HERE, 'data'), EXAMPLES=os.path.join(SOURCE, 'examples'),
                   PATH=os.path.dirname(BINARY) + ':' + os.environ.get('PATH', '/usr/bin:/bin'), HOME=work, TMPDIR=work)
        env.pop('NO_COLOR', None)
        with open(os.path.join(CASES, name + '.sh'), encoding='utf-8') as f:
            script = f.read()
        here = os.path.join(work, 'work')
        os.mkdir(here)
        try:
            p = subprocess.run(['bash', '-c', script], cwd=here, env=env, stdin=subprocess.DEVNULL, capture_output=True,
                               timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return {'stdout': '', 'stderr': f'no end after {TIMEOUT} s\n', 'exit': '124\n'}
        return {'stdout': normal(p.stdout.decode('utf-8', 'replace'), here),
                'stderr': normal(p.stderr.decode('utf-8', 'replace'), here), 'exit': f'{p.returncode}\n'}


EMPTY = {'stdout': '', 'stderr': '', 'exit': '0\n'}


def expected(name):
    out = dict(EMPTY)
    for part in out:
        path = os.path.join(CASES, f'{name}.{part}')
        if os.path.exists(path):
            with open(path, encoding='utf-8') as f:
                out[part] = f.read()
    return out


def update(name, got):
    for part, text in got.items():
        path = os.path.join(CASES, f'{name}.{part}')
        if text != EMPTY[part]:
            with open(path, 'w', encoding='utf-8') as f:
                f.write(text)
        elif os.path.exists(path):
            os.remove(path)


def main(args):
    updating = '--update' in args
    wanted = [a for a in args if a != '--update']
    names = sorted(f[:-3] for f in os.listdir(CASES) if f.endswith('.sh'))
    names = [n for n in names if not wanted or any(w in n for w in wanted)]
    failed = 0
    for name in names:
        got, want = run(name), expected(name)
        if updating:
            update(name, got)
            continue
        if got == want:
            print(f'[       OK ] {name}')
            continue
        failed += 1
        for part in want:
            for line in difflib.unified_diff(want[part].splitlines(), got[part].splitlines(), f'{name}.{part}', 'found', lineterm='', n=2):
                print('    ' + line)
        print(f'[  FAILED  ] {name}', flush=True)
    if not names:
        print('no such case')
    return 1 if failed or not names else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
