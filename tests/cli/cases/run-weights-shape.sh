. $DATA/models.sh
w=model.layers.2.self_attn.q_proj.weight
weights dtype $w I16 && runs && says && proves
for shape in 128,512 256,256,1 65536 512,128; do weights reshape $w $shape && runs; done
weights reshape model.norm.weight 1,256 && runs && says
weights reshape model.embed_tokens.weight 4096,128 && runs
weights rows lm_head.weight 2047 && runs
weights rows model.layers.0.mlp.up_proj.weight 895 && runs
