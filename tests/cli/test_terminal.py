#!/usr/bin/env python3
"""What is printed on a terminal: no line is wider than it, whatever its width; colour only there, and not with NO_COLOR."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BINARY = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))

COMMANDS = (
    ['plan', 'tests/cli/data/qwen2-72b.json', '--tp', '2,3,4,6,8'],
    ['plan', 'tests/cli/data/qwen2-72b.json', '--tp', '1-16'],
    ['plan', 'tests/cli/data/qwen3-30b-a3b.json', '--tp', '5,8', '--gpu-memory', '24GiB'],
    ['plan', '--help'], ['pad', '--help'], ['help', 'engines'], ['help', 'formats'],
)
ESCAPE = re.compile(r'\x1b\[[0-9;]*m')


def on_terminal(columns, args, **more):
    """-> what a terminal of so many columns is sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 50, columns, 0, 0))
    env = {**os.environ, 'TERM': 'xterm', **more}
    if 'NO_COLOR' not in more:
        env.pop('NO_COLOR', None)
    p = subprocess.Popen([BINARY, *args], cwd=SOURCE, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.STDOUT)
    os.close(theirs)
    text = b''
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
    os.close(ours)
    if p.wait(timeout=60) != 0:
        raise AssertionError(f'fitq {" ".join(args)}: exit {p.returncode}')
    return text.decode().replace('\r\n', '\n')


def may_be_long(line):
    """Commands to copy stay on one line; help's usage and examples are lines of their own."""
    return re.match(r' *(fitq|usage:)', line) or ' fitq ' in line


def lines_fit(columns):
    for args in COMMANDS:
        for line in ESCAPE.sub('', on_terminal(columns, args)).splitlines():
            if len(line) > columns and not may_be_long(line):
                raise AssertionError(f'fitq {" ".join(args)}: {len(line)} columns: {line}')


def width_is_used():
    args = COMMANDS[0]
    if on_terminal(80, args) == on_terminal(140, args):
        raise AssertionError('80 and 140 columns look the same')


def colour():
    if not ESCAPE.search(on_terminal(100, COMMANDS[0])):
        raise AssertionError('no colour on a terminal')
    if ESCAPE.search(on_terminal(100, COMMANDS[0], NO_COLOR='1')):
        raise AssertionError('colour with NO_COLOR')


TESTS = {'lines fit 80 columns': lambda: lines_fit(80), 'lines fit 100 columns': lambda: lines_fit(100),
         'lines fit 132 columns': lambda: lines_fit(132), 'the width of the terminal is used': width_is_used,
         'colour on a terminal only': colour}


def main():
    failed = 0
    for name, test in TESTS.items():
        try:
            test()
            print(f'[       OK ] {name}')
        except (AssertionError, OSError, subprocess.SubprocessError) as e:
            failed += 1
            print(f'    {e}\n[  FAILED  ] {name}', flush=True)
    return 1 if failed else 0


def has_terminals():
    try:
        for end in pty.openpty():
            os.close(end)
    except OSError:  # a container without devpts
        return False
    return True


if __name__ == '__main__':
    if not has_terminals():
        print('skipped: this system has no pseudo terminals')
        sys.exit(77)
    sys.exit(main())
