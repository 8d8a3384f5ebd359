m=$EXAMPLES/tiny-qwen2
fitq generate $m --prompt 'The President of the United States' --max-tokens 24 --quiet
fitq generate $m --prompt 'The President of the United States' --max-tokens 24 --quiet --exact --threads 1
printf 'The President of the United States' | fitq generate $m --prompt-file - --max-tokens 24 --quiet
fitq generate $m --prompt 'The President of the United States' --max-tokens 24 --temperature 0.8 --top-p 0.9 --seed 1 --quiet > a
fitq generate $m --prompt 'The President of the United States' --max-tokens 24 --temperature 0.8 --top-p 0.9 --seed 1 --quiet > b
fitq generate $m --prompt 'The President of the United States' --max-tokens 24 --temperature 0.8 --top-p 0.9 --seed 2 --quiet > c
cmp a b && ! cmp -s a c && echo seeds
fitq generate $m/model.safetensors --prompt 'The President' --max-tokens 4 --quiet
fitq generate $m --prompt 'The President' --max-tokens 4 2>&1 >/dev/null | sed -E 's/[0-9.]+ s,/N s,/; s/[0-9.]+ tokens\/s.*/N tokens\/s/'
