#!/usr/bin/env python3
"""Holds the documentation against the program: options in man pages and completions, symbols of the shared library, the examples
of man pages and --help (they are run, on a small model under the names of the examples), and every console block of the READMEs and of
docs/quantizing.md against what the commands print. --update writes what they print into them."""
import json
import math
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get('FITQ_SOURCE_DIR', os.path.dirname(os.path.dirname(HERE)))
BINARY = os.environ.get('FITQ_BINARY', os.path.join(SOURCE, 'build', 'release', 'fitq'))
LIBRARY = os.environ.get('FITQ_SHARED_LIBRARY', os.path.join(os.path.dirname(BINARY), 'libfitq.so'))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'tools'))
import random_quantized  # noqa: E402
import run as cases  # noqa: E402

DOCUMENTED = ('inspect', 'plan', 'fit', 'pad', 'convert', 'quantize', 'unpad', 'shard', 'unshard', 'verify', 'eval', 'generate', 'tokenize')


class Wrong(Exception):
    pass


class Skip(Exception):
    pass


def read(*path):
    with open(os.path.join(SOURCE, *path), encoding='utf-8') as f:
        return f.read()


def fitq(*args):
    return subprocess.run([BINARY, *args], capture_output=True, text=True, check=True, timeout=60).stdout


def options(command):
    body = fitq(command, '--help').split('\noptions:\n')[1].split('\n\n')[0]
    found = re.findall(r'^  (?:-\w, |    )--([\w-]+)', body, re.M)
    if not found:
        raise Wrong(f'fitq {command} --help shows no options')
    return set(found)


def commands():
    return re.findall(r'^  (\w+)  ', fitq('help'), re.M)


def same(what, found, expected):
    if found != expected:
        raise Wrong(f'{what}: missing {sorted(expected - found)}, too many {sorted(found - expected)}')


def man_options():
    for command in DOCUMENTED:
        text = read('docs', 'man', f'fitq-{command}.1').replace('\\-', '-')
        body = text.split('.SH OPTIONS\n')[1].split('\n.SH ')[0]
        found = set(re.findall(r'^\.B[IR]? .*?--([\w-]+)', body, re.M))
        same(f'fitq-{command}.1', found, options(command))


def man_commands():
    text = read('docs', 'man', 'fitq.1')
    for command in commands():
        if command not in text:
            raise Wrong(f'fitq.1 does not speak of {command}')


def man_format():
    if not shutil.which('groff'):
        raise Skip('no groff')
    for name in sorted(os.listdir(os.path.join(SOURCE, 'docs', 'man'))):
        p = subprocess.run(['groff', '-t', '-man', '-ww', '-Tutf8', os.path.join(SOURCE, 'docs', 'man', name)], capture_output=True, text=True)
        if p.returncode != 0 or p.stderr:
            raise Wrong(f'{name}: {p.stderr.strip()}')


def completions():
    text = {shell: fitq('completion', shell) for shell in ('bash', 'zsh', 'fish')}
    for command in commands():
        for shell, script in text.items():
            if command not in script:
                raise Wrong(f'{shell} does not know the command {command}')
        # a command's part of the bash script ends with the option names, or with them and the operands
        last = -2 if command in ('help', 'completion', 'version') else -1
        part = {'bash': re.search(rf'^    {command}\)\n(.*?) ;;\n(?=    \w|    esac)', text['bash'], re.M | re.S).group(1),
                'zsh': re.search(rf'^        {command}\) (.*?) ;;\n', text['zsh'], re.M | re.S).group(1),
                'fish': '\n'.join(line for line in text['fish'].splitlines() if f'seen_subcommand_from {command}\'' in line)}
        wanted = options(command)
        same(f'bash {command}', set(re.findall(r'--([\w-]+)', part['bash'].split('_fitq_words')[last])), wanted)
        same(f'zsh {command}', set(re.findall(r"--([\w-]+)[}\[]", part['zsh'])), wanted)
        same(f'fish {command}', set(re.findall(r' -l ([\w-]+)', part['fish'])), wanted)


def shell_syntax(shell):
    if not shutil.which(shell):
        raise Skip(f'no {shell}')
    p = subprocess.run([shell, '-n'], input=fitq('completion', shell), capture_output=True, text=True)
    if p.returncode != 0:
        raise Wrong(p.stderr.strip())


def symbols():
    if not shutil.which('nm'):
        raise Skip('no nm')
    if os.environ.get('FITQ_SANITIZE'):
        raise Skip('a sanitizer adds symbols')
    out = subprocess.run(['nm', '-D', '--defined-only', LIBRARY], capture_output=True, text=True, check=True).stdout
    found = {line.split()[-1].split('@')[0] for line in out.splitlines() if line.split()[1] in 'TDBR'}
    header = re.sub(r'/\*.*?\*/', '', read('include', 'fitq.h'), flags=re.S)
    same('exported', found, set(re.findall(r'\b(fq_\w+)\(', header)))


def console(command, work):
    env = dict(os.environ, LC_ALL='C.UTF-8', PATH=os.path.dirname(BINARY) + ':' + os.environ['PATH'])
    p = subprocess.run(['bash', '-c', command], cwd=work, env=env, capture_output=True, text=True, timeout=60)
    return p.stdout + p.stderr


def man_examples(page):
    """Every .EX block with commands in it, as a list of them."""
    for block in re.findall(r'^\.EX\n(.*?)^\.EE', read('docs', 'man', page).replace('\\-', '-'), re.M | re.S):
        lines = [line for line in block.splitlines() if line.startswith('fitq ')]
        if lines:
            yield lines


def help_examples(command):
    """Every line by itself: they do not build on each other."""
    body = fitq(command, '--help').split('\nexamples:\n')[1].split('\n\nexit status:')[0]
    return [[line.strip()] for line in body.splitlines()]


def hollow_model(folder, config):
    """A Qwen2 checkpoint whose weights are a hole in the file: zeros that take no room, whatever the size."""
    hidden, mlp, vocab, head = (config[k] for k in ('hidden_size', 'intermediate_size', 'vocab_size', 'num_attention_heads'))
    kv = hidden // head * config['num_key_value_heads']
    shapes = {'model.embed_tokens.weight': (vocab, hidden), 'lm_head.weight': (vocab, hidden), 'model.norm.weight': (hidden,)}
    layer = {'input_layernorm': (hidden,), 'post_attention_layernorm': (hidden,), 'mlp.gate_proj': (mlp, hidden), 'mlp.up_proj': (mlp, hidden),
             'mlp.down_proj': (hidden, mlp), **{f'self_attn.{x}_proj': (hidden if x in 'qo' else kv, hidden) for x in 'qkvo'}}
    for i in range(config['num_hidden_layers']):
        shapes.update({f'model.layers.{i}.{name}.weight': shape for name, shape in layer.items()})
        shapes.update({f'model.layers.{i}.self_attn.{x}_proj.bias': (hidden if x == 'q' else kv,) for x in 'qkv'})
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {'dtype': 'BF16', 'shape': shape, 'data_offsets': [begin, end]}
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    os.makedirs(folder)
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump(config, f)
    with open(os.path.join(folder, 'model.safetensors'), 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text)
        f.truncate(8 + len(text) + end)


def small_model(folder):
    """One layer. The 72B has its real odd width, 29568 / 32: groups of 128 need padding; that of the 7B is a multiple of 128, as the real one is."""
    width = 924 if '72B' in os.path.basename(folder) else 1024
    hollow_model(folder, {'architectures': ['Qwen2ForCausalLM'], 'model_type': 'qwen2', 'hidden_size': 1024, 'intermediate_size': width,
                          'num_attention_heads': 8, 'num_key_value_heads': 8, 'num_hidden_layers': 1, 'vocab_size': 2048,
                          'max_position_embeddings': 4096, 'rms_norm_eps': 1e-6, 'rope_theta': 1e6, 'hidden_act': 'silu',
                          'tie_word_embeddings': False, 'torch_dtype': 'bfloat16'})


def small_adapter(folder, width):
    """Of up_proj of the small model."""
    name = 'base_model.model.model.layers.0.mlp.up_proj.lora_'
    tensors = {f'{name}A.weight': (2, 1024), f'{name}B.weight': (width, 2)}
    header, end = {}, 0
    for tensor, shape in tensors.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[tensor] = {'dtype': 'F32', 'shape': shape, 'data_offsets': [begin, end]}
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    os.makedirs(folder)
    with open(os.path.join(folder, 'adapter_config.json'), 'w', encoding='utf-8') as f:
        json.dump({'peft_type': 'LORA', 'r': 2, 'base_model_name_or_path': 'Qwen2-72B'}, f)
    with open(os.path.join(folder, 'adapter_model.safetensors'), 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + bytes(end))


def quantized_model(folder, name):
    """Qwen2-7B-AWQ and the like, tiny."""
    form = {'GPTQ': 'gptq', 'AWQ': 'awq', 'FP8': 'fp8 blocks', 'GPTQ-mislabelled': 'gptq_v2'}[name]
    config = random_quantized.make(folder, random.Random(1), form, 'qwen2')
    if 'mislabelled' in name:
        config['quantization_config']['checkpoint_format'] = 'gptq'
        with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
            json.dump(config, f)


def example_models(work, lines):
    """The models that the examples speak of, all of them the small one; what they write is not there yet."""
    text = '\n'.join(lines)
    outputs = set(re.findall(r' -o (\S+)', text))
    shutil.copy(os.path.join(HERE, 'data', 'qwen2-72b.json'), os.path.join(work, 'config.json'))
    for name in set(re.findall(r'\bQwen2-\w+B\b(?!-)', text)) - outputs:
        small_model(os.path.join(work, name))
    for name in set(re.findall(r'\bQwen2-7B-((?:GPTQ|AWQ|FP8)(?:-mislabelled)?)\b', text)):
        quantized_model(os.path.join(work, 'Qwen2-7B-' + name), name)
    for name in set(re.findall(r'\bQwen2-\w+B-tp\d+\b', text)) - outputs:
        original = os.path.join(work, 'original-72B')
        small_model(original)
        fitq('pad', original, '-o', os.path.join(work, name), '--set', 'intermediate_size=1024', '--quiet')
        shutil.rmtree(original)
    if 'unshard ranks' in text:
        original = os.path.join(work, 'original')
        small_model(original)
        fitq('shard', original, '-o', os.path.join(work, 'ranks'), '--tp', '2', '--quiet')
        shutil.rmtree(original)
    if '--adapter my-lora' in text:
        small_adapter(os.path.join(work, 'my-lora'), 1024 if 'unpad --adapter' in text else 924)
    if re.search(r'tokenize|generate|quantize|fitq fit|corpus.txt|prompt.txt', text):
        for folder in [work] + [os.path.join(work, name) for name in os.listdir(work) if name.startswith('Qwen2-')]:
            shutil.copy(os.path.join(SOURCE, 'examples', 'tiny-qwen2', 'tokenizer.json'), folder)
        for name in ('prompt.txt', 'corpus.txt'):
            shutil.copy(os.path.join(SOURCE, 'LICENSE'), os.path.join(work, name))
        # two windows: what is shown is that the commands work, not how well
        few = read('LICENSE')[:4000]
        for name in ('texts.txt', 'held-out.txt'):
            with open(os.path.join(work, name), 'w', encoding='utf-8') as f:
                f.write(few)
        with open(os.path.join(work, 'texts.jsonl'), 'w', encoding='utf-8') as f:
            f.write(json.dumps({'text': few}) + '\n' + json.dumps({'messages': [{'role': 'user', 'content': 'How many GPUs?'}]}) + '\n')
        with open(os.path.join(work, 'story.txt'), 'w', encoding='utf-8') as f:
            f.write('Once upon a time there was a river.\n')


def example_shard(work, line):
    """Where to run the line: work, or a folder of its own if it speaks of one shard of a model."""
    shards = re.findall(r'\S*model-00001-of-\d+\.safetensors', line)
    for path in shards:
        folder = os.path.join(work, 'shard', os.path.dirname(path))
        small_model(folder)
        os.rename(os.path.join(folder, 'model.safetensors'), os.path.join(work, 'shard', path))
    return os.path.join(work, 'shard') if shards else work


def run_example(line, work):
    if '| jq' in line and not shutil.which('jq'):
        line = line.split('|')[0]
    line = line.split(' > ')[0]  # completion scripts go to the home folder
    p = subprocess.run(['bash', '-o', 'pipefail', '-c', line], cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace', timeout=60,
                       env=dict(os.environ, PATH=os.path.dirname(BINARY) + ':' + os.environ['PATH']))
    if p.returncode != 0:
        raise Wrong(f'{line}: exit {p.returncode}: {p.stderr.strip()}')


def run_examples(blocks):
    n = 0
    for lines in blocks:
        with tempfile.TemporaryDirectory(prefix='fitq-docs.') as work:
            example_models(work, lines)
            for line in lines:
                run_example(line, example_shard(work, line))
                n += 1
    if n == 0:
        raise Wrong('no examples')


def man_pages_run():
    for page in sorted(os.listdir(os.path.join(SOURCE, 'docs', 'man'))):
        run_examples(man_examples(page))


def help_runs():
    for command in commands():
        run_examples(help_examples(command))


def keyword_case():
    """A choice that begins a sentence is still written as it is typed."""
    words = ('Auto:', 'Llama:', 'Spread:', 'Tail:', 'Keep:')
    for page in sorted(os.listdir(os.path.join(SOURCE, 'docs', 'man'))):
        for word in words:
            if word in read('docs', 'man', page):
                raise Wrong(f'{page}: {word}')


def sizes(text):
    """Memory that a dry run names, in bytes: it depends a little on threads and pages, and is compared with some room."""
    units = {'KiB': 2**10, 'MiB': 2**20, 'GiB': 2**30, 'TiB': 2**40}
    found = re.findall(r'(?:peak memory: about|, and|at least) ([0-9.]+) ([KMGT]iB)', text)
    return [float(number) * units[unit] for number, unit in found]


def same_output(found, expected, work):
    near = [0.85 < f / e < 1.15 for f, e in zip(sizes(found), sizes(expected))]
    return all(near) and cases.normal(found, work).strip('\n') == cases.normal(expected, work).strip('\n')


def readme_files(work, text):
    """What the blocks of a document speak of."""
    shutil.copy(os.path.join(HERE, 'data', 'qwen2-72b.json'), os.path.join(work, 'config.json'))
    shutil.copytree(os.path.join(SOURCE, 'examples', 'tiny-qwen2'), os.path.join(work, 'tiny-qwen2'))
    shutil.copy(os.path.join(SOURCE, 'examples', 'calib.txt'), work)
    if 'tiny-gptq' in text:
        subprocess.run([sys.executable, os.path.join(SOURCE, 'tests', 'tools', 'pack_quantized.py'), os.path.join(work, 'tiny-qwen2'), os.path.join(work, 'tiny-gptq'), 'gptq', '4', '128'], check=True)
    if re.search(r'^\$ fitq \w+ Qwen2-72B ', text, re.M):
        hollow_model(os.path.join(work, 'Qwen2-72B'), json.loads(read('tests', 'cli', 'data', 'qwen2-72b.json')))
        shutil.copy(os.path.join(SOURCE, 'examples', 'tiny-qwen2', 'tokenizer.json'), os.path.join(work, 'Qwen2-72B'))
        with open(os.path.join(work, 'texts.txt'), 'w', encoding='utf-8') as f:
            f.write(read('examples', 'calib.txt') * 40)


class Session:
    """The commands of one document, one after another in one folder. What printed the same commands before is not run again: translations are compared
    with what the original showed."""
    known = {}

    def __init__(self, work, text):
        self.work, self.text, self.said, self.ran = work, text, (), 0

    def run(self, command):
        self.said += (command,)
        if self.said in self.known:
            return self.known[self.said].replace('WORKING-FOLDER', self.work)
        if self.ran == 0:
            readme_files(self.work, self.text)
        for n in range(self.ran, len(self.said)):
            self.known[self.said[:n + 1]] = console(self.said[n], self.work).replace(self.work, 'WORKING-FOLDER')
        self.ran = len(self.said)
        return self.known[self.said].replace('WORKING-FOLDER', self.work)


def readme(name, update=False):
    """Every ```console block: lines that begin with "$ " are run, what follows is what they print."""
    text = read(*name.split('/'))
    blocks = re.findall(r'```console\n(.*?)```', text, re.S)
    if not blocks:
        raise Wrong(f'{name} has no console block')
    with tempfile.TemporaryDirectory(prefix='fitq-docs.') as work:
        session = Session(work, text)
        for block in blocks:
            new = ''
            for command, expected in re.findall(r'^\$ (.*)\n((?:(?!\$ ).*\n)*)', block, re.M):
                got = session.run(command)
                new += f'$ {command}\n{got}'
                if not update and not same_output(got, expected, work):
                    raise Wrong(f'{name}: $ {command}\n--- documented\n{expected}--- found\n{got}\n')
            text = text.replace(f'```console\n{block}```', f'```console\n{new}```')
    if update:
        with open(os.path.join(SOURCE, name), 'w', encoding='utf-8') as f:
            f.write(text)


READMES = ('README.md', 'README.zh-CN.md', 'docs/quantizing.md', 'docs/converting.md', 'docs/sharding.md')

TESTS = {
    'man pages have every option': man_options, 'man page has every command': man_commands,
    'man pages format without warnings': man_format, 'examples of the man pages run': man_pages_run,
    'examples of --help run': help_runs, 'keywords keep their letters': keyword_case, 'completions have every option': completions,
    'bash completion is a valid script': lambda: shell_syntax('bash'),
    'zsh completion is a valid script': lambda: shell_syntax('zsh'),
    'fish completion is a valid script': lambda: shell_syntax('fish'), 'only fq_* is exported': symbols,
    **{f'{name} shows real output': lambda name=name: readme(name) for name in READMES},
}


def main(args):
    if args == ['--update']:
        for name in READMES:
            readme(name, update=True)
        return 0
    failed = 0
    for name, test in TESTS.items():
        try:
            test()
            print(f'[       OK ] {name}')
        except Skip as e:
            print(f'[  SKIPPED ] {name} ({e})')
        except (Wrong, OSError, subprocess.SubprocessError, AttributeError) as e:
            failed += 1
            print(f'    {e}\n[  FAILED  ] {name}', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
