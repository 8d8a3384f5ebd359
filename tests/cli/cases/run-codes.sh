# a quantized model, the dense one of the same numbers, and the one that it was made from
. $DATA/models.sh
python3 $tools/pack_quantized.py $t q gptq 4 128 && python3 $tools/unpack_quantized.py q dense
fitq eval q --reference dense --ids ids --context 32 --exact --threads 1 --quiet | grep -e perplexity -e 'KL div' -e 'same bits' -e 'largest logit'
try fitq verify dense q --ids ids --context 32 --threads 1 --quiet | grep -e weights -e order -e agrees -e exit | sed 's,the bound .*,the bound,'
try fitq verify $t q --ids ids --context 32 --threads 1 --quiet | grep -e weights -e exit
fitq verify q dense --ids ids --context 32 --threads 1 --quiet --json | grep -e verdict -e why_not -e compared
try fitq generate q --prompt 'The President' --max-tokens 4 --exact --threads 1 --quiet
try fitq pad q -o p --tp 2 --quiet
# the same codes: the numbers are compared, and nothing is said about weights that are not there
try fitq quantize $t -o made --method rtn --quiet > /dev/null
try fitq verify made made --ids ids --context 32 --threads 1 --quiet | grep -e weights -e agrees -e exit | sed 's,the bound .*,the bound,'
# codes that are gone, groups that do not exist, scales that are no numbers, a cut file
broken() { rm -rf m && cp -r made m && python3 "$tools/st_edit.py" m/model.safetensors "$@" && echo "# $*" && runs; }
p=model.layers.0.self_attn.q_proj
broken drop $p.qweight && proves && says
broken drop $p.scales && broken rows $p.scales 1 && broken reshape $p.qweight 64,128
broken set $p.g_idx 5 02000000 && broken set $p.g_idx 5 ffffffff
broken set $p.scales 3 007e && proves && broken set $p.scales 3 00fc
rm -rf m && cp -r made m && truncate -s 3000000 m/model.safetensors && runs && says
# a scale of 0 makes its weights 0, for engines and for fitq; a negative one is a number like others
broken set $p.scales 3 0000 | head -1 && rm -rf d && python3 $tools/unpack_quantized.py m d && fitq eval m --reference d --ids ids --context 32 --exact --threads 1 --quiet | grep -e 'largest logit'
broken set $p.scales 3 00b0 | head -1 && rm -rf d && python3 $tools/unpack_quantized.py m d && fitq eval m --reference d --ids ids --context 32 --exact --threads 1 --quiet | grep -e 'largest logit'
