try() { fitq "$@" 2>&1 | head -1; }
try plan config.json --tp 0
try plan config.json --tp 65
try plan config.json --tp 4-2
try plan config.json --tp two
try plan config.json --tp 2,,4
try plan config.json --tp
try plan config.json --gpu-memory 24G
try plan config.json --gpu-memory 99999999TiB
try plan config.json --gpu-memory 0
try plan config.json --context 0
try plan config.json --engine vlm
try plan config.json --format gptq_marlin
try plan config.json --format ''
try pad model -o out --layout middle
try pad model -o out --set intermediat_size=3
try pad model -o out --set intermediate_size
try pad model -o out --set vocab_size=-3
try pad model -o out --json=yes --tp 2
try pad model -o out --threads 0 --tp 2
try plan config.json --gpu-memory 24
try plan config.json --gpu-memory 24MiB
try plan config.json --group-size 0
try pad model -o out --tp 2 --group-size 0
