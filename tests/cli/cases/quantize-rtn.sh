t=$EXAMPLES/tiny-qwen2
fitq quantize $t -o out --tp 2 --method rtn --threads 2 --report page.html 2>&1
ls -A . out
head -c 15 page.html; echo
fitq inspect out
fitq plan out --tp 1,2,4
