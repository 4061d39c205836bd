#!/usr/bin/env python3
"""Small checkpoints that once gave a wrong result without a word, or a message that does not say what is wrong. A
folder each, with the commands and what transformers and sentence-transformers give in its expected.json. They are
not in the repository: TESSERA_SHARED points at them.

    TESSERA_SHARED=folder TESSERA_BINARY=build/bin/tessera tests/e2e/cases_test.py [Cases[.test_NAME] ...]

A case is compared by what its expected.json holds (see compare). Where a refusal is right, REFUSED names the words that
it must say. What is not handled stands in NOT_YET, and fails when it is: it is taken off the list then. Exit code 77
when every test was skipped.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import unittest

from checkpoints import read_rows
from cli_test import BINARY, ROOT, SECONDS, SHARED, CliTest, run_tests

FOLDER = pathlib.Path(SHARED or "/nonexistent") / "cases"

# Cases that are answered by a sentence: what it says, for each command or for all.
REFUSED = {
    "generation-config-max-new-tokens-0": ["generation_config.json", "max_new_tokens"],
    "json-array-read-as-lines": ["reviews.json", "array", "jsonl"],
    "message-json-lone-surrogate": [["line 1", "\\ud83d"], ["line 1", "NaN"]],
    "message-lfs-tokenizer": ["tokenizer.json", "Git LFS"],
    "rope-linear-without-factor": ["factor"],
    "unclear-refusals": [
        ["truncated", "the file ends early"], ["adapter", "an adapter (LORA) of acme/base"],
        ["snapshots/0123"], ["several", "model.safetensors.index.json", "without it"],
        ["dangling/model.safetensors", "a link that leads nowhere"], ["found nothing left", "quantize"],
        ["generation_config.json", "top_p", "1.5"]],
}

# Cases that another command shows than their expected.json tells.
COMMANDS = {
    "generation-config-max-new-tokens-0": ["tessera run model --ids 40,15,75,12,78,8,82,67,19,4 --json"],
    "message-st-subdirectory": ["tessera embed model ada --json"],
    "unclear-refusals": [
        *(f"tessera inspect {name}" for name in ("truncated", "adapter", "models--acme--tiny", "several")),
        "mkdir dangling && ln -s nowhere dangling/model.safetensors && tessera inspect dangling",
        "tessera compress models/tales -o tiles --prune-tiles 0.9 --quantize int8 --no-measure > said &&"
        " tessera compress tiles -o w4 --quantize w4",
        "cp -rL models/tales warm && printf '{\"do_sample\": true, \"top_p\": 1.5}' > warm/generation_config.json &&"
        " tessera run warm --prompt a --max-tokens 1"],
    "no-architectures-llama": ["tessera dump model --cases cases.json -o out.safetensors"],
    "quantized-by-another-tool": [
        f"tessera run {name} --ids 1,5 --max-tokens 2"
        for name in ("bitsandbytes", "compressed-tensors-int8", "compressed-tensors-pack", "fp8", "gptq", "mlx")],
}

NOT_YET = set("""
""".split())


class Run:
    """What a command line said, run in a copy of the case's folder."""

    def __init__(self, folder, command):
        self.command = command
        environment = dict(os.environ, PATH=f"{folder / 'bin'}:{os.environ['PATH']}")
        done = subprocess.run(["sh", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=SECONDS)
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __str__(self):
        return f"{self.command}\nexit {self.code}\nstdout: {self.out[:2000]}\nstderr: {self.err[:2000]}"

    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]

    def model(self):
        return self.command.split()[2]


def prepare(name, folder):
    """A copy in which commands find tessera, and models/ as in a clone."""
    shutil.copytree(FOLDER / name, folder, symlinks=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "tessera").symlink_to(pathlib.Path(BINARY).resolve())
    if not (folder / "models").exists():
        (folder / "models").symlink_to(ROOT / "models")


def commands_of(name, case):
    if name in COMMANDS:
        return COMMANDS[name]
    if "command" in case:
        return [case["command"]]
    observed = case["observed"]
    return [each["command"] for each in observed] if isinstance(observed, list) else []


class Cases(CliTest):
    def close(self, found, expected, tolerance, run):
        self.assertEqual(len(found), len(expected), run)
        worst = max(abs(a - b) for a, b in zip(found, expected))
        self.assertLessEqual(worst, tolerance, run)

    def succeeded(self, run):
        self.assertEqual(run.code, 0, run)
        return run

    def check(self, name):
        case = json.loads((FOLDER / name / "expected.json").read_text())
        folder = self.folder / name
        prepare(name, folder)
        commands = commands_of(name, case)
        self.assertTrue(commands, f"{name} tells no command")
        runs = []
        for command in commands:
            runs.append(Run(folder, command))
            self.compare(name, case, runs[-1], folder)
        self.compare_all(name, case, runs)

    def compare(self, name, case, run, folder):
        """One command of a case, by what its expected.json holds."""
        expected = case.get("expected")
        if name in REFUSED:
            words = REFUSED[name]
            if isinstance(words[0], list):
                words = words[commands_of(name, case).index(run.command)]
            self.assertNotEqual(run.code, 0, run)
            for word in words:
                self.assertIn(word, run.err, run)
        elif name == "quantized-by-another-tool":
            self.assertEqual(run.code, 1, run)
            self.assertIn("quantization_config", run.err, run)
        elif isinstance(case.get("reference_last_row_logits"), list):
            self.succeeded(run)
            rows = read_rows(folder / "out.safetensors", "a.logits")
            self.close(rows[-1], case["reference_last_row_logits"], 2e-4, run)
        elif "reference_ids" in case:
            self.assertEqual(self.succeeded(run).lines()[0]["ids"], case["reference_ids"], run)
        elif run.command.startswith(("sh ", "python3 ")):
            self.succeeded(run)
        elif isinstance(expected, dict):
            if "--json" in run.command or run.command.startswith("tessera tokenize"):
                self.compare_values(expected, case.get("tolerance") or 1e-4, self.succeeded(run))
        else:
            self.fail(f"{name}: no rule how to compare it")

    def compare_values(self, expected, tolerance, run):
        of_model = lambda value: value[run.model()] if isinstance(value, dict) else value
        if run.model() in expected:
            self.assertEqual([int(i) for i in run.out.split(",")], expected[run.model()], run)
        elif "mean_over_tokens" in expected:
            if run.command.startswith("tessera embed"):
                self.close(run.lines()[0]["embedding"], expected["mean_over_tokens"], tolerance, run)
        elif "embedding" in expected:
            self.close(run.lines()[0]["embedding"], of_model(expected["embedding"]), tolerance, run)
        elif "embeddings" in expected:
            for line, vector in zip(run.lines(), expected["embeddings"], strict=True):
                self.close(line["embedding"], vector, tolerance, run)
        elif "scores_in_input_order" in expected:
            scores = {line["document"]: line["score"] for line in run.lines()}
            self.close([scores[number] for number in sorted(scores)], of_model(expected["scores_in_input_order"]),
                       tolerance, run)
        elif "entities" in expected:
            found = [{key: entity[key] for key in ("label", "start", "end")} for entity in run.lines()[0]["entities"]]
            self.assertEqual(found, [{key: e[key] for key in ("label", "start", "end")} for e in expected["entities"]], run)
        elif "ids" in expected:
            candidates = run.lines()[0]["masks"][0]["candidates"]
            self.assertEqual([each["id"] for each in candidates], expected["ids"], run)
            self.close([each["score"] for each in candidates], expected["scores"], tolerance, run)
        elif "no_answer_score" in expected:
            score = run.lines()[0]["no_answer_score"]
            self.assertLessEqual(abs(score - expected["no_answer_score"]), tolerance * expected["no_answer_score"], run)
        else:
            self.fail(f"no rule how to compare {list(expected)}")

    def compare_all(self, name, case, runs):
        """What a case says of all its commands together."""
        expected = case.get("expected")
        if isinstance(expected, dict) and "classify" in expected:
            self.assertEqual(runs[-1].out.strip(), expected["classify"], runs[-1])
        if name == "linked-shards":
            for way in ("mounted", "farm", "sub", "single"):
                self.assertRegex(runs[0].out, f"{way}: \\[", runs[0])
            self.assertIn("link", runs[0].out.split("docker: ")[1].splitlines()[0])
        if name == "compress-twice-at-once":
            *meanwhile, first, begun = runs[0].out.splitlines()
            for line in meanwhile:
                self.assertRegex(line, "meanwhile: tessera compress: .*found one at work", runs[0])
                self.assertNotIn("remove", line)
            self.assertTrue(first.startswith("first: 0 "), runs[0])
            self.assertNotRegex(begun, "tessera[a-z ]*: ")
        if name == "prune-a-quantized-model":
            sizes = [re.findall(r"([\d.]+) MB", line)[:2] for line in runs[0].out.splitlines()[1:]]
            self.assertEqual(runs[0].err.count("with both options in one run"), sizes.count([]), runs[0])
            for after, before in filter(None, sizes):
                self.assertLess(float(after), float(before), runs[0])


def add_test(name):
    def test(self):
        if name not in NOT_YET:
            self.check(name)
            return
        try:
            self.check(name)
        except (AssertionError, KeyError, ValueError, OSError, subprocess.SubprocessError):
            self.skipTest("not handled yet")
        self.fail(f"{name} is as expected now: take it off NOT_YET")

    setattr(Cases, "test_" + name.replace("-", "_"), test)


if FOLDER.is_dir():
    for path in sorted(FOLDER.glob("*/expected.json")):
        add_test(path.parent.name)
else:
    Cases.test_cases = unittest.skip("TESSERA_SHARED is not set or has no cases")(lambda self: None)


if __name__ == "__main__":
    run_tests()
