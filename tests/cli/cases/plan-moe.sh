fitq plan $DATA/qwen3-30b-a3b.json --tp 2,4,8 --format fp8-block,gptq-marlin
