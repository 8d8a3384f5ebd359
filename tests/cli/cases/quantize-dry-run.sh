t=$EXAMPLES/tiny-qwen2
fitq quantize $t --method rtn --dry-run --threads 2 2>&1
fitq quantize $t --tp 2 --calib $EXAMPLES/calib.txt --dry-run --threads 2 2>&1
fitq quantize $t --tp 2 --format compressed-tensors --bits 8 --group-size 64 --method rtn --dry-run --quiet
ls -A
