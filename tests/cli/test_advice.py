#!/usr/bin/env python3
"""What plan advises is done and planned again: the result of every command must run under everything that was asked for, and the
ways that need no command must be among the options of the entries. FITQ_TEST_DATA adds a mixture of experts."""
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BINARY = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))
ENV = dict(os.environ, PATH=os.path.dirname(BINARY) + ':' + os.environ['PATH'])


class Wrong(Exception):
    pass


def plan(work, folder, *args):
    p = subprocess.run([BINARY, 'plan', folder, *args, '--json'], cwd=work, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(p.stdout)


def try_way(work, way, gpus, asked):
    """Does the way, from `folder`, end in a checkpoint that runs on these GPUs?"""
    folder = way['folder']
    if way['command']:
        p = subprocess.run(['bash', '-c', way['command'] + ' --quiet --json'], cwd=work, env=ENV, capture_output=True, text=True, timeout=60)
        if p.returncode != 0:
            raise Wrong(f'{way["command"]}: {p.stderr}')
        report = json.loads(p.stdout)
        if report['fit'] != way['fit']:
            raise Wrong(f'{way["command"]}: plan said {way["fit"]}, pad did {report["fit"]}')
        folder = way['command'].split(' -o ')[1].split()[0]
    elif way['fit']:
        raise Wrong(f'no command for {way["fit"]}')
    group = ['--group-size', str(way['group_size'])] if way['group_size'] else []
    for x in plan(work, folder, *asked, *group, '--tp', ','.join(map(str, gpus)))['entries']:
        by_experts = way['expert_parallel'] and any(o['expert_parallel'] and not o['fit'] for o in x['options'])
        if x['verdict'] not in ('runs', 'not-judged') and not by_experts:
            raise Wrong(f'{way}: {x["engine"]} {x["format"]} on {x["gpus"]} GPUs: {x["verdict"]} {x["violations"]}')
    if folder != way['folder']:
        shutil.rmtree(os.path.join(work, folder))


def follow(model, tp, engine, fmt, group):
    n = 0
    with tempfile.TemporaryDirectory(prefix='fitq-advice.') as work:
        shutil.copytree(model, os.path.join(work, 'model'))
        asked = ['--engine', engine, '--format', fmt] + (['--group-size', group] if group else [])
        for c in plan(work, 'model', *asked, '--tp', tp)['checkpoints']:
            ways = [c, *c['alternatives']] if c['state'] == 'needs-fit' else []
            for way in ways:
                way['folder'] = 'model'
                try_way(work, way, c['gpus'], asked)
                n += 1
    return n


def models():
    yield os.path.join(SOURCE, 'examples', 'tiny-qwen2')
    data = os.path.join(os.environ.get('FITQ_TEST_DATA', ''), 'own', 'tiny-qwen3-moe')
    if os.path.isdir(data):
        yield data


def main():
    failed = 0
    for model in models():
        n = 0
        for tp, engine, (fmt, group) in itertools.product(('2,3,4', '5-8'), ('vllm', 'vllm,sglang', 'tgi,transformers'),
                                                          (('bf16', None), ('bf16,gptq-marlin', None), ('gptq', '64'), ('awq', '32'))):
            try:
                n += follow(model, tp, engine, fmt, group)
            except (Wrong, subprocess.SubprocessError) as e:
                failed += 1
                print(f'    --tp {tp} --engine {engine} --format {fmt} --group-size {group}: {e}')
        name = os.path.basename(model)
        if n == 0:
            failed += 1
        print(f'[{"  FAILED  " if failed else "       OK "}] {name}: {n} ways lead to a checkpoint that runs', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
