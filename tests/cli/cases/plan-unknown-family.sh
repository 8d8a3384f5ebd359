fitq plan $DATA/unknown-family.json --tp 3 --engine vllm
