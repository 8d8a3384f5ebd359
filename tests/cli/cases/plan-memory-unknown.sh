# latent attention: what is not known is not said to fit
sed 's/"nobody_knows"/"deepseek_v3", "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "kv_lora_rank": 512, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512/' $DATA/unknown-family.json > config.json
fitq plan config.json --tp 2 --engine vllm --format bf16 --gpu-memory 24GiB
fitq plan config.json --tp 2 --engine vllm --format bf16 --gpu-memory 24GiB --json | grep -A6 '"memory"'
