t=$EXAMPLES/tiny-qwen2
show() { python3 -c 'import json, sys
r = json.load(sys.stdin)
print({k: len(v) if isinstance(v, list) else type(v).__name__ for k, v in r.items()})
print(sorted(r["modules"][0]) if r["modules"] else "no modules", [s["name"] for s in r["stages"]])'; }
fitq quantize $t -o out --method rtn --json --quiet | show
fitq quantize $t --calib $EXAMPLES/calib.txt --dry-run --json --quiet | show
