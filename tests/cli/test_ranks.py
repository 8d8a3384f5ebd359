#!/usr/bin/env python3
"""Ranks that are processes: real mpirun, more ranks than processors, and ranks that fail, die, stop, or differ. Sums must have the same
bits as with threads; whatever happens to one rank, all must be gone in time, and one line must say which rank it was, where, and doing what."""
import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BUILD = os.environ.get('FITQ_BUILD_DIR', os.path.join(SOURCE, 'build', 'release'))
PROBE = os.path.join(BUILD, 'comm_probe')
FULL = os.environ.get('FITQ_FULL') == '1'
MPIRUN = os.environ.get('FITQ_MPIEXEC') or shutil.which('mpirun')
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', OMPI_MCA_rmaps_base_oversubscribe='1', OMPI_MCA_btl_base_warn_component_unused='0',
           OMPI_MCA_hwloc_base_binding_policy='none', OMP_NUM_THREADS='1')


class Wrong(Exception):
    pass


def mpirun(n, args, seconds=60, **env):
    """Exit status, standard output, standard error, seconds."""
    begin = time.monotonic()
    p = subprocess.run([MPIRUN, '--oversubscribe', '-n', str(n), *args], env=dict(ENV, **env), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
    return p.returncode, p.stdout, p.stderr, time.monotonic() - begin


def expect(condition, what):
    if not condition:
        raise Wrong(what)


def same_bits():
    for n in (2, 3, 5) if FULL else (3,):
        threads = subprocess.run([PROBE, str(n), 'sum'], capture_output=True, text=True, check=True, timeout=60).stdout
        status, out, err, _ = mpirun(n, [PROBE, '0', 'sum'])
        expect(status == 0 and out == threads and len(out) == 17, f'{n} ranks: exit {status}, {out!r} by MPI, {threads!r} by threads, {err}')


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


def failures():
    for what, rank, status, text, most, env, quick in CASES:
        if not quick and not FULL:
            continue
        try:
            one_fails(what, rank, status, text, most, **env)
        except Wrong as e:
            raise Wrong(f'{what} {rank}: {e}') from None


def slow_rank_is_waited_for():
    if not FULL:
        return
    status, out, err, seconds = mpirun(2, [PROBE, '0', 'slow', '1'], HEARTBEAT='2')
    expect(status == 0 and len(out) == 17 and seconds > 4, f'exit {status} after {seconds:.1f} s: {err}')


def count_of_ranks():
    status, _, err, _ = mpirun(2, [PROBE, '3', 'sum'])
    expect(status == 2 and 'found 2 processes, started by mpirun or srun, expected 3, or no --ranks' in err, f'exit {status}: {err}')


TESTS = {'the same bits by MPI and by threads': same_bits, 'one rank fails, dies, stops, differs': failures, 'a slow rank is waited for': slow_rank_is_waited_for,
         'not as many as asked for': count_of_ranks}


def main():
    if not MPIRUN or not os.path.exists(MPIRUN) or not os.path.exists(os.path.join(BUILD, 'libfitq_mpi.so')):
        print('skipped: no mpirun, or built without MPI')
        return 77
    if os.environ.get('FITQ_SANITIZE'):
        print('skipped: Open MPI leaks on its own, and is slow under sanitizers')
        return 77
    failed = 0
    for name, test in TESTS.items():
        try:
            test()
            print(f'[       OK ] {name}', flush=True)
        except (Wrong, OSError, subprocess.SubprocessError) as e:
            failed += 1
            print(f'    {e}\n[  FAILED  ] {name}', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
