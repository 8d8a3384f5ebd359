show() { echo "# $*"; fitq fit $DATA/$1 --gpus $2 --dry-run "${@:3}" 2>&1; echo "exit $?"; }
show qwen2-72b.json 1x24GiB
show qwen2-72b.json 1x48GiB
show qwen2-72b.json 2x24GiB
show qwen2-72b.json 3x24GiB
show qwen2-72b.json 4x24GiB
show qwen2-72b.json 2x24GiB --context 32768
show qwen2-72b.json 8x8GiB
show qwen2-72b.json 8x8GiB --engine vllm
show qwen2-72b.json 8x24GiB
show qwen2-7b.json 1x8GiB
show qwen2-7b.json 7x4GiB
show qwen3-30b-a3b.json 4x8GiB
show unknown-family.json 3x24GiB
