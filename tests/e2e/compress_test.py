#!/usr/bin/env python3
"""Tests of `tessera compress` from outside: on tiny checkpoints that it makes itself, on the project's own model and,
where TESSERA_SHARED points at them, on models of every family.

    TESSERA_BINARY=build/bin/tessera tests/e2e/compress_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import struct
import subprocess
import time
import unittest

import checkpoints
from cli_test import BINARY, SECONDS, SHARED, CliTest, run_tests

FIXTURES = pathlib.Path(__file__).resolve().parent


def tensors_of(directory):
    names = [name for name in ("tessera.safetensors", "model.safetensors") if os.path.exists(os.path.join(directory, name))]
    return checkpoints.read_safetensors(os.path.join(directory, names[0]))


def section_of(directory):
    return json.loads((pathlib.Path(directory) / "config.json").read_text())["tessera"]


class Compress(CliTest):
    """What the verb writes, and what it says of options that are wrong."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder")
        cls.decoder = checkpoints.make_decoder(cls.folder / "decoder", context=64)
        cls.text = cls.folder / "text.txt"
        words = ["the cat sat", "a dog ran far", "birds fly south in autumn", "no one was there to see"]
        cls.text.write_text("\n".join(f"{a} and {b}" for a in words for b in words) + "\n")

    def compress(self, model, name, *options):
        target = self.folder / name
        return target, self.json("compress", model, "-o", target, "--no-measure", *options)

    def embed(self, model):
        return [line["embedding"] for line in self.json_lines("embed", model, "the cat", "a dog ran")]

    def test_tiles(self):
        target, report = self.compress(self.encoder, "tiles", "--prune-tiles", "0.5", "--tile", "8x16")
        self.assertEqual(len(report["matrices"]), 6)
        for matrix in report["matrices"]:
            self.assertEqual(matrix["format"], "tiles")
            self.assertAlmostEqual(matrix["share"], 0.5)
            self.assertEqual(section_of(target)["tensors"][matrix["name"]]["tile"], [8, 16])
            self.assertNotIn(matrix["name"], tensors_of(target))
            dtype, shape = tensors_of(target)[matrix["name"] + ".tiles"]
            self.assertEqual((dtype, shape[1:]), ("F32", [8, 16]))
        self.assertLess(report["bytes_after"], report["bytes_before"])
        self.assertEqual(len(self.embed(target)), 2)
        self.assertNotEqual(self.embed(target), self.embed(self.encoder))
        for file in ("tokenizer.json",):
            self.assertEqual((target / file).read_bytes(), (pathlib.Path(self.encoder) / file).read_bytes())

    def test_schedules_are_saved(self):
        deep = checkpoints.make_encoder(self.folder / "deep", layers=3)
        text = "the cat sat and a dog ran far"
        vector = lambda *options: self.call("embed", *options, text)[0]
        target, report = self.compress(deep, "kept", "--keep-tokens", "1,0.5,0.5")
        self.assertEqual(report["matrices"], [])
        self.assertEqual(section_of(target)["pruning"], {"tokens": [1, 0.5, 0.5]})
        self.assertEqual(section_of(target)["provenance"]["passes"][0]["pass"], "cascade")
        self.assertEqual(vector(target), vector(deep, "--keep-tokens", "1,0.5,0.5"))
        self.assertEqual(vector(target, "--pruning", "none"), vector(deep))
        self.assertEqual(vector(target, "--keep-tokens", "1"), vector(deep))
        self.assertNotEqual(vector(target), vector(deep))
        self.assertIn("--keep-tokens", (target / "README.md").read_text())
        # It goes on to be used beside other passes, and can be taken away.
        both, _ = self.compress(target, "pruned-too", "--prune-tiles", "0.5", "--tile", "8x16")
        self.assertEqual(section_of(both)["pruning"], {"tokens": [1, 0.5, 0.5]})
        bare, _ = self.compress(both, "bare", "--pruning", "none")
        self.assertNotIn("pruning", section_of(bare))
        self.assertEqual(vector(bare), vector(both, "--pruning", "none"))
        once, _ = self.compress(deep, "at-once", "--quantize", "int8", "--keep-tokens", "0.8")
        self.assertEqual(section_of(once)["pruning"], {"tokens": 0.8})
        self.assert_fails("compress", deep, "-o", self.folder / "bad", "--keep-tokens", "1,0.5",
                          says=["--keep-tokens: expected a share for each of the 3 layers, found 2"])
        # What somebody wrote there by hand is checked as well.
        config = json.loads((target / "config.json").read_text())
        config["tessera"]["pruning"] = {"tokens": [1, 0.5, 0.6]}
        (target / "config.json").write_text(json.dumps(config))
        self.assert_fails("embed", target, "a", says=["config.json: tessera", "pruning: tokens[2]: expected no more than"])

    def test_search_for_a_schedule(self):
        deep = checkpoints.make_encoder(self.folder / "searched", layers=3)
        data = self.folder / "glue"
        data.mkdir()
        texts = ["the cat sat", "a dog ran far", "birds fly south in autumn", "no one was there to see", "a cat ran"]
        for split in ("dev", "test"):
            rows = [f"g\tf\t2012\t{i}\t{i % 6}\t{one}\t{texts[(3 * i + 1) % 5]}" for i, one in enumerate(texts * 4)]
            (data / f"STS-B_sts-{split}.csv").write_text("\n".join(rows) + "\n")
        options = ["--search-keep", "--task", "stsb", "--data", data, "--budget", "0.05", "--seed", "7"]
        target, report = self.compress(deep, "found", *options)
        search = report["search"]
        self.assertEqual(search["seed"], 7)
        self.assertGreaterEqual(search["best"]["metric"], search["dense"]["metric"] - 0.05)
        self.assertEqual(section_of(target)["pruning"], {"tokens": search["best"]["shares"]})
        self.assertEqual(search["best"]["shares"], sorted(search["best"]["shares"], reverse=True))
        self.assertLessEqual(search["best"]["work"], 1)
        self.assertFalse((self.folder / "found.search.json").exists())
        # The same again is equal, whether it runs at a stretch or goes on from what was tried.
        _, again = self.compress(deep, "again", *options)
        self.assertEqual(again["search"], search)
        process = subprocess.Popen([BINARY, "compress", str(deep), "-o", str(self.folder / "resumed"), "--no-measure", *map(str, options)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state = self.folder / "resumed.search.json"
        while process.poll() is None and not state.exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not (self.folder / "resumed").exists():
            left = json.loads(state.read_text())
            self.assertTrue(left["trials"])
            (self.folder / "lying.search.json").write_text(json.dumps(left | {"trials": [{"tenths": "all", "metric": 1}]}))
            self.assert_fails("compress", deep, "-o", self.folder / "lying", "--no-measure", *options, says=["lying.search.json", "remove it"])
            _, resumed = self.compress(deep, "resumed", *options)
            self.assertEqual(resumed["search"], search)
        other = self.folder / "other.search.json"
        other.write_text("{}")
        self.assert_fails("compress", deep, "-o", self.folder / "other", "--no-measure", *options, says=[other, "remove it"])
        self.assert_fails("compress", deep, "-o", target, "--no-measure", *options, says=[target, "--force"])
        self.assert_usage("compress", deep, "-o", "x", "--search-keep", says=["--search-keep", "--task"])
        self.assert_usage("compress", deep, "-o", "x", "--budget", "0.1", "--quantize", "w4", says=["--budget", "--search-keep"])
        self.assert_usage("compress", deep, "-o", "x", *options, "--keep-tokens", "0.5", says=["--search-keep"])

    def test_quantize(self):
        whole = self.json_lines("embed", self.encoder, "the cat", "--dtype", "f32")[0]["embedding"]
        for precision, bits in {"int8": 8, "int4": 4, "w8": 8, "w4": 4}.items():
            for options in ([], ["--group", "16"], ["--calibrate", self.text],
                            ["--calibrate", self.text, "--rounding", "nearest"]):
                name = f"{precision}{len(options)}"
                target = self.folder / name
                shutil.rmtree(target, ignore_errors=True)
                target, report = self.compress(self.encoder, name, "--quantize", precision, *options)
                entries = section_of(target)["tensors"]
                self.assertEqual(len(report["matrices"]), 7)  # the maps and the embedding
                for matrix in report["matrices"]:
                    entry = entries[matrix["name"]]
                    is_table = "word_embeddings" in matrix["name"]
                    self.assertEqual(matrix["format"], "quantized")
                    self.assertEqual(matrix["precision"], "w8" if is_table else precision)
                    self.assertEqual(entry["precision"], matrix["precision"])
                    if "--group" in options and not is_table:
                        self.assertEqual(entry["group"], 16)
                    outputs, inputs = entry["shape"]
                    stored = "w8" if is_table else precision
                    expected = ("I8", [outputs, inputs]) if stored in ("int8", "w8") else ("U8", [outputs, inputs // 2])
                    self.assertEqual(tensors_of(target)[matrix["name"] + ".values"], expected)
                    self.assertEqual(matrix["output_error"] is None, is_table or "--calibrate" not in options)
                    self.assertLess(matrix["weight_error"], 0.02 if is_table or bits == 8 else 0.2)
                self.assertLess(report["bytes_after"], report["bytes_before"])
                found = self.json_lines("embed", target, "the cat", "--dtype", "f32")[0]["embedding"]
                self.assertNotEqual(found, whole)
                self.assertLess(max(abs(a - b) for a, b in zip(found, whole)), 0.05 if bits == 8 else 0.6)

    def test_prune_and_quantize(self):
        target, report = self.compress(self.decoder, "both", "--prune-tiles", "0.6", "--tile", "8x8", "--quantize", "int8",
                                       "--smooth", "0.5", "--calibrate", self.text, "--repair")
        self.assertEqual({matrix["precision"] for matrix in report["matrices"]}, {"int8", "w8"})
        self.assertIn("tiles", {matrix["format"] for matrix in report["matrices"]})
        passes = [entry["pass"] for entry in section_of(target)["provenance"]["passes"]]
        self.assertEqual(passes, ["prune-tiles", "quantize"])
        self.assertEqual(section_of(target)["provenance"]["passes"][1]["smooth"], 0.5)
        self.call("run", target, "--prompt", "the cat", "--max-tokens", "4", "--dtype", "f32")
        out, _ = self.call("compress", self.decoder, "-o", self.folder / "table", "--quantize", "w4", "--verbose")
        self.assertIn("w4", out)
        self.assertNotIn("removed", out)

    def test_nothing_pruned(self):
        target, report = self.compress(self.encoder, "nothing", "--prune-tiles", "0")
        self.assertEqual(report["share"], 0)
        self.assertEqual(tensors_of(target), tensors_of(self.encoder))
        self.assertEqual(self.embed(target), self.embed(self.encoder))

    def test_every_unit(self):
        formats = {"tiles": "tiles", "elements": "csr", "outputs": "compact", "inputs": "compact"}
        for unit, form in formats.items():
            for options in ([], ["--calibrate", self.text], ["--calibrate", self.text, "--repair"]):
                name = f"{unit}{len(options)}"
                tile = ["--tile", "8x8"] if unit == "tiles" else []
                target, report = self.compress(self.decoder, name, f"--prune-{unit}", "0.5", *tile, *options)
                # Matrices too small for the tensors' entries to pay stay dense.
                self.assertLessEqual({matrix["format"] for matrix in report["matrices"]}, {form, "dense"})
                self.assertIn(form, {matrix["format"] for matrix in report["matrices"]})
                for matrix in report["matrices"]:
                    self.assertEqual(matrix["output_error"] is None, not options)
                self.call("run", target, "--prompt", "the cat", "--max-tokens", "4")

    def test_attention_aware(self):
        for options in ([], ["--precompute-vo"]):
            target, report = self.compress(self.decoder, f"aware{len(options)}", "--prune-attention-aware", "0.5",
                                           "--tile", "8x8", *options)
            formats = {matrix["name"].split(".")[-2]: matrix["format"] for matrix in report["matrices"]}
            self.assertEqual(formats["q_proj"], "tiles")
            self.assertEqual(formats["o_proj"], "compact")
            self.assertEqual(formats.get("v_proj"), None if options else "compact")
            self.call("run", target, "--prompt", "the cat", "--max-tokens", "4")

    def test_repair_and_measure(self):
        arguments = ["--prune-tiles", "0.5", "--tile", "8x8", "--calibrate", self.text]
        _, plain = self.compress(self.encoder, "plain", *arguments)
        _, repaired = self.compress(self.encoder, "repaired", *arguments, "--repair")
        for before, after in zip(plain["matrices"], repaired["matrices"]):
            self.assertLess(after["output_error"], before["output_error"])
        out, _ = self.call("compress", self.encoder, "-o", self.folder / "measured", *arguments, "--repair",
                           "--scope", "allocated", "-v")
        self.assertIn("measured", out.splitlines()[0])
        self.assertRegex(out, r"\d\.\d\dx")

    def test_the_end_says_what_there_is_now(self):
        target = self.folder / "ends"
        out, err = self.call("compress", self.decoder, "-o", target, "--prune-tiles", "0.5", "--tile", "8x8", "--calibrate",
                             self.text, "--repair")
        lines = out.splitlines()
        self.assertIn("of the weights of the chosen matrices are removed", lines[0])
        self.assertIn("on the calibration text, on average", lines[1])
        self.assertRegex(lines[2], rf"^Written to {target}: [\d.]+ KB, [\d.]+ KB before, \d\.\d\d times as small\.$")
        self.assertRegex(lines[3], r"^Reading 47 tokens takes [\d.]+ ms, [\d.]+ ms before(, [\d.]+ times as fast)?, measured here\.$")
        self.assertRegex(lines[4], r"^It generates [\d.]+ tokens per second, [\d.]+ before")
        self.assertEqual(len(lines), 5)
        run, evaluate = (line.removeprefix("[next: ").removesuffix("]") for line in err.splitlines())
        self.assertEqual(run, f'tessera run {target} --prompt "Once upon a time"')
        self.assertEqual(evaluate, f"tessera eval {target} --base {self.decoder} --task perplexity --data texts.txt")
        self.call(*shlex.split(run)[1:], "--max-tokens", "3")

    def test_sizes_alone(self):
        out, err = self.call("compress", self.encoder, "-o", self.folder / "sizes", "--quantize", "int8", "--no-measure")
        self.assertRegex(out, r"\AWritten to [^\n]*\n\Z")
        self.assertIn("tessera embed", err)
        report = self.compress(self.encoder, "sizes_json", "--quantize", "int8")[1]
        self.assertIsNone(report["speed_before"])
        self.assertEqual(len(report["next"]), 2)

    def test_magnitude_is_warned_of(self):
        def warnings(name, *options):
            return self.call("compress", self.encoder, "-o", self.folder / name, "--no-measure",
                             *options)[1].partition("[next: ")[0]
        self.assertRegex(warnings("warned", "--prune-tiles", "0.5"), r"\Atessera compress: [^\n]*--calibrate texts.txt --repair\n\Z")
        self.assertEqual(warnings("text", "--prune-tiles", "0.5", "--calibrate", self.text), "")
        self.assertEqual(warnings("integers", "--quantize", "w8"), "")

    def test_model_card(self):
        source = self.folder / "with_card"
        shutil.copytree(self.encoder, source)
        (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Old\n")
        target, _ = self.compress(source, "carded", "--prune-tiles", "0.5", "--tile", "8x8", "--calibrate", self.text)
        card = (target / "README.md").read_text()
        for part in ("license: apache-2.0", "base_model: with_card", f"tessera compress --json {source}", "| 50.0% |",
                     "tessera embed carded", "% on average"):
            self.assertIn(part, card)
        self.assertEqual((target / "base-model-card.md").read_text(), "---\nlicense: apache-2.0\n---\n# Old\n")

    def test_equal_runs_give_equal_bytes(self):
        arguments = ["--prune-tiles", "0.6", "--tile", "8x8", "--calibrate", self.text, "--repair"]
        first, _ = self.compress(self.decoder, "first", *arguments)
        second, _ = self.compress(self.decoder, "second", *arguments)
        for file in ("tessera.safetensors", "config.json"):
            self.assertEqual((first / file).read_bytes(), (second / file).read_bytes(), file)

    def test_inspect_says_how_maps_are_stored(self):
        target, _ = self.compress(self.encoder, "inspected", "--prune-tiles", "0.9")
        plan = json.dumps(self.json("inspect", target)["plan"])
        self.assertIn("tile", plan)

    def test_usage(self):
        base = ("compress", "model", "-o", "out")
        self.assert_usage(*base, says=["--prune-..., --quantize, --kv-heads, --merge-adapter, --keep-..., --pruning or --search-keep"])
        self.assert_usage(*base, "--quantize", "int2", says=["--quantize", "int2"])
        self.assert_usage(*base, "--quantize", "bf16", says=["int8, int4, w8 or w4"])
        for option in (["--group", "32"], ["--smooth", "0.5"], ["--rounding", "nearest"]):
            self.assert_usage(*base, "--prune-tiles", "0.5", *option, says=[option[0], "--quantize"])
        for option in (["--repair"], ["--tile", "8x8"], ["--scope", "global"], ["--score", "magnitude"]):
            self.assert_usage(*base, "--quantize", "int8", *option, says=[option[0], "--prune"])
        self.assert_usage(*base, "--quantize", "int8", "--smooth", "0.5", says=["--calibrate"])
        self.assert_usage(*base, "--quantize", "int8", "--rounding", "compensated", says=["--calibrate"])
        self.assert_usage(*base, "--quantize", "int8", "--rounding", "up", says=["nearest or compensated", "up"])
        self.assert_usage(*base, "--quantize", "int8", "--smooth", "2", says=["--smooth"])
        self.assert_usage(*base, "--quantize", "int8", "--group", "-1", says=["--group"])
        self.assert_usage(*base, "--prune-tiles", "0.5", "--prune-inputs", "0.5", says=["one option --prune"])
        self.assert_usage("compress", "model", "--prune-tiles", "0.5", says=["--output"])
        for share in ("1.1", "-0.1", "x", "nan"):
            self.assert_usage(*base, "--prune-tiles", share, says=["--prune-tiles"])
        for tile in ("16", "0x16", "16x", "16x257", "ax8"):
            self.assert_usage(*base, "--prune-tiles", "0.5", "--tile", tile, says=["--tile", tile])
        self.assert_usage(*base, "--prune-tiles", "0.5", "--scope", "all", says=["--scope", "all"])
        self.assert_usage(*base, "--prune-tiles", "0.5", "--repair", says=["--calibrate"])
        self.assert_usage(*base, "--prune-tiles", "0.5", "--scope", "allocated", says=["--calibrate"])
        self.assert_usage(*base, "--prune-tiles", "0.5", "--score", "calibrated", says=["--calibrate"])
        self.assert_usage(*base, "--prune-tiles", "0.5", "--precompute-vo", says=["--prune-attention-aware"])
        self.assert_usage(*base, "--prune-tiles", "0.5", "--task", "stsb", says=["--data"])
        self.assert_usage(*base, "--prune-elements", "0.5", "--tile", "8x8", says=["--tile", "--prune-tiles"])

    def test_failures(self):
        prune = ("--prune-tiles", "0.5")
        target = self.folder / "fails"
        self.assert_fails("compress", self.folder / "nowhere", "-o", target, *prune, says=["nowhere", "found nothing"])
        self.assert_fails("compress", self.encoder, "-o", self.folder, *prune, says=["not there yet"])
        self.assert_fails("compress", self.encoder, "-o", self.folder / "no/such", *prune, says=["no/such"])
        self.assert_fails("compress", self.encoder, "-o", target, *prune, "--calibrate", self.folder / "no.txt",
                          says=["no.txt"])
        self.assert_fails("compress", self.encoder, "-o", target, *prune, "--matrices", "query,all", says=["all"])
        self.assert_fails("compress", self.encoder, "-o", target, *prune, "--layers", "1", says=["layers", "found 1"])
        self.assert_fails("compress", self.encoder, "-o", target, "--quantize", "w8", "--calibrate", self.text, "--smooth",
                          "0.5", says=["smooth", "w8"])
        self.assert_fails("compress", self.encoder, "-o", self.encoder / "small", *prune, says=["outside of", "inside"])
        # Before the work, not behind it.
        self.assert_fails("compress", self.encoder, "-o", target, *prune, "--task", "sstb", "--data", self.text, says=["sstb"])
        self.assert_fails("compress", self.encoder, "-o", target, *prune, "--task", "stsb", "--data", self.folder / "none",
                          says=["none"])
        self.assertFalse(target.exists())
        self.assertFalse(pathlib.Path(f"{target}.part").exists())

    def test_quantized_directories_that_lie(self):
        target, _ = self.compress(self.encoder, "honest_integers", "--quantize", "w4", "--group", "16")
        name = next(name for name in section_of(target)["tensors"] if "query" in name)
        for key, value, says in (("precision", "w2", ["precision", "w2"]), ("precision", "w8", ["shape [32, 32], found [32, 16]"]),
                                 ("group", 8, ["shape [32, 4], found [32, 2]"]), ("group", -1, ["group", "found -1"]),
                                 ("group", 33, ["shape [32, 1], found [32, 2]"]), ("shape", [32, 31], ["[32, 31]"]),
                                 ("group", None, ["group"])):
            liar = self.folder / "liar"
            shutil.rmtree(liar, ignore_errors=True)
            shutil.copytree(target, liar)
            settings = json.loads((liar / "config.json").read_text())
            settings["tessera"]["tensors"][name][key] = value
            checkpoints.write_json(liar, "config.json", settings)
            self.assert_fails("embed", liar, "x", "--dtype", "f32", says=says)

    def test_directories_that_lie(self):
        target, _ = self.compress(self.encoder, "honest", "--prune-tiles", "0.5", "--tile", "8x8")
        name = next(iter(section_of(target)["tensors"]))
        said = name[:32]  # messages shorten long names

        def lie(change, says):
            liar = self.folder / "liar"
            shutil.rmtree(liar, ignore_errors=True)
            shutil.copytree(target, liar)
            change(liar)
            self.assert_fails("embed", liar, "x", says=says)

        def config(key, value):
            def change(directory):
                settings = json.loads((directory / "config.json").read_text())
                settings["tessera"]["tensors"][name][key] = value
                checkpoints.write_json(directory, "config.json", settings)
            return change

        def index(suffix, value):
            def change(directory):
                path = directory / "tessera.safetensors"
                data = bytearray(path.read_bytes())
                (length,) = struct.unpack("<Q", data[:8])
                entry = json.loads(data[8 : 8 + length])[name + suffix]
                code = {"I32": "<i", "I16": "<h"}[entry["dtype"]]
                struct.pack_into(code, data, 8 + length + entry["data_offsets"][0], value)
                path.write_bytes(data)
            return change

        lie(config("format", "blocks"), ["format", "blocks"])
        lie(config("shape", [32, 33]), [said, "[32, 33]"])
        lie(config("tile", [16, 0]), ["tile", "found 0"])
        lie(config("shape", None), ["shape"])
        lie(index(".tile_offsets", 1), [said, "offsets", "found 1"])
        lie(index(".tile_offsets", -1), [said, "offsets", "found -1"])
        lie(index(".tile_columns", 9), [said, "columns", "found 9"])
        lie(index(".tile_columns", -1), [said, "columns", "found -1"])

    def test_interrupt(self):
        target = self.folder / "interrupted"
        arguments = ["compress", self.decoder, "-o", target, "--prune-tiles", "0.5", "--tile", "8x8", "--no-measure",
                     "--calibrate", self.text, "--repair"]
        process = self.start(*arguments)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        self.assertIn(process.returncode, (0, 130, -signal.SIGINT))
        if process.returncode != 0:
            self.assertFalse(target.exists())
            self.call(*arguments)
        self.assertTrue((target / "tessera.safetensors").exists())
        self.assertFalse(pathlib.Path(f"{target}.part").exists())

    def check_fixture(self, fixture, formats, *options):
        """Written by the first version that could; all its formats stand in it."""
        entries = section_of(fixture)["tensors"].values()
        self.assertEqual({entry.get("precision", entry["format"]) for entry in entries}, formats)
        expected = json.loads((fixture / "expected.json").read_text())
        found = self.json("run", fixture, "--ids", ",".join(map(str, expected["prompt"])), "--max-tokens", "8",
                          "--greedy", *options)
        self.assertEqual(found["ids"], expected["ids"])

    def test_a_directory_of_format_1_is_read(self):
        self.check_fixture(FIXTURES / "compressed-1", {"tiles", "csr", "compact", "stack"})

    def test_a_quantized_directory_of_format_1_is_read(self):
        """Its tiles are integers, and there are input scales."""
        fixture = FIXTURES / "quantized-1"
        self.assertTrue(any(name.endswith(".tile_scales") for name in tensors_of(fixture)))
        self.assertTrue(any(name.endswith(".input_scales") for name in tensors_of(fixture)))
        self.check_fixture(fixture, {"tiles", "int8", "int4", "w8", "w4"}, "--dtype", "f32")


@unittest.skipUnless(SHARED, "TESSERA_SHARED is not set")
class CompressFamilies(CliTest):
    def test_every_family(self):
        for name in ("bert-classify-bf16", "gpt2-f16", "llama-gqa", "qwen3"):
            with self.subTest(model=name):
                source = pathlib.Path(SHARED) / "golden/models" / name
                target = self.folder / name
                report = self.json("compress", source, "-o", target, "--prune-tiles", "0.5", "--no-measure")
                self.assertLess(report["bytes_after"], report["bytes_before"])
                self.json("inspect", target)


if __name__ == "__main__":
    run_tests()
