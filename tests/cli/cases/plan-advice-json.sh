fitq plan $DATA/qwen3-30b-a3b.json --tp 8 --engine vllm --format gptq-marlin --json | sed -n '/"checkpoints"/,$p'
