cp -r $EXAMPLES/tiny-qwen2 tiny
fitq pad tiny -o tp4 --tp 4 --format gptq --group-size 64 && ls -A . tp4
fitq verify --weights tiny tp4 && fitq verify --weights tiny tp4 --json
fitq unpad tp4 -o back && fitq verify --weights tiny back && diff tiny/config.json back/config.json
fitq verify --weights tiny tp4 >/dev/null; echo $?
diff tiny/config.json tp4/config.json
