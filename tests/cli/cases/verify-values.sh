. $DATA/models.sh
at() { echo "# $*"; try fitq verify $t $t --threads 1 --quiet "$@" | grep -v usage; }
for c in 0 1 x 16777217; do at --ids ids --context $c; done
at --ids ids --context 65
at --chunks 0
at --chunks 99999999 --context 4096
at --context 99999999
at --weights --context 4
for m in 0 1 -5 99999999TiB x; do at --ids ids --context 32 --memory $m; done
at --text . && at --text /dev/zero && at --ids missing
