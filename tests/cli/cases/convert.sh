t=$EXAMPLES/tiny-qwen2
fitq quantize $t -o gptq --group-size 128 --method rtn --quiet > log 2>&1
fitq convert gptq -o ct --to compressed-tensors
ls -A ct
fitq convert ct -o awq --to awq --json --quiet | grep -A9 '"seconds"'
fitq convert awq -o back --to gptq --quiet | head -1
fitq verify --weights gptq back --quiet | tail -1
diff gptq/quantize_config.json back/quantize_config.json
fitq convert gptq -o fp16 --to fp16
grep -n 'torch_dtype\|quantization_config' fp16/config.json
fitq verify awq gptq --chunks 1 --context 16 --threads 1 --quiet | tail -1
cat ct/fitq.json | grep -o '"converted_to.*'
fitq convert gptq --dry-run --to gptq_v2 | grep 'layers.0.mlp.up_proj\|would'
fitq verify --weights gptq ct | tail -3
fitq inspect awq | head -6
