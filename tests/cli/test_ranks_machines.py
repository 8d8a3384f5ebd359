#!/usr/bin/env python3
"""Ranks on two machines: two network namespaces with names of their own, a cable between them, and mpirun with a hostfile, which starts its daemon on
the other one as it would by ssh. So data goes over TCP, and the cable can be pulled.

Skipped where network namespaces cannot be made (who is not root, most containers). FITQ_FULL=1: the cable is pulled at more moments, and with
the settings of docs/ranks.md, by which mpirun ends too. Without them mpirun waits for its daemon for as long as TCP does; the ranks do not."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BINARY = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))
FULL = os.environ.get('FITQ_FULL') == '1'
MPIRUN = os.environ.get('FITQ_MPIEXEC') or shutil.which('mpirun')
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'tools'))
sys.dont_write_bytecode = True
import experts_model  # noqa: E402

A, B = f'fitq{os.getpid()}a', f'fitq{os.getpid()}b'
ADDRESS = ('10.77.0.2', '10.77.0.3')
HEARTBEAT = 2
KEEPALIVE = ['--mca', 'oob_tcp_keepalive_time', '2', '--mca', 'oob_tcp_keepalive_intvl', '1', '--mca', 'oob_tcp_keepalive_probes', '3']
AGENT = '''#!/bin/sh
# HOST COMMAND...: what mpirun would call ssh for
shift
exec ip netns exec {b} unshare --uts sh -c 'hostname machine-b; exec sh -c "$*"' x "$@"
'''


class Wrong(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Wrong(what)


def ip(*args, check=True):
    return subprocess.run(['ip', *args], capture_output=True, text=True, check=check)


def files(folder):
    out = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), 'rb') as f:
            out[name] = f.read()
    return out


def connect():
    """False: not here."""
    try:
        for name in (A, B):
            ip('netns', 'add', name)
        ip('link', 'add', 'cable', 'netns', A, 'type', 'veth', 'peer', 'name', 'cable', 'netns', B)
        for name, address in zip((A, B), ADDRESS):
            ip('-n', name, 'address', 'add', address + '/24', 'dev', 'cable')
            ip('-n', name, 'link', 'set', 'lo', 'up')
            ip('-n', name, 'link', 'set', 'cable', 'up')
        subprocess.run(['ip', 'netns', 'exec', B, 'unshare', '--uts', 'hostname', 'machine-b'], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def inside(name):
    return [int(p) for p in ip('netns', 'pids', name, check=False).stdout.split()]


def ranks():
    """Processes of fitq in both, by what they run."""
    found = []
    for pid in inside(A) + inside(B):
        try:
            if os.readlink(f'/proc/{pid}/exe') == os.path.realpath(BINARY):
                found.append(pid)
        except OSError:
            pass
    return found


def end_all():
    for name in (A, B):
        for pid in inside(name):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class Lab:
    def __init__(self, work):
        self.work, self.serial = work, 0
        self.model, self.ids, self.hosts, self.agent = (os.path.join(work, n) for n in ('model', 'ids', 'hosts', 'agent'))
        experts_model.make(self.model)
        with open(self.ids, 'w', encoding='ascii') as f:
            f.write(' '.join(str(i * i * 37 % 250) for i in range(140 * 128)))
        with open(self.hosts, 'w', encoding='ascii') as f:
            f.write(''.join(a + ' slots=1\n' for a in ADDRESS))
        with open(self.agent, 'w', encoding='ascii') as f:
            f.write(AGENT.format(b=B))
        os.chmod(self.agent, 0o700)
        os.mkdir(os.path.join(work, 'mpi'))
        self.env = dict(os.environ, OMPI_MCA_orte_tmpdir_base=os.path.join(work, 'mpi'), OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1',
                        OMPI_MCA_btl_base_warn_component_unused='0', OMPI_MCA_hwloc_base_binding_policy='none', OMP_NUM_THREADS='1')
        self.args = [BINARY, 'quantize', self.model, '--ids', self.ids, '--group-size', '32', '--samples', '140', '--seqlen', '128', '--threads', '1', '--quiet']
        self.want = files(self.alone(self.target()))

    def target(self):
        self.serial += 1
        return os.path.join(self.work, f'out{self.serial}')

    def alone(self, target):
        """On the machine of rank 0: the lock of a dead process is taken over where one can see that it is dead."""
        p = subprocess.run(['unshare', '--uts', 'sh', '-c', 'hostname machine-a; exec "$@"', 'x', *self.args, '-o', target], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        expect(p.returncode == 0, f'one rank: exit {p.returncode}: {p.stderr}')
        return target

    def start(self, target, *more, heartbeat=HEARTBEAT, out=subprocess.PIPE):
        command = [MPIRUN, '--hostfile', self.hosts, '--mca', 'plm_rsh_agent', self.agent, *more, '-n', '2', *self.args, '-o', target, '--heartbeat', str(heartbeat)]
        return subprocess.Popen(['ip', 'netns', 'exec', A, 'unshare', '--uts', 'sh', '-c', 'hostname machine-a; exec "$@"', 'x', *command], env=self.env, stdin=subprocess.DEVNULL,
                                stdout=out, stderr=out, text=True)


def two_machines(lab):
    target = lab.target()
    p = lab.start(target)
    out, err = p.communicate(timeout=120)
    expect(p.returncode == 0 and out.count('quantized') == 1, f'exit {p.returncode}: {out}{err}')
    expect(files(target) == lab.want, 'other bytes than on one rank')


def recorded(target):
    try:
        with open(target + '.fitq-partial/fitq.journal', 'rb') as f:
            return f.read().count(b'\nT ')
    except OSError:
        return 0


def wait(until, seconds):
    begin = time.monotonic()
    while not until():
        if time.monotonic() - begin > seconds:
            return None
        time.sleep(0.01)
    return time.monotonic() - begin


def pulled(lab, n_record, settings=(), heartbeat=HEARTBEAT):
    """The cable is pulled as soon as so many tensors are on record."""
    target, said = lab.target(), os.path.join(lab.work, 'said')
    with open(said, 'w', encoding='utf-8') as out:
        p = lab.start(target, *settings, heartbeat=heartbeat, out=out)
    try:
        expect(wait(lambda: recorded(target) >= n_record or p.poll() is not None, 60) is not None, 'does not begin')
        ip('-n', B, 'link', 'set', 'cable', 'down')
        seconds = wait(lambda: not ranks(), HEARTBEAT + 10)
        expect(seconds is not None, f'ranks are still there {HEARTBEAT + 10} seconds after the cable was pulled: {ranks()}')
        if settings:
            expect(wait(lambda: p.poll() is not None, 10) is not None, 'mpirun is still there')
            expect(p.returncode != 0, 'exit 0')
    finally:
        end_all()
        p.wait(timeout=10)
        ip('-n', B, 'link', 'set', 'cable', 'up')
    with open(said, encoding='utf-8') as f:
        lines = [line for line in f.read().splitlines() if line.startswith('fitq: rank')]
    expect(lines and lines[0].startswith('fitq: rank 1 (machine-b): layer ') and 'rank-lost: found no sign of life' in lines[0], f'said {lines}')
    expect(not os.path.exists(target), 'something that looks finished')
    p = subprocess.run([*lab.args, '-o', target], env=lab.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    expect(p.returncode == 4 and 'on machine-a' in p.stderr and 'remove the lock if that process is gone' in p.stderr, f'elsewhere: exit {p.returncode}: {p.stderr}')
    expect(files(lab.alone(target)) == lab.want, 'what went on has other bytes')
    print(f'    all ranks were gone after {seconds:.1f} s')


def cable(lab):
    for n_record in (3, 12, 30) if FULL else (3,):
        pulled(lab, n_record)


def with_settings(lab):
    if FULL:
        pulled(lab, 3, KEEPALIVE, 30)   # the settings' time must be the shorter one


TESTS = {'two machines have the bytes of one rank': two_machines, 'the cable is pulled': cable, 'the cable is pulled, and mpirun looks too': with_settings}


def main():
    if not MPIRUN or not os.path.exists(MPIRUN) or not os.path.exists(os.path.join(os.path.dirname(BINARY), 'libfitq_mpi.so')) or os.environ.get('FITQ_SANITIZE'):
        print('skipped: no mpirun, or built without MPI, or with sanitizers')
        return 77
    failed = 0
    try:
        if os.geteuid() != 0 or not shutil.which('ip') or not connect():
            print('skipped: cannot make network namespaces')
            return 77
        with tempfile.TemporaryDirectory(prefix='fitq-machines-') as work:
            lab = Lab(work)
            for name, test in TESTS.items():
                begin = time.monotonic()
                try:
                    test(lab)
                    print(f'[       OK ] {name} ({time.monotonic() - begin:.1f} s)', flush=True)
                except (Wrong, OSError, subprocess.SubprocessError) as e:
                    failed += 1
                    print(f'    {e}\n[  FAILED  ] {name}', flush=True)
    finally:
        end_all()
        for name in (A, B):
            ip('netns', 'delete', name, check=False)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
