#!/usr/bin/env python3
"""Does each of N ranks hold its share and no more? `fitq generate` and `fitq eval` on 1, 2 and 4 ranks, as threads and as processes of mpirun.

    run_rank_memory.py [--work DIR] [--model DIR] [--ranks 1,2,4] [--tokens 2048] [--context 512] [--keep]

Without --model, a checkpoint of Qwen2-0.5B's shapes is made (bench/make_checkpoint) and fitted to the largest N. Peak is what the kernel counted of each
process (ru_maxrss, which is VmHWM); with threads it is of all ranks together. "share" is the weights of the whole divided by N; "slice" what a rank holds of them,
with what is whole everywhere (norms, KV heads of which there are fewer than ranks); "said" what fitq said it would take: the slice, caches, activations, buffers, and
the process itself, MPI with it. The bar: the peak of every process is at most 10 % above share + what was said beside the slice, and within 10 % of
what was said. `eval` reads layer after layer, so it holds less than its share: only the second. Needs 2.5 GB on the disk of DIR; what it made is deleted. Environment: FITQ_BINARY (default build/release/fitq), FITQ_MPIEXEC (default mpirun).
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
FITQ = os.environ.get('FITQ_BINARY', os.path.join(ROOT, 'build/release/fitq'))
MPIRUN = os.environ.get('FITQ_MPIEXEC') or shutil.which('mpirun')
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', OMPI_MCA_btl_base_warn_component_unused='0', OMPI_MCA_hwloc_base_binding_policy='none')
MIB = 1 << 20


def one_rank(folder, command):
    """In the place of a rank: runs it, and leaves its peak in a file."""
    p = subprocess.Popen(command)
    _, status, use = os.wait4(p.pid, 0)
    with open(os.path.join(folder, os.environ.get('OMPI_COMM_WORLD_RANK', '0')), 'w', encoding='ascii') as f:
        f.write(str(use.ru_maxrss * 1024))
    return os.waitstatus_to_exitcode(status)


def measure(args, n, mpi):
    """-> (what rank 0 printed, peaks of the processes)"""
    with tempfile.TemporaryDirectory() as peaks:
        child = [sys.executable, os.path.abspath(__file__), '--one-rank', peaks, *args]
        command = [MPIRUN, '--oversubscribe', '-n', str(n), *child] if mpi else child + (['--ranks', str(n)] if n > 1 else [])
        p = subprocess.run(command, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
        if p.returncode != 0:
            sys.exit(f'{" ".join(command)}: exit {p.returncode}')
        out = []
        for rank in sorted(os.listdir(peaks), key=int):
            with open(os.path.join(peaks, rank), encoding='ascii') as f:
                out.append(int(f.read()))
    return json.loads(p.stdout), out


def make_model(work, n):
    raw, model = os.path.join(work, 'raw'), os.path.join(work, 'model')
    maker = os.path.join(os.path.dirname(FITQ), 'bench', 'make_checkpoint')
    subprocess.run([maker, raw, '--layers', '24', '--family', 'qwen2_0.5b'], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([FITQ, 'pad', raw, '-o', model, '--tp', str(n), '--as', 'llama', '--quiet'], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(raw)
    for name in ('tokenizer.json', 'tokenizer_config.json'):   # a small one: ids are all that matters
        shutil.copy(os.path.join(ROOT, 'examples', 'tiny-qwen2', name), model)
    return model


def commands(a, work, model):
    """{name: (arguments, what it said -> (bytes it would take, bytes of weights that a rank holds; None: not all at a time))}"""
    ids, text = os.path.join(work, 'ids'), os.path.join(work, 'prompt')
    with open(ids, 'w', encoding='ascii') as f:
        f.write(' '.join(str(i * 7919 % 150000) for i in range(a.tokens)))
    with open(text, 'w', encoding='ascii') as f:
        f.write('Once upon a time there was a rank. ' * ((a.context - 8) * 10 // 112))   # so many tokens that the caches are full
    return {
        'generate': ([FITQ, 'generate', model, '--prompt-file', text, '-n', '4', '--context', str(a.context), '--ignore-eos', '--threads', '1', '--json', '--quiet'],
                     lambda r: (r['memory_bytes'], r['weight_bytes_per_token'])),
        'eval': ([FITQ, 'eval', model, '--ids', ids, '--context', str(a.context), '--threads', '1', '--json', '--quiet'], lambda r: (r['plan']['peak_memory_bytes'], None)),
    }


def table(a, work, model):
    good = True
    total = sum(os.path.getsize(os.path.join(model, n)) for n in os.listdir(model) if n.endswith('.safetensors'))
    print('| command | ranks | as | share, MiB | slice | said | peak of each process | peak / said | above share + beside |\n|--|--|--|--|--|--|--|--|--|')
    for name, (args, said) in commands(a, work, model).items():
        for n in (int(x) for x in a.ranks.split(',')):
            for mpi in ((False,) if n == 1 or not MPIRUN else (False, True)):
                report, peaks = measure(args, n, mpi)
                here = 1 if mpi else n   # ranks of a process
                bound, held = said(report)
                share, ratio, over = total * here // n, max(peaks) / bound, '-'
                fine = abs(ratio - 1) <= 0.10
                if held is not None:
                    above = max(peaks) / (share + bound - held * here) - 1
                    over, fine = f'{100 * above:+.0f} %', fine and above <= 0.10
                good &= fine
                print(f'| {name} | {n} | {"processes" if mpi else "threads" if n > 1 else "alone"} | {share // MIB} | {held * here // MIB if held else "-"} | {bound // MIB} '
                      f'| {", ".join(str(p // MIB) for p in peaks)} | {ratio:.2f} | {over} |{"" if fine else " MISSED"}', flush=True)
    return good


def main():
    if sys.argv[1:2] == ['--one-rank']:
        return one_rank(sys.argv[2], sys.argv[3:])
    p = argparse.ArgumentParser()
    p.add_argument('--work', default='/tmp')
    p.add_argument('--model')
    p.add_argument('--ranks', default='1,2,4')
    p.add_argument('--tokens', type=int, default=2048)
    p.add_argument('--context', type=int, default=512)
    p.add_argument('--keep', action='store_true')
    a = p.parse_args()
    work = tempfile.mkdtemp(prefix='fitq-rank-memory.', dir=a.work)
    try:
        return 0 if table(a, work, a.model or make_model(work, max(int(x) for x in a.ranks.split(',')))) else 1
    finally:
        if not a.keep:
            shutil.rmtree(work)


if __name__ == '__main__':
    sys.exit(main())
