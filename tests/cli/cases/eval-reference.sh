t=$EXAMPLES/tiny-qwen2
head -c 3000 $EXAMPLES/../LICENSE > text
fitq pad $t -o padded --set intermediate_size=1024,vocab_size=2112 --vocab --quiet > /dev/null
fitq eval padded --reference $t --text text --context 64 --exact --threads 2
fitq eval padded --text text --context 64 --exact --threads 2 --quiet
# 10 kB of other weights in layer 2
cp -r $t other && chmod u+w other/model.safetensors
dd if=$t/model.safetensors of=other/model.safetensors bs=1000 skip=3000 seek=5000 count=10 conv=notrunc status=none
fitq eval other --reference $t --text text --context 64 --exact --threads 2 --quiet
