fitq plan $DATA/qwen2-72b.json --tp 8 --engine all --format all | head -110
