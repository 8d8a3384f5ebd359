"""Cases for tokenizer.json: ids that are out of range, taken twice or left out, merges of what is not there, bytes without a token, stages
that fitq does not know.

The base is a byte-level BPE of 256 bytes and three merges, with one added token.
"""
import json

from corpus import Case, bad, ok

GONE = object()


def alphabet():
    own = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    rest = [b for b in range(256) if b not in own]
    return {**{chr(b): b for b in own}, **{chr(256 + i): b for i, b in enumerate(rest)}}


BYTES = dict(sorted(alphabet().items(), key=lambda x: x[1]))
VOCAB = {**BYTES, "he": 256, "ll": 257, "hell": 258}
MERGES = [["h", "e"], ["l", "l"], ["he", "ll"]]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def token(**change):
    return {k: v for k, v in {"id": 259, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                              "special": True, **change}.items() if v is not GONE}


MODEL = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
         "byte_fallback": False, "ignore_merges": False, "vocab": VOCAB, "merges": MERGES}
FILE = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [token()], "normalizer": {"type": "NFC"},
        "pre_tokenizer": BYTE_LEVEL, "post_processor": None, "decoder": BYTE_LEVEL, "model": MODEL}


def drop(made):
    return {k: v for k, v in made.items() if v is not GONE}


def text(**change):
    return json.dumps(drop({**FILE, **change}), ensure_ascii=False).encode()


def model(**change):
    return text(model=drop({**MODEL, **change}))


def at(data, mark, last=False):
    """Byte position of the JSON text of mark."""
    find = data.rindex if last else data.index
    return find(json.dumps(mark, ensure_ascii=False).encode())


def vocabulary():
    def vocab(**change):
        return model(vocab=drop({**VOCAB, **change}))

    def below(name, data, key, found, n):
        return bad(name, data, f'byte {at(data, key)}: vocab-id: found id {found} of token "{key}", expected an id below {n}, the number of tokens')

    yield ok("good", text())
    data = vocab(hell=-1)
    number = at(data, "hell") + len('"hell": ')
    yield bad("id-minus-1", data, f"byte {number}: json-integer: id of a token: found -1, expected an integer from 0 to 2^63-1")
    data = vocab(hell=258.0)
    yield bad("id-real", data, f"byte {number}: json-integer: id of a token: found 258.0, expected an integer from 0 to 2^63-1")
    data = vocab(hell="258")
    yield bad("id-string", data, f'byte {number}: json-integer: id of a token: found "258", expected an integer from 0 to 2^63-1')
    data = vocab(hell=2**63)
    yield bad("id-2-63", data, f"byte {number}: json-integer: id of a token: found 9223372036854775808, expected an integer from 0 to 2^63-1")
    yield below("id-2-31", vocab(hell=2**31), "hell", 2**31, 259)
    yield below("id-2-32", vocab(hell=2**32), "hell", 2**32, 259)
    yield below("id-gap", vocab(hell=259), "hell", 259, 259)
    data = vocab(hell=257)
    yield bad("id-twice", data, f'byte {at(data, "hell")}: vocab-id: found id 257 of token "hell", expected another than that of "ll"')
    data = model(vocab={**VOCAB, "@@": 259}).replace(b'"@@"', b'"ll"')
    yield bad("token-twice", data, f'byte {data.index(b"ll", data.index(b"hell") + 4) - 1}: vocab-token: found "ll" a second time, expected every token once')
    data = model(vocab={**VOCAB, "@@": 259}).replace(b'"@@"', b'"\\u006cl"')
    yield bad("token-twice-escaped", data, f'byte {data.index(b"u006c") - 2}: vocab-token: found "ll" a second time, expected every token once')
    data = model(vocab={}, merges=[])
    yield bad("vocab-empty", data, f"byte {data.index(b'{}', data.index(b'vocab'))}: vocab-size: found no token, expected a vocabulary")
    yield bad("vocab-missing", model(vocab=GONE), "tokenizer-file: found no vocab in the model, expected an object")
    yield bad("vocab-list", model(vocab=[["a", 0]]), "tokenizer-file: found no vocab in the model, expected an object")
    data = model().replace(b'"model"', b'"m\\u006fdel"')
    yield bad("model-key-escaped", data, "tokenizer-file: found no vocab in the model, expected an object")


def byte_tokens():
    less = {k: i for i, k in enumerate(k for k in VOCAB if k != "q")}
    yield bad("byte-token-missing", model(vocab=less, merges=MERGES) .replace(b'"id": 259', b'"id": 258'),
              "byte-token: found no token of byte 0x71, expected one of each (or an unk_token)")
    yield bad("byte-token-of-space-missing", model(vocab={k: i for i, k in enumerate(k for k in VOCAB if k != "\u0120")}),
              "byte-token: found no token of byte 0x20, expected one of each (or an unk_token)")
    yield ok("byte-token-missing-with-unk", model(vocab=less, unk_token="z").replace(b'"id": 259', b'"id": 258'))
    yield bad("unk-not-there", model(unk_token="<unk>"), 'unk-token: found "<unk>", expected a token of the vocabulary')
    # written for bytes by other tokenizers: here no more than text
    yield bad("byte-written-in-hex", model(vocab={**less, "<0x71>": 258}), "byte-token: found no token of byte 0x71, expected one of each (or an unk_token)")
    yield ok("byte-written-as-minus-1", text(model={**MODEL, "vocab": {**VOCAB, "<0x-1>": 259}}, added_tokens=[token(id=260)]))


def merges():
    def merge(name, entries, found, mark):
        data = model(merges=entries)
        place = data.index(json.dumps(mark, ensure_ascii=False).encode(), data.index(b'"merges"'))
        return bad(name, data, f"byte {place}: merge: {found}")

    yield ok("merges-as-strings", model(merges=["h e", "l l", "he ll"]))
    yield ok("merges-with-version-line", model(merges=["#version: 0.2", "h e", "l l", "he ll"]))
    yield ok("merges-none", model(merges=[]))
    yield ok("merges-twice", model(merges=MERGES + MERGES))
    entry = ["h", "ex"]
    yield merge("merge-of-unknown-right", MERGES + [entry], 'found the part "ex", expected a token of the vocabulary', entry)
    entry = ["zz", "h"]
    yield merge("merge-of-unknown-left", MERGES + [entry], 'found the part "zz", expected a token of the vocabulary', entry)
    entry = ["hell", "o"]
    yield merge("merge-to-unknown", MERGES + [entry], 'found the result "hello", expected a token of the vocabulary', entry)
    entry = ["hell", "hell"]
    yield merge("merge-longer-than-any-token", MERGES + [entry], 'found the result "hellhell", expected a token of the vocabulary', entry)
    yield merge("merge-string-unknown", ["h ex"], 'found the part "ex", expected a token of the vocabulary', "h ex")
    for name, entry in (("three", "h e l"), ("one", "he"), ("two-spaces", "h  e"), ("space-first", " he"), ("space-last", "he "), ("empty", "")):
        yield merge(f"merge-string-{name}", [entry], f'found "{entry}", expected two tokens', entry)
    data = model(merges=[["h", "e", "l"]])
    yield bad("merge-of-three", data, f'byte {at(data, "l", True)}: merge: found "l", expected two tokens')
    data = model(merges=[["h"]])
    yield bad("merge-of-one", data, f"byte {data.rindex(b']]')}: merge: found the end of the array, expected two tokens")
    data = model(merges=[[1, 2]])
    yield bad("merge-of-numbers", data, f"byte {data.rindex(b'1, 2')}: merge: found 1, expected two tokens")
    data = model(merges=[7])
    yield bad("merge-number", data, f"byte {data.rindex(b'7')}: merge: found 7, expected two tokens")
    yield bad("merges-missing", model(merges=GONE), "tokenizer-file: found no merges in the model, expected a list")
    yield bad("merges-text", model(merges="h e"), "tokenizer-file: found no merges in the model, expected a list")


def added():
    ids = "an integer from 0 to 2147483647"

    def one(name, message, *tokens):
        return bad(name, text(added_tokens=list(tokens)), message)

    yield ok("added-none", text(added_tokens=[]))
    yield ok("added-in-the-vocabulary", text(added_tokens=[token(id=258, content="hell")]))
    yield one("added-id-minus-1", f"json-field: id: found -1, expected {ids}", token(id=-1))
    yield one("added-id-2-31", f"json-field: id: found 2147483648, expected {ids}", token(id=2**31))
    yield one("added-id-missing", f"json-field: id: found nothing, expected {ids}", token(id=GONE))
    yield one("added-id-string", f'json-field: id: found "259", expected {ids}', token(id="259"))
    yield one("added-id-gap", 'added-token-id: found id 260 of "<|end|>", expected 259, the next one', token(id=260))
    yield one("added-id-huge", 'added-token-id: found id 2147483647 of "<|end|>", expected 259, the next one', token(id=2**31 - 1))
    yield one("added-id-of-another", 'added-token-id: found id 5 of "<|end|>", expected 259, the next one', token(id=5))
    yield one("added-id-twice", 'added-token-id: found id 259 of "<|x|>", expected 260, the next one', token(), token(content="<|x|>"))
    yield one("added-id-not-the-vocabulary-s", 'added-token-id: found id 259 of "hell", expected 258, that of the vocabulary', token(content="hell"))
    yield one("added-twice", 'added-token: found "<|end|>" a second time, expected every content once', token(), token(id=260))
    yield one("added-twice-other-class", 'added-token: found "<|end|>" a second time, expected every content once', token(), token(id=260, normalized=True))
    yield one("added-twice-after-nfc", 'added-token: found "\u00e9" a second time, expected every content once',
              token(content="e\u0301", normalized=True), token(id=BYTES["\u00e9"], content="\u00e9", normalized=True))
    yield one("added-empty", "added-token: found no content of entry 0, expected a text", token(content=""))
    yield one("added-content-missing", "added-token: found no content of entry 0, expected a text", token(content=GONE))
    yield one("added-content-number", "json-field: content: found 7, expected a string", token(content=7))
    yield one("added-too-long", "added-token: found a content of 1025 bytes of entry 0, expected at most 1024", token(content="x" * 1025))
    yield one("added-flag-number", "json-field: lstrip: found 1, expected true or false", token(lstrip=1))
    yield one("added-text", "added-token: found entry 0 that is no object, expected one", "<|end|>")
    yield bad("added-object", text(added_tokens={}), "added-token: found no list of added_tokens, expected one")


def template(ids, **change):
    return text(post_processor={
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": ids, "tokens": ["<s>"]}}, **change})


def stages():
    pretok = "ByteLevel, Split, Digits, Punctuation, or a Sequence that ends in ByteLevel"

    def split(pattern, **change):
        return text(pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False, **change}, {**BYTE_LEVEL, "use_regex": False}]})

    for kind in ("Unigram", "WordPiece", "WordLevel"):
        yield bad(f"model-{kind.lower()}", model(type=kind), f'model: found "{kind}", expected BPE')
    yield bad("normalizer-nfkc", text(normalizer={"type": "NFKC"}), 'normalizer: found "NFKC", expected NFC, a Sequence of it, or null')
    yield bad("normalizer-in-sequence", text(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
              'normalizer: found "Lowercase", expected NFC, a Sequence of it, or null')
    yield bad("pre-tokenizer-missing", text(pre_tokenizer=None), f"pre-tokenizer: found no object, expected {pretok}")
    yield bad("pre-tokenizer-metaspace", text(pre_tokenizer={"type": "Metaspace"}), f'pre-tokenizer: found "Metaspace", expected {pretok}')
    yield bad("pre-tokenizer-not-byte-level", text(pre_tokenizer={"type": "Digits", "individual_digits": True}),
              "pre-tokenizer: found no ByteLevel, expected it at the end (only byte-level BPE is supported)")
    yield bad("pre-tokenizer-behind-byte-level", text(pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTE_LEVEL, {"type": "Digits"}]}),
              'pre-tokenizer: found "Digits", expected nothing behind ByteLevel')
    yield bad("split-without-pattern", split({}), "pre-tokenizer: found a Split without a pattern, expected a Regex or a String")
    yield bad("split-empty-pattern", split({"String": ""}), "pattern: found an empty pattern, expected one that matches something")
    yield bad("split-behavior", split({"Regex": "a"}, behavior="Merged"),
              'pre-tokenizer: found behavior "Merged", expected Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext')
    for name, pattern, found, place in (
            ("group-open", "(a", "a group without end", 2), ("group-close", "a)", "a group that was not opened", 2), ("class-open", "[a", "a class without end", 2),
            ("nested-class", "[a[b]]", "a class inside a class", 3), ("class-and", "[a&&b]", "&& in a class", 3), ("property", "\\p{Foo}", "an unknown property", 1),
            ("reference", "(a)\\1", "a reference or an escape", 4), ("escape", "\\K", "an escape", 1), ("named-group", "(?<x>a)", "a group of another kind", 1),
            ("recursion", "(?R)", "a group of another kind", 1), ("count-and-question", "a{2}?", "an exact count followed by ?", 2),
            ("repeat-nothing", "*a", "a repetition of nothing", 1), ("byte-escape", "\\xff", "the escape of a byte", 1)):
        shown = pattern.replace("\\", "\\x5c")
        yield bad(f"pattern-{name}", split({"Regex": pattern}), f'pattern: found {found} at character {place} of "{shown}", expected a pattern without it')
    yield bad("pattern-lookbehind", split({"Regex": "(?<=a+)b"}),
              'pattern: found "(?<=a+)b", expected a pattern that compiles (lookbehind assertion is not fixed length)')
    yield ok("post-template", template([259]))
    yield bad("post-id-past-the-end", template([260]), 'post-processor: found id 260 of special token "<s>", expected an id below 260')
    yield bad("post-id-minus-1", template([-1]), 'post-processor: found id -1 of special token "<s>", expected an id below 260')
    yield bad("post-no-ids", template(None), 'post-processor: found no ids of special token "<s>", expected a list')
    yield bad("post-no-text", template([259], single=[]), "post-processor: found a template with the text 0 times, expected it once")
    yield bad("post-unknown-entry", template([259], single=[{"Text": 1}]),
              "post-processor: found an unknown entry in a template, expected SpecialToken or Sequence A")
    yield bad("post-bert", text(post_processor={"type": "BertProcessing"}),
              'post-processor: found "BertProcessing", expected ByteLevel, TemplateProcessing, a Sequence of them, or null')
    yield bad("decoder-metaspace", text(decoder={"type": "Metaspace"}), 'decoder: found "Metaspace", expected ByteLevel, a Sequence of it, or null')


def file_itself():
    for key, value in (("dropout", 0.1), ("byte_fallback", True), ("continuing_subword_prefix", "##"), ("end_of_word_suffix", "</w>")):
        yield bad(f"option-{key.replace('_', '-')}", model(**{key: value}), f"model-option: found {key} set, expected a model without it (not supported)")
    yield ok("dropout-zero", model(dropout=0.0))
    yield bad("version-2", text(version="2.0"), 'tokenizer-version: found version "2.0", expected "1.0"')
    yield bad("version-missing", text(version=GONE), 'tokenizer-version: found version "", expected "1.0"')
    yield bad("model-missing", text(model=GONE), "tokenizer-file: found no model, expected an object")
    yield bad("a-list", b"[]", "byte 0: tokenizer-file: found an array, expected an object")
    yield bad("empty", b"", "byte 0: json-syntax: found the end of the text, expected a value")
    data = text() + b"x"
    yield bad("something-behind-it", data, f"byte {len(data) - 1}: json-syntax: found 'x', expected nothing more")
    data = text().replace(b'"decoder"', b'"version"')
    yield bad("key-twice", data, f"byte {data.rindex(b'version') - 1}: json-duplicate-key: version: found it a second time, "
              "the first is at byte 1, expected it once")
    yield ok("folder", {"tokenizer.json": text()})
    yield Case("folder-without-it", {"config.json": b"{}"}, 4, "tokenizer.json: open: No such file or directory")


def cases():
    yield from vocabulary()
    yield from byte_tokens()
    yield from merges()
    yield from added()
    yield from stages()
    yield from file_itself()
