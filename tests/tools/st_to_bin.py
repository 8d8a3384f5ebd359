#!/usr/bin/env python3
"""st_to_bin.py FOLDER OUT [N] [tie]   the same checkpoint as pytorch_model.bin, with the standard library only

Copies config.json. N > 1: that many files and an index. tie: "lm_head.weight" is a second name for the storage of the
embeddings, as torch.save writes tied weights.
"""
import json
import pathlib
import shutil
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import torch_bin  # noqa: E402


def tensors(folder):
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        n = struct.unpack("<Q", data[:8])[0]
        for name, t in json.loads(data[8:8 + n]).items():
            if name != "__metadata__":
                begin, end = t["data_offsets"]
                yield name, t["dtype"], tuple(t["shape"]), data[8 + n + begin:8 + n + end]


def main(args):
    if len(args) < 2:
        print(__doc__)
        return 2
    source, out = pathlib.Path(args[0]), pathlib.Path(args[1])
    n_file = int(args[2]) if len(args) > 2 else 1
    out.mkdir(exist_ok=True)
    shutil.copy(source / "config.json", out / "config.json")
    every = [torch_bin.Tensor(*t) for t in tensors(source)]
    if "tie" in args[3:]:
        shared = {"lm_head.weight", "model.embed_tokens.weight"}
        every = [t._replace(storage="tied") if t.name in shared else t for t in every if t.name != "lm_head.weight"]
        every += [t._replace(name="lm_head.weight") for t in every if t.name == "model.embed_tokens.weight"]
    if n_file == 1:
        torch_bin.save(str(out / "pytorch_model.bin"), every)
        return 0
    where, total = {}, sum(len(t.data) for t in every)
    for k in range(n_file):
        name = f"pytorch_model-{k + 1:05}-of-{n_file:05}.bin"
        part = every[len(every) * k // n_file:len(every) * (k + 1) // n_file]
        torch_bin.save(str(out / name), part)
        where.update({t.name: name for t in part})
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (out / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
