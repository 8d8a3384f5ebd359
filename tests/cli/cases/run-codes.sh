# a quantized model, the dense one of the same numbers, and the one that it was made from
. $DATA/models.sh
python3 $tools/pack_quantized.py $t q gptq 4 128 && python3 $tools/unpack_quantized.py q dense
fitq eval q --reference dense --ids ids --context 32 --exact --threads 1 --quiet | grep -e perplexity -e 'KL div' -e 'same bits' -e 'largest logit'
try fitq verify dense q --ids ids --context 32 --threads 1 --quiet | grep -e weights -e order -e agrees -e exit | sed 's,the bound .*,the bound,'
try fitq verify $t q --ids ids --context 32 --threads 1 --quiet | grep -e weights -e exit
fitq verify q dense --ids ids --context 32 --threads 1 --quiet --json | grep -e verdict -e why_not -e compared
try fitq generate q --prompt 'The President' --max-tokens 4 --exact --threads 1 --quiet
try fitq pad q -o p --tp 2 --quiet
