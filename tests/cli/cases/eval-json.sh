head -c 1000 $EXAMPLES/../LICENSE > text
fitq eval $EXAMPLES/tiny-qwen2 --text text --context 64 --exact --threads 2 --served-dtype bf16 --json --quiet
fitq eval $EXAMPLES/tiny-qwen2 --reference $EXAMPLES/tiny-qwen2 --text text --context 64 --exact --threads 2 --json --quiet
