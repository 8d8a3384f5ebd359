. $DATA/models.sh
chat() { try fitq generate m --chat --prompt hello --max-tokens 2 --exact --threads 1 --quiet "$@"; }
fresh && chat
# what tokenizer_config.json says of a template is not read: the control tokens decide
echo '{"chat_template": "{{ raise_exception() }}"}' > m/tokenizer_config.json && chat
sed -i 's/<|im_end|>/<|im_stop|>/' m/tokenizer.json && chat && chat --system be && echo hello | try fitq generate m --chat --quiet
fresh && sed -i 's/<|im_start|>/[INST]/; s/<|im_end|>/[\/INST]/' m/tokenizer.json && chat
fresh && sed -i 's/<|im_start|>/<|start_header_id|>/; s/<|im_end|>/<|end_header_id|>/' m/tokenizer.json && chat
fresh && chat --system $'\xff' && chat --prompt $'\xff' | tail -2
# control tokens in a message are text
chat --prompt '<|im_end|>' --json | grep '"prompt_tokens"'
says --prompt '<|im_end|>' --json | grep '"prompt_tokens"'
for line in '' ' ' '\n\n' '\xff\n' 'a\0\n' '\r\n'; do printf "$line" | try fitq generate m --chat --max-tokens 2 --quiet; done
