fitq inspect $EXAMPLES/tiny-qwen2/model.safetensors
