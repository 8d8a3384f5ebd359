. $DATA/models.sh
on() { echo "# $1"; try fitq eval $t --text "$1" --context 4 --quiet | grep -v usage; }
: > empty; mkfifo fifo; ln -s nowhere dangling; ln -s loop loop; truncate -s 1T huge
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
for file in empty fifo dangling loop huge socket . .. empty/x missing - '' /dev/null /dev/zero /dev/full /dev/stdin /proc/self/mem; do on "$file"; done
on $(printf 'a%.0s' $(seq 256))
