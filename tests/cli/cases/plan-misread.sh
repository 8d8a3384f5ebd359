# a config whose head_dim vLLM ignores for qwen2: written as llama it would be read
sed 's/"hidden_size": 3584/"hidden_size": 3584, "head_dim": 96/' $DATA/qwen2-7b.json > config.json
fitq plan config.json --tp 1,2 --engine vllm --format bf16
