#!/usr/bin/env python3
"""Tests of `tessera compress` from outside: on tiny checkpoints that it makes itself, on the project's own model and,
where TESSERA_SHARED points at them, on models of every family.

    TESSERA_BINARY=build/bin/tessera tests/e2e/compress_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped.
"""

import json
import os
import pathlib
import shutil
import signal
import struct
import sys
import unittest

import checkpoints
from cli_test import SECONDS, SHARED, CliTest

FIXTURE = pathlib.Path(__file__).resolve().parent / "compressed-1"


def tensors_of(directory):
    return checkpoints.read_safetensors(os.path.join(directory, "model.safetensors"))


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
                target, report = self.compress(self.decoder, name, f"--prune-{unit}", "0.5", "--tile", "8x8", *options)
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
                           "--scope", "allocated")
        self.assertIn("measured", out.splitlines()[0])
        self.assertRegex(out, r"\d\.\d\dx")

    def test_equal_runs_give_equal_bytes(self):
        arguments = ["--prune-tiles", "0.6", "--tile", "8x8", "--calibrate", self.text, "--repair"]
        first, _ = self.compress(self.decoder, "first", *arguments)
        second, _ = self.compress(self.decoder, "second", *arguments)
        for file in ("model.safetensors", "config.json"):
            self.assertEqual((first / file).read_bytes(), (second / file).read_bytes(), file)

    def test_inspect_says_how_maps_are_stored(self):
        target, _ = self.compress(self.encoder, "inspected", "--prune-tiles", "0.9")
        plan = json.dumps(self.json("inspect", target)["plan"])
        self.assertIn("tile", plan)

    def test_usage(self):
        base = ("compress", "model", "-o", "out")
        self.assert_usage(*base, says=["one option --prune"])
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
        self.assertFalse(target.exists())
        self.assertFalse(pathlib.Path(f"{target}.part").exists())

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
                path = directory / "model.safetensors"
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
        self.assertTrue((target / "model.safetensors").exists())
        self.assertFalse(pathlib.Path(f"{target}.part").exists())

    @unittest.skipUnless(FIXTURE.exists(), "there is no fixture")
    def test_a_directory_of_format_1_is_read(self):
        """Written by the first version that could; every format stands in it."""
        self.assertEqual({entry["format"] for entry in section_of(FIXTURE)["tensors"].values()},
                         {"tiles", "csr", "compact", "stack"})
        expected = json.loads((FIXTURE / "expected.json").read_text())
        found = self.json("run", FIXTURE, "--ids", ",".join(map(str, expected["prompt"])), "--max-tokens", "8", "--greedy")
        self.assertEqual(found["ids"], expected["ids"])


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
    program = unittest.main(exit=False, verbosity=2)
    outcome = program.result
    if outcome.wasSuccessful() and len(outcome.skipped) >= outcome.testsRun:
        sys.exit(77)
    sys.exit(not outcome.wasSuccessful())
