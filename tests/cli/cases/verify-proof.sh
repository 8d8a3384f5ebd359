# What rounding does depends on the BLAS: those numbers are masked, whether there are any is not.
measured() { sed -E 's/-?[0-9]\.[0-9]e[-+][0-9]+|[0-9]+\.[0-9]{3}/M/g'; }
ln -s $EXAMPLES/tiny-qwen2 a
fitq pad a -o b --set intermediate_size=1024 --layout spread --quiet >/dev/null
fitq pad a -o c --set num_attention_heads=12,num_key_value_heads=3,vocab_size=2064 --vocab --quiet >/dev/null
cp -r b d; rm d/fitq.json
cp -r b e; printf '\1\100' | dd of=e/model.safetensors bs=1 seek=7000000 conv=notrunc status=none
for x in b c d e; do echo "-- $x"; fitq verify a $x --threads 2 --quiet --chunks 1 --context 64 | measured; echo ${PIPESTATUS[0]}; done
echo "-- text"; fitq verify a b --threads 2 --quiet --text $EXAMPLES/../LICENSE --chunks 2 --context 128 --served-dtype bf16 | measured
echo "-- ids"; echo {1..40} > ids; fitq verify a b --threads 2 --quiet --ids ids --context 16 | head -2
