. $DATA/models.sh
# a message without an end, and a device that gives no end
try fitq generate $t --chat --quiet < /dev/zero
try fitq eval $t --text /dev/zero --quiet
try fitq eval $t --ids /dev/zero --quiet
# an answer without an end ends with its reader
fitq generate $t --prompt 'The President' --context 2048 --max-tokens 99999999999 --ignore-eos --exact --threads 2 --quiet 2>&1 | head -c 40; echo; echo ${PIPESTATUS[0]}
