t=$EXAMPLES/tiny-qwen2
fitq convert $t -o out --to gptq; echo $?
fitq convert $t -o out; echo $?
fitq convert $t --to gptq; echo $?
fitq convert $t -o out --to gptqv2; echo $?
fitq quantize $t -o int8 --bits 8 --method rtn --quiet > log 2>&1
fitq convert int8 -o out --to awq; echo $?
fitq convert int8 -o out --to gptq; echo $?
sed -i 's/"gptq",$/"gptq_v2",/; s/"quant_method": "gptq_v2"/"quant_method": "gptq"/; s/"method": "gptq_v2"/"method": "gptq"/' int8/config.json
grep '"gptq' int8/config.json
fitq convert int8 -o out --to compressed-tensors; echo $?
fitq convert int8 -o out --to gptq --zeros v1 --quiet | head -1
grep '"gptq' out/config.json
fitq convert int8 -o out --to awq --zeros v3; echo $?
ls -A .
