m=$EXAMPLES/tiny-qwen2
fitq generate missing --prompt a; echo $?
fitq generate $m --prompt-file missing; echo $?
: > empty; fitq generate $m --prompt-file empty; echo $?
printf 'a\377' > bad; fitq generate $m --prompt-file bad; echo $?
printf 'a\0b' | fitq generate $m --chat --prompt-file -; echo $?
printf 'a\0b\n' | fitq generate $m --chat; echo $?
printf 'a\377b\n' | fitq generate $m --chat; echo $?
fitq generate $m --prompt 'one two three four five' --context 3; echo $?
fitq generate $m --prompt a --memory 1MiB 2>&1 | sed -E 's/expected at least .*/expected at least N/'; echo ${PIPESTATUS[0]}
cp -r $m bare; chmod -R u+w bare; rm bare/tokenizer.json
fitq generate bare --prompt a; echo $?
cp -r $m plain; chmod -R u+w plain
sed -i 's/<|im_start|>/<|im_other|>/' plain/tokenizer.json
fitq generate plain --chat; echo $?
echo '{"eos_token_id": "end"}' > plain/generation_config.json
fitq generate plain --prompt a; echo $?
FITQ_KERNEL=sse9 fitq generate $m --prompt a; echo $?
fitq generate $m --prompt a --max-tokens 3 --quiet > /dev/full; echo $?
