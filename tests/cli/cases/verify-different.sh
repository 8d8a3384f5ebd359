cp -r $EXAMPLES/tiny-qwen2 a; cp -r a b; fitq pad a -o c --set intermediate_size=1024 >/dev/null
printf '\1' | dd of=b/model.safetensors bs=1 seek=100000 conv=notrunc status=none
printf '\1' | dd of=c/model.safetensors bs=1 seek=1500000 conv=notrunc status=none
fitq verify --weights a b; echo $?
fitq verify --weights a c --json; echo $?
fitq unpad c -o d; echo $?; ls -A
