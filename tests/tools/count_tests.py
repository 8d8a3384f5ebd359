#!/usr/bin/env python3
"""Counts test cases of ctest runs, names the skipped and failed ones, and ends with "N passed, N failed, N skipped".

usage: count_tests.py NAME=BUILD-FOLDER ...

BUILD-FOLDER has the tests.xml of `ctest --output-junit tests.xml` (which programs ran, and how they ended) and ctest's log (what
they printed). A ctest test is one program. If its output has case lines (cmocka's "[       OK ] name", "[  FAILED  ] name",
"[  SKIPPED ] name") these are counted; otherwise the program counts as one case. A program that failed without a failed case (a
crash, a sanitizer) is one failure. Exits 1 if something failed or did not run.
"""
import os
import re
import sys
import xml.etree.ElementTree

BLOCK = re.compile(r'^\d+/\d+ Test: (.*)$')
CASE = re.compile(r'^\[\s*(OK|FAILED|SKIPPED)\s*\] ([^:]*?)(?: \(.*\))?:?$')
CASE_STATUS = {'OK': 'passed', 'FAILED': 'failed', 'SKIPPED': 'skipped'}


def read_cases(path):
    """-> ctest test name -> list of (status, case), each once: cmocka repeats failed and skipped ones in its summary."""
    out, cases = {}, []
    with open(path, encoding='utf-8', errors='replace') as f:
        for line in f:
            block, case = BLOCK.match(line.rstrip('\n')), CASE.match(line.rstrip('\n'))
            if block:
                cases = out.setdefault(block.group(1), [])
            elif case and ' test(s)' not in case.group(2):  # not a line of cmocka's summary
                entry = (CASE_STATUS[case.group(1)], case.group(2))
                if entry not in cases:
                    cases.append(entry)
    return out


def count_run(run, folder):
    """-> list of (status, label)."""
    out = []
    cases_of = read_cases(os.path.join(folder, 'Testing', 'Temporary', 'LastTest.log'))
    for test in xml.etree.ElementTree.parse(os.path.join(folder, 'tests.xml')).getroot().iter('testcase'):
        name, cases = test.get('name'), cases_of.get(test.get('name'), [])
        out += [(status, f'{run}: {name}: {case}') for status, case in cases]
        if test.find('skipped') is not None:
            out.append(('skipped', f'{run}: {name}'))
        elif test.get('status') != 'run':
            if not any(status == 'failed' for status, _ in cases):
                out.append(('failed', f'{run}: {name}'))
        elif not cases:
            out.append(('passed', f'{run}: {name}'))
    return out


def main(args):
    out = []
    for arg in args:
        run, _, folder = arg.partition('=')
        try:
            found = count_run(run, folder)
        except (OSError, xml.etree.ElementTree.ParseError) as e:
            print(f'{run}: {e}')
            found = []
        out += found or [('failed', f'{run}: no test ran')]
    for status in ('skipped', 'failed'):
        for s, label in out:
            if s == status:
                print(f'{status}: {label}')
    count = {s: sum(1 for t, _ in out if t == s) for s in ('passed', 'failed', 'skipped')}
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count['failed'] else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
