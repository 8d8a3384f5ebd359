fitq pad $EXAMPLES/tiny-qwen2 --set intermediate_size=1024 --dry-run; ls -A
