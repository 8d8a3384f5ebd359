# nothing to resume: it starts afresh
fitq pad $EXAMPLES/tiny-qwen2 -o out --set intermediate_size=1024 --resume; echo $?
fitq unpad out -o back --resume | tail -1
