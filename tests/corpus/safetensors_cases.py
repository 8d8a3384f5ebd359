"""Cases for the safetensors container: length, JSON, records, names, offsets.

The rules are those of the format's own description (huggingface/safetensors README.md and safetensors/src/tensor.rs),
strict where readers are known to disagree: duplicate names and a header that does not begin with "{" are refused.
"""
import struct

from corpus import bad, ok

DTYPES = ("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
          "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64")
ONE_OF = "one of " + ", ".join(DTYPES)
SHAPE = "an array of at most 8 integers from 0 to 2^63-1"
OFFSETS = "an array of two integers from 0 to 2^63-1"


def file(header, data=b""):
    """A whole file; header is the JSON text as bytes or str."""
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header)) + header + data


def length(n, rest=b""):
    return struct.pack("<Q", n) + rest


def rec(name, dtype="F32", shape="[1]", offsets="[0,4]"):
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


def obj(*members):
    return "{" + ",".join(members) + "}"


def at(header, mark, nth=0):
    """Position in the file of the nth occurrence of mark in the header."""
    header = header.encode() if isinstance(header, str) else header
    mark = mark.encode() if isinstance(mark, str) else mark
    pos = -1
    for _ in range(nth + 1):
        pos = header.index(mark, pos + 1)
    return 8 + pos


def length_cases():
    for n in range(8):
        yield bad(f"short-{n}-bytes", b"\x02\0\0\0\0\0\0"[:n],
                  f"byte 0: header-length: found a file of {n} bytes, expected at least 8")
    yield bad("length-0", length(0), "byte 0: header-length: found 0, expected at least 2")
    yield bad("length-0-with-data", length(0, b"{}"), "byte 0: header-length: found 0, expected at least 2")
    yield bad("length-1", length(1, b"{"), "byte 0: header-length: found 1, expected at least 2")
    yield bad("length-past-end-by-1", length(3, b"{}"),
              "byte 0: header-length: found 3, expected at most 2, the rest of the file")
    yield bad("length-1000-in-10", length(1000, b"{}"),
              "byte 0: header-length: found 1000, expected at most 2, the rest of the file")
    yield bad("length-4-mib-with-1-byte", length(4 << 20, b"{"),
              "byte 0: header-length: found 4194304, expected at most 1, the rest of the file")
    yield bad("length-limit-past-end", length(100000000, b"{}"),
              "byte 0: header-length: found 100000000, expected at most 2, the rest of the file")
    for name, n in (("limit-plus-1", 100000001), ("2-31", 1 << 31), ("2-32", 1 << 32), ("2-63-minus-1", (1 << 63) - 1),
                    ("2-63", 1 << 63), ("2-64-minus-8", (1 << 64) - 8), ("2-64-minus-1", (1 << 64) - 1),
                    ("wraps-to-small", 0xFFFFFF000000003C)):
        yield bad(f"length-{name}", length(n, b"{}"), f"byte 0: header-length: found {n}, expected at most 100000000")
    yield bad("length-big-endian", struct.pack(">Q", 2) + b"{}",
              "byte 0: header-length: found 144115188075855872, expected at most 100000000")
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    for name, text, what in (("git-lfs-pointer", lfs, "a Git LFS pointer, not like the file itself"),
                             ("zip-archive", b"PK\3\4" + bytes(26), "a zip archive"),
                             ("gguf", b"GGUF\3\0\0\0" + bytes(16), "a GGUF file"),
                             ("web-page", b"<!DOCTYPE html><html></html>", "a web page"),
                             ("pickle", b"\x80\x02}q\0(X\1\0\0\0", "a Python pickle")):
        n = struct.unpack("<Q", text[:8])[0]
        # a zip begins with a length that would do, were it not for the file's size
        limit = "100000000" if n > 100000000 else f"{len(text) - 8}, the rest of the file"
        hint = f"; this looks like {what}" if n > 100000000 else ""
        yield bad(f"really-a-{name}", text, f"byte 0: header-length: found {n}, expected at most {limit}{hint}")


def size_cases():
    h = obj(rec("a"))
    yield ok("one-tensor", file(h, bytes(4)))
    yield bad("data-1-short", file(h, bytes(3)),
              f"file-size: found {8 + len(h) + 3} bytes, expected {8 + len(h) + 4}, where tensor a ends")
    yield bad("data-1-long", file(h, bytes(5)),
              f"file-size: found {8 + len(h) + 5} bytes, expected {8 + len(h) + 4}, where tensor a ends")
    yield bad("data-missing", file(h), f"file-size: found {8 + len(h)} bytes, expected {8 + len(h) + 4}, where tensor a ends")
    zip_end = b"PK\5\6" + bytes(18)
    yield bad("zip-appended", file(h, bytes(4) + zip_end),
              f"file-size: found {8 + len(h) + 26} bytes, expected {8 + len(h) + 4}, where tensor a ends")
    yield bad("sparse-terabyte-appended", file(h, bytes(4)),
              f"file-size: found {1 << 40} bytes, expected {8 + len(h) + 4}, where tensor a ends", size=1 << 40)
    yield ok("no-tensors", file("{}"))
    yield ok("no-tensors-padded", file("{}      "))
    yield bad("no-tensors-with-data", file("{}", b"x"), "file-size: found 11 bytes, expected 10, where the header ends")
    yield ok("only-metadata", file('{"__metadata__":{"format":"pt"}}'))
    yield ok("sparse-gigabytes", file(obj(rec("a", "U8", "[4294967296]", "[0,4294967296]"))),
             size=8 + len(obj(rec("a", "U8", "[4294967296]", "[0,4294967296]"))) + (1 << 32))


def duplicate_cases():
    h = obj(rec("a"), rec("a"))
    again = 'duplicate-name: found tensor name "a" again, first at byte 9'
    yield bad("name-twice", file(h, bytes(4)), f'byte {at(h, chr(34) + "a" + chr(34), 1)}: {again}')
    h = obj(rec("a"), rec("a", "I32"))
    yield bad("name-twice-other-dtype", file(h, bytes(4)), f'byte {at(h, chr(34) + "a" + chr(34), 1)}: {again}')
    h = obj(rec("a"), rec("\\u0061"))
    yield bad("name-twice-escaped", file(h, bytes(4)), f'byte {at(h, chr(34) + chr(92) + "u0061")}: {again}')
    h = obj(rec("a", offsets="[0,4]"), rec("b", offsets="[4,8]"), rec("b", offsets="[0,4]"), rec("a", offsets="[4,8]"))
    yield bad("names-swapped-by-later-ones", file(h, bytes(8)),
              f'byte {at(h, chr(34) + "b" + chr(34), 1)}: duplicate-name: found tensor name "b" again, first at byte '
              f'{at(h, chr(34) + "b" + chr(34))}')
    h = obj(rec("\u00e9"), rec("\\u00e9"))
    yield bad("name-twice-beyond-ascii", file(h, bytes(4)),
              f'byte {at(h, chr(34) + chr(92) + "u00e9")}: duplicate-name: found tensor name "\u00e9" again, first at byte 9')
    h = obj(rec("e\u0301", offsets="[0,4]"), rec("\u00e9", offsets="[4,8]"))
    yield ok("names-equal-only-when-normalised", file(h, bytes(8)))
    h = obj(rec("a", offsets="[0,4]"), rec("A", offsets="[4,8]"))
    yield ok("names-equal-but-for-case", file(h, bytes(8)))
    h = '{"__metadata__":{"k":"1","k":"2"}}'
    yield bad("metadata-key-twice", file(h), f'byte {at(h, chr(34) + "k" + chr(34), 1)}: duplicate-name: found metadata key '
              f'"k" again, first at byte {at(h, chr(34) + "k" + chr(34))}')
    h = '{"__metadata__":{"k":"1","\\u006b":"2"}}'
    yield bad("metadata-key-twice-escaped", file(h), f'byte {at(h, chr(34) + chr(92) + "u006b")}: duplicate-name: found '
              f'metadata key "k" again, first at byte {at(h, chr(34) + "k" + chr(34))}')
    h = '{"__metadata__":{},"__metadata__":{}}'
    yield bad("metadata-twice", file(h), f'byte {at(h, chr(34) + "__m", 1)}: duplicate-name: found __metadata__ again, '
              f'first at byte 9')
    for field, value in (("dtype", '"F32"'), ("shape", "[1]"), ("data_offsets", "[0,4]")):
        h = obj(rec("a")[:-1] + f',"{field}":{value}}}')
        yield bad(f"field-twice-{field.replace('_', '-')}", file(h, bytes(4)),
                  f'tensor a: byte {at(h, chr(34) + field, 1)}: duplicate-field: found "{field}", expected each field once')
    h = obj(rec("a")[:-1] + ',"d\\u0074ype":"F32"}')
    yield bad("field-twice-escaped", file(h, bytes(4)),
              f'tensor a: byte {at(h, chr(34) + "d" + chr(92))}: duplicate-field: found "dtype", expected each field once')


def offset_cases():
    def place(h, name):
        return at(h, f'"{name}":')

    h = obj(rec("a", offsets="[0,4]"), rec("b", offsets="[8,12]"))
    yield bad("hole-between", file(h, bytes(12)),
              f"tensor b: byte {place(h, 'b')}: data-hole: found data_offsets from 8, expected 4, the end of tensor a")
    h = obj(rec("b", offsets="[8,12]"), rec("a", offsets="[0,4]"))
    yield bad("hole-between-out-of-order", file(h, bytes(12)),
              f"tensor b: byte {place(h, 'b')}: data-hole: found data_offsets from 8, expected 4, the end of tensor a")
    h = obj(rec("a", offsets="[4,8]"))
    yield bad("hole-at-start", file(h, bytes(8)),
              f"tensor a: byte {place(h, 'a')}: data-hole: found data_offsets from 4, expected 0")
    h = obj(rec("a", offsets="[0,4]"), rec("b", offsets="[2,6]"))
    yield bad("overlap", file(h, bytes(6)),
              f"tensor b: byte {place(h, 'b')}: data-overlap: found data_offsets from 2, expected 4, the end of tensor a")
    h = obj(rec("a", offsets="[0,4]"), rec("b", offsets="[0,4]"))
    yield bad("overlap-same-range", file(h, bytes(4)),
              f"tensor b: byte {place(h, 'b')}: data-overlap: found data_offsets from 0, expected 4, the end of tensor a")
    h = obj(rec("a", shape="[4]", offsets="[0,16]"), rec("b", offsets="[4,8]"))
    yield bad("overlap-inside", file(h, bytes(16)),
              f"tensor b: byte {place(h, 'b')}: data-overlap: found data_offsets from 4, expected 16, the end of tensor a")
    h = obj(*(rec(f"t{i}", "U8", "[16]", "[0,16]") for i in range(10)))
    yield bad("overlap-ten-names-one-range", file(h, bytes(16)),
              f"tensor t1: byte {place(h, 't1')}: data-overlap: found data_offsets from 0, expected 16, the end of tensor t0")
    h = obj(rec("a", offsets="[4,0]"))
    yield bad("reversed", file(h, bytes(4)),
              f"tensor a: byte {place(h, 'a')}: data-offsets: found the end 0 before the begin 4")
    yield ok("out-of-order", file(obj(rec("a", offsets="[4,8]"), rec("b", offsets="[0,4]")), bytes(8)))
    yield ok("f32-at-odd-offset", file(obj(rec("a", "U8", "[1]", "[0,1]"), rec("b", offsets="[1,5]")), bytes(5)))
    big = (1 << 61) - 1
    h = obj(rec("a", "U8", f"[{big}]", f"[0,{big}]"))
    yield bad("end-at-2-61-minus-1", file(h, bytes(4)),
              f"file-size: found {8 + len(h) + 4} bytes, expected {8 + len(h) + big}, where tensor a ends")
    big = (1 << 63) - 1
    h = obj(rec("a", "U8", "[0]", f"[{big},{big}]"))
    yield bad("zero-size-at-2-63-minus-1", file(h),
              f"tensor a: byte 9: data-hole: found data_offsets from {big}, expected 0")
    for name, value in (("negative", "[-8,4]"), ("fraction", "[0,8.0]"), ("exponent", "[0,8e0]"), ("minus-zero", "[-0,4]"),
                        ("string", '["0",4]'), ("2-63", f"[0,{1 << 63}]"), ("2-64", f"[0,{1 << 64}]"),
                        ("2-64-plus-4", f"[0,{(1 << 64) + 4}]"), ("hundred-digits", "[0," + "9" * 100 + "]"),
                        ("null", "[null,4]"), ("true", "[0,true]"), ("nested", "[[0],4]"), ("object", "[{},4]")):
        h = obj(rec("a", offsets=value))
        wrong = {"negative": "-8", "fraction": "8.0", "exponent": "8e0", "minus-zero": "-0", "string": '"0"',
                 "null": "null", "true": "true", "nested": "[0]", "object": "{}"}.get(name, value[3:-1])
        found = {"nested": "an array", "object": "an object"}.get(name, wrong)
        shift = len('"data_offsets":') + value.index(wrong)
        yield bad(f"offset-{name}", file(h, bytes(4)),
                  f"tensor a: byte {at(h, chr(34) + 'data_offsets') + shift}: data-offsets: found {found}, expected {OFFSETS}")
    for name, value, wrong, found in (("none", "[]", "]", "the end of the array"), ("one", "[0]", "]", "the end of the array"),
                                      ("three", "[0,4,4]", "4]", "4"), ("not-an-array", "4", "4", "4"),
                                      ("are-null", "null", "null", "null")):
        h = obj(rec("a", offsets=value))
        shift = len('"data_offsets":') + value.index(wrong)
        yield bad(f"offsets-{name}", file(h, bytes(4)),
                  f"tensor a: byte {at(h, chr(34) + 'data_offsets') + shift}: data-offsets: found {found}, expected {OFFSETS}")
    h = obj(rec("a", offsets="[0,04]"))
    yield bad("offset-leading-zero", file(h, bytes(4)),
              f"byte {at(h, '04') + 1}: json-syntax: found '4', expected ',' or ']'")
    for name, value in (("nan", "NaN"), ("plus", "+4"), ("hex", "0x4"), ("dot", ".4")):
        h = obj(rec("a", offsets=f"[0,{value}]"))
        if name == "hex":
            text = f"byte {at(h, '0x4') + 1}: json-syntax: found 'x', expected ',' or ']'"
        else:
            text = f"byte {at(h, ',' + value) + 1}: json-syntax: found '{value[0]}', expected a value"
        yield bad(f"offset-{name}", file(h, bytes(4)), text)
    h = obj(rec("a", offsets="[0,4.]"))
    yield bad("offset-dot-at-end", file(h, bytes(4)), f"byte {at(h, '4.') + 2}: json-number: found ']', expected a digit")


def shape_cases():
    def wrong_shape(name, value, mark, found):
        h = obj(rec("a", shape=value))
        shift = len('"shape":') + value.index(mark)
        return bad(f"shape-{name}", file(h, bytes(4)),
                   f"tensor a: byte {at(h, chr(34) + 'shape') + shift}: shape: found {found}, expected {SHAPE}")

    yield wrong_shape("negative", "[-1]", "-1", "-1")
    yield wrong_shape("fraction", "[1.0]", "1.0", "1.0")
    yield wrong_shape("exponent", "[1e0]", "1e0", "1e0")
    yield wrong_shape("minus-zero", "[-0]", "-0", "-0")
    yield wrong_shape("2-63", f"[{1 << 63}]", str(1 << 63), str(1 << 63))
    yield wrong_shape("2-64-plus-1", f"[{(1 << 64) + 1}]", str((1 << 64) + 1), str((1 << 64) + 1))
    yield wrong_shape("string", '["1"]', '"1"', '"1"')
    yield wrong_shape("null", "null", "null", "null")
    yield wrong_shape("dim-null", "[null]", "null", "null")
    yield wrong_shape("number", "1", "1", "1")
    yield wrong_shape("object", '{"0":1}', "{", "an object")
    yield wrong_shape("nested", "[[1]]", "[1]", "an array")
    big = (1 << 63) - 1
    for name, dims in (("wraps-to-4-elements", [4194305, 4194305, 211106198978564]), ("2-32-twice", [1 << 32, 1 << 32]),
                       ("2-and-2-63", [2, big]), ("zero-before-huge", [0, big, big]), ("zero-between-huge", [big, 0, big]),
                       ("zero-after-huge", [big, big, 0])):
        h = obj(rec("a", "U8", str(dims).replace(" ", ""), "[0,0]"))
        yield bad(f"shape-{name}", file(h),
                  "tensor a: byte 9: shape-overflow: found a product of dimensions beyond 2^63-1")
    h = obj(rec("a", "F32", f"[{big}]", "[0,4]"))
    yield bad("shape-bits-wrap", file(h, bytes(4)),
              f"tensor a: byte 9: shape-overflow: found {big} elements of F32, a size beyond 2^64-1 bits")
    yield ok("shape-zero-and-one-huge", file(obj(rec("a", shape=f"[0,{big}]", offsets="[0,0]"))))
    yield ok("shape-scalar", file(obj(rec("a", shape="[]")), bytes(4)))
    yield ok("shape-8-dims", file(obj(rec("a", shape="[1,1,1,1,1,1,1,1]")), bytes(4)))
    h = obj(rec("a", shape="[1,1,1,1,1,1,1,1,1]"))
    ninth = at(h, '"shape"') + len('"shape":[') + 16
    yield bad("shape-9-dims", file(h, bytes(4)),
              f"tensor a: byte {ninth}: shape: found a 9th dimension, expected at most 8")
    h = obj(rec("a", shape="[" + "0," * 99999 + "0]", offsets="[0,0]"))
    yield bad("shape-100000-dims", file(h), f"tensor a: byte {ninth}: shape: found a 9th dimension, expected at most 8")
    h = obj(rec("a", "I32", "[2,2]", "[0,4]"))
    yield bad("shape-larger-than-range", file(h, bytes(4)),
              "tensor a: byte 9: tensor-size: found 4 bytes, expected 16, which shape and dtype say")
    h = obj(rec("a", "F16", "[1]", "[0,4]"))
    yield bad("shape-smaller-than-range", file(h, bytes(4)),
              "tensor a: byte 9: tensor-size: found 4 bytes, expected 2, which shape and dtype say")
    h = obj(rec("a", "F32", "[0]", "[0,4]"))
    yield bad("shape-zero-with-data", file(h, bytes(4)),
              "tensor a: byte 9: tensor-size: found 4 bytes, expected 0, which shape and dtype say")
    yield ok("zero-size-alone", file(obj(rec("a", shape="[0]", offsets="[0,0]"))))
    yield ok("zero-size-at-start-and-end", file(obj(rec("z", shape="[0,3]", offsets="[0,0]"), rec("a"),
                                                     rec("y", shape="[3,0]", offsets="[4,4]")), bytes(4)))
    yield ok("zero-size-at-start-named-last", file(obj(rec("a"), rec("z", shape="[0]", offsets="[0,0]")), bytes(4)))
    h = obj(rec("a", shape="[2]", offsets="[0,8]"), rec("z", shape="[0]", offsets="[4,4]"))
    yield bad("zero-size-inside-another", file(h, bytes(8)),
              f"tensor z: byte {at(h, chr(34) + 'z')}: data-overlap: found data_offsets from 4, expected 8, the end of tensor a")
    yield ok("f4-two-elements-in-a-byte", file(obj(rec("a", "F4", "[2]", "[0,1]")), bytes(1)))
    h = obj(rec("a", "F4", "[3]", "[0,2]"))
    yield bad("f4-odd", file(h, bytes(2)),
              "tensor a: byte 9: tensor-size: found 3 elements of F4, expected a whole number of bytes")
    yield ok("f6-four-elements-in-three-bytes", file(obj(rec("a", "F6_E2M3", "[4]", "[0,3]")), bytes(3)))
    h = obj(rec("a", "F6_E3M2", "[1]", "[0,1]"))
    yield bad("f6-one", file(h, bytes(1)),
              "tensor a: byte 9: tensor-size: found 1 elements of F6_E3M2, expected a whole number of bytes")


def record_cases():
    bits = dict.fromkeys(DTYPES, 8)
    bits.update(F4=4, F6_E2M3=6, F6_E3M2=6, I16=16, U16=16, F16=16, BF16=16, I32=32, U32=32, F32=32, C64=64, F64=64, I64=64,
                U64=64)
    members, end = [], 0
    for d in DTYPES:
        members.append(rec(d.lower(), d, "[8]", f"[{end},{end + bits[d]}]"))
        end += bits[d]
    yield ok("every-dtype", file(obj(*members), bytes(end)))
    yield ok("bool-bytes-2-and-255", file(obj(rec("a", "BOOL", "[2]", "[0,2]")), b"\x02\xff"))
    yield ok("nan-and-infinity", file(obj(rec("a", "F32", "[2]", "[0,8]")), struct.pack("<ff", float("nan"), float("inf"))))
    for name, value, found in (("lower-case", '"f32"', '"f32"'), ("q4", '"Q4"', '"Q4"'), ("empty", '""', '""'),
                               ("torch-name", '"float32"', '"float32"'), ("number", "3", "3"), ("null", "null", "null"),
                               ("object", '{"F32":null}', "an object"), ("array", '["F32"]', "an array"),
                               ("trailing-space", '"F32 "', '"F32 "'), ("escape-sequence", '"\\u001b[31m"', '"\\x1b[31m"')):
        h = '{"a":{"dtype":' + value + ',"shape":[1],"data_offsets":[0,4]}}'
        yield bad(f"dtype-{name}", file(h, bytes(4)),
                  f"tensor a: byte {at(h, value)}: dtype: found {found}, expected {ONE_OF}")
    yield ok("dtype-escaped", file('{"a":{"dtype":"F\\u00332","shape":[1],"data_offsets":[0,4]}}', bytes(4)))
    for name, value, found in (("array", '["F32",[1],[0,4]]', "an array"), ("string", '"F32"', '"F32"'), ("null", "null", "null"),
                               ("number", "4", "4"), ("true", "true", "true")):
        h = '{"a":' + value + "}"
        yield bad(f"tensor-is-{name}", file(h, bytes(4)),
                  f"tensor a: byte {at(h, value)}: tensor-record: found {found}, expected an object")
    for name, h, field in (("empty", '{"a":{}}', "dtype"),
                           ("no-dtype", '{"a":{"shape":[1],"data_offsets":[0,4]}}', "dtype"),
                           ("no-shape", '{"a":{"dtype":"F32","data_offsets":[0,4]}}', "shape"),
                           ("no-offsets", '{"a":{"dtype":"F32","shape":[1]}}', "data_offsets"),
                           ("upper-case-key", '{"a":{"DTYPE":"F32","shape":[1],"data_offsets":[0,4]}}', "dtype")):
        yield bad(f"record-{name}", file(h, bytes(4)),
                  f"tensor a: byte 9: missing-field: found no {field}, expected dtype, shape and data_offsets")
    yield ok("record-other-order", file('{"a":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}}', bytes(4)))
    yield ok("record-unknown-member", file(obj(rec("a")[:-1] + ',"stride":[1]}'), bytes(4)))
    yield ok("record-unknown-nested-member", file(obj(rec("a")[:-1] + ',"x":{"y":[{"dtype":"Q4"},null,-1e-9]}}'), bytes(4)))
    for name, value, found in (("array", "[]", "an array"), ("string", '"pt"', '"pt"'), ("number", "1", "1")):
        h = '{"__metadata__":' + value + "}"
        yield bad(f"metadata-{name}", file(h),
                  f"byte {at(h, ':') + 1}: metadata: found {found}, expected an object of strings")
    for name, value, found in (("nested", "{}", "an object"), ("number", "1", "1"), ("null-value", "null", "null"),
                               ("list", '["pt"]', "an array")):
        h = '{"__metadata__":{"format":' + value + "}}"
        yield bad(f"metadata-{name}-inside", file(h), f"byte {at(h, ':', 1) + 1}: metadata: found {found}, expected a string")
    yield ok("metadata-null", file('{"__metadata__":null}'))
    yield ok("metadata-empty", file('{"__metadata__":{}}'))
    yield ok("metadata-last", file(obj(rec("a"), '"__metadata__":{"format":"pt"}'), bytes(4)))


def json_cases():
    yield bad("bom", file(b"\xef\xbb\xbf{}"), 'byte 8: header-start: found "\\xef", expected "{"')
    yield ok("leading-space", file(" {}"))
    yield ok("leading-newline", file("\n{}"))
    yield bad("leading-space-array", file(" []"), 'byte 9: header-start: found "[", expected "{"')
    yield bad("top-level-array", file("[]"), 'byte 8: header-start: found "[", expected "{"')
    yield bad("top-level-null", file("null"), 'byte 8: header-start: found "n", expected "{"')
    yield bad("byte-ff", file(b"\xff\xff"), 'byte 8: header-start: found "\\xff", expected "{"')
    yield bad("all-spaces", file("        "), 'byte 16: header-start: found "", expected "{"')
    yield ok("trailing-spaces", file(obj(rec("a")) + "     ", bytes(4)))
    yield ok("trailing-newline", file(obj(rec("a")) + "\n", bytes(4)))
    h = obj(rec("a"))
    yield ok("unaligned-header", file(h + " " * ((9 - len(h)) % 8), bytes(4)))
    yield ok("white-space-everywhere",
             file('{ "a" :\t{ "dtype" : "F32" ,\r\n"shape" : [ 1 ] , "data_offsets" : [ 0 , 4 ] } }', bytes(4)))
    yield bad("nul-padding", file(h + "\0\0\0", bytes(4)),
              f"byte {8 + len(h)}: json-syntax: found byte 0x00, expected nothing more")
    yield bad("second-value", file(h + "{}", bytes(4)),
              f"byte {8 + len(h)}: json-syntax: found '{{', expected nothing more")
    yield bad("comment", file('{/* no */}'), "byte 9: json-syntax: found '/', expected a key or '}'")
    yield bad("trailing-comma", file("{" + rec("a") + ",}", bytes(4)),
              f"byte {8 + len(h)}: json-syntax: found '}}', expected a key")
    yield bad("trailing-comma-in-shape", file(obj(rec("a", shape="[1,]")), bytes(4)),
              f"byte {at(obj(rec('a', shape='[1,]')), ',]') + 1}: json-syntax: found ']', expected a value")
    yield bad("missing-comma", file("{" + rec("a") + rec("b") + "}", bytes(8)),
              f"byte {8 + len(h) - 1}: json-syntax: found '\"', expected ',' or '}}'")
    yield bad("missing-colon", file('{"a" {}}'), "byte 13: json-syntax: found '{', expected ':'")
    yield bad("single-quotes", file("{'a':{}}"), "byte 9: json-syntax: found ''', expected a key or '}'")
    yield bad("bare-key", file("{a:{}}"), "byte 9: json-syntax: found 'a', expected a key or '}'")
    yield bad("number-as-key", file("{1:{}}"), "byte 9: json-syntax: found '1', expected a key or '}'")
    yield bad("wrong-bracket", file('{"a":{]}'), "byte 14: json-syntax: found ']', expected a key or '}'")
    yield bad("only-open-brace", file("{ "), "byte 10: json-syntax: found the end of the text, expected a key or '}'")
    cut = h[: len(h) // 2]
    yield bad("half-a-header", file(cut, bytes(4)),
              f"byte {8 + len(cut)}: json-string: found the end of the text, expected a closing quote"
              if cut.count('"') % 2 else
              f"byte {8 + len(cut)}: json-syntax: found the end of the text, expected ':'")
    for name, raw in (("lone-continuation", b"\x80"), ("overlong-slash", b"\xc0\xaf"), ("overlong-nul", b"\xc0\x80"),
                      ("encoded-surrogate", b"\xed\xa0\x80"), ("beyond-unicode", b"\xf4\x90\x80\x80"),
                      ("five-byte-form", b"\xf8\x88\x80\x80\x80"), ("latin-1", b"\xe9"), ("cut-sequence", b"\xe2\x82")):
        text = b'{"' + raw + rec("")[1:].encode() + b"}"
        yield bad(f"utf8-{name}", file(text, bytes(4)),
                  f"byte 10: json-utf8: found byte 0x{raw[0]:02x}, expected valid UTF-8")
    for name, esc, text in (("lone-high-surrogate", "\\ud800", "found a lone surrogate \\ud800, expected a pair"),
                            ("lone-low-surrogate", "\\udc00", "found a lone surrogate \\udc00, expected a pair"),
                            ("two-high-surrogates", "\\ud800\\ud800", "found a lone surrogate \\ud800, expected a pair"),
                            ("high-surrogate-and-letter", "\\ud800x", "found a lone surrogate \\ud800, expected a pair"),
                            ("nul-in-name", "\\u0000", "found a NUL character, which fitq refuses in strings")):
        yield bad(name, file(obj(rec(esc)), bytes(4)), f"byte 10: json-string: {text}")
    yield ok("surrogate-pair", file(obj(rec("\\ud83d\\ude00")), bytes(4)))
    yield bad("bad-escape", file(obj(rec("\\x41")), bytes(4)),
              "byte 11: json-string: found 'x', expected one of \" \\ / b f n r t u after a backslash")
    yield bad("short-unicode-escape", file(obj(rec("\\u12")), bytes(4)),
              "byte 14: json-string: found '\"', expected four hexadecimal digits after \\u")
    yield bad("raw-newline-in-name", file(obj(rec("a\nb")), bytes(4)),
              "byte 11: json-string: found byte 0x0a, expected no control character in a string")
    yield bad("raw-nul-in-name", file(obj(rec("a\0b")), bytes(4)),
              "byte 11: json-string: found byte 0x00, expected no control character in a string")
    deep = 100000
    yield bad("depth-100000-arrays", file('{"a":' + "[" * deep + "]" * deep + "}"),
              "tensor a: byte 13: tensor-record: found an array, expected an object")
    h = obj(rec("a")[:-1] + ',"x":' + "[" * deep + "]" * deep + "}")
    yield bad("depth-100000-in-unknown-member", file(h, bytes(4)),
              f"byte {at(h, '[[[') + 62}: json-depth: found deeper nesting, expected at most 64 levels")
    h = obj(rec("a")[:-1] + ',"x":' + '{"y":' * deep + "1" + "}" * deep + "}")
    yield bad("depth-100000-objects", file(h, bytes(4)),
              f"byte {at(h, '{' + chr(34) + 'y') + 5 * 62}: json-depth: found deeper nesting, expected at most 64 levels")
    yield ok("depth-64-in-unknown-member", file(obj(rec("a")[:-1] + ',"x":' + "[" * 62 + "]" * 62 + "}"), bytes(4)))


def name_cases():
    yield ok("name-empty", file(obj(rec("")), bytes(4)))
    yield ok("name-parent-path", file(obj(rec("../../etc/passwd")), bytes(4)))
    yield ok("name-with-escape-sequence", file(obj(rec("\\u001b[31mred")), bytes(4)))
    yield ok("name-of-100000-bytes", file(obj(rec("n" * 100000)), bytes(4)))
    yield ok("name-beyond-the-basic-plane", file(obj(rec("\U0001f600")), bytes(4)))
    # the same names in a message: nothing may reach a terminal that it would obey
    for name, raw, shown in (("escape-sequence", "\\u001b[31m", "\\x1b[31m"), ("newline", "a\\nb", "a\\x0ab"),
                             ("c1-control", "a\u009bb", "a\\xc2\\x9bb"), ("bidi-override", "a\u202eb", "a\\xe2\\x80\\xaeb"),
                             ("quotes", "a\\\"b'c", "a\\x22b\\x27c"), ("backslash", "a\\\\x", "a\\x5cx"),
                             ("delete", "a\x7fb", "a\\x7fb"), ("beyond-ascii", "h\u00e9", "h\u00e9"),
                             ("300-bytes", "n" * 300, "n" * 197 + "..."), ("300-controls", "\\u0001" * 300, "\\x01" * 49 + "...")):
        h = obj(rec(raw, offsets="[4,0]"))
        yield bad(f"message-{name}", file(h, bytes(4)),
                  f"tensor {shown}: byte 9: data-offsets: found the end 0 before the begin 4")


def cases():
    for part in (length_cases, size_cases, duplicate_cases, offset_cases, shape_cases, record_cases, json_cases, name_cases):
        yield from part()
