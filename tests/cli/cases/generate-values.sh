. $DATA/models.sh
at() { echo "# $*"; try fitq generate $t --prompt 'The President' --exact --threads 1 --quiet "$@" | grep -v usage; }
for p in -0.5 nan inf 1e400 '' 1.0000001 x; do at --temperature 1 --top-p "$p"; done
at --temperature 0 --top-p 0.5
for t_ in -0 -1e-300 inf -nan '' ' 1' 1,5; do at --temperature "$t_" -n 2; done
# the smallest of both: the likeliest word, as without
at --temperature 1e-300 -n 2
at --temperature 1 --top-p 1e-300 -n 2
for s in x '' 1.5 -0; do at --temperature 1 --seed "$s" -n 1; done
for n in -1 1e3 '' 1.5 99999999999999999999; do at -n "$n"; done
for n in 0 257 -1 x; do at --threads $n; done
at --chat --system ''
at --served-dtype fp64
