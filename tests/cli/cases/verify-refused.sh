M=$EXAMPLES/tiny-qwen2
fitq verify $M $M --weights --text x; echo $?
fitq verify $M $M --text x --ids y; echo $?
fitq verify $M $M --served-dtype int8; echo $?
fitq verify $M $M --text nowhere; echo $?
echo short > text; fitq verify $M $M --text text; echo $?
echo 1 2 99999 > ids; fitq verify $M $M --ids ids --context 2; echo $?
cp -r $M q; sed -i 's/{/{ "quantization_config": { "quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true },/' q/config.json
fitq verify $M q; echo $?
cp -r $M n; sed -i 's/"num_hidden_layers": 4/"num_hidden_layers": 3/' n/config.json
fitq verify $M n; echo $?
fitq verify $M $M --memory 8MiB 2>&1 | sed -E 's/[0-9]+ bytes|[0-9.]+ MiB/N/g'; echo ${PIPESTATUS[0]}
