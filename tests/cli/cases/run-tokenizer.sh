. $DATA/models.sh
printf 'a few words more and more' > text
reads() { try fitq eval m --text text --context 4 --exact --threads 1 --quiet "$@" | grep -v tokens/s; }
with() { fresh && echo "$2" > "m/$1" && echo "# $1 $2"; }
with tokenizer.json '' && reads && says
with tokenizer.json '{}' && reads
with tokenizer.json '{"version": "1.0", "model": {"type": "Unigram", "vocab": []}}' && reads && says
with tokenizer.json '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}' && reads && says
fresh && head -c 30000 $t/tokenizer.json > m/tokenizer.json && reads
fresh && sed -i 's/"type": *"ByteLevel"/"type": "Metaspace"/' m/tokenizer.json && reads && says
with tokenizer_config.json '[' && reads --bos always && says
with tokenizer_config.json '{"bos_token": 3}' && reads --bos always
with tokenizer_config.json '{"bos_token": "no such token"}' && reads --bos always
fresh && rm m/tokenizer.json && reads && says
mkfifo m/tokenizer.json && reads && says
