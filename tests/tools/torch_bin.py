#!/usr/bin/env python3
"""torch_bin.py - writes checkpoints in torch's zip format with the standard library only.

    import torch_bin
    torch_bin.save("pytorch_model.bin", [("a.weight", "F32", (2, 3), data)])

What torch.save writes (torch/serialization.py, caffe2/serialize/inline_container.cc): a zip of stored entries, streamed
(sizes behind the data), data on 64 bytes, a zip64 end record always; data.pkl is a protocol-2 pickle in which a storage is a
persistent id. tests/tools/torch_judge.py compares the bytes of data.pkl with those of the real torch where one is installed.

Tests that need damaged files build them from the parts: state_pickle(), Entry, zip_bytes().

As a program:  torch_bin.py OUT [--big] [--wrapper KEY]
writes a small example with all kinds of tensors, and to OUT.expect what a reader must find in it (see expected()).
"""
import collections
import io
import pickle
import struct
import sys
import zlib
from typing import NamedTuple, Optional

# safetensors spelling -> (bytes, storage class, torch dtype); no class: torch stores it untyped (_rebuild_tensor_v3)
DTYPES = {
    "F64": (8, "DoubleStorage", "float64"), "F32": (4, "FloatStorage", "float32"), "F16": (2, "HalfStorage", "float16"),
    "BF16": (2, "BFloat16Storage", "bfloat16"), "I64": (8, "LongStorage", "int64"), "I32": (4, "IntStorage", "int32"),
    "I16": (2, "ShortStorage", "int16"), "I8": (1, "CharStorage", "int8"), "U8": (1, "ByteStorage", "uint8"),
    "BOOL": (1, "BoolStorage", "bool"), "U16": (2, None, "uint16"), "U32": (4, None, "uint32"), "U64": (8, None, "uint64"),
    "F8_E4M3": (1, None, "float8_e4m3fn"), "F8_E5M2": (1, None, "float8_e5m2"),
    "F8_E4M3FNUZ": (1, None, "float8_e4m3fnuz"), "F8_E5M2FNUZ": (1, None, "float8_e5m2fnuz"),
    "F8_E8M0": (1, None, "float8_e8m0fnu"),
}


class Tensor(NamedTuple):
    """data: the bytes of the storage, little-endian: row-major elements unless stride says otherwise. Tensors with the same
    `storage` (any value) share one; data of all but the first is ignored."""
    name: str
    dtype: str
    shape: tuple
    data: Optional[bytes]
    stride: Optional[tuple] = None
    offset: int = 0
    storage: object = None
    parameter: bool = False


# ---- pickle --------------------------------------------------------------------------------------------------------


class Global:
    """Something that the pickle names but that does not exist here."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):   # pickle asks for a callable
        raise TypeError("not to be called")


class Storage(NamedTuple):
    cls: Global
    key: str
    numel: int


class Call:
    """Pickled as func(*args)."""

    def __init__(self, func, *args):
        self.func, self.args = func, args


_GLOBALS = {}


def named(module, name):
    """One object per name, so that the pickler's memo finds it again."""
    return _GLOBALS.setdefault((module, name), Global(module, name))


class _Pickler(pickle._Pickler):   # the C pickler cannot be told to write a name that it cannot import
    def persistent_id(self, obj):
        return ("storage", obj.cls, obj.key, "cpu", obj.numel) if isinstance(obj, Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global) and id(obj) not in self.memo:
            self.write(b"c" + obj.module.encode() + b"\n" + obj.name.encode() + b"\n")
            self.memoize(obj)
        elif isinstance(obj, Call) and id(obj) not in self.memo:
            self.save_reduce(obj.func, obj.args, obj=obj)
        else:
            super().save(obj, save_persistent_id)


def dumps(obj):
    out = io.BytesIO()
    _Pickler(out, protocol=2).dump(obj)
    return out.getvalue()


def row_major(shape):
    stride, step = [], 1
    for n in reversed(shape):
        stride.insert(0, step)
        step *= max(n, 1)
    return tuple(stride)


def swapped(data, width):
    out = bytearray(data)
    for i in range(width):
        out[i::width] = data[width - 1 - i::width]
    return bytes(out)


def _tensor(t, key, n_bytes):
    width, cls, dtype = DTYPES[t.dtype]
    where = Storage(named("torch", cls), key, n_bytes // width) if cls else \
        Storage(named("torch.storage", "UntypedStorage"), key, n_bytes)
    stride = tuple(t.stride) if t.stride is not None else row_major(t.shape)
    view = (where, t.offset, tuple(t.shape), stride, False, collections.OrderedDict())
    if cls:
        made = Call(named("torch._utils", "_rebuild_tensor_v2"), *view)
    else:
        made = Call(named("torch._utils", "_rebuild_tensor_v3"), *view, named("torch", dtype))
    if t.parameter:
        made = Call(named("torch._utils", "_rebuild_parameter"), made, True, collections.OrderedDict())
    return made


def state_objects(tensors):
    """(state dict ready for dumps(), [(key, bytes, element width)])"""
    state, storages, keys = collections.OrderedDict(), [], {}
    for i, t in enumerate(Tensor(*t) for t in tensors):
        shared = ("own", i) if t.storage is None else ("shared", t.storage)
        if shared not in keys:
            keys[shared] = len(storages)
            storages.append((str(len(storages)), bytes(t.data), DTYPES[t.dtype][0]))
        key, data, _ = storages[keys[shared]]
        state[t.name] = _tensor(t, key, len(data))
    return state, storages


def state_pickle(tensors, wrapper=None, beside=None):
    """(data.pkl, [(key, bytes, element width)]). wrapper: key of a dict around the state dict; beside: more items for it."""
    state, storages = state_objects(tensors)
    return dumps(state if wrapper is None else {wrapper: state, **(beside or {})}), storages


# ---- zip -----------------------------------------------------------------------------------------------------------

STREAMED = 0x0808   # sizes behind the data; UTF-8 name


class Entry(NamedTuple):
    """local, central: fields to write instead of the right ones, by name (flags method crc stored plain name off; extra and
    comment are bytes). descriptor: None = the form that torch would use, or the bytes themselves. gap: bytes before it."""
    name: str
    data: bytes
    flags: int = STREAMED
    crc: Optional[int] = None
    local: dict = {}
    central: dict = {}
    descriptor: Optional[bytes] = None
    align: int = 64
    gap: bytes = b""


def _raw(name):
    return name if isinstance(name, bytes) else name.encode()


def descriptor(entry, crc, wide=False, signature=True):
    sizes = struct.pack("<QQ" if wide else "<II", len(entry.data), len(entry.data))
    return (b"PK\x07\x08" if signature else b"") + struct.pack("<I", crc) + sizes


def _local(entry, crc, at):
    streamed = entry.flags & 8
    f = {"flags": entry.flags, "method": 0, "crc": 0 if streamed else crc, "stored": 0 if streamed else len(entry.data),
         "plain": 0 if streamed else len(entry.data), "name": entry.name, "extra": None, **entry.local}
    name, extra = _raw(f["name"]), f["extra"]
    if extra is None:
        fill = (-(at + 30 + len(name) + 4)) % entry.align if entry.align else 0
        extra = b"FB" + struct.pack("<H", fill) + b"Z" * fill if entry.align else b""
    return struct.pack("<IHHHHHIIIHH", 0x04034B50, 0, f["flags"], f["method"], 0, 0, f["crc"], f["stored"], f["plain"],
                       len(name), len(extra)) + name + extra


def _central(entry, crc, at):
    f = {"flags": entry.flags, "method": 0, "crc": crc, "stored": len(entry.data), "plain": len(entry.data), "off": at,
         "name": entry.name, "extra": b"", "comment": b"", "disk": 0, **entry.central}
    name = _raw(f["name"])
    return struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 0, 0, f["flags"], f["method"], 0, 0, f["crc"], f["stored"],
                       f["plain"], len(name), len(f["extra"]), len(f["comment"]), f["disk"], 0, 0, f["off"]) + name + \
        f["extra"] + f["comment"]


def _ends(n, size, off, zip64, end, end64):
    f = {"disk": 0, "dir_disk": 0, "here": n, "total": n, "size": size, "off": off, "comment": b"", **end}
    out = b""
    if zip64:
        g = {"length": 44, "disk": 0, "dir_disk": 0, "here": n, "total": n, "size": size, "off": off, "at": off + size,
             "disks": 1, "signature": 0x06064B50, "more": b"", **end64}
        out += struct.pack("<IQHHIIQQQQ", g["signature"], g["length"], 0x31E, 45, g["disk"], g["dir_disk"], g["here"],
                           g["total"], g["size"], g["off"]) + g["more"]
        out += struct.pack("<IIQI", 0x07064B50, 0, g["at"], g["disks"])
    return out + struct.pack("<IHHHHIIH", 0x06054B50, f["disk"], f["dir_disk"], f["here"], f["total"], f["size"], f["off"],
                             len(f["comment"])) + f["comment"]


def zip_bytes(entries, zip64=True, end={}, end64={}, before_dir=b"", directory=None):
    """The archive. end, end64: fields of the end records to write instead of the right ones. directory: order of the
    central headers as indices of entries (all, in order, if None)."""
    out, heads = bytearray(), []
    for e in entries:
        crc = zlib.crc32(e.data) if e.crc is None else e.crc
        out += e.gap
        at = len(out)
        out += _local(e, crc, at) + e.data
        if e.flags & 8:
            out += descriptor(e, crc) if e.descriptor is None else e.descriptor
        heads.append(_central(e, crc, at))
    out += before_dir
    off = len(out)
    heads = heads if directory is None else [heads[i] for i in directory]
    for h in heads:
        out += h
    return bytes(out) + _ends(len(heads), len(out) - off, off, zip64, end, end64)


# ---- both ----------------------------------------------------------------------------------------------------------


def entries(pkl, storages, byteorder="little", folder="archive"):
    """The entries of a checkpoint in torch's order, to be changed by a test and given to zip_bytes()."""
    out = [Entry(f"{folder}/data.pkl", pkl)]
    if byteorder is not None:   # None: as torch before 2.0
        out.append(Entry(f"{folder}/byteorder", byteorder.encode()))
    for key, data, width in storages:
        out.append(Entry(f"{folder}/data/{key}", swapped(data, width) if byteorder == "big" else data))
    out.append(Entry(f"{folder}/version", b"3\n"))
    return out


def bin_bytes(tensors, wrapper=None, byteorder="little", beside=None, folder="archive", crc=True):
    pkl, storages = state_pickle(tensors, wrapper, beside)
    made = entries(pkl, storages, byteorder, folder)
    return zip_bytes(made if crc else [e._replace(crc=0) for e in made])


def save(path, tensors, wrapper=None, byteorder="little", beside=None, folder="archive", crc=True):
    """tensors: Tensor, or tuples of its first members (name, dtype, shape, data[, stride[, offset[, storage]]])."""
    with open(path, "wb") as f:
        f.write(bin_bytes(tensors, wrapper, byteorder, beside, folder, crc))


def example():
    f32 = struct.pack("<12f", *range(12))
    return [
        Tensor("a.weight", "F32", (3, 4), f32, storage="a"),
        Tensor("a.transposed", "F32", (4, 3), None, stride=(1, 4), storage="a"),
        Tensor("a.column", "F32", (2,), None, stride=(4,), offset=6, storage="a"),
        Tensor("b.weight", "BF16", (2, 2), bytes(range(8)), parameter=True),
        Tensor("c.scalar", "I64", (), struct.pack("<q", -3)),
        Tensor("d.empty", "F16", (0, 5), b""),
        Tensor("e.fp8", "F8_E4M3", (2, 3), bytes(range(6))),
        Tensor("f.mask", "BOOL", (3,), b"\1\0\1"),
    ]


def contiguous(t, storage):
    """The elements of a view in row-major order."""
    width = DTYPES[t.dtype][0]
    stride = t.stride if t.stride is not None else row_major(t.shape)
    places = [t.offset]
    for n, step in zip(t.shape, stride):
        places = [p + i * step for p in places for i in range(n)]
    return b"".join(storage[p * width:(p + 1) * width] for p in places)


def expect_line(name, dtype, shape, data):
    return f"{name}\t{dtype}\t{','.join(map(str, shape))}\t{data.hex()}\n"


def expected(tensors):
    """One line a tensor, in state-dict order: name, dtype, shape, the elements in hex, little-endian and row-major."""
    out, first = "", {}
    for t in (Tensor(*t) for t in tensors):
        storage = t.data if t.storage is None else first.setdefault(t.storage, t.data)
        out += expect_line(t.name, t.dtype, t.shape, contiguous(t, storage))
    return out


def main(args):
    if not args or args[0].startswith("-"):
        print(__doc__)
        return 2
    wrapper = args[args.index("--wrapper") + 1] if "--wrapper" in args else None
    save(args[0], example(), wrapper=wrapper, byteorder="big" if "--big" in args else "little")
    with open(args[0] + ".expect", "w", encoding="utf-8") as f:
        f.write(expected(example()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
