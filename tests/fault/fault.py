#!/usr/bin/env python3
"""Breaks `fitq pad`, `fitq convert`, `fitq shard`, `fitq quantize`, and the commands that run a model, in every way that a machine can, and checks what is left.

    fault.py [--full] [--budget SECONDS] [--seed N] [--jobs N] [--only GROUP,...] [--list] [--work DIR]

Experiments are made by tests/fault/shim.c (the Nth call fails, is cut short, kills the process, loses unsynced data), by
resource limits, by small file systems and by hand. After each of them:

    - the exit status is the documented one, with exactly one error line;
    - a target that was there is byte for byte the old one or the whole new one, and one that was not there is absent or whole;
    - nothing else lies around than the unfinished output that `--resume` needs;
    - `fitq pad --resume` (`convert`, `shard` and `unshard` alike), or `fitq quantize` again, gives what an undisturbed run gives, byte for byte, file for file.

Without --full as many as fit into the budget run, first one of every kind, then in an order that the printed seed decides; with
--full all of them (calls with more than 400 occurrences are sampled). Environment: FITQ_BINARY, FITQ_FAULT_SHIM,
FITQ_SOURCE_DIR. Exit status: 0 passed, 1 failed, 77 skipped, with the reason.
"""
import argparse
import concurrent.futures
import errno
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
import experts_model  # noqa: E402

CLASSES = ["alloc", "thread", "open", "read", "write", "sync", "rename", "close", "close-written", "trunc", "mkdir", "unlink",
           "stat", "lock", "modify"]
IO, NOMEM, RESUME = 4, 5, 9
PARTIAL, LOCK = ".fitq-partial", ".fitq-lock"


def snapshot(path):
    """Everything below path: {relative name: what it is and holds}; None if there is nothing."""
    if not os.path.lexists(path):
        return None
    out = {}
    if os.path.islink(path) or not os.path.isdir(path):
        return {"": os.readlink(path) if os.path.islink(path) else digest(path)}
    for folder, dirs, files in os.walk(path):
        for name in dirs + files:
            p = os.path.join(folder, name)
            rel = os.path.relpath(p, path)
            if os.path.islink(p):
                out[rel] = "-> " + os.readlink(p)
            else:
                out[rel] = "folder" if os.path.isdir(p) else digest(p)
    return out


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha1(f.read()).hexdigest()


def compare(found, want):
    """What differs, in words."""
    if found is None:
        return "is missing"
    lines = [f"{n} missing" for n in want if n not in found] + [f"{n} left over" for n in found if n not in want]
    lines += [f"{n} differs" for n in want if n in found and found[n] != want[n]]
    return "; ".join(lines[:4])


class Result:
    def __init__(self, code, out, err, counts, hits):
        self.code, self.out, self.err, self.counts, self.hits = code, out, err, counts, hits


class Failed(Exception):
    pass


class NotApplicable(Exception):
    """The experiment broke something that is not fitq."""


class Variant:
    """A request that writes a folder: what is broken. Its experiments are a group of their own, so that a short run sees each of them."""

    def __init__(self, command, source, args, replaces=False):
        self.command, self.source, self.args = command, source, args
        self.replaces = replaces   # is there an old target
        self.resume = [] if command == "quantize" else ["--resume"]
        self.prefix = "" if command == "pad" else command + "-"


def forget_openmp(pid):
    """LLVM's OpenMP runtime registers in a file named by process id. A process that is killed leaves it, perhaps empty, and the next one of
    that number ends with SIGBUS in the runtime."""
    try:
        os.unlink(f"/dev/shm/__KMP_REGISTERED_LIB_{pid}_{os.getuid()}")
    except OSError:
        pass


class Lab:
    """Paths, the reference outputs, and running fitq."""

    def __init__(self, work):
        self.root = root = os.environ.get("FITQ_SOURCE_DIR", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
        self.fitq = os.environ.get("FITQ_BINARY", os.path.join(root, "build/release/fitq"))
        self.shim = os.environ.get("FITQ_FAULT_SHIM", os.path.join(os.path.dirname(self.fitq), "libfault_shim.so"))
        self.work = work
        self.src = os.path.join(work, "src")
        self.src2 = os.path.join(work, "src2")
        shutil.copytree(os.path.join(root, "examples", "tiny-qwen2"), self.src)
        os.makedirs(os.path.join(self.src, "more"))
        with open(os.path.join(self.src, "more", "notes.txt"), "w") as f:
            f.write("a file in a folder\n")
        split(self.src, self.src2)
        self.serial = 0
        self.kill_at = 0   # change at which a killed run leaves the most behind
        self.lock = threading.Lock()
        pad = ["--set", "intermediate_size=1024", "--layout"]
        self.variants = {
            "new": Variant("pad", self.src, pad + ["spread"]),
            "replace": Variant("pad", self.src2, pad + ["interleave", "--shard-size", "4MB", "--overwrite"], True),
            "order": Variant("pad", self.packed("ordered", "desc_act"), pad + ["tail", "--fold-order"]),
        }
        packed = self.packed("packed", "gptq")
        self.variants["codes"] = Variant("pad", packed, pad + ["spread", "--regroup", "64"])
        self.variants["turned"] = Variant("convert", packed, ["--to", "compressed-tensors"])
        self.variants["numbers"] = Variant("convert", packed, ["--to", "bf16", "--shard-size", "2MB", "--overwrite"], True)
        self.variants["ranks"] = Variant("shard", self.src2, ["--tp", "2", "--shard-size", "2MB", "--overwrite"], True)
        self.variants["engine"] = Variant("shard", self.src, ["--tp", "2", "--names", "engine"])
        cut = os.path.join(work, "cut")
        subprocess.run([self.fitq, "shard", self.src2, "-o", cut, "--tp", "2", "-q"], check=True, stdout=subprocess.DEVNULL)
        self.variants["together"] = Variant("unshard", cut, [])
        self.variants.update(self.quantizers())
        self.ref, self.count, self.seconds = {}, {}, {}

    def packed(self, name, form):
        """The model in codes, whose parts are moved and computed; other programs' settings beside it."""
        folder = os.path.join(self.work, name)
        subprocess.run([sys.executable, os.path.join(self.root, "tests/tools/pack_quantized.py"), self.src, folder, form, "4", "128"], check=True)
        shutil.copytree(os.path.join(self.src, "more"), os.path.join(folder, "more"))
        with open(os.path.join(folder, "quantize_config.json"), "w") as f:
            f.write('{"bits": 4, "group_size": 128, "sym": true}\n')
        return folder

    def quantizers(self):
        """A dense layer and one of experts, of which some get few tokens: every way in which codes are made."""
        model, ids, many = (os.path.join(self.work, n) for n in ("experts", "calibration-ids", "calibration-ids-of-ranks"))
        experts_model.make(model, 2, 1)
        shutil.copytree(os.path.join(self.src, "more"), os.path.join(model, "more"))
        for path, n in ((ids, 400), (many, 5000)):
            with open(path, "w") as f:
                f.write(" ".join(str(i * i * 37 % 256) for i in range(n)))
        common = ["--group-size", "32", "--threads", "1", "--quiet"]
        calib = common + ["--ids", ids, "--samples", "4", "--seqlen", "32"]
        return {
            "gptq": Variant("quantize", model, calib),
            "head": Variant("quantize", model, calib + ["--lm-head", "--format", "compressed-tensors", "--shard-size", "100KB", "--overwrite"], True),
            "rtn": Variant("quantize", model, common + ["--method", "rtn", "--set", "moe_intermediate_size=128"]),
            "self": Variant("quantize", model, common + ["--samples", "2", "--seqlen", "8"]),
            # two batches: each rank has one
            "shared": Variant("quantize", model, common + ["--ids", many, "--samples", "36", "--seqlen", "128", "--ranks", "2"]),
        }

    def folder(self):
        with self.lock:
            self.serial += 1
            d = os.path.join(self.work, "e%d" % self.serial)
        os.mkdir(d)
        return d

    def run(self, args, fault=None, **popen):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FAULT_", "FITQ_"))}
        env.update(LC_ALL="C", ASAN_OPTIONS="verify_asan_link_order=0:exitcode=99:detect_leaks=1:max_allocation_size_mb=8192",
                   UBSAN_OPTIONS="halt_on_error=1:exitcode=99")
        env.update(popen.pop("extra_env", {}))
        counter = None
        if fault is not None:
            fd, counter = tempfile.mkstemp(dir=self.work, prefix="count.")
            os.close(fd)
            env.update({"FAULT_" + k.upper(): str(v) for k, v in fault.items()})
            env.update(LD_PRELOAD=self.shim, FAULT_COUNT=counter)
        popen.setdefault("stdout", subprocess.PIPE)
        popen.setdefault("stderr", subprocess.PIPE)
        popen.setdefault("stdin", subprocess.DEVNULL)
        p = subprocess.Popen([self.fitq] + args, env=env, **popen)
        try:
            out, err = p.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            p.kill()
            p.communicate()
            raise Failed("hangs") from None
        forget_openmp(p.pid)
        counts, hits = {}, 0
        if counter:
            with open(counter, "rb") as f:
                raw = f.read()
            os.unlink(counter)
            if len(raw) >= 8 * (len(CLASSES) + 2):
                v = struct.unpack_from("<%dQ" % (len(CLASSES) + 2), raw)
                counts, hits = dict(zip(CLASSES, v)), v[-1]
        return Result(p.returncode, (out or b"").decode("utf-8", "replace"), (err or b"").decode("utf-8", "replace"), counts, hits)

    def args_of(self, variant, target, resume=False, source=None):
        v = self.variants[variant]
        return [v.command, source or v.source, "-o", target] + v.args + (v.resume if resume else [])

    def make_target(self, variant, target):
        """The old output: other file names than the new one, so that a mixture of both is seen."""
        if not self.variants[variant].replaces:
            return None
        os.mkdir(target)
        for name, text in [("config.json", "{\"old\": true}"), ("fitq.json", "{}"), ("old-only.txt", "old"),
                           ("model-00001-of-00009.safetensors", "\x02\0\0\0\0\0\0\0{}"), ("tokenizer.json", "{\"old\": 1}")]:
            with open(os.path.join(target, name), "w") as f:
                f.write(text)
        os.mkdir(os.path.join(target, "old"))
        return snapshot(target)

    def prepare(self):
        """Undisturbed runs: the reference output, how often each class is called, and what was not made durable."""
        findings = []
        for v in self.variants:
            d = self.folder()
            target = os.path.join(d, "out")
            for again in range(2):
                self.make_target(v, target)
                audit = os.path.join(d, "audit")
                start = time.monotonic()
                r = self.run(self.args_of(v, target), {"audit": audit})
                self.seconds[v] = time.monotonic() - start
                if r.code != 0:
                    sys.exit(f"fault.py: undisturbed run failed ({v}): exit {r.code}: {r.err}")
                snap = snapshot(target)
                if not again:
                    self.ref[v], self.count[v] = snap, r.counts
                elif snap != self.ref[v]:
                    findings.append(f"{v}: two undisturbed runs differ: {compare(snap, self.ref[v])}")
                lines = open(audit).read().strip() if os.path.exists(audit) else ""
                if lines and not again:
                    findings.append(f"{v}: success was reported, but: {lines}")
                shutil.rmtree(target)
            left = [n for n in os.listdir(d) if n != "audit"]
            if left:
                findings.append(f"{v}: an undisturbed run leaves {left}")
            shutil.rmtree(d)
        return findings


def split(src, dst):
    """The same checkpoint in two shards with an index."""
    shutil.copytree(src, dst)
    one = os.path.join(dst, "model.safetensors")
    with open(one, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(n))
        data = f.read()
    header.pop("__metadata__", None)
    names = sorted(header)
    weight_map = {}
    for k, part in enumerate((names[:len(names) // 2], names[len(names) // 2:])):
        file, head, body = "model-%05d-of-00002.safetensors" % (k + 1), {}, b""
        for name in part:
            t = header[name]
            piece = data[t["data_offsets"][0]:t["data_offsets"][1]]
            head[name] = {"dtype": t["dtype"], "shape": t["shape"], "data_offsets": [len(body), len(body) + len(piece)]}
            body += piece
            weight_map[name] = file
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(dst, file), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + body)
    with open(os.path.join(dst, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": len(data)}, "weight_map": weight_map}, f)
    os.unlink(one)


# ---- judging ---------------------------------------------------------------------------------------------------------


def need(condition, text):
    if not condition:
        raise Failed(text)


def brief(r):
    return "exit %d: %s" % (r.code, " | ".join(r.err.strip().splitlines()[-3:])[:300])


def check_sane(r):
    """No sanitizer report, no crash."""
    if re.search("^(OMP: Error #|libgomp: )", r.err, re.M):   # an OpenMP runtime ends the process where it gets no memory or thread
        raise NotApplicable
    if "CHECK failed: sanitizer_" in r.err or "failed to allocate" in r.err:   # the sanitizer's own memory was refused
        raise NotApplicable
    report = re.search("(AddressSanitizer|LeakSanitizer|runtime error:|ThreadSanitizer).*", r.err, re.S)
    need(not report, "sanitizer: " + (report.group(0)[:1200].replace("\n", " | ") if report else ""))
    need(r.code not in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, 99), "crash: " + brief(r))


def check_error_line(r):
    """Exactly one line that starts with "fitq: ", or "fitq COMMAND: " for a request that makes no sense, and is not a note."""
    lines = [s for s in re.split("[\r\n]+", r.err)
             if re.match("fitq( pad| quantize)?: ", s) and not s.startswith(("fitq: note", "fitq: warning"))]
    need(len(lines) == 1, "expected one error line, " + brief(r))
    need(len(lines[0]) > 12, "an error line without content, " + brief(r))


def check_state(lab, variant, target, old, killed=False):
    """The target is the old one or the whole new one; returns which. Beside it only what a resume needs.
    killed: nobody could clean up, or was not allowed to."""
    now = snapshot(target)
    need(now in (old, lab.ref[variant]), "target is neither the old nor the new output: " + compare(now, lab.ref[variant]))
    base = os.path.basename(target)
    allowed = {base, base + PARTIAL} | ({base + LOCK} if killed else set())
    left = [n for n in os.listdir(os.path.dirname(target)) if n not in allowed]
    if killed:   # a lock is made under a private name first
        left = [n for n in left if not n.startswith(base + LOCK + ".") and not n.startswith(base + ".old-")]
    need(not left, f"left beside the target: {left}")
    return now == lab.ref[variant] and now != old


def check_resume(lab, variant, target, committed):
    """--resume makes it whole. A new target without --overwrite is done when the commit had already happened."""
    if committed and not lab.variants[variant].replaces:
        return
    r = lab.run(lab.args_of(variant, target, resume=True))
    check_sane(r)
    need(r.code == 0, "resume: " + brief(r))
    now = snapshot(target)
    need(now == lab.ref[variant], "resumed output: " + compare(now, lab.ref[variant]))
    base = os.path.basename(target)
    left = [n for n in os.listdir(os.path.dirname(target)) if n != base]
    need(not left, f"left after the resumed run: {left}")


def experiment(lab, variant, fault, codes, may_succeed, resume_fault=None, **popen):
    d = lab.folder()
    target = os.path.join(d, "out")
    try:
        old = lab.make_target(variant, target)
        r = lab.run(lab.args_of(variant, target), fault, **popen)
        check_sane(r)
        killed = r.code < 0 or (fault or {}).get("class") == "unlink"
        if r.code == 0:
            need(may_succeed or r.hits == 0, "the fault was not noticed: exit 0")
            need(snapshot(target) == lab.ref[variant], "exit 0, but " + compare(snapshot(target), lab.ref[variant]))
            left = [n for n in os.listdir(d) if n != "out"]
            need(not left or killed, f"exit 0, but left beside the target: {left}")
            return
        # A thread that cannot be made for want of memory is EAGAIN.
        other_code = (fault or {}).get("class") == "alloc" and r.code == IO and re.search("^fitq: (.*: )?(start a )?thread: ", r.err, re.M)
        need(r.code in codes or other_code, f"expected {codes}, " + brief(r))
        if r.code > 0:
            check_error_line(r)
        committed = check_state(lab, variant, target, old, killed)
        for f in resume_fault or []:
            r = lab.run(lab.args_of(variant, target, resume=True), f)
            check_sane(r)
            committed = check_state(lab, variant, target, old, True)
            if committed:
                break
        check_resume(lab, variant, target, committed)
    finally:
        shutil.rmtree(d, ignore_errors=True)


# ---- the experiments ---------------------------------------------------------------------------------------------------

# class, errno, exit statuses, may the run succeed (because there is another way, or because nothing was lost)
FAILURES = [
    ("alloc", errno.ENOMEM, [NOMEM], True), ("thread", errno.EAGAIN, [NOMEM, IO], True),
    ("open", errno.EIO, [IO], True), ("open", errno.EMFILE, [IO], True),
    ("read", errno.EIO, [IO], True),
    ("write", errno.ENOSPC, [IO], False), ("write", errno.EDQUOT, [IO], False), ("write", errno.EIO, [IO], False),
    ("sync", errno.EIO, [IO], False), ("rename", errno.EIO, [IO], True), ("rename", errno.ENOSPC, [IO], True),
    ("close-written", errno.EIO, [IO], True), ("trunc", errno.ENOSPC, [IO], False), ("trunc", errno.EIO, [IO], False),
    ("mkdir", errno.ENOSPC, [IO], False), ("unlink", errno.EIO, [IO], True), ("stat", errno.EIO, [IO, 3], True),
]


def pick(rng, count, full):
    """Which N: all of them up to 400, else the first 100, the last 100 and 200 between."""
    if count <= 400:
        return list(range(1, count + 1))
    return sorted(set(range(1, 101)) | set(range(count - 99, count + 1)) | set(rng.sample(range(101, count - 99), 200)))


def plan_faults(lab, rng, full):
    for v in lab.variants:
        for cls, err, codes, may in FAILURES:
            for sticky in (0, 1):
                for n in pick(rng, lab.count[v][cls], full):
                    fault = {"class": cls, "nth": n, "errno": err, "sticky": sticky}
                    name = "%s %s %s %d%s" % (v, cls, errno.errorcode[err], n, "+" if sticky else "")
                    yield lab.variants[v].prefix + "fail-" + cls, name, (experiment, (lab, v, fault, codes, may), {})


def plan_nuisances(lab, rng, full):
    """Interrupted and short calls are no errors."""
    for v in lab.variants:
        for every in (1, 2, 3):
            for cls in ("read", "write"):
                yield lab.variants[v].prefix + "short", f"{v} {cls} every {every}", (
                    experiment, (lab, v, {"class": cls, "every": every, "mode": "short"}, [0], True), {})
        for every in (2, 3):
            for cls in ("read", "write", "sync", "trunc"):
                yield lab.variants[v].prefix + "eintr", f"{v} {cls} every {every}", (
                    experiment, (lab, v, {"class": cls, "every": every, "errno": errno.EINTR}, [0], True), {})


def plan_kills(lab, rng, full):
    for v in lab.variants:
        total = lab.count[v]["modify"]
        for n in pick(rng, total, full):
            kill = {"class": "modify", "nth": n, "mode": "kill"}
            power = {"class": "modify", "nth": n, "mode": "power", "seed": rng.randrange(1 << 30)}
            yield lab.variants[v].prefix + "kill", f"{v} kill {n}", (experiment, (lab, v, kill, [-9], True), {})
            yield lab.variants[v].prefix + "power", f"{v} power cut {n} seed {power['seed']}", (experiment, (lab, v, power, [-9], True), {})
            again = [{"class": "modify", "nth": rng.randint(1, total), "mode": m, "seed": rng.randrange(1 << 30)}
                     for m in rng.choices(["kill", "power"], k=2)]
            yield lab.variants[v].prefix + "kill-twice", f"{v} kill {n}, then {[(f['mode'], f['nth'], f['seed']) for f in again]}", (
                experiment, (lab, v, power, [-9], True, again), {})


def plan_signals(lab, rng, full):
    for v in lab.variants:
        total = lab.count[v]["read"] + lab.count[v]["write"]
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU):
            for n in sorted(rng.sample(range(1, total + 1), min(total, 40))):
                fault = {"class": "read,write", "nth": n, "mode": "signal", "errno": int(sig)}
                yield lab.variants[v].prefix + "signal", f"{v} {sig.name} at {n}", (experiment, (lab, v, fault, [-sig, 128 + sig], True), {})


def set_limit(what, value):
    return lambda: resource.setrlimit(what, (value, value))


def plan_limits(lab, rng, full):
    for v in lab.variants:
        biggest = 10_000_000
        for size in sorted(rng.sample(range(0, biggest), 20)):
            yield lab.variants[v].prefix + "fsize", f"{v} RLIMIT_FSIZE {size}", (
                experiment, (lab, v, None, [IO, -signal.SIGXFSZ], True), {"preexec_fn": set_limit(resource.RLIMIT_FSIZE, size)})
        for n in (4, 5, 6, 7, 8, 10, 12, 16):
            yield lab.variants[v].prefix + "nofile", f"{v} RLIMIT_NOFILE {n}", (
                experiment, (lab, v, None, [IO], True), {"preexec_fn": set_limit(resource.RLIMIT_NOFILE, n)})
        low = lowest_as(lab)
        for i in range(24):
            size = low + i * (8 << 20)
            if low:
                yield lab.variants[v].prefix + "as", f"{v} RLIMIT_AS {size >> 20} MiB", (
                    experiment, (lab, v, None, [NOMEM, IO], True), {"preexec_fn": set_limit(resource.RLIMIT_AS, size)})


def lowest_as(lab):
    """Address space that the program needs to start at all; 0 where it reserves terabytes (sanitizers)."""
    for mib in range(8, 257, 8):
        if lab.run(["--version"], preexec_fn=set_limit(resource.RLIMIT_AS, mib << 20)).code == 0:
            return mib << 20
    return 0


# ---- full disks -----------------------------------------------------------------------------------------------------------


def can_mount(lab):
    d = lab.folder()
    ok = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "fitq-fault", d], stderr=subprocess.DEVNULL).returncode == 0
    if ok:
        subprocess.run(["umount", d], check=True)
    os.rmdir(d)
    return ok


def full_disk(lab, variant, size, fault=None):
    """A file system of `size` bytes; afterwards it grows and the job is resumed."""
    d = lab.folder()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "fitq-fault", d], check=True)
    try:
        target = os.path.join(d, "out")
        try:
            old = lab.make_target(variant, target)
        except OSError:
            return
        if fault:
            fault = {k: str(x).replace("MNT", d) for k, x in fault.items()}
        r = lab.run(lab.args_of(variant, target), fault)
        check_sane(r)
        if os.path.exists(os.path.join(d, "filler")):
            os.unlink(os.path.join(d, "filler"))
        if r.code == 0:
            need(snapshot(target) == lab.ref[variant], "exit 0, but " + compare(snapshot(target), lab.ref[variant]))
            return
        need(r.code == IO, "expected 4, " + brief(r))
        check_error_line(r)
        committed = check_state(lab, variant, target, old)
        subprocess.run(["mount", "-o", "remount,size=64m", d], check=True)
        check_resume(lab, variant, target, committed)
    finally:
        for _ in range(50):   # a child that was just forked for another experiment may still hold a descriptor of ours
            if subprocess.run(["umount", d], stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        os.rmdir(d)


def plan_full_disk(lab, rng, full):
    if not can_mount(lab):
        print("fault.py: cannot mount a small file system: full disks are tested by injected errors only")
        return
    for v in lab.variants:
        source = lab.variants[v].source
        need_bytes = sum(os.path.getsize(os.path.join(source, n)) for n in os.listdir(source)) * 12 // 10
        sizes = range(4096, need_bytes, 4096)
        for size in sorted(set(rng.sample(sizes, min(len(sizes), 128))) | {4096, need_bytes}):
            yield lab.variants[v].prefix + "enospc", f"{v} file system of {size} bytes", (full_disk, (lab, v, size), {})
        fill = "cat /dev/zero > MNT/filler 2>/dev/null; true"
        for n in pick(rng, lab.count[v]["modify"], full):
            fault = {"class": "modify", "nth": n, "mode": "command", "command": fill}
            yield lab.variants[v].prefix + "enospc-midway", f"{v} disk full from change {n}", (full_disk, (lab, v, 64 << 20, fault), {})


# ---- a world that changes ------------------------------------------------------------------------------------------------


def source_changes(lab, variant, command, nth, codes, want):
    """The source is disturbed at the nth read."""
    d = lab.folder()
    src, target = os.path.join(d, "src"), os.path.join(d, "out")
    try:
        shutil.copytree(lab.variants[variant].source, src)
        r = lab.run(lab.args_of(variant, target, source=src), {"class": "read", "nth": nth, "mode": "command", "command": command.replace("SRC", src).replace("DIR", d)})
        check_sane(r)
        if r.code == 0 and r.hits and snapshot(target) == lab.ref[variant]:
            return   # the last read: everything was in memory
        need(r.code in codes, f"expected {codes}, " + brief(r))
        check_error_line(r)
        need(r.code != IO or re.search(want, r.err), f"expected /{want}/, " + brief(r))
        need(not os.path.exists(target), "a target that looks finished")
    finally:
        shutil.rmtree(d, ignore_errors=True)


def plan_changes(lab, rng, full):
    for v in ("new", "gptq", "rtn"):
        n, prefix = lab.count[v]["read"], lab.variants[v].prefix
        half = os.path.getsize(os.path.join(lab.variants[v].source, "model.safetensors")) // 2
        for nth in range(1, n + 1):
            yield prefix + "shrink", f"{v} source cut at read {nth}", (
                source_changes, (lab, v, f"truncate -s {half} SRC/model.safetensors", nth, [3, IO], "chang|end of the file"), {})
            yield prefix + "shrink", f"{v} source emptied at read {nth}", (
                source_changes, (lab, v, "truncate -s 0 SRC/model.safetensors", nth, [3, IO], "chang|end of the file"), {})
        for nth in range(1, n + 1, 3):
            yield prefix + "vanish", f"{v} source gone at read {nth}", (source_changes, (lab, v, "rm -r SRC", nth, [3, IO], "."), {})
            yield prefix + "vanish", f"{v} target folder gone at read {nth}", (
                source_changes, (lab, v, "rm -rf DIR/out.fitq-partial", nth, [IO], "."), {})


def two_runs(lab, variant, nth):
    """A run that stands still holds its output; the second is refused and names it."""
    d = lab.folder()
    target, pidfile = os.path.join(d, "out"), os.path.join(lab.work, "two-%s" % os.path.basename(d))
    env = dict(os.environ, LC_ALL="C", LD_PRELOAD=lab.shim, FAULT_CLASS="write", FAULT_NTH=str(nth), FAULT_MODE="signal",
               FAULT_ERRNO=str(int(signal.SIGSTOP)), ASAN_OPTIONS="verify_asan_link_order=0")
    first = subprocess.Popen([lab.fitq] + lab.args_of(variant, target), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(1000):
            with open(f"/proc/{first.pid}/stat") as f:
                if f.read().rsplit(")", 1)[1].split()[0] == "T":
                    break
            time.sleep(0.01)
        else:
            raise Failed("the first run did not stop")
        before = snapshot(d)
        for extra in ([], lab.variants[variant].resume or ["--restart"], ["--overwrite"]):
            r = lab.run(lab.args_of(variant, target) + extra)
            check_sane(r)
            need(r.code == IO, f"second run {extra}: expected 4, " + brief(r))
            check_error_line(r)
            need(str(first.pid) in r.err, "the holder's pid is not named: " + brief(r))
        need(snapshot(d) == before, "the second run changed something: " + compare(snapshot(d), before))
        first.send_signal(signal.SIGCONT)
        need(first.wait(60) == 0, "the first run failed afterwards")
        need(snapshot(target) == lab.ref[variant], compare(snapshot(target), lab.ref[variant]))
    finally:
        if first.poll() is None:
            first.kill()
        first.communicate()
        shutil.rmtree(d, ignore_errors=True)
        if os.path.exists(pidfile):
            os.unlink(pidfile)


# ---- refusals --------------------------------------------------------------------------------------------------------------


def refused(lab, make, want=(2, IO), **popen):
    """make(folder) prepares and returns (arguments, folders that must not change)."""
    d = lab.folder()
    try:
        args, watched = make(d)
        before = [snapshot(w) for w in watched]
        r = lab.run(args, **popen)
        check_sane(r)
        need(r.code in want, f"expected {want}, " + brief(r))
        check_error_line(r)
        for w, b in zip(watched, before):
            need(snapshot(w) == b, f"{os.path.basename(w)} changed: " + compare(snapshot(w) or {}, b or {}))
    finally:
        os.chmod(d, 0o755)
        shutil.rmtree(d, ignore_errors=True)


def plan_refusals(lab, rng, full):
    for variant in ("new", "rtn"):
        yield from plan_refusals_of(lab, variant)


def plan_refusals_of(lab, variant):
    v = lab.variants[variant]
    group = v.prefix + "refused"

    def case(prepare):
        def make(d):
            src = os.path.join(d, "src")
            shutil.copytree(v.source, src)
            return lab.args_of(variant, prepare(d, src), source=src), [d]
        return make

    def symlink(d, to, name="link"):
        p = os.path.join(d, name)
        os.symlink(to, p)
        return p

    def folder(d, name="other"):
        p = os.path.join(d, name)
        os.mkdir(p)
        with open(os.path.join(p, "precious"), "w") as f:
            f.write("x")
        return p

    def plain(d):
        p = os.path.join(d, "file")
        with open(p, "w") as f:
            f.write("x")
        return p

    cases = {
        "output is the input": lambda d, s: s,
        "output is the input, spelled otherwise": lambda d, s: os.path.join(d, ".", "src", ""),
        "output inside the input": lambda d, s: os.path.join(s, "out"),
        "input inside the output": lambda d, s: d,
        "output is a link to the input": lambda d, s: symlink(d, s),
        "output is a link into the input": lambda d, s: symlink(d, os.path.join(s, "more")),
        "output exists": lambda d, s: folder(d),
        "output is a file": lambda d, s: plain(d),
        "output is a dangling link": lambda d, s: symlink(d, os.path.join(d, "nowhere")),
        "output is a link to a folder": lambda d, s: symlink(d, folder(d)),
        "folder of the output is missing": lambda d, s: os.path.join(d, "no", "such", "out"),
        "output is empty": lambda d, s: "",
    }
    for name, f in cases.items():
        yield group, name, (refused, (lab, case(f)), {})
        if name != "output exists":
            make = case(f)
            yield group, name + ", --overwrite", (
                refused, (lab, lambda d, make=make: (lambda a, w: (a + ["--overwrite"], w))(*make(d))), {})

    def readonly(d):
        shutil.copytree(v.source, os.path.join(d, "src"))
        os.chmod(d, 0o555)
        return lab.args_of(variant, os.path.join(d, "out"), source=os.path.join(d, "src")), [d]

    nobody = (lambda: os.setuid(65534)) if os.geteuid() == 0 else None
    os.chmod(lab.work, 0o755)
    try:
        usable = lab.run(["--version"], preexec_fn=nobody).code == 0
    except (PermissionError, subprocess.SubprocessError):
        usable = False
    if usable:
        yield group, "folder of the output is read-only", (refused, (lab, readonly, (IO,)), {"preexec_fn": nobody})
    yield group, "two runs on one output", (two_runs, (lab, variant, 2), {})


# ---- surroundings --------------------------------------------------------------------------------------------------------


def surroundings(lab, variant, codes, **popen):
    """Descriptors, TMPDIR and umask have no effect on the output; what is copied keeps the permissions of its source."""
    d = lab.folder()
    mask = popen.pop("mask", None)
    try:
        target = os.path.join(d, "out")
        p = subprocess.Popen([lab.fitq] + lab.args_of(variant, target), **popen)
        p.wait(120)
        need(p.returncode in codes, f"expected {codes}, exit {p.returncode}")
        need(snapshot(target) == lab.ref[variant], compare(snapshot(target), lab.ref[variant]))
        if mask is not None:
            for name in ["."] + sorted(snapshot(target)):
                mode = os.lstat(os.path.join(target, name)).st_mode
                want = (0o777 if stat.S_ISDIR(mode) else 0o666) & ~mask
                source = os.path.join(lab.variants[variant].source, name)
                if os.path.isfile(source) and name not in ("config.json", "fitq.json", "model.safetensors"):
                    want = os.lstat(source).st_mode & 0o777
                need(stat.S_IMODE(mode) == want, f"{name}: mode {stat.S_IMODE(mode):o}, expected {want:o}")
    finally:
        shutil.rmtree(d, ignore_errors=True)


def without_flock(lab, variant):
    """Some network file systems have none: the lock of a dead run is taken over all the same."""
    d = lab.folder()
    target = os.path.join(d, "out")
    try:
        r = lab.run(lab.args_of(variant, target), {"class": "modify", "nth": lab.count[variant]["modify"] // 2, "mode": "kill"})
        need(r.code == -signal.SIGKILL, "expected to be killed, " + brief(r))
        r = lab.run(lab.args_of(variant, target, resume=True), {"class": "lock", "nth": 1, "sticky": 1, "errno": errno.ENOLCK})
        check_sane(r)
        need(r.hits > 0, "no lock was asked for")
        need(r.code == 0, "expected 0, " + brief(r))
        need(snapshot(target) == lab.ref[variant], compare(snapshot(target), lab.ref[variant]))
    finally:
        shutil.rmtree(d, ignore_errors=True)


def not_reaped(lab, variant):
    """A holder that was killed, and whose parent has not asked how it ended (mpirun that waits for another machine): its lock is that of a dead one."""
    d = lab.folder()
    target = os.path.join(d, "out")
    env = dict(os.environ, LC_ALL="C", LD_PRELOAD=lab.shim, FAULT_CLASS="modify", FAULT_NTH=str(lab.count[variant]["modify"] // 2), FAULT_MODE="kill",
               ASAN_OPTIONS="verify_asan_link_order=0")
    dead = subprocess.Popen([lab.fitq] + lab.args_of(variant, target), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        need(os.path.exists(target + LOCK), "no lock was left")
        r = lab.run(lab.args_of(variant, target, resume=True))
        check_sane(r)
        need(r.code == 0, "expected 0, " + brief(r))
        need(snapshot(target) == lab.ref[variant], compare(snapshot(target), lab.ref[variant]))
    finally:
        dead.wait()
        forget_openmp(dead.pid)
        shutil.rmtree(d, ignore_errors=True)


def plan_surroundings(lab, rng, full):
    null = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}

    def closer(*fds):
        def close():
            for fd in fds:
                os.close(fd)
        return close

    for v in ("new", "gptq"):
        group = lab.variants[v].prefix + "surroundings"
        for fds in ((0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)):
            yield group, f"closed descriptors {fds}", (surroundings, (lab, v, [0, IO]), dict(null, preexec_fn=closer(*fds)))
        for name in ("stdout", "stderr"):
            yield group, f"{name} is a full device", (surroundings, (lab, v, [0, IO]), dict(null, **{name: open("/dev/full", "w")}))
            r, w = os.pipe()
            os.close(r)
            yield group, f"{name} is a broken pipe", (surroundings, (lab, v, [0, IO]), dict(null, **{name: w}))
        yield group, "no flock", (without_flock, (lab, v), {})
        yield group, "not reaped", (not_reaped, (lab, v), {})
        yield group, "TMPDIR is missing", (surroundings, (lab, v, [0]), dict(null, env=dict(os.environ, TMPDIR="/nonexistent")))
        for mask in (0o022, 0o027, 0o077, 0o002):
            yield group, f"umask {mask:o}", (surroundings, (lab, v, [0]), dict(null, mask=mask, preexec_fn=lambda m=mask: os.umask(m) and None))


# ---- resuming something else ----------------------------------------------------------------------------------------------


def n_recorded(partial):
    """Tensors that the journal of an unfinished output speaks of."""
    try:
        with open(os.path.join(partial, next(n for n in os.listdir(partial) if "journal" in n)), "rb") as f:
            return sum(line.startswith(b"T ") for line in f.read().split(b"\n"))
    except (OSError, StopIteration):
        return 0


def interrupted(lab, d, src=None, variant="replace"):
    """Leaves an unfinished output, its weights recorded in the journal; returns the arguments to go on."""
    target = os.path.join(d, "out")
    whole = [a for a in lab.args_of(variant, target, source=src) if a != "--overwrite"]
    for n in ([lab.kill_at] if lab.kill_at else range(lab.count[variant]["modify"], 0, -1)):
        for name in os.listdir(d):   # a stale lock would change the number of calls
            if name.startswith("out"):
                p = os.path.join(d, name)
                shutil.rmtree(p) if os.path.isdir(p) else os.unlink(p)
        r = lab.run(whole, {"class": "modify", "nth": n, "mode": "kill"})
        if r.code == -9 and n_recorded(target + PARTIAL) > 20:
            lab.kill_at = n
            break
    else:
        raise Failed("could not be interrupted with work recorded: " + brief(r))
    return whole, target


def resume_other(lab, change, codes=(RESUME,)):
    """change(folder, args) -> arguments of another request. Refused with the difference named; the first still can go on."""
    d = lab.folder()
    try:
        src = os.path.join(d, "src")
        shutil.copytree(lab.src2, src)
        whole, target = interrupted(lab, d, src)
        before = snapshot(target + PARTIAL)
        args = change(src, list(whole))
        r = lab.run(args + ["--resume"])
        check_sane(r)
        need(r.code in codes, f"expected {codes}, " + brief(r))
        check_error_line(r)
        need(not os.path.exists(target), "a target")
        need(snapshot(target + PARTIAL) == before, "the unfinished output changed: " + compare(snapshot(target + PARTIAL) or {}, before))
    finally:
        shutil.rmtree(d, ignore_errors=True)


def resume_damaged(lab, damage):
    """damage(folder of the unfinished output). Refused, or the right output; never another one."""
    d = lab.folder()
    try:
        whole, target = interrupted(lab, d)
        damage(target + PARTIAL)
        r = lab.run(whole + ["--resume"])
        check_sane(r)
        if r.code == 0:
            need(snapshot(target) == lab.ref["replace"], compare(snapshot(target), lab.ref["replace"]))
            return
        need(r.code == RESUME, "expected 9 or 0, " + brief(r))
        check_error_line(r)
        need(not os.path.exists(target), "a target")
    finally:
        shutil.rmtree(d, ignore_errors=True)


def plan_resume(lab, rng, full):
    def replace(option, value):
        def change(src, args):
            args[args.index(option) + 1] = value
            return args
        return change

    def touch(src, args):
        p = os.path.join(src, "model-00001-of-00002.safetensors")
        os.utime(p, ns=(1, 1))
        return args

    def edit_config(src, args):
        p = os.path.join(src, "config.json")
        text = open(p).read().replace('"rope_theta": 10000.0', '"rope_theta": 20000.0')
        with open(p, "w") as f:
            f.write(text)
        return args

    for name, change in {
        "another length": replace("--set", "intermediate_size=1152"), "another layout": replace("--layout", "tail"),
        "another shard size": replace("--shard-size", "3MB"), "source changed": touch, "config.json changed": edit_config,
    }.items():
        yield "resume-other", name, (resume_other, (lab, change), {})

    def flip(name, where, bit):
        def damage(partial):
            p = os.path.join(partial, name(partial))
            with open(p, "r+b") as f:
                size = os.path.getsize(p)
                f.seek(int(where * size) % size)
                byte = f.read(1)[0]
                f.seek(-1, 1)
                f.write(bytes([byte ^ (1 << bit)]))
        return damage

    def cut(name, where):
        def damage(partial):
            p = os.path.join(partial, name(partial))
            os.truncate(p, int(where * os.path.getsize(p)))
        return damage

    def journal(partial):
        return next(n for n in sorted(os.listdir(partial)) if "journal" in n)

    def shard(partial):
        return next(n for n in sorted(os.listdir(partial)) if n.endswith(".safetensors"))

    def gone(name):
        return lambda partial: os.unlink(os.path.join(partial, name(partial)))

    for i in range(120):
        w, b = rng.random(), rng.randrange(8)
        yield "resume-damaged", f"journal bit {w:.6f}.{b}", (resume_damaged, (lab, flip(journal, w, b)), {})
        if i < 40:
            yield "resume-damaged", f"journal cut at {w:.6f}", (resume_damaged, (lab, cut(journal, w)), {})
            yield "resume-damaged", f"weights bit {w:.6f}.{b}", (resume_damaged, (lab, flip(shard, w, b)), {})
            yield "resume-damaged", f"weights cut at {w:.6f}", (resume_damaged, (lab, cut(shard, w)), {})
    yield "resume-damaged", "journal gone", (resume_damaged, (lab, gone(journal)), {})
    yield "resume-damaged", "weights gone", (resume_damaged, (lab, gone(shard)), {})


# ---- running a model ----------------------------------------------------------------------------------------------------


RUN_FAILURES = [
    ("alloc", errno.ENOMEM, [NOMEM]), ("thread", errno.EAGAIN, [NOMEM, IO]), ("open", errno.EIO, [IO]), ("open", errno.EMFILE, [IO]),
    ("read", errno.EIO, [IO]), ("write", errno.ENOSPC, [IO]), ("write", errno.EIO, [IO]), ("trunc", errno.ENOSPC, [IO]), ("stat", errno.EIO, [IO, 3]),
]


def run_commands(lab):
    """{name: arguments}. SCRATCH stands for a folder of the experiment. eval-reference and verify load the BLAS, whose own calls the shim
    leaves alone; those of the loader are broken like others."""
    ids, small, padded = (os.path.join(lab.work, n) for n in ("ids", "small-ids", "padded"))
    for path, n in ((ids, 1536), (small, 16)):
        with open(path, "w") as f:
            f.write(" ".join(str(i * 37 % 2000) for i in range(n)))
    r = lab.run(["pad", lab.src, "-o", padded] + lab.variants["new"].args)
    need(r.code == 0, "padding for verify: " + brief(r))
    codes = os.path.join(lab.work, "codes")
    subprocess.run([sys.executable, os.path.join(lab.root, "tests/tools/pack_quantized.py"), lab.src, codes, "gptq", "4", "16"], check=True)
    eval_small = ["eval", lab.src, "--ids", small, "--context", "8", "--threads", "1", "--exact", "--json", "--quiet"]
    on_disk = ["eval", lab.src, "--reference", lab.src2, "--ids", ids, "--context", "64", "--threads", "1", "--exact", "--json", "--quiet", "--scratch", "SCRATCH"]
    commands = {
        "eval": eval_small, "eval-quantized": [codes if a == lab.src else a for a in eval_small], "eval-reference": [a for a in eval_small if a != "--exact"] + ["--reference", lab.src2],
        "verify": ["verify", lab.src, padded, "--ids", small, "--context", "8", "--threads", "1", "--json", "--quiet"],
        "eval-ranks": eval_small + ["--ranks", "2"],
        "generate-ranks": ["generate", lab.src, "--prompt", "hello there", "-n", "3", "--ranks", "2", "--threads", "1", "--exact", "--quiet"],
        "slices": ["verify", codes, "--tp", "2", "--engine", "sglang", "--format", "gptq", "--json", "--quiet"],
        "generate": ["generate", lab.src, "--prompt", "hello there", "-n", "3", "--temperature", "1", "--threads", "1", "--exact", "--quiet"],
    }
    least = re.search(r"at least (\d+) MiB", lab.run(on_disk + ["--memory", "1MiB"]).err)
    if least:   # a few MiB more: under the shim and under sanitizers the process is larger each time
        commands["eval-disk"] = on_disk + ["--memory", str(int(least.group(1)) + 1) + "MiB"]
    return commands


def without_times(text):
    return re.sub(r'"(seconds|tokens_per_second|\w*_bytes)": [^\n]*', "", text)


def run_model(lab, args, want, fault, codes, may_succeed=True):
    """The documented exit status and one error line, or exactly the undisturbed output; nothing is left in the scratch folder."""
    d = lab.folder()
    try:
        r = lab.run([a.replace("SCRATCH", d) for a in args], fault, extra_env={"TMPDIR": d, "GOMP_SPINCOUNT": "1000"})
        check_sane(r)
        need(not os.listdir(d), f"left in the scratch folder: {os.listdir(d)}")
        if r.code == 0 and (may_succeed or r.hits == 0):
            need(without_times(r.out) == want, "exit 0, but the output is another one: " + r.out[:200])
            return r
        other = fault["class"] == "alloc" and r.code == IO and "start a thread" in r.err
        need(r.code in codes or other, f"expected {codes}, " + brief(r))
        if r.code > 0:
            check_error_line(r)
        return r
    finally:
        shutil.rmtree(d, ignore_errors=True)


def plan_running(lab, rng, full):
    for name, args in run_commands(lab).items():
        want, counts = None, {}
        d = lab.folder()
        r = lab.run([a.replace("SCRATCH", d) for a in args], {"class": "alloc", "nth": 0}, extra_env={"TMPDIR": d, "GOMP_SPINCOUNT": "1000"})
        os.rmdir(d)
        need(r.code == 0, f"undisturbed {name}: " + brief(r))
        want, counts = without_times(r.out), r.counts
        if name == "eval-disk" and counts["write"] == 0:
            print("fault.py: eval keeps its hidden states in memory here: scratch files are tested by unit tests only")
            continue
        for cls, err, codes in RUN_FAILURES:
            for sticky in (0, 1):
                for n in pick(rng, counts[cls], full):
                    fault = {"class": cls, "nth": n, "errno": err, "sticky": sticky}
                    yield "run-" + cls, "%s %s %s %d%s" % (name, cls, errno.errorcode[err], n, "+" if sticky else ""), (
                        run_model, (lab, args, want, fault, codes), {})
        for every in (1, 2, 3):
            for cls in ("read", "write"):
                yield "run-short", f"{name} {cls} every {every}", (run_model, (lab, args, want, {"class": cls, "every": every, "mode": "short"}, []), {})
                if every > 1:
                    yield "run-eintr", f"{name} {cls} every {every}", (
                        run_model, (lab, args, want, {"class": cls, "every": every, "errno": errno.EINTR}, []), {})
        for sig in (signal.SIGINT, signal.SIGTERM):
            for cls in ("read", "alloc"):
                for n in sorted(rng.sample(range(1, counts[cls] + 1), min(counts[cls], 25))):
                    yield "run-signal", f"{name} {sig.name} at {cls} {n}", (
                        run_model, (lab, args, want, {"class": cls, "nth": n, "mode": "signal", "errno": int(sig)}, [-sig, 128 + sig]), {})


# ---- running them ----------------------------------------------------------------------------------------------------------

PLANS = [plan_running, plan_refusals, plan_surroundings, plan_nuisances, plan_resume, plan_changes, plan_limits, plan_signals, plan_full_disk,
         plan_kills, plan_faults]


def ordered(tasks, rng, full):
    """One of each group first, then the groups in turn, each in random order: a short run sees a bit of everything."""
    groups = {}
    for t in tasks:
        groups.setdefault(t[0], []).append(t)
    if full:
        return tasks
    for g in groups.values():
        rng.shuffle(g)
    out = []
    while groups:
        for g in list(groups):
            out.append(groups[g].pop())
            if not groups[g]:
                del groups[g]
    return out


def usable(lab):
    if not os.access(lab.shim, os.R_OK):
        print(f"fault.py: no shim at {lab.shim}")
        return False
    r = lab.run(["pad", lab.src, "-o", os.path.join(lab.work, "probe"), "--dry-run"] + lab.variants["new"].args,
                {"class": "alloc", "nth": 0})
    if r.code != 0 or not r.counts.get("alloc") or not r.counts.get("read"):
        print("fault.py: skip: the shim does not reach this build (" + brief(r) + f", {r.counts})")
        return False
    return True


def execute(task, failures, tally, lock):
    group, name, (function, args, kw) = task
    try:
        function(*args, **kw)
        bad = None
    except NotApplicable:
        bad = None
    except Failed as e:
        bad = str(e)
    except Exception as e:   # a fault of the harness is a failure, not a pass
        bad = f"{type(e).__name__}: {e}"
    with lock:
        t = tally.setdefault(group, [0, 0])
        t[0] += 1
        if bad:
            t[1] += 1
            failures.append((group, name, bad))
            if t[1] <= 5:
                print(f"FAILED {group}: {name}: {bad}", flush=True)


def default_work():
    """Memory, where an fsync costs nothing: the same calls are made, and many more experiments fit into the time."""
    try:
        v = os.statvfs("/dev/shm")
        if v.f_bavail * v.f_frsize > 1 << 30 and os.access("/dev/shm", os.W_OK | os.X_OK):
            return "/dev/shm"
    except OSError:
        pass
    return None


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--full", action="store_true")
    p.add_argument("--budget", type=float, default=30)
    p.add_argument("--seed", type=int, default=None)
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--only", default="")
    p.add_argument("--name", default="", help="only experiments whose name contains this")
    p.add_argument("--list", action="store_true")
    p.add_argument("--work", default=default_work(), help="where to work; default /dev/shm if there is room, else $TMPDIR")
    p.add_argument("--if-env", default="", help="do nothing unless this variable is 1")
    a = p.parse_args()
    if a.if_env and os.environ.get(a.if_env) != "1":
        print(f"fault.py: skip: {a.if_env}=1 is not set")
        return 77
    start = time.monotonic()
    seed = a.seed if a.seed is not None else random.SystemRandom().randrange(1 << 30)
    print(f"fault.py: seed {seed}", flush=True)
    work = tempfile.mkdtemp(prefix="fitq-fault.", dir=a.work)
    failures, tally, lock = [], {}, threading.Lock()
    try:
        lab = Lab(work)
        if not usable(lab):
            return 77
        for f in lab.prepare():
            failures.append(("undisturbed", "", f))
            print("FAILED undisturbed: " + f, flush=True)
        print("fault.py: calls of one run: " + ", ".join(
            f"{v}: " + " ".join(f"{c}={n}" for c, n in lab.count[v].items() if n) for v in lab.count), flush=True)
        rng = random.Random(seed)
        tasks = [t for plan in PLANS for t in plan(lab, rng, a.full)]
        if a.only:
            tasks = [t for t in tasks if t[0] in a.only.split(",")]
        if a.name:
            tasks = [t for t in tasks if a.name in t[1]]
        if a.list:
            for t in tasks:
                print(t[0] + ": " + t[1])
            return 0
        tasks = ordered(tasks, rng, a.full)
        n_group = len({t[0] for t in tasks})

        def one(numbered):
            i, t = numbered
            if not a.full and i >= n_group and time.monotonic() - start > a.budget:
                return
            execute(t, failures, tally, lock)

        with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
            list(pool.map(one, enumerate(tasks)))
        done = sum(t[0] for t in tally.values())
        for g, (n, bad) in sorted(tally.items()):
            print(f"{g:16} {n:5} run {bad:5} failed")
        print(f"fault.py: {done} of {len(tasks)} experiments, {len(failures)} failed, seed {seed}, {time.monotonic() - start:.0f} s")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 1 if failures else 0


sys.exit(main())
