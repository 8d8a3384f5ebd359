fitq plan $DATA/qwen2-72b.json --tp 2,3,4,6,8
