t=$EXAMPLES/tiny-qwen2
fitq quantize $t -o out --calib $EXAMPLES/calib.txt --samples 16 --seqlen 256 --threads 2 2>&1
# the same request gives the same bytes, with another number of threads too
fitq quantize $t -o again --calib $EXAMPLES/calib.txt --samples 16 --seqlen 256 --threads 1 --quiet > /dev/null
cmp out/model.safetensors again/model.safetensors && echo same
