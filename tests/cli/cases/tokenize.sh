printf "Hello world, hello <|im_end|>\n" | fitq tokenize $EXAMPLES/tiny-qwen2
