# no shard at all, then no config.json
mkdir model; cp $DATA/qwen2-72b.json model/config.json
echo '{"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}' > model/model.safetensors.index.json
fitq inspect model; echo $?
fitq inspect model --json | grep -E '"(tied|tensors)"'
cp $EXAMPLES/tiny-qwen2/model.safetensors alone.safetensors
fitq inspect alone.safetensors | grep embeddings
