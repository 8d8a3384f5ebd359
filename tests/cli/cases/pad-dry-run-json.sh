fitq pad $EXAMPLES/tiny-qwen2 -o out --set intermediate_size=1024 --dry-run --json | head -75; ls -A
