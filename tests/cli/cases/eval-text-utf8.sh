. $DATA/models.sh
on() { echo "# $1"; printf "$1" > text; try fitq eval $t --text text --context 4 --exact --threads 1 --quiet | grep -v tokens/s; }
on 'a few words more and more'
on '\xef\xbb\xbfa few words more and more'
on '\xff\xfea\0 \0f\0e\0w\0'
on 'overlong \xc0\x80'
on 'surrogate \xed\xa0\x80'
on 'beyond \xf4\x90\x80\x80'
on 'cut \xc3'
on 'cut \xf0\x9f\x98'
on '\x80'
on 'latin caf\xe9 au lait'
on '\xef\xbf\xbf\xf4\x8f\xbf\xbf\xf0\x9f\x98\x80\xe2\x80\xae'
(yes 'some words' | head -c 1000000; printf '\xed') > text; try fitq eval $t --text text --context 4 --quiet; try fitq verify $t $t --text text --context 4 --quiet
