. $DATA/models.sh
# finite weights whose results are not: the largest bf16
weights set lm_head.weight 5 7f7f && runs && says && proves
weights set model.layers.1.input_layernorm.weight 5 7f7f && runs && says
# 65536 is a number in fp32 and in bf16, not in fp16
weights set model.layers.1.input_layernorm.weight 5 8047 && runs --served-dtype fp16 && says --served-dtype fp16
runs --served-dtype bf16
