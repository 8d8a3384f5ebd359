#!/usr/bin/python3
"""The documented way to pad Qwen2-72B, as a thing to measure fitq against.

    documented_procedure.py SOURCE TARGET [--new-size 29696] [--sync]

What the Qwen2.5 documentation describes (docs/source/quantization/gptq.md): load the whole model, let the first pad_size rows of
gate_proj and up_proj (columns of down_proj) alternate with zero rows, keep the rest, torch.save the state dict as one
pytorch_model.bin, copy the other files, set intermediate_size. Written from that description. It is the procedure at its best:
the tensors are read straight into memory (no model is built around them first), and no matrix is doubled in full before it is
cut. Needs Debian's python3-torch, and memory for the model. Prints one line of JSON: seconds, peak RSS, bytes.
"""
import argparse
import json
import os
import resource
import shutil
import struct
import sys
import time

import torch

DTYPE = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def read_safetensors(path, into):
    with open(path, "rb", buffering=0) as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(n))
        header.pop("__metadata__", None)
        for name, t in sorted(header.items(), key=lambda kv: kv[1]["data_offsets"]):
            begin, end = t["data_offsets"]
            out = torch.empty(t["shape"], dtype=DTYPE[t["dtype"]])
            view = memoryview(out.view(torch.int16 if out.element_size() == 2 else out.dtype).numpy()).cast("B")
            f.seek(8 + n + begin)
            done = 0
            while done < end - begin:
                k = f.readinto(view[done:])
                if not k:
                    sys.exit(f"{path}: {name}: file ends early")
                done += k
            into[name] = out


def interleave(w, extra, dim):
    """First `extra` rows (dim 0) or columns (dim 1) alternate with zeros; the others follow unchanged."""
    head = w.narrow(dim, 0, extra)
    pairs = torch.stack([head, torch.zeros_like(head)], dim=dim + 1)
    shape = list(head.shape)
    shape[dim] *= 2
    return torch.cat([pairs.reshape(shape), w.narrow(dim, extra, w.shape[dim] - extra)], dim=dim)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("source")
    p.add_argument("target")
    p.add_argument("--new-size", type=int, default=29696)
    p.add_argument("--sync", action="store_true", help="count the time until the data is on the disk")
    a = p.parse_args()
    start = time.monotonic()
    with open(os.path.join(a.source, "config.json")) as f:
        config = json.load(f)
    extra = a.new_size - config["intermediate_size"]
    state = {}
    for name in sorted(os.listdir(a.source)):
        if name.endswith(".safetensors"):
            read_safetensors(os.path.join(a.source, name), state)
    loaded = time.monotonic()
    for name in state:
        if name.endswith(("mlp.gate_proj.weight", "mlp.up_proj.weight")):
            state[name] = interleave(state[name], extra, 0)
        elif name.endswith("mlp.down_proj.weight"):
            state[name] = interleave(state[name], extra, 1)
    padded = time.monotonic()
    os.mkdir(a.target)
    torch.save(state, os.path.join(a.target, "pytorch_model.bin"))
    for name in os.listdir(a.source):
        if not name.endswith((".safetensors", ".index.json")) and name != "config.json":
            shutil.copy(os.path.join(a.source, name), a.target)
    config["intermediate_size"] = a.new_size
    with open(os.path.join(a.target, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
    if a.sync:
        os.sync()
    end = time.monotonic()
    print(json.dumps({
        "seconds": round(end - start, 2), "load": round(loaded - start, 2), "pad": round(padded - loaded, 2),
        "save": round(end - padded, 2), "synced": a.sync,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "bytes": os.path.getsize(os.path.join(a.target, "pytorch_model.bin"))}))


main()
