. $DATA/models.sh
on() { echo "# $1"; printf -- "$1" > g; try fitq eval $t --ids g --context 4 --exact --threads 1 --quiet | grep -v tokens/s; }
for text in '' ' \n' '1 2 3' '1 2 3 4' '1,2,3,4' '[1, 2, 3, 4]' '1\r\n2\r\n3\r\n4\r\n'; do on "$text"; done
for text in '1;2;3;4' '-1 2 3 4' '+1 2 3 4' '1.0 2 3 4' '0x1 2 3 4' '1e0 2 3 4' '"1" 2 3 4' '1 2 3 4 the' 'the quick brown fox' '{"ids": [1]}'; do on "$text"; done
for text in '2047 2 3 4' '2048 2 3 4' '1 2 4294967295 4' '1 2 4294967296 4' '18446744073709551617 2 3 4'; do on "$text"; done
for text in '1 2 3 4\0' '\0' '\xef\xbb\xbf1 2 3 4' '\xc2\xa01 2 3 4' '1\v2\f3 4'; do on "$text"; done
for file in . missing /dev/zero /dev/null $t/model.safetensors; do echo "# $file"; try fitq eval $t --ids $file --context 4 --quiet; done
