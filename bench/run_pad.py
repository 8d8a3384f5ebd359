#!/usr/bin/env python3
"""Measures `fitq pad`, `fitq shard` and `fitq unshard` against `cp -r` of the same folder, `fitq plan` on config files, and the header bomb.

    run_pad.py pad --model DIR [--layouts tail,interleave,spread] [--rounds 2] [--cold] [--keep-going]
    run_pad.py shard --model DIR [--tp 2,8] [--rounds 2] [--cold]
    run_pad.py plan CONFIG_DIR
    run_pad.py bomb FILE...

`pad` alternates: cp, layout 1, cp, layout 2, ... for the given rounds, outputs on the disk of the model and deleted in between;
nothing else is done to the caches (--cold drops them before each step, needs root). `cp -r` returns before the data is on the
disk and fitq does not, so `cp -r && sync` is measured too, once per round. Rows go to bench/results/HOST-pad.csv (shard: HOST-shard.csv). Peak RSS
is what the kernel counted for the child; a few MiB of it are this script's, which the child had before it became fitq.
Environment: FITQ_BINARY (default build/release/fitq).
"""
import argparse
import csv
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
FITQ = os.environ.get("FITQ_BINARY", os.path.join(ROOT, "build/release/fitq"))


def measure(args, quiet=True):
    """(seconds, peak MiB, user + system seconds, exit code)"""
    out = subprocess.DEVNULL if quiet else None
    start = time.monotonic()
    p = subprocess.Popen(args, stdout=out, stderr=subprocess.PIPE)
    err = p.stderr.read()
    _, status, use = os.wait4(p.pid, 0)
    seconds = time.monotonic() - start
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode != 0 and err:
        sys.stderr.write(err.decode("utf-8", "replace")[-600:])
    return seconds, use.ru_maxrss / 1024, use.ru_utime + use.ru_stime, p.returncode


def folder_bytes(path):
    return sum(os.path.getsize(os.path.join(path, n)) for n in os.listdir(path))


def append(name, head, rows):
    path = os.path.join(ROOT, "bench", "results", f"{platform.node() or 'host'}-{name}.csv")
    path = os.environ.get("FITQ_BENCH_CSV", path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = not os.path.exists(path)
    with open(path, "a", newline="") as f:
        w = csv.writer(f)
        if fresh:
            w.writerow(head)
        w.writerows(rows)
    print("rows in", path)


class Turns:
    """Commands in turn, each of which reads a folder and writes another, with what they took."""

    def __init__(self, a):
        self.a, self.rows, self.seconds = a, [], {}

    def step(self, name, args, out, variant="", source=None):
        source = source or self.a.model
        size = folder_bytes(source)
        if self.a.cold:
            with open("/proc/sys/vm/drop_caches", "w") as f:
                f.write("3")
        s, mib, cpu, code = measure(args)
        if code != 0:
            print(f"{name} {variant}: exit {code}")
            if not self.a.keep_going:
                sys.exit(1)
        self.seconds.setdefault((name, variant), []).append(s)
        self.rows.append([time.strftime("%Y-%m-%d"), os.path.basename(source.rstrip("/")), size, name, variant, "cold" if self.a.cold else "warm",
                          f"{s:.2f}", f"{size / s / 1e9:.2f}", f"{cpu:.2f}", f"{mib:.0f}"])
        print(f"{name:12} {variant:11} {s:7.2f} s  {size / s / 1e9:5.2f} GB/s  cpu {cpu:6.2f} s  peak {mib:6.0f} MiB", flush=True)
        if out:
            shutil.rmtree(out, ignore_errors=True)
        os.sync()

    def end(self, name):
        cp = statistics.median(self.seconds[("cp -r", "")])
        cps = statistics.median(self.seconds[("cp -r+sync", "")])
        for (command, variant), s in self.seconds.items():
            m = statistics.median(s)
            print(f"{command:12} {variant:11} median {m:7.2f} s = {m / cp:.2f} x cp -r = {m / cps:.2f} x (cp -r && sync)")
        append(name, ["date", "model", "bytes", "command", "layout", "cache", "seconds", "gb_per_s", "cpu_seconds", "peak_rss_mib"], self.rows)


def pad(a):
    out, turns = a.model.rstrip("/") + ".bench-out", Turns(a)
    for _ in range(a.rounds):
        for layout in a.layouts.split(","):
            turns.step("cp -r", ["cp", "-r", a.model, out], out)
            turns.step("fitq pad", [FITQ, "pad", a.model, "-o", out, "--layout", layout] + a.args.split(), out, layout)
        turns.step("cp -r+sync", ["sh", "-c", 'cp -r "$0" "$1" && sync', a.model, out], out)
    turns.end("pad")


def shard(a):
    """For each number of ranks: cut, and put together again."""
    out, ranks, turns = a.model.rstrip("/") + ".bench-out", a.model.rstrip("/") + ".bench-ranks", Turns(a)
    for _ in range(a.rounds):
        turns.step("cp -r", ["cp", "-r", a.model, out], out)
        for tp in a.tp.split(","):
            turns.step("fitq shard", [FITQ, "shard", a.model, "-o", ranks, "--tp", tp] + a.args.split(), None, tp)
            turns.step("fitq unshard", [FITQ, "unshard", ranks, "-o", out], out, tp, ranks)
            shutil.rmtree(ranks)
        turns.step("cp -r+sync", ["sh", "-c", 'cp -r "$0" "$1" && sync', a.model, out], out)
    turns.end("shard")


def plan(a):
    rows, slow = [], 0
    for name in sorted(os.listdir(a.configs)):
        if not name.endswith(".json"):
            continue
        runs = [measure([FITQ, "plan", os.path.join(a.configs, name), "--tp", "2,3,4,6,8"]) for _ in range(a.rounds)]
        ms = statistics.median(r[0] for r in runs) * 1000
        slow += ms > 50
        rows.append([time.strftime("%Y-%m-%d"), name, f"{ms:.1f}", runs[0][3], f"{runs[0][1]:.0f}"])
        print(f"{ms:7.1f} ms  exit {runs[0][3]}  {name}")
    worst = max(float(r[2]) for r in rows)
    print(f"{len(rows)} configs, slowest {worst:.1f} ms, {slow} above 50 ms")
    append("plan", ["date", "config", "ms_median", "exit", "peak_rss_mib"], rows)
    return slow > 0


def bomb(a):
    bad = 0
    for path in a.files:
        s, mib, cpu, code = measure([FITQ, "inspect", path])
        bad += s > 2 or mib > 300
        print(f"{path}: exit {code}, {s:.2f} s, peak {mib:.0f} MiB (target: 2 s, 300 MiB)")
    return bad > 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="what", required=True)
    q = sub.add_parser("pad")
    q.add_argument("--model", required=True)
    q.add_argument("--layouts", default="tail,interleave,spread")
    q.add_argument("--rounds", type=int, default=2)
    q.add_argument("--args", default="--tp 8", help="what to fit")
    q.add_argument("--cold", action="store_true")
    q.add_argument("--keep-going", action="store_true")
    q = sub.add_parser("shard")
    q.add_argument("--model", required=True)
    q.add_argument("--tp", default="2,8")
    q.add_argument("--rounds", type=int, default=2)
    q.add_argument("--args", default="", help="e.g. --expert-parallel")
    q.add_argument("--cold", action="store_true")
    q.add_argument("--keep-going", action="store_true")
    q = sub.add_parser("plan")
    q.add_argument("configs")
    q.add_argument("--rounds", type=int, default=5)
    q = sub.add_parser("bomb")
    q.add_argument("files", nargs="+")
    a = p.parse_args()
    sys.exit({"pad": pad, "shard": shard, "plan": plan, "bomb": bomb}[a.what](a))


main()
