fitq plan $DATA/qwen2-72b.json --tp 8 --engine vllm --format gptq-marlin --gpu-memory 24GiB --json
