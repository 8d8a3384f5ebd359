cp $EXAMPLES/tiny-qwen2/model.safetensors .
fitq plan model.safetensors; echo $?
echo '{"weight_map": {}}' > model.safetensors.index.json
fitq plan model.safetensors.index.json; echo $?
echo '{"bits": 4, "group_size": 128}' > quantize_config.json
fitq plan quantize_config.json; echo $?
# what is not there is not there, whatever its name
fitq plan no.safetensors; echo $?
