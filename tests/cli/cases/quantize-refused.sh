t=$EXAMPLES/tiny-qwen2
try() { echo "# $*"; "$@" 2>&1; echo "exit $?"; }
q="fitq quantize $t -o out --quiet"
try $q --calib no-such-file
printf 'short' > short.txt; try $q --calib short.txt
printf 'bad \xff byte' > bytes.txt; try $q --calib bytes.txt
echo '{"txt": "no text in it"}' > wrong.jsonl; try $q --calib wrong.jsonl
echo '1 2 3 4000' > ids; try $q --ids ids --seqlen 4
try $q --method rtn --memory 1MiB
try $q --method rtn --tp 8
try $q --method rtn --set num_key_value_heads=7
mkdir full; touch full/file; try fitq quantize $t -o full --method rtn --quiet
try $q --method rtn > /dev/null
try fitq quantize out -o again --method rtn --quiet
try fitq quantize $DATA/qwen2-72b.json -o again --method rtn --quiet
ls -A . full
