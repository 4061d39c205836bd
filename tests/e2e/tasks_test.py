#!/usr/bin/env python3
"""Tests of the verbs over models with heads from outside: on tiny checkpoints that it makes itself and, where
TESSERA_SHARED points at them, against what transformers gave, by ids and by text.

    TESSERA_BINARY=build/bin/tessera tests/e2e/tasks_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped.
"""

import csv
import io
import json
import math
import os
import pathlib
import shutil
import signal
import struct
import unittest

import checkpoints
from cli_test import SECONDS, SHARED, CliTest, run_tests, wait_until_caught

VERBS = ["classify", "tag", "answer", "fill-mask", "rerank"]


def make_model(directory, head, labels=2, **config):
    """The tiny encoder with a head; labels may be a list of names."""
    checkpoints.make_encoder(directory)
    names = labels if isinstance(labels, list) else [f"L{i}" for i in range(labels)]
    path = directory / "config.json"
    settings = json.loads(path.read_text())
    settings["architectures"] = [f"BertFor{head}"]
    width, vocabulary = settings["hidden_size"], settings["vocab_size"]
    shapes = {name: shape for name, (_, shape) in checkpoints.read_safetensors(directory / "model.safetensors").items()}
    if head == "MaskedLM":
        transform = "cls.predictions.transform."
        shapes |= {"cls.predictions.bias": (vocabulary,), transform + "dense.weight": (width, width),
                   transform + "dense.bias": (width,), transform + "LayerNorm.weight": (width,),
                   transform + "LayerNorm.bias": (width,)}
    elif head == "QuestionAnswering":
        shapes |= {"qa_outputs.weight": (2, width), "qa_outputs.bias": (2,)}
    else:
        settings["id2label"] = dict(enumerate(names))
        shapes |= {"classifier.weight": (len(names), width), "classifier.bias": (len(names),)}
    checkpoints.write_json(directory, "config.json", settings | config)
    checkpoints.write_safetensors(directory / "model.safetensors", shapes, seed=5)
    return directory


def softmax(values):
    most = max(values)
    shares = [math.exp(value - most) for value in values]
    return [share / sum(shares) for share in shares]


def lines_of(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


class TaskTest(CliTest):
    def assert_close(self, found, expected, scale=None, name=""):
        """Within 1e-4 of the largest expected value."""
        self.assertEqual(len(found), len(expected), name)
        scale = scale or max(map(abs, expected))
        self.assertLessEqual(max(abs(a - b) for a, b in zip(found, expected)), 1e-4 * scale, name)


class Tasks(TaskTest):
    """What the verbs do with their inputs and say of them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.classifier = make_model(cls.folder / "classifier", "SequenceClassification", ["BAD", "GOOD", "SO SO"])
        cls.tagger = make_model(cls.folder / "tagger", "TokenClassification", ["O", "B-X", "I-X"])
        cls.answerer = make_model(cls.folder / "answerer", "QuestionAnswering")
        cls.masked = make_model(cls.folder / "masked", "MaskedLM")
        cls.models = {"classify": cls.classifier, "tag": cls.tagger, "answer": cls.answerer, "fill-mask": cls.masked}

    def more(self, verb):
        return {"fill-mask": ("--mask-id", 5), "rerank": ("--query", "a")}.get(verb, ())

    def test_help(self):
        for verb in VERBS:
            out, err = self.call(verb, "--help")
            self.assertEqual(err, "")
            self.assertIn("Examples:\n  tessera " + verb, out)
            self.assertIn(f"  {verb} ", self.call("--help")[0])
            self.assert_usage(verb, *self.more(verb), says=[f"tessera {verb}: "])
            self.assert_usage(verb, "model", "--frobnicate", *self.more(verb), says=["--frobnicate"])

    def test_options(self):
        for verb, option in (("classify", "--top"), ("fill-mask", "--top"), ("rerank", "--top"), ("answer", "--answers"),
                             ("answer", "--window"), ("answer", "--max-answer-tokens")):
            for value in ("0", "-1", "2147483648", "9007199254740993", "x", ""):
                self.assert_usage(verb, "model", option, value, says=[option, f'found "{value}"'])
        for value in ("-1", "2147483648", "x"):
            self.assert_usage("fill-mask", "model", "--mask-id", value, says=["--mask-id"])
            self.assert_usage("answer", "model", "--overlap", value, says=["--overlap"])
        self.assert_usage("tag", "model", "--aggregation", "best", says=["--aggregation", "best"])
        for verb in ("classify", "tag", "answer", "fill-mask"):
            self.assert_usage(verb, "model", "--ids", "1", "--logits", says=["--json"])
        self.assert_usage("answer", "model", "q", "--context", "a", "--context-file", "b", says=["--context"])
        self.assert_usage("answer", "model", "q", says=["--pair", "--context"])
        self.assert_usage("answer", "model", "--ids", "2,5", "--context", "a", says=["--ids", "--context"])
        self.assert_usage("tag", "model", "--tokens", "a", says=["--tokens", "--json"])
        self.assert_usage("rerank", "model", "a", says=["--query"])

    def test_wrong_head(self):
        fits = {"classify": "classify", "tag": "tag", "answer": "answer", "fill-mask": "fill-mask"}
        for verb in VERBS:
            for other, model in self.models.items():
                if other == verb or (verb == "rerank" and other in ("classify", "fill-mask")):
                    continue
                self.assert_fails(verb, model, *self.more(verb), says=["expected ", f"try tessera {fits[other]}"])
        encoder = checkpoints.make_encoder(self.folder / "encoder")
        decoder = checkpoints.make_decoder(self.folder / "decoder")
        self.assert_fails("classify", encoder, "a", says=["try tessera embed"])
        self.assert_fails("tag", decoder, "a", says=["try tessera run"])
        self.assert_fails("rerank", self.classifier, "--query", "a", "b", says=["found 3 labels"])

    def test_classify_ways_in(self):
        texts = ["a fox", "", "the hen, and \"the\" fox", "[a, b]"]
        expected = self.json_lines("classify", self.classifier, *texts)
        self.assertEqual([line["text"] for line in expected], texts)
        for line in expected:
            self.assertEqual([entry["label"] for entry in line["scores"]][0], line["label"])
            self.assertAlmostEqual(sum(entry["score"] for entry in line["scores"]), 1, places=5)
        table = io.StringIO()
        csv.writer(table).writerows([["id", "review"], *([str(i), text] for i, text in enumerate(texts))])
        csv_path = self.folder / "reviews.csv"
        csv_path.write_text(table.getvalue())
        for arguments in (["--file", csv_path, "--column", "review"],
                          ["--file", csv_path, "--column", "2", "--header"]):
            self.assertEqual(self.json_lines("classify", self.classifier, *arguments),
                             [{"id": str(i)} | line for i, line in enumerate(expected)])
        stdin = "\n".join(texts).encode() + b"\n"
        self.assertEqual(self.json_lines("classify", self.classifier, stdin=stdin), expected)
        stdin = lines_of({"text": text} for text in texts)
        self.assertEqual(self.json_lines("classify", self.classifier, "--format", "jsonl", stdin=stdin), expected)
        out, err = self.call("classify", self.classifier, *texts)
        self.assertEqual(err, "")
        self.assertEqual(out.splitlines(), [f"{line['label']} {line['score']:.4f}" for line in expected])
        path = self.folder / "labels.txt"
        self.assertEqual(self.call("classify", self.classifier, *texts, "-o", path)[0], "")
        self.assertEqual(path.read_text(), out)
        self.assertEqual(len(self.call("classify", self.classifier, "a", "--top", 2)[0].split("  ")), 2)
        self.assert_fails("classify", self.classifier, "a", "-o", "/dev/full", says=["/dev/full", "No space left"])

    def test_pairs(self):
        one, = self.json_lines("classify", self.classifier, "a fox", "--pair", "a hen", "--logits")
        self.assertEqual((one["text"], one["pair"]), ("a fox", "a hen"))
        stdin = lines_of([{"text": "a fox", "pair": "a hen"}])
        self.assertEqual(self.json_lines("classify", self.classifier, "--format", "jsonl", "--logits", stdin=stdin), [one])
        apart, = self.json_lines("classify", self.classifier, "a fox a hen", "--logits")
        self.assertNotEqual(one["logits"], apart["logits"])

    def test_many_in_order(self):
        texts = ["".join(chr(97 + (i * 7 + j) % 26) for j in range(1 + i % 40)) for i in range(300)]
        stdin = "\n".join(texts).encode() + b"\n"
        lines = self.json_lines("classify", self.classifier, "--logits", stdin=stdin)
        self.assertEqual([line["text"] for line in lines], texts)
        for i in (0, 1, 39, 123, 299):
            alone, = self.json_lines("classify", self.classifier, "--logits", texts[i])
            self.assert_close(lines[i]["logits"], alone["logits"])

    def test_long_texts(self):
        _, err = self.call("classify", self.classifier, "abc", "a" * 60, "b" * 80)
        self.assertEqual(err, "tessera classify: 2 of 3 texts were cut to the model's limit\n")
        self.assert_fails("classify", self.classifier, "abc", "a" * 60, "--refuse-long", says=["text 2", "48"])

    def test_errors_name_their_place(self):
        self.assertEqual(self.call("classify", self.classifier, stdin=b""), ("", ""))
        self.assert_fails("classify", self.classifier, "--file", self.folder / "absent", says=["absent"])
        self.assert_fails("classify", self.classifier, stdin=b"fine\nhalf \xe2\x82\n", says=["line 2"])
        self.assert_fails("tag", self.tagger, "--format", "jsonl", stdin=lines_of([{"ids": [2, 3]}, {"ids": [2, 9999]}]),
                          says=["line 2", "9999"])
        self.assert_fails("fill-mask", self.masked, "--ids", "2,5", "--ids", "2,6", "--mask-id", 5, says=["2", "mask"])
        self.assert_fails("fill-mask", self.masked, "a", says=["--mask-id"])
        # Those before it are answered.
        masked = (self.masked, "--format", "ids", "--mask-id", 5, "--top", 1)
        out, _ = self.call("fill-mask", *masked, stdin=b"2,5\n3,5\n")
        found, err = self.call("fill-mask", *masked, stdin=b"2,5\n3,5\n2,6\n2,5\n2,7\n", expect=1)
        self.assertEqual(found, out)
        self.assertIn("line 3", err)
        with open("/dev/full", "wb") as full:
            for verb, model in self.models.items():
                self.assert_fails(verb, model, "--ids", "2,5,3", *self.more(verb), stdout=full, says=["No space left"])

    def test_nan_weights(self):
        for verb, model in self.models.items():
            broken = self.folder / f"broken-{verb}"
            shutil.copytree(model, broken)
            path = broken / "model.safetensors"
            data = bytearray(path.read_bytes())
            (length,) = struct.unpack("<Q", data[:8])
            begin = json.loads(data[8 : 8 + length])["embeddings.LayerNorm.weight"]["data_offsets"][0]
            data[8 + length + begin : 8 + length + begin + 4] = struct.pack("<f", math.nan)
            path.write_bytes(data)
            self.assert_fails(verb, broken, "--ids", "2,5,3", *self.more(verb), says=["finite", "nan"])

    def test_tag(self):
        text = "a\U0001f98a bc é d"
        line, = self.json_lines("tag", self.tagger, "--tokens", text)
        for token in line["tokens"]:
            if token["token"].removeprefix("##") in "abcd":
                self.assertEqual(text[token["start"]:token["end"]], token["token"].removeprefix("##"))
        self.assertEqual([token["special"] for token in line["tokens"]].count(True), 2)
        for entity in line["entities"]:
            self.assertEqual(text[entity["start"]:entity["end"]], entity["text"])
        plain, _ = self.call("tag", self.tagger, text)
        self.assertEqual(plain == "-\n", not line["entities"])
        for entity in line["entities"]:
            self.assertIn(f"{entity['text']} [{entity['label']} {entity['score']:.4f}]", plain)
        for how in ("first", "mean", "max", "tokens"):
            self.call("tag", self.tagger, "--aggregation", how, text)

    def test_answer(self):
        context = "\U0001f98a é abc def ghi. " * 20
        questions = ["who", "what", "x y z"]
        common = self.json_lines("answer", self.answerer, *questions, "--context", context, "--answers", 3)
        self.assertEqual([line["question"] for line in common], questions)
        for line in common:
            self.assertGreater(line["windows"], 1)
            self.assertEqual(len(line["answers"]), 3)
            self.assertEqual(line["answer"], line["answers"][0]["text"])
            for each in line["answers"]:
                self.assertEqual(context[each["start"]:each["end"]], each["text"])
            taken = sorted((each["start"], each["end"]) for each in line["answers"])
            self.assertTrue(all(a[1] <= b[0] for a, b in zip(taken, taken[1:])), taken)
        path = self.folder / "context.txt"
        path.write_text(context)
        again = self.json_lines("answer", self.answerer, "--format", "lines", "--context-file", path, "--answers", 3,
                                stdin="\n".join(questions).encode())
        self.assertEqual(again, common)
        stdin = lines_of({"question": question, "context": context} for question in questions)
        self.assertEqual(self.json_lines("answer", self.answerer, "--answers", 3, stdin=stdin), common)
        out, _ = self.call("answer", self.answerer, stdin=stdin)
        for text, line in zip(out.splitlines(), common, strict=True):
            best = line["answers"][0]
            self.assertEqual(text, f"{best['text']} [{best['score']:.4f}]")
        self.assertEqual(self.call("answer", self.answerer, "who", "--context", "")[0], "-\n")
        none, = self.json_lines("answer", self.answerer, "who", "--context", "")
        self.assertEqual((none["answer"], none["answers"], none["no_answer_score"]), (None, [], 1))
        self.assert_fails("answer", self.answerer, "a" * 60, "--context", "b", says=["question"])

    def test_fill_mask(self):
        line, = self.json_lines("fill-mask", self.masked, "--ids", "2,5,6,5,3", "--mask-id", 5, "--logits", "--top", 3)
        self.assertEqual([mask["position"] for mask in line["masks"]], [1, 3])
        for mask, logits in zip(line["masks"], line["logits"], strict=True):
            scores = softmax(logits)
            best = sorted(range(len(logits)), key=lambda i: -logits[i])[:3]
            self.assertEqual([entry["id"] for entry in mask["candidates"]], best)
            self.assert_close([entry["score"] for entry in mask["candidates"]], [scores[i] for i in best])
        out, _ = self.call("fill-mask", self.masked, "bac", "--mask-id", 4 + 26)  # ##a
        self.assertEqual(len(out.split()), 10)

    def test_rerank(self):
        documents = ["c d e", "a b", "v v v", "a b"]
        lines = self.json_lines("rerank", self.masked, "--query", "a b", *documents)
        self.assertEqual([line["document"] for line in lines][:2], [2, 4])
        self.assertEqual(sorted(line["document"] for line in lines), [1, 2, 3, 4])
        self.assertEqual([line["text"] for line in lines], [documents[line["document"] - 1] for line in lines])
        out, _ = self.call("rerank", self.masked, "--query", "a b", "--top", 2, stdin="\n".join(documents).encode())
        self.assertEqual(out, "1.0000  2  a b\n1.0000  4  a b\n")
        out, _ = self.call("rerank", self.masked, "--query", "a b", "a\n\x1b[31mb\x7f")
        self.assertRegex(out, r"\A\S+  1  a  \[31mb \n\Z")
        cross = make_model(self.folder / "cross", "SequenceClassification", 1)
        for model in (self.masked, cross):
            _, err = self.call("rerank", model, "--query", "a b", "a" * 60, "b", "c" * 80)
            self.assertEqual(err, "tessera rerank: 2 of 3 documents were cut to the model's limit\n")
            self.assert_fails("rerank", model, "--query", "c " * 60, "b", "--refuse-long", says=["48"])
            self.assert_fails("rerank", model, "--query", "c", "b", "c" * 60, "b" * 60, "--refuse-long", says=["text 2", "48"])
        lines = self.json_lines("rerank", cross, "--query", "a b", *documents)
        by_pair = self.json_lines("classify", cross, "--format", "jsonl", "--logits",
                                  stdin=lines_of({"text": "a b", "pair": document} for document in documents))
        for line in lines:
            logit = by_pair[line["document"] - 1]["logits"][0]
            self.assertAlmostEqual(line["score"], 1 / (1 + math.exp(-logit)), places=5)

    def test_interrupt(self):
        process = self.start("classify", self.classifier, "--json", stdin=-1)
        wait_until_caught(process.pid, signal.SIGINT)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(SECONDS), 130)
        process.communicate()


def read_golden(path):
    """Gives {name: (shape, values)} of f32 tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name.endswith("logits"):
            begin, end = entry["data_offsets"]
            values = struct.unpack(f"<{(end - begin) // 4}f", data[8 + length + begin : 8 + length + end])
            tensors[name] = (entry["shape"], values)
    return tensors


def spelled(ids):
    return " ".join(f"w{i}" for i in ids)


def write_speller(directory, vocabulary, mask_id):
    """A tokenizer whose token i is the word "wi"; what is first has type 0, what is second type 1."""
    checkpoints.write_json(directory, "tokenizer.json", {
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing", "special_tokens": {},
            "single": [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": {"type": "WordPiece", "unk_token": "w1", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {f"w{i}": i for i in range(vocabulary)}}})
    checkpoints.write_json(directory, "tokenizer_config.json", {"mask_token": f"w{mask_id}"})


@unittest.skipUnless(os.path.isdir(SHARED), "TESSERA_SHARED does not name a directory")
class Goldens(TaskTest):
    """What transformers gives for the same weights."""

    def sequences(self, name):
        """Each sequence of a golden once: (ids, type ids, {tensor: its values})."""
        directory = pathlib.Path(SHARED) / "golden/models" / name
        tensors = read_golden(directory / "golden.safetensors")
        found = []
        for case in json.loads((directory / "golden.json").read_text())["cases"]:
            for row, ids in enumerate(case["input_ids"]):
                mask = case.get("attention_mask", [[1] * len(ids)] * (row + 1))[row]
                length = sum(mask)
                types = case["token_type_ids"][row][:length] if "token_type_ids" in case else [0] * length
                values = {}
                for tensor, (shape, data) in tensors.items():
                    if tensor.rpartition(".")[0] == case["name"]:
                        size = len(data) // shape[0]
                        values[tensor.rpartition(".")[2]] = data[row * size : (row + 1) * size]
                found.append((ids[:length], types, values))
        self.assertGreaterEqual(len(found), 7, name)
        return found

    def directory(self, name, mask_id=0):
        """A copy of the golden model with a tokenizer."""
        copy = self.folder / name
        if not copy.exists():
            shutil.copytree(pathlib.Path(SHARED) / "golden/models" / name, copy)
            copy.chmod(0o755)
        write_speller(copy, json.loads((copy / "config.json").read_text())["vocab_size"], mask_id)
        return copy

    def by_ids(self, sequences):
        return lines_of({"ids": ids} | ({"type_ids": types} if 1 in types else {}) for ids, types, _ in sequences)

    def by_text(self, sequences, first="text", second="pair"):
        """The tokens of type 0 as the first text, those of type 1 as the second."""
        records = []
        for ids, types, _ in sequences:
            if 1 in types:
                split = types.index(1)
                records.append({first: spelled(ids[:split]), second: spelled(ids[split:])})
            else:
                records.append({first: spelled(ids)})
        return lines_of(records)

    def logits(self, verb, model, stdin, *more):
        return self.json_lines(verb, model, "--format", "jsonl", "--logits", *more, stdin=stdin)

    def test_classify(self):
        for name in ("bert-classify", "bert-classify-bf16", "distilbert-classify", "roberta-classify"):
            sequences, model = self.sequences(name), self.directory(name)
            for stdin in (self.by_ids(sequences), self.by_text(sequences)):
                lines = self.logits("classify", model, stdin)
                for line, (ids, _, values) in zip(lines, sequences, strict=True):
                    self.assert_close(line["logits"], values["logits"], name=name)
                    self.assertEqual(line["tokens"], len(ids))
                    best = max(range(len(line["logits"])), key=line["logits"].__getitem__)
                    self.assertEqual(line["label"], f"LABEL_{best}")
                    self.assertAlmostEqual(line["score"], softmax(values["logits"])[best], places=3)

    def test_tag(self):
        name = "bert-tokens"
        sequences, model = self.sequences(name), self.directory(name)
        # A text for itself has type 0 only.
        plain = [each for each in sequences if 1 not in each[1]]
        for stdin, expected in ((self.by_ids(sequences), sequences), (self.by_text(plain), plain)):
            lines = self.logits("tag", model, stdin, "--tokens")
            for line, (ids, _, values) in zip(lines, expected, strict=True):
                flat = [x for row in line["logits"] for x in row]
                reference = values["logits"][: len(flat)]
                self.assertEqual(len(flat), 5 * len(ids))
                self.assert_close(flat, reference, name=name)
                for token, row in zip(line["tokens"], line["logits"], strict=True):
                    self.assertEqual(token["label"], f"LABEL_{row.index(max(row))}")

    def test_answer(self):
        name = "bert-qa"
        sequences, model = self.sequences(name), self.directory(name)
        lines = self.logits("answer", model, self.by_ids(sequences), "--max-answer-tokens", 9)
        for line, (ids, types, values) in zip(lines, sequences, strict=True):
            for key in ("start_logits", "end_logits"):
                self.assert_close(line[key], values[key][: len(ids)], name=name)
            self.check_answer(line, ids, types, values, 9)
        typed = [each for each in sequences if 1 in each[1]]
        lines = self.json_lines("answer", model, "--max-answer-tokens", 9,
                                stdin=self.by_text(typed, "question", "context"))
        for line, (ids, types, values) in zip(lines, typed, strict=True):
            begin, last = self.check_answer(line, ids, types, values, 9)
            self.assertEqual(line["answer"], spelled(ids[begin : last + 1]))
            context = spelled(ids[types.index(1):])
            self.assertEqual(context[line["answers"][0]["start"]:line["answers"][0]["end"]], line["answer"])

    def check_answer(self, line, ids, types, values, most):
        """Compares the best score with that of all spans; gives the best span."""
        context = [t for t in range(len(ids)) if types[t] == 1] or list(range(1, len(ids)))
        tokens = sorted({0, *context})
        start, end = (dict(zip(tokens, softmax([values[key][t] for t in tokens])))
                      for key in ("start_logits", "end_logits"))
        score, begin, last = max((start[i] * end[j], i, j) for i in context for j in context if i <= j < i + most)
        self.assertLess(abs(line["answers"][0]["score"] - score), 1e-3 * score)
        self.assertLess(abs(line["no_answer_score"] - start[0] * end[0]), 1e-3 * start[0] * end[0])
        return begin, last

    def test_fill_mask(self):
        for name in ("bert-mlm", "roberta-mlm"):
            for sequence in self.sequences(name):
                ids, _, values = sequence
                mask = ids[len(ids) // 2]
                model = self.directory(name, mask)
                for stdin, more in ((self.by_ids([sequence]), ("--mask-id", mask)), (self.by_text([sequence]), ())):
                    line, = self.logits("fill-mask", model, stdin, *more)
                    positions = [t for t, token in enumerate(ids) if token == mask]
                    self.assertEqual([each["position"] for each in line["masks"]], positions)
                    scale = max(map(abs, values["logits"]))
                    for row, position, each in zip(line["logits"], positions, line["masks"], strict=True):
                        width = len(row)
                        reference = values["logits"][position * width : (position + 1) * width]
                        self.assert_close(row, reference, scale, name)
                        self.assertEqual(each["candidates"][0]["id"], row.index(max(row)))
                        self.assertEqual(each["candidates"][0]["token"], f"w{row.index(max(row))}")

    def test_rerank(self):
        name = "distilbert-classify"
        sequences, model = self.sequences(name), self.directory(name)
        # The query is the first token, the document the rest: together the golden's tokens.
        query = sequences[1][0][0]
        documents = [each for each in sequences if each[0][0] == query and len(each[0]) > 1]
        lines = self.json_lines("rerank", model, "--query", f"w{query}",
                                stdin="\n".join(spelled(ids[1:]) for ids, _, _ in documents).encode())
        for line in lines:
            expected = softmax(documents[line["document"] - 1][2]["logits"])[1]
            self.assertAlmostEqual(line["score"], expected, places=3)
        scores = [line["score"] for line in lines]
        self.assertEqual(scores, sorted(scores, reverse=True))


if __name__ == "__main__":
    run_tests()
