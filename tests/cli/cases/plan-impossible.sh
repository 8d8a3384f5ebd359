todo() { fitq plan "$@" | sed -n '/What to do/,$p'; }
todo $DATA/qwen2-72b.json --tp 2,4 --engine tgi --format gguf-k
todo $DATA/qwen2-72b.json --tp 2,4 --engine tgi,lmdeploy --format gguf-k
todo $DATA/qwen2-72b.json --tp 2 --engine vllm,tgi,llama.cpp --format bf16,gptq,gguf-k
