fitq inspect $EXAMPLES/tiny-qwen2 --json
