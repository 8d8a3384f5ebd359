"""torch_cases.py - pytorch_model.bin: archives, pickles and the contradictions between both.

The files are made by tests/tools/torch_bin.py from two small tensors, with one thing wrong in each.
"""
import pathlib
import struct
import sys
import zlib

from corpus import bad, ok

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
import torch_bin as tb  # noqa: E402

A = tb.Tensor("a.weight", "F32", (2, 3), struct.pack("<6f", *range(6)))
B = tb.Tensor("b.bias", "BF16", (4,), bytes(range(8)))


def parts(tensors=(A, B), **kw):
    pkl, storages = tb.state_pickle(tensors, **kw)
    return tb.entries(pkl, storages)


def changed(i, **kw):
    e = parts()
    e[i] = e[i]._replace(**kw)
    return tb.zip_bytes(e)


def of_pickle(pkl, storages=(("0", bytes(16), 4),)):
    return tb.zip_bytes(tb.entries(pkl, storages))


# ---- zip -------------------------------------------------------------------------------------------------------


def zip_cases():
    good = tb.zip_bytes(parts())
    e = parts()
    yield "zip-empty-file", b""
    yield "zip-magic-only", b"PK\3\4"
    yield "zip-cut-in-half", good[:len(good) // 2]
    yield "zip-no-central-directory", good[:good.index(b"PK\1\2")]
    yield "zip-last-byte-missing", good[:-1]
    yield "zip-bytes-after", good + b"\n"
    yield "zip-two-archives", good + good
    yield "zip-prefix", b"#!/bin/sh\n" + good
    yield "zip-prefix-after-magic", tb.zip_bytes([e[0]._replace(gap=b"PK\3\4 something else ")] + e[1:])
    yield "zip-comment", tb.zip_bytes(e, end={"comment": b"PK\5\6" + bytes(18)})
    yield "zip-comment-short", tb.zip_bytes(e, end={"comment": b"x"})
    yield "zip-no-entries", tb.zip_bytes([])
    yield "zip-end-disk", tb.zip_bytes(e, end={"disk": 1})
    yield "zip-end-count-less", tb.zip_bytes(e, zip64=False, end={"here": 4, "total": 4})
    yield "zip-end-count-more", tb.zip_bytes(e, zip64=False, end={"here": 6, "total": 6})
    yield "zip-end-count-65534", tb.zip_bytes(e, zip64=False, end={"here": 65534, "total": 65534})
    yield "zip-end-position", tb.zip_bytes(e, zip64=False, end={"off": 0})
    yield "zip-end-size", tb.zip_bytes(e, zip64=False, end={"size": 1 << 31})
    yield "zip64-missing", tb.zip_bytes(e, zip64=False, end={"size": 0xFFFFFFFF})
    yield "zip64-count-lies", tb.zip_bytes(e, end64={"here": 1 << 40, "total": 1 << 40})
    yield "zip64-count-hidden-lies", tb.zip_bytes(e, end={"here": 0xFFFF, "total": 0xFFFF},
                                                  end64={"here": 1 << 60, "total": 1 << 60})
    yield "zip64-position-lies", tb.zip_bytes(e, end={"off": 0xFFFFFFFF}, end64={"off": (1 << 64) - 1})
    yield "zip64-size-lies", tb.zip_bytes(e, end={"size": 0xFFFFFFFF}, end64={"size": (1 << 63)})
    yield "zip64-record-elsewhere", tb.zip_bytes(e, end64={"at": 0})
    yield "zip64-record-past-end", tb.zip_bytes(e, end64={"at": (1 << 64) - 8})
    yield "zip64-record-length", tb.zip_bytes(e, end64={"length": 1 << 62})
    yield "zip64-disks", tb.zip_bytes(e, end64={"disks": 2})
    yield "zip-overlap", changed(3, central={"off": 0})
    yield "zip-overlap-sizes", changed(2, central={"stored": 4096, "plain": 4096})
    yield "zip-position-past-end", changed(3, central={"off": 0x7FFFFFFF})
    yield "zip-entry-2-gib", changed(2, central={"stored": 0x7FFFFFFF, "plain": 0x7FFFFFFF})
    yield "zip64-entry-2^64", changed(2, central={"stored": 0xFFFFFFFF, "plain": 0xFFFFFFFF,
                                                  "extra": struct.pack("<HHQQ", 1, 16, 2**64 - 1, 2**64 - 1)})
    yield "zip64-entry-no-extra", changed(2, central={"plain": 0xFFFFFFFF})
    yield "zip-extra-overrun", changed(2, central={"extra": struct.pack("<HH", 0x1234, 500)})
    yield "zip-local-signature", good.replace(b"PK\3\4", b"PK\3\5").replace(b"PK\3\5", b"PK\3\4", 1)
    yield "zip-local-name", changed(2, local={"name": "archive/data/9"})
    yield "zip-local-name-longer", changed(2, local={"name": "archive/data/00"})
    yield "zip-local-flags", changed(2, local={"flags": 0x0809})
    yield "zip-local-method", changed(2, local={"method": 8})
    yield "zip-local-size", changed(2, local={"stored": 25, "plain": 25})
    yield "zip-local-crc", changed(2, local={"crc": 1})
    yield "zip-stored-not-plain", changed(2, central={"stored": 12})
    yield "zip-descriptor-size", changed(2, descriptor=tb.descriptor(e[2]._replace(data=b""), zlib.crc32(e[2].data)))
    yield "zip-descriptor-crc", changed(2, descriptor=tb.descriptor(e[2], 1))
    yield "zip-descriptor-missing", changed(2, descriptor=b"")
    yield "zip-duplicate-data", tb.zip_bytes(e[:3] + [e[2]] + e[3:])
    yield "zip-duplicate-pickle", tb.zip_bytes([e[0]] + e)
    yield "zip-duplicate-in-directory", tb.zip_bytes(e, directory=[0, 1, 2, 2, 3, 4])
    yield "zip-encrypted", changed(2, flags=0x0809)
    yield "zip-strong-encryption", changed(2, flags=0x0848)
    yield "zip-deflate", changed(0, data=zlib.compress(e[0].data)[2:-4], local={"method": 8}, central={"method": 8})
    bomb = zlib.compress(bytes(1 << 20), 9)[2:-4]
    yield "zip-deflate-bomb", changed(2, data=bomb, local={"method": 8}, central={"method": 8, "plain": 1 << 20})
    yield "zip-name-nul", changed(2, name="archive/data/0\0x")
    yield "zip-crc-pickle", changed(0, data=e[0].data.replace(b"a.weight", b"a.wejght"), crc=zlib.crc32(e[0].data))
    yield "zip-crc-storage", changed(2, data=bytes(24), crc=zlib.crc32(e[2].data))


# ---- what it is instead -------------------------------------------------------------------------------------------


def other_cases():
    e = parts()
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    yield "torch-legacy", magic + b"\x80\x02M\xe9\x03.\x80\x02}q\0."
    yield "torch-bare-pickle", b"\x80\x02}q\0."
    yield "torch-tar", b"storages".ljust(257, b"\0") + b"ustar  \0" + bytes(247)
    yield "torch-safetensors", struct.pack("<Q", 8) + b"{}      "
    yield "torch-git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    yield "torch-script", tb.zip_bytes(e + [tb.Entry("archive/constants.pkl", b"\x80\x02).")])
    yield "torch-no-pickle", tb.zip_bytes(e[1:])
    yield "torch-no-folder", changed(0, name="data.pkl")
    yield "torch-two-folders", tb.zip_bytes(e + [x._replace(name=x.name.replace("archive", "b")) for x in e])
    yield "torch-pickle-in-second-folder", tb.zip_bytes(e[1:] + [e[0]._replace(name="other/data.pkl")])
    yield "torch-byteorder", changed(1, data=b"middle")
    yield "torch-byteorder-long", changed(1, data=b"little\n")
    yield "torch-byteorder-empty", changed(1, data=b"")


# ---- pickle -------------------------------------------------------------------------------------------------------

P = b"\x80\x02"
OD = b"ccollections\nOrderedDict\n)R"


def pickle_cases():
    whole, _ = tb.state_pickle([A])
    yield "pickle-os-system", P + b"cos\nsystem\nX\x02\0\0\0id\x85R."
    yield "pickle-builtin-eval", P + b"c__builtin__\neval\nX\x01\0\0\x001\x85R."
    yield "pickle-subprocess", P + b"csubprocess\nPopen\n)R."
    yield "pickle-global-escape", P + b"ctorch\n\x1b[31mred\n)R."
    yield "pickle-in-state-dict", whole.replace(b"torch\nFloatStorage", b"posix\nsystem")
    yield "pickle-quantized-tensor", P + b"ctorch._utils\n_rebuild_qtensor\n)R."
    yield "pickle-stack-global", P + b"X\x02\0\0\0osX\x06\0\0\0system\x93)R."
    yield "pickle-inst", P + b"(ios\nsystem\n."
    yield "pickle-protocol-4", b"\x80\x04\x95\x01\0\0\0\0\0\0\0}."
    yield "pickle-protocol-0", b"(dp0\n."
    yield "pickle-empty", b""
    yield "pickle-no-stop", P + b"}"
    yield "pickle-cut", whole[:40]
    yield "pickle-after-stop", whole + b"N."
    yield "pickle-stack-underflow", P + b"R."
    yield "pickle-mark-missing", P + b"}NNu."
    yield "pickle-mark-loop", P + b"(" * 100000 + b"."
    yield "pickle-memo-hole", P + b"h\x05."
    yield "pickle-memo-sparse", P + b"}r\xff\xff\xff\xff."
    yield "pickle-long-2^31", P + b"\x8b\0\0\0\x80."
    yield "pickle-long-cut", P + b"\x8a\xff\x01."
    yield "pickle-string-4-gib", P + b"X\xff\xff\xff\xffa."
    yield "pickle-not-utf8", P + b"}X\x01\0\0\0\xffK\x01s."
    yield "pickle-name-nul", whole.replace(b"a.weight", b"a.\0eight")
    yield "pickle-setitem-on-list", P + b"]K\x01K\x02s."
    yield "pickle-build-on-tensor", whole[:-2] + b"}bu."
    yield "state-dict-list", P + b"]."
    yield "state-dict-tensor", P + whole[whole.index(b"ctorch._utils"):-2].replace(b"h\0)R", OD) + b"."
    yield "state-dict-empty", P + OD + b"."
    yield "state-dict-optimizer", P + b"}X\x05\0\0\0stateK\x01s."
    yield "state-dict-key-int", tb.dumps({1: tb.state_objects([A])[0]["a.weight"]})
    yield "state-dict-value-int", tb.dumps({"a": tb.state_objects([A])[0]["a.weight"], "b": 3})
    yield "state-dict-nested", tb.dumps({"model": {"layers": tb.state_objects([A])[0]}})
    both = tb.state_objects([A])[0]
    yield "state-dict-two-wrappers", tb.dumps({"model": both, "state_dict": both})


def twice():
    """Duplicate names: the same text twice, and the same memo place twice."""
    body = tb.state_pickle([A, A._replace(name="a.wejght")])[0]
    yield "state-dict-duplicate", of_pickle(body.replace(b"a.wejght", b"a.weight"), (("0", A.data, 4), ("1", A.data, 4)))
    one = tb.state_pickle([A])[0]   # ... name (memo 2) tensor SETITEM STOP
    tensor = one[one.index(b"ctorch._utils"):-2]
    yield "state-dict-duplicate-memo", of_pickle(one[:-1] + b"h\x02" + tensor + b"s.", (("0", A.data, 4),))


# ---- numbers ------------------------------------------------------------------------------------------------------


def numbers(shape=(2, 3), stride=None, offset=0, cls="FloatStorage", numel=6, data=A.data, key="0", keys=None, dtype=None):
    where = tb.Storage(tb.named("torch" if cls != "UntypedStorage" else "torch.storage", cls), key, numel)
    view = [where, offset, shape, tb.row_major(shape) if stride is None else stride, False, tb.collections.OrderedDict()]
    if dtype:
        view.append(tb.named("torch", dtype))
    func = "_rebuild_tensor_v3" if dtype else "_rebuild_tensor_v2"
    state = tb.collections.OrderedDict([("a.weight", tb.Call(tb.named("torch._utils", func), *view))])
    return of_pickle(tb.dumps(state), keys if keys is not None else (("0", data, 4),))


def number_cases():
    yield "numel-wraps", numbers(numel=0x4000000000000006)
    yield "numel-wraps-to-entry", numbers(numel=2**62 + 6)
    yield "numel-negative", numbers(numel=-6)
    yield "numel-beyond-64-bits", numbers(numel=2**64 + 6)
    yield "numel-too-small", numbers(numel=5)
    yield "numel-too-large", numbers(numel=7)
    yield "numel-of-other-class", numbers(cls="HalfStorage")
    yield "storage-missing", numbers(keys=())
    yield "storage-key-path", numbers(key="../data.pkl")
    yield "storage-key-empty", numbers(key="")
    yield "storage-two-classes", of_pickle(tb.dumps(tb.collections.OrderedDict(
        [(n, tb.Call(tb.named("torch._utils", "_rebuild_tensor_v2"), tb.Storage(tb.named("torch", c), "0", 6), 0, (6,), (1,),
                     False, tb.collections.OrderedDict())) for n, c in (("a", "FloatStorage"), ("b", "IntStorage"))])),
        (("0", A.data, 4),))
    yield "shape-negative", numbers(shape=(-2, -3), stride=(3, 1))
    yield "shape-wraps", numbers(shape=(2**32, 2**32), stride=(0, 0))
    yield "shape-zero-then-huge", numbers(shape=(0, 2**62, 2**62), stride=(0, 0, 1))
    yield "shape-huge-then-zero", numbers(shape=(2**62, 2**62, 0), stride=(0, 0, 1))
    yield "shape-beyond-64-bits", numbers(shape=(2**64,), stride=(1,))
    yield "shape-9-dimensions", numbers(shape=(1,) * 9)
    yield "shape-more-than-storage", numbers(shape=(7,))
    yield "stride-past-storage", numbers(stride=(4, 1))
    yield "stride-negative", numbers(stride=(-3, 1), offset=3)
    yield "stride-wraps", numbers(stride=(2**63 - 1, 2**63 - 1))
    yield "stride-wraps-to-zero", numbers(shape=(5, 3), stride=(2**62, 1))
    yield "stride-count", numbers(stride=(1,))
    yield "stride-expanded", numbers(shape=(1000, 1000), stride=(0, 0))
    yield "offset-past-storage", numbers(offset=1)
    yield "offset-far", numbers(offset=2**62)
    yield "offset-negative", numbers(offset=-1)
    yield "offset-empty-tensor", numbers(shape=(0,), offset=7)
    yield "untyped-odd-bytes", numbers(shape=(2,), cls="UntypedStorage", numel=5, data=bytes(5), dtype="uint16")
    yield "untyped-without-dtype", numbers(cls="UntypedStorage", numel=24)
    yield "typed-with-dtype", numbers(dtype="float32")


# ---- accepted -----------------------------------------------------------------------------------------------------


def accepted():
    e = parts()
    big = struct.pack("<HHQ", 1, 8, 0)
    yield "example", tb.bin_bytes(tb.example())
    yield "big-endian", tb.bin_bytes(tb.example(), byteorder="big")
    yield "no-byteorder", tb.bin_bytes([A, B], byteorder=None)
    yield "wrapped", tb.bin_bytes([A, B], wrapper="state_dict", beside={"epoch": 1, "lr": 0.5, "rng": [None, (1, 2)]})
    yield "crc-zero", tb.bin_bytes([A, B], crc=False)
    yield "folder-name", tb.bin_bytes([A, B], folder="pytorch_model-00001-of-00002")
    yield "not-streamed", tb.zip_bytes([x._replace(flags=0, align=0) for x in e])
    yield "no-zip64-record", tb.zip_bytes(e, zip64=False)
    # Real shards above 4 GiB: zero local sizes, an 8-byte zip64 field (the position), a 64-bit descriptor.
    yield "streamed-zip64", tb.zip_bytes([x._replace(local={"extra": big}, descriptor=tb.descriptor(x, zlib.crc32(x.data), True))
                                          for x in e])
    yield "zip64-sizes", tb.zip_bytes([x._replace(
        flags=0, local={"stored": 0xFFFFFFFF, "plain": 0xFFFFFFFF, "extra": struct.pack("<HHQQ", 1, 16, len(x.data), len(x.data))},
        central={"stored": 0xFFFFFFFF, "plain": 0xFFFFFFFF, "extra": struct.pack("<HHQQ", 1, 16, len(x.data), len(x.data))})
        for x in e])
    yield "descriptor-bare", tb.zip_bytes([x._replace(descriptor=tb.descriptor(x, zlib.crc32(x.data), signature=False))
                                           for x in e])
    yield "unknown-entries", tb.zip_bytes(e + [tb.Entry("archive/.data/serialization_id", b"1" * 40),
                                               tb.Entry("archive/.format_version", b"1")])
    yield "directory-entries", tb.zip_bytes([tb.Entry("archive/", b"", flags=0, align=0)] + e)
    yield "central-comments", tb.zip_bytes([x._replace(central={"comment": b"made by hand"}) for x in e])
    yield "unaligned", tb.zip_bytes([x._replace(align=0) for x in e])
    yield "unused-storage", tb.zip_bytes(e + [tb.Entry("archive/data/77", b"x")])
    yield "shape-zero", numbers(shape=(3, 0), stride=(1, 1), offset=6)
    yield "stride-of-one", numbers(shape=(1, 6), stride=(12345, 1))
    yield "name-empty", tb.bin_bytes([A._replace(name="")])
    yield "name-hostile", tb.bin_bytes([A._replace(name="../x\n\x1b[31m")])


MESSAGES = {
    "zip-empty-file": "byte 0: torch-magic: found a file of 0 bytes, expected a zip archive",
    "zip-magic-only": "zip-end: found 4 bytes, expected a zip end record of 22 bytes",
    "zip-cut-in-half":
        "byte 605: zip-end: found no zip end record in the last 22 bytes, expected one (the file is cut, or "
        "bytes follow the archive)",
    "zip-no-central-directory":
        "byte 828: zip-end: found no zip end record in the last 22 bytes, expected one (the file is cut, or "
        "bytes follow the archive)",
    "zip-last-byte-missing":
        "byte 1231: zip-end: found no zip end record in the last 22 bytes, expected one (the file is cut, or "
        "bytes follow the archive)",
    "zip-bytes-after":
        "byte 1233: zip-end: found no zip end record in the last 22 bytes, expected one (the file is cut, or "
        "bytes follow the archive)",
    "zip-two-archives": "byte 1156: zip64-record: found length 44, expected 1298",
    "zip-prefix": "byte 0: torch-magic: found 23 21 2f 62 in a file of 1264 bytes, expected a zip archive (50 4b 03 04)",
    "zip-prefix-after-magic": "byte 0: zip-prefix: found the first entry at byte 20, expected it at byte 0",
    "zip-comment": "byte 1254: zip-directory: found a central directory of 0 bytes at byte 0, expected it to end here",
    "zip-comment-short":
        "byte 1233: zip-end: found no zip end record in the last 22 bytes, expected one (the file is cut, or "
        "bytes follow the archive)",
    "zip-no-entries": "byte 0: torch-magic: found 50 4b 06 06 in a file of 98 bytes, expected a zip archive (50 4b 03 04)",
    "zip-end-disk": "byte 1232: zip-disks: found an archive on several disks, expected one file",
    "zip-end-count-less":
        "byte 1095: zip-entry-count: found 61 bytes after the last of 4 entries, expected the end of the "
        "directory",
    "zip-end-count-more": "byte 1156: zip-directory: found no central header, expected one more entry",
    "zip-end-count-65534":
        "byte 850: zip-entry-count: found 65534 entries in a directory of 306 bytes, expected at least 46 "
        "bytes each",
    "zip-end-position": "byte 1156: zip-directory: found a central directory of 306 bytes at byte 0, expected it to end here",
    "zip-end-size":
        "byte 1156: zip-directory: found a central directory of 2147483648 bytes at byte 850, expected it to "
        "end here",
    "zip64-missing": "byte 1156: zip64-record: found none, expected one (the end record refers to it)",
    "zip64-count-lies":
        "byte 1156: zip64-mismatch: found entry count 1099511627776 in the zip64 record, expected 5 as in the "
        "end record",
    "zip64-count-hidden-lies":
        "byte 850: zip-entry-count: found 1152921504606846976 entries in a directory of 306 bytes, expected "
        "at least 46 bytes each",
    "zip64-position-lies":
        "byte 1156: zip-directory: found a central directory of 306 bytes at byte 18446744073709551615, "
        "expected it to end here",
    "zip64-size-lies":
        "byte 1156: zip-directory: found a central directory of 9223372036854775808 bytes at byte 850, "
        "expected it to end here",
    "zip64-record-elsewhere": "byte 0: zip64-record: found signature 04034b50, expected 06064b50",
    "zip64-record-past-end":
        "byte 1212: zip64-record: found a zip64 record at byte 18446744073709551608, expected it to end at "
        "byte 1212",
    "zip64-record-length": "byte 1156: zip64-record: found length 4611686018427387904, expected 44",
    "zip64-disks": "byte 1212: zip-disks: found an archive on several disks, expected one file",
    "zip-overlap": "byte 0: zip-overlap: found the header of entry archive/data.pkl, expected 30 bytes before byte 0",
    "zip-overlap-sizes":
        "byte 576: zip-overlap: found 4096 bytes of entry archive/data/0, expected them to end before byte "
        "616",
    "zip-position-past-end":
        "byte 2147483647: zip-overlap: found the header of entry archive/data/1, expected 30 bytes before "
        "byte 850",
    "zip-entry-2-gib":
        "byte 576: zip-overlap: found 2147483647 bytes of entry archive/data/0, expected them to end before "
        "byte 616",
    "zip64-entry-2^64":
        "byte 576: zip-overlap: found 18446744073709551615 bytes of entry archive/data/0, expected them to "
        "end before byte 616",
    "zip64-entry-no-extra": "byte 975: zip64-extra: found a zip64 field of 0 bytes, expected at least 8",
    "zip-extra-overrun": "byte 975: zip-extra: found an extra field that runs over its end",
    "zip-local-signature":
        "byte 342: zip-local: found signature 05034b50, expected the local header of entry archive/byteorder",
    "zip-local-name":
        "byte 470: zip-local-mismatch: found name archive/data/9 in the local header, expected archive/data/0 "
        "as in the directory",
    "zip-local-name-longer":
        "byte 470: zip-local-mismatch: found name length 15 in the local header of archive/data/0, expected "
        "14 as in the directory",
    "zip-local-flags":
        "byte 470: zip-local-mismatch: found flags 2057 in the local header of archive/data/0, expected 2056 "
        "as in the directory",
    "zip-local-method":
        "byte 470: zip-local-mismatch: found compression method 8 in the local header of archive/data/0, "
        "expected 0 as in the directory",
    "zip-local-size":
        "byte 470: zip-local-mismatch: found size 25 in the local header of archive/data/0, expected 24 as in "
        "the directory",
    "zip-local-crc":
        "byte 470: zip-local-mismatch: found CRC 1 in the local header of archive/data/0, expected 2447872023 "
        "as in the directory",
    "zip-stored-not-plain": "byte 975: zip-size: found 12 bytes stored and 24 plain, expected the same",
    "zip-descriptor-size":
        "byte 600: zip-descriptor: found no data descriptor of entry archive/data/0 that agrees with the "
        "directory, expected CRC 91e79017 and 24 bytes",
    "zip-descriptor-crc":
        "byte 600: zip-descriptor: found no data descriptor of entry archive/data/0 that agrees with the "
        "directory, expected CRC 91e79017 and 24 bytes",
    "zip-descriptor-missing":
        "byte 600: zip-descriptor: found no data descriptor of entry archive/data/0 that agrees with the "
        "directory, expected CRC 91e79017 and 24 bytes",
    "zip-duplicate-data":
        "byte 1163: zip-duplicate: found entry archive/data/0 a second time, expected it once (first at byte "
        "1103)",
    "zip-duplicate-pickle":
        "byte 1296: zip-duplicate: found entry archive/data.pkl a second time, expected it once (first at "
        "byte 1234)",
    "zip-duplicate-in-directory":
        "byte 1035: zip-duplicate: found entry archive/data/0 a second time, expected it once (first at byte "
        "975)",
    "zip-encrypted": "byte 975: zip-encrypted: found entry archive/data/0 encrypted, expected plain data",
    "zip-strong-encryption": "byte 975: zip-flags: found flags 0x0848 on entry archive/data/0, expected none of 0x0040",
    "zip-deflate": "byte 786: zip-compression: found entry archive/data.pkl with method 8 (deflate), expected 0 (stored)",
    "zip-deflate-bomb": "byte 1999: zip-compression: found entry archive/data/0 with method 8 (deflate), expected 0 (stored)",
    "zip-name-nul": "byte 975: zip-name: found a name that is empty or holds a NUL",
    "zip-crc-pickle":
        "byte 64: zip-crc: found CRC a808c982 of entry archive/data.pkl, expected 46661c23: the data is "
        "damaged",
    "zip-crc-storage":
        "byte 576: zip-crc: found CRC a3c1ca20 of entry archive/data/0, expected 91e79017: the data is "
        "damaged",
    "torch-legacy":
        "byte 0: torch-legacy: found the format before torch 1.6 (no zip), expected a zip archive: load it "
        "with torch 1.6 or later and torch.save it again, or store it as safetensors",
    "torch-bare-pickle":
        "byte 0: torch-legacy: found a bare pickle, expected a zip archive: load it with torch 1.6 or later "
        "and torch.save it again, or store it as safetensors",
    "torch-tar":
        "byte 0: torch-tar: found a tar, the format of torch 0.1, expected a zip archive: load it with torch "
        "1.6 or later and torch.save it again, or store it as safetensors",
    "torch-safetensors": "byte 0: torch-magic: found 08 00 00 00 in a file of 16 bytes, expected a zip archive (50 4b 03 04)",
    "torch-git-lfs": "byte 0: git-lfs-pointer: found a Git LFS pointer, expected the file itself (run git lfs pull)",
    "torch-script":
        "byte 1286: torch-script: found a TorchScript archive (constants.pkl), expected a state dict: save "
        "model.state_dict() instead",
    "torch-no-pickle": "byte 466: torch-pickle: found no data.pkl in the first folder, expected one",
    "torch-no-folder": "byte 850: torch-folder: found entry data.pkl outside of a folder, expected all in one",
    "torch-two-folders": "byte 1924: torch-folder: found a second data.pkl, b/data.pkl, expected one",
    "torch-pickle-in-second-folder": "byte 1098: torch-folder: found a second data.pkl, other/data.pkl, expected one",
    'torch-byteorder': "byte 448: torch-byteorder: found neither 'little' nor 'big'",
    'torch-byteorder-long': "byte 448: torch-byteorder: found neither 'little' nor 'big'",
    'torch-byteorder-empty': "byte 448: torch-byteorder: found neither 'little' nor 'big'",
    "numel-wraps":
        "byte 216: storage-numel: found 4611686018427387910 elements of F32 in storage 0, expected a size "
        "below 2^64 bytes",
    "numel-wraps-to-entry":
        "byte 216: storage-numel: found 4611686018427387910 elements of F32 in storage 0, expected a size "
        "below 2^64 bytes",
    "numel-negative": "byte 211: storage-numel: found -6 elements in storage 0, expected 0 or more",
    "numel-beyond-64-bits": "byte 217: pickle-type: found int beyond 64 bits as storage numel, expected int",
    "numel-too-small": "byte 208: storage-size: found 24 bytes in the entry of storage 0, expected 20 (5 elements of F32)",
    "numel-too-large": "byte 208: storage-size: found 24 bytes in the entry of storage 0, expected 28 (7 elements of F32)",
    "numel-of-other-class":
        "byte 207: storage-size: found 24 bytes in the entry of storage 0, expected 12 (6 elements of F16)",
    "storage-missing": "byte 208: storage-missing: found no entry data/0, expected the storage that the pickle names",
    "storage-key-path":
        "byte 218: storage-missing: found no entry data/../data.pkl, expected the storage that the pickle "
        "names",
    "storage-key-empty": "byte 207: pickle-storage: found a storage key of 0 bytes, expected 1 to 255",
    "storage-two-classes": "byte 271: storage-class: found storage 0 as I32, expected F32 as at byte 202",
    "shape-negative": "tensor a.weight: byte 241: tensor-size: found dimension -2, expected 0 or more",
    "shape-wraps": "tensor a.weight: byte 245: tensor-size: found a size beyond 2^63 bytes",
    "shape-zero-then-huge": "tensor a.weight: byte 255: tensor-size: found a size beyond 2^63 bytes",
    "shape-huge-then-zero": "tensor a.weight: byte 255: tensor-size: found a size beyond 2^63 bytes",
    "shape-beyond-64-bits": "byte 240: pickle-type: found int beyond 64 bits as dimension, expected int",
    "shape-9-dimensions": "byte 265: tensor-rank: found 9 dimensions, expected at most 8",
    "shape-more-than-storage":
        "tensor a.weight: byte 231: tensor-stride: found element 6 as the last one, expected less than the 6 "
        "of its storage",
    "stride-past-storage":
        "tensor a.weight: byte 235: tensor-stride: found element 6 as the last one, expected less than the 6 "
        "of its storage",
    "stride-negative": "tensor a.weight: byte 238: tensor-stride: found stride -3, expected 0 or more",
    "stride-wraps": "tensor a.weight: byte 251: tensor-stride: found a stride that leads beyond 2^63",
    "stride-wraps-to-zero": "tensor a.weight: byte 243: tensor-stride: found a stride that leads beyond 2^63",
    "stride-count": "byte 233: tensor-rank: found 1 strides for 2 dimensions",
    "stride-expanded":
        "tensor a.weight: byte 237: tensor-expanded: found 1000000 elements on a storage of 6, expected no "
        "more than that (an expanded view)",
    "offset-past-storage":
        "tensor a.weight: byte 235: tensor-stride: found element 6 as the last one, expected less than the 6 "
        "of its storage",
    "offset-far":
        "tensor a.weight: byte 243: tensor-offset: found offset 4611686018427387904, expected at most the 6 "
        "elements of its storage",
    "offset-negative":
        "tensor a.weight: byte 238: tensor-offset: found offset -1, expected at most the 6 elements of its "
        "storage",
    "offset-empty-tensor":
        "tensor a.weight: byte 231: tensor-offset: found offset 7, expected at most the 6 elements of its "
        "storage",
    "untyped-odd-bytes": "tensor a.weight: byte 257: storage-size: found 5 bytes, expected a multiple of the 2 of U16",
    "untyped-without-dtype":
        "byte 245: pickle-dtype: found a tensor without dtype on untyped storage, expected exactly one of the "
        "two to have one",
    "typed-with-dtype":
        "byte 252: pickle-dtype: found a tensor with dtype on typed storage, expected exactly one of the two "
        "to have one",
    "state-dict-duplicate": "byte 64: duplicate-name: found tensor a.weight twice in the state dict, expected it once",
    "state-dict-duplicate-memo": "byte 64: duplicate-name: found tensor a.weight twice in the state dict, expected it once",
    "pickle-os-system":
        "byte 66: pickle-global: found os.system, expected only what a state dict needs (nothing was "
        "executed)",
    "pickle-builtin-eval":
        "byte 66: pickle-global: found __builtin__.eval, expected only what a state dict needs (nothing was "
        "executed)",
    "pickle-subprocess":
        "byte 66: pickle-global: found subprocess.Popen, expected only what a state dict needs (nothing was "
        "executed)",
    "pickle-global-escape":
        "byte 66: pickle-global: found torch.\\x1b[31mred, expected only what a state dict needs (nothing was "
        "executed)",
    "pickle-in-state-dict":
        "byte 163: pickle-global: found posix.system, expected only what a state dict needs (nothing was "
        "executed)",
    "pickle-quantized-tensor":
        "byte 66: pickle-global: found torch._utils._rebuild_qtensor, expected only what a state dict needs "
        "(nothing was executed)",
    "pickle-stack-global": "byte 84: pickle-opcode: found STACK_GLOBAL (0x93), expected only what a state dict needs",
    "pickle-inst": "byte 67: pickle-opcode: found INST (0x69), expected only what a state dict needs",
    "pickle-protocol-4": "byte 64: pickle-protocol: found protocol 4, expected 2 (what torch.save writes by default)",
    "pickle-protocol-0": "byte 64: pickle-protocol: found no PROTO opcode, expected protocol 2",
    "pickle-empty": "byte 64: pickle-protocol: found no PROTO opcode, expected protocol 2",
    "pickle-no-stop": "byte 67: pickle-stop: found the end of the pickle, expected STOP",
    "pickle-cut": "byte 97: pickle-truncated: found 2 bytes after the opcode, expected 8",
    "pickle-after-stop": "byte 239: pickle-stop: found 2 bytes after STOP, expected none",
    "pickle-stack-underflow": "byte 66: pickle-stack: found an empty stack, expected a value",
    "pickle-mark-missing": "byte 69: pickle-mark: found no mark on the stack, expected one",
    "pickle-mark-loop": "byte 65602: pickle-stack: found more than 65536 values on the stack, expected at most that many",
    "pickle-memo-hole": "byte 66: pickle-memo: found a read of memo 5, expected one that was stored before",
    "pickle-memo-sparse": "byte 67: pickle-memo: found memo index 4294967295, expected less than the 9 bytes of the pickle",
    "pickle-long-2^31": "byte 66: pickle-opcode: found LONG4 (0x8b), expected only what a state dict needs",
    "pickle-long-cut": "byte 66: pickle-truncated: found 2 bytes after the opcode, expected 255",
    "pickle-string-4-gib": "byte 66: pickle-truncated: found 2 bytes after the opcode, expected 4294967295",
    "pickle-not-utf8": "byte 67: pickle-string: found a string that is not UTF-8 or holds a NUL",
    "pickle-name-nul": "byte 97: pickle-string: found a string that is not UTF-8 or holds a NUL",
    "pickle-setitem-on-list": "byte 71: pickle-type: found list as target of SETITEM, expected dict",
    "pickle-build-on-tensor": "byte 239: pickle-type: found tensor as target of BUILD, expected dict",
    "state-dict-list": "byte 64: state-dict: found a pickled list, expected a dict of tensors",
    "state-dict-tensor": "byte 64: state-dict: found a pickled tensor, expected a dict of tensors",
    "state-dict-empty":
        "byte 64: state-dict: found a dict of 0 items without tensors, expected tensors in it or under "
        "state_dict, model or module",
    "state-dict-optimizer":
        "byte 64: state-dict: found a dict of 1 items without tensors, expected tensors in it or under "
        "state_dict, model or module",
    "state-dict-key-int": "byte 64: state-dict: found a key that is int, expected a tensor name",
    "state-dict-value-int": "tensor b: state-dict: found a value that is int, expected a tensor",
    "state-dict-nested":
        "byte 64: state-dict: found a dict of 1 items without tensors, expected tensors in it or under "
        "state_dict, model or module",
    "state-dict-two-wrappers": "byte 64: state-dict: found tensors under both state_dict and model, expected one state dict",
}


def cases():
    for source in (zip_cases, other_cases, number_cases, twice):
        for name, data in source():
            yield bad(name, data, MESSAGES[name])
    for name, pkl in pickle_cases():
        yield bad(name, of_pickle(pkl, (("0", A.data, 4),)), MESSAGES[name])
    for name, data in accepted():
        yield ok("ok-" + name, data)
