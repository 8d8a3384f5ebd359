. $DATA/models.sh
# the attention of the last layer as codes of every format: what is computed is what its dequantized twin computes, to the bit
for f in gptq gptq_v2 desc_act ct awq fp8 fp8_tensor ct_fp8; do
    echo "# $f"
    rm -rf q d
    python3 $tools/pack_quantized.py $t q $f 4 64 layers.3.self_attn. && python3 $tools/unpack_quantized.py q d || exit 1
    fitq eval q --reference d --ids ids --context 32 --exact --threads 1 --quiet | grep -E 'KL|logit'
    fitq inspect q | grep -E 'quantization|quantized-layers|module-lists'
    fitq plan q --tp 2 --engine vllm | grep -m1 -A1 vocabulary
done
# and running says that config.json promises more codes than there are
fitq eval q --ids ids --context 32 --chunks 1 --threads 1 2>&1 | grep module-lists
