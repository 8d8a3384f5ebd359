# scales for smaller groups: codes stay, unpad gives everything back
. $DATA/models.sh
for f in gptq awq ct; do
    python3 $tools/pack_quantized.py $t $f $f 4 128
    [ $f = gptq ] && python3 -c "import json; json.dump(json.load(open('gptq/config.json'))['quantization_config'], open('gptq/quantize_config.json', 'w'), indent=1)"
    try fitq pad $f -o $f-64 --regroup 64 --quiet
    fitq verify $f $f-64 --ids ids --context 32 --threads 1 --quiet | tail -1
    fitq inspect $f-64 | grep -e 'quantization  '
    fitq unpad $f-64 -o $f-back --quiet | tail -1
    fitq verify --weights $f $f-back --quiet | tail -1
    cmp $f/config.json $f-back/config.json
done
cmp gptq/quantize_config.json gptq-back/quantize_config.json && diff gptq/quantize_config.json gptq-64/quantize_config.json
# with new lengths too; and instead of them: 896 is 14 groups of 64
try fitq pad gptq -o wide --regroup 32 --set intermediate_size=1024 --quiet && fitq verify --weights gptq wide --quiet | tail -1 && fitq unpad wide -o narrow --quiet | tail -1
try fitq pad gptq -o two --regroup 64 --tp 2 --engine vllm --quiet && fitq plan two --tp 2 --engine vllm | grep as.it.is
rm gptq-64/fitq.json
try fitq pad gptq-64 -o no --regroup 128
try fitq pad gptq -o no --regroup 48
try fitq pad gptq -o no --regroup 128
try fitq pad $t -o no --regroup 32
python3 $tools/pack_quantized.py $t order desc_act 4 128 down_proj && try fitq pad order -o no --regroup 32
python3 $tools/pack_quantized.py $t floats fp8 8 64 layers.0.mlp.down_proj && try fitq pad floats -o no --regroup 32
ls
