#!/usr/bin/env python3
"""Writes where the tokens of some texts come from, as the `tokenizers` package tells it: what
src/tokenizer/origins_test.cc compares with.

  tools/tokenizer_origins.py --shared shared > src/tokenizer/origins_expected.inc
"""

import argparse
import json
import pathlib

import tokenizers

TEXTS = [
    "Hello,  world! It's 3.14.",
    " leading and trailing  ",
    "na\u00efve cafe\u0301 A\u030angstr\u00f6m \u1e69 s\u0323\u0307 s\u0307\u0323 \u0132",
    "\ufb01ne \ufb02ow \u2460 \u00bd \u2122\u001e x\u2026 \ufdfa",
    "\u4e2d\u6587 \u65e5\u672c\u8a9e\u3000\u30ab\u3099 \uac00\u1100\u1161 \u0130\u1e9e",
    "\u0001a\u200bb\ufeffc\u00a0d\te\r\nf",
    "\u200bstarts with nothing",
    "\U0001f600\u200d\U0001f468 \u2764\ufe0f \U0001f1e9\U0001f1ea",
    "<s> [CLS]a [MASK] b<mask>  c <|endoftext|> d</s>",
    "\u0f73\u0f71\u0344 \u0958\u093c ``quoted'' \u0e33",
    "\n\n  two\n lines   ",
    "x",
    "",
]
PAIRS = [
    ("Who wrote \u201cna\u00efve\u201d?", "  The na\u0131\u0308ve one, in 1999, wrote it all."),
    ("a", "\u4e2d b [SEP] c"),
]
# A text of some length for windows, and the sizes and overlaps of those.
WINDOWED = ("Where does it rain?", "It rains in the caf\u00e9 by the sea; elsewhere, 12 of 13 days are dry. " * 2)
WINDOWS = [(40, 8), (24, 0), (30, 3), (500, 100)]

SHARED = {
    "albert-unigram": "golden/tokenizers/albert-unigram",
    "bert-cased-style": "golden/tokenizers/bert-cased-style",
    "bert-uncased-style": "golden/tokenizers/bert-uncased-style",
    "gpt2": "golden/tokenizers/gpt2",
    "gpt2-style": "golden/tokenizers/gpt2-style",
    "llama3-style": "golden/tokenizers/llama3-style",
    "qwen2-style": "golden/tokenizers/qwen2-style",
    "roberta-style": "golden/tokenizers/roberta-style",
    "t5-unigram-style": "golden/tokenizers/t5-unigram-style",
    "minilm": "models/all-MiniLM-L6-v2",
    "stories260K": "models/stories260K",
}


def letters(**more):
    """A BPE model of the letters of TEXTS that most tokenizers leave."""
    vocabulary = ["?"] + [chr(c) for c in range(32, 127) if chr(c) != "?"] + list("\u2581\u0120\u00e9\u0301\u4e2d")
    merges = [["t", "h"], ["th", "e"], ["e", "r"], ["\u2581", "a"], ["i", "n"]]
    vocabulary += ["".join(merge) for merge in merges]
    return {
        "type": "BPE", "unk_token": "?", "merges": merges,
        "vocab": {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}, **more,
    }


def pieces(byte_fallback):
    """A Unigram model of the same letters."""
    texts = ["<unk>"] + [chr(c) for c in range(33, 127)] + ["\u2581", "the", "\u2581a", "in", "er", "\u00e9"]
    if byte_fallback:
        texts += [f"<0x{byte:02X}>" for byte in range(256)]
    return {"type": "Unigram", "unk_id": 0, "byte_fallback": byte_fallback,
            "vocab": [[text, -1.0 - i / 100] for i, text in enumerate(texts)]}


MODELS = {
    "letters": letters(),
    "fallback": letters(byte_fallback=True, fuse_unk=True, vocab={
        **letters()["vocab"], **{f"<0x{byte:02X}>": 300 + byte for byte in range(256)}}),
    "fused": letters(fuse_unk=True),
    "dropped": letters(unk_token=None),
    "affixes": {
        "type": "BPE", "unk_token": "?", "continuing_subword_prefix": "##", "end_of_word_suffix": "/", "merges":
        [["t", "##h"], ["th", "##e"], ["##e", "##r"], ["##i", "##n/"]], "vocab": {token: i for i, token in enumerate(
            ["?"] + [p + c + s for c in "abcdefghijklmnopqrstuvwxyzHIW" for p in ("", "##") for s in ("", "/")]
            + ["th", "the", "##er", "##in/"])}},
    "Unigram": pieces(False),
    "Unigram, fallback": pieces(True),
}


def small(model="letters", **parts):
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None, **parts, "model": model,
    }


def added(token_id, content, **flags):
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True, **flags}


METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}


def byte_level(**flags):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **flags}


def small_tokenizers():
    """Tokenizers of one step each."""
    made = {name: small(normalizer={"type": name}) for name in
            ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")}
    made["NFD, StripAccents"] = small(normalizer={"type": "Sequence", "normalizers": [
        {"type": "NFD"}, {"type": "StripAccents"}, {"type": "NFC"}]})
    for name, flags in (("Bert", {}), ("Bert keeps accents", {"strip_accents": False}),
                        ("Bert cased", {"lowercase": False}), ("Bert keeps controls", {"clean_text": False})):
        made[name] = small(normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                                       "strip_accents": None, "lowercase": True, **flags},
                           pre_tokenizer={"type": "BertPreTokenizer"})
    for name, pattern, content in (("text", {"String": "  "}, "-"), ("longer", {"String": "a"}, "e\u0301e"),
                                   ("nothing", {"Regex": "[aeiou]+"}, ""), ("empty", {"Regex": "^"}, "<>"),
                                   ("regex", {"Regex": "\\s+"}, " ")):
        made[f"Replace {name}"] = small(normalizer={"type": "Replace", "pattern": pattern, "content": content})
    made["Prepend"] = small(normalizer={"type": "Prepend", "prepend": "\u2581>"})
    for left, right in ((True, True), (True, False), (False, True)):
        made[f"Strip {left} {right}"] = small(normalizer={"type": "Strip", "strip_left": left, "strip_right": right})
    for scheme in ("always", "first", "never"):
        for split in (True, False):
            made[f"Metaspace {scheme} {split}"] = small(
                pre_tokenizer={**METASPACE, "prepend_scheme": scheme, "split": split})
    for name, step in (("Digits", {"type": "Digits", "individual_digits": True}), ("Whitespace", {"type": "Whitespace"}),
                       ("WhitespaceSplit", {"type": "WhitespaceSplit"}),
                       ("Punctuation", {"type": "Punctuation", "behavior": "MergedWithPrevious"}),
                       ("Split", {"type": "Split", "pattern": {"Regex": "\\s+|\\d"}, "behavior": "Removed",
                                  "invert": False})):
        made[name] = small(pre_tokenizer={"type": "Sequence", "pretokenizers": [step, METASPACE]})
    for space in (True, False):
        for trim in (True, False):
            for post_space in (True, False):
                made[f"ByteLevel {space} {trim} {post_space}"] = small(
                    pre_tokenizer=byte_level(add_prefix_space=space),
                    post_processor=byte_level(add_prefix_space=post_space, trim_offsets=trim),
                    added_tokens=[added(200, "<mask>", lstrip=True), added(201, "[CLS]", rstrip=True)])
    made["Roberta"] = small(
        normalizer={"type": "NFKC"}, pre_tokenizer=byte_level(),
        post_processor={"type": "RobertaProcessing", "sep": ["</s>", 201], "cls": ["<s>", 200],
                        "trim_offsets": True, "add_prefix_space": True},
        added_tokens=[added(200, "<s>"), added(201, "</s>"), added(202, "<mask>", lstrip=True, rstrip=True)])
    made["added, normalised"] = small(
        normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFKD"}]},
        added_tokens=[added(200, "[CLS]", normalized=True), added(201, "CAF\u00c9", normalized=True, special=False),
                      added(202, "fi", normalized=True, special=False, single_word=True)])
    made["fallback"] = small("fallback")
    made["fused"] = small("fused", pre_tokenizer=METASPACE)
    made["dropped"] = small("dropped")
    made["affixes"] = small("affixes", pre_tokenizer={"type": "WhitespaceSplit"})
    for model in ("Unigram", "Unigram, fallback"):
        made[model] = small(model, pre_tokenizer=METASPACE)
    return made


def byte_offsets(text):
    return [len(text[:i].encode()) for i in range(len(text) + 1)]


def origins(encoding, *texts):
    """begin-end of every token, with a + before that of the second text; . for one that was added."""
    ends = [byte_offsets(text) for text in texts]
    rows = []
    for i, (begin, end) in enumerate(encoding.offsets):
        text = encoding.token_to_sequence(i)
        rows.append("." if text is None else f"{'+' * text}{ends[text][begin]}-{ends[text][end]}")
    return " ".join(rows)


def windows(tokenizer, first, second):
    """The package no longer says which text a window's tokens come from, so only where they do; the
    text before the first letter outside ASCII is longer than the first one."""
    ends = byte_offsets(second)
    made = []
    for size, overlap in WINDOWS:
        tokenizer.enable_truncation(size, stride=overlap, strategy="only_second")
        try:
            encoding = tokenizer.encode(first, second)
        except BaseException as error:
            if "PanicException" not in type(error).__name__ and not isinstance(error, Exception):
                raise
            continue  # there is no room
        made.append({"size": size, "overlap": overlap, "windows": [
            " ".join(f"{ends[begin]}-{ends[end]}" for begin, end in one.offsets)
            for one in [encoding] + encoding.overflowing]})
    tokenizer.no_truncation()
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=pathlib.Path, required=True, help="the directory of golden/ and models/")
    parser.add_argument("--golden", action="store_true", help="the golden texts instead of the script's own")
    arguments = parser.parse_args()
    print("// Made by tools/tokenizer_origins.py; see there.")

    def write(kind, value):
        print(f'{{"{kind}", R"json({json.dumps(value, separators=(",", ":"))})json"}},')

    def write_tokenizer(name, tokenizer, texts, pairs, **more):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        write("tokenizer", {
            "name": name, **more, "texts": [origins(tokenizer.encode(text), text) for text in texts],
            "pairs": [origins(tokenizer.encode(*pair), *pair) for pair in pairs],
            "windows": windows(tokenizer, *WINDOWED) if more.get("directory") else []})

    write("version", tokenizers.__version__)
    for model, value in MODELS.items():
        write("model", {"name": model, "model": value})
    if not arguments.golden:
        write("texts", {"texts": TEXTS, "pairs": PAIRS, "windowed": WINDOWED})
        for name, parts in small_tokenizers().items():
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps({**parts, "model": MODELS[parts["model"]]}))
            write_tokenizer(name, tokenizer, TEXTS, PAIRS, json=parts)
    for name, directory in SHARED.items():
        tokenizer = tokenizers.Tokenizer.from_file(str(arguments.shared / directory / "tokenizer.json"))
        texts, pairs = TEXTS, PAIRS
        if arguments.golden:
            golden = json.loads((arguments.shared / "golden/tokenizers" / name / "golden.json").read_text())
            texts = [one["text"] for one in golden["cases"]]
            pairs = [(one["a"], one["b"]) for one in golden["pairs"]]
            write("texts", {"texts": texts, "pairs": pairs, "windowed": WINDOWED})
        write_tokenizer(name, tokenizer, texts, pairs, directory=directory)


if __name__ == "__main__":
    main()
