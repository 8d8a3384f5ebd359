fitq pad $EXAMPLES/tiny-qwen2 -o b --set intermediate_size=1024,vocab_size=2064 --vocab --quiet >/dev/null
fitq verify $EXAMPLES/tiny-qwen2 b --chunks 1 --context 32 --threads 2 --quiet --json |
    sed -E 's/("(fast_diff|noise|bound|max_logit|value|error|kernel|memory_bytes|scratch_bytes)": )[^,]*/\1M/'
