cp -r $EXAMPLES/tiny-qwen2 tiny
mkdir full; touch full/file
fitq pad tiny -o full --set intermediate_size=1024; echo $?
fitq pad tiny -o tiny --set intermediate_size=1024 --overwrite; echo $?
fitq pad tiny -o tiny/inside --set intermediate_size=1024; echo $?
fitq pad tiny -o out --set intermediate_size=512; echo $?
fitq pad tiny -o out --set num_key_value_heads=7; echo $?
fitq pad tiny -o out --tp 7; echo $?
fitq pad tiny -o no/such/folder --set intermediate_size=1024; echo $?
fitq pad tiny -o out --set intermediate_size=1024 --memory 1KiB; echo $?
fitq pad tiny -o out --set intermediate_size=1024 && fitq pad out -o out2 --set intermediate_size=2048; echo $?
fitq unpad tiny -o back; echo $?
ls -A . full
