#!/usr/bin/env python3
"""`mpirun -n 2 fitq quantize`, of which one rank breaks: its disk is full, its memory, its reads, or it is killed in a call. Both must be gone in
10 seconds, one line must name rank, machine, phase, file and reason, nothing may look finished, and the same command must go on, to the bytes of
an undisturbed run. shim.c is loaded into the one rank only.

Hidden states do not fit into the memory that is given, so rank 1 writes too: to a scratch folder of its own.

FITQ_FULL=1: the Nth call of each kind, on each rank (sampled; seed printed, FITQ_SEED repeats it), and a file system that is really full, where one
can be mounted."""
import errno
import itertools
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BINARY = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))
SHIM = os.environ.get('FITQ_FAULT_SHIM', os.path.join(os.path.dirname(BINARY), 'tests', 'fault', 'libfault_shim.so'))
FULL = os.environ.get('FITQ_FULL') == '1'
MPIRUN = os.environ.get('FITQ_MPIEXEC') or shutil.which('mpirun')
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'tools'))
sys.dont_write_bytecode = True
import experts_model  # noqa: E402

ENDED_IN = 10.0   # seconds, from when a rank breaks
CLASSES = ['alloc', 'thread', 'open', 'read', 'write', 'sync', 'rename', 'close', 'close-written', 'trunc', 'mkdir', 'unlink', 'stat', 'lock', 'modify']
FULL_DISK = os.strerror(errno.ENOSPC)


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
        self.work, self.serial = work, itertools.count(1)
        self.model, self.ids = os.path.join(work, 'model'), os.path.join(work, 'ids')
        experts_model.make(self.model, 2, 1)
        with open(self.ids, 'w', encoding='ascii') as f:
            f.write(' '.join(str(i * i * 37 % 250) for i in range(140 * 128)))
        self.env = dict(os.environ, LC_ALL='C', OMPI_MCA_orte_tmpdir_base=os.path.join(work, 'mpi'), OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1',
                        OMPI_MCA_btl_base_warn_component_unused='0', OMPI_MCA_hwloc_base_binding_policy='none', OMP_NUM_THREADS='1')
        os.mkdir(self.env['OMPI_MCA_orte_tmpdir_base'])
        self.args = [BINARY, 'quantize', self.model, '--ids', self.ids, '--group-size', '32', '--samples', '140', '--seqlen', '128', '--threads', '1', '--quiet']
        target = os.path.join(work, 'whole')
        begin = time.monotonic()
        self.plain(target)
        self.want = files(target)
        least = re.search(r'at least (\d+) MiB to quantize', self.mpirun(target + '2', None, None, memory=45)[2])
        self.usual = time.monotonic() - begin   # what an undisturbed run may take here and now, its start with it
        expect(least, 'a bound that is too small was not refused')
        self.memory = int(least.group(1)) + 1   # processes are not always as large

    def folder(self):
        d = os.path.join(self.work, f'e{next(self.serial)}')
        for name in ('scratch0', 'scratch1'):
            os.makedirs(os.path.join(d, name))
        return d

    def plain(self, target):
        p = subprocess.run([*self.args, '-o', target], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        expect(p.returncode == 0, f'one rank: exit {p.returncode}: {p.stderr}')

    def mpirun(self, target, rank, fault, memory=None, scratch='/nonexistent/'):
        """Exit status, standard output and error, seconds. rank: the one that has the fault."""
        said = 'FAULT_OWN=fitq ' + ' '.join(f'FAULT_{k.upper()}="{v}"' for k, v in (fault or {}).items())
        command = ' '.join(self.args + ['-o', target, '--scratch', scratch + '$OMPI_COMM_WORLD_RANK', '--memory', f'{memory or self.memory}MiB'])
        script = f'[ "$OMPI_COMM_WORLD_RANK" = "{rank}" ] && export LD_PRELOAD="{SHIM}" {said}; exec {command}'
        begin = time.monotonic()
        p = subprocess.run([MPIRUN, '--oversubscribe', '-n', '2', 'sh', '-c', script], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        return p.returncode, p.stdout, p.stderr, time.monotonic() - begin

    def counts(self, rank):
        d = self.folder()
        counter = os.path.join(d, 'count')
        status, _, err, seconds = self.mpirun(os.path.join(d, 'out'), rank, {'count': counter, 'nth': 0, 'class': 'write'}, scratch=os.path.join(d, 'scratch'))
        expect(status == 0 and files(os.path.join(d, 'out')) == self.want, f'undisturbed: exit {status}: {err}')
        with open(counter, 'rb') as f:
            found = dict(zip(CLASSES, struct.unpack_from(f'<{len(CLASSES)}Q', f.read())))
        shutil.rmtree(d)
        return found, seconds


def error_lines(err):
    return [line for line in re.split('[\r\n]+', err) if line.startswith('fitq: ') and not line.startswith(('fitq: note', 'fitq: warning'))]


def wait_for_holder(target):
    """mpirun does not wait for its processes: rank 0 may still be about to end."""
    begin = time.monotonic()
    while True:
        try:
            with open(target + '.fitq-lock', encoding='ascii') as f:
                os.kill(int(f.read().split()[0]), 0)
        except (OSError, ValueError, IndexError):
            return
        expect(time.monotonic() - begin < ENDED_IN, 'rank 0 is still there')
        time.sleep(0.02)


def goes_on(lab, d, target):
    wait_for_holder(target)
    expect(not os.path.exists(target), 'something that looks finished')
    left = [n for n in os.listdir(d) if n not in ('scratch0', 'scratch1', 'out.fitq-partial', 'out.fitq-lock', 'filler')]
    expect(not left, f'left: {left}')
    lab.plain(target)
    expect(files(target) == lab.want, 'what went on has other bytes')
    expect(not os.listdir(os.path.join(d, 'scratch0')) + os.listdir(os.path.join(d, 'scratch1')), 'left in the scratch folder')


NOT_OURS = re.compile('cannot allocate memory for thread-local data', re.I)   # the loader ends the process where it gets none


def one(lab, rank, fault, codes, pattern, may_succeed=False):
    """The rank breaks so. pattern: of the one line, behind the name of the rank. Returns the seconds until all were gone; None: what broke was not fitq."""
    d = lab.folder()
    target = os.path.join(d, 'out')
    status, out, err, seconds = lab.mpirun(target, rank, fault, scratch=os.path.join(d, 'scratch'))
    if NOT_OURS.search(err):
        shutil.rmtree(d)
        return None
    if status == 0:
        expect(may_succeed, 'exit 0')
        expect(files(target) == lab.want, 'exit 0, and other bytes')
    else:
        lines = error_lines(err)
        expect(status in codes, f'exit {status}, expected {codes}: {err[:800]}')
        most = 2 if fault['class'] == 'alloc' else 1   # a rank that cannot even talk to the others says it alone, and they that it is gone
        expect(0 < len(lines) <= most and all(re.match(rf'fitq: rank {rank} \([^)]+\): [^:]+: {pattern}', line) for line in lines), f'expected one line, of rank {rank} and with {pattern!r}: {lines}')
        expect(seconds < ENDED_IN + lab.usual, f'{seconds:.1f} s')
        expect(not out, f'output: {out[:200]}')
        if os.path.exists(target):   # the fault came behind the commit
            expect(files(target) == lab.want, 'something that looks finished')
        else:
            goes_on(lab, d, target)
    shutil.rmtree(d)
    return seconds


def disk_full(lab):
    """Rank 1: its scratch folder; rank 0: the output."""
    def fill(row):
        rank, pattern = row
        one(lab, rank, {'class': 'write', 'nth': 12, 'sticky': 1, 'errno': errno.ENOSPC}, [4], pattern + FULL_DISK)
    with ThreadPoolExecutor(2) as pool:   # they wait more than they compute
        list(pool.map(fill, ((0, r'\S*/(out.fitq-partial|scratch0)\S*: .*'), (1, r'\S*/scratch1: .*'))))


def pick(rng, n, most):
    return sorted(rng.sample(range(1, n + 1), min(n, most)))


# class, what happens, statuses, the line, how many
BREAKS = [
    ('write', {'errno': errno.ENOSPC, 'sticky': 1}, [4], '.*' + FULL_DISK, 60, False),
    ('trunc', {'errno': errno.ENOSPC, 'sticky': 1}, [4], '.*(space: found |' + FULL_DISK + ')', 30, False),
    ('sync', {'errno': errno.EIO}, [4], '.*Input/output error', 12, False),
    ('rename', {'errno': errno.EIO}, [4], '.*Input/output error', 12, True),
    ('open', {'errno': errno.EIO, 'sticky': 1}, [4], '.*', 20, True),
    ('read', {'errno': errno.EIO, 'sticky': 1}, [4], '.*', 20, True),
    ('alloc', {'errno': errno.ENOMEM, 'sticky': 1}, [5, 4, 7], '.*', 40, True),
    ('modify', {'mode': 'kill'}, [137], '.*rank-lost: ', 40, True),
    ('read', {'mode': 'kill'}, [137], '.*rank-lost: ', 20, True),
]


def everything(lab):
    if not FULL:
        return
    seed = int(os.environ.get('FITQ_SEED', '0')) or int(time.time())
    rng = random.Random(seed)
    n, wrong, slowest, not_ours = 0, [], 0, 0
    for rank in (0, 1):
        counts, _ = lab.counts(rank)
        for name, fault, codes, pattern, most, may in BREAKS:
            for nth in pick(rng, counts[name], most):
                n += 1
                try:
                    seconds = one(lab, rank, dict(fault, **{'class': name, 'nth': nth}), codes, pattern, may)
                    slowest = max(slowest, seconds or 0)
                    not_ours += seconds is None
                except (Wrong, subprocess.SubprocessError) as e:
                    wrong.append(f'rank {rank}, {name} {nth} {fault}: {e}')
                    print('    ' + wrong[-1], flush=True)
    print(f'    {n} experiments, {len(wrong)} failed, {not_ours} broke the loader; the longest run took {slowest:.1f} s; seed {seed}', flush=True)
    expect(not wrong, f'{len(wrong)} of {n}')


def really_full(lab):
    """A small file system in the place of the one folder that the rank writes to; rank 0's is the folder of the output."""
    if not FULL:
        return
    for rank in (0, 1):
        for kib in (16, 64, 200, 400):
            d = lab.folder()
            mount, target = os.path.join(d, 'disk'), os.path.join(d, 'disk', 'out')
            os.mkdir(mount)
            if subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={kib}k', 'fitq-fault', mount], stderr=subprocess.DEVNULL).returncode != 0:
                print('    skipped: cannot mount')
                return
            try:
                if rank == 1:
                    target = os.path.join(d, 'out')
                    os.rmdir(os.path.join(d, 'scratch1'))
                    os.symlink(mount, os.path.join(d, 'scratch1'))
                status, _, err, seconds = lab.mpirun(target, None, None, scratch=os.path.join(d, 'scratch'))
                lines = error_lines(err)
                expect(status == 4 and len(lines) == 1 and f'fitq: rank {rank} (' in lines[0] and ('space' in lines[0] or 'disk' in lines[0]) and seconds < ENDED_IN + lab.usual, f'{kib} KiB, rank {rank}: exit {status}: {err}')
                expect(not os.path.exists(target), 'something that looks finished')
                subprocess.run(['mount', '-o', 'remount,size=64m', mount], check=True)
                lab.plain(target)
                expect(files(target) == lab.want, 'what went on has other bytes')
            finally:
                subprocess.run(['umount', mount], check=False)
            shutil.rmtree(d)


TESTS = {'the disk of one rank is full': disk_full, 'a small file system': really_full, 'one rank breaks': everything}


def main():
    if not MPIRUN or not os.path.exists(MPIRUN) or not os.path.exists(os.path.join(os.path.dirname(BINARY), 'libfitq_mpi.so')):
        print('skipped: no mpirun, or built without MPI')
        return 77
    if os.environ.get('FITQ_SANITIZE') or not os.path.exists(SHIM):
        print('skipped: no shim, or Open MPI under sanitizers')
        return 77
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
