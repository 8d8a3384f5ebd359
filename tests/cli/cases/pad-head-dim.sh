# vLLM ignores head_dim for qwen2: padded heads are refused or, with exact lengths, written with a warning
cp -r $EXAMPLES/tiny-qwen2 tiny
fitq pad tiny -o a --tp 3 --vocab --engine vllm; echo $?
fitq pad tiny -o b --tp 3 --vocab --engine vllm --as llama | tail -1
fitq plan b --tp 3 --engine vllm --format gptq-marlin | tail -1
fitq pad tiny -o c --set num_attention_heads=12,num_key_value_heads=3,intermediate_size=1024 | tail -1
fitq plan c --tp 1 --engine vllm --format bf16 | sed -n '/What to do/,$p'
fitq plan c/config.json --tp 1 --engine vllm --format bf16 --json | grep '"command"'
