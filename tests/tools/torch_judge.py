#!/usr/bin/env python3
"""torch_judge.py OUT   checkpoints written by the real torch, as a judge of our reader

Writes NAME.bin and NAME.expect (torch_bin.py says what a line of it is) for a few state dicts, and legacy.bin, the format
before torch 1.6, which must be refused. Also compares torch_bin.py with torch: the same tensors must give the same bytes of
data.pkl, and torch must read what torch_bin.py wrote.

Exit: 0, 1 if torch and torch_bin.py disagree, 77 if there is no torch (the test is skipped then).
"""
import collections
import pathlib
import sys
import zipfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import torch_bin  # noqa: E402

try:
    import torch
except ImportError:
    print("skipped: no torch")
    sys.exit(77)

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64",
         torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
for _s, _t in (("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2")):   # torch 2.1 and later
    if hasattr(torch, _t):
        NAMES[getattr(torch, _t)] = _s


def raw(t):
    """Elements, row-major, little-endian (this runs on little-endian machines)."""
    t = t.detach().contiguous().reshape(-1)
    if t.numel() == 0:
        return b""
    return bytes(t.view(torch.uint8).tolist()) if t.dtype != torch.bool else bytes(t.to(torch.uint8).tolist())


def plain():
    torch.manual_seed(1)
    d = collections.OrderedDict()
    for dtype in NAMES:
        d["t." + NAMES[dtype]] = (torch.randn(3, 5) * 50).to(dtype)
    d["scalar"] = torch.tensor(7)
    d["empty"] = torch.empty(0, 4)
    d["rank5"] = torch.randn(2, 1, 3, 1, 2)
    return d


def shared(tied=torch.Tensor.detach):
    """tied: how the output head comes from the embedding; the same object is pickled as a reference to the first."""
    torch.manual_seed(2)
    w = torch.randn(6, 4).to(torch.bfloat16)
    return collections.OrderedDict(
        [("model.embed.weight", w), ("lm_head.weight", tied(w)), ("transposed", w.t()), ("rows", w[2:5]), ("column", w[:, 1]),
         ("permuted", w.reshape(2, 3, 4).permute(2, 0, 1)), ("step", w[::2, 1::2])])


def module():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(8, 3), torch.nn.LayerNorm(3), torch.nn.Embedding(5, 2)).state_dict()


def many():
    """More than 1000 items and 256 memo places: several SETITEMS, the long memo opcodes."""
    return collections.OrderedDict((f"model.layers.{i}.weight", torch.full((2,), float(i))) for i in range(2500))


def write(out, name, obj, state, **kw):
    torch.save(obj, out / (name + ".bin"), **kw)
    lines = [torch_bin.expect_line(k, NAMES[t.dtype], tuple(t.shape), raw(t)) for k, t in state.items()]
    (out / (name + ".expect")).write_text("".join(lines), encoding="utf-8")


def as_ours(state):
    """The same tensors for torch_bin: whole storages, shared where torch shares them."""
    made = []
    for k, t in state.items():
        whole = torch.empty(0, dtype=t.dtype).set_(t.storage())
        made.append(torch_bin.Tensor(k, NAMES[t.dtype], tuple(t.shape), raw(whole), tuple(t.stride()), t.storage_offset(),
                                     t.storage()._cdata, isinstance(t, torch.nn.Parameter)))
    return made


def compare(out, name, state):
    """torch_bin against torch, both ways."""
    theirs = zipfile.ZipFile(out / (name + ".bin"))
    folder = theirs.namelist()[0].split("/")[0]
    ours = as_ours(state)
    pkl, _ = torch_bin.state_pickle(ours)
    bad = []
    if pkl != theirs.read(folder + "/data.pkl"):
        bad.append(f"{name}: data.pkl differs from torch's")
    path = out / (name + ".ours")
    torch_bin.save(path, ours)
    back = torch.load(path)
    path.unlink()
    for k, t in state.items():
        if back[k].dtype != t.dtype or back[k].shape != t.shape or raw(back[k]) != raw(t):
            bad.append(f"{name}: torch reads {k} of torch_bin.py differently")
    return bad


def main(args):
    if len(args) != 1:
        print(__doc__)
        return 2
    out = pathlib.Path(args[0])
    out.mkdir(parents=True, exist_ok=True)
    params = collections.OrderedDict((k, torch.nn.Parameter(t)) for k, t in plain().items() if t.is_floating_point())
    bad = []
    for name, state in (("plain", plain()), ("shared", shared()), ("params", params), ("many", many())):
        write(out, name, state, state)
        bad += compare(out, name, state)
    write(out, "module", module(), module())   # has _metadata
    write(out, "wrapped", {"epoch": 3, "lr": 1e-4, "rng": torch.arange(4), "seen": [1, None], "state_dict": module()}, module())
    write(out, "wrapped_model", {"model": shared(lambda w: w), "iteration": 2 ** 40}, shared())
    torch.save(shared(), out / "legacy.bin", _use_new_zipfile_serialization=False)
    for line in bad:
        print(line)
    print(f"torch {torch.__version__}: {'disagrees' if bad else 'agrees'} with torch_bin.py")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
