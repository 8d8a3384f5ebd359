try() { fitq generate "$@" 2>&1 </dev/null | head -1; }
m=$EXAMPLES/tiny-qwen2
try
try $m
try $m --prompt a --prompt-file b
try $m --chat --json
try $m --prompt a --system b
try $m --prompt a --top-p 0.9
try $m --prompt a --seed 3
try $m --prompt ''
try $m --prompt a --temperature -1
try $m --prompt a --temperature nan
try $m --prompt a --temperature 0x1
try $m --prompt a --temperature 1e400
try $m --prompt a --temperature 101
try $m --prompt a --temperature warm
try $m --prompt a --temperature 1 --top-p 0
try $m --prompt a --temperature 1 --top-p 1.5
try $m --prompt a --temperature 1 --seed -1
try $m --prompt a --temperature 1 --seed 18446744073709551616
try $m --prompt a --max-tokens 0
try $m --prompt a --context 0
try $m --prompt a --served-dtype int8
try $m other --prompt a
fitq generate $m --prompt a --top-p 2 2>/dev/null; echo $?
