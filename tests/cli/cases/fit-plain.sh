# 16 bits fit: padded, or not even that
t=$EXAMPLES/tiny-qwen2
fitq fit $t -o out --gpus 3x4GiB --quiet
fitq verify --weights $t out --quiet | tail -1
fitq fit $t -o none --gpus 2x4GiB --quiet
fitq fit $t -o none --gpus 2x4GiB --quiet --json
ls -A
