"""corpus.py - what a case of the corpus of bad files is.

A module KIND_cases.py beside this file has a generator cases() that yields Case objects. make_corpus.py imports all of
them and writes each case to OUT/KIND/NAME, and the expectations of one kind to OUT/KIND.expect.

A case is one input that a reader may meet, with exactly one right answer:

    Case(name="hole-between", data=b"...", exit=3,
         message="tensor b: byte 8: offset-order: found 8, expected 4, where tensor a ends")

name     file name; lower case words and hyphens, saying what is wrong with it. A folder case gets a folder of that name.
data     bytes: a file. A dict of relative path -> bytes | Link | Fifo: a folder.
exit     what the command line exits with: 0 accepted, 3 refused (include/fitq.h lists all).
message  "ok", or the error line behind the file name: fq_err.text with the path of the case and ": " (or "/", for a
         file of a folder case) cut from its start. Exact, because a message that drifts is a message nobody reads.
size     if not 0, the file is extended with zero bytes to this length, as a hole that occupies no disk.

Cases are plain data made by plain code: no randomness, no time, no third-party package, so that the same commit always
writes the same bytes.
"""
from typing import Dict, NamedTuple, Union


class Link(str):
    """A symbolic link to this target."""


class Fifo:
    """A named pipe: opening it must not block."""


class Case(NamedTuple):
    name: str
    data: Union[bytes, Dict[str, object]]
    exit: int
    message: str
    size: int = 0


def ok(name, data, size=0):
    """A case that every reader must accept."""
    return Case(name, data, 0, "ok", size)


def bad(name, data, message, size=0):
    """A case that must be refused as bad input."""
    return Case(name, data, 3, message, size)
