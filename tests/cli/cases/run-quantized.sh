. $DATA/models.sh
for q in '{"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false}' '{"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true}' \
         '{"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}' '{"quant_method": "bitsandbytes", "load_in_4bit": true}' \
         '{"load_in_8bit": true}' '{}' 4 null; do
    field "\"quantization_config\": $q" && runs
done
field '"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}' && says && proves && try fitq verify m $t --quiet
try fitq eval $t --reference m --ids ids --context 32 --quiet
# weights that are packed though config.json does not say so
w=model.layers.2.self_attn.q_proj
weights rename $w.weight $w.qweight && runs
weights copy $w.weight $w.weight_scale && runs && says && proves
