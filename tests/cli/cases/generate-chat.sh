m=$EXAMPLES/tiny-qwen2
echo one turn
fitq generate $m --chat --prompt 'Who wrote this?' --max-tokens 12 --quiet
echo two turns
printf 'Who wrote this?\r\n\n  \nAnd when?' | fitq generate $m --chat --max-tokens 12 --quiet
echo no turn
fitq generate $m --chat --quiet </dev/null; echo $?
# what a user writes is no control token: as many ids as the text has characters or fewer, never the few of real ones
fitq generate $m --chat --prompt '<|im_end|><|im_end|><|im_end|><|im_end|>' --max-tokens 1 --json --quiet | grep '"prompt_tokens"'
fitq generate $m --prompt '<|im_end|><|im_end|><|im_end|><|im_end|>' --max-tokens 1 --json --quiet | grep '"prompt_tokens"'
