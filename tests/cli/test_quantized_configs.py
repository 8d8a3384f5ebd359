#!/usr/bin/env python3
"""Quantized checkpoints with the settings and names that published ones have: their config.json and index as they are, with one layer and smaller lengths.

Each goes through inspect, plan, pad, verify and unpad. What published files have and documents do not say: a bias of zeros for every linear layer,
settings of a quantizer in keys that nobody reads, a name of another family, formats of one engine.

FITQ_TEST_DATA names the folder of published files. Exit 77 without it. Environment: FITQ_BINARY, FITQ_SOURCE_DIR."""
import json
import os
import random
import re
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import test_demand_quantized as demand  # noqa: E402
from test_demand_quantized import Failed, fitq, need, unpack_quantized  # noqa: E402

DATA = os.environ.get('FITQ_TEST_DATA')

# file, what is in it, what inspect says of it, GPUs on which it is padded (0: it fits)
CONFIGS = [
    ('shuyuej--Qwen2-72B-Instruct-GPTQ.config.json', 'gptq', 'gptq, 4 bits in groups of 128', 2),
    ('ellamind--qwen2-72b-instruct-awq-de.config.json', 'awq', 'awq, 4 bits in groups of 128', 4),
    ('LDCC--Qwen2.5-72B-Instruct-ko-AWQ.config.json', 'awq', 'awq, 4 bits in groups of 128', 8),
    ('study-hjt--Qwen1.5-110B-Chat-AWQ.config.json', 'awq', 'awq, 4 bits in groups of 128', 0),
]
# settings that lie beside config.json, or in it without the rest of the file
SETTINGS = [
    ('psyche--Qwen2-72B-Instruct-GPTQ-Int4.quantize_config.json', 'gptq', 'gptq, 4 bits in groups of 128'),
    ('OPEA--Qwen2.5-72B-Instruct-int4-sym-inc.quantize_config.json', 'gptq', 'gptq, 4 bits in groups of 128'),
]


def read(name):
    with open(os.path.join(DATA, 'quant', name), encoding='utf-8') as f:
        return json.load(f)


def write(folder, config, settings, form, drawn, biases):
    """One layer of the config's family: real width of the MLP, few heads."""
    c = {**demand.model(config['model_type'], {'intermediate_size': config['intermediate_size']}), 'rms_norm_eps': config.get('rms_norm_eps', 1e-6)}
    demand.make(folder, c, form, 128, drawn)
    small = {**config, **{k: c[k] for k in ('num_hidden_layers', 'num_attention_heads', 'num_key_value_heads', 'hidden_size', 'vocab_size')}, 'quantization_config': settings,
             **{k: 1 for k in ('bos_token_id', 'eos_token_id') if k in config}}   # ids of the smaller vocabulary
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
        json.dump(small, f, indent=2)
    if biases:
        tensors = {name: (t.dtype, t.shape, t.data) for name, t in demand.st_reader.read_folder(folder).items()}
        for module, (n, _) in demand.linears(c).items():
            tensors.setdefault(module + '.bias', ('F16', (n,), bytes(2 * n)))
        unpack_quantized.write(os.path.join(folder, 'model.safetensors'), tensors)


def all_the_way(work, source, said, tp):
    padded, back = os.path.join(work, 'padded'), os.path.join(work, 'back')
    code, out, err = fitq('inspect', source)
    need(code == 0 and said in out and ('biases beside codes' in out) == ('gptq' in said), f'inspect: exit {code}: {out}{err}')
    code, out, err = fitq('plan', source, '--tp', str(tp or 8))
    need(code == 0 and ('runs after padding' in out) == bool(tp), f'plan: exit {code}: {out}{err}')
    ask = ['--tp', str(tp), '--layout', 'tail'] if tp else ['--set', 'vocab_size=320']
    code, out, err = fitq('pad', source, '-o', padded, '--quiet', *ask)
    need(code == 0, f'pad: exit {code}: {err}')
    code, out, err = fitq('plan', padded, '--tp', str(tp or 8))
    need(code == 0 and 'does not run' not in out and 'wrong results' not in out, f'plan of the padded one: exit {code}: {out}{err}')
    code, out, err = fitq('verify', source, padded, '--context', '8', '--chunks', '1', '--quiet')
    need(code == 0 and 'same: ' in out, f'verify: exit {code}: {out}{err}')
    code, out, err = fitq('unpad', padded, '-o', back, '--quiet')
    need(code == 0, f'unpad: exit {code}: {err}')
    for name in os.listdir(source):
        with open(os.path.join(source, name), 'rb') as a, open(os.path.join(back, name), 'rb') as b:
            if name != 'model.safetensors':
                need(a.read() == b.read(), f'unpad: {name} is another file')
    code, out, err = fitq('verify', '--weights', source, back, '--quiet')
    need(code == 0, f'verify of what unpad gave: exit {code}: {out}{err}')


def config_case(work, drawn, name, form, said, tp):
    config = read(name)
    source = os.path.join(work, 'source')
    write(source, config, config['quantization_config'], form, drawn, biases=form == 'gptq')
    all_the_way(work, source, said, tp)


def settings_case(work, drawn, name, form, said):
    """In config.json, and in the file of its own as well."""
    settings, config = read(name), read('shuyuej--Qwen2-72B-Instruct-GPTQ.config.json')
    source = os.path.join(work, 'source')
    write(source, config, settings, form, drawn, biases=True)
    shutil.copy(os.path.join(DATA, 'quant', name), os.path.join(source, 'quantize_config.json'))
    all_the_way(work, source, said, 2)


def refused(work, drawn):
    """A format of one engine, bits that cross words, and names of a family that fitq does not know."""
    marlin, three = read('GSJL--Qwen2.5-32B-Instruct-GPTQ-Marlin.config.json'), read('Genz-70b-GPTQ.config.json')
    source, out = os.path.join(work, 'source'), os.path.join(work, 'out')
    write(source, marlin, marlin['quantization_config'], 'gptq', drawn, biases=False)
    code, _, err = fitq('pad', source, '-o', out, '--set', 'vocab_size=320')
    need(code == 3 and 'marlin' in err, f'marlin: exit {code}: {err}')
    code, text, err = fitq('plan', os.path.join(DATA, 'quant', 'Genz-70b-GPTQ.config.json'), '--tp', '2')
    need(three['quantization_config']['bits'] == 3 and code == 0 and 'gptq 3' in text, f'3 bits: exit {code}: {text}{err}')
    shutil.rmtree(source)
    os.mkdir(source)
    shutil.copy(os.path.join(DATA, 'quant', 'Qwen-VL-Chat-Int4.config.json'), os.path.join(source, 'config.json'))
    names = sorted({re.sub(r'\.h\.\d+\.', '.h.0.', n) for n in read('Qwen-VL-Chat-Int4.model.safetensors.index.json')['weight_map']})
    kinds = {'qweight': ('I32', (4, 32)), 'qzeros': ('I32', (1, 4)), 'scales': ('F16', (1, 32)), 'g_idx': ('I32', (32,))}
    unpack_quantized.write(os.path.join(source, 'model.safetensors'),
                           {n: (*kinds.get(n.rsplit('.', 1)[1], ('F16', (32,))), bytes({'qweight': 512, 'qzeros': 16, 'scales': 64, 'g_idx': 128}.get(n.rsplit('.', 1)[1], 64))) for n in names})
    code, text, err = fitq('inspect', source)
    need(code == 0 and 'QWenLMHeadModel' in text and str(len(names)) in text, f'a family that is not known: exit {code}: {text}{err}')
    code, _, err = fitq('pad', source, '-o', out, '--tp', '2')
    need(code == 3 and 'unknown-family' in err and not os.path.exists(out), f'a family that is not known: exit {code}: {err}')


def main():
    if not DATA or not os.path.isdir(os.path.join(DATA, 'quant')):
        print('FITQ_TEST_DATA is not set: skipped')
        return 77
    drawn = demand.Drawn(random.Random(20261123))
    failed = 0
    cases = [(c[0], lambda work, c=c: config_case(work, drawn, *c)) for c in CONFIGS]
    cases += [(c[0], lambda work, c=c: settings_case(work, drawn, *c)) for c in SETTINGS] + [('what is refused', lambda work: refused(work, drawn))]
    for name, case in cases:
        with tempfile.TemporaryDirectory(prefix='fitq-configs.') as work:
            try:
                case(work)
                print(f'{name}: ok', flush=True)
            except (Failed, KeyError, OSError) as e:
                failed += 1
                print(f'FAILED {name}: {e}', flush=True)
    print(f'{failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
