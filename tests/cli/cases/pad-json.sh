fitq pad $EXAMPLES/tiny-qwen2 -o out --tp 4 --format gptq --group-size 64 --layout tail --json
