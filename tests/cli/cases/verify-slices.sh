M=$EXAMPLES/tiny-qwen2
fitq verify $M --tp 2; echo $?
fitq verify $M --tp 3 --engine vllm; echo $?
fitq pad $M -o six --tp 3 --vocab --as llama --quiet >/dev/null; fitq verify six --tp 3 --engine vllm --json; echo $?
fitq verify $M --tp 2,4; echo $?
fitq verify $M --tp 1; echo $?
fitq verify $M $M --tp 2; echo $?
fitq verify $M --tp 2 --weights; echo $?
fitq verify $M --engine vllm $M; echo $?
fitq verify $M; echo $?
fitq verify $M --tp 2 --engine lmdeploy; echo $?
fitq verify $M --tp 2 --format gptq; echo $?
fitq verify nowhere --tp 2; echo $?
cp -r $M bad; sed -i 's/"vocab_size": 2048/"vocab_size": true/' bad/config.json; fitq verify bad --tp 2; echo $?
rm bad/config.json; fitq verify bad --tp 2; echo $?
