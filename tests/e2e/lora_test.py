#!/usr/bin/env python3
"""Tests of low-rank updates from outside: `tessera tune --lora`, the adapters that it keeps, and `tessera compress
--merge-adapter`; where they are installed, against PEFT and transformers.

    TESSERA_BINARY=build/bin/tessera tests/e2e/lora_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped, as all are where the program was built without libtorch. In a virtual
environment the second class runs behind `pip install peft transformers torch`: it holds with PEFT 0.14 and 0.21.
"""

import json
import random
import shutil
import signal
import unittest

import checkpoints
from cli_test import SECONDS, has, run_tests
from tune_test import Trains, floats, log_of, section_of, tensor_bytes, weights_of

IDS = [[5, 9, 3, 20, 17, 4, 6, 6, 11], [8, 7]]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *("##" + letter for letter in LETTERS)]
RATE = ["--learning-rate", "1e-2"]


class LoraTest(Trains):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder", layers=2)
        cls.decoder = checkpoints.make_decoder(cls.folder / "decoder", context=64)
        cls.gpt2 = checkpoints.make_gpt2(cls.folder / "gpt2-letters")
        checkpoints.write_json(cls.gpt2, "tokenizer.json", checkpoints.word_tokenizer(WORDS))
        checkpoints.write_json(cls.folder, "cases.json", {"cases": [{"name": str(i), "input_ids": [ids]} for i, ids in enumerate(IDS)]})

    def lora(self, model, name, *options, **more):
        return self.tune(model, name, "--task", "causal-lm", "--text", self.text, "--batch-tokens", "256", "--lora", "4", *options, **more)

    def merge(self, model, adapter, name):
        target = self.folder / name
        self.call("compress", model, "--merge-adapter", adapter, "-o", target)
        return target

    def dumped(self, model, what):
        out = self.folder / "out.safetensors"
        self.call("dump", model, "--cases", self.folder / "cases.json", "-o", out, "--dtype", "f32")
        return [row for i in range(len(IDS)) for row in checkpoints.read_rows(out, f"{i}.{what}")]

    def assert_close(self, found, expected, tolerance=2e-5):
        """Two orders of the same sums in f32: some hundred roundings of what is summed."""
        largest = max(abs(value) for row in expected for value in row)
        self.assertEqual([len(row) for row in found], [len(row) for row in expected])
        for a, b in zip(found, expected):
            for x, y in zip(a, b):
                self.assertLessEqual(abs(x - y), tolerance * largest)


class Lora(LoraTest):
    def test_only_updates_are_trained(self):
        target, report = self.lora(self.decoder, "merged", "--steps", "60", *RATE)
        self.assertLess(report["last_loss"], 0.9 * report["first_loss"])
        before = checkpoints.read_tensors(self.decoder / "model.safetensors")
        after = checkpoints.read_tensors(target / "model.safetensors")
        self.assertEqual({name: shape for name, (shape, _) in after.items()}, {name: shape for name, (shape, _) in before.items()})
        trained = 0
        for name, (shape, values) in before.items():
            is_trained = "_proj.weight" in name
            self.assertEqual(after[name][1] != values, is_trained, name)
            trained += 4 * sum(shape) if is_trained else 0
        self.assertEqual(report["trained_parameters"], trained)
        self.assertEqual(report["parameters"], sum(len(values) for _, values in before.values()))
        self.assertIsNone(section_of(target))
        self.assertIn("| low-rank updates | rank 4, alpha 8 |", (target / "README.md").read_text())

    def test_adapter_merges_to_what_tune_merges(self):
        options = ["--steps", "8", "--lora-alpha", "6", "--lora-dropout", "0.1", "--train", "query,value,ffn", *RATE]
        for model in (self.decoder, self.gpt2):
            with self.subTest(model=model.name):
                at_once, _ = self.lora(model, f"{model.name}-at-once", *options)
                adapter, report = self.lora(model, f"{model.name}-adapter", *options, "--keep-adapter")
                self.assertEqual(sorted(path.name for path in adapter.iterdir()),
                                 ["README.md", "adapter_config.json", "adapter_model.safetensors", "training.jsonl", "training.svg"])
                self.assertIn("--merge-adapter", report["next"][0])
                config = json.loads((adapter / "adapter_config.json").read_text())
                self.assertEqual((config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]), ("LORA", "CAUSAL_LM", 4, 6))
                self.assertEqual(config["base_model_name_or_path"], str(model))
                self.assertEqual(config["fan_in_fan_out"], model is self.gpt2)
                merged = self.merge(model, adapter, f"{model.name}-merged")
                self.assertIsNone(section_of(merged))
                one, other = (checkpoints.read_tensors(path / "model.safetensors") for path in (at_once, merged))
                self.assertEqual(set(one), set(other))
                for name, (shape, values) in one.items():
                    # Sums of rank + 1 terms in f32 and in f64.
                    largest = max(map(abs, values))
                    for x, y in zip(values, other[name][1]):
                        self.assertLessEqual(abs(x - y), 1e-6 * largest, name)
                self.call("run", merged, "--prompt", "the cat", "--max-tokens", "4")

    def test_what_was_pruned_stays_pruned(self):
        small = self.prune(self.encoder, "small", "--prune-tiles", "0.5", "--tile", "8x8")
        options = ["--teacher", self.encoder, "--text", self.text, "--batch-tokens", "256", "--lora", "8", "--steps", "60", *RATE]
        target, report = self.tune(small, "healed", *options)
        self.assertLess(report["last_loss"], 0.9 * report["first_loss"])
        self.assertEqual(section_of(target)["tensors"], section_of(small)["tensors"])
        for name in section_of(small)["tensors"]:
            self.assertEqual(tensor_bytes(target, name + ".tile_columns"), tensor_bytes(small, name + ".tile_columns"))
            self.assertNotEqual(tensor_bytes(target, name + ".tiles"), tensor_bytes(small, name + ".tiles"))
        adapter, _ = self.tune(small, "healing-adapter", *options, "--keep-adapter")
        merged = self.merge(small, adapter, "healed-by-adapter")
        for name in section_of(small)["tensors"]:
            one, other = (floats(tensor_bytes(model, name + ".tiles")) for model in (target, merged))
            for x, y in zip(one, other):
                self.assertLessEqual(abs(x - y), 1e-6 * max(map(abs, one)), name)
        self.assertEqual([entry["pass"] for entry in section_of(merged)["provenance"]["passes"]], ["prune-tiles", "merge-adapter"])

    def test_killed_at_any_step(self):
        options = ["--task", "causal-lm", "--text", self.text, "--batch-tokens", "256", "--lora", "4", "--steps", "60", "--checkpoint-every", "7",
                   "--dropout", "0.1", "--lora-dropout", "0.2", "--accumulate", "2", "--threads", "1"]
        whole, _ = self.tune(self.decoder, "uninterrupted", *options)
        target = self.folder / "killed"
        for lines in sorted(random.Random(5).sample(range(1, 50), 3)):
            process = self.start("tune", self.decoder, "-o", target, *options)
            self.wait_for_lines(process, target, lines)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=SECONDS)
        self.tune(self.decoder, "killed", *options)
        self.assertEqual(log_of(target), log_of(whole))
        self.assertEqual(weights_of(target), weights_of(whole))
        # Another rank is another training.
        process = self.start("tune", self.decoder, "-o", self.folder / "other", *options)
        self.wait_for_lines(process, self.folder / "other", 8)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=SECONDS)
        self.assert_fails("tune", self.decoder, "-o", self.folder / "other", *options, "--lora-alpha", "3", says=["other.part", "other options"])

    def test_force_replaces_an_adapter(self):
        adapter, _ = self.lora(self.decoder, "replaced", "--steps", "2", "--keep-adapter")
        self.assert_fails("tune", self.decoder, "-o", adapter, "--task", "causal-lm", "--text", self.text, "--lora", "4", says=["--force"])
        self.lora(self.decoder, "replaced", "--steps", "3", "--keep-adapter", "--force")
        self.assertEqual(len(log_of(adapter)), 3)

    def test_integers_have_adapters_alone(self):
        integers = self.prune(self.decoder, "integers", "--quantize", "int8")
        base = ["--task", "causal-lm", "--text", self.text, "--lora", "4", "--steps", "3"]
        self.assert_fails("tune", integers, "-o", self.folder / "no", *base, says=["integers", "adapter"])
        adapter, _ = self.tune(integers, "of-integers", *base, "--keep-adapter")
        self.assert_fails("compress", integers, "--merge-adapter", adapter, "-o", self.folder / "no", says=["integers"])
        self.merge(self.decoder, adapter, "of-floats")

    def test_usage(self):
        base = ("tune", "model", "-o", "out", "--task", "causal-lm", "--text", "x")
        self.assert_usage(*base, "--lora", "0", says=["--lora"])
        for option in (["--lora-alpha", "2"], ["--lora-dropout", "0.1"], ["--keep-adapter"]):
            self.assert_usage(*base, *option, says=[option[0], "--lora N"])
        self.assert_usage("compress", "model", "-o", "out", says=["--merge-adapter"])

    def test_failures(self):
        target = self.folder / "fails"
        base = ("tune", self.decoder, "-o", target, "--task", "causal-lm", "--text", self.text)
        self.assert_fails(*base, "--lora", "33", says=["rank of at most", "found 33"])
        self.assert_fails(*base, "--lora", "4", "--train", "query,norm", says=["train", "lora", "norm"])
        self.assert_fails(*base, "--lora", "4", "--train", "head", says=["lora", "found none"])
        self.assert_fails(*base, "--lora", "4", "--prune-tiles", "0.5", says=["lora", "prunes"])
        adapter, _ = self.lora(self.decoder, "sound", "--steps", "1", "--keep-adapter")
        merge = ("compress", self.decoder, "-o", target, "--merge-adapter")
        self.assert_fails(*merge, self.folder / "nowhere", says=["nowhere", "adapter_config.json"])
        self.assert_fails(*merge, adapter, "--prune-tiles", "0.5", says=["merge adapter", "another run"])
        self.assert_fails("compress", self.encoder, "-o", target, "--merge-adapter", adapter, says=["down_proj", "trained on"])
        config = json.loads((adapter / "adapter_config.json").read_text())
        for name, change, says in [("dora", {"use_dora": True}, ["use_dora"]), ("prefix", {"peft_type": "PREFIX_TUNING"}, ["PREFIX_TUNING"]),
                                   ("bias", {"bias": "lora_only"}, ["biases"]), ("alpha", {"lora_alpha": "x"}, ["lora_alpha"])]:
            other = self.folder / name
            shutil.copytree(adapter, other)
            checkpoints.write_json(other, "adapter_config.json", config | change)
            self.assert_fails(*merge, other, says=says)
        (other / "adapter_config.json").write_text(json.dumps(config))
        data = (other / "adapter_model.safetensors").read_bytes()
        (other / "adapter_model.safetensors").write_bytes(data[:-4])
        self.assert_fails(*merge, other, says=["adapter_model.safetensors"])
        (other / "adapter_model.safetensors").unlink()
        self.assert_fails(*merge, other, says=["adapter_model.safetensors"])
        self.assertFalse(target.exists())


@unittest.skipUnless(has("peft", "transformers", "torch"), "peft, transformers or torch is not installed")
class Peft(LoraTest):
    """Adapters both ways. PEFT runs the dense model with the adapter beside it, Tessera the merged one."""

    def model(self, name):
        """A random model of transformers with a tokenizer, and its class."""
        import torch
        import transformers as t
        torch.manual_seed(3)
        small = {"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "initializer_range": 0.3}
        gpt = {"vocab_size": len(WORDS), "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
        ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
        kinds = {
            "llama": (t.LlamaConfig(**small, num_key_value_heads=2, **ends), t.LlamaForCausalLM),
            "gpt2": (t.GPT2Config(**gpt, **ends), t.GPT2LMHeadModel),
            "bigcode": (t.GPTBigCodeConfig(**gpt, **ends, multi_query=True), t.GPTBigCodeForCausalLM),
            "bert": (t.BertConfig(**small, max_position_embeddings=48), t.BertModel),
            "bert-classes": (t.BertConfig(**small, max_position_embeddings=48, num_labels=2), t.BertForSequenceClassification),
            "roberta-classes": (t.RobertaConfig(**small, max_position_embeddings=50, num_labels=2, **ends | {"pad_token_id": 1}),
                                t.RobertaForSequenceClassification),
            "distilbert-words": (t.DistilBertConfig(vocab_size=len(WORDS), dim=32, hidden_dim=48, n_layers=2, n_heads=4, num_labels=3,
                                                    max_position_embeddings=48, initializer_range=0.3), t.DistilBertForTokenClassification),
        }
        config, kind = kinds[name]
        folder = self.folder / name
        if not folder.exists():
            kind(config).save_pretrained(folder)
            checkpoints.write_json(folder, "tokenizer.json", checkpoints.word_tokenizer(WORDS))
        return folder, kind

    def task(self, name):
        if "classes" in name:
            data = self.folder / "classes.tsv"
            data.write_text("text\tlabel\n" + "".join(f"{a} {b}\t{int(a < b)}\n" for a in "abcdef" for b in "abcdef"))
            return ["--task", "classification", "--data", data]
        if "words" in name:
            data = self.folder / "words.jsonl"
            data.write_text("".join(json.dumps({"tokens": [a, b], "labels": [int(a < b), 2]}) + "\n" for a in "abcdef" for b in "abcdef"))
            return ["--task", "token-classification", "--data", data]
        if name == "bert":
            return ["--teacher", self.encoder_teacher(), "--text", self.text]
        return ["--task", "causal-lm", "--text", self.text]

    def encoder_teacher(self):
        """Another one of the same shape."""
        import torch
        source, kind = self.model("bert")
        teacher = self.folder / "bert-teacher"
        if not teacher.exists():
            shutil.copytree(source, teacher)
            model = kind.from_pretrained(source)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            model.save_pretrained(teacher)
        return teacher

    def outputs(self, model):
        """What a model of transformers computes, row by row."""
        import torch
        rows = []
        with torch.no_grad():
            for ids in IDS:
                out = model.eval()(input_ids=torch.tensor([ids]))
                rows += (out.logits if hasattr(out, "logits") else out.last_hidden_state)[0].reshape(-1, self.width(out)).tolist()
        return rows

    @staticmethod
    def width(out):
        return (out.logits if hasattr(out, "logits") else out.last_hidden_state).shape[-1]

    NAMES = ["llama", "gpt2", "bigcode", "bert", "bert-classes", "roberta-classes", "distilbert-words"]

    def what(self, name):
        return "hidden.2" if name == "bert" else "logits"

    def test_peft_loads_what_tune_keeps(self):
        from peft import PeftModel
        for name in self.NAMES:
            for chosen in ([], ["--train", "query,value,attention_output"]):
                with self.subTest(model=name, chosen=chosen):
                    source, kind = self.model(name)
                    tag = f"{name}-{len(chosen)}"
                    options = [*self.task(name), "--lora", "4", "--steps", "12", *chosen, *RATE]
                    merged, _ = self.tune(source, f"{tag}-merged", *options)
                    adapter, _ = self.tune(source, f"{tag}-adapter", *options, "--keep-adapter")
                    loaded = PeftModel.from_pretrained(kind.from_pretrained(source), str(adapter))
                    expected = self.outputs(loaded)
                    self.assert_close(self.dumped(merged, self.what(name)), expected)
                    self.assert_close(self.dumped(self.merge(source, adapter, f"{tag}-again"), self.what(name)), expected)
                    self.assertNotEqual(expected, self.outputs(kind.from_pretrained(source)))

    def test_compress_merges_what_peft_saves(self):
        import torch
        from peft import LoraConfig, get_peft_model
        # With all-linear PEFT gives heads of these updates as well as copies of their own.
        targets = {"roberta-classes": ["query", "key", "value", "intermediate.dense"], "distilbert-words": ["q_lin", "v_lin", "lin1"]}
        kinds = {"bert-classes": "SEQ_CLS", "roberta-classes": "SEQ_CLS", "distilbert-words": "TOKEN_CLS", "bert": "FEATURE_EXTRACTION"}
        for name in self.NAMES:
            for scaled in (False, True):
                with self.subTest(model=name, scaled=scaled):
                    source, kind = self.model(name)
                    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets.get(name, "all-linear"), use_rslora=scaled, init_lora_weights=False,
                                        task_type=kinds.get(name, "CAUSAL_LM"))
                    torch.manual_seed(7)
                    model = get_peft_model(kind.from_pretrained(source), config)
                    with torch.no_grad():
                        for key, parameter in model.named_parameters():
                            if "modules_to_save" in key:
                                parameter.add_(0.1 * torch.randn_like(parameter))
                    adapter = self.folder / f"{name}-{scaled}-peft"
                    model.save_pretrained(adapter)
                    merged = self.merge(source, adapter, f"{name}-{scaled}-from-peft")
                    self.assert_close(self.dumped(merged, self.what(name)), self.outputs(model))


if __name__ == "__main__":
    run_tests()
