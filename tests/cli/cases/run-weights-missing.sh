. $DATA/models.sh
w=model.layers.2.self_attn.q_proj
for name in $w.weight $w.bias model.norm.weight lm_head.weight model.embed_tokens.weight; do weights drop $name && runs && says && proves; done
weights rename $w.weight $w.extra && runs && proves
weights copy $w.weight model.layers.2.self_attn.r_proj.weight && runs && says && proves
weights copy $w.weight model.layers.4.self_attn.q_proj.weight && runs && says && proves
