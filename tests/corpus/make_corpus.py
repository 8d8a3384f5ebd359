#!/usr/bin/env python3
"""make_corpus.py OUT [KIND...]   write the corpus of good and bad files
   make_corpus.py --check [KIND...] compare the published tables (KIND.expect, beside this file) with the cases
   make_corpus.py --update [KIND...] write the published tables

Without KIND all kinds are written. In OUT each kind is a folder, KIND, with one file or folder per case, and a table,
KIND.expect: name, exit code, and the error line without the file name ("ok" if accepted), separated by tabs. corpus.py says
what a case is. Exit: 0, 1 for a table that differs, 2 for wrong usage.
"""
import importlib
import os
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

from corpus import Fifo, Link  # noqa: E402


def kinds():
    return sorted(p.name[: -len("_cases.py")] for p in HERE.glob("*_cases.py"))


def load(kind):
    found, names = [], set()
    for case in importlib.import_module(kind + "_cases").cases():
        if case.name in names:
            sys.exit(f"{kind}: two cases are called {case.name}")
        if "\t" in case.message or "\n" in case.message:
            sys.exit(f"{kind}: {case.name}: a message is one line without tabs")
        names.add(case.name)
        found.append(case)
    return found


def table(found):
    return "".join(f"{c.name}\t{c.exit}\t{c.message}\n" for c in found)


def put(path, data, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, Link):
        os.symlink(data, path)
    elif isinstance(data, Fifo):
        os.mkfifo(path)
    elif isinstance(data, dict):
        path.mkdir()
        for name, part in data.items():
            put(path / name, part, 0)
    else:
        with open(path, "wb") as f:
            f.write(data)
            if size:
                f.truncate(size)


def write(out, kind, found):
    folder = out / kind
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for case in found:
        put(folder / case.name, case.data, case.size)
    (out / f"{kind}.expect").write_text(table(found), encoding="utf-8")


def main(args):
    if not args or args[0] in ("-h", "--help"):
        print(__doc__)
        return 2
    wanted = args[1:] or kinds()
    for kind in wanted:
        if kind not in kinds():
            print(f"make_corpus.py: unknown kind {kind}; known: {', '.join(kinds())}", file=sys.stderr)
            return 2
    status = 0
    for kind in wanted:
        found = load(kind)
        published = HERE / f"{kind}.expect"
        if args[0] == "--update":
            published.write_text(table(found), encoding="utf-8")
        elif args[0] == "--check":
            if not published.exists() or published.read_text(encoding="utf-8") != table(found):
                print(f"{published.name} differs from {kind}_cases.py; run make_corpus.py --update {kind}", file=sys.stderr)
                status = 1
        else:
            write(pathlib.Path(args[0]), kind, found)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
