. $DATA/models.sh
for e in 0 -1 1e999 '"small"' null; do config "s/\"rms_norm_eps\": 1e-06/\"rms_norm_eps\": $e/" && runs; done
for e in 0 -10000 1e999 null; do config "s/\"rope_theta\": 10000.0/\"rope_theta\": $e/" && runs; done
config 's/"hidden_act": "silu"/"hidden_act": "gelu"/' && runs
config 's/"hidden_act": "silu"/"hidden_act": 3/' && runs
config 's/"tie_word_embeddings": false/"tie_word_embeddings": "no"/' && runs
for e in 4096 -1 '"end"' '[1, 2048]'; do config "s/\"eos_token_id\": 2045/\"eos_token_id\": $e/" && runs; done
for e in '"gpt2"' '"qwen3"' 3 null '""'; do config "s/\"model_type\": \"qwen2\"/\"model_type\": $e/" && runs; done
config 's/}$//' && runs && says && proves
config '1s/{/{ "vocab_size": 1,/' && runs
