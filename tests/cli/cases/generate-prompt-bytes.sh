. $DATA/models.sh
fresh
says --prompt $'\xff'
says --prompt $'a\xc3'
says --prompt $'caf\xe9'
says --prompt $'\xef\xbb\xbfa'
says --prompt '<|im_start|>'
says --prompt ' '
says --prompt $'\n'
file() { try fitq generate m --prompt-file "$1" --max-tokens 2 --exact --threads 1 --quiet; }
printf '\xff\xfea\0' > utf16 && file utf16
printf 'a\0b' > nul && file nul
: > empty && file empty && file /dev/null && file - < /dev/null
file . && file missing && file /proc/self/mem && file utf16/x
mkfifo fifo && (printf 'The President' > fifo & file fifo)
file <(printf 'The President')
