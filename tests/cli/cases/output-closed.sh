# a reader that goes away, a closed stdout and a full one change nothing in the output
fitq pad $EXAMPLES/tiny-qwen2 -o a --set intermediate_size=1024 | true; echo ${PIPESTATUS[0]}
fitq pad $EXAMPLES/tiny-qwen2 -o b --set intermediate_size=1024 >&-; echo $?
fitq pad $EXAMPLES/tiny-qwen2 -o c --set intermediate_size=1024 2>&- >&- <&-; echo $?
fitq pad $EXAMPLES/tiny-qwen2 -o d --set intermediate_size=1024 >/dev/full; echo $?
fitq inspect $EXAMPLES/tiny-qwen2 --tensors >/dev/full; echo $?
for x in b c d; do diff -r a $x && echo same; done
