"""index_cases.py - folders whose files and index disagree, and indexes that are damaged (see corpus.py).

Each case is a small folder with two shards, a and b, that differs from a sound one in one thing. Some are sound and unusual:
they must be accepted.
"""
import json
import struct

from corpus import Fifo, Link, bad, ok

INDEX = "model.safetensors.index.json"
A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def st(names, dtype="U8", shape=(4,)):
    """A sound safetensors file that holds these tensors."""
    size = {"U8": 1, "F32": 4}[dtype]
    for n in shape:
        size *= n
    head = {n: {"dtype": dtype, "shape": list(shape), "data_offsets": [i * size, (i + 1) * size]} for i, n in enumerate(names)}
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(range(1, 5)) * (size * len(names) // 4)


def index(weight_map, total=16):
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}).encode()


LINK_OUT = "link-leaves-folder: found a link to nothing or to something outside, expected a file in the folder"


def line(message, at=None, more=0):
    """The line that fq_ckpt_check gives: the first error, in which file, and how many others there are."""
    rest = f" (and {more} more error{'s' if more > 1 else ''}: see fitq inspect)" if more else ""
    return (f"{at}: " if at else "") + message + rest


SOUND_MAP = {"a0": A, "a1": A, "b0": B, "b1": B}


def folder(**change):
    """The sound folder; a keyword replaces or adds a file ("idx", "a", "b"), None leaves it out."""
    files = {A: st(["a0", "a1"]), B: st(["b0", "b1"]), INDEX: index(SOUND_MAP)}
    for key, data in change.pop("extra", {}).items():
        files[key] = data
    for key, name in (("a", A), ("b", B), ("idx", INDEX)):
        if key in change:
            files[name] = change[key]
    return {k: v for k, v in files.items() if v is not None}


def remapped(**entries):
    """The sound index with some entries changed; None leaves one out."""
    m = dict(SOUND_MAP, **entries)
    return index({k: v for k, v in m.items() if v is not None})


def text(s):
    return s.encode() if isinstance(s, str) else s


def accepted():
    yield ok("sound", folder())
    yield ok("sound-without-index", folder(idx=None))
    yield ok("sound-compact-index", folder(idx=json.dumps({"weight_map": SOUND_MAP}, separators=(",", ":")).encode()))
    yield ok("sound-shard-order", folder(idx=index(dict(reversed(list(SOUND_MAP.items()))))))
    yield ok("escaped-names", folder(idx=text('{"weight_map":{"\\u00610":"%s","a1":"%s","b0":"%s","b1":"%s"}}' % (A, A, B, B))))
    yield ok("other-index-name", {"tiny.safetensors.index.json": index(SOUND_MAP), A: st(["a0", "a1"]), B: st(["b0", "b1"])})
    yield ok("total-size-wrong", folder(idx=index(SOUND_MAP, 17)))
    yield ok("total-size-counts-files", folder(idx=index(SOUND_MAP, 2 * len(st(["a0", "a1"])))))
    yield ok("total-size-is-a-real", folder(idx=index(SOUND_MAP, 16.0)))
    yield ok("total-size-negative", folder(idx=index(SOUND_MAP, -1)))
    yield ok("metadata-is-null", folder(idx=json.dumps({"metadata": None, "weight_map": SOUND_MAP}).encode()))
    yield ok("unknown-members", folder(idx=json.dumps({"x": [{"y": None}], "weight_map": SOUND_MAP, "z": 1e400 < 2}).encode()))
    yield ok("tensor-not-in-index", folder(idx=remapped(a1=None)))
    yield ok("stale-file", folder(extra={"model.safetensors": st(["old"])}))
    yield ok("link-inside-folder", folder(a=Link("real-a"), extra={"real-a": st(["a0", "a1"])}))
    yield ok("torch-files-beside", folder(extra={"pytorch_model.bin": b"not read"}))
    yield ok("damaged-index-of-torch-beside", folder(extra={"pytorch_model.bin.index.json": b"{"}))
    yield ok("training-state-beside", folder(idx=None, extra={"optimizer.bin": b"x", "training_args.bin": b"x"}))
    yield ok("tensor-named-like-a-path", {"model.safetensors": st(["../../x", "/etc/y"])})


def paths():
    yield bad("name-with-parent", folder(idx=remapped(b0="../b.safetensors")),
              line('shard-name: found "../b.safetensors", expected the name of a file in the folder', at=INDEX, more=1))
    yield bad("name-absolute", folder(idx=remapped(b0="/etc/passwd.safetensors")),
              line('shard-name: found "/etc/passwd.safetensors", expected the name of a file in the folder', at=INDEX, more=1))
    yield bad("name-in-subfolder", folder(idx=remapped(b0="sub/b.safetensors"), extra={"sub": {"b.safetensors": st(["b0"])}}),
              line('shard-name: found "sub/b.safetensors", expected the name of a file in the folder', at=INDEX, more=1))
    yield bad("name-dot-dot", folder(idx=remapped(b0="..")),
              line('shard-name: found "..", expected the name of a file in the folder', at=INDEX, more=1))
    yield bad("name-empty", folder(idx=remapped(b0="")),
              line('shard-name: found "", expected the name of a file in the folder', at=INDEX, more=1))
    yield bad("name-with-escape-sequence", folder(idx=remapped(b0="\x1b[2Jb.safetensors")),
              line('shard-name: found "\\x1b[2Jb.safetensors", expected the name of a file in the folder', at=INDEX, more=1))
    yield bad("name-with-line-feed", folder(idx=remapped(b0="b\nc.safetensors")),
              line('shard-name: found "b\\x0ac.safetensors", expected the name of a file in the folder', at=INDEX, more=1))
    yield bad("name-with-other-ending", folder(idx=remapped(b0="config.json"), extra={"config.json": b"{}"}),
              line('shard-name: found "config.json", expected a name ending in .safetensors or .bin', at=INDEX, more=2))
    yield bad("name-very-long", folder(idx=remapped(b0="n" * 5000 + ".safetensors")),
              line("shard-missing: found no " + "n" * 197 + "... in the folder, expected the file", at=INDEX, more=1))
    yield bad("link-to-parent", folder(b=Link("../sound/" + B)), line(LINK_OUT, at=B))
    yield bad("link-absolute", folder(b=Link("/etc/passwd")), line(LINK_OUT, at=B))
    yield bad("link-to-device", folder(b=Link("/dev/zero")), line(LINK_OUT, at=B))
    yield bad("link-dangling", folder(b=Link("nowhere")), line(LINK_OUT, at=B))
    yield bad("link-to-itself", folder(b=Link(B)), line(LINK_OUT, at=B))
    yield bad("link-out-without-index", folder(idx=None, b=Link("../sound/" + B)), line(LINK_OUT, at=B))
    yield bad("top-folder-of-a-hub-cache", {"snapshots": {"r1": folder(b=Link("../../blobs/b"))}, "blobs": {"b": st(["b0", "b1"])}},
              "no-weights: found no *.safetensors and no pytorch_model*.bin, expected weights")
    yield bad("index-link-out", folder(idx=Link("../sound/" + INDEX)),
              line("link-leaves-folder: found a link to something outside, expected a file in the folder", at=INDEX))
    yield bad("config-link-out", folder(extra={"config.json": Link("/etc/hostname")}),
              "config.json: link-leaves-folder: found a link to nothing or to something outside, expected a file in the folder")
    yield bad("shard-is-fifo", folder(b=Fifo()), line("file-kind: found a FIFO, expected a regular file", at=B))
    yield bad("shard-is-folder", folder(b={}), line("file-kind: found a folder, expected a regular file", at=B))
    yield bad("index-is-fifo", folder(idx=Fifo()), line("file-kind: found a FIFO, expected a regular file", at=INDEX))
    yield bad("fifo-without-index", folder(idx=None, b=Fifo()),
              line("file-kind: found a FIFO, expected a regular file", at=B))


def contents():
    yield bad("shard-missing", folder(b=None),
              line(f"shard-missing: found no {B} in the folder, expected the file", at=INDEX))
    yield bad("both-shards-missing", folder(a=None, b=None),
              line(f"shard-missing: found no {A} in the folder, expected the file", at=INDEX, more=1))
    yield bad("numbered-shard-missing", folder(idx=None, b=None),
              f"shard-missing: found no {B}, expected all 2 numbered files")
    yield bad("tensor-in-no-file", folder(b=st(["b0"])),
              line(f"tensor b1: tensor-in-no-file: found it in no file, expected it in {B}", at=INDEX))
    yield bad("tensor-in-two-files", folder(b=st(["b0", "b1", "a0"])),
              line(f"tensor a0: tensor-in-two-files: found it in {A} and {B} (2 in all), expected one", at=INDEX))
    yield bad("tensor-in-two-files-without-index", folder(idx=None, b=st(["b0", "a1"])),
              f"tensor a1: tensor-in-two-files: found it in {A} and {B} (2 in all), expected one")
    yield bad("tensor-in-wrong-file", folder(idx=remapped(b0=A)),
              line(f"tensor b0: tensor-in-wrong-file: found it in {B}, expected it in {A}", at=INDEX))
    yield bad("tensors-swapped", folder(a=st(["b0", "a1"]), b=st(["a0", "b1"])),
              line(f"tensor a0: tensor-in-wrong-file: found it in {B}, expected it in {A}", at=INDEX, more=1))
    yield bad("many-tensors-in-no-file", folder(idx=index(dict(SOUND_MAP, **{f"c{i:03}": B for i in range(100)}))),
              line(f"tensor c000: tensor-in-no-file: found it in no file, expected it in {B}", at=INDEX, more=99))
    yield bad("everything-wrong", folder(idx=remapped(a0=B, b0="c.safetensors", c0=A)),
              line("shard-missing: found no c.safetensors in the folder, expected the file", at=INDEX, more=3))
    yield bad("second-shard-one-byte-short", folder(b=st(["b0", "b1"])[:-1]),
              line("file-size: found 127 bytes, expected 128, where tensor b1 ends", at=B))
    yield bad("second-shard-one-byte-long", folder(b=st(["b0", "b1"]) + b"\0"),
              line("file-size: found 129 bytes, expected 128, where tensor b1 ends", at=B))
    yield bad("both-shards-damaged", folder(a=b"", b=st(["b0", "b1"])[:-1]),
              line("byte 0: header-length: found a file of 0 bytes, expected at least 8", at=A, more=1))
    yield bad("shard-is-empty", folder(b=b""),
              line("byte 0: header-length: found a file of 0 bytes, expected at least 8", at=B))
    yield bad("shard-is-torch", folder(b=b"PK\x03\x04" + bytes(100)),
              line("byte 0: header-length: found 67324752, expected at most 96, the rest of the file", at=B))
    yield bad("nothing-in-folder", {"README.md": b"x"},
              "no-weights: found no *.safetensors and no pytorch_model*.bin, expected weights")
    yield bad("two-indexes", {"x.safetensors.index.json": index({"a": "a.safetensors"}), "y.safetensors.index.json": index({"b": "b.safetensors"}),
                              "a.safetensors": st(["a"]), "b.safetensors": st(["b"])},
              "index-ambiguous: found 2 files *.safetensors.index.json, expected one (give its path)")


def syntax():
    good = index(SOUND_MAP)
    yield bad("index-empty", folder(idx=b""),
              line("byte 0: json-syntax: found the end of the text, expected a value", at=INDEX))
    yield bad("index-not-an-object", folder(idx=b"[]"),
              line("byte 0: index-object: found an array, expected an object with weight_map", at=INDEX))
    yield bad("index-is-a-string", folder(idx=b'"weight_map"'),
              line("byte 0: index-object: found a string, expected an object with weight_map", at=INDEX))
    yield bad("index-cut", folder(idx=good[:-1]),
              line("byte 215: json-syntax: found the end of the text, expected ',' or '}'", at=INDEX))
    yield bad("index-followed-by-junk", folder(idx=good + b"{}"),
              line("byte 216: json-syntax: found '{', expected nothing more", at=INDEX))
    yield bad("index-with-byte-order-mark", folder(idx=b"\xef\xbb\xbf" + good),
              line("byte 0: json-syntax: found byte 0xef, expected a value", at=INDEX))
    yield bad("index-trailing-comma", folder(idx=good[:-2] + b",}}"),
              line("byte 215: json-syntax: found '}', expected a key", at=INDEX))
    yield bad("index-bad-utf8", folder(idx=good.replace(b'"a1"', b'"a\xff"')),
              line("byte 92: json-utf8: found byte 0xff, expected valid UTF-8", at=INDEX))
    yield bad("index-lone-surrogate", folder(idx=good.replace(b'"a1"', b'"\\ud800"')),
              line("byte 91: json-string: found a lone surrogate \\ud800, expected a pair", at=INDEX))
    yield bad("index-nul-in-name", folder(idx=good.replace(b'"a1"', b'"a\\u0000"')),
              line("byte 92: json-string: found a NUL character, which fitq refuses in strings", at=INDEX))
    yield bad("index-deep", folder(idx=b'{"x":' + b"[" * 100000 + b"]" * 100000 + b"}"),
              line("byte 68: json-depth: found deeper nesting, expected at most 64 levels", at=INDEX))
    yield bad("map-missing", folder(idx=b'{"metadata":{}}'),
              line("weight-map: found no weight_map, expected an object of tensor name: file", at=INDEX))
    yield bad("map-empty", folder(idx=b'{"weight_map":{}}'),
              line("weight-map: found an empty weight_map, expected tensor names", at=INDEX))
    yield bad("map-is-a-list", folder(idx=b'{"weight_map":[]}'),
              line("byte 14: weight-map: found an array, expected an object of tensor name: file", at=INDEX))
    yield bad("map-is-null", folder(idx=b'{"weight_map":null}'),
              line("byte 14: weight-map: found null, expected an object of tensor name: file", at=INDEX))
    yield bad("map-value-is-a-number", folder(idx=b'{"weight_map":{"a0":1}}'),
              line("tensor a0: byte 20: weight-map: found a number, expected a file name", at=INDEX))
    yield bad("map-value-is-a-list", folder(idx=b'{"weight_map":{"a0":["%s"]}}' % A.encode()),
              line("tensor a0: byte 20: weight-map: found an array, expected a file name", at=INDEX))
    yield bad("map-twice", folder(idx=b'{"weight_map":{"a0":"a"},' + good[1:]),
              line("byte 57: duplicate-key: found a second weight_map, expected one", at=INDEX))
    yield bad("metadata-twice", folder(idx=b'{"metadata":{},' + good[1:]),
              line("byte 15: duplicate-key: found a second metadata, expected one", at=INDEX))
    yield bad("total-size-twice", folder(idx=good.replace(b'"total_size"', b'"total_size":1,"total_size"')),
              line("byte 29: duplicate-key: found a second total_size, expected one", at=INDEX))
    yield bad("duplicate-tensor", folder(idx=good.replace(b'"a1"', b'"a0"')),
              line("tensor a0: byte 90: duplicate-key: found a second entry, the first one is at byte 48", at=INDEX))
    yield bad("duplicate-tensor-escaped", folder(idx=good.replace(b'"a1"', b'"\\u00610"')),
              line("tensor a0: byte 90: duplicate-key: found a second entry, the first one is at byte 48", at=INDEX))
    yield bad("duplicate-tensor-same-file", folder(idx=text('{"weight_map":{"a0":"%s","a1":"%s","b0":"%s","b1":"%s","a0":"%s"}}' % (A, A, B, B, A))),
              line("tensor a0: byte 175: duplicate-key: found a second entry, the first one is at byte 15", at=INDEX))
    yield bad("index-of-1-gb.index.json", b"{",
              "file-size: found 1073741824 bytes, expected at most 268435456", size=1 << 30)


def cases():
    yield from accepted()
    yield from paths()
    yield from contents()
    yield from syntax()
