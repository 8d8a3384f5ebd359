todo() { fitq plan "$@" | sed -n '/What to do/,$p'; }
# the cheapest way pads and regroups; the way with the group size that was asked for follows
todo $DATA/qwen3-30b-a3b.json --tp 5 --engine vllm --format awq
# expert parallelism before padding
todo $DATA/qwen3-30b-a3b.json --tp 4,8 --engine vllm
# only a smaller group suits a hidden size that no padding changes
sed 's/"hidden_size": 2048/"hidden_size": 2112/' $DATA/qwen3-30b-a3b.json > narrow.json
todo narrow.json --tp 1 --engine vllm --format awq
# heads that engines would misread
todo $DATA/qwen2-7b.json --tp 7 --engine vllm --format bf16
