fitq plan $DATA/qwen2-72b.json --tp 4,8 --engine tgi,lmdeploy --format bf16,fp8-block
fitq plan $DATA/qwen2-72b.json --tp 8 --engine tgi --format fp8 | tail -1
fitq plan $DATA/qwen2-72b.json --tp 8 --engine tgi --format fp8,bf16 --json | grep -E '"(verdict|state|possible|not_judged)"'
# the fit is for what is judged: pad is told the lengths, since it would refuse the rest
fitq plan $DATA/qwen2-72b.json --tp 8 --engine tgi --format fp8,gptq | sed -n '/What to do/,$p'
