. $DATA/models.sh
index() { fresh && mv m/model.safetensors m/a.safetensors && echo "$1" > m/model.safetensors.index.json && echo "# $1" && runs; }
index ''
index '[]'
index '{}'
index '{"weight_map": {}}'
index '{"weight_map": {"a": 3}}'
index '{"weight_map": {"a": "missing.safetensors"}}'; says; proves
index '{"weight_map": {"a": "../x.safetensors"}}'
index '{"weight_map": {"a": "/etc/passwd"}}'
index '{"weight_map": {"model.norm.weight": "a.safetensors", "a": "a.safetensors"}}'
