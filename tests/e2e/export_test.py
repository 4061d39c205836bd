#!/usr/bin/env python3
"""Tests of `tessera export` from outside: what it writes is the model that was compressed, to Tessera, to other
code and, where it is installed, to transformers.

    TESSERA_BINARY=build/bin/tessera tests/e2e/export_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped.
"""

import json
import pathlib
import shutil
import unittest

import checkpoints
from cli_test import SHARED, CliTest, has, run_tests

WAYS = {
    "tiles": ["--prune-tiles", "0.5", "--tile", "8x8"],
    "elements": ["--prune-elements", "0.7"],
    "outputs": ["--prune-outputs", "0.5"],
    "inputs": ["--prune-inputs", "0.5"],
    "aware": ["--prune-attention-aware", "0.5", "--tile", "8x8"],
    "int8": ["--quantize", "int8"],
    "w4": ["--quantize", "w4"],
    "both": ["--prune-tiles", "0.5", "--tile", "8x8", "--quantize", "int8"],
}
IDS = [[5, 9, 3, 20, 17, 4]]


class ExportTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.decoder = checkpoints.make_decoder(cls.folder / "decoder", context=64)
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder")
        checkpoints.write_json(cls.folder, "cases.json", {"cases": [{"name": "a", "input_ids": IDS}]})

    def compress(self, name, model=None, force=("--force",)):
        target = self.folder / (f"{model.name}-{name}" if model else name)
        self.call("compress", model or self.decoder, "-o", target, "--no-measure", *force, *WAYS[name])
        return target

    def export(self, source, name, *options):
        target = self.folder / name
        return target, self.json("export", source, "-o", target, "--force", *options)

    def logits(self, model):
        out = self.folder / "out.safetensors"
        self.call("dump", model, "--cases", self.folder / "cases.json", "-o", out, "--dtype", "f32")
        return checkpoints.read_rows(out, "a.logits")

    def assert_close(self, found, expected, tolerance=2e-5):
        """Two orders of the same sums in f32: some hundred roundings of what is summed."""
        largest = max(abs(value) for row in expected for value in row)
        for a, b in zip(found, expected, strict=True):
            for x, y in zip(a, b, strict=True):
                self.assertLessEqual(abs(x - y), tolerance * largest)


class Export(ExportTest):
    def test_every_form(self):
        before = checkpoints.read_safetensors(self.decoder / "model.safetensors")
        for name in WAYS:
            with self.subTest(way=name):
                small = self.compress(name)
                dense, report = self.export(small, f"{name}-dense")
                self.assertEqual(checkpoints.read_safetensors(dense / "model.safetensors"), before)
                self.assertGreater(report["matrices"], 0)
                self.assertGreater(report["bytes_after"], report["bytes_before"])
                config = json.loads((dense / "config.json").read_text())
                self.assertEqual(config, json.loads((self.decoder / "config.json").read_text()))
                self.assertEqual((dense / "tokenizer.json").read_bytes(), (self.decoder / "tokenizer.json").read_bytes())
                self.assertFalse(pathlib.Path(f"{dense}.part").exists())
                self.assert_close(self.logits(dense), self.logits(small))

    def test_type_and_masks(self):
        small = self.compress("tiles")
        for name, word in {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}.items():
            dense, report = self.export(small, f"typed-{name}", "--dtype", name, "--masks")
            for dtype, _ in checkpoints.read_safetensors(dense / "model.safetensors").values():
                self.assertEqual(dtype, name.upper())
            self.assertEqual(json.loads((dense / "config.json").read_text())["torch_dtype"], word)
            masks = checkpoints.read_safetensors(dense / "masks.safetensors")
            self.assertEqual(len(masks), report["masks"])
            self.assertEqual({dtype for dtype, _ in masks.values()}, {"BOOL"})
        out, _ = self.call("export", small, "-o", self.folder / "said", "--masks")
        self.assertRegex(out, r"said: 14 matrices multiplied out; .* on disk, .* before\nmasks.safetensors: 14 masks\n")

    @unittest.skipUnless(SHARED, "TESSERA_SHARED is not set")
    def test_conv1d(self):
        """GPT-2 stores matrices by inputs, and quantized ones by outputs."""
        for name in ("tiles", "aware", "int8", "both"):
            source = pathlib.Path(SHARED) / "golden/models/gpt2-f16"
            small = self.compress(name, source)
            dense, _ = self.export(small, f"gpt2-{name}")
            shapes = {key: shape for key, (_, shape) in checkpoints.read_safetensors(source / "model.safetensors").items()}
            found = checkpoints.read_safetensors(dense / "model.safetensors")
            self.assertEqual({key: shape for key, (_, shape) in found.items()}, shapes)
            dtype = "float32" if "int8" in WAYS[name] else "float16"
            self.assertEqual(json.loads((dense / "config.json").read_text())["dtype"], dtype)
            self.assert_close(self.logits(dense), self.logits(small))

    def test_refusals(self):
        small = self.compress("tiles")
        self.assert_usage("export", small, says=["--output"])
        self.assert_usage("export", small, "-o", "x", "--dtype", "int8", says=["--dtype", "f32, bf16 or f16"])
        self.assert_fails("export", small, "-o", self.folder, says=["not there yet", "--force"])
        self.assert_fails("export", small, "-o", self.decoder, "--force", says=["which stays"])
        self.assert_fails("export", small, "-o", small, "--force", says=["outside of"])
        notes = self.compress("int8") / "notes.txt"
        notes.write_text("mine")
        self.assert_fails("compress", self.decoder, "-o", notes.parent, "--force", *WAYS["int8"], says=["notes.txt"])
        self.assertEqual(notes.read_text(), "mine")
        notes.unlink()
        self.assert_fails("export", self.folder / "none", "-o", self.folder / "x", says=["none", "hf download"])


class Arrays(ExportTest):
    """The formats as docs/format.md has them, multiplied out by other code."""

    def written_out(self, entry, name, tensors):
        """The rows of a matrix."""
        part = lambda suffix: tensors[f"{name}.{suffix}"][1]
        rows, cols = entry["shape"]
        dense = [[0] * cols for _ in range(rows)]
        if entry["format"] == "tiles":
            height, width = entry["tile"]
            offsets, columns, tiles = part("tile_offsets"), part("tile_columns"), part("tiles")
            scales = part("tile_scales") if name + ".tile_scales" in tensors else [1] * rows
            for place in range(len(tiles)):
                tile, y, x = place // (height * width), place // width % height, place % width
                row = next(i for i in range(len(offsets) - 1) if tile < offsets[i + 1]) * height + y
                if row < rows and columns[tile] * width + x < cols:
                    dense[row][columns[tile] * width + x] = tiles[place] * scales[row]
        elif entry["format"] == "csr":
            offsets, columns, values = part("csr_offsets"), part("csr_columns"), part("csr_values")
            for row in range(rows):
                for at in range(offsets[row], offsets[row + 1]):
                    dense[row][columns[at]] = values[at]
        elif entry["format"] == "compact":
            kept, index = part("kept"), part("kept_index")
            for place, x in enumerate(kept):
                if entry["axis"] == "outputs":
                    dense[index[place // cols]][place % cols] = x
                else:
                    dense[place // len(index)][index[place % len(index)]] = x
        elif entry["format"] == "quantized":
            shape, values = tensors[name + ".values"]
            if shape[1] != cols:
                values = [half - 8 for byte in values for half in (byte & 15, byte >> 4)]
            scales, group, stride = part("scales"), entry["group"] or cols, len(values) // rows
            dense = [[values[row * stride + col] * scales[row * -(-cols // group) + col // group] for col in range(cols)]
                     for row in range(rows)]
        return dense

    def test_every_form(self):
        for name in WAYS:
            with self.subTest(way=name):
                small = self.compress(name)
                dense, _ = self.export(small, f"{name}-dense", "--masks")
                stored, found, masks = (checkpoints.read_tensors(path) for path in (
                    small / "tessera.safetensors", dense / "model.safetensors", dense / "masks.safetensors"))
                entries = json.loads((small / "config.json").read_text())["tessera"]["tensors"]
                self.assertTrue(entries)
                for tensor, entry in entries.items():
                    expected = [x for row in self.written_out(entry, tensor, stored) for x in row]
                    self.assertEqual(len(found[tensor][1]), len(expected))
                    # A product of two floats is rounded once.
                    wrong = [i for i, (x, y) in enumerate(zip(found[tensor][1], expected)) if abs(x - y) > 2.0**-23 * abs(y)]
                    self.assertFalse(wrong, tensor)
                for tensor, (_, mask) in masks.items():
                    self.assertFalse(any(x for x, kept in zip(found[tensor][1], mask) if not kept), tensor)


@unittest.skipUnless(has("torch", "transformers"), "transformers is not installed")
class Transformers(ExportTest):
    def test_exported_models_load_and_compressed_ones_do_not(self):
        import torch
        from transformers import AutoModelForCausalLM
        for name in WAYS:
            with self.subTest(way=name):
                small = self.compress(name)
                with self.assertRaises(OSError):
                    AutoModelForCausalLM.from_pretrained(small)
                dense, _ = self.export(small, f"{name}-dense")
                model, info = AutoModelForCausalLM.from_pretrained(dense, output_loading_info=True, dtype=torch.float32)
                for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
                    self.assertFalse(info[kind], kind)
                with torch.no_grad():
                    logits = model(torch.tensor(IDS)).logits[0].tolist()
                self.assert_close(self.logits(small), logits)

    @unittest.skipUnless(has("sentence_transformers"), "sentence-transformers is not installed")
    def test_sentence_transformers(self):
        from sentence_transformers import SentenceTransformer
        home = self.folder / "sentences"
        shutil.copytree(self.encoder, home / "0_Transformer")
        checkpoints.write_json(home / "0_Transformer", "tokenizer_config.json",
                               {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "cls_token": "[CLS]",
                                "sep_token": "[SEP]", "pad_token": "[PAD]"})
        (home / "1_Pooling").mkdir()
        checkpoints.write_json(home / "1_Pooling", "config.json",
                               {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
        checkpoints.write_json(home, "modules.json", [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate([("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")])])
        small = self.compress("tiles", home)
        with self.assertRaises(OSError):
            SentenceTransformer(str(small), device="cpu")
        dense, _ = self.export(small, "sentences-dense")
        expected = SentenceTransformer(str(dense), device="cpu").encode(["the cat"]).tolist()
        found = [line["embedding"] for line in self.json_lines("embed", small, "the cat", "--dtype", "f32")]
        self.assert_close(found, expected)


if __name__ == "__main__":
    run_tests()
