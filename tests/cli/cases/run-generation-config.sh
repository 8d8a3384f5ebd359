. $DATA/models.sh
with() { fresh && echo "$1" > m/generation_config.json && echo "# $1" && says; }
with '['
with '3'
with '{"eos_token_id": -2}'
with '{"eos_token_id": 2048}'
with '{"eos_token_id": [1, "2"]}'
with '{"eos_token_id": 1.5}'
with '{"eos_token_id": []}'
with '{"eos_token_id": null}'
with "{\"eos_token_id\": [$(seq -s , 100 164)]}"
# ' of' ends the text here
with "{\"eos_token_id\": $(fitq tokenize $t <(printf ' of'))}"
fresh && mkdir m/generation_config.json && says
fresh && ln -s /dev/zero m/generation_config.json && says
