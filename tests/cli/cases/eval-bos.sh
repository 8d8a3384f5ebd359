. $DATA/models.sh
seq 1 64 | sed 's/.*/word/' | tr '\n' ' ' > text
bos() { fresh && echo "$1" > m/tokenizer_config.json && sed -i "s|\"bos_token_id\": 2045|${2:-\"bos_token_id\": 2045}|" m/config.json && echo "# $1 ${2:-}"
        try fitq eval m --text text --context 16 --bos always --exact --threads 1 --quiet | grep -v tokens/s; }
# the tokenizer's own word, as a string and as an object; null and nothing leave it to config.json
bos '{"bos_token": "<|endoftext|>"}' '"other": 1'
bos '{"bos_token": {"content": "<|endoftext|>", "lstrip": false}}' '"other": 1'
bos '{"bos_token": null}'
bos '{}' '"bos_token_id": 2044'
# what cannot be read is not passed over
for b in '"no such token"' '{"content": "no such token"}' '{"id": 1}' 7 '["<|endoftext|>"]' '"\u0000"' '""'; do bos "{\"bos_token\": $b}"; done
for b in '[]' '"x"' ''; do bos "$b"; done
for b in 2048 -1 99999999999 '"2045"' 1.5 '[1]' null; do bos '{}' "\"bos_token_id\": $b"; done
fresh && rm m/tokenizer_config.json && mkdir m/tokenizer_config.json && try fitq eval m --text text --context 16 --bos always
