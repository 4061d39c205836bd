#!/usr/bin/env python3
"""Tests of `tessera tune` from outside: on tiny checkpoints that it makes itself, on the project's own model and, where
TESSERA_SHARED points at them, on models of every family.

    TESSERA_BINARY=build/bin/tessera tests/e2e/tune_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped, as those that train are where the program was built without libtorch.
"""

import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import time
import unittest

import checkpoints
from cli_test import BINARY, ROOT, SECONDS, SHARED, CliTest, run_tests

NO_LIBRARY = "training needs libtorch"


def builds_training(folder):
    result = subprocess.run([BINARY, "tune", folder, "-o", str(folder / "out"), "--task", "causal-lm", "--text", "x"], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)
    return NO_LIBRARY not in result.stderr.decode()


def log_of(directory):
    """The lines of the log without what no run has as another had it."""
    lines = (pathlib.Path(directory) / "training.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def section_of(directory):
    return json.loads((pathlib.Path(directory) / "config.json").read_text()).get("tessera")


def weights_of(directory):
    names = [name for name in ("tessera.safetensors", "model.safetensors") if (pathlib.Path(directory) / name).exists()]
    return (pathlib.Path(directory) / names[0]).read_bytes()


def tensor_names(directory):
    data = weights_of(directory)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return [name for name in header if name != "__metadata__"]


def tensor_bytes(directory, name):
    data = weights_of(directory)
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return data[8 + length + begin : 8 + length + end]


def floats(data):
    return list(memoryview(data).cast("f"))


class Trains(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not builds_training(cls.folder):
            raise unittest.SkipTest("the program was built without libtorch")
        words = ["the cat sat", "a dog ran far", "birds fly south in autumn", "no one was there to see"]
        cls.text = cls.folder / "text.txt"
        cls.text.write_text("\n".join(f"{a} and {b}" for a in words for b in words) + "\n")

    @classmethod
    def prune(cls, model, name, *options):
        target = cls.folder / name
        subprocess.run([BINARY, "compress", str(model), "-o", str(target), "--no-measure", "-q", *options], check=True, timeout=SECONDS,
                       stdout=subprocess.DEVNULL)
        return target

    @staticmethod
    def wait_for_lines(process, target, lines):
        """Until the log of a training has so many, or it has ended."""
        log = pathlib.Path(f"{target}.part") / "training.jsonl"
        end = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < end:
            if log.exists() and log.read_bytes().count(b"\n") >= lines:
                break
            time.sleep(0.0005)

    def tune(self, model, name, *options, **more):
        target = self.folder / name
        # Threads that wait for each other take long where others use the machine.
        threads = [] if "--threads" in options else ["--threads", "1"]
        return target, self.json("tune", model, "-o", target, *threads, *options, **more)


class Heal(Trains):
    """tessera compress --heal."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder", layers=2)

    def words(self, target, *options):
        return ["compress", self.encoder, "-o", target, "--prune-tiles", "0.5", "--tile", "8x8", "--no-measure", "--threads", "1", "--heal", self.text,
                *options]

    def left(self, target):
        return sorted(path.name for path in self.folder.iterdir() if path.name.startswith(target.name) and path != target)

    def test_both_in_one(self):
        target = self.folder / "both"
        verb, *words = self.words(target, "--heal-steps", "8")
        report = self.json(verb, *words)
        self.assertEqual(self.left(target), [])
        self.assertEqual(report["heal"]["steps"], 8)
        self.assertAlmostEqual(report["share"], 0.5, delta=0.02)
        self.assertTrue(report["matrices"])
        self.assertEqual(report["next"], report["heal"]["next"])
        self.assertIn(str(self.encoder), report["next"][1])
        self.assertEqual([entry["pass"] for entry in section_of(target)["provenance"]["passes"]], ["prune-tiles", "tune"])
        card = (target / "README.md").read_text()
        for part in (f"tessera compress --json {self.encoder}", "prune-tiles", "| steps | 8,", f"| teacher | {self.encoder} |", "base_model: encoder"):
            self.assertIn(part, card)
        # What the two verbs give one after the other.
        small = self.prune(self.encoder, "first", "--prune-tiles", "0.5", "--tile", "8x8")
        healed, _ = self.tune(small, "second", "--teacher", self.encoder, "--text", self.text, "--steps", "8")
        self.assertEqual(weights_of(target), weights_of(healed))
        out, _ = self.call(*self.words(self.folder / "text", "--heal-steps", "3"))
        self.assertIn("in 3 steps", out)
        self.assertIn(f"Written to {self.folder / 'text'}", out)

    def test_goes_on_where_it_stopped(self):
        whole = self.folder / "whole"
        self.call(*self.words(whole, "--heal-steps", "60"))
        target = self.folder / "stopped"
        words = self.words(target, "--heal-steps", "60")
        for number in (signal.SIGKILL, signal.SIGINT):
            process = self.start(*words)
            self.wait_for_lines(process, target, 5)
            process.send_signal(number)
            process.communicate(timeout=SECONDS)
            self.assertFalse(target.exists())
        compressed = weights_of(f"{target}.compressed")
        self.assert_fails(*self.words(target, "--heal-steps", "60", "--scope", "balanced"), says=[f"{target}.compressed", "--force"])
        self.assertEqual(weights_of(f"{target}.compressed"), compressed)
        verb, *options = words
        report = self.json(verb, *options)
        self.assertEqual(report["heal"]["steps"], 60)
        self.assertEqual(len(report["matrices"]), 12)
        self.assertEqual(weights_of(target), weights_of(whole))
        self.assertEqual(self.left(target), [])

    def test_killed_while_it_compresses(self):
        target = self.folder / "early"
        for delay in (0.0, 0.02, 0.05, 0.1):
            process = self.start(*self.words(target, "--heal-steps", "2"))
            time.sleep(delay)
            process.kill()
            process.communicate(timeout=SECONDS)
        self.call(*self.words(target, "--heal-steps", "2"), expect=1 if target.exists() else 0)
        self.assertEqual(self.left(target), [])

    def test_integers(self):
        target = self.folder / "integers"
        report = self.json("compress", self.encoder, "-o", target, "--quantize", "int4", "--heal", self.text, "--heal-steps", "5", "--no-measure")
        self.assertEqual(report["heal"]["steps"], 5)
        self.assertAlmostEqual(max(line["learning_rate"] for line in log_of(target)), 1e-4)
        self.assertEqual({entry["format"] for entry in section_of(target)["tensors"].values()}, {"int4"})

    def test_refusals_leave_nothing(self):
        target = self.folder / "refused"
        compress = ["compress", self.encoder, "-o", target, "--heal", self.text]
        self.assert_fails(*compress, "--prune-tiles", "0", says=["removes or rounds something"])
        self.assert_fails(*compress[:-1], self.folder / "missing.txt", "--prune-tiles", "0.5", says=["missing.txt"])
        empty = self.folder / "empty.txt"
        empty.write_text("\n")
        self.assert_fails(*compress[:-1], empty, "--prune-tiles", "0.5", says=["expected text"])
        self.assert_usage("compress", self.encoder, "-o", target, "--prune-tiles", "0.5", "--heal-steps", "3", says=["--heal FILE"])
        self.assertEqual(self.left(target), [])
        self.assertFalse(target.exists())


class Interrupted(Trains):
    def test_while_data_is_read(self):
        decoder = checkpoints.make_decoder(self.folder / "decoder", context=64)
        text = self.folder / "long.txt"
        text.write_text("the cat sat on a mat and saw a dog run far\n" * 1_000_000)
        process = self.start("tune", decoder, "-o", self.folder / "out", "--task", "causal-lm", "--text", text, "--threads", "1")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        _, err = process.communicate(timeout=SECONDS)
        self.assertEqual(process.returncode, 130)
        self.assertIn("while its data was read", err.decode())
        self.assertLess(time.monotonic() - begin, 2)

    def test_a_long_training_says_something(self):
        decoder = checkpoints.make_decoder(self.folder / "talker", context=64)
        process = self.start("tune", decoder, "-o", self.folder / "said", "--task", "causal-lm", "--text", self.text, "--steps", "1000000", "--threads", "1")
        line = process.stderr.readline().decode()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        self.assertRegex(line, r"\A\[step \d+ of 1000000: loss [^ ]+, [^ ]+ ?K? tokens/s, [^ ]+ [smhin]+ left\]\n\Z")
        self.assertEqual(process.returncode, 130)


class Tune(Trains):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder", layers=2)
        cls.decoder = checkpoints.make_decoder(cls.folder / "decoder", context=64)
        cls.small = cls.prune(cls.encoder, "small", "--prune-tiles", "0.5", "--tile", "8x8")

    def heal(self, name, *options, **more):
        return self.tune(self.small, name, "--teacher", self.encoder, "--text", self.text, "--batch-tokens", "256", *options, **more)

    def vectors(self, model):
        texts = ["the cat sat", "a dog ran far", "no one flies"]
        return [line["embedding"] for line in self.json_lines("embed", model, *texts)]

    def distance(self, one, other):
        return sum((a - b) ** 2 for x, y in zip(self.vectors(one), self.vectors(other)) for a, b in zip(x, y))

    def test_healing(self):
        target, report = self.heal("healed", "--steps", "60", "--learning-rate", "3e-3")
        self.assertLess(report["last_loss"], 0.7 * report["first_loss"])
        self.assertLess(self.distance(target, self.encoder), 0.7 * self.distance(self.small, self.encoder))
        self.assertEqual(report["steps"], 60)
        self.assertLess(report["trained_parameters"], report["parameters"])
        lines = log_of(target)
        self.assertEqual([line["step"] for line in lines], list(range(1, 61)))
        self.assertEqual(sum(line["tokens"] for line in lines), report["tokens"])
        self.assertEqual(max(line["learning_rate"] for line in lines), 3e-3)
        self.assertEqual(set(lines[0]), {"step", "loss", "learning_rate", "gradient_norm", "tokens"})
        self.assertEqual(report["files"], [str(target / "training.jsonl"), str(target / "training.svg")])
        self.assertIn("<svg", (target / "training.svg").read_text())
        self.assertFalse((self.folder / "healed.part").exists())

    def test_what_was_pruned_stays_pruned(self):
        target, _ = self.heal("masks", "--steps", "5", "--learning-rate", "1e-2")
        before, after = section_of(self.small), section_of(target)
        self.assertEqual(after["tensors"], before["tensors"])
        for name, entry in before["tensors"].items():
            self.assertEqual(entry["format"], "tiles")
            for part in (".tile_offsets", ".tile_columns"):
                self.assertEqual(tensor_bytes(target, name + part), tensor_bytes(self.small, name + part))
            self.assertNotEqual(tensor_bytes(target, name + ".tiles"), tensor_bytes(self.small, name + ".tiles"))
        passes = after["provenance"]["passes"]
        self.assertEqual([entry["pass"] for entry in passes], ["prune-tiles", "tune"])
        self.assertEqual(passes[1]["task"], "distil")
        self.assertEqual(after["provenance"]["seeds"], [0])
        # Embeddings are not trained by distillation.
        name = "embeddings.word_embeddings.weight"
        self.assertEqual(tensor_bytes(target, name), tensor_bytes(self.small, name))

    def test_model_card(self):
        source = self.folder / "with_card"
        shutil.copytree(self.small, source)
        (source / "README.md").write_text("---\nlicense: apache-2.0\nlibrary_name: tessera\nbase_model: owner/dense\n---\n# Old\n")
        target, report = self.tune(source, "carded", "--teacher", self.encoder, "--text", self.text, "--steps", "3", "--seed", "9")
        card = (target / "README.md").read_text()
        for part in ("license: apache-2.0", "base_model: owner/dense", f"tessera tune --json {source}", "| data | text.txt |", "| seed | 9 |",
                     f"| steps | 3, {report['tokens']} tokens in all |", "prune-tiles", "tessera embed carded", "training.svg"):
            self.assertIn(part, card)

    def test_language_model(self):
        target, report = self.tune(self.decoder, "spoken", "--task", "causal-lm", "--text", self.text, "--steps", "80", "--learning-rate", "1e-2",
                                   "--batch-tokens", "256", "--decay", "cosine", "--label-smoothing", "0.05")
        self.assertLess(report["last_loss"], 0.8 * report["first_loss"])
        self.assertIsNone(section_of(target))
        self.assertTrue((target / "model.safetensors").exists())
        self.assertIn("a", self.call("run", target, "--prompt", "the cat", "--max-tokens", "8", "--greedy")[0])
        # What comes out is trained on, and is replaced only where that is asked for.
        again = ["tune", target, "-o", self.folder / "again", "--task", "causal-lm", "--data", self.text, "--steps", "2"]
        out, err = self.call(*again)
        self.assertRegex(out, r"\ATrained [\d.]+ K of [\d.]+ K parameters in 2 steps, [\d.]+ K? ?tokens, \d+ s\.\n"
                              r"The loss was [\d.]+ at first and [\d.]+ in the end\.\nWritten to .*again\.\n\Z")
        self.assertIn("[next: tessera run", err)
        self.assert_fails(*again, says=["again", "--force"])
        self.call(*again, "--force")

    def test_texts_that_are_cut_are_counted(self):
        _, report = self.heal("whole", "--steps", "1")
        self.assertEqual(report["cut"], 0)
        command = ["tune", self.small, "-o", self.folder / "cut", "--teacher", self.encoder, "--text", self.text, "--steps", "1", "--max-tokens", "4"]
        _, err = self.call(*command)
        self.assertRegex(err, r"\[1?\d texts of the data were longer than --max-tokens allows, and lost the rest\]")

    def test_only_what_is_chosen_is_trained(self):
        target, _ = self.heal("norms", "--steps", "3", "--learning-rate", "1e-2", "--train", "norm,bias")
        name = next(iter(section_of(self.small)["tensors"]))
        self.assertEqual(tensor_bytes(target, name + ".tiles"), tensor_bytes(self.small, name + ".tiles"))
        bias = "encoder.layer.0.output.LayerNorm.bias"
        self.assertNotEqual(tensor_bytes(target, bias), tensor_bytes(self.small, bias))

    def test_single_weights_stay_pruned(self):
        # So few that the dense form is the smaller one, which has no mask.
        pruned = self.prune(self.decoder, "few-pruned", "--prune-elements", "0.3")
        target, _ = self.tune(pruned, "few-healed", "--teacher", self.decoder, "--text", self.text, "--steps", "3")
        name = "model.layers.0.mlp.up_proj.weight"
        before, after = (floats(tensor_bytes(model, name)) for model in (pruned, target))
        self.assertAlmostEqual(sum(x == 0 for x in before) / len(before), 0.3, places=2)
        self.assertEqual([x == 0 for x in before], [x == 0 for x in after])
        self.assertNotEqual(before, after)

    def test_integers_stay_integers(self):
        integers = self.prune(self.encoder, "rounded", "--quantize", "int8")
        target, _ = self.tune(integers, "rounded-healed", "--teacher", self.encoder, "--text", self.text, "--steps", "3", "--train", "norm,bias")
        self.assertEqual(section_of(target)["tensors"], section_of(integers)["tensors"])
        self.assertEqual(len(weights_of(target)), len(weights_of(integers)))
        bias = "encoder.layer.0.output.dense.bias"
        self.assertNotEqual(tensor_bytes(target, bias), tensor_bytes(integers, bias))
        # Those that are not trained keep their bits.
        for name in (name for name in tensor_names(integers) if name.endswith((".values", "scales"))):
            self.assertEqual(tensor_bytes(target, name), tensor_bytes(integers, name))

    def test_integers_heal(self):
        options = ["--steps", "60", "--learning-rate", "3e-3", "--checkpoint-every", "7"]
        for name, *compress in (("int4", "--quantize", "int4"), ("tiles-int8", "--prune-tiles", "0.5", "--tile", "8x8", "--quantize", "int8")):
            integers = self.prune(self.encoder, name, *compress)
            target, report = self.tune(integers, f"{name}-healed", "--teacher", self.encoder, "--text", self.text, "--batch-tokens", "256", *options)
            self.assertLess(report["last_loss"], 0.8 * report["first_loss"])
            self.assertLess(self.distance(target, self.encoder), 0.8 * self.distance(integers, self.encoder))
            self.assertEqual(section_of(target)["tensors"], section_of(integers)["tensors"])
            self.assertEqual(len(weights_of(target)), len(weights_of(integers)))
            changed = [name for name in tensor_names(integers) if tensor_bytes(target, name) != tensor_bytes(integers, name)]
            self.assertTrue(any(name.endswith((".values", ".tiles")) for name in changed))
            for suffix in ("scales", ".tile_offsets", ".tile_columns"):
                self.assertFalse([name for name in changed if name.endswith(suffix)])
            # Interrupted, it goes on with what the integers were rounded from.
            again = self.folder / f"{name}-killed"
            process = self.start("tune", integers, "-o", again, "--teacher", self.encoder, "--text", self.text, "--batch-tokens", "256", *options,
                                 "--threads", "1")
            self.wait_for_lines(process, again, 20)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=SECONDS)
            self.assertEqual(process.returncode, -signal.SIGKILL)
            self.tune(integers, f"{name}-killed", "--teacher", self.encoder, "--text", self.text, "--batch-tokens", "256", *options)
            self.assertEqual(log_of(again), log_of(target))
            self.assertEqual(weights_of(again), weights_of(target))
        self.assert_fails("tune", self.folder / "int4", "-o", self.folder / "no", "--teacher", self.encoder, "--text", self.text, "--prune-tiles", "0.5",
                          says=["tiles of int8", "found int4"])

    def test_integers_lose_tiles(self):
        integers = self.prune(self.encoder, "int8", "--quantize", "int8")
        target, _ = self.tune(integers, "int8-tiles", "--teacher", self.encoder, "--text", self.text, "--steps", "8", "--prune-tiles", "0.5",
                              "--tile", "8x8", "--prune-method", "one-shot")
        self.assertLess(len(weights_of(target)), len(weights_of(integers)))
        self.assertTrue(any(name.endswith(".tile_scales") for name in tensor_names(target)))
        self.vectors(target)

    def test_tokens_leave_as_they_will(self):
        leaving = self.prune(self.encoder, "leaving", "--keep-tokens", "1,0.5")
        target, report = self.tune(leaving, "leaving-healed", "--teacher", self.encoder, "--text", self.text, "--steps", "60", "--learning-rate", "3e-3")
        self.assertLess(report["last_loss"], 0.9 * report["first_loss"])
        self.assertEqual(section_of(target)["pruning"], section_of(leaving)["pruning"])
        self.assertLess(self.distance(target, self.encoder), 0.9 * self.distance(leaving, self.encoder))
        self.assert_fails("tune", leaving, "-o", self.folder / "no", "--teacher", self.encoder, "--text", self.text, "--attention-loss", "1",
                          says=["attention", "schedule"])

    def test_a_new_head(self):
        rows = [("the cat sat", "calm"), ("a dog ran far", "busy"), ("birds fly south", "busy"), ("no one was there", "calm")] * 4
        data = self.folder / "labels.tsv"
        data.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
        task = ["--task", "classification", "--data", data, "--batch", "4", "--learning-rate", "3e-3"]
        for name, source in (("head", self.encoder), ("head-pruned", self.small)):
            target, report = self.tune(source, name, *task, "--steps", "40")
            self.assertLess(report["last_loss"], 0.5 * report["first_loss"])
            self.assertGreater(report["drawn_parameters"], 0)
            config = json.loads((target / "config.json").read_text())
            self.assertEqual(config["architectures"], ["BertForSequenceClassification"])
            self.assertEqual(config["id2label"], {"0": "busy", "1": "calm"})
            labels = [line["label"] for line in self.json_lines("classify", target, "the cat sat", "a dog ran far")]
            self.assertEqual(labels, ["calm", "busy"])
            self.assertFalse((self.folder / f"{name}.part").exists())
        self.assertEqual(set(section_of(target)["tensors"]), {f"bert.{tensor}" for tensor in section_of(self.small)["tensors"]})
        # The head that is there now is trained on, unless another is wanted.
        again, report = self.tune(self.folder / "head", "head-again", *task, "--steps", "2")
        self.assertEqual(report["drawn_parameters"], 0)
        again, report = self.tune(self.folder / "head", "head-anew", *task, "--steps", "2", "--new-head")
        self.assertGreater(report["drawn_parameters"], 0)
        self.assert_fails("tune", self.encoder, "-o", self.folder / "no", "--teacher", self.encoder, "--text", self.text, "--new-head",
                          says=["head", "distil"])
        (self.folder / "one.tsv").write_text("text\tlabel\na\tx\nb\tx\n")
        self.assert_fails("tune", self.encoder, "-o", self.folder / "no", "--task", "classification", "--data", self.folder / "one.tsv", says=["x"])
        self.assertFalse((self.folder / "no.part").exists())

    def test_from_scratch(self):
        source = self.folder / "recipe"
        shutil.copytree(self.decoder, source)
        (source / "model.safetensors").unlink()
        task = ["--task", "causal-lm", "--text", self.text, "--from-scratch", "--learning-rate", "3e-3", "--batch-tokens", "256"]
        target, report = self.tune(source, "scratch", *task, "--steps", "60")
        self.assertEqual(report["drawn_parameters"], report["parameters"])
        self.assertLess(report["last_loss"], 0.8 * report["first_loss"])
        other, _ = self.tune(source, "scratch-2", *task, "--steps", "60")
        self.assertEqual(weights_of(target), weights_of(other))
        seeded, _ = self.tune(source, "scratch-3", *task, "--steps", "1", "--seed", "1")
        self.assertNotEqual(weights_of(target), weights_of(seeded))
        # The model is described by its config: a training is not taken up with another one.
        process = self.run_until(self.folder / "described", 2, source, *task, "--steps", "5000", "--checkpoint-every", "1")
        process.kill()
        process.communicate()
        config = json.loads((source / "config.json").read_text())
        config["rope_theta"] = 5000
        (source / "config.json").write_text(json.dumps(config))
        self.assert_fails("tune", source, "-o", self.folder / "described", *task, "--steps", "5000", "--checkpoint-every", "1", says=["other options"])

    def test_averaged_heads_learn_the_attention_of_all(self):
        averaged = self.prune(self.decoder, "averaged", "--kv-heads", "1")
        _, report = self.tune(averaged, "averaged-healed", "--teacher", self.decoder, "--text", self.text, "--steps", "40", "--attention-loss", "1",
                              "--learning-rate", "3e-3")
        self.assertLess(report["last_loss"], 0.8 * report["first_loss"])

    def test_equal_calls_give_equal_bytes(self):
        options = ["--steps", "8", "--dropout", "0.2", "--accumulate", "2", "--threads", "1"]
        first, _ = self.heal("first", *options)
        second, _ = self.heal("second", *options)
        other, _ = self.heal("third", *options, "--seed", "1")
        self.assertEqual(log_of(first), log_of(second))
        self.assertEqual(weights_of(first), weights_of(second))
        self.assertNotEqual(log_of(first), log_of(other))

    def test_layers_that_are_computed_again(self):
        options = ["--steps", "6", "--dropout", "0.2", "--accumulate", "2", "--attention-loss", "0.5", "--threads", "1"]
        kept, _ = self.heal("kept_states", *options)
        again, _ = self.heal("computed_again", *options, "--recompute")
        self.assertEqual(log_of(kept), log_of(again))
        self.assertEqual(weights_of(kept), weights_of(again))
        # The losses are those of a training that was begun without it, which therefore goes on.
        options = ["--steps", "400", "--threads", "1", "--dropout", "0.1"]
        process = self.start_until(self.folder / "half_again", 3, *options)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        begun = log_of(self.folder / "half_again.part")
        self.assertEqual(log_of(self.heal("half_again", *options, "--recompute")[0])[: len(begun)], begun)
        language = ["--task", "causal-lm", "--text", self.text, "--steps", "4", "--lora", "4", "--lora-dropout", "0.2"]
        kept, again = (self.tune(self.decoder, name, *language, *more)[0] for name, more in (("lora_kept", []), ("lora_again", ["--recompute"])))
        self.assertEqual(weights_of(kept), weights_of(again))
        leaving = self.prune(self.encoder, "leaving_again", "--keep-tokens", "1,0.5")
        self.assert_fails("tune", leaving, "-o", self.folder / "no", "--teacher", self.encoder, "--text", self.text, "--recompute",
                          says=["schedule", "again"])

    def test_another_tokenizer_is_another_training(self):
        source = self.folder / "source_that_changes"
        shutil.copytree(self.small, source)
        command = ["tune", source, "-o", self.folder / "changed", "--teacher", self.encoder, "--text", self.text, "--steps", "400", "--threads", "1"]
        process = self.start(*command)
        log = self.folder / "changed.part" / "training.jsonl"
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > 2):
            time.sleep(0.0005)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        tokenizer = source / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text() + "\n")
        self.assert_fails(*command, says=["changed.part", "other options"])

    def start_until(self, target, lines, *options):
        """A training that has got so far, or has ended."""
        return self.run_until(target, lines, self.small, "--teacher", self.encoder, "--text", self.text, "--batch-tokens", "256", *options)

    def run_until(self, target, lines, model, *options):
        process = self.start("tune", model, "-o", target, *options)
        self.wait_for_lines(process, target, lines)
        return process

    def test_killed_at_any_step(self):
        options = ["--steps", "60", "--checkpoint-every", "7", "--dropout", "0.1", "--threads", "2", "--learning-rate", "3e-3"]
        whole, _ = self.heal("uninterrupted", *options)
        generator = random.Random(5)
        for round in range(3):
            target = self.folder / f"killed{round}"
            kills = 0
            for lines in sorted(generator.sample(range(1, 60), 4)):
                process = self.start_until(target, lines, *options)
                process.send_signal(signal.SIGKILL)
                process.communicate(timeout=SECONDS)
                kills += process.returncode == -signal.SIGKILL
                if target.exists():
                    break
            if not target.exists():
                self.heal(f"killed{round}", *options)
            self.assertGreater(kills, 0)
            self.assertEqual(log_of(target), log_of(whole))
            self.assertEqual(weights_of(target), weights_of(whole))
            self.assertFalse(pathlib.Path(f"{target}.part").exists())

    def test_interrupt(self):
        options = ["--steps", "400", "--threads", "1"]
        target = self.folder / "interrupted"
        process = self.start_until(target, 5, *options)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
        self.assertEqual(process.returncode, 130, err)
        self.assertFalse(target.exists())
        part = pathlib.Path(f"{target}.part")
        step = len(log_of(part))
        self.assertGreaterEqual(step, 5)
        self.assertIn(f"[the training was stopped after step {step}; the same call goes on from there]", err.decode())
        self.assertTrue((part / "state.safetensors").exists())
        # What another recipe would go on from is refused, and goes where that is asked for.
        other = ["tune", self.small, "-o", target, "--teacher", self.encoder, "--text", self.text, "--batch-tokens", "256", "--steps", "9", "--threads", "1"]
        self.assert_fails(*other, says=["interrupted.part", "other options", "--force"])
        self.assertEqual(len(log_of(part)), step)
        _, report = self.heal("interrupted", *options)
        whole, _ = self.heal("at_a_stretch", *options)
        self.assertEqual(log_of(target), log_of(whole))
        self.assertEqual(weights_of(target), weights_of(whole))
        self.assertEqual(report["steps"], 400)

    def test_force_begins_anew(self):
        target = self.folder / "anew"
        process = self.start_until(target, 5, "--steps", "400", "--threads", "1")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        _, report = self.heal("anew", "--steps", "9", "--force")
        self.assertEqual(len(log_of(target)), 9)

    def test_validation(self):
        """What is learnt by heart is worse on other data: the best is kept, and the training ends early."""
        other = self.folder / "other.txt"
        other.write_text("quick foxes jump\nover lazy dogs\n")
        options = ["--task", "causal-lm", "--text", self.text, "--validate", other, "--steps", "300", "--checkpoint-every", "5", "--learning-rate",
                   "1e-2", "--batch-tokens", "256", "--patience", "4"]
        target, report = self.tune(self.decoder, "validated", *options)
        lines = log_of(target)
        losses = {line["step"]: line["validation"] for line in lines if "validation" in line}
        self.assertLess(report["steps"], 300)
        self.assertEqual(len(lines), report["steps"])
        self.assertEqual(list(losses), list(range(5, report["steps"] + 1, 5)))
        best = min(losses, key=losses.get)
        self.assertEqual(report["validation_loss"], losses[best])
        self.assertEqual(report["steps"], best + 20)
        self.assertIn("loss on other data", (target / "training.svg").read_text())
        # Interrupted, it ends with the same model at the same step.
        again = self.folder / "validated_again"
        process = self.start("tune", self.decoder, "-o", again, *options, "--threads", "1")
        log = pathlib.Path(f"{again}.part") / "training.jsonl"
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > best + 6):
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=SECONDS)
        self.tune(self.decoder, "validated_again", *options)
        self.assertEqual(log_of(again), lines)
        self.assertEqual(weights_of(again), weights_of(target))
        base = ("tune", "model", "-o", "out", "--task", "causal-lm", "--text", "x")
        self.assert_usage(*base, "--patience", "2", says=["--patience", "--validate"])

    def test_a_loss_that_is_no_number(self):
        target = self.folder / "diverges"
        options = ["tune", self.decoder, "-o", target, "--task", "causal-lm", "--text", self.text, "--learning-rate", "1e6", "--warmup", "0",
                   "--clip", "0", "--checkpoint-every", "1", "--batch-tokens", "256", "--threads", "1"]
        self.assert_fails(*options, says=["diverges.part", "expected a finite", "found NaN at a learning rate of", "begin anew with a lower rate", "--force"])
        self.assertEqual(log_of(f"{target}.part")[0]["step"], 1)
        self.assertTrue((pathlib.Path(f"{target}.part") / "state.safetensors").exists())
        self.assertFalse(target.exists())

    def test_full_disk(self):
        options = ["--steps", "400", "--threads", "1"]
        target = self.folder / "full"
        process = self.start_until(target, 5, *options)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        state = pathlib.Path(f"{target}.part") / "state.safetensors"
        before = state.read_bytes()

        def limit():  # as a disk that is full: a write beyond it fails
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, resource.RLIM_INFINITY))

        self.assert_fails("tune", self.small, "-o", target, "--teacher", self.encoder, "--text", self.text, "--batch-tokens", "256", *options,
                          "--checkpoint-every", "3", says=["state.safetensors", "cannot write"], preexec_fn=limit, restore_signals=False)
        self.assertEqual(state.read_bytes(), before)
        self.heal("full", *options)
        self.assertEqual(len(log_of(target)), 400)

    def test_usage(self):
        base = ("tune", "model", "-o", "out")
        text = ("--text", "x")
        self.assert_usage(*base, *text, says=["--teacher", "--task"])
        self.assert_usage(*base, "--teacher", "x", says=["--data", "--text"])
        self.assert_usage(*base, *text, "--task", "distil", says=["--teacher"])
        self.assert_usage(*base, *text, "--task", "causal-lm", "--teacher", "x", says=["--teacher", "--task distil"])
        self.assert_usage(*base, *text, "--task", "casual-lm", says=["did you mean causal-lm?"])
        self.assert_usage(*base, *text, "--task", "causal-lm", "--hidden-loss", "2", says=["--hidden-loss", "--teacher"])
        self.assert_usage(*base, *text, "--task", "causal-lm", "--masked-share", "0.2", says=["--masked-share", "masked-lm"])
        self.assert_usage("tune", "model", *text, "--task", "causal-lm", says=["--output"])
        for option, values in {"--steps": ("0", "-1", "x"), "--dropout": ("1", "-0.1"), "--warmup": ("1.1", "nan"), "--accumulate": ("0",),
                               "--learning-rate": ("-1", "x"), "--checkpoint-every": ("0",), "--decay": ("up",), "--seed": ("-1",)}.items():
            for value in values:
                self.assert_usage(*base, *text, "--task", "causal-lm", option, value, says=[option])

    def test_failures(self):
        target = self.folder / "fails"
        base = ("tune", self.encoder, "-o", target, "--teacher", self.encoder)
        empty = self.folder / "empty.txt"
        empty.write_text("\n")
        self.assert_fails(*base, "--text", self.folder / "no.txt", says=["no.txt"])
        self.assert_fails(*base, "--text", empty, says=["empty.txt"])
        self.assert_fails(*base, "--text", self.text, "--train", "query,all", says=["train", '"all"'])
        self.assert_fails(*base, "--text", self.text, "--train", "head", says=["train", "head"])
        self.assert_fails("tune", self.folder / "nowhere", "-o", target, "--teacher", self.encoder, "--text", self.text, says=["nowhere"])
        self.assert_fails("tune", self.encoder, "-o", target, "--teacher", self.decoder, "--text", self.text,
                          says=["decoder", "2 layers of width 32 with", "256 tokens"])
        self.assert_fails("tune", self.encoder, "-o", self.folder, "--teacher", self.encoder, "--text", self.text, says=["not there yet"])
        self.assert_fails("tune", self.encoder, "-o", self.encoder / "in", "--teacher", self.encoder, "--text", self.text, says=["outside of"])
        self.assert_fails("tune", self.encoder, "-o", target, "--task", "causal-lm", "--text", self.text, says=["no such head", "BertForCausalLM"])
        table = self.folder / "table.tsv"
        table.write_text("text\tlabel\na\t0\nb\t1\n")
        self.assert_fails("tune", self.decoder, "-o", target, "--task", "question-answering", "--data", table, says=["LlamaForQuestionAnswering"])
        self.assert_fails(*base, "--text", self.text, "--hidden-loss", "0", "--embedding-loss", "0", says=["loss that depends on what is trained"])
        self.assert_fails(*base, "--text", self.text, "--epsilon", "0", says=["epsilon"])
        shutil.rmtree(f"{target}.part")
        self.assertFalse(target.exists())
        self.assertFalse(pathlib.Path(f"{target}.part").exists())


class TuneLibrary(CliTest):
    def test_without_the_library(self):
        """A copy of the program's library that has no library of training beside it."""
        folder = self.folder / "alone"
        folder.mkdir()
        shared = sorted(pathlib.Path(BINARY).resolve().parents[1].glob("lib/libtessera.so.*"))
        for file in shared:
            shutil.copy(file, folder / file.name)
        program = BINARY
        if not shared:
            program = shutil.copy(BINARY, folder)
        result = subprocess.run([program, "tune", "model", "-o", "out", "--task", "causal-lm", "--text", "x"], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env=dict(os.environ, LD_LIBRARY_PATH=str(folder)))
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr.decode(), r"\Atessera tune: training needs libtorch[^\n]*tools/install_packages.sh tune[^\n]*\n\Z")


class TuneTales(Trains):
    def test_tales(self):
        tales = ROOT / "models/tales"
        small = self.prune(tales, "half", "--prune-tiles", "0.5")
        text = ROOT / "examples/texts/tales.txt"
        target, report = self.tune(small, "healed_tales", "--teacher", tales, "--text", text, "--steps", "12", "--batch-tokens", "512")
        self.assertLess(report["last_loss"], report["first_loss"])
        self.assertEqual(section_of(target)["tensors"], section_of(small)["tensors"])
        self.call("run", target, "--prompt", "Once upon a time", "--max-tokens", "4")


@unittest.skipUnless(SHARED, "TESSERA_SHARED is not set")
class TuneFamilies(Trains):
    def test_every_family(self):
        """Pruned models of every family come nearer to what they were made from."""
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + letter for letter in letters)]
        for golden in sorted((pathlib.Path(SHARED) / "golden/models").iterdir()):
            if "longformer" in golden.name:
                continue
            with self.subTest(model=golden.name):
                dense = self.folder / golden.name
                shutil.copytree(golden, dense)
                checkpoints.write_json(dense, "tokenizer.json", checkpoints.word_tokenizer(words))
                small = self.prune(dense, f"{golden.name}-small", "--prune-tiles", "0.5", "--tile", "8x8")
                target, report = self.tune(small, f"{golden.name}-healed", "--teacher", dense, "--text", self.text, "--steps", "40",
                                           "--learning-rate", "3e-3", "--batch-tokens", "512")
                self.assertLess(report["last_loss"], report["first_loss"])
                self.assertEqual(section_of(target)["tensors"], section_of(small)["tensors"])
                self.call("inspect", target)


if __name__ == "__main__":
    run_tests()
