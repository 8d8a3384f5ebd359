#!/usr/bin/env python3
"""Counts test cases in ctest logs and prints "N passed, N failed, N skipped".

usage: count_tests.py NAME=build/NAME/Testing/Temporary/LastTest.log ...

A ctest test is one program. If its output has case lines (cmocka's "[       OK ] name", "[  FAILED  ] name",
"[  SKIPPED ] name") these are counted; otherwise the program counts as one case. A program that failed without a failed
case (a crash, a sanitizer) counts as one failure more. Exits 1 if something failed or a log is missing.
"""
import re
import sys

BLOCK = re.compile(r'^\d+/\d+ Test: (.*)$')
CASE = re.compile(r'^\[\s*(OK|FAILED|SKIPPED)\s*\] ([^:]*?)(?: \(.*\))?:?$')
CASE_STATUS = {'OK': 'passed', 'FAILED': 'failed', 'SKIPPED': 'skipped'}


def finish(run, name, cases, passed, out):
    """Adds the cases of one ctest test to out (a list of (status, label))."""
    seen = set()
    for status, case in cases:
        key = (status, case)
        if key in seen:  # cmocka lists failed and skipped cases a second time in its summary
            continue
        seen.add(key)
        out.append((status, f'{run}: {name}: {case}'))
    if not passed and not any(status == 'failed' for status, _ in cases):
        out.append(('failed', f'{run}: {name}'))
    if passed and not cases:
        out.append(('passed', f'{run}: {name}'))


def read_log(run, path, out):
    name, cases, result = None, [], None
    with open(path, encoding='utf-8', errors='replace') as f:
        for line in f:
            line = line.rstrip('\n')
            m = BLOCK.match(line)
            if m:
                if name is not None:
                    finish(run, name, cases, result, out)
                name, cases, result = m.group(1), [], False
                continue
            if line == 'Test Passed.':
                result = True
            m = CASE.match(line)
            if m and ' test(s)' not in m.group(2):  # a line of cmocka's summary
                cases.append((CASE_STATUS[m.group(1)], m.group(2)))
    if name is not None:
        finish(run, name, cases, result, out)


def main(args):
    out = []
    for arg in args:
        run, _, path = arg.partition('=')
        before = len(out)
        try:
            read_log(run, path, out)
        except OSError as e:
            print(f'{run}: no log: {e}')
        if len(out) == before:
            out.append(('failed', f'{run}: no test ran'))
    for status in ('skipped', 'failed'):
        for s, label in out:
            if s == status:
                print(f'{status}: {label}')
    count = {s: sum(1 for t, _ in out if t == s) for s in ('passed', 'failed', 'skipped')}
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count['failed'] else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
