printf 'caf\u00e9 <|im_end|>' > text
fitq tokenize $EXAMPLES/tiny-qwen2/tokenizer.json text --json
fitq tokenize $EXAMPLES/tiny-qwen2/tokenizer.json text --json --count
fitq tokenize $EXAMPLES/tiny-qwen2/tokenizer.json text | fitq tokenize $EXAMPLES/tiny-qwen2/tokenizer.json - --decode --json
