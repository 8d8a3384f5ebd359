#!/usr/bin/env python3
"""Installs into an empty folder and uses what is there as a stranger would: the program, the examples built through pkg-config, a
CMake project that finds the package. Also runs the examples as the build made them."""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BUILD = os.environ.get('FITQ_BUILD_DIR', os.path.join(SOURCE, 'build', 'release'))
CMAKE = os.environ.get('FITQ_CMAKE', 'cmake')
CC = os.environ.get('FITQ_CC', 'cc')
SANITIZE = os.environ.get('FITQ_SANITIZE', '')
MODEL = os.path.join(SOURCE, 'examples', 'tiny-qwen2')
CONFIG = os.path.join(HERE, 'data', 'qwen2-72b.json')
PROJECT = '''cmake_minimum_required(VERSION 3.25)
project(uses_fitq C)
find_package(fitq 0.1 REQUIRED)
add_executable(with_shared {source})
target_link_libraries(with_shared PRIVATE fitq::fitq)
add_executable(with_static {source})
target_link_libraries(with_static PRIVATE fitq::static)
'''


class Wrong(Exception):
    pass


def run(args, env=None, expect=0):
    p = subprocess.run(args, env=dict(os.environ, **(env or {})), capture_output=True, text=True, timeout=300)
    if p.returncode != expect:
        raise Wrong(f'{" ".join(args)}: exit {p.returncode}\n{p.stdout}{p.stderr}')
    return p.stdout


def try_examples(work, path_of, env=None):
    out = run([path_of('inspect'), MODEL], env)
    if '51 tensors, 4460288 parameters' not in out:
        raise Wrong(f'inspect: {out}')
    out = run([path_of('plan'), CONFIG], env)
    if '8 GPUs: pad intermediate_size 29568 -> 29696' not in out:
        raise Wrong(f'plan: {out}')
    out = run([path_of('fit'), MODEL, os.path.join(work, 'fitted'), '4'], env)
    if '0 missing, 0 wrong' not in out:
        raise Wrong(f'fit: {out}')
    run([path_of('fit')], env, expect=2)


def built_examples(work):
    try_examples(work, lambda name: os.path.join(BUILD, 'example_' + name))


def installed(work):
    return os.path.join(work, 'usr', 'local')


def install(work):
    run([CMAKE, '--install', BUILD, '--prefix', '/usr/local'], {'DESTDIR': work})
    for path in ('bin/fitq', 'include/fitq.h', 'lib/libfitq.a', 'lib/libfitq.so', 'lib/pkgconfig/fitq.pc',
                 'lib/cmake/fitq/fitqConfig.cmake', 'share/man/man1/fitq.1', 'share/man/man1/fitq-plan.1',
                 'share/bash-completion/completions/fitq', 'share/zsh/site-functions/_fitq', 'share/fish/vendor_completions.d/fitq.fish'):
        if not os.path.exists(os.path.join(installed(work), path)):
            raise Wrong(f'{path} is not installed')
    out = run([os.path.join(installed(work), 'bin', 'fitq'), 'inspect', MODEL])
    if 'sound' not in out:
        raise Wrong(out)


def with_pkg_config(work):
    install(work)
    lib = os.path.join(installed(work), 'lib')
    env = {'PKG_CONFIG_PATH': os.path.join(lib, 'pkgconfig')}
    flags = run(['pkg-config', '--cflags', '--libs', 'fitq'], env).split()
    extra = [f'-fsanitize={SANITIZE}'] if SANITIZE else []
    for name in ('inspect', 'plan', 'fit'):
        run([CC, '-std=c17', '-Wall', '-Wextra', '-Werror', os.path.join(SOURCE, 'examples', name + '.c'), *flags, *extra, '-o',
             os.path.join(work, name)])
    try_examples(work, lambda name: os.path.join(work, name), {'LD_LIBRARY_PATH': lib})


def with_cmake(work):
    install(work)
    project, build = os.path.join(work, 'project'), os.path.join(work, 'project-build')
    os.mkdir(project)
    with open(os.path.join(project, 'CMakeLists.txt'), 'w', encoding='utf-8') as f:
        f.write(PROJECT.format(source=os.path.join(SOURCE, 'examples', 'inspect.c')))
    extra = [f'-DCMAKE_C_FLAGS=-fsanitize={SANITIZE}'] if SANITIZE else []
    run([CMAKE, '-S', project, '-B', build, '-G', 'Ninja', f'-DCMAKE_C_COMPILER={CC}', f'-DCMAKE_PREFIX_PATH={installed(work)}', *extra])
    run([CMAKE, '--build', build])
    for name in ('with_shared', 'with_static'):
        out = run([os.path.join(build, name), MODEL], {'LD_LIBRARY_PATH': os.path.join(installed(work), 'lib')})
        if '51 tensors' not in out:
            raise Wrong(f'{name}: {out}')


TESTS = {'examples as built': built_examples, 'install and pkg-config': with_pkg_config, 'CMake package': with_cmake}


def main():
    failed = 0
    for name, test in TESTS.items():
        with tempfile.TemporaryDirectory(prefix='fitq-install.') as work:
            try:
                test(work)
                print(f'[       OK ] {name}')
            except (Wrong, OSError, subprocess.SubprocessError) as e:
                failed += 1
                print(f'    {e}\n[  FAILED  ] {name}', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
