#!/usr/bin/env python3
"""Ranks that are processes: real mpirun, more ranks than processors, and ranks that fail, die, stop, or differ. Sums must have the same
bits as with threads; whatever happens to one rank, all must be gone in time, and one line must say which rank it was, where, and doing what."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BUILD = os.environ.get('FITQ_BUILD_DIR', os.path.join(SOURCE, 'build', 'release'))
PROBE = os.path.join(BUILD, 'comm_probe')
FITQ = os.environ.get('FITQ_BINARY', os.path.join(BUILD, 'fitq'))
MODEL = os.path.join(SOURCE, 'examples', 'tiny-qwen2')
FULL = os.environ.get('FITQ_FULL') == '1'
MPIRUN = os.environ.get('FITQ_MPIEXEC') or shutil.which('mpirun')
OWN = tempfile.TemporaryDirectory(prefix='fitq-mpi.')
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', OMPI_MCA_rmaps_base_oversubscribe='1', OMPI_MCA_btl_base_warn_component_unused='0',
           OMPI_MCA_hwloc_base_binding_policy='none', OMP_NUM_THREADS='1')


class Wrong(Exception):
    pass


def mpirun(n, args, seconds=60, **env):
    """Exit status, standard output, standard error, seconds."""
    begin = time.monotonic()
    # several that share the usual folder take it from each other while they make it
    with tempfile.TemporaryDirectory(prefix='fitq-mpi.') as own:
        p = subprocess.run([MPIRUN, '--oversubscribe', '-n', str(n), *args], env=dict(ENV, OMPI_MCA_orte_tmpdir_base=own, **env), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
    return p.returncode, p.stdout, p.stderr, time.monotonic() - begin


def expect(condition, what):
    if not condition:
        raise Wrong(what)


def same_bits(_):
    for n in (2, 3, 5) if FULL else (3,):
        threads = subprocess.run([PROBE, str(n), 'sum'], capture_output=True, text=True, check=True, timeout=60).stdout
        status, out, err, _ = mpirun(n, [PROBE, '0', 'sum'])
        expect(status == 0 and out == threads and len(out) == 17, f'{n} ranks: exit {status}, {out!r} by MPI, {threads!r} by threads, {err}')


def second_job(_):
    """A job that failed leaves nothing behind that the next one of the same processes would take for its own."""
    status, out, err, _ = mpirun(3, [PROBE, '0', 'twice', '1'])
    threads = subprocess.run([PROBE, '3', 'twice', '1'], capture_output=True, text=True, check=True, timeout=60).stdout
    expect(status == 0 and out == threads and len(out) == 17, f'exit {status}: {out!r}, {threads!r} by threads: {err}')


def never_comes(_):
    if not FULL:
        return
    stopped = ['sh', '-c', '[ "$OMPI_COMM_WORLD_RANK" = 1 ] && kill -STOP $$; exec "$@"', 'x', PROBE, '0', 'sum']
    status, _, err, seconds = mpirun(2, stopped, HEARTBEAT='2')
    expect(status == 7 and 'found that not all ranks have come after 2 seconds' in err and seconds < 10, f'exit {status} after {seconds:.1f} s: {err}')


def one_fails(what, rank, status, text, most, **env):
    got, out, err, seconds = mpirun(3, [PROBE, '0', what, str(rank)], **env)
    lines = [line for line in err.splitlines() if line.startswith('probe: ')]
    expect(got == status and not out, f'exit {got}, expected {status}: {out}{err}')
    expect(len(lines) == 1 and f'rank {rank} (' in lines[0] and text in lines[0], f'{lines}, expected one line with rank {rank} and {text!r}')
    expect(seconds < most, f'{seconds:.1f} s, expected less than {most}')


LOST = 'round 5: rank-lost: found no sign of life'
CASES = [  # what, rank, exit, text, seconds, environment; quick: in every run
    ('fail', 1, 4, 'round 5: shard 3: write: found no space, expected some', 10, {}, True),
    ('same', 2, 3, 'found another model than on rank 0', 10, {}, True),
    ('kill', 1, 137, LOST, 10, {}, True),
    ('stop', 1, 7, LOST, 10, {'HEARTBEAT': '2'}, True),
    ('fail', 0, 4, 'round 5: shard 3: write', 10, {}, False),
    ('kill', 0, 137, LOST, 10, {}, False),
    ('kill', 2, 137, LOST, 10, {}, False),
    ('exit', 1, 1, LOST, 10, {}, False),
    ('exit3', 2, 3, LOST, 10, {}, False),
    ('segv', 1, 139, LOST, 10, {}, False),
    ('stop', 0, 7, LOST, 10, {'HEARTBEAT': '2'}, False),
    ('stop', 2, 7, LOST, 10, {'HEARTBEAT': '2'}, False),
    ('count', 1, 7, 'found a sum of floats of 4 bytes', 10, {}, False),
    ('busy', 2, 4, 'round 5: shard 3: write', 10, {}, False),
    ('busy', 0, 4, 'round 5: shard 3: write', 10, {}, False),
]


def one_case(case):
    what, rank, status, text, most, env, _ = case
    try:
        one_fails(what, rank, status, text, most, **env)
    except (Wrong, subprocess.SubprocessError) as e:
        return f'{what} {rank}: {e}'
    return None


def failures(_):
    with ThreadPoolExecutor(max_workers=3) as pool:
        wrong = [w for w in pool.map(one_case, [c for c in CASES if FULL or c[-1]]) if w]
    expect(not wrong, '; '.join(wrong))


def slow_rank_is_waited_for(_):
    if not FULL:
        return
    status, out, err, seconds = mpirun(2, [PROBE, '0', 'slow', '1'], HEARTBEAT='2')
    expect(status == 0 and len(out) == 17 and seconds > 4, f'exit {status} after {seconds:.1f} s: {err}')


# ---- the program ----

def fitq(*args, expect_status=0):
    p = subprocess.run([FITQ, *args], env=ENV, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    expect(p.returncode == expect_status, f'fitq {" ".join(args)}: exit {p.returncode}: {p.stderr}')
    return p.stdout


def numbers(text):
    """What an evaluation found, without how long it took and how it was run."""
    return {k: v for k, v in json.loads(text).items() if k not in ('plan', 'seconds', 'tokens_per_second')}


def eval_args(folder):
    ids = os.path.join(folder, 'ids')
    with open(ids, 'w', encoding='ascii') as f:
        f.write(' '.join(str(i * 7919 % 2000) for i in range(300)))
    return ['eval', MODEL, '--ids', ids, '--context', '32', '--json', '-q', '-t', '1']


def eval_alike(work):
    args = eval_args(work)
    one = numbers(fitq(*args))
    for n in (2, 4) if FULL else (2,):
        threads = numbers(fitq(*args, '--ranks', str(n)))
        status, out, err, _ = mpirun(n, [FITQ, *args])
        expect(status == 0, f'exit {status}: {err}')
        expect(numbers(out) == threads, f'{n} ranks: {out} by MPI, {threads} by threads')
        a, b = one['nll']['value'], threads['nll']['value']
        expect(abs(a - b) < 1e-6 * abs(a), f'{n} ranks: {b}, one rank: {a}')


def generate_alike(_):
    args = ['generate', MODEL, '-p', 'Once upon a time', '-n', '12', '-q', '-t', '1']
    one = fitq(*args)
    expect(fitq(*args, '--ranks', '4') == one, 'threads write another text')
    status, out, err, _ = mpirun(2, [FITQ, *args])
    expect(status == 0 and out.replace('\r', '') == one, f'exit {status}: {out!r}, expected {one!r}: {err}')


def fitted(work):
    """The original, which does not divide, against the copy that does; on as many ranks."""
    for n in (3, 5, 6, 7) if FULL else (7,):
        out = os.path.join(work, f'tp{n}')
        fitq('pad', MODEL, '-o', out, '--tp', str(n), '--vocab', '--as', 'llama', '-q')
        said = json.loads(fitq('verify', MODEL, out, '--context', '32', '--ranks', str(n), '--json', '-q', '-t', '1'))
        expect(said['verdict'] in ('same-real', 'same-bits'), f'{n} ranks: {said["verdict"]}')
        fitq('generate', MODEL, '-p', 'x', '--ranks', str(n), expect_status=3)
    status, out, err, _ = mpirun(2, [FITQ, 'verify', MODEL, MODEL, '--context', '32', '--json', '-q', '-t', '1'])
    expect(status == 0 and json.loads(out)['verdict'] == 'same-bits', f'exit {status}: {out}{err}')


def other_options(work):
    args = eval_args(work)
    status, _, err, _ = mpirun(1, [FITQ, *args, ':', '-n', '1', FITQ, *args, '--exact'])
    expect(status == 3 and 'ranks-differ: rank 1 (' in err and 'found another set of options' in err, f'exit {status}: {err}')
    copy = os.path.join(work, 'copy')
    shutil.copytree(MODEL, copy)
    with open(os.path.join(copy, 'config.json'), 'a', encoding='ascii') as f:
        f.write(' ')
    other = [copy if a == MODEL else a for a in args]
    status, _, err, _ = mpirun(1, [FITQ, *args, ':', '-n', '1', FITQ, *other])
    expect(status == 3 and 'ranks-differ: rank 1 (' in err and 'found another model' in err, f'exit {status}: {err}')


def missing_on_one(work):
    args = eval_args(work)
    other = [os.path.join(work, 'nowhere') if a == MODEL else a for a in args]
    status, _, err, _ = mpirun(1, [FITQ, *args, ':', '-n', '1', FITQ, *other])
    lines = [line for line in err.splitlines() if line.startswith('fitq: ')]
    expect(status == 4 and len(lines) == 1 and lines[0].startswith('fitq: rank 1 (') and '): open: ' in lines[0], f'exit {status}: {err}')


def children(pid):
    with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
        return [int(c) for c in f.read().split()]


def lost_while_serving(_):
    """A conversation that waits for its next line; then a rank goes."""
    if not FULL:
        return
    for number, heartbeat, status in ((signal.SIGKILL, '60', 137), (signal.SIGSTOP, '2', 7)):
        p = subprocess.Popen([MPIRUN, '--oversubscribe', '-n', '2', FITQ, 'generate', MODEL, '--chat', '-t', '1', '--heartbeat', heartbeat], env=dict(ENV, OMPI_MCA_orte_tmpdir_base=OWN.name), stdin=subprocess.PIPE,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(2)
        os.kill(children(p.pid)[1], number)
        try:
            p.wait(timeout=15)
        except subprocess.TimeoutExpired:
            p.kill()
            raise Wrong(f'signal {number}: still there') from None
        err = p.stderr.read()
        p.stdin.close()
        expect(p.returncode == status and 'fitq: rank 1 (' in err and '): generate: rank-lost: ' in err, f'signal {number}: exit {p.returncode}: {err}')


def not_divided(work):
    """What cannot be divided is done once."""
    status, out, err, _ = mpirun(2, [FITQ, 'inspect', MODEL, '--json'])
    expect(status == 0 and json.loads(out), f'exit {status}: {out}{err}')
    args = eval_args(work)
    status, out, err, _ = mpirun(2, [FITQ, *args, '--ranks', '1'])
    expect(status == 0 and numbers(out) == numbers(fitq(*args)), f'exit {status}: {out}{err}')


def count_of_ranks(_):
    status, _, err, _ = mpirun(2, [PROBE, '3', 'sum'])
    expect(status == 2 and 'found 2 processes, started by mpirun or srun, expected 3, or no --ranks' in err, f'exit {status}: {err}')


# All of these wait more than they compute: some at a time.
TESTS = {'the same bits by MPI and by threads': same_bits, 'one rank fails, dies, stops, differs': failures, 'two jobs of the same processes': second_job, 'a rank that never comes': never_comes, 'a slow rank is waited for': slow_rank_is_waited_for,
         'not as many as asked for': count_of_ranks,
         'eval: the same numbers': eval_alike, 'generate: the same text': generate_alike, 'verify: fitted models on their ranks': fitted, 'ranks with other options or models': other_options,
           'a model that one rank does not have': missing_on_one, 'a rank is lost while it waits': lost_while_serving, 'other commands': not_divided}


def one_test(test):
    with tempfile.TemporaryDirectory(prefix='fitq-ranks.') as work:
        try:
            test(work)
        except (Wrong, OSError, ValueError, subprocess.SubprocessError) as e:
            return str(e) or 'failed'
    return None


def main():
    if not MPIRUN or not os.path.exists(MPIRUN) or not os.path.exists(os.path.join(BUILD, 'libfitq_mpi.so')):
        print('skipped: no mpirun, or built without MPI')
        return 77
    if os.environ.get('FITQ_SANITIZE'):
        print('skipped: Open MPI leaks on its own, and is slow under sanitizers')
        return 77
    with ThreadPoolExecutor(max_workers=3) as pool:
        wrong = list(pool.map(one_test, TESTS.values()))
    for name, why in zip(TESTS, wrong):
        print(f'    {why}\n[  FAILED  ] {name}' if why else f'[       OK ] {name}', flush=True)
    return 1 if any(wrong) else 0


if __name__ == '__main__':
    sys.exit(main())
