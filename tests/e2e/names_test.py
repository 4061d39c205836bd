#!/usr/bin/env python3
"""Tests of what a model is called: every verb takes OWNER/NAME for a model in the hub's cache, by a cache that the test
makes itself.

    TESSERA_BINARY=build/bin/tessera tests/e2e/names_test.py [CLASS[.TEST] ...]
"""

import os
import pathlib
import shutil
import unittest

import checkpoints
from cli_test import CliTest


class Names(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cache = cls.folder / "hub"
        for name, make in (("decoder", lambda path: checkpoints.make_decoder(path, context=64)),
                           ("encoder", checkpoints.make_encoder)):
            made = pathlib.Path(make(cls.folder / f"made-{name}"))
            repository = cls.cache / f"models--acme--{name}"
            snapshot = repository / "snapshots/0123abcd"
            for folder in (repository / "refs", repository / "blobs", snapshot):
                folder.mkdir(parents=True)
            (repository / "refs/main").write_text("0123abcd")
            for file in made.iterdir():
                shutil.copy(file, repository / "blobs" / f"{file.name}-hash")
                (snapshot / file.name).symlink_to(f"../../blobs/{file.name}-hash")
        cls.work = cls.folder / "work"
        cls.work.mkdir()
        (cls.work / "text.txt").write_text("the cat sat\na dog ran far\n")
        checkpoints.write_json(cls.work, "cases.json", {"cases": [{"name": "a", "input_ids": [[5, 9, 3]]}]})
        cls.environment = dict(os.environ, HF_HUB_CACHE=str(cls.cache))

    def call(self, *arguments, **options):
        return super().call(*arguments, **({"env": self.environment, "cwd": self.work} | options))

    def test_every_verb(self):
        for arguments in (("run", "acme/decoder", "--prompt", "the", "--max-tokens", "2"),
                          ("run", "models--acme--decoder", "--ids", "1,5", "--max-tokens", "2"),
                          ("tokenize", "acme/decoder", "the cat"),
                          ("inspect", "acme/decoder"),
                          ("bench", "acme/decoder", "--batch", "1", "--prompt-tokens", "8", "--repeat", "1"),
                          ("dump", "acme/decoder", "--cases", "cases.json", "-o", "out.safetensors"),
                          ("eval", "acme/decoder", "--task", "perplexity", "--data", "text.txt", "--base", "acme/decoder"),
                          ("embed", "acme/encoder", "the cat"),
                          ("compress", "acme/encoder", "-o", "small", "--prune-tiles", "0.5", "--calibrate", "text.txt",
                           "--no-measure"),
                          ("export", "acme/encoder", "-o", "dense")):
            with self.subTest(command=arguments):
                self.call(*arguments)

    def test_what_is_missing(self):
        self.assert_fails("run", "acme/none", says=["found neither", "hf download acme/none --local-dir acme/none"])
        self.assert_fails("tokenize", "acme/none", "x", says=["hf download acme/none"])
        for name, options in (("https://huggingface.co/acme/none", ""), ("hf:acme/none", ""),
                              ("https://huggingface.co/acme/none/tree/v1.0", " --revision v1.0"),
                              ("acme/none@v1.0", " --revision v1.0")):
            self.assert_fails("run", name, says=[f"hf download acme/none{options} --local-dir none\n"])
        self.assert_fails("run", self.work / "none", says=["found nothing", "hf download OWNER/none"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
