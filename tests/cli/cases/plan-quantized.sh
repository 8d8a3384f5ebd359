# what is quantized already: padding, smaller groups and expert parallelism with their prices, and commands that can be typed
sizes='"num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 29568, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 152064'
qwen2() { printf '{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", %s, "quantization_config": %s}' "$sizes" "$1" > config.json; }
what() { fitq plan "$@" | sed -n '/^What to do/,$p'; }
qwen2 '{"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true, "version": "gemm"}'
what config.json --tp 2,4,8
what config.json --tp 2
what config.json --tp 4 --engine vllm
qwen2 '{"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true, "desc_act": true}'
what config.json --tp 2 --engine vllm
qwen2 '{"quant_method": "mxfp4"}'
what config.json --tp 2 --engine vllm --format mxfp4
printf '%s' '{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_hidden_layers": 94, "hidden_size": 4096, "intermediate_size": 12288,
 "moe_intermediate_size": 1536, "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "head_dim": 128, "num_attention_heads": 64, "num_key_value_heads": 4,
 "vocab_size": 151936, "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}}' > config.json
what config.json --tp 4,8
what config.json --tp 16
