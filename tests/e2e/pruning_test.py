#!/usr/bin/env python3
"""Tests of cascade pruning from outside: what --trace writes, what explain shows, and both against NumPy.

    TESSERA_BINARY=build/bin/tessera tests/e2e/pruning_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped.
"""

import html.parser
import json
import pathlib
import re
import subprocess
import sys
import unittest

import checkpoints
from cli_test import ROOT, SHARED, CliTest, run_tests
from command_line_test import at_terminal

LAYERS = 3
SHARES = [1, 0.6, 0.3]
# The example texts of SpAtten's authors.
TEXTS = [
    "As a visual treat, the film is almost perfect.",
    "A wonderful movie, I am sure that you will remember it, you admire its conception and are able to resolve some "
    "of the confusions you had while watching it.",
    "Du Fu was a great poet of the Tang dynasty. Recently a variety of styles have been used in efforts to translate "
    "the work of Du Fu into English",
]


def has_numpy(python):
    try:
        return subprocess.run([python, "-c", "import numpy"], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


class PruningTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = checkpoints.make_encoder(cls.folder / "encoder", context=256, layers=LAYERS)
        cls.shares = ",".join(map(str, SHARES))

    def trace_of(self, verb, *arguments, **options):
        """The line about the model, and the records by sequence and layer."""
        path = self.folder / "trace.jsonl"
        self.call(verb, *arguments, "--trace", path, **options)
        self.assertFalse(path.with_name("trace.jsonl.partial").exists())
        first, *rest = map(json.loads, path.read_text().splitlines())
        records = {(line["sequence"], line["layer"]): line for line in rest}
        self.assertEqual(len(records), len(rest))
        return first, records

    def decoder(self):
        path = self.folder / "decoder"
        return path if path.exists() else checkpoints.make_decoder(path)


class Traces(PruningTest):
    def test_what_is_in_it(self):
        """Every sequence and layer once, sets nested, as many as the shares say, probabilities of all heads in it."""
        first, records = self.trace_of("embed", self.model, "a b c d e f g h", "i j k", "--keep-tokens", self.shares)
        self.assertEqual((first["layers"], first["query_heads"], first["kv_heads"], first["head_size"]),
                         (LAYERS, 4, 4, 8))
        self.assertFalse(first["causal"])
        self.assertEqual(set(records), {(s, layer) for s in range(2) for layer in range(LAYERS)})
        by_length = {records[s, 0]["length"]: s for s in range(2)}
        self.assertEqual(set(by_length), {10, 5})
        self.assertEqual(records[by_length[5], 0]["ids"][0], 2)
        for length, sequence in by_length.items():
            alive, total = set(range(length)), 0
            for layer, share in enumerate(SHARES):
                record = records[sequence, layer]
                self.assertEqual(record["step"], 0)
                self.assertEqual("ids" in record, layer == 0)
                self.assertEqual(len(record["tokens"]), max(int(share * length + 1e-9), 1))
                self.assertEqual(record["queries"], len(record["tokens"]))
                self.assertLessEqual(set(record["tokens"]), alive)
                self.assertEqual(record["tokens"], sorted(record["tokens"]))
                self.assertEqual(len(record["importance"]), len(record["tokens"]))
                alive = set(record["tokens"])
                total = sum(record["importance"])
            self.assertGreater(total, 0)

    def test_without_pruning(self):
        _, records = self.trace_of("embed", self.model, "a b c")
        for layer in range(LAYERS):
            self.assertEqual(records[0, layer]["tokens"], [0, 1, 2, 3, 4])
            # Each of 5 queries of 4 heads gives 1 in each layer.
            self.assertAlmostEqual(sum(records[0, layer]["importance"]), 20 * (layer + 1), delta=1e-3)

    def test_heads(self):
        _, records = self.trace_of("embed", self.model, "a b c d", "--keep-heads", "1,0.75,0.5")
        heads = [set(records[0, layer]["heads"]) for layer in range(LAYERS)]
        self.assertEqual(list(map(len, heads)), [4, 3, 2])
        self.assertLess(heads[2], heads[1])
        for layer in range(LAYERS):
            self.assertEqual(len(records[0, layer]["head_importance"]), len(heads[layer]))

    def test_heads_of_steps(self):
        """Prompts and what follows them have the same, of which the importance only grows."""
        path = self.folder / "heads.jsonl"
        self.call("run", self.decoder(), "Once upon a time", "-n", 4, "--ignore-end", "--keep-heads", "1,0.5",
                  "--trace", path)
        records = [json.loads(line) for line in path.read_text().splitlines()][1:]
        self.assertEqual([len(record["heads"]) for record in records], [4, 2] * 4)
        for before, record in zip(records, records[1:]):
            importance = dict(zip(before["heads"], before["head_importance"]))
            for head, value in zip(record["heads"], record["head_importance"]):
                self.assertGreater(value, importance.get(head, 0))
        _, records = self.trace_of("embed", self.model, "a b c d")
        self.assertFalse({"heads", "head_importance"} & set(records[0, 0]))

    def test_published_example(self):
        """11 tokens and 8 heads, 5 and 6, 2 and 4: 100%, 34% and 9% of keys and values, and of the work on them."""
        model = checkpoints.make_encoder(self.folder / "eight", layers=LAYERS)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"num_attention_heads": 8}))
        schedule = self.folder / "example.json"
        schedule.write_text(json.dumps({"tokens": [11, 5, 2], "heads": [1, 0.75, 0.5]}))
        _, records = self.trace_of("embed", model, "a b c d e f g h i", "--pruning", schedule)
        alive = [(len(records[0, layer]["tokens"]), len(records[0, layer]["heads"])) for layer in range(LAYERS)]
        self.assertEqual(alive, [(11, 8), (5, 6), (2, 4)])
        self.assertEqual([round(tokens * heads / 88, 3) for tokens, heads in alive], [1, 0.341, 0.091])

    def test_steps(self):
        """A prompt is step 0, each generated token one more; sets are nested in both but for the new token."""
        path = self.folder / "steps.jsonl"
        self.call("run", self.decoder(), "Once upon a time", "-n", 5, "--ignore-end", "--keep-tokens", "0.8,0.4",
                  "--trace", path)
        records = [json.loads(line) for line in path.read_text().splitlines()][1:]
        self.assertEqual([(r["step"], r["layer"]) for r in records], [(t, layer) for t in range(5) for layer in range(2)])
        alive = {layer: set(range(16)) for layer in range(2)}
        for record in records:
            step, layer, tokens = record["step"], record["layer"], set(record["tokens"])
            self.assertEqual(record["sequence"], 0)
            self.assertEqual(record["length"], 16 + step)
            new = {15 + step}
            self.assertLessEqual(new, tokens)
            self.assertLessEqual(tokens, alive[layer] | new)
            if layer == 1:
                self.assertLessEqual(tokens, alive[0])
                self.assertLess(len(tokens), len(alive[0]))
            alive[layer] = tokens

    def test_reads(self):
        """A run's trace in sum is what bench counts of as many tokens, whatever the tokens are."""
        schedule = self.folder / "reads.json"
        path = self.folder / "reads.jsonl"
        shared = {"tokens": [1, 0.5], "key_bits": "8+4", "refetch": {"below": 1.5}}
        model = checkpoints.make_gpt2(self.folder / "gpt2-reads")
        heads = {"tokens": [1, 0.5, 0.5], "heads": [1, 0.75, 0.5], "values": [1, 0.5, 0.2]}
        for name, rules, bytes_too in ((self.decoder(), shared, True), (model, heads, False), (model, {}, True)):
            schedule.write_text(json.dumps(rules))
            self.call("run", name, "--ids", ",".join(str(i + 5) for i in range(20)), "-n", 6, "--ignore-end", "--pruning",
                      schedule, "--trace", path)
            records = [json.loads(line) for line in path.read_text().splitlines()][1:]
            self.assertEqual(["reads" in record for record in records], [record["step"] > 0 for record in records])
            result = json.loads(self.call("bench", name, "--batch", 1, "--prompt-tokens", 20, "--new-tokens", 6,
                                          "--repeat", 1, "--pruning", schedule, "--json")[0])
            counted = next(entry for entry in result["results"] if entry["what"] == "decode")["cache_reads"]
            self.assertEqual(counted.pop("tokens"), 5)
            if not bytes_too:
                counted.pop("bytes")
            found = {key: sum(record["reads"][key] for record in records if record["step"]) for key in counted}
            self.assertEqual(found, counted)

    def test_bytes_of_dead_heads(self):
        """Half of the heads read half of the cache, and bench says so."""
        model = checkpoints.make_gpt2(self.folder / "gpt2-bytes")
        found = []
        for heads in ("1,1,1", "0.5,0.5,0.5"):
            arguments = ("bench", model, "--batch", 1, "--prompt-tokens", 20, "--new-tokens", 6, "--repeat", 1,
                         "--keep-heads", heads)
            found.append(float(re.search(r"([\d.]+) KB of the cache read for a token", self.call(*arguments)[0])[1]))
        # Three layers, four heads with keys and values of 8 floats, and 21 to 25 tokens; three digits are shown.
        self.assertAlmostEqual(found[0], 3 * 4 * 2 * 8 * 4 * 23 / 1000, delta=0.1)
        self.assertAlmostEqual(found[1], found[0] / 2, delta=0.1)

    def test_results_stay(self):
        for options in ((), ("--keep-tokens", self.shares)):
            plain, _ = self.call("embed", self.model, *TEXTS, *options)
            traced, _ = self.call("embed", self.model, *TEXTS, *options, "--trace", self.folder / "t.jsonl")
            self.assertEqual(plain, traced)

    def test_failures(self):
        self.assert_usage("embed", self.model, "a", "--trace", "", says=["--trace"])
        self.assert_fails("embed", self.model, "a", "--trace", self.folder / "none" / "t.jsonl", says=["cannot write"])
        kept = self.folder / "kept.jsonl"
        kept.write_text("as it was")
        self.assert_fails("embed", self.model, "--ids", "100000", "--trace", kept)
        self.assertEqual(kept.read_text(), "as it was")
        both = self.folder / "both.jsonl"
        self.assert_fails("embed", self.model, "a", "--trace", both, "-o", both,
                          says=[f"expected to write {both}.partial alone, found another option or process that does"])


class Explain(PruningTest):
    def test_text(self):
        """A row for layers with the same tokens, with the words that they had; a line for those that left."""
        out, _ = self.call("explain", self.model, "a quick fox", "--keep-tokens", "1,1,0.3")
        head, first, last, left = out.splitlines()
        self.assertEqual(head.split(), ["layers", "tokens", "heads", "text"])
        self.assertRegex(first, r"^0-1 +11 +4  \[CLS\] a quick fox \[SEP\]$")
        self.assertRegex(last, r"^2 +3 +4  ")
        self.assertNotIn("\x1b", out)
        self.assertTrue(left.startswith("left in front of layer 2: "))
        words = last.split("4  ", 1)[1].replace("[CLS]", "<").replace("[SEP]", ">").replace(" ", "")
        gone = left.split(": ", 1)[1].replace("[CLS]", "<").replace("[SEP]", ">").replace(" ", "")
        self.assertEqual(sorted(words + gone), sorted("<aquickfox>"))

    def test_usual_schedule(self):
        """Half of the tokens on average where nothing else is asked for, by a model that is loaded once."""
        _, said = self.call("explain", self.model, TEXTS[0], "--verbose")
        self.assertEqual(said.count("loaded "), 1, said)
        for lines in (self.json_lines("explain", self.model, *TEXTS),
                      self.json_lines("explain", self.model, *TEXTS, "--keep-tokens", 0.5)):
            for text, line in zip(TEXTS, lines):
                self.assertEqual(line["text"], text)
                self.assertLess(len(line["layers"][-1]["tokens"]), len(line["ids"]))

    def test_json(self):
        (line,) = self.json_lines("explain", self.model, TEXTS[0], "--keep-tokens", self.shares)
        _, records = self.trace_of("embed", self.model, TEXTS[0], "--keep-tokens", self.shares)
        self.assertEqual(line["ids"], records[0, 0]["ids"])
        self.assertEqual("".join(line["words"][1:-1]), TEXTS[0].replace(" ", ""))
        for layer, shown in enumerate(line["layers"]):
            self.assertEqual(shown["layer"], layer)
            self.assertEqual(shown["tokens"], records[0, layer]["tokens"])
            self.assertEqual(shown["importance"], records[0, layer]["importance"])
        for token, left in enumerate(line["left"]):
            alive = [layer for layer in range(LAYERS) if token in line["layers"][layer]["tokens"]]
            self.assertEqual(alive, list(range(LAYERS if left is None else left)))

    def test_html(self):
        """One page that stands alone, whatever the text holds."""
        page = self.folder / "page.html"
        hostile = "a <b>&amp; \"c\" <script>x</script>"
        self.call("explain", self.model, hostile, TEXTS[1], "--html", page)
        text = page.read_text()
        tags = []

        class Reader(html.parser.HTMLParser):
            def handle_starttag(self, tag, attributes):
                tags.append(tag)
                assert not {"src", "href"} & dict(attributes).keys(), attributes

        Reader().feed(text)
        self.assertEqual({"script", "b", "link", "img"} & set(tags), set())
        self.assertEqual(tags.count("table"), 2)
        self.assertEqual(tags.count("tr"), 2 * (LAYERS + 1))
        self.assertIn("&lt;", text)
        self.assertNotIn("http", text)

    def test_steps(self):
        (line,) = self.json_lines("explain", self.decoder(), "Once upon a time", "-n", 4, "--keep-tokens", "0.8,0.4")
        self.assertEqual(len(line["ids"]), 16 + 3)
        self.assertEqual([(layer["step"], layer["layer"]) for layer in line["layers"]],
                         [(step, layer) for step in range(4) for layer in range(2)])
        self.assertIn("next", line)
        page = self.folder / "steps.html"
        out, _ = self.call("explain", self.decoder(), "Once upon a time", "-n", 4, "--html", page)
        self.assertTrue(out.startswith("step  layers  tokens"))
        self.assertIn("\nthen: ", out)
        self.assertEqual(page.read_text().count("<tr>"), 1 + 4 * 2)
        self.assert_fails("explain", self.model, "a b", "-n", 2, says=["to generate with"])
        # A prompt is not cut to where nothing fits behind it.
        small = checkpoints.make_decoder(self.folder / "small", context=64)
        self.assert_fails("explain", small, "a" * 70, "-n", 2, says=["the model's context, found 70"])

    def test_inputs(self):
        file = self.folder / "texts.txt"
        file.write_text("a b c\nd e f\n")
        out, _ = self.call("explain", self.model, "--file", file)
        self.assertEqual(out.count("layers"), 2)
        self.assertIn("\n\nlayers", out)
        out, _ = self.call("explain", self.model, "--ids", "2,7,3")
        self.assertIn("[CLS]", out)
        pair = self.json_lines("explain", self.model, "a b", "--pair", "c d")[0]
        self.assertEqual(pair["words"], ["[CLS]", "a", "b", "[SEP]", "c", "d", "[SEP]"])
        self.assert_usage("explain", self.model, "a", "--keep-tokens", "2,x", says=["--keep-tokens"])
        self.assert_fails("explain", self.model, "a", "--keep-tokens", "1,1", says=["3 layers"])

    def test_terminal(self):
        """On a terminal the words that left are still there, dimmed, and lines fit its width."""
        text = at_terminal(70, "explain", self.model, TEXTS[1])
        self.assertIn("\x1b[2m", text)
        plain = text.replace("\x1b[2m", "").replace("\x1b[0m", "")
        rows = plain.split("left in front")[0].splitlines()
        self.assertTrue(all(len(row) <= 70 for row in rows), rows)
        self.assertIn("wonderful", "".join(rows))


class Oracle(PruningTest):
    """The program against tests/oracle/cascade.py, which knows the definitions and NumPy."""

    SCHEDULES = [
        {"tokens": SHARES},
        {"tokens": [1, 0.5, 0.5], "decay": 0.5, "scale": "queries", "protect": {"first": 1, "last": 2}, "minimum": 3},
        {"tokens": [0.9, 0.2, 0.1], "base": "positions", "protect": {"ids": [3, 7]}},
        {"tokens": [20, 9, 4]},
    ]
    HEADS = {"tokens": [1, 0.8, 0.4], "heads": [1, 0.75, 0.5]}
    PLANES = HEADS | {"values": [0.8, 0.5, 0.4], "key_bits": "6+4", "value_bits": 6, "refetch": {"below": 0.3}}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # A package of the system is not seen by an interpreter that was put before the system's.
        cls.python = next((python for python in (sys.executable, "/usr/bin/python3") if has_numpy(python)), None)
        if cls.python is None:
            raise unittest.SkipTest("NumPy is needed: python3-numpy")
        ids = [[(7 * i + 3 * i * i) % 50 + 4 for i in range(first, first + length)]
               for first, length in ((0, 40), (9, 17), (4, 1), (30, 2))]
        cases = [{"name": f"c{i}", "input_ids": [row]} for i, row in enumerate(ids)]
        cls.cases = cls.folder / "cases.json"
        cls.cases.write_text(json.dumps({"cases": cases}))

    def steps(self):
        path = self.folder / "steps.json"
        path.write_text(json.dumps({"cases": [
            {"name": f"c{i}", "input_ids": [[(5 * j + j * j + i) % 60 for j in range(length)]], "new_tokens": 8}
            for i, length in enumerate((24, 5, 1))]}))
        return path

    def files(self, model, schedule, cases):
        paths = {name: self.folder / name for name in ("schedule.json", "dump.safetensors", "trace.jsonl")}
        paths["schedule.json"].write_text(json.dumps(schedule))
        self.call("dump", model, "--cases", cases, "--pruning", paths["schedule.json"], "--trace", paths["trace.jsonl"],
                  "-o", paths["dump.safetensors"])
        return [model, paths["schedule.json"], cases, paths["dump.safetensors"], paths["trace.jsonl"]]

    def oracle(self, files):
        return subprocess.run([self.python, ROOT / "tests/oracle/cascade.py", *map(str, files)],
                              capture_output=True, text=True, check=False)

    def assert_agrees(self, model, schedule, cases):
        result = self.oracle(self.files(model, schedule, cases))
        self.assertEqual(result.returncode, 0, f"{schedule}: {result.stdout}{result.stderr[-2000:]}")

    def test_encoder(self):
        for schedule in [*self.SCHEDULES, self.HEADS]:
            self.assert_agrees(self.model, schedule, self.cases)

    def test_decoder(self):
        model = checkpoints.make_gpt2(self.folder / "gpt2")
        for schedule in [*self.SCHEDULES, self.HEADS]:
            self.assert_agrees(model, schedule, self.cases)

    def test_generation(self):
        """Prompts that are pruned, scored, or neither, at first; the same tokens follow."""
        model = checkpoints.make_gpt2(self.folder / "gpt2-steps")
        cases = self.steps()
        for schedule in [*self.SCHEDULES, self.HEADS, {"heads": [0.75, 0.5, 0.5]}]:
            for prefill in ("prune", "score", "skip"):
                self.assert_agrees(model, schedule | {"prefill": prefill}, cases)
        self.assert_agrees(model, {"tokens": [1, 0.5, 0.3], "base": "prompt", "protect": {"newest": 3}}, cases)

    def test_values(self):
        """Shares, counts and a threshold, alone and beside tokens and heads that leave."""
        model = checkpoints.make_gpt2(self.folder / "gpt2-values")
        for values in ([0.5, 0.3, 0.2], [1, 5, 2], {"threshold": 0.3}):
            for others in ({}, self.HEADS):
                self.assert_agrees(model, {"values": values} | others, self.steps())

    def test_planes(self):
        """Keys in two planes whose lower one nobody, some or all read, and in one."""
        model = checkpoints.make_gpt2(self.folder / "gpt2-planes")
        for bits in ("8+4", "6+4"):
            for refetch, some, all_of_them in (({"below": 0}, False, False), ({"below": 0.3}, True, False),
                                               ({"below": 8, "scale": "length"}, True, False), ({"below": 1.1}, True, True)):
                schedule = {"key_bits": bits, "value_bits": 6, "refetch": refetch}
                self.assert_agrees(model, schedule, self.steps())
                lines = [json.loads(line) for line in (self.folder / "trace.jsonl").read_text().splitlines()[1:]]
                shares = [line["reads"]["refetched"] / line["reads"]["queries"] for line in lines if line["step"] > 0]
                self.assertEqual((any(shares), all(share == 1 for share in shares)), (some, all_of_them), schedule)
        for others in ({"key_bits": "8+4"}, {"key_bits": "8"}, {"key_bits": "4", "value_bits": 4}, self.PLANES):
            self.assert_agrees(model, others, self.steps())

    def test_goldens(self):
        if not SHARED:
            self.skipTest("TESSERA_SHARED is not set")
        for name in ("bert-classify", "bert-qa", "bert-tokens", "gpt2"):
            model = pathlib.Path(SHARED) / "golden/models" / name
            cases = json.loads((model / "golden.json").read_text())["cases"]
            cases = [{key: case[key] for key in ("name", "input_ids", "attention_mask", "token_type_ids", "new_tokens")
                      if key in case} for case in cases]
            path = self.folder / "golden.json"
            path.write_text(json.dumps({"cases": cases}))
            for schedule in self.SCHEDULES[:2] + ([self.PLANES] if name == "gpt2" else []):
                with self.subTest(model=name, schedule=schedule):
                    self.assert_agrees(model, schedule, path)

    def test_sees_what_is_wrong(self):
        """One number changed in either file, or a schedule that is another one, and it says so."""
        files = self.files(self.model, self.SCHEDULES[0], self.cases)
        trace = files[4].read_text()
        lines = trace.splitlines()
        record = json.loads(lines[-1])
        for key, index in (("tokens", -1), ("importance", 0)):
            other = json.loads(json.dumps(record))
            other[key][index] = other[key][index] * 1.01 + 1
            files[4].write_text("\n".join([*lines[:-1], json.dumps(other)]))
            result = self.oracle(files)
            self.assertEqual(result.returncode, 1, key)
            self.assertIn(key, result.stderr)
        files[4].write_text(trace)
        dump = bytearray(files[3].read_bytes())
        dump[-1] ^= 0x40
        files[3].write_bytes(dump)
        self.assertEqual(self.oracle(files).returncode, 1)
        files = self.files(self.model, self.SCHEDULES[0], self.cases)
        files[1].write_text(json.dumps(self.SCHEDULES[1]))
        self.assertEqual(self.oracle(files).returncode, 1)


if __name__ == "__main__":
    run_tests()
