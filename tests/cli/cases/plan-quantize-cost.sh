fitq plan $DATA/qwen2-72b.json --quantize-cost --ranks 1,2,64,1024 --matrix-rate 100
fitq plan $DATA/qwen3-30b-a3b.json --quantize-cost --ranks 1,8 --tokens 100000 --matrix-rate 100 --network-rate 10GB --no-shift
fitq plan $DATA/qwen2-7b.json --quantize-cost --ranks 3 --matrix-rate 100 --json
