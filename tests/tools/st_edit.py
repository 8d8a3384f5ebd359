#!/usr/bin/env python3
"""Changes the weights of a safetensors file in place, to see what a program makes of it. Python standard library only.

    st_edit.py FILE drop NAME            without this tensor
    st_edit.py FILE rename NAME OTHER    the same tensor under another name
    st_edit.py FILE copy NAME OTHER      once more under another name
    st_edit.py FILE set NAME I HEX       element I has these bytes, first byte first
    st_edit.py FILE reshape NAME N,...   another shape of as many elements
    st_edit.py FILE rows NAME N          its first N rows
    st_edit.py FILE dtype NAME TYPE      the same bytes as another type of the same width

Everything else keeps its bytes and its order; offsets are those of a file without holes. Exit 1 if there is no such tensor.
"""
import json
import struct
import sys


def load(path):
    """-> ([[name, dtype, shape, bytes], ...], metadata or None)"""
    with open(path, 'rb') as f:
        data = f.read()
    n, = struct.unpack('<Q', data[:8])
    header = json.loads(data[8:8 + n])
    meta = header.pop('__metadata__', None)
    tensors = [[name, t['dtype'], t['shape'], bytearray(data[8 + n + t['data_offsets'][0]:8 + n + t['data_offsets'][1]])]
               for name, t in sorted(header.items(), key=lambda x: x[1]['data_offsets'])]
    return tensors, meta


def save(path, tensors, meta):
    header, at = {}, 0
    if meta is not None:
        header['__metadata__'] = meta
    for name, dtype, shape, data in tensors:
        header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text)
        for t in tensors:
            f.write(t[3])


def set_element(t, i, value):
    value = bytes.fromhex(value)
    at = int(i) * len(value)
    t[3][at:at + len(value)] = value


def main(args):
    if len(args) < 3:
        print(__doc__)
        return 2
    path, what, name, rest = args[0], args[1], args[2], args[3:]
    tensors, meta = load(path)
    t = next((t for t in tensors if t[0] == name), None)
    if t is None:
        print(f'{path}: no tensor {name}', file=sys.stderr)
        return 1
    if what == 'drop':
        tensors.remove(t)
    elif what == 'rename':
        t[0] = rest[0]
    elif what == 'copy':
        tensors.append([rest[0], *t[1:]])
    elif what == 'set':
        set_element(t, *rest)
    elif what == 'reshape':
        t[2] = [int(n) for n in rest[0].split(',')]
    elif what == 'rows':
        t[3] = t[3][:len(t[3]) // t[2][0] * int(rest[0])]
        t[2][0] = int(rest[0])
    elif what == 'dtype':
        t[1] = rest[0]
    else:
        print(__doc__)
        return 2
    save(path, tensors, meta)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
