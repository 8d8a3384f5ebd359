. $DATA/models.sh
against() { try fitq eval "$1" --reference "$2" --ids ids --context 32 --exact --threads 1 --quiet | grep -v tokens/s; }
against $t missing
against missing $t
against $t ids
against $t ''
weights set model.layers.2.self_attn.q_proj.weight 1000 c07f && against $t m && against m $t
weights set lm_head.weight 5 7f7f && against $t m && against m $t
weights drop model.norm.weight && against $t m && against m $t
config 's/"num_hidden_layers": 4/"num_hidden_layers": 3/' && against $t m
fresh && truncate -s -1 m/model.safetensors && against $t m
