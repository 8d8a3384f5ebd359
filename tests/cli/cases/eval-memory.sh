t=$EXAMPLES/tiny-qwen2
head -c 6000 $EXAMPLES/../LICENSE > text
fitq eval $t --text text --context 64 --exact --threads 2 --memory 1MiB; echo $?
least=$(fitq eval $t --text text --context 64 --exact --threads 2 --memory 1MiB 2>&1 | sed 's/.*at least \([0-9]*\) MiB.*/\1/')
fitq eval $t --text text --context 64 --exact --threads 2 --memory ${least}MiB --json --quiet | grep -A 2 '"nll"'
fitq eval $t --text text --context 64 --exact --threads 2 --json --quiet | grep -A 2 '"nll"'
