#!/usr/bin/env python3
"""An independent reader of safetensors checkpoints: Python standard library only, and nothing of fitq's.

    st_reader.py sums DIR     prints one line per tensor: SHA-256 of its bytes, dtype, shape, name

The tests hold what fitq writes against what this file reads. It follows the published format description and checks what a
careful reader would: header length, offsets without holes or overlaps, shapes that match the bytes, an index that agrees with
the files.
"""
import hashlib
import json
import os
import struct
import sys

ITEM = {'F8_E4M3': 1, 'BF16': 2, 'F16': 2, 'F32': 4, 'F64': 8, 'I64': 8, 'I32': 4, 'I16': 2, 'I8': 1, 'U8': 1, 'BOOL': 1}


class Tensor:
    def __init__(self, name, dtype, shape, data):
        self.name, self.dtype, self.shape, self.data = name, dtype, tuple(shape), data
        self.item = ITEM[dtype]

    def rows(self):
        """The tensor as a list of byte strings along its first axis."""
        n = self.shape[0] if self.shape else 1
        step = len(self.data) // n if n else 0
        return [self.data[i * step:(i + 1) * step] for i in range(n)]


def reject_duplicates(pairs):
    keys = [k for k, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError('duplicate key in a header')
    return dict(pairs)


def read_file(path):
    """-> (dict name -> Tensor, metadata)"""
    with open(path, 'rb') as f:
        blob = f.read()
    n, = struct.unpack('<Q', blob[:8])
    if n > len(blob) - 8:
        raise ValueError(f'{path}: header length {n}')
    if n % 8:
        raise ValueError(f'{path}: the data does not begin at a multiple of 8')
    header = json.loads(blob[8:8 + n].decode('utf-8'), object_pairs_hook=reject_duplicates)
    metadata = header.pop('__metadata__', {})
    data = memoryview(blob)[8 + n:]
    out, spans = {}, []
    for name, t in header.items():
        begin, end = t['data_offsets']
        count = 1
        for d in t['shape']:
            count *= d
        if end - begin != count * ITEM[t['dtype']]:
            raise ValueError(f'{path}: {name}: {end - begin} bytes for shape {t["shape"]} of {t["dtype"]}')
        spans.append((begin, end))
        out[name] = Tensor(name, t['dtype'], t['shape'], bytes(data[begin:end]))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError(f'{path}: hole or overlap at {at}')
        at = end
    if at != len(data):
        raise ValueError(f'{path}: {len(data) - at} bytes after the last tensor')
    return out, metadata


def read_folder(folder):
    """-> dict name -> Tensor, over all shards; checks the index when there is one."""
    shards = sorted(f for f in os.listdir(folder) if f.endswith('.safetensors'))
    where, out = {}, {}
    for shard in shards:
        tensors, _ = read_file(os.path.join(folder, shard))
        for name, t in tensors.items():
            if name in out:
                raise ValueError(f'{folder}: {name} stands in {where[name]} and {shard}')
            out[name], where[name] = t, shard
    index = os.path.join(folder, 'model.safetensors.index.json')
    if len(shards) > 1 and not os.path.exists(index):
        raise ValueError(f'{folder}: several files and no index')
    if os.path.exists(index):
        with open(index, encoding='utf-8') as f:
            doc = json.load(f, object_pairs_hook=reject_duplicates)
        if doc['weight_map'] != where:
            raise ValueError(f'{folder}: the index and the files disagree')
        total = sum(len(t.data) for t in out.values())
        if doc['metadata']['total_size'] != total:
            raise ValueError(f'{folder}: total_size {doc["metadata"]["total_size"]}, the tensors have {total}')
    return out


def main(args):
    if len(args) != 2 or args[0] != 'sums':
        print('usage: st_reader.py sums DIR', file=sys.stderr)
        return 2
    for name, t in sorted(read_folder(args[1]).items()):
        print(hashlib.sha256(t.data).hexdigest(), t.dtype, list(t.shape), name)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
