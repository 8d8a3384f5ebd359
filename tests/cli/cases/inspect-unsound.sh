cp -r $EXAMPLES/tiny-qwen2 broken
sed -i 's/"vocab_size": 2048/"vocab_size": 2047/; s/"num_hidden_layers": 4/"num_hidden_layers": 5/' broken/config.json
fitq inspect broken
echo "exit $?"
fitq pad broken -o out --tp 2
echo "exit $?"
truncate -s -1 broken/model.safetensors
fitq inspect broken
echo "exit $?"
