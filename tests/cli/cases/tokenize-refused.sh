t=$EXAMPLES/tiny-qwen2
printf 'a\xff' | fitq tokenize $t; echo $?
printf 'a\xff' > bad; fitq tokenize $t bad; echo $?
fitq tokenize $t missing; echo $?
fitq tokenize $t .; echo $?
fitq tokenize missing </dev/null; echo $?
fitq tokenize . </dev/null; echo $?
echo '1 x' | fitq tokenize $t --decode; echo $?
echo '1 99999' | fitq tokenize $t --decode; echo $?
echo '99999999999' | fitq tokenize $t --decode; echo $?
printf '1\0002' | fitq tokenize $t --decode; echo $?
echo 1 | fitq tokenize $t --decode --count; echo $?
echo 1 | fitq tokenize $t --skip-special; echo $?
fitq tokenize; echo $?
