t=$EXAMPLES/tiny-qwen2
try() { fitq eval "$@"; echo $?; }
runs() { fitq eval "$@" --quiet > out; echo $? $(wc -l < out); }
try
try $t
try $t --text a --ids b
: > empty; try $t --text empty
printf 'a few words' > short; try $t --text short
printf 'a\xff' > bad; try $t --text bad --context 4
mkfifo fifo; try $t --text fifo
truncate -s 1T huge; try $t --text huge
try $t --text .
try $t --text missing
printf '\0\0\0\0\0\0\0\0' > nul; runs $t --text nul --context 8
echo 1 2 2048 3 > ids; try $t --ids ids --context 4
echo 1 2 x 3 > ids; try $t --ids ids --context 4
echo 1 2 3 4 > ids; try $t --ids ids --context 3
try missing --ids ids --context 4
try $t --ids ids --context 4 --served-dtype int8
FITQ_KERNEL=mmx try $t --ids ids --context 4
# without a tokenizer only ids; with a reference, the reference's
mkdir bare && cp $t/config.json $t/model.safetensors bare/
printf 'The quick brown fox jumps over the lazy dog' > text
try bare --text text --context 8
runs bare --reference $t --text text --context 8
runs bare --ids ids --context 4
runs bare --ids ids --context 4 --bos always
sed -i 's/"bos_token_id": 2045,//' bare/config.json
try bare --ids ids --context 4 --bos always
