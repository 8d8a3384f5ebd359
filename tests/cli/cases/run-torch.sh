. $DATA/models.sh
# the same numbers as from safetensors: the same lines of JSON
numbers() { fitq eval "$1" --ids ids --context 32 --exact --threads 1 --quiet --json | grep -v -e '"path"' -e seconds -e memory -e per_second; }
for shards in 1 3; do
    python3 $tools/st_to_bin.py $t m $shards && ls m | grep -c bin$
    cmp <(numbers $t) <(numbers m) && echo equal
    proves | head -3
    try fitq generate m --prompt a --quiet   # st_to_bin.py leaves the tokenizer behind
    cp $t/tokenizer.json m && says && rm -r m
done
numbers $t | grep -A 2 '"nll"'
# a head that is a second name of the embeddings, and a config.json that says so
python3 $tools/st_to_bin.py $t m 1 tie && runs
sed -i 's/"tie_word_embeddings": false/"tie_word_embeddings": true/' m/config.json && runs
