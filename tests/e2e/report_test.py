#!/usr/bin/env python3
"""Tests of reports and plots from outside, on tiny checkpoints that they make themselves and, where TESSERA_SHARED
points at them, on golden ones.

    TESSERA_BINARY=build/bin/tessera tests/e2e/report_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped.
"""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import tempfile
import time
import unittest
import xml.etree.ElementTree

import checkpoints
from cli_test import run_tests

BINARY = os.environ.get("TESSERA_BINARY", "build/bin/tessera")
SHARED = os.environ.get("TESSERA_SHARED", "")
SECONDS = 300
SVG = "{http://www.w3.org/2000/svg}"
TIMING = {"rounds": 2, "seconds": 0, "samples": 2}


class ReportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)

    def call(self, *arguments, expect=0, **options):
        """Gives (stdout, stderr)."""
        done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS,
                              check=False, **({} if "input" in options else {"stdin": subprocess.DEVNULL}), **options)
        self.assertEqual(done.returncode, expect, f"{arguments}\nstdout: {done.stdout[:2000]}\nstderr: {done.stderr[:2000]}")
        return done.stdout, done.stderr

    def assert_fails(self, *arguments, says=()):
        out, err = self.call(*arguments, expect=1)
        self.assertEqual(out, "")
        self.assertRegex(err, r"\Atessera [a-z]+: [^\n]+\n\Z")
        for text in says:
            self.assertIn(str(text), err)

    def write(self, name, value):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    def texts_of(self, svg):
        return [element.text for element in xml.etree.ElementTree.parse(svg).iter(SVG + "text")]


class Plots(ReportTest):
    def test_draws(self):
        plot = {"title": "Two", "panels": [{"x": {"label": "size, MB", "log": True}, "y": {"label": "accuracy <1>"}, "series": [
            {"name": "s", "points": [{"x": 1, "y": 0.5, "y_range": [0.4, 0.6], "label": "small"},
                                     {"x": 100, "y": 0.9, "label": "large"}]},
            {"style": "front", "points": [[1, 0.5], [100, 0.9]]}]}]}
        path = self.write("plot.json", plot)
        out = self.folder / "plot.svg"
        self.assertEqual(self.call("plot", path, "-o", out), ("", ""))
        texts = self.texts_of(out)
        for text in ("Two", "size, MB", "accuracy <1>", "small", "large"):
            self.assertIn(text, texts)
        self.assertEqual(self.call("plot", "-", input=json.dumps(plot))[0], out.read_text())

    def test_refuses(self):
        self.assert_fails("plot", self.write("no.json", {"panels": 3}), says=["no.json: panels: expected a list, found 3"])
        self.assert_fails("plot", self.folder / "absent.json", says=["absent.json"])
        path = self.write("yes.json", {"panels": [{"series": [{"points": []}]}]})
        self.assert_fails("plot", path, "-o", self.folder / "no" / "where.svg", says=["where"])
        self.call("plot", expect=2)
        self.assertNotIn("MODEL", self.call("plot", "--help")[0])


class Reports(ReportTest):
    """A decoder over bytes and a text for its perplexity."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.make_decoder(cls.folder / "model", context=64)
        (cls.folder / "data").mkdir()
        (cls.folder / "data" / "test.txt").write_text("It was a dark and stormy night.\n" * 12)
        cls.recipe = {
            "title": "Bytes", "model": "model", "parameters": {"data": "data"},
            "tasks": [{"name": "night", "task": "perplexity", "data": "{data}/test.txt", "window_tokens": 32}],
            "workloads": [{"tokens": 16}, {"name": "writing", "tokens": 8, "new_tokens": 4}],
            "variants": [{"name": "f32", "threads": 1}, {"name": "bf16", "threads": 1, "dtype": "bf16"},
                         {"name": "flash", "threads": 1, "attention": "flash"}],
            "bootstrap": {"resamples": 50}, "timing": TIMING}

    def report(self, recipe, name, *options):
        path = self.write(f"{name}.json", recipe)
        out = self.folder / name / "report.md"
        out.parent.mkdir(exist_ok=True)
        text = self.call("report", path, "-o", out, *options)[0]
        return text, out

    def test_reports(self):
        text, out = self.report(self.recipe, "whole")
        written = ", ".join(str(out.with_suffix(end)) for end in (".md", ".json"))
        self.assertIn(f"Written: {written} and {out.with_suffix('.svg')}.", text)
        for variant in ("f32", "bf16", "flash"):
            self.assertRegex(text, rf"(?m)^{variant} ")
        report = json.loads(out.with_suffix(".json").read_text())
        self.assertEqual([v["name"] for v in report["variants"]], ["f32", "bf16", "flash"])
        base, small, flash = report["variants"]
        self.assertLess(small["bytes_in_memory"], base["bytes_in_memory"])
        self.assertEqual(small["bytes_on_disk"], base["bytes_on_disk"])
        for variant in report["variants"]:
            metrics = {m["name"]: m for m in variant["tasks"][0]["metrics"]}
            self.assertGreater(metrics["perplexity"]["value"], 1)
            self.assertLessEqual(metrics["perplexity"]["low"], metrics["perplexity"]["value"])
            for workload in variant["workloads"]:
                self.assertGreater(workload["median_ms"], 0)
                self.assertGreaterEqual(workload["p90_ms"], workload["median_ms"])
                self.assertGreater(workload["flops"], 0)
                self.assertGreaterEqual(workload["dense_flops"], workload["flops"])
                self.assertEqual(len(workload["rounds"]), 2)
        self.assertNotIn("differences", base["tasks"][0])
        self.assertEqual(base["workloads"][0]["ratio_to_base"], 1)
        # Another method computes the same but for rounding.
        for difference in flash["tasks"][0]["differences"]:
            self.assertLess(abs(difference["difference"]), 1e-3)
        markdown = out.read_text()
        self.assertIn("![Bytes](report.svg)", markdown)
        self.assertIn(report["command"], markdown)
        texts = self.texts_of(out.with_suffix(".svg"))
        self.assertIn("weights in memory, MB", texts)
        self.assertIn("bf16", texts)

    def test_the_command_reproduces_it(self):
        _, out = self.report(self.recipe, "it's a report", "--set", f"data={self.folder / 'data'}")
        report = json.loads(out.with_suffix(".json").read_text())
        arguments = shlex.split(report["command"])
        self.assertEqual(arguments[:2], ["tessera", "report"])
        before = out.read_text()
        out.unlink()
        self.call(*arguments[1:])
        self.assertEqual(out.read_text(), before)  # from the cells that were kept

    def test_evaluates_what_is_new_alone(self):
        _, out = self.report(self.recipe, "grown")
        cells = out.with_suffix(".cells")
        before = {path.name: path.stat().st_mtime_ns for path in cells.iterdir()}
        grown = dict(self.recipe, variants=[*self.recipe["variants"], {"name": "unfused", "threads": 1, "attention": "unfused"}])
        self.report(grown, "grown")
        after = {path.name: path.stat().st_mtime_ns for path in cells.iterdir()}
        self.assertEqual(before, {name: time for name, time in after.items() if name in before})
        new = sorted(name.split("-")[0] for name in set(after) - set(before))
        self.assertEqual(new, ["model", "task", "time", "time"])
        self.report(grown, "grown", "--fresh")
        fresh = [path.name for path in cells.iterdir() if path.stat().st_mtime_ns > after[path.name]]
        self.assertEqual(sorted(name.split("-")[0] for name in fresh), ["model"] * 4 + ["task"] * 4 + ["time"] * 2)

    def test_goes_on_after_an_interrupt(self):
        slow = dict(self.recipe, timing={"rounds": 50, "seconds": 0.5, "samples": 1})
        path = self.write("slow.json", slow)
        out = self.folder / "slow" / "report.md"
        out.parent.mkdir()
        process = subprocess.Popen([BINARY, "report", path, "-o", out], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        cells = out.with_suffix(".cells")
        end = time.monotonic() + 60
        while len(list(cells.glob("task-*.cell"))) < 3 and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(err, b"tessera report: interrupted; what was measured is kept, and the same command goes on\n")
        self.assertEqual(sorted(path.name.split("-")[0] for path in cells.iterdir()), ["model"] * 3 + ["task"] * 3)
        self.assertEqual([path for path in out.parent.iterdir() if path != cells], [])
        report = json.loads(self.call("report", self.write("slow.json", self.recipe), "-o", out, "--json")[0])
        self.assertEqual(len(report["variants"]), 3)

    def test_quick(self):
        text, out = self.report(dict(self.recipe, timing={"rounds": 1000, "seconds": 60}), "quick", "--quick")
        self.assertIn(" --quick ", text)
        self.assertEqual(json.loads(out.with_suffix(".json").read_text())["timing"]["rounds"], 2)

    def test_sweeps(self):
        (self.folder / "words.txt").write_text("the cat sat on the mat\n" * 40)
        recipe = {"model": "model", "workloads": [{"tokens": 16}], "timing": TIMING, "variants": [
            {"name": "f32"}, {"name": "tiles", "compress": {"prune_tiles": [0.3, 0.6], "tile": "8x8",
                                                            "calibrate": "words.txt", "repair": True}}]}
        text, out = self.report(recipe, "sweep")
        report = json.loads(out.with_suffix(".json").read_text())
        self.assertEqual([v["name"] for v in report["variants"]], ["f32", "tiles 0.3", "tiles 0.6"])
        sizes = [v["bytes_on_disk"] for v in report["variants"]]
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        made = pathlib.Path(report["variants"][1]["compress"]["directory"])
        self.assertTrue((made / "README.md").exists())
        self.assertIn("prune_tiles=0.3", report["variants"][1]["compress"]["options"])

    def test_shipped_recipes(self):
        """Those that a clone can run, and what the other one says of what it needs."""
        recipes = pathlib.Path(__file__).resolve().parents[2] / "examples/recipes"
        names = sorted(path.stem for path in recipes.glob("*.json"))
        self.assertEqual(names, ["minilm", "minilm-cascade", "tales", "tales-cascade", "tales-healed", "tales-pruned"])
        for name in ("tales", "tales-cascade", "tales-healed", "tales-pruned"):
            text = self.call("report", recipes / f"{name}.json", "--quick", "-o", self.folder / f"{name}.md")[0]
            self.assertIn(f"{name}.svg", text)
        self.assert_fails("report", recipes / "minilm.json", "--set", f"models={self.folder / 'none'}", "-o",
                          self.folder / "minilm.md", says=["examples/recipes/fetch"])
        self.assertTrue(os.access(recipes / "fetch", os.X_OK))

    def test_refuses(self):
        def refuse(says, **changes):
            self.assert_fails("report", self.write("bad.json", dict(self.recipe, **changes)), "-o", self.folder / "none.md",
                              says=says)
            self.assertFalse((self.folder / "none.md").exists())

        refuse(["bad.json: variants[1]: expected a name of its own, found \"a\""],
               variants=[{"name": "a"}, {"name": "a"}])
        refuse(["bad.json: variants[0].model: expected a file at", "absent/config.json, found none"], model="absent")
        refuse(["bad.json: tasks[0]: expected a file at", "none.txt"], tasks=[{"task": "perplexity", "data": "none.txt"}])
        refuse(["bad.json: tasks[0].metric: expected one of perplexity", "found \"accuracy\""],
               tasks=[{"task": "perplexity", "data": "data/test.txt", "metric": "accuracy"}])
        refuse(["bad.json: workloads[0]", "at most the model's 64 tokens"], workloads=[{"tokens": 1000}])
        refuse(["bad.json: variants[0].dtype: expected auto, f32, bf16"], variants=[{"name": "a", "dtype": "f64"}])
        self.assert_fails("report", self.write("cut.json", '{"variants": ['), says=["cut.json: expected valid JSON"])
        self.assert_fails("report", self.folder / "nowhere.json", says=["nowhere.json"])
        good = self.write("good.json", self.recipe)
        self.assert_fails("report", good, "-o", self.folder / "good.md", says=["is not overwritten"])
        self.assert_fails("report", good, "--set", "date=x", "-o", self.folder / "o.md", says=["parameters (data)", '"date"'])
        for options in (["--set", "data"], ["--set", "=x"], ["--set", "data=1", "--set", "data=2"]):
            self.assertIn("--set", self.call("report", good, *options, expect=2)[1])
        self.call("report", expect=2)

    def test_an_encoder_by_its_time(self):
        checkpoints.make_encoder(self.folder / "encoder")
        text, out = self.report({"model": "encoder", "workloads": [{"batch": 2, "tokens": 12}], "timing": TIMING,
                                 "variants": [{"name": "one", "threads": 1}, {"name": "all"}]}, "encoder-report")
        self.assertIn("2 x 12: ms", text)
        self.assertIn("all", self.texts_of(out.with_suffix(".svg")))


@unittest.skipUnless(os.path.isdir(os.path.join(SHARED, "golden/models")), "TESSERA_SHARED has no golden/models")
class SharedReports(ReportTest):
    def test_golden_models(self):
        for name in ("bert", "llama"):
            found = sorted(pathlib.Path(SHARED, "golden/models").glob(f"*{name}*"))
            self.assertTrue(found, name)
            out = self.folder / name / "report.md"
            out.parent.mkdir()
            recipe = self.write(f"{name}.json", {
                "model": str(found[0]), "workloads": [{"tokens": 8}], "timing": TIMING,
                "variants": [{"name": "as it is", "threads": 1}, {"name": "flash", "threads": 1, "attention": "flash"}]})
            report = json.loads(self.call("report", recipe, "-o", out, "--json")[0])
            self.assertEqual(len(report["variants"]), 2)


if __name__ == "__main__":
    run_tests()
