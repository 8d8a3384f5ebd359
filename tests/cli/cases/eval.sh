head -c 3000 $EXAMPLES/../LICENSE > text
fitq eval $EXAMPLES/tiny-qwen2 --text text --context 64 --exact --threads 2
fitq tokenize $EXAMPLES/tiny-qwen2 text > ids
fitq eval $EXAMPLES/tiny-qwen2 --ids ids --context 64 --score all --bos always --chunks 3 --exact --threads 1 --quiet
