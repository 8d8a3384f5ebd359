t=$EXAMPLES/tiny-qwen2
for more in "--bits 2" "--bits 3" "--bits 8 --group-size -1" "--asym" "--format compressed-tensors" "--lm-head" "--bits 3 --tp 2"; do
    echo "# $more"
    fitq quantize $t -o out --method rtn --overwrite --quiet $more 2>&1
    python3 - << 'END'
import json
q = json.load(open('out/config.json'))['quantization_config']
print({k: q[k] for k in ('bits', 'group_size', 'sym', 'desc_act', 'lm_head', 'quant_method', 'format') if k in q})
END
done
