. $DATA/models.sh
f=m/model.safetensors
fresh && truncate -s 5000000 $f && runs && says && proves
fresh && truncate -s +1 $f && runs
fresh && truncate -s 9 $f && runs
fresh && : > $f && runs && says
fresh && rm $f && runs && says && proves
fresh && rm $f && mkdir $f && runs
fresh && rm $f && mkfifo $f && runs && says
fresh && rm $f && ln -s /dev/zero $f && runs
fresh && rm $f && ln -s model.safetensors $f && runs
fresh && head -c 1000 /dev/zero | tr '\0' '\377' > $f && runs
fresh && rm m/config.json && runs && says && proves
fresh && rm m/config.json && mkdir m/config.json && runs
fresh && rm m/config.json && ln -s /dev/zero m/config.json && runs
try fitq eval m/ids --ids ids
try fitq eval ids --ids ids
try fitq eval /dev/null --ids ids
fresh && rm m/config.json && ln -s nothing m/config.json && runs
fresh && rm m/tokenizer.json && mkdir m/tokenizer.json && says
fresh && rm m/tokenizer.json && ln -s nothing m/tokenizer.json && says && try fitq tokenize m ids
try fitq tokenize $t m && try fitq generate m --prompt-file m && ln -s nothing gone && try fitq tokenize $t gone && try fitq eval gone --ids ids
fresh && mkdir m/generation_config.json && says
try fitq tokenize "" ids
