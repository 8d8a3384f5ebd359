. $DATA/models.sh
# a window that is switched off changes nothing, but must be a length
for n in 0 -1 1.5 '"wide"' true 99999999999999999999 null 4; do field "\"sliding_window\": $n" && runs; done
on() { field "\"max_window_layers\": $2, \"sliding_window\": $1" && sed -i 's/"use_sliding_window": false/"use_sliding_window": true/' m/config.json && runs; }
on 4 2; says
on 1 0
on 0 0
on 64 0
on 4 -1
on 4 4
field '"layer_types": ["full_attention"], "sliding_window": 4' && runs
field '"layer_types": ["full_attention", "linear_attention", "full_attention", "full_attention"]' && runs
field '"layer_types": 4' && runs
