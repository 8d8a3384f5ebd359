fitq plan $DATA/qwen2-72b.json --tp 2,4 --engine vllm --format gptq-marlin --gpu-memory 24GiB --context 32768
