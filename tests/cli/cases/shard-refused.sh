t=$EXAMPLES/tiny-qwen2
fitq shard $t -o out; echo $?
fitq shard $t --tp 2; echo $?
fitq shard $t -o out --tp 2,4; echo $?
fitq shard $t -o out --tp 3; echo $?
fitq shard $t -o out --tp 2 --names vllm; echo $?
fitq quantize $t -o int4 --group-size 128 --method rtn --quiet > log 2>&1
fitq shard int4 -o out --tp 2; echo $?
fitq quantize $t -o ct --group-size 32 --format compressed-tensors --method rtn --quiet > log 2>&1
fitq shard ct -o out --tp 2 --names engine; echo $?
fitq unshard $t -o out; echo $?
fitq unshard $t; echo $?
fitq shard $t -o two --tp 2 --quiet > log
rm two/model-rank-1-part-0.safetensors
fitq unshard two -o out; echo $?
sed -i 's/"tp": 2/"tp": 3/' two/fitq-ranks.json
fitq unshard two -o out; echo $?
ls -A .
