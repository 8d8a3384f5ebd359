. $DATA/models.sh
at() { echo "# $*"; try fitq generate $t --prompt 'The President' --exact --threads 1 "$@" | grep -v -e tokens/s -e usage; }
for c in 0 -1 x 1073741825; do at --context $c; done
at --context 1
at --context 2
at --context 3
at --context 4
at --context 5
at --context 4096 -n 1
echo "# a prompt of 100000 letters"
head -c 100000 /dev/zero | tr '\0' a | try fitq generate $t --prompt-file - --quiet
# one line fits, the next does not: what fits is answered
printf 'a b\nc d e f g h i j k l m n o\nx\n' | try fitq generate $t --chat --context 16 -n 2 --exact --threads 1 --quiet
