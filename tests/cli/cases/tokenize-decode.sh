# what goes in comes out, byte for byte, without a line end that was not there
printf 'two lines\n  and no end of the third: \xf0\x9f\x98\x80' > text
fitq tokenize $EXAMPLES/tiny-qwen2 text | fitq tokenize $EXAMPLES/tiny-qwen2 --decode | cmp - text && echo same
fitq tokenize $EXAMPLES/tiny-qwen2 text --count
printf 'a<|im_end|>b' > special
fitq tokenize $EXAMPLES/tiny-qwen2 special | fitq tokenize $EXAMPLES/tiny-qwen2 --decode --skip-special; echo
fitq tokenize $EXAMPLES/tiny-qwen2 special --plain | fitq tokenize $EXAMPLES/tiny-qwen2 --decode --skip-special; echo
printf '' | fitq tokenize $EXAMPLES/tiny-qwen2; printf '' | fitq tokenize $EXAMPLES/tiny-qwen2 --count
echo '[[72, 73], [74]]' | fitq tokenize $EXAMPLES/tiny-qwen2 --decode; echo
