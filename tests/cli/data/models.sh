# Sourced by cases: a copy of the example to be damaged, and the commands that run it. Every command says how it ended.
t=$EXAMPLES/tiny-qwen2
tools=$EXAMPLES/../tests/tools
seq 1 64 > ids
fresh() { rm -rf m && cp -r "$t" m && chmod -R u+w m; }
try() { "$@" 2>&1; echo "exit $?"; }
runs() { try fitq eval m --ids ids --context 32 --exact --threads 1 --quiet "$@" | grep -v tokens/s; }
says() { try fitq generate m --prompt 'The President' --max-tokens 4 --exact --threads 1 --quiet "$@"; }
proves() { try fitq verify "$t" m --ids ids --context 32 --threads 1 --quiet "$@"; }
# config SED: the example with another config.json
config() { fresh && sed -i "$1" m/config.json && echo "# $1"; }
# field JSON: with one more field in it
field() { fresh && sed -i "s|\"vocab_size\"|$1, \"vocab_size\"|" m/config.json && echo "# $1"; }
# weights WHAT NAME ...: with one change by st_edit.py
weights() { fresh && python3 "$tools/st_edit.py" m/model.safetensors "$@" && echo "# $*"; }
