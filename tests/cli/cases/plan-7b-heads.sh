fitq plan $DATA/qwen2-7b.json --tp 3-8 --format bf16
