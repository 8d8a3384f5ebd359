#!/usr/bin/env python3
"""rope_golden.py   print the golden table of tests/unit/test_rope.c

Rotary frequencies by the formulas of transformers' modeling_rope_utils.py, computed with 50 digits and in another way than
src/model/rope.c does it: by wavelengths and periods with the decimal module, so that neither the language's pow nor its order of
operations is shared. Each line is one case of the table: parameters, then pairs and their frequency, then the scale.
"""
from decimal import Decimal as D
from decimal import ROUND_CEILING, ROUND_FLOOR, getcontext

getcontext().prec = 50
PI = D("3.14159265358979323846264338327950288419716939937511")


def wavelength(theta, dim, j):
    """Positions per turn of pair j."""
    return 2 * PI * (D(theta).ln() * 2 * j / dim).exp()


def default(c):
    return [wavelength(c["theta"], c["dim"], j) for j in range(c["dim"] // 2)], D(1)


def linear(c):
    return [w * D(c["factor"]) for w in default(c)[0]], D(1)


def dynamic(c):
    dim, longest, n = c["dim"], c["max"], max(c["n"], c["max"])
    grow = D(c["factor"]) * n / longest - (D(c["factor"]) - 1)
    theta = D(c["theta"]) * (grow.ln() * D(dim) / D(dim - 2)).exp()
    return [wavelength(theta, dim, j) for j in range(dim // 2)], D(1)


def llama3(c):
    made = []
    for w in default(c)[0]:
        original, low, high = D(c["original"]), D(c["low"]), D(c["high"])
        if w < original / high:
            made.append(w)
        elif w > original / low:
            made.append(w * D(c["factor"]))
        else:
            smooth = (original / w - low) / (high - low)
            made.append(1 / ((1 - smooth) / (w * D(c["factor"])) + smooth / w))
    return made, D(1)


def mscale(factor, m):
    return D(1) if D(factor) <= 1 else D("0.1") * D(m) * D(factor).ln() + 1


def yarn(c):
    dim, theta, original = c["dim"], D(c["theta"]), D(c["original"])

    def place(turns):
        """The dimension whose pair makes this many turns in the original length: theta^(place/(dim/2)) = original / (2 pi turns)."""
        return D(dim) / 2 * (original / (2 * PI * D(turns))).ln() / theta.ln()

    low, high = place(c.get("fast", 32)), place(c.get("slow", 1))
    if c.get("truncate", True):
        low, high = low.to_integral_value(ROUND_FLOOR), high.to_integral_value(ROUND_CEILING)
    low, high = max(low, D(0)), min(high, D(dim - 1))
    if low == high:
        high += D("0.001")
    made = []
    for j, w in enumerate(default(c)[0]):
        ramp = min(max((D(j) - low) / (high - low), D(0)), D(1))
        made.append(1 / (ramp / (w * D(c["factor"])) + (1 - ramp) / w))
    if "attention" in c:
        scale = D(c["attention"])
    elif c.get("mscale") and c.get("mscale_all"):
        scale = mscale(c["factor"], c["mscale"]) / mscale(c["factor"], c["mscale_all"])
    else:
        scale = mscale(c["factor"], 1)
    return made, scale


CASES = [
    ("Qwen2.5-7B", "DEFAULT", dict(dim=128, theta="1000000")),
    ("Llama-2-7B", "DEFAULT", dict(dim=128, theta="10000")),
    ("a quarter of 256 dimensions", "DEFAULT", dict(dim=64, theta="10000000")),
    ("linear, factor 2", "LINEAR", dict(dim=128, theta="10000", factor="2")),
    ("linear, factor 2.5", "LINEAR", dict(dim=64, theta="500000", factor="2.5")),
    ("dynamic, short", "DYNAMIC", dict(dim=128, theta="10000", factor="2", max=2048, n=100)),
    ("dynamic, at its end", "DYNAMIC", dict(dim=128, theta="10000", factor="2", max=2048, n=2048)),
    ("dynamic, one more", "DYNAMIC", dict(dim=128, theta="10000", factor="2", max=2048, n=2049)),
    ("dynamic, twice", "DYNAMIC", dict(dim=128, theta="10000", factor="2", max=2048, n=4096)),
    ("dynamic, eight times", "DYNAMIC", dict(dim=64, theta="10000", factor="4", max=2048, n=16384)),
    ("Llama-3.1-8B", "LLAMA3", dict(dim=128, theta="500000", factor="8", low="1", high="4", original=8192)),
    ("Llama-3.2-1B", "LLAMA3", dict(dim=64, theta="500000", factor="32", low="1", high="4", original=8192)),
    ("Qwen2.5 to 131072", "YARN", dict(dim=128, theta="1000000", factor="4", original=32768, max=32768)),
    ("Qwen3 to 131072, explicit", "YARN", dict(dim=128, theta="1000000", factor="4", original=32768, attention="1")),
    ("yarn, not cut", "YARN", dict(dim=64, theta="150000", factor="32", original=4096, truncate=False)),
    ("DeepSeek-V2-Lite", "YARN", dict(dim=64, theta="10000", factor="40", original=4096, mscale="0.707", mscale_all="0.707")),
    ("mscale 1 over 0.5", "YARN", dict(dim=64, theta="10000", factor="40", original=4096, mscale="1", mscale_all="0.5")),
    ("mscale alone", "YARN", dict(dim=64, theta="10000", factor="40", original=4096, mscale="0.707")),
    ("Kimi-K2: a step", "YARN", dict(dim=64, theta="50000", factor="32", original=4096, fast=1, slow=1)),
    ("yarn, factor 1", "YARN", dict(dim=64, theta="10000", factor="1", original=2048)),
    ("yarn of a short original", "YARN", dict(dim=32, theta="10000", factor="8", original=64)),
]


def main():
    make = dict(DEFAULT=default, LINEAR=linear, DYNAMIC=dynamic, LLAMA3=llama3, YARN=yarn)
    names = dict(theta="theta", factor="factor", low="low_freq_factor", high="high_freq_factor", original="original_max",
                 max="max_position", fast="beta_fast", slow="beta_slow", attention="attention_factor", mscale="mscale",
                 mscale_all="mscale_all_dim")
    for title, kind, c in CASES:
        waves, scale = make[kind](c)
        shown = [f".{names[k]} = {c[k]}" for k in names if k in c]
        if kind == "YARN":
            shown += [f".{names[k]} = {v}" for k, v in (("fast", 32), ("slow", 1)) if k not in c]
            shown.append(f".truncate = {str(c.get('truncate', True)).lower()}")
        half = c["dim"] // 2
        pairs = sorted({0, 1, half // 4, half // 3, 2 * half // 5, half // 2, 3 * half // 5, 2 * half // 3, half - 2, half - 1})
        print(f'    {{ "{title}", {{ .kind = FQI_ROPE_{kind}, .dim = {c["dim"]}, {", ".join(shown)} }}, {c.get("n", 1)}, {scale:.17e},')
        print("      { " + ", ".join(f"{{ {j}, {2 * PI / waves[j]:.16e} }}" for j in pairs) + " } },")


if __name__ == "__main__":
    main()
