. $DATA/models.sh
# a llama without attention_bias that stores biases all the same: left out, as engines do, and said
config 's/qwen2/llama/; s/Qwen2/Llama/' && runs && says
mv m b && config 's/qwen2/llama/; s/Qwen2/Llama/' && proves
# without them nothing is said, and the numbers are those of before
for i in 0 1 2 3; do for p in q k v; do python3 "$tools/st_edit.py" m/model.safetensors drop model.layers.$i.self_attn.${p}_proj.bias; done; done
runs
try fitq verify m b --ids ids --context 32 --threads 1 --quiet | grep -e '^same' -e agrees -e exit -e warning
