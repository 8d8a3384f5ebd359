# channels of desc_act checkpoints in the order of their groups: codes stay, unpad gives everything back
. $DATA/models.sh
python3 - $tools <<'E'
import random, sys
sys.path.insert(0, sys.argv[1])
import random_quantized
random_quantized.make('order', random.Random(1), 'desc_act', 'qwen3_moe', width=96, whole=True)
random_quantized.make('down', random.Random(2), 'desc_act', 'qwen2', group=64, hidden=64, heads=8, width=192, whole=True, ordered=('down_proj',))
random_quantized.make('ct', random.Random(3), 'ct order', 'llama', width=96, whole=True, ordered=('down_proj',))
E
fitq pad order -o order-folded --fold-order --quiet
fitq pad order -o order-wide --fold-order --set moe_intermediate_size=112 --quiet | head -2
try fitq verify --weights order order-wide --quiet
fitq verify order order-folded --context 32 --chunks 1 --threads 1 --quiet | tail -1
fitq pad down -o folded --fold-order --regroup 32 --set intermediate_size=256 --quiet
diff down/config.json folded/config.json
fitq inspect folded | grep -e 'quantization  '
fitq pad ct -o no --fold-order --dry-run --quiet --json | python3 -c "import json, sys; r = json.load(sys.stdin); print({k: r[k] for k in ('mlps_folded', 'modules_in_activation_order', 'exact_bits')})"
fitq pad ct -o ct-folded --fold-order --quiet
fitq unpad folded -o back --quiet | tail -1
fitq verify --weights down back --quiet | tail -1
cmp down/config.json back/config.json
# what has nothing to fold
try fitq pad folded -o no --fold-order
try fitq pad back -o no --regroup 32
python3 $tools/pack_quantized.py $t plain gptq 4 128 down_proj && try fitq pad plain -o no --fold-order
try fitq pad $t -o no --fold-order
rm folded/fitq.order
try fitq unpad folded -o no
try fitq verify --weights down folded
ls
