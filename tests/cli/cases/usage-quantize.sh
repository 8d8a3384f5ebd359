t=$EXAMPLES/tiny-qwen2
try() { echo "# $*"; "$@" 2>&1; echo "exit $?"; }
try fitq quantize $t
try fitq quantize -o out
try fitq quantize $t -o out --calib a --ids b
try fitq quantize $t -o out --bits 16
try fitq quantize $t -o out --bits 5
try fitq quantize $t -o out --group-size 48
try fitq quantize $t -o out --method awq
try fitq quantize $t -o out --damp 2
try fitq quantize $t -o out --engine vlm
try fitq quantize $t -o out --method rtn --calib $EXAMPLES/calib.txt
ls -A
