. $DATA/models.sh
proves() { try fitq verify --ids ids --context 32 --threads 1 --quiet "$@" | sed -E 's/[0-9]\.[0-9]+e[-+][0-9]+|[0-9]+\.[0-9]+;?/N/g' | grep -v -e '^$' -e 'logit diff' -e KL -e 'IN FAST' -e same.top; }
fresh && truncate -s -1 m/model.safetensors && proves $t m && proves m $t
fresh && rm m/config.json && proves $t m && proves m $t
weights set model.layers.2.mlp.up_proj.weight 7 c07f && proves $t m && proves m $t && proves m m
weights drop model.norm.weight && proves m $t && proves m m
config 's/"rms_norm_eps": 1e-06/"rms_norm_eps": 1e-03/' && proves $t m
config 's/"rope_theta": 10000.0/"rope_theta": 20000.0/' && proves $t m
config 's/"model_type": "qwen2"/"model_type": "llama"/' && proves $t m
fresh && echo '{' > m/fitq.json && proves $t m
fresh && echo '{}' > m/fitq.json && proves $t m
