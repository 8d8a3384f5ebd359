t=$EXAMPLES/tiny-qwen2
fitq shard $t -o two --tp 2 --quiet | sed 's/in [0-9.]* s/in T s/'
ls -A two
fitq unshard two -o back --quiet | sed 's/in [0-9.]* s/in T s/'
ls -A back
fitq verify --weights $t back --quiet | tail -1
fitq inspect two; echo $?
fitq shard $t --tp 4 -n | grep 'layers.0.*rank-[03]\|would\|a rank\|KV\|peak'
fitq shard $t -o engine --tp 2 --names engine --shard-size 2MB --json --quiet | grep -A20 '"tp"'
ls -A engine
fitq unshard engine -o back2 --quiet | head -1 | sed 's/in [0-9.]* s/in T s/'
cmp back/model.safetensors back2/model.safetensors && echo same
fitq quantize $t -o int4 --group-size 64 --method rtn --quiet > log 2>&1
fitq shard int4 -o int4-engine --tp 2 --names engine | sed 's/in [0-9.]* s/in T s/'
