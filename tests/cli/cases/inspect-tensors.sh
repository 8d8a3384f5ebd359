fitq inspect $EXAMPLES/tiny-qwen2 --tensors | tail -n +16
