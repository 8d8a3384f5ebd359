. $DATA/models.sh
for n in 512 248 0 -256 256.0 '"256"' null 9223372036854775807 99999999999999999999; do config "s/\"hidden_size\": 256/\"hidden_size\": $n/" && runs; done
for n in 7 16 0; do config "s/\"num_attention_heads\": 8/\"num_attention_heads\": $n/" && runs; done
for n in 3 16; do config "s/\"num_key_value_heads\": 2/\"num_key_value_heads\": $n/" && runs; done
for n in 31 33 64 0 -32; do field "\"head_dim\": $n" && runs; done
for n in 3 5 0 100000000; do config "s/\"num_hidden_layers\": 4/\"num_hidden_layers\": $n/" && runs; done
config 's/"intermediate_size": 896/"intermediate_size": 895/' && runs && says && proves
for n in 2047 2049 40; do config "s/\"vocab_size\": 2048/\"vocab_size\": $n/" && runs; done
# an odd head_dim that the weights have
weights reshape lm_head.weight 2048,256
sed -i 's/"num_attention_heads": 8/"num_attention_heads": 256/; s/"num_key_value_heads": 2/"num_key_value_heads": 64/' m/config.json && runs
