. $DATA/models.sh
at() { echo "# $*"; try fitq eval $t --ids ids "$@" --exact --threads 1 --quiet | grep -v -e tokens/s -e usage; }
for c in 0 1 -1 1e3 4.0 '' 99999999999999999999; do at --context "$c"; done
for c in 2 3 16777217 1073741824; do at --context $c; done
for c in 65 16777216; do at --context $c; done
for c in 4 5 63 64; do at --context $c; done
for c in 1 2 64; do at --context $c --score all; done
for n in 0 -1 x 1 3 99999999999; do at --context 32 --chunks "$n"; done
at --context 32 --score none
at --context 32 --bos maybe
