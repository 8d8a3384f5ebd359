mkdir -p "a model"; cp $DATA/qwen2-72b.json "a model/config.json"
fitq plan "a model" --tp 8 --engine vllm --format gptq-marlin | tail -3
fitq plan "a model/config.json" --tp 8 --engine vllm --format gptq-marlin | tail -1
cd "a model"; fitq plan . --tp 8 --engine vllm --format gptq-marlin | tail -1
fitq plan config.json --tp 8 --engine vllm --format gptq-marlin | tail -1
