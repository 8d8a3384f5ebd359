fitq plan $DATA/qwen2-72b.json --tp 2,4,8 --engine vllm --format gptq-marlin
