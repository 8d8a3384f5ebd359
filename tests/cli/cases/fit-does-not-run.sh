fitq fit $EXAMPLES/tiny-qwen2 -o out --bits 3 --tp 2 --method rtn --quiet
