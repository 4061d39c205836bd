#!/usr/bin/env python3
"""Tests of the program from outside, on tiny checkpoints that it makes itself, on models/tales and, where
TESSERA_SHARED points at them, on real ones.

    TESSERA_BINARY=build/bin/tessera tests/e2e/cli_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped.
"""

import csv
import importlib.util
import itertools
import json
import math
import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import checkpoints

BINARY = os.environ.get("TESSERA_BINARY", "build/bin/tessera")
ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = os.environ.get("TESSERA_SHARED", "")
VERBS = ["run", "embed", "classify", "tag", "answer", "fill-mask", "rerank", "tokenize", "inspect", "bench", "dump",
         "eval", "explain"]
NEEDED = {"dump": ("--cases", "x", "-o", "y"), "rerank": ("--query", "x"),  # what a verb insists on
          "eval": ("--task", "stsb", "--data", "x")}
SECONDS = 300


def run_tests():
    """The tests of the program that calls this; its exit code is 77 when every one was skipped."""
    program = unittest.main(exit=False, verbosity=2)
    outcome = program.result
    if outcome.wasSuccessful() and len(outcome.skipped) >= outcome.testsRun:
        sys.exit(77)
    sys.exit(not outcome.wasSuccessful())


def has(*modules):
    return all(importlib.util.find_spec(module) for module in modules)


class CliTest(unittest.TestCase):
    """Runs the program and says what it said when something is not as expected."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)

    def start(self, *arguments, **options):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                 "env": dict(os.environ, XDG_STATE_HOME=str(self.folder / "state"))}  # not the user's own history
        return subprocess.Popen([BINARY, *map(str, arguments)], **(pipes | options))

    def call(self, *arguments, expect=0, stdin=b"", **options):
        """Gives (stdout, stderr) as text."""
        result = subprocess.run([BINARY, *map(str, arguments)], input=stdin, timeout=SECONDS,
                                **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options))
        out = (result.stdout or b"").decode()  # raises when half a character was printed
        err = (result.stderr or b"").decode()
        self.assertEqual(result.returncode, expect, f"{arguments}\nstdout: {out[:2000]}\nstderr: {err[:2000]}")
        return out, err

    def assert_usage(self, *arguments, says=()):
        out, err = self.call(*arguments, expect=2)
        self.assertEqual(out, "")
        for text in says:
            self.assertIn(text, err)

    def assert_fails(self, *arguments, says=(), **options):
        """Exit code 1 and one sentence on stderr."""
        _, err = self.call(*arguments, expect=1, **options)
        self.assertRegex(err, r"\Atessera( [a-z-]+)?: [^\n]+\n\Z")
        for text in says:
            self.assertIn(str(text), err)

    def json(self, *arguments, **options):
        return json.loads(self.call(arguments[0], "--json", *arguments[1:], **options)[0])

    def json_lines(self, *arguments, **options):
        return [json.loads(line) for line in self.call(arguments[0], "--json", *arguments[1:], **options)[0].splitlines()]


class Usage(CliTest):
    """What needs no model."""

    def test_help(self):
        out, err = self.call("--help")
        self.assertEqual(err, "")
        for verb in VERBS:
            self.assertIn(f"  {verb} ", out)
            text, err = self.call(verb, "--help")
            self.assertEqual(err, "")
            self.assertIn("Examples:\n  tessera " + verb, text)
            for option in ("--threads", "--dtype", "--plan")[: 1 if verb == "tokenize" else 3]:
                self.assertIn(option, text)

    def test_verbs(self):
        self.assert_usage(says=["Usage: tessera VERB"])
        self.assert_usage("frobnicate", says=["frobnicate", *VERBS])
        self.assert_usage("--frobnicate", says=["--frobnicate"])
        for verb in VERBS:
            self.assert_usage(verb, says=[f"tessera {verb}: "])
            self.assert_usage(verb, "model", *NEEDED.get(verb, ()), "--frobnicate", says=["--frobnicate"])

    def test_integers(self):
        """What is no integer at all; the rest is told by Integers."""
        for option in ("--max-tokens", "--top-k"):
            for value in ("1e3", "0x10", " 5", "5 ", "+5", "--json"):
                self.assert_usage("run", "model", option, value, says=[option, f'found "{value}"'])
            self.assert_usage("run", "model", option + "=", says=[option, 'found ""'])
            self.assert_usage("run", "model", option, says=[option])
        for value in ("1,,2", "1,", ",1", "1,0", "1;2"):
            self.assert_usage("bench", "model", "--batch", value, says=["--batch"])
        for value in ("-1", "18446744073709551616", "x"):
            self.assert_usage("run", "model", "--seed", value, says=["--seed", f'found "{value}"'])

    def test_ids(self):
        for verb in ("run", "embed"):
            for value in ("", "1,,2", "1,", "-1", "a", "2147483648", "1.5", "9007199254740993", "[1,2", "1 2"):
                with self.subTest(verb=verb, value=value):
                    self.assert_usage(verb, "model", "--ids", value, says=["--ids", "token ids"])

    def test_numbers(self):
        for option in ("--temperature", "--top-p", "--min-p", "--repetition-penalty"):
            for value in ("-1", "nan", "inf", "101", "x", "", "0,5", "1e999"):
                self.assert_usage("run", "model", option, value, says=[option, f'found "{value}"'])
        self.assert_usage("run", "model", "--repetition-penalty", "0", says=["--repetition-penalty"])
        self.assert_usage("run", "model", "--dtype", "f8", says=["--dtype", "f8"])
        self.assert_usage("run", "model", "--plan", "", says=["--plan"])

    def test_options_that_do_not_go_together(self):
        prompts = [("--prompt", "x"), ("--file", "x"), ("--ids", "1"), ("--batch", "x")]
        for first, second in itertools.permutations(prompts, 2):
            self.assert_usage("run", "model", *first, *second, says=[first[0], second[0]])
        for option in ("--temperature", "--top-k", "--top-p", "--min-p"):
            self.assert_usage("run", "model", "--greedy", option, "1", says=["--greedy", option])
            self.assert_usage("run", "model", "--beams", "2", option, "1", says=["--beams", option])
        self.assert_usage("run", "model", "--greedy", "--beams", "2", says=["--greedy", "--beams"])
        self.assert_usage("run", "model", "--beams", "2", "--temperature", "1", says=["--beams", "--temperature"])
        self.assert_usage("run", "model", "--beams", "2", "--stop", "x", says=["--beams", "--stop"])
        self.assert_usage("run", "model", "--beams", "2", "--num-sequences", "3", says=["--num-sequences", "3"])
        self.assert_usage("run", "model", "--greedy", "--num-sequences", "2", says=["--num-sequences", "--greedy"])
        self.assert_usage("run", "model", "--logprobs", says=["--logprobs", "--json"])
        self.assert_usage("run", "model", "--stop", "", says=["--stop"])
        self.assert_usage("run", "model", "--stop", says=["--stop"])
        self.assert_usage("run", "model", "--ids", "1", "--ids", "2", says=["--ids"])
        self.assert_usage("embed", "model", "text", "--file", "x")
        self.assert_usage("embed", "model", "text", "--ids", "1")
        self.assert_usage("embed", "model", "--file", "x", "--ids", "1")
        self.assert_usage("inspect", "--json", says=["MODEL"])
        self.assert_usage("inspect", "--kernels", "--save-plan", "x", says=["MODEL"])
        self.assert_usage("dump", "model", "--cases", "x", says=["--output"])
        self.assert_usage("dump", "model", "-o", "x", says=["--cases"])

    def test_missing_model(self):
        for verb in VERBS:
            more = NEEDED.get(verb, ())
            self.assert_fails(verb, self.folder / "absent", *more, says=["absent"])
            self.assert_fails(verb, "", *more)

    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            for arguments in (["--help"], ["--version"], ["run", "--help"], ["inspect", "--kernels"]):
                self.assert_fails(*arguments, stdout=full, says=["standard output", "No space left"])

    def test_measures_are_told_where_they_cannot_be_kept(self):
        out, err = self.call("machine", "--quick", "--threads", 1, "-o", self.folder, expect=1)
        self.assertIn("GFLOP/s", out)
        self.assertRegex(err, r"\Atessera machine: [^\n]+\n\Z")

    def test_kernels(self):
        out, _ = self.call("inspect", "--kernels")
        self.assertIn("first choice", out)
        kernels = self.json("inspect", "--kernels")["kernels"]
        families = {kernel["family"] for kernel in kernels}
        for family in families:
            rows = [kernel for kernel in kernels if kernel["family"] == family]
            self.assertEqual(rows[-1]["row"], "ref")
            self.assertEqual(sum(row["state"] == "first choice" for row in rows), 1, rows)
        capped, _ = self.call("inspect", "--kernels", env=os.environ | {"TESSERA_ISA": "ref"})
        self.assertIn("TESSERA_ISA stops at", capped)


class Run(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = checkpoints.make_decoder(cls.folder / "decoder")
        cls.short = checkpoints.make_decoder(cls.folder / "short", context=16)
        cls.silent = checkpoints.make_decoder(cls.folder / "silent", tokenizer=False)
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder")

    def test_json(self):
        result = self.json("run", self.model, "--prompt", "A fox", "--max-tokens", 20, "--greedy")
        self.assertEqual(result["prompt_ids"], self.json("run", self.model, "--ids", join(result["prompt_ids"]),
                                                         "--max-tokens", 1)["prompt_ids"])
        self.assertEqual(len(result["prompt_ids"]), 5)
        self.assertEqual(len(result["ids"]), 20)
        self.assertEqual(result["finish_reason"], "length")
        self.assertGreater(result["tokens_per_second"], 0)
        self.assertGreaterEqual(result["total_seconds"], result["prompt_seconds"])
        self.assertGreater(result["peak_memory_bytes"], 1000000)

    def test_ids_and_text_give_the_same(self):
        greedy = ("--greedy", "--max-tokens", 12)
        by_text = self.json("run", self.model, "--prompt", "Hi", *greedy)
        by_ids = self.json("run", self.model, "--ids", join(by_text["prompt_ids"]), *greedy)
        self.assertEqual(by_text["ids"], by_ids["ids"])
        self.assertEqual(by_text["text"], by_ids["text"])
        out, _ = self.call("run", self.silent, "--ids", join(by_text["prompt_ids"]), *greedy)
        self.assertEqual(out, join(by_text["ids"]) + "\n")
        silent = self.json("run", self.silent, "--ids", join(by_text["prompt_ids"]), *greedy)
        self.assertIsNone(silent["text"])

    def test_streamed_text_is_the_text(self):
        # Random bytes: most are no whole character, and none may be printed in part.
        for seed in range(5):
            options = ("--prompt", "A fox", "--max-tokens", 60, "--seed", seed)
            text = self.json("run", self.model, *options)["text"]
            out, err = self.call("run", self.model, *options)
            self.assertEqual(out, text if text.endswith("\n") else text + "\n")
            self.assertRegex(err, rf"\A\[60 tokens, [\d.]+ tokens/s, first after [\d.]+ ms, "
                                  rf"peak memory [\d.]+ [KMG]B, seed {seed}\]\n\Z")
            echoed, _ = self.call("run", self.model, *options, "--echo")
            self.assertTrue(echoed.startswith("A fox"), echoed)

    def test_seeds(self):
        def ids(*options):
            return self.json("run", self.model, "--ids", "1,2,3", "--max-tokens", 24, *options)["ids"]

        self.assertEqual(ids("--seed", 7), ids("--seed", 7))
        self.assertNotEqual(ids("--seed", 7), ids("--seed", 8))
        self.assertEqual(ids("--greedy"), ids("--greedy", "--seed", 8))
        self.assertEqual(ids("--greedy"), ids("--temperature", 0))
        self.assertEqual(ids("--greedy"), ids("--top-k", 1, "--seed", 3))
        self.assertEqual(ids("--greedy"), ids("--greedy", "--threads", 1))
        first = self.json("run", self.model, "--ids", "1,2,3", "--max-tokens", 24)
        self.assertEqual(first["ids"], ids("--seed", first["seed"]))

    def test_prompt_from_stdin_and_file(self):
        expected = self.json("run", self.model, "--prompt", "A fox\n", "--max-tokens", 1)["prompt_ids"]
        by_stdin = self.json("run", self.model, "--max-tokens", 1, stdin=b"A fox\n\n")
        self.assertEqual(by_stdin["prompt_ids"], expected)
        path = self.folder / "prompt.txt"
        path.write_bytes(b"A fox\n")
        self.assertEqual(self.json("run", self.model, "--file", path, "--max-tokens", 1)["prompt_ids"], expected[:-1])
        self.assertEqual(self.json("run", self.model, "--prompt", "--json", "--max-tokens", 1)["prompt_ids"],
                         list(b"--json"))  # an option's value may look like an option
        self.assertEqual(self.json("run", self.model, "--prompt", "[a, b]", "--max-tokens", 1)["prompt_ids"],
                         list(b"[a, b]"))

    def test_prompts_that_cannot_be(self):
        self.assert_fails("run", self.model, "--file", self.folder / "absent", says=["absent", "No such file"])
        self.assert_fails("run", self.model, "--file", self.folder, says=[self.folder, "directory"])
        self.assert_fails("run", self.model, "--prompt", b"\xff\xfe".decode("utf-8", "surrogateescape"))
        self.assert_fails("run", self.model, stdin=b"half \xe2\x82")
        self.assert_fails("run", self.model, "--prompt", "")
        self.assert_fails("run", self.model, "--prompt=", "--greedy")
        self.assert_fails("run", self.model, stdin=b"")
        self.assert_fails("run", self.model, "--ids", "256", says=["256"])
        self.assert_fails("run", self.model, "--ids", "5,2147483647", says=["2147483647"])
        self.assert_fails("run", self.silent, "--prompt", "A fox", says=["tokenizer", "--ids"])
        self.assert_fails("run", self.silent, stdin=b"A fox", says=["tokenizer", "--ids"])
        self.assert_fails("run", self.encoder, "--prompt", "a fox", says=["encoder", "tessera embed"])

    def test_context(self):
        ids = join(range(10))
        self.assertEqual(len(self.json("run", self.short, "--ids", ids)["ids"]), 7)  # the last is not run
        self.assertEqual(len(self.json("run", self.short, "--ids", ids, "--max-tokens", 7)["ids"]), 7)
        self.assert_fails("run", self.short, "--ids", ids, "--max-tokens", 8, says=["16"])
        self.assertEqual(len(self.json("run", self.short, "--ids", join(range(16)))["ids"]), 1)
        self.assert_fails("run", self.short, "--ids", join(range(17)), says=["16", "17"])
        self.assertEqual(len(self.json("run", self.model, "--ids", ids)["ids"]), 200)

    def test_many_prompts(self):
        prompts = [[i % 256, (i * 7) % 256, 3][: 1 + i % 3] for i in range(150)]
        path = self.folder / "ids.txt"
        path.write_text("".join((f"[{join(ids)}]" if i % 2 else join(ids)) + "\n\n" for i, ids in enumerate(prompts)))
        options = ("--greedy", "--max-tokens", 5)
        lines = self.json_lines("run", self.model, "--batch", path, "--format", "ids", *options)
        self.assertEqual([line["prompt_ids"] for line in lines], prompts)
        for i in (0, 1, 77, 149):
            one = self.json("run", self.model, "--ids", join(prompts[i]), *options)
            self.assertEqual(lines[i]["ids"], one["ids"])
            self.assertEqual(lines[i]["text"], one["text"])
        out, _ = self.call("run", self.model, "--batch", "-", "--format", "ids", *options, stdin=path.read_bytes())
        self.assertEqual(out.splitlines(), [join(line["ids"]) for line in lines])
        self.assert_fails("run", self.model, "--batch", "-", "--format", "ids", stdin=b"1,2\n3,x\n", says=["line 2", "x"])
        self.assert_fails("run", self.model, "--batch", "-", "--format", "ids", stdin=b"1\n2\n300\n", says=["line 3", "300"])

    def test_choice_of_tokens(self):
        def ids(*options):
            return self.json("run", self.model, "--ids", "1,2,3", "--max-tokens", 24, *options)["ids"]

        greedy = ids("--greedy")
        self.assertEqual(greedy, ids("--min-p", 1, "--seed", 3))
        self.assertNotEqual(greedy, ids("--min-p", 0, "--temperature", 3, "--seed", 3))
        unrepeated = ids("--greedy", "--repetition-penalty", 100)
        self.assertEqual(len(set(unrepeated) | {1, 2, 3}), 27)
        self.assertEqual(greedy, ids("--beams", 1, "--greedy"))

    def test_stop(self):
        options = ("--prompt", "A fox", "--max-tokens", 60, "--seed", 1)
        whole = self.json("run", self.model, *options)
        stop = whole["text"][10:13]
        expected = whole["text"][: whole["text"].index(stop)]
        stopped = self.json("run", self.model, *options, "--stop", "none such", "--stop", stop)
        self.assertEqual(stopped["text"], expected)
        self.assertEqual(stopped["finish_reason"], "stop_string")
        self.assertEqual(stopped["ids"], whole["ids"][: len(stopped["ids"])])
        out, _ = self.call("run", self.model, *options, "--stop", stop)
        self.assertEqual(out, expected if expected.endswith("\n") else expected + "\n")
        self.assert_fails("run", self.silent, "--ids", "1", "--stop", "x", says=["tokenizer"])

    def test_log_probabilities(self):
        def run(*options):
            return self.json("run", self.model, "--ids", "1,2,3", "--max-tokens", 12, *options)

        self.assertNotIn("log_probabilities", run("--greedy"))
        greedy = run("--greedy", "--logprobs")["log_probabilities"]
        self.assertEqual(len(greedy), 12)
        # The likeliest of 256 tokens has at least an equal share.
        self.assertTrue(all(math.log(1 / 256) <= each <= 0 for each in greedy), greedy)

    def test_beams(self):
        options = ("--ids", "1,2,3", "--max-tokens", 12, "--beams", 4)
        best = self.json("run", self.model, *options)
        self.assertEqual(best["finish_reason"], "length")
        four = self.json("run", self.model, *options, "--num-sequences", 4, "--logprobs")["sequences"]
        self.assertEqual(four[0]["ids"], best["ids"])
        self.assertEqual(len({tuple(each["ids"]) for each in four}), 4)
        sums = [sum(each["log_probabilities"]) for each in four]
        self.assertEqual(sums, sorted(sums, reverse=True))
        self.assertEqual(self.json("run", self.model, *options, "--threads", 1)["ids"], best["ids"])
        out, err = self.call("run", self.silent, *options)
        self.assertEqual(out, join(best["ids"]) + "\n")
        self.assertRegex(err, r"\A\[12 tokens, [^\n]+B\]\n\Z")

    def test_several_sequences(self):
        options = ("--prompt", "A fox", "--max-tokens", 20)
        several = self.json("run", self.model, *options, "--num-sequences", 3, "--seed", 7)
        self.assertEqual(several["seed"], 7)
        for i, sequence in enumerate(several["sequences"]):
            alone = self.json("run", self.model, *options, "--seed", 7 + i)
            for key in ("ids", "text", "finish_reason"):
                self.assertEqual(sequence[key], alone[key])
        out, err = self.call("run", self.model, *options, "--num-sequences", 3, "--seed", 7, "--echo")
        expected = ""
        for i, sequence in enumerate(several["sequences"], 1):
            text = "A fox" + sequence["text"]
            expected += f"--- {i} of 3 ---\n" + (text if text.endswith("\n") else text + "\n")
        self.assertEqual(out, expected)
        self.assertIn("[60 tokens", err)
        options = ("--batch", "-", "--format", "ids", "--num-sequences", 2, "--max-tokens", 3)
        out, _ = self.call("run", self.model, *options, stdin=b"1,2\n3\n")
        self.assertEqual(len(out.splitlines()), 4)
        first, second = self.json_lines("run", self.model, *options, stdin=b"1,2\n3\n")
        self.assertEqual([first["prompt_ids"], second["prompt_ids"]], [[1, 2], [3]])
        self.assertEqual([len(each["ids"]) for each in first["sequences"]], [3, 3])

    def test_recommendations_of_the_model(self):
        model = checkpoints.make_decoder(self.folder / "recommends")

        def recommend(**values):
            checkpoints.write_json(model, "generation_config.json", values)

        def ids(*options, of=model):
            return self.json("run", of, "--ids", "1,2,3", "--seed", 5, *options)["ids"]

        plain = self.model
        recommend(do_sample=False, max_new_tokens=9)
        self.assertEqual(ids(), ids("--greedy", "--max-tokens", 9, of=plain))
        self.assertEqual(ids("--temperature", 0.8), ids("--max-tokens", 9, of=plain))
        self.assertEqual(len(ids("--max-tokens", 4)), 4)
        recommend(do_sample=True, max_new_tokens=30, temperature=1.7, top_k=9, top_p=0.9, min_p=0.01,
                  repetition_penalty=1.3)
        said = ("--temperature", 1.7, "--top-k", 9, "--top-p", 0.9, "--min-p", 0.01, "--repetition-penalty", 1.3)
        self.assertEqual(ids(), ids(*said, "--max-tokens", 30, of=plain))
        ours = ("--temperature", 0.8, "--top-k", 0, "--top-p", 0.95, "--min-p", 0, "--repetition-penalty", 1)
        self.assertEqual(ids(*ours), ids("--max-tokens", 30, of=plain))
        recommend(temperature="hot")
        self.assert_fails("run", model, "--ids", 1, says=["generation_config.json", "temperature", "hot"])
        recommend(temperature=-1)
        self.assert_fails("run", model, "--ids", 1, says=["temperature", "-1"])
        recommend(top_p=1.5, max_new_tokens=0)
        self.assert_fails("run", model, "--ids", 1, says=["generation_config.json: top_p", "1.5"])
        self.assert_fails("run", model, "--ids", 1, "--greedy", says=["generation_config.json: max_new_tokens", "0"])
        self.assertEqual(ids("--greedy", "--max-tokens", 9), ids("--greedy", "--max-tokens", 9, of=plain))

    def test_rules_of_the_model(self):
        model = checkpoints.make_decoder(self.folder / "rules")

        def run(*options, **values):
            checkpoints.write_json(model, "generation_config.json", {"do_sample": False, "max_new_tokens": 8} | values)
            out, err = self.call("run", model, "--ids", "1,2,3", "--json", *options)
            return json.loads(out)["ids"], err

        plain, err = run()
        self.assertEqual(err, "")
        self.assertNotIn(plain[0], run(suppress_tokens=[plain[0]])[0])
        self.assertNotEqual(plain[0], run(begin_suppress_tokens=[plain[0]])[0][0])
        banned, _ = run(bad_words_ids=[plain[:2]])
        self.assertEqual(banned[0], plain[0])
        self.assertNotEqual(banned[1], plain[1])
        unrepeated, _ = run(no_repeat_ngram_size=1)
        self.assertEqual(len(set(unrepeated + [1, 2, 3])), 11)
        self.assertEqual(run(forced_eos_token_id=77)[0][-1], 77)
        self.assertEqual(run(eos_token_id=plain[1])[0], plain[:2])
        self.assertEqual(len(run(eos_token_id=plain[1], min_new_tokens=5)[0]), 8)
        self.assertEqual(len(run(eos_token_id=plain[1], min_length=8)[0]), 8)
        checkpoints.write_json(model, "generation_config.json", {"do_sample": False, "max_length": 7})
        self.assertEqual(len(self.json("run", model, "--ids", "1,2,3")["ids"]), 4)
        self.assert_fails("run", model, "--ids", "1,2,3,4,5,6,7", says=["generation_config.json: max_length", "7"])
        beams, _ = run(num_beams=4)
        self.assertEqual(beams, run("--beams", 4)[0])
        self.assertEqual(run("--greedy", num_beams=4)[0], plain)
        self.assert_fails("run", model, "--ids", "1,2", "--stop", "x", says=["generation_config.json: num_beams", "--beams 1"])
        self.assertEqual(run(guidance_scale=1.5, watermarking_config={"bias": 2})[1],
                         "tessera run: generation_config.json: not followed: guidance_scale, watermarking_config\n")
        checkpoints.write_json(model, "generation_config.json", {"bad_words_ids": [[256]]})
        self.assert_fails("run", model, "--ids", 1, says=["generation_config.json: bad_words_ids", "256"])

    def test_interrupted_beams(self):
        process = self.start("run", self.silent, "--ids", "1,2", "--max-tokens", 100000, "--beams", 2, "--json")
        wait_until_caught(process.pid, signal.SIGINT)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
        self.assertEqual(process.returncode, 130, err)
        self.assertEqual(json.loads(out)["finish_reason"], "cancelled")

    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            for more in ([], ["--json"], ["--num-sequences", 2]):
                self.assert_fails("run", self.model, "--ids", "1,2", *more, stdout=full, says=["No space left"])
            self.assert_fails("run", self.model, "--batch", "-", "--format", "ids", stdin=b"1\n", stdout=full, says=["No space left"])

    def test_reader_leaves_early(self):
        process = self.start("run", self.silent, "--ids", "1,2", "--max-tokens", 100000, "--ignore-end")
        process.stdout.read(20)
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        self.assertEqual(process.wait(SECONDS), -signal.SIGPIPE)
        self.assertEqual(err, b"")

    def test_interrupt(self):
        for more in ([], ["--json"]):
            process = self.start("run", self.silent, "--ids", "1,2", "--max-tokens", 100000, "--ignore-end", *more)
            wait_until_caught(process.pid, signal.SIGINT)
            if not more:
                process.stdout.read(20)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=SECONDS)
            self.assertEqual(process.returncode, 130, err)
            if more:
                self.assertEqual(json.loads(out)["finish_reason"], "cancelled")
            else:
                self.assertRegex(err.decode(), r"\A\[\d+ tokens, .*\]\n\Z")
                self.assertTrue(out.endswith(b"\n"))

    def test_plan(self):
        path = self.folder / "plan.json"
        self.call("inspect", self.model, "--save-plan", path)
        self.assertEqual(json.loads(path.read_text()), self.json("inspect", self.model)["plan"])
        options = ("--ids", "1,2,3", "--greedy", "--max-tokens", 8)
        self.assertEqual(self.json("run", self.model, *options, "--plan", path)["ids"],
                         self.json("run", self.model, *options)["ids"])
        self.assert_fails("run", self.model, *options, "--plan", self.folder / "absent.json", says=["absent.json"])
        for text in ("", "{", "[]", "null", '{"version": 99}', '{"version": 1, "threads": -1, "layers": []}'):
            path.write_text(text)
            self.assert_fails("run", self.model, *options, "--plan", path, says=["plan.json"])

    def test_turns_at_a_terminal(self):
        terminal, inside = pty.openpty()
        process = self.start("run", self.model, "--max-tokens", 8, stdin=inside, stderr=inside)
        os.close(inside)
        read_until(terminal, b"> ")
        for line in (b"A fox\n", b"\n", b"/new\n", b"A hen\n"):
            os.write(terminal, line)
            said = read_until(terminal, b"> ")
            self.assertEqual(b"[8 tokens" in said, line != b"/new\n", said)
        os.write(terminal, b"\x04")
        out, _ = process.communicate(timeout=SECONDS)
        os.close(terminal)
        self.assertEqual(process.returncode, 0)
        self.assertGreaterEqual(out.count(b"\n"), 3)


class Embed(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = checkpoints.make_encoder(cls.folder / "encoder", context=48)

    def test_ways_in_and_out(self):
        texts = ["a fox", "", "[a, b]", "the hen and the fox", "a fox"]
        expected = self.json_lines("embed", self.model, *texts)
        self.assertEqual([line["text"] for line in expected], texts)
        self.assertEqual(expected[0], expected[4])
        self.assertEqual({len(line["embedding"]) for line in expected}, {32})
        file, output = self.folder / "texts", self.folder / "vectors"
        file.write_text("\r\n".join(texts))
        self.assertEqual(self.json_lines("embed", self.model, "--file", file), expected)
        self.assertEqual(self.json_lines("embed", self.model, stdin="\n".join(texts + [""]).encode()), expected)
        out, _ = self.call("embed", self.model, *texts)
        self.assertEqual([[float(x) for x in line.split(" ")] for line in out.splitlines()],
                         [line["embedding"] for line in expected])
        self.assertEqual(self.call("embed", self.model, "--file", file, "-o", output)[0], "")
        self.assertEqual(output.read_text(), out)
        by_ids = self.json_lines("embed", self.model,
                                 *itertools.chain(*(("--ids", join(line["ids"])) for line in expected)))
        for line, same in zip(by_ids, expected):
            self.assertIsNone(line["text"])
            self.assertEqual(line["ids"], same["ids"])
            self.assertLess(distance(line["embedding"], same["embedding"]), 1e-5)

    def test_dashes(self):
        self.assert_usage("embed", self.model, "-x", says=["-x"])
        self.assertEqual(self.json("embed", self.model, "--", "-x")["text"], "-x")
        self.assertEqual(self.json("embed", self.model, "-")["text"], "-")

    def test_many_in_order_and_alone(self):
        # More tokens than one batch takes, of all lengths.
        texts = ["".join(chr(97 + (i * 7 + j) % 26) for j in range(i % 40)) for i in range(300)]
        lines = self.json_lines("embed", self.model, stdin="\n".join(texts).encode() + b"\n")
        self.assertEqual([line["text"] for line in lines], texts)
        for i in (0, 1, 39, 123, 299):
            alone = self.json("embed", self.model, texts[i])
            self.assertLess(distance(alone["embedding"], lines[i]["embedding"]), 1e-5)

    def test_truncation_is_told(self):
        _, err = self.call("embed", self.model, "abc", "a" * 60, "b" * 80, "a b")
        self.assertEqual(err, "tessera embed: 2 of 4 texts were cut to the model's limit\n")
        self.assertEqual(self.call("embed", self.model, "abc")[1], "")

    def test_errors(self):
        self.assertEqual(self.call("embed", self.model, stdin=b""), ("", ""))
        self.assert_fails("embed", self.model, "--ids", "2,9999", says=["9999"])
        self.assert_fails("embed", self.model, "--file", self.folder / "absent", says=["absent"])
        self.assert_fails("embed", self.model, "abc", "-o", self.folder / "no" / "where", says=["where"])
        self.assert_fails("embed", self.model, stdin=b"fine\nhalf \xe2\x82\n", says=["line 2"])
        self.assert_fails("embed", self.model, "abc", "-o", "/dev/full", says=["/dev/full", "No space left"])
        with open("/dev/full", "wb") as full:
            self.assert_fails("embed", self.model, "abc", stdout=full, says=["No space left"])
        silent = checkpoints.make_decoder(self.folder / "silent", tokenizer=False)
        self.assert_fails("embed", silent, "abc", says=["tokenizer", "--ids"])


class InspectBenchDump(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.decoder = checkpoints.make_decoder(cls.folder / "decoder", context=64)
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder", context=48)

    def test_inspect(self):
        result = self.json("inspect", self.decoder, "--threads", 1)
        self.assertEqual(set(result), {"model", "plan", "pruning", "kernels"})
        self.assertIsNone(result["pruning"])
        model = result["model"]
        expected = {"family": "llama", "architecture": "LlamaForCausalLM", "head": "causal_lm", "layers": 2,
                    "hidden_size": 32, "query_heads": 4, "kv_heads": 2, "head_size": 8, "ffn_size": 64,
                    "vocabulary_size": 256, "max_positions": 64, "threads": 1, "weight_type": "f32",
                    "has_tokenizer": True, "is_decoder": True,
                    "parameters": 256 * 32 + 32 + 2 * (2 * 32 + 32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 64),
                    "cache_bytes_per_token": 2 * 2 * 16 * 4}
        self.assertEqual({key: model[key] for key in expected}, expected)
        out, _ = self.call("inspect", self.decoder, "--kernels")
        for text in ("LlamaForCausalLM", "64 tokens", "layers 0-1", "attention", "first choice"):
            self.assertIn(text, out)
        self.assertIn("bf16", self.call("inspect", self.decoder, "--dtype", "bf16")[0])
        self.assertEqual(self.json("inspect", self.encoder)["model"]["family"], "bert")
        unnamed = pathlib.Path(checkpoints.make_encoder(self.folder / "unnamed"))
        config = json.loads((unnamed / "config.json").read_text())
        del config["architectures"]
        checkpoints.write_json(unnamed, "config.json", config)
        self.assertRegex(self.call("inspect", unnamed)[0], r"(?m)^architecture +bert encoder$")

    def test_inspect_shows_what_pruning_leaves(self):
        encoder = checkpoints.make_encoder(self.folder / "deep", layers=3)
        found = self.json("inspect", encoder, "--keep-tokens", "1,0.5,0.5", "--length", 40)["pruning"]
        self.assertEqual(found["schedule"], {"tokens": [1, 0.5, 0.5]})
        self.assertEqual([layer["tokens"] for layer in found["layers"]], [40, 20, 20])
        self.assertEqual([layer["heads"] for layer in found["layers"]], [4, 4, 4])
        # Of rows n in a layer of width w with FFN f: n (8 w w + 4 w f + 4 w n).
        n, w, f = 40, 32, 64
        whole, half = (rows * (8 * w * w + 4 * w * f + 4 * w * rows) for rows in (n, n // 2))
        self.assertAlmostEqual(found["layers"][0]["work"], 1)
        self.assertAlmostEqual(found["layers"][1]["work"], half / whole)
        self.assertAlmostEqual(found["work"], (whole + 2 * half) / (3 * whole))
        self.assertNotIn("generating", found)
        out, _ = self.call("inspect", encoder, "--keep-tokens", "1,0.5,0.5", "--length", 40)
        self.assertIn("Cascade pruning of a text of 40 tokens: ", out)
        self.assertRegex(out, r"(?m)^1-2 +20 +4 +\d+\.\d%$")
        decoder = self.json("inspect", self.decoder, "--keep-tokens", 0.5, "--length", 40)["pruning"]
        first, second = decoder["layers"]
        self.assertEqual((first["tokens"], second["tokens"]), (40, second["keys"]))
        self.assertLess(second["keys"], first["keys"])
        self.assertLess(decoder["generating"]["cache"], 0.6)
        self.assert_usage("inspect", "--kernels", "--length", 8, says=["--length", "MODEL"])

    def test_bench_of_an_encoder(self):
        result = self.json("bench", self.encoder, "--batch", "1,3", "--length", "8,48", "--repeat", 3)
        shapes = [(entry["what"], entry["batch"], entry["length"]) for entry in result["results"]]
        self.assertEqual(shapes, [("encode", 1, 8), ("encode", 1, 48), ("encode", 3, 8), ("encode", 3, 48)])
        self.assert_quantiles(result["results"], 3)
        self.assertEqual(self.call("bench", self.encoder, "--repeat", 1)[0].count("\nencode"), 2)
        self.assert_fails("bench", self.encoder, "--length", 49, says=["48", "49"])
        self.assert_fails("bench", self.encoder, "--new-tokens", 4, says=["--length"])

    def test_bench_of_a_decoder(self):
        result = self.json("bench", self.decoder, "--batch", "2", "--prompt-tokens", 9, "--new-tokens", 5,
                           "--repeat", 2)
        shapes = [(entry["what"], entry["batch"], entry["length"], entry["samples"]) for entry in result["results"]]
        self.assertEqual(shapes, [("prefill", 2, 9, 2), ("decode", 2, 9, 8)])
        self.assert_quantiles(result["results"], None)
        self.assertIn("tokens/s", self.call("bench", self.decoder, "--repeat", 1)[0])
        self.assert_fails("bench", self.decoder, "--prompt-tokens", 60, "--new-tokens", 6, says=["64", "60 + 6"])
        self.assert_fails("bench", self.decoder, "--length", 9, says=["--prompt-tokens"])

    def assert_quantiles(self, results, samples):
        for entry in results:
            self.assertGreater(entry["p10_ms"], 0)
            self.assertLessEqual(entry["p10_ms"], entry["median_ms"])
            self.assertLessEqual(entry["median_ms"], entry["p90_ms"])
            self.assertGreater(entry["tokens_per_second"], 0)
            if samples is not None:
                self.assertEqual(entry["samples"], samples)

    def test_dump(self):
        cases, output = self.folder / "cases.json", self.folder / "out.safetensors"
        cases.write_text(json.dumps({"cases": [
            {"name": "one", "input_ids": [[1, 2, 3]]},
            {"name": "two", "input_ids": [[1, 2, 3], [4, 5, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]]}]}))
        self.call("dump", self.decoder, "--cases", cases, "-o", output)
        tensors = checkpoints.read_safetensors(output)
        self.assertEqual(tensors["one.logits"], ("F32", [1, 3, 256]))
        self.assertEqual(tensors["two.hidden.2"], ("F32", [2, 3, 32]))
        self.assert_fails("dump", self.decoder, "--cases", self.folder / "absent", "-o", output, says=["absent"])
        # Before anything is done.
        self.assert_fails("dump", self.folder / "absent", "--cases", cases, "-o", self.folder / "no" / "where", says=["where"])
        for text in ("", "{", "[]", '{"cases": 3}', '{"cases": [{}]}', '{"cases": [{"name": "a", "input_ids": [[300]]}]}',
                     '{"cases": [{"name": "a", "input_ids": [[1, 2], [3]]}]}'):
            cases.write_text(text)
            self.assert_fails("dump", self.decoder, "--cases", cases, "-o", output)

    def test_checkpoints_that_lie(self):
        model = self.folder / "decoder" / "model.safetensors"
        whole = model.read_bytes()
        try:
            for name, content in {"cut": whole[:-5], "header only": whole[:100], "empty": b"",
                                  "huge header": b"\xff" * 8 + whole[8:], "no header": whole[:8] + whole[-50:]}.items():
                with self.subTest(name):
                    model.write_bytes(content)
                    self.assert_fails("inspect", self.decoder, says=["model.safetensors"])
        finally:
            model.write_bytes(whole)


@unittest.skipUnless((ROOT / "models/tales/config.json").exists(), "models/tales is not there")
class Tales(CliTest):
    MODEL = ROOT / "models/tales"

    def test_story(self):
        out, err = self.call("run", self.MODEL, "--prompt", "Once upon a time", "--seed", 1, "--max-tokens", 60)
        self.assertGreater(len(out.split()), 20, out)
        self.assertIn("tokens/s", err)
        again, _ = self.call("run", self.MODEL, "--prompt", "Once upon a time", "--seed", 1, "--max-tokens", 60)
        self.assertEqual(out, again)

    def test_greedy_is_the_same_for_any_number_of_threads(self):
        options = ("--prompt", "The king said", "--greedy", "--max-tokens", 60)
        self.assertEqual(self.json("run", self.MODEL, *options, "--threads", 1)["ids"],
                         self.json("run", self.MODEL, *options, "--threads", 3)["ids"])


@unittest.skipUnless(os.path.isdir(SHARED), "TESSERA_SHARED does not name a directory")
class Shared(CliTest):
    MODELS = pathlib.Path(SHARED) / "models"

    def test_sorts(self):
        prompts = list(itertools.product(range(3), repeat=6))
        lines = "".join(join(prompt) + "\n" for prompt in prompts).encode()
        out, _ = self.call("run", self.MODELS / "nano-gpt-sort", "--batch", "-", "--format", "ids", "--greedy", "--max-tokens", 6,
                           stdin=lines)
        wrong = [prompt for prompt, line in zip(prompts, out.splitlines(), strict=True)
                 if line != join(sorted(prompt))]
        self.assertEqual(wrong, [])

    def test_stories(self):
        golden = json.loads((self.MODELS / "stories260K/golden.json").read_text())
        ids = golden["greedy_ids"]
        skip = len(golden["prompt_ids"]) if ids[: len(golden["prompt_ids"])] == golden["prompt_ids"] else 0
        result = self.json("run", self.MODELS / "stories260K", "--ids", join(golden["prompt_ids"]), "--greedy",
                           "--max-tokens", len(ids) - skip)
        self.assertEqual(result["ids"], ids[skip:])

    def test_minilm_vectors(self):
        golden = json.loads((self.MODELS / "all-MiniLM-L6-v2/GOLDEN_numpy.json").read_text())
        lines = self.json_lines("embed", self.MODELS / "all-MiniLM-L6-v2", *golden["texts"])
        self.assertEqual([line["ids"] for line in lines], golden["ids"])
        for line, expected in zip(lines, golden["embeddings"], strict=True):
            self.assertLess(distance(line["embedding"], expected), 1e-5)

    def test_minilm_scores(self):
        path = pathlib.Path(SHARED) / "data/glue/STS-B_sts-test.csv"
        with open(path, encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
        texts = "".join(f"{row[5]}\n{row[6]}\n" for row in rows).encode()
        out, err = self.call("embed", self.MODELS / "all-MiniLM-L6-v2", stdin=texts)
        self.assertNotIn("cut", err)
        vectors = [[float(x) for x in line.split()] for line in out.splitlines()]
        self.assertEqual(len(vectors), 2 * len(rows))
        cosines = [sum(a * b for a, b in zip(vectors[i], vectors[i + 1])) for i in range(0, len(vectors), 2)]
        score = pearson(ranks(cosines), ranks([float(row[4]) for row in rows]))
        print(f"STS-B test: Spearman {score:.5f} of {len(rows)} pairs")
        self.assertLess(abs(score - 0.8203), 0.0002)


def join(ids):
    return ",".join(map(str, ids))


def distance(a, b):
    """The largest difference."""
    assert len(a) == len(b)
    return max(abs(x - y) for x, y in zip(a, b))


def ranks(values):
    """Ties share the mean of their places."""
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.0] * len(values)
    begin = 0
    while begin < len(order):
        end = begin
        while end < len(order) and values[order[end]] == values[order[begin]]:
            end += 1
        for place in order[begin:end]:
            result[place] = (begin + end - 1) / 2
        begin = end
    return result


def pearson(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b))
    return covariance / (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5


def wait_until_caught(pid, number):
    """Until the process has a handler for the signal."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) >> (number - 1) & 1:
            return
        time.sleep(0.01)
    raise AssertionError(f"signal {number} was never caught")


def read_until(terminal, mark, shown=b""):
    """What the terminal shows, after what it showed before, until the mark ends it."""
    deadline = time.monotonic() + 60
    while not shown.endswith(mark):
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"waited for {mark!r}, the terminal shows {shown!r}"
        shown += os.read(terminal, 4096)
    return shown


if __name__ == "__main__":
    run_tests()
