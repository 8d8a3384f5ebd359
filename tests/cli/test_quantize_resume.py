#!/usr/bin/env python3
"""`fitq quantize` that is killed, stopped, refused space, or finds what it left damaged: the same command again must end with the bytes of a run
that nothing disturbed, file for file, without doing a finished layer twice; and a command that asks for something else must be refused with
what differs. Threads and memory must not show in the bytes either.

The moments are random; the seed is printed (FITQ_SEED repeats it). FITQ_FULL=1: a hundred kills, and every damage. FITQ_BINARY names the program."""
import json
import os
import random
import re
import resource
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
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'tools'))
sys.dont_write_bytecode = True
import experts_model  # noqa: E402

LIMIT = 300            # seconds; no run takes one of them
AGAIN, REWRITTEN = 'they are computed again', 'does not match its journal'
VOCAB = 256

# name: (which model, arguments, kills of a quick run, kills of a full one)
CASES = {
    'plain': ('dense', [], 2, 40),
    'fitted': ('dense', ['--tp', '4', '--as', 'llama'], 1, 15),
    'head': ('dense', ['--lm-head', '--format', 'compressed-tensors'], 1, 15),
    'rounded': ('dense', ['--method', 'rtn'], 1, 5),
    'unshifted': ('dense', ['--no-shift', '--shard-size', '2MB'], 1, 10),
    'experts': ('experts', ['--group-size', '32'], 1, 15),
}


class Failed(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Failed(text)


def read(path):
    with open(path, 'rb') as f:
        return f.read()


def snapshot(folder):
    """{file: bytes}; None if there is no such folder."""
    if not os.path.isdir(folder):
        return None
    return {name: read(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}


def compare(found, want):
    if found is None:
        return 'there is no result'
    lines = [f'{n} missing' for n in want if n not in found] + [f'{n} left over' for n in found if n not in want]
    return '; '.join(lines + [f'{n} differs' for n in want if n in found and found[n] != want[n]])


def n_recorded(target):
    try:
        return read(target + '.fitq-partial/fitq.journal').count(b'\nT ')
    except OSError:
        return 0


class Lab:
    def __init__(self, work, rng):
        self.work, self.rng, self.serial = work, rng, 0
        self.model = {'dense': os.path.join(SOURCE, 'examples', 'tiny-qwen2'), 'experts': os.path.join(work, 'experts')}
        experts_model.make(self.model['experts'])
        self.ids = self.file('ids', ' '.join(str((i * i * 37 + i // 100) % VOCAB) for i in range(9000)))
        self.reference, self.seconds = {}, {}

    def file(self, name, text):
        path = os.path.join(self.work, name)
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text)
        return path

    def target(self):
        self.serial += 1
        return os.path.join(self.work, f't{self.serial}', 'out')

    def command(self, case, target, *more, model=None):
        which, args = CASES[case][:2]
        calib = [] if '--method' in args else ['--ids', self.ids, '--samples', '8', '--seqlen', '128']
        os.makedirs(os.path.dirname(target), exist_ok=True)
        return [BINARY, 'quantize', model or self.model[which], '-o', target, '--quiet', *calib, *args, *more]

    def run(self, command, sig=signal.SIGKILL, after=None, recorded=None, limit=None):
        """-> exit status, stderr. The signal comes after so many seconds, or when so many tensors are on record."""
        target = command[command.index('-o') + 1]
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                             preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))))
        try:
            start = time.monotonic()
            while recorded is not None and p.poll() is None and n_recorded(target) < recorded:
                time.sleep(0.0005)
            if after is not None:
                try:
                    p.wait(after)
                except subprocess.TimeoutExpired:
                    pass
            if (after is not None or recorded is not None) and p.poll() is None:
                p.send_signal(sig)
            text = p.communicate(timeout=LIMIT)[1]
            self.took = time.monotonic() - start
            return p.returncode, text
        finally:
            if p.poll() is None:
                p.kill()
                p.wait()

    def undisturbed(self, case):
        if case not in self.reference:
            target = self.target()
            status, text = self.run(self.command(case, target))
            need(status == 0, f'undisturbed: exit {status}: {text}')
            self.seconds[case] = self.took
            self.reference[case] = snapshot(target)
            need(os.listdir(os.path.dirname(target)) == ['out'], f'left beside the result: {os.listdir(os.path.dirname(target))}')
        return self.reference[case]

    def check(self, case, target, status, text, lost=False):
        need(status == 0, f'resumed: exit {status}: {text}')
        found = snapshot(target)
        need(found == self.undisturbed(case), 'resumed: ' + compare(found, self.undisturbed(case)))
        need(os.listdir(os.path.dirname(target)) == ['out'], f'left beside the result: {os.listdir(os.path.dirname(target))}')
        need(lost or (AGAIN not in text and REWRITTEN not in text), 'finished work was done again: ' + text)

    def interrupted(self, case, recorded, sig=signal.SIGKILL):
        """-> a target with an unfinished output, some of it on record. A run may be faster than who watches it."""
        for _ in range(20):
            target = self.target()
            status, text = self.run(self.command(case, target), sig=sig, recorded=recorded)
            if status != 0:
                break
        need(status == -sig, f'expected signal {sig}: exit {status}: {text}')
        need(not os.path.exists(target), 'there is a target')
        need(n_recorded(target) >= recorded, 'the journal is gone')
        return target

    def copy(self, target):
        """The same unfinished output once more."""
        other = self.target()
        os.makedirs(os.path.dirname(other))
        shutil.copytree(target + '.fitq-partial', other + '.fitq-partial')
        return other


def kill(lab, case):
    """As often as asked, over as many outputs as that takes. What was on record before a kill is on record after it."""
    want, left, runs = lab.undisturbed(case), CASES[case][3 if FULL else 2], 0
    while left > 0:
        target, recorded = lab.target(), 0
        while True:
            status, text = lab.run(lab.command(case, target), after=lab.rng.uniform(0, 1.1 * lab.seconds[case]) if left > 0 else None)
            runs += 1
            if status == 0:
                break
            need(status == -signal.SIGKILL, f'exit {status}: {text}')
            need(snapshot(target) in (None, want), 'the target is neither missing nor whole: ' + compare(snapshot(target), want))
            need(AGAIN not in text and REWRITTEN not in text, 'finished work was done again: ' + text)
            left -= 1
            if os.path.exists(target):   # between the rename and the end of the process
                break
            need(n_recorded(target) >= recorded or not os.path.exists(target + '.fitq-partial/fitq.journal'), f'{n_recorded(target)} tensors on record, before the kill {recorded}')
            recorded = n_recorded(target)
        found = snapshot(target)
        need(found == want, compare(found, want))
        shutil.rmtree(os.path.dirname(target))
    return f'{CASES[case][3 if FULL else 2]} kills, {runs} runs'


def stop(lab, case, sig):
    target = lab.interrupted(case, lab.rng.choice((1, 15, 40)), sig)
    need(os.listdir(os.path.dirname(target)) == ['out.fitq-partial'], f'left: {os.listdir(os.path.dirname(target))}')
    lab.check(case, target, *lab.run(lab.command(case, target)))


def other(lab):
    """Another request finds the unfinished output of this one: refused by name, and nothing is touched."""
    target = lab.interrupted('plain', 40)
    before = snapshot(target + '.fitq-partial')
    ids = lab.file('other-ids', '1 2 3 ' + read(lab.ids).decode())
    touched, changed = (os.path.join(lab.work, n) for n in ('touched', 'changed'))
    for folder in (touched, changed):
        shutil.copytree(lab.model['dense'], folder)
    os.utime(os.path.join(touched, 'model.safetensors'), ns=(1, 1))
    config = os.path.join(changed, 'config.json')
    text = read(config).decode().replace('"use_cache": true', '"use_cache": false')
    lab.file(config, text)
    shutil.copystat(os.path.join(lab.model['dense'], 'model.safetensors'), os.path.join(changed, 'model.safetensors'))
    commands = [(lab.command('plain', target, *args), said) for args, said in (
        (['--bits', '8'], 'bits 4 .* expected 8;'), (['--group-size', '64'], 'group-size 128 .* expected 64;'), (['--damp', '0.02'], 'damp 0.01'),
        (['--format', 'compressed-tensors'], 'format gptq .* expected compressed-tensors;'), (['--method', 'rtn'], None), (['--asym'], 'asym no .* expected yes;'),
        (['--lm-head'], 'lm-head no .* expected yes;'), (['--order', 'static'], 'order fold .* expected static;'), (['--no-refit'], 'refit 1 .* expected 0;'),
        (['--shift', '0.5'], 'shift 0.75 .* expected 0.5;'), (['--no-shift'], 'shift 0.75 .* expected 0;'), (['--textbook'], 'textbook no .* expected yes;'), (['--scale', 'min-max'], 'scale weighted .* expected min-max;'), (['--scale-type', 'fp16'], 'scale-type both'), (['--positive-scales'], 'positive-scales no'),
        (['--samples', '4'], 'calibration 8 windows of 128 tokens .* expected 4 windows'), (['--ids', ids], 'calibration '),
        (['--set', 'intermediate_size=1024'], 'intermediate_size 896, .* expected 1024'), (['--tp', '4', '--as', 'llama'], 'architecture qwen2 .* expected llama;'),
        (['--shard-size', '2MB'], 'plan '))]
    commands += [(lab.command('plain', target, model=touched), 'source '), (lab.command('plain', target, model=changed), 'config ')]
    for command, said in commands:
        if said is None:   # its calibration options are not those of the others
            command = [BINARY, 'quantize', lab.model['dense'], '-o', target, '--quiet', '--method', 'rtn']
            said = 'method gptq .* expected rtn;'
        status, text = lab.run(command)
        what = ' '.join(command[command.index('--quiet') + 1:])
        need(status == 9, f'{what}: exit {status}, expected 9: {text}')
        line = text.strip().splitlines()[-1]
        need(re.search('resume-differs: found ' + said, line), f'{what}: expected "{said}": {line}')
        need(snapshot(target + '.fitq-partial') == before and not os.path.exists(target), f'{what}: the unfinished output changed')
    lab.check('plain', lab.copy(target), *lab.run(lab.command('plain', os.path.join(lab.work, f't{lab.serial}', 'out'))))
    fresh = lab.target()
    more = ['--bits', '8', '--restart']
    need(lab.run(lab.command('plain', fresh, *more))[0] == 0 and lab.run(lab.command('plain', target, *more))[0] == 0, '--restart fails')
    need(snapshot(target) == snapshot(fresh), '--restart: ' + compare(snapshot(target), snapshot(fresh)))
    return f'{len(commands)} other requests'


def flip(lab, path):
    data = bytearray(read(path))
    data[lab.rng.randrange(len(data))] ^= 1 << lab.rng.randrange(8)
    with open(path, 'wb') as f:
        f.write(data)


def cut(lab, path):
    os.truncate(path, lab.rng.randrange(os.path.getsize(path)))


def gone(lab, path):
    os.remove(path)


# files of which all are damaged, what may be said about it. The journal's end may be missing unnoticed: the work is done again.
DAMAGED = ((['fitq.state.0', 'fitq.state.1'], AGAIN), (['fitq.plain.0', 'fitq.plain.1'], AGAIN), (['fitq.state.modules'], AGAIN), (['fitq.order'], AGAIN), (['model.safetensors'], REWRITTEN), (['fitq.journal'], ''))


def damage(lab, case):
    start = lab.interrupted(case, 52)   # three layers
    done = 0
    for names, said in DAMAGED:
        for how in (flip, cut, gone) if FULL else (lab.rng.choice((flip, cut, gone)),):
            target = lab.copy(start)
            for name in names:
                how(lab, os.path.join(target + '.fitq-partial', name))
            status, text = lab.run(lab.command(case, target))
            what = f'{how.__name__} {", ".join(names)}'
            done += 1
            if names == ['fitq.journal'] and status == 9:
                need(how is flip, f'{what}: {text}')
                continue
            try:
                lab.check(case, target, status, text, lost=True)
                # a bit of a record that is not the last layer's may be one that nobody asks for
                need(said in text or (how is flip and names[0] == 'model.safetensors'), f'expected a warning, "{said}": {text}')
            except Failed as e:
                raise Failed(f'{what}: {e}') from None
            shutil.rmtree(os.path.dirname(target))
    return f'{done} damages'


def twice_damaged(lab, case):
    """Killed while what was lost is computed again: nothing is worse than before."""
    target = lab.interrupted(case, 52)
    for name in ('fitq.state.modules', 'fitq.order'):
        os.remove(os.path.join(target + '.fitq-partial', name))
    for _ in range(3):
        lab.run(lab.command(case, target), after=lab.rng.uniform(0, lab.seconds[case]))
    if not os.path.exists(target):
        lab.check(case, target, *lab.run(lab.command(case, target)), lost=True)
    need(snapshot(target) == lab.undisturbed(case), compare(snapshot(target), lab.undisturbed(case)))


def no_space(lab, case):
    """Files may not grow beyond a size: as a disk that is full, wherever that happens."""
    whole = max(len(x) for x in lab.undisturbed(case).values())
    sizes = [lab.rng.randrange(1, whole) for _ in range(20 if FULL else 2)] + [4096]
    for size in sizes:
        target = lab.target()
        status, text = lab.run(lab.command(case, target), limit=size)
        lines = [s for s in text.splitlines() if s.startswith('fitq: ') and not s.startswith(('fitq: warning', 'fitq: note'))]
        need(status == 4 and len(lines) == 1, f'files of at most {size} bytes: exit {status}: {text}')
        need(not os.path.exists(target), 'there is a target')
        lab.check(case, target, *lab.run(lab.command(case, target)))
    return f'{len(sizes)} sizes'


def on_disk(lab, case, more):
    """-> the least memory that is enough, as an argument, if hidden states go to the disk then. The bound depends on what the process has
    already, which varies a little."""
    for mib in range(16, 512, 2):
        p = subprocess.run(lab.command(case, lab.target(), '--dry-run', '--json', '--memory', f'{mib}MiB', *more), capture_output=True, text=True, check=False)
        if p.returncode == 0:
            return ['--memory', f'{mib + 2}MiB'] if json.loads(p.stdout)['scratch_bytes'] > 0 else None
    return None


def same_threads(lab, case):
    for n in ('1', '3'):
        target = lab.target()
        lab.check(case, target, *lab.run(lab.command(case, target, '--threads', n)))


def same_bytes(lab, case):
    """Neither threads nor memory, nor a second time, change a byte."""
    more = ['--samples', '64']   # so much that keeping it in memory is not the smaller way
    small = on_disk(lab, case, more) if '--method' not in CASES[case][1] else []
    need(small is not None, 'hidden states are never on the disk')
    want, done = None, ''
    for how in (['--threads', '1'], ['--threads', '2'], ['--threads', '3'], small):
        target = lab.target()
        status, text = lab.run(lab.command(case, target, *more, *how))
        need(status == 0, f'{how}: exit {status}: {text}')
        want = want or snapshot(target)
        need(snapshot(target) == want, f'{how}: ' + compare(snapshot(target), want))
        done += ' '.join(how[1:]) + ' '
    return done


def plan():
    for case in CASES:
        yield f'kill {case}', kill, case
    for case, sig in (('plain', signal.SIGINT), ('fitted', signal.SIGTERM), ('experts', signal.SIGHUP)) if not FULL else [
            (c, s) for c in CASES for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)]:
        if case != 'rounded':   # over before it can be met
            yield f'{sig.name} {case}', stop, case, sig
    yield 'another request', other,
    for case in ('plain', 'head') if FULL else ('plain',):
        yield f'damage {case}', damage, case
        yield f'killed while it repairs {case}', twice_damaged, case
        yield f'no space {case}', no_space, case
    yield 'threads plain', same_threads, 'plain'
    for case in CASES if FULL else ('experts',):
        yield f'same bytes {case}', same_bytes, case


def main():
    seed = int(os.environ.get('FITQ_SEED', random.SystemRandom().randrange(1 << 30)))
    print(f'seed {seed}', flush=True)
    failed = 0
    with tempfile.TemporaryDirectory(prefix='fitq-quantize.', dir='/dev/shm' if os.access('/dev/shm', os.W_OK) and shutil.disk_usage('/dev/shm').free > 1 << 30 else None) as work:
        lab = Lab(work, random.Random(seed))
        for name, function, *args in plan():
            start = time.monotonic()
            try:
                said = function(lab, *args)
            except Failed as e:
                failed += 1
                print(f'FAILED {name}: {e}', flush=True)
                continue
            print(f'{name}: {said or "ok"}, {time.monotonic() - start:.1f} s', flush=True)
    print(f'{failed} failed, seed {seed}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
