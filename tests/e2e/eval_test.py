#!/usr/bin/env python3
"""Tests of `tessera eval` from outside: on tiny checkpoints that it makes itself, with good and bad data, and, where
TESSERA_SHARED points at them, on real models against known values.

    TESSERA_BINARY=build/bin/tessera tests/e2e/eval_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped.
"""

import csv
import json
import math
import pathlib
import unittest

import checkpoints
from cli_test import ROOT, SHARED, CliTest, run_tests
from tasks_test import make_model


class EvalTest(CliTest):
    def write(self, name, text):
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def evaluate(self, model, task, data, *arguments, resamples=0):
        """The object of JSON, with the metrics by name."""
        found = self.json("eval", *([model] if model else []), "--task", task, "--data", data, "--resamples", resamples,
                          *arguments)
        return found | {"metrics": {each["name"]: each for each in found["metrics"]}}

    def value(self, found, name):
        return found["metrics"][name]["value"]


class Evaluations(EvalTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.decoder = checkpoints.make_decoder(cls.folder / "decoder", context=64)
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder")
        cls.classifier = make_model(cls.folder / "classifier", "SequenceClassification", ["no", "yes"])

    def test_perplexity_of_steps(self):
        text = self.write("steps.txt", "It was a dark night.\n" * 20)
        options = ["--window", 32, "--stride", 16]
        dense = self.evaluate(self.decoder, "perplexity", text, *options, resamples=50)
        pruned = self.evaluate(self.decoder, "perplexity", text, *options, "--keep-tokens", 0.5, resamples=50)
        self.assertIn("second halves token by token", pruned["method"])
        # All but the first window predict their second halves in any case.
        self.assertEqual(pruned["counts"]["scored_tokens"], dense["counts"]["scored_tokens"] - 15)
        # So does whatever acts on generated tokens alone, and changes what they predict.
        found = {}
        for schedule in (["--keep-values", 0.2], ["--keep-values", "threshold=0.5"],
                         ["--key-bits", "4"], ["--key-bits", "6+4", "--refetch", 0], ["--key-bits", "6+4", "--refetch", 2]):
            result = self.evaluate(self.decoder, "perplexity", text, *options, *schedule, resamples=50)
            self.assertEqual("second halves token by token" in result["method"], schedule[-1] != "4")
            found[self.value(result, "perplexity")] = schedule
        self.assertEqual(len(found), 5, found)

    def test_perplexity(self):
        text = self.write("text.txt", "It was a dark night.\n" * 20)
        found = self.evaluate(self.decoder, "perplexity", text, "--window", 32, "--stride", 16, resamples=50)
        counts = found["counts"]
        # A token a byte; every one but the first is predicted once.
        self.assertEqual([counts[key] for key in ("bytes", "words", "scored_tokens")], [420, 100, 419])
        nats = math.log(self.value(found, "perplexity"))
        self.assertAlmostEqual(self.value(found, "bits_per_byte"), nats / math.log(2) * 419 / 420, delta=1e-9 * nats)
        metric = found["metrics"]["perplexity"]
        self.assertLess(metric["low"], metric["high"])
        whole = self.evaluate(self.decoder, "perplexity", text, "--window", 64, "--stride", 64)
        self.assertEqual(whole["counts"]["scored_tokens"], 420 - math.ceil(420 / 64))
        self.assert_fails("eval", self.decoder, "--task", "perplexity", "--data", text, "--window", 65,
                          says=["window", "64", "65"])
        self.assert_fails("eval", self.decoder, "--task", "perplexity", "--data", text, "--window", 8, "--stride", 9,
                          says=["stride", "8", "9"])
        self.assert_fails("eval", self.encoder, "--task", "perplexity", "--data", text, says=["continues texts"])

    def test_agreement_with_itself(self):
        text = self.write("agreement.txt", "One line.\nAnother one.\n" * 5)
        found = self.evaluate(self.decoder, "agreement", text, "--reference", self.decoder)
        self.assertLess(self.value(found, "kl"), 1e-6)
        self.assertEqual(self.value(found, "top1_agreement"), 1)
        # The reference stays as its checkpoint is.
        found = self.evaluate(self.decoder, "agreement", text, "--reference", self.decoder, "--dtype", "bf16")
        self.assertGreater(self.value(found, "kl"), 0)
        # What is pruned generates the second half of each window, which the reference reads.
        found = self.evaluate(self.decoder, "agreement", text, "--reference", self.decoder, "--keep-values", 0.2, "--window", 16)
        self.assertGreater(self.value(found, "kl"), 0)
        self.assertIn("second half", found["method"])
        all_values = self.evaluate(self.decoder, "agreement", text, "--reference", self.decoder, "--keep-tokens", 1,
                                   "--keep-values", 0.99, "--window", 16)
        self.assertLess(self.value(all_values, "kl"), self.value(found, "kl"))
        self.assertEqual(all_values["counts"]["scored_tokens"], found["counts"]["scored_tokens"])
        found = self.evaluate(self.encoder, "agreement", text, "--reference", self.encoder)
        self.assertAlmostEqual(self.value(found, "cosine"), 1, delta=1e-6)
        self.assertEqual(found["counts"]["examples"], 10)
        self.assert_fails("eval", self.encoder, "--task", "agreement", "--data", text, "--reference", self.decoder,
                          says=["one of each"])
        self.assert_usage("eval", self.encoder, "--task", "agreement", "--data", text, says=["--reference"])

    def test_own_classification(self):
        rows = [("a b", "yes"), ("c d", "no"), ("e f", "yes"), ("g h", "no")]
        table = self.write("own.csv", "words,answer\n" + "".join(f"{text},{label}\n" for text, label in rows))
        lines = self.write("own.jsonl", "".join(json.dumps({"words": text, "answer": label}) + "\n" for text, label in rows))
        columns = ("--text", "words", "--label", "answer")
        examples = self.folder / "examples.jsonl"
        found = self.evaluate(self.classifier, "classification", table, *columns, "--output-examples", examples)
        self.assertEqual(found["method"], "head")
        labels = [line["label"] for line in self.json_lines("classify", self.classifier, *(text for text, _ in rows))]
        right = sum(label == expected for label, (_, expected) in zip(labels, rows))
        self.assertEqual(self.value(found, "accuracy"), right / 4)
        written = [json.loads(line) for line in examples.read_text().splitlines()]
        self.assertEqual([line["output"] for line in written], labels)
        self.assertEqual(written[0]["id"], f"{table}, line 2")
        again = self.evaluate(self.classifier, "classification", lines, *columns)
        self.assertEqual(again["metrics"], found["metrics"])
        compared = self.evaluate(self.classifier, "classification", table, *columns, "--base", self.classifier, resamples=20)
        self.assertEqual([(each["difference"], each["p_value"]) for each in compared["differences"]], [(0, 1)] * 3)
        undrawn = self.evaluate(self.classifier, "classification", table, *columns, "--base", self.classifier)
        self.assertEqual([(each["difference"], each["p_value"]) for each in undrawn["differences"]], [(0, None)] * 3)
        out, _ = self.call("eval", self.classifier, "--task", "classification", "--data", table, *columns, "--base",
                           self.classifier, "--resamples", 0)
        self.assertRegex(out, r"(?m)^accuracy .* -$")

    def test_probe_learns(self):
        rows = "".join(f"{'a b c' if i % 2 else 'x y z'} {chr(100 + i % 9)}\t{'in' if i % 2 else 'out'}\n" for i in range(40))
        train = self.write("train.tsv", rows)
        found = self.evaluate(self.encoder, "classification", train, "--train", train, "--text", 1, "--label", 2)
        self.assertIn("linear probe", found["method"])
        self.assertEqual(self.value(found, "accuracy"), 1)
        self.assertEqual(found["labels"], ["in", "out"])
        options = ("--train", train, "--text", 1, "--label", 2, "--keep-tokens", "1,0.5,0.3")
        deep = checkpoints.make_encoder(self.folder / "deep", layers=3)
        for probe, method in (("same", ""), ("dense", ", trained without pruning")):
            found = self.evaluate(deep, "classification", train, *options, "--probe", probe)
            self.assertEqual(found["method"], "linear probe, C = 1" + method)
        self.assert_usage("eval", self.encoder, "--task", "stsb", "--data", train, "--probe", "dense", says=["--probe"])
        self.assert_fails("eval", self.encoder, "--task", "classification", "--data", train, "--text", 1, "--label", 2,
                          says=["train a probe"])
        one = self.write("one.tsv", "a\tin\nb\tin\n")
        self.assert_fails("eval", self.encoder, "--task", "classification", "--data", train, "--train", one, "--text", 1,
                          "--label", 2, says=["labels"])

    def bad(self, content, says, left_out=1, name="bad.tsv", more=()):
        """Stops at a line, and goes on without it where that is asked for."""
        path = self.write(name, content)
        arguments = ("eval", self.classifier, "--task", "classification", "--data", path, "--text", 1, "--label", 2, *more)
        self.assert_fails(*arguments, says=says)
        out, err = self.call(*arguments, "--on-error", "skip", "--json")
        found = json.loads(out)
        self.assertEqual(found["counts"]["skipped"], left_out)
        for text in says:
            self.assertIn(text, err)
            self.assertTrue(any(text in note for note in found["notes"]))

    def test_bad_data(self):
        good = b"a b\tyes\nc d\tno\n"
        self.bad(good + b"e f\tmaybe\n", ["line 3", "maybe", "no, yes"])
        self.bad(b"e f\n" + good, ["line 1", "2 columns"])
        self.bad(good + b"\xff\tyes\n", ["line 3", "UTF-8"])
        self.bad(good + b" \tyes\n", ["line 3", "nothing"])
        self.bad(good + b"a " * 100 + b"\tyes\n", ["line 3"], more=("--refuse-long",))
        self.bad(b"a\tyes\nb\tyes\n", ["only \"yes\""], left_out=0)
        data = self.write("cut.tsv", good + b"a " * 100 + b"\tyes\n")
        _, err = self.call("eval", self.classifier, "--task", "classification", "--data", data, "--text", 1, "--label", 2)
        self.assertIn("line 3: longer than the model's context: cut", err)

    def test_data_that_is_no_use(self):
        empty, words = self.write("empty.csv", ""), self.write("words.csv", "text,label\na,b\n")
        for arguments, says in (((empty,), ["empty.csv", "none"]), ((words, "--label", "gold"), ["gold", "text, label"]),
                                ((self.folder / "absent.csv",), ["absent.csv"])):
            for more in ((), ("--on-error", "skip")):
                self.assert_fails("eval", self.classifier, "--task", "classification", "--data", *arguments, *more,
                                  says=says)
        self.assert_fails("eval", self.classifier, "--task", "classification", "--data", words, "--on-error", "skip",
                          says=["none"])
        self.assert_usage("eval", self.classifier, "--task", "sst3", "--data", "x", says=["sst2", "sst3"])
        self.assert_usage("eval", self.classifier, "--task", "sst2", "--data", "x", "--text", "a", says=["--text"])
        self.assert_usage("eval", self.classifier, "--task", "rte", "--data", "x", "--split", "test", says=["no labels"])
        self.assert_usage("eval", "--task", "stsb", "--data", "x", says=["MODEL"])
        self.assert_usage("eval", "m", "--task", "stsb", "--data", "x", "--on-error", "cry", says=["cry"])

    def test_options_that_the_task_does_not_read(self):
        text, table = self.write("unread.txt", "text"), self.write("unread.csv", "text,label\na,b\n")
        for task, data, options in (
                ("sst2", "x", ["--stride", "--depth", "--window", "--predictions", "--score"]),
                ("perplexity", text, ["--beams", "--probe-strength", "--split", "--reference"]),
                ("classification", table, ["--queries", "--max-tokens", "--overlap", "--split"]),
                ("question-answering", table, ["--text", "--label", "--prompt"]), ("cranfield", "x", ["--id"])):
            for option in options:
                with self.subTest(task=task, option=option):
                    self.assert_usage("eval", "m", "--task", task, "--data", data, option,
                                      "dev" if option == "--split" else 8,
                                      says=[f"tessera eval: {option}: expected ", f"found {task}"])
        self.assert_usage("eval", "m", "--task", "squad", "--data", table, "--header", says=["--header", "squad"])
        self.assert_usage("eval", "m", "--task", "squad", "--data", "x", "--split", "dev", says=["expected the split test"])

    def test_similarity(self):
        data = self.write("pairs.csv", "text,other,score\na b,a b,5\na b,x y,1\nc,c d,three\nq r,r q,4\n")
        columns = ("--pair", "other")
        self.assert_fails("eval", self.encoder, "--task", "similarity", "--data", data, *columns, says=["line 4", "three"])
        found = self.evaluate(self.encoder, "similarity", data, *columns, "--on-error", "skip")
        self.assertEqual(found["counts"]["examples"], 3)
        self.assertLessEqual(abs(self.value(found, "spearman")), 1)
        same = self.write("same.csv", "text,other,score\na,b,1\nc,d,1\n")
        self.assert_fails("eval", self.encoder, "--task", "similarity", "--data", same, *columns, says=["differ"])

    def test_retrieval(self):
        documents = self.write("docs.csv", "id,text\nd1,a b c\nd2,x y z\nd3,k l m\n")
        queries = self.write("queries.csv", "id,text\nq1,a b c\nq2,x y z\nq3,k\n")
        judgements = self.write("qrels.txt", "q1 0 d1 1\nq2 0 d2 1\nq2 0 d9 1\n")
        arguments = ("--queries", queries, "--judgements", judgements)
        self.assert_fails("eval", self.encoder, "--task", "retrieval", "--data", documents, *arguments,
                          says=["line 3", "d9"])
        found = self.evaluate(self.encoder, "retrieval", documents, *arguments, "--on-error", "skip")
        # The queries are the documents' own texts.
        self.assertEqual([self.value(found, name) for name in ("ndcg@10", "recall@10")], [1, 1])
        self.assertEqual(found["counts"]["examples"], 2)

    def test_questions(self):
        model = make_model(self.folder / "answers", "QuestionAnswering")
        data = {"data": [{"paragraphs": [{"context": "a b c d e f", "qas": [
            {"id": "one", "question": "g h", "answers": [{"text": "a b c d e f", "answer_start": 0}]},
            {"id": "two", "question": "i", "answers": []}]}]}]}
        path = self.write("squad.json", json.dumps(data))
        self.assert_fails("eval", model, "--task", "squad", "--data", path, says=["qas[1].answers"])
        found = self.evaluate(model, "question-answering", path, "--on-error", "skip")
        self.assertEqual(found["counts"]["examples"], 1)
        answer = self.json_lines("answer", model, "g h", "--context", "a b c d e f")[0]["answers"][0]["text"]
        words = len(answer.replace("a", "").split())  # "a" is an article
        self.assertAlmostEqual(self.value(found, "f1"), 100 * 2 * words / (5 + words), delta=1e-9)

    def test_generation(self):
        data = self.write("pairs.tsv", "in\tout\nab\tcd ef\nab\tgh\nij\tkl\n")
        columns = ("--text", "in", "--pair", "out", "--max-tokens", 4, "--prompt", "{} =")
        for more in ((), ("--beams", 2)):
            found = self.evaluate(self.decoder, "data-to-text", data, *columns, *more)
            self.assertEqual(found["counts"]["examples"], 2)
            self.assertGreaterEqual(self.value(found, "bleu"), 0)
        self.assert_fails("eval", self.decoder, "--task", "data-to-text", "--data", data, *columns[:4], "--prompt", "x",
                          says=["prompt", "{}"])

    def test_given_texts(self):
        references = self.write("refs.txt", "the cat is here\na cat is here\n\nit rains\n")
        texts = self.write("texts.txt", "The cat is here\nIt rains\n")
        found = self.evaluate(None, "data-to-text", references, "--predictions", texts)
        # All n-grams of up to 4 words hit; 6 unigrams, 4 bigrams, 2 trigrams, 1 of four; c = r.
        self.assertAlmostEqual(self.value(found, "bleu"), 1, delta=1e-12)
        short = self.write("short.txt", "The cat is here\n")
        self.assert_fails("eval", "--task", "data-to-text", "--data", references, "--predictions", short, says=["2", "1"])

    def test_files_that_cannot_be_written(self):
        data = self.write("files.tsv", "a b\tyes\nc d\tno\n")
        arguments = ("--task", "classification", "--data", data, "--text", 1, "--label", 2)
        for option in ("-o", "--output-examples"):
            # Said before anything is done, by which the model would be missed.
            for place in (self.folder / "no" / "where", data / "below", self.folder):
                self.assert_fails("eval", self.folder / "absent", *arguments, option, place, says=[f"cannot write {place}: "])
            out, err = self.call("eval", self.classifier, *arguments, option, "/dev/full", expect=1)
            self.assertIn("accuracy", out)
            self.assertIn("/dev/full: No space left", err)
        kept = self.write("kept.txt", "as it was")
        self.assert_fails("eval", self.classifier, *arguments[:3], self.folder / "absent", "-o", kept, says=["absent"])
        self.assertEqual(kept.read_text(), "as it was")

    def test_a_base_that_fails_loses_nothing(self):
        data = self.write("base.tsv", "a b\tyes\nc d\tno\n")
        out, err = self.call("eval", self.classifier, "--task", "classification", "--data", data, "--text", 1, "--label", 2,
                             "--base", self.folder / "absent", expect=1)
        self.assertIn("accuracy", out)
        self.assertNotIn("difference", out)
        self.assertIn("absent", err)

    def test_intervals_depend_on_the_seed_only(self):
        rows = "".join(f"{'ab' if i % 3 else 'xy'} {chr(97 + i % 26)}\t{'yes' if i % 2 else 'no'}\n" for i in range(60))
        data = self.write("seed.tsv", rows)
        arguments = (self.classifier, "classification", data, "--text", 1, "--label", 2)
        first = self.evaluate(*arguments, "--seed", 1, resamples=100)["metrics"]
        self.assertEqual(self.evaluate(*arguments, "--seed", 1, "--threads", 1, resamples=100)["metrics"], first)
        self.assertNotEqual(self.evaluate(*arguments, "--seed", 2, resamples=100)["metrics"], first)


@unittest.skipUnless(SHARED, "TESSERA_SHARED is not set")
class SharedEvaluations(EvalTest):
    """Known values: bench/evaluate/reference.py and the published scorer gave them."""

    def setUp(self):
        self.shared = pathlib.Path(SHARED)
        self.encoder = self.shared / "models/all-MiniLM-L6-v2"

    def test_stsb(self):
        for split, known in (("test", 0.82032), ("dev", 0.86716)):
            found = self.evaluate(self.encoder, "stsb", self.shared / "data/glue", "--split", split)
            # Five digits are known, and cosines are so close to one another that rounding swaps ranks.
            self.assertAlmostEqual(self.value(found, "spearman"), known, delta=2e-5)

    def test_perplexity(self):
        """reference.py perplexity MODEL valid.txt --lines 60"""
        lines = (self.shared / "data/tales/valid.txt").read_bytes().splitlines(keepends=True)[:60]
        text = self.write("valid.txt", b"".join(lines))
        for model, perplexity, bits in ((self.shared / "models/stories260K", 19.98108750247485, 2.24863103946927),
                                        (ROOT / "models/tales", 33.649019123851474, 1.3169200309426954)):
            found = self.evaluate(model, "perplexity", text)
            # f32 sums in another order; the goal is 1e-3.
            self.assertAlmostEqual(self.value(found, "perplexity"), perplexity, delta=1e-5 * perplexity)
            self.assertAlmostEqual(self.value(found, "bits_per_byte"), bits, delta=1e-5 * bits)

    def test_reference_texts(self):
        """BLEU and NIST of data/e2e/GOLDEN.txt."""
        folder = self.shared / "data/e2e"
        found = self.evaluate(None, "data-to-text", folder / "devel-conc.txt", "--predictions",
                              folder / "baseline-output.txt")
        self.assertEqual(f"{self.value(found, 'bleu'):.6f}", "0.720293")
        self.assertEqual(f"{self.value(found, 'nist'):.6f}", "7.788888")

    def test_one_reference_against_the_others(self):
        inputs = {}
        with open(self.shared / "data/e2e/devset.csv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                inputs.setdefault(row["mr"], []).append(row["ref"].replace("\n", " "))
        several = [texts for texts in inputs.values() if len(texts) > 1]
        texts = self.write("first.txt", "".join(group[0] + "\n" for group in several))
        others = self.write("others.txt", "\n".join("".join(text + "\n" for text in group[1:]) for group in several))
        found = self.evaluate(None, "data-to-text", others, "--predictions", texts)
        self.assertEqual(found["counts"]["examples"], 547)
        self.assertEqual(f"{self.value(found, 'bleu'):.6f}", "0.599535")
        self.assertEqual(f"{self.value(found, 'nist'):.6f}", "8.578516")


if __name__ == "__main__":
    run_tests()
