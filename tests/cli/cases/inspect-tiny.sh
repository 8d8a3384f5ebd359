fitq inspect $EXAMPLES/tiny-qwen2
