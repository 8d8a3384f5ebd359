t=$EXAMPLES/tiny-qwen2
try() { echo "# $*"; "$@" 2>&1; echo "exit $?"; }
try fitq fit $t -o out
try fitq fit $t --tp 2
try fitq fit $t -o out --tp 2 --gpus 2x24GiB
try fitq fit $t -o out --gpus 2x24GiB --bits 4
try fitq fit $t -o out --gpus 2x24GiB --group-size 64
try fitq fit $t -o out --gpus 24GiB
try fitq fit $t -o out --gpus 0x24GiB
try fitq fit $t -o out --gpus 65x24GiB
try fitq fit $t -o out --gpus 2x24
try fitq fit $t -o out --gpus 2x
try fitq fit $t -o out --tp 2 --calib a --ids b
ls -A
