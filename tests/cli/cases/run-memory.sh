. $DATA/models.sh
for m in 0 -5 1 1GiBi '' 99999999TiB 1MiB; do
    echo "# $m"
    try fitq eval $t --ids ids --context 32 --exact --threads 1 --quiet --memory "$m" | grep -v usage
    try fitq generate $t --prompt a --exact --threads 1 --quiet --memory "$m" | grep -v usage | sed -E 's/at least .*/at least N/'
done
fitq eval $t --ids ids --context 32 --exact --threads 1 --quiet --memory 1TiB 2>&1 | grep -c perplexity
try fitq generate $t --prompt a --context 1073741824 --quiet 2>&1 | sed -E 's/found .* MiB free, expected at least .*/found N/'
