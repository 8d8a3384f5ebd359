fitq generate $EXAMPLES/tiny-qwen2 --prompt 'The President of the United States' --max-tokens 6 --json --quiet > out
python3 - <<'P'
import json
o = json.load(open('out'))
print(list(o))
print(o['text'], o['ids'], o['stopped'], o['prompt_tokens'], o['tokens'], o['weight_bytes_per_token'])
assert o['kernel'] in ('c', 'avx2', 'avx512') and o['threads'] > 0 and o['memory_bytes'] > 9000000 and o['seconds'] > 0 and o['prompt_seconds'] > 0
P
fitq generate $EXAMPLES/tiny-qwen2 --prompt 'The President' --context 8 --json --quiet | grep -E 'stopped|"tokens"'
