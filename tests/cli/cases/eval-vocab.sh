. $DATA/models.sh
# a vocabulary of 1000 behind a tokenizer of 2048
weights rows lm_head.weight 1000 && python3 $tools/st_edit.py m/model.safetensors rows model.embed_tokens.weight 1000
sed -i 's/"vocab_size": 2048/"vocab_size": 1000/; s/"eos_token_id": 2045/"eos_token_id": 999/' m/config.json
runs
seq 990 1000 > ids && runs --context 4
printf 'The President of the United States of America' > text
try fitq eval m --text text --context 4 --quiet
try fitq eval m --ids ids --context 4 --bos always --quiet
says
says --prompt 'a b'
seq 1 64 > ids && proves --context 4
try fitq eval m --reference $t --ids ids --context 4 --quiet
try fitq eval $t --reference m --ids ids --context 4 --quiet
