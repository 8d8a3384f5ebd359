fitq fit $EXAMPLES/tiny-qwen2 -o out --tp 2 --method rtn --report page.html --json --quiet | python3 -c 'import json, sys
r = json.load(sys.stdin)
print(sorted(r))
print(r["fit"], r["runs"], r["engines"], r["report"])'
ls
