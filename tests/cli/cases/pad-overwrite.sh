mkdir out; touch out/old
fitq pad $EXAMPLES/tiny-qwen2 -o out --set intermediate_size=1024 --overwrite --quiet; echo $?; ls -A . out
touch out/config.json
fitq pad $EXAMPLES/tiny-qwen2 -o out --set intermediate_size=1024 --overwrite --quiet; echo $?; ls -A . out
