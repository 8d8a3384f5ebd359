. $DATA/models.sh
# bf16, first byte first: c07f is NaN, 807f infinity
w=model.layers.2.self_attn.q_proj.weight
weights set $w 1000 c07f && runs && says && proves
weights set $w 65535 80ff && runs && says
weights set model.layers.3.input_layernorm.weight 0 c0ff && runs
weights set model.layers.0.self_attn.v_proj.bias 63 c07f && runs
weights set model.norm.weight 3 c0ff && runs && says
weights set lm_head.weight 524287 807f && runs && says
# only rows of the embeddings that a token has are read: row 3 is, row 2000 is not
weights set model.embed_tokens.weight 770 c07f && runs && proves
weights set model.embed_tokens.weight 512000 c07f && runs && try fitq verify --weights $t m --quiet
