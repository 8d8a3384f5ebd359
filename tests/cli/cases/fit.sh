t=$EXAMPLES/tiny-qwen2
head -c 6000 $EXAMPLES/calib.txt > text.txt
fitq fit $t -o out --tp 8 --group-size 64 --calib $EXAMPLES/calib.txt --samples 4 --seqlen 128 --text text.txt --threads 2 --quiet
ls -A out; grep -c '<svg' out/report.html
grep -E 'model_type|num_attention_heads|head_dim' out/config.json
