fitq fit $DATA/qwen2-72b.json --gpus 2x24GiB --dry-run --json
