#!/usr/bin/env python3
"""Tests of how inputs and results flow: pipes that are answered as they come, interrupts that leave what is done, files
of results, inputs that are skipped, and people at terminals.

    TESSERA_BINARY=build/bin/tessera tests/e2e/streams_test.py [CLASS[.TEST] ...]
"""

import array
import ast
import csv
import fcntl
import json
import math
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import checkpoints
from cli_test import BINARY, SECONDS, CliTest, read_until, run_tests, wait_until_caught
from inputs_test import CHATML
from tasks_test import make_model

DEADLINE = 30  # seconds for an answer that needs milliseconds


def read_line(pipe):
    """A line that comes before the deadline."""
    line = b""
    deadline = time.monotonic() + DEADLINE
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"waited for a line, found {line!r}"
        read = os.read(pipe.fileno(), 1)
        assert read, f"waited for a line, found the end behind {line!r}"
        line += read
    return line


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def read_npy(path):
    """(rows, width, numbers), as NumPy's format says."""
    data = pathlib.Path(path).read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:8]
    size = struct.unpack("<H", data[8:10])[0]
    assert (10 + size) % 64 == 0 and data[9 + size:10 + size] == b"\n"
    header = ast.literal_eval(data[10:10 + size].decode())
    assert header["descr"] == "<f4" and header["fortran_order"] is False, header
    numbers = array.array("f", data[10 + size:])
    assert len(numbers) == header["shape"][0] * header["shape"][1]
    return (*header["shape"], numbers)


def rows_of(matrix):
    rows, width, numbers = matrix
    return [list(numbers[i * width:(i + 1) * width]) for i in range(rows)]


class StreamTest(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.decoder = checkpoints.make_decoder(cls.folder / "decoder")
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder")
        cls.classifier = make_model(cls.folder / "classifier", "SequenceClassification", ["BAD", "GOOD"])
        cls.tagger = make_model(cls.folder / "tagger", "TokenClassification", ["O", "B-X"])
        cls.answerer = make_model(cls.folder / "answerer", "QuestionAnswering")
        cls.masked = make_model(cls.folder / "masked", "MaskedLM")

    def write(self, name, text):
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path


class Pipes(StreamTest):
    """A pipe is answered when nothing more has come."""

    def converse(self, *arguments, lines, output=None):
        """Writes each text when the one before was answered."""
        process = self.start(*arguments, stdin=subprocess.PIPE)
        answers = []
        try:
            for line in lines:
                process.stdin.write(line)
                process.stdin.flush()
                answers.append(read_line(process.stdout))
            process.stdin.close()
            self.assertEqual((process.stdout.read(), process.stderr.read(), process.wait(SECONDS)), (b"", b"", 0))
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                pipe.close()
        return answers

    def test_every_verb(self):
        texts = [b"a b\n", b"\n", b"c\n"]
        questions = [b'{"question": "who", "context": "a b"}\n', b'\n{"question": "what", "context": "c"}\n']
        for verb, model, lines, *more in (
                ("tokenize", self.decoder, texts), ("embed", self.encoder, texts), ("classify", self.classifier, texts),
                ("tag", self.tagger, texts), ("answer", self.answerer, questions),
                ("fill-mask", self.masked, [b"[2,5,3]\n", b"\n2,5,6,3\n"], "--format", "ids", "--mask-id", 5),
                ("run", self.decoder, texts[::2], "--batch", "-", "--max-tokens", 2, "--json")):
            with self.subTest(verb):
                answers = self.converse(verb, model, *more, lines=lines)
                self.assertEqual(len(answers), len(lines))

    def test_rows_of_several_lines(self):
        answers = self.converse("tokenize", self.decoder, "--format", "csv", "--column", "t",
                                lines=[b'id,t\n1,"a\nb"\n\n', b"2,c\n"])
        self.assertEqual(answers, [b"1\t97,10,98\n", b"2\t99\n"])

    def test_what_comes_together_is_answered_together(self):
        process = self.start("embed", self.encoder, stdin=subprocess.PIPE)
        process.stdin.write(b"a\n" * 700 + b"b")  # more than a chunk, and half a line
        process.stdin.flush()
        for _ in range(700):
            read_line(process.stdout)
        process.stdin.close()
        read_line(process.stdout)
        self.assertEqual(process.wait(SECONDS), 0)
        for pipe in (process.stdout, process.stderr):
            pipe.close()


class Interrupts(StreamTest):
    """What is done stays, and what was there before."""

    def endless(self, *arguments, until):
        """Feeds texts until the condition holds, and gives the process."""
        process = self.start(*arguments, stdin=subprocess.PIPE)
        os.set_blocking(process.stdin.fileno(), False)
        deadline = time.monotonic() + SECONDS
        while not until():
            self.assertLess(time.monotonic(), deadline)
            try:
                os.write(process.stdin.fileno(), b"a fox and a hen\n" * 512)
            except BlockingIOError:
                time.sleep(0.001)
        return process

    def finish(self, process):
        err = process.stderr.read().decode()
        out = process.stdout.read()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
        return process.wait(SECONDS), out, err

    def test_an_output_is_left_beside_the_old_one(self):
        for ending in ("txt", "npy", "safetensors", "csv", "jsonl"):
            for number in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(ending=ending, signal=number):
                    path = self.folder / f"vectors.{ending}"
                    path.write_text("old")
                    partial = self.folder / f"vectors.{ending}.partial"
                    partial.unlink(missing_ok=True)
                    process = self.endless("embed", self.encoder, "-o", path,
                                           until=lambda: partial.exists() and partial.stat().st_size > 300000)
                    process.send_signal(number)
                    code, _, err = self.finish(process)
                    self.assertEqual(code, 128 + number, err)
                    self.assertEqual(path.read_text(), "old")
                    said = re.fullmatch(r"tessera(?: embed)?: interrupted after (\d+)(?: of \d+)? texts, whose results are in (.*); "
                                        r".* was not touched\n", err)
                    self.assertTrue(said, err)
                    self.assertEqual(said.group(2), str(partial))
                    count = int(said.group(1))
                    self.assertGreater(count, 500)
                    if ending == "npy":
                        self.assertEqual(read_npy(partial)[:2], (count, 32))
                    elif ending == "safetensors":
                        (_, shape), = checkpoints.read_safetensors(partial).values()
                        self.assertEqual(tuple(shape), (count, 32))
                    else:
                        lines = partial.read_bytes().splitlines()
                        self.assertEqual(len(lines), count + (ending == "csv"))

    def test_of_how_many(self):
        path = self.write("many.txt", "a fox and a hen\n" * 200_000)
        partial = self.folder / "many.npy.partial"
        process = self.start("embed", self.encoder, "--file", path, "-o", self.folder / "many.npy", stdin=subprocess.PIPE)
        wait_for(lambda: partial.exists() and partial.stat().st_size > 10000)
        process.send_signal(signal.SIGINT)
        code, _, err = self.finish(process)
        self.assertEqual(code, 130)
        self.assertRegex(err, r"interrupted after \d+ of 200000 texts")
        self.assertFalse((self.folder / "many.npy").exists())

    def test_standard_output(self):
        for verb, model, unit, *more in (("embed", self.encoder, "texts"), ("tokenize", self.decoder, "texts"),
                                         ("run", self.decoder, "prompts", "--batch", "-", "--max-tokens", 2, "--json")):
            with self.subTest(verb):
                process = self.start(verb, model, *more, stdin=subprocess.PIPE)
                process.stdin.write(b"a\n")
                process.stdin.flush()
                read_line(process.stdout)
                process.send_signal(signal.SIGINT)  # while it waits
                code, out, err = self.finish(process)
                self.assertEqual((code, out), (130, b""))
                self.assertRegex(err, rf"\Atessera(?: \w+)?: interrupted after 1 {unit[:-1]}\n\Z")

    def test_a_batch_that_is_at_work(self):
        prompts = self.write("prompts.txt", "a\nb\nc\n")
        process = self.start("run", self.decoder, "--batch", prompts, "--max-tokens", 100000, "--ignore-end", "--json",
                             stdin=subprocess.PIPE)
        wait_until_caught(process.pid, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        code, out, err = self.finish(process)
        self.assertEqual((code, out), (143, b""))
        self.assertIn("interrupted after 0 of 3 prompts", err)

    def test_a_batch_gives_what_is_done_behind_one_that_is_not(self):
        prompts = [chr(c) for c in range(ord("a"), ord("z") + 1)]
        greedy = ("run", self.decoder, "--batch", "-", "--greedy", "--ignore-end")
        texts = [line["text"] for line in self.json_lines(*greedy, "--max-tokens", 1500, stdin="\n".join(prompts).encode())]
        pieces = {b: texts[b][i:i + 3] for b in range(26) for i in range(200) if texts[b][i:i + 3].isprintable()}
        pairs = ((a, b, piece) for b, piece in pieces.items() for a in range(26)
                 if "\ufffd" not in piece and piece not in texts[a])
        first, second, stop = next(pairs, (0, 0, None))
        if stop is None:
            self.skipTest("all prompts are continued alike")
        process = self.start(*greedy, "--max-tokens", 100000, "--stop", stop, "--json", stdin=subprocess.PIPE)
        process.stdin.write(f"{prompts[first]}\n{prompts[second]}\n".encode())
        process.stdin.close()
        wait_until_caught(process.pid, signal.SIGINT)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        code, out, err = self.finish(process)
        self.assertEqual(code, 130, err)
        lines = [json.loads(line) for line in out.splitlines()]
        self.assertEqual([line["finish_reason"] for line in lines], ["cancelled", "stop_string"])
        self.assertTrue(lines[0]["ids"])
        self.assertIn("interrupted after 1 of 2 prompts", err)

    def test_an_interrupt_before_anything_is_done(self):
        partial = self.folder / "none.npy.partial"
        process = self.start("embed", self.encoder, "-o", self.folder / "none.npy", stdin=subprocess.PIPE)
        wait_for(partial.exists)
        process.send_signal(signal.SIGINT)
        code, _, err = self.finish(process)
        self.assertEqual(code, 130)
        self.assertRegex(err, r"\Atessera(?: embed)?: interrupted after 0 texts\n\Z")
        self.assertFalse(partial.exists())

    def test_the_second_one_ends_at_once(self):
        path = self.write("long.txt", "a fox and a hen\n" * 400_000)
        process = self.start("tokenize", self.decoder, "--file", path, "-o", self.folder / "ids.txt", stdin=subprocess.PIPE)
        partial = self.folder / "ids.txt.partial"
        wait_for(lambda: partial.exists() and partial.stat().st_size > 0)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        code, _, _ = self.finish(process)
        self.assertIn(code, (130, 143))
        self.assertFalse((self.folder / "ids.txt").exists())

    def test_kill_leaves_a_file_that_can_be_read(self):
        path = self.folder / "killed.npy"
        partial = self.folder / "killed.npy.partial"
        process = self.endless("embed", self.encoder, "-o", path,
                               until=lambda: partial.exists() and partial.stat().st_size > 300000)
        process.kill()
        self.finish(process)
        data = partial.read_bytes()
        rows = ast.literal_eval(data[10:256].decode())["shape"][0]
        self.assertGreaterEqual(len(data), 256 + rows * 32 * 4)
        self.assertGreater(rows, 500)
        self.call("embed", self.encoder, "a", "-o", path)  # and the next run is not kept out
        self.assertEqual(read_npy(path)[0], 1)

    def test_nobody_reads_what_is_said(self):
        """A pipe of standard error that is closed does not cost the results."""
        path = self.folder / "unheard.npy"
        process = self.start("embed", self.encoder, "--on-error", "skip", "-o", path, stdin=subprocess.PIPE)
        process.stderr.close()
        process.stdin.write(b"a\n\xff\nb\n")
        process.stdin.close()
        process.stdout.close()
        self.assertEqual(process.wait(SECONDS), 0)
        self.assertEqual(read_npy(path)[0], 3)


class Outputs(StreamTest):
    TABLE = 'id,title,text\n7,"x, y",a fox\n8,z,a hen\n9,"q ""r""",a fox\n'

    def vectors(self, *arguments):
        return [line["embedding"] for line in self.json_lines("embed", self.encoder, *arguments)]

    def test_matrices_and_tables(self):
        table = self.write("table.csv", self.TABLE)
        expected = self.vectors("--file", table, "--column", "text")
        for ending in ("npy", "safetensors", "csv", "tsv", "jsonl"):
            path = self.folder / f"out.{ending}"
            self.assertEqual(self.call("embed", self.encoder, "--file", table, "--column", "text", "-o", path), ("", ""))
            self.assertFalse(pathlib.Path(f"{path}.partial").exists())
            if ending in ("npy", "safetensors"):
                self.assertEqual((self.folder / "out.ids.txt").read_text(), "7\n8\n9\n")
            if ending == "npy":
                found = rows_of(read_npy(path))
            elif ending == "safetensors":
                found = checkpoints.read_rows(path, "embeddings")
            elif ending == "jsonl":
                lines = [json.loads(line) for line in path.read_text().splitlines()]
                self.assertEqual([line["id"] for line in lines], ["7", "8", "9"])
                found = [line["embedding"] for line in lines]
            else:
                with path.open(newline="") as file:
                    rows = list(csv.reader(file, delimiter="," if ending == "csv" else "\t"))
                self.assertEqual(rows[0][:3], ["id", "e0", "e1"])
                self.assertEqual([row[0] for row in rows[1:]], ["7", "8", "9"])
                found = [[float(x) for x in row[1:]] for row in rows[1:]]
            for row, vector in zip(found, expected, strict=True):
                self.assertEqual(array.array("f", row), array.array("f", vector))
        self.assert_usage("embed", self.encoder, "a", "--json", "-o", "x.npy", says=["--json", ".npy"])
        self.assert_usage("classify", self.classifier, "a", "-o", "x.npy", says=["x.npy"])

    def test_ids_of_others_are_not_taken_for_those_of_the_vectors(self):
        self.write("stale.ids.txt", "1\n")
        self.assert_fails("embed", self.encoder, "a", "-o", self.folder / "stale.npy", says=["stale.ids.txt"])
        self.assertFalse((self.folder / "stale.npy").exists())

    def test_nothing(self):
        path = self.folder / "nothing.npy"
        self.call("embed", self.encoder, "-o", path)
        self.assertEqual(read_npy(path)[:2], (0, 0))

    def test_a_million_rows_take_no_memory(self):
        if b"__asan_init" in pathlib.Path(BINARY).read_bytes():
            self.skipTest("AddressSanitizer keeps what is freed")
        peaks = []
        for count in (2_000, 60_000):
            path = self.write("rows.txt", "a fox\n" * count)
            process = self.start("embed", self.encoder, "--threads", 1, "--file", path, "-o", self.folder / "rows.npy")
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = 0
            for pipe in (process.stdout, process.stderr):
                pipe.close()
            peaks.append(usage.ru_maxrss)
            self.assertEqual(read_npy(self.folder / "rows.npy")[:2], (count, 32))
        self.assertLess(peaks[1] - peaks[0], 4096, peaks)  # KiB; the vectors alone are 7500

    def test_endings(self):
        for ending in ("npz", "parquet", "PT", "h5", "pkl", "arrow", "feather", "xlsx"):
            path = self.folder / f"vectors.{ending}"
            self.assert_usage("embed", self.encoder, "a", "-o", path, says=[".npy, .safetensors", ending])
            self.assertFalse(path.exists())
        self.call("embed", self.encoder, "a", "-o", self.folder / "upper.NPY")
        self.assertEqual(read_npy(self.folder / "upper.NPY")[:2], (1, 32))

    def test_columns_are_carried_over_by_every_verb(self):
        table = self.write("kept.csv", self.TABLE)
        keep = ("--file", table, "--column", "text", "--keep-columns", "title,id")
        for verb, model, *more in (("embed", self.encoder), ("classify", self.classifier), ("tag", self.tagger),
                                   ("tokenize", self.decoder), ("rerank", self.masked, "--query", "a fox"),
                                   ("answer", self.answerer, "--context", "a b")):
            with self.subTest(verb):
                if verb == "tokenize":
                    keep_here = (*keep, "--format", "csv")
                else:
                    keep_here = keep
                lines = self.json_lines(verb, model, *more, *keep_here)
                found = sorted((line["id"], line["title"]) for line in lines)
                self.assertEqual(found, [("7", "x, y"), ("8", "z"), ("9", 'q "r"')])
                out, _ = self.call(verb, model, *more, *keep_here)
                self.assertEqual(sorted(line.split("\t")[:2] for line in out.splitlines()),
                                 [['q "r"', "9"], ["x, y", "7"], ["z", "8"]])
        line, = self.json_lines("fill-mask", self.masked, "--mask-id", 5, stdin=b'{"ids": [2,5,3], "id": {"a": 1}}',
                                *("--format", "jsonl"))
        self.assertEqual(line["id"], {"a": 1})
        batch = ("run", self.decoder, "--batch", table, "--column", "text", "--max-tokens", 2)
        self.assertEqual([line["id"] for line in self.json_lines(*batch)], ["7", "8", "9"])
        self.assertIn("--- prompt 2 (8) ---\n", self.call(*batch)[0])
        gold = b'{"text": "a", "label": 3}\n'
        line, = self.json_lines("classify", self.classifier, "--format", "jsonl", "--keep-columns", "label", stdin=gold)
        self.assertEqual((line["input_label"], line["label"] in ("BAD", "GOOD")), (3, True))
        self.assert_usage("tokenize", self.decoder, "--keep-columns", "id", says=["--keep-columns", "jsonl"])
        self.assert_usage("tokenize", self.decoder, "--format", "csv", "--keep-columns", "a,a", says=["--keep-columns"])
        self.assert_fails("embed", self.encoder, "--file", table, "--column", "text", "--keep-columns", "none",
                          says=['"none"', "id, title, text"])

    def test_links_and_modes_stay(self):
        target, link = self.write("target.txt", "old"), self.folder / "link.txt"
        target.chmod(0o600)
        link.symlink_to(target)
        self.call("tokenize", self.decoder, "a", "-o", link)
        self.assertTrue(link.is_symlink())
        self.assertEqual((target.read_text(), target.stat().st_mode & 0o777), ("97\n", 0o600))

    def test_one_writer_at_a_time(self):
        path = self.folder / "shared.txt"
        process = self.start("tokenize", self.decoder, "-o", path, stdin=subprocess.PIPE)
        wait_for(pathlib.Path(f"{path}.partial").exists)
        self.assert_fails("tokenize", self.decoder, "a", "-o", path, says=["shared.txt.partial", "another"])
        process.communicate(b"b\n")
        self.assertEqual((process.returncode, path.read_text()), (0, "98\n"))

    def test_a_failure_leaves_what_was_done(self):
        path = self.write("kept.txt", "old")
        _, err = self.call("tokenize", self.decoder, "-o", path, stdin=b"a\nb\n\xff\n", expect=1)
        self.assertIn("line 3", err)
        self.assertIn("the first 2 texts are in", err)
        self.assertEqual((path.read_text(), pathlib.Path(f"{path}.partial").read_text()), ("old", "97\n98\n"))

    def test_what_an_earlier_run_left_stays_until_there_is_more(self):
        left = {name: self.write(name, "left by an earlier run\n") for name in (
            "left.txt.partial", "left.npy.partial", "left.ids.txt.partial")}
        self.call("tokenize", self.decoder, "-o", self.folder / "left.txt", stdin=b"\xff\n", expect=1)
        self.call("embed", self.encoder, "-o", self.folder / "left.npy", stdin=b"\xff\n", expect=1)
        for name, partial in left.items():
            self.assertEqual(partial.read_text(), "left by an earlier run\n", name)
        self.call("tokenize", self.decoder, "b", "-o", self.folder / "left.txt")
        table = self.write("left.jsonl", '{"text": "a", "id": 7}\n')
        self.call("embed", self.encoder, "--file", table, "-o", self.folder / "left.npy", "--keep-columns", "id")
        self.assertEqual((self.folder / "left.txt").read_text(), "98\n")
        self.assertEqual((self.folder / "left.ids.txt").read_text(), "7\n")
        self.assertEqual(read_npy(self.folder / "left.npy")[0], 1)
        for name, partial in left.items():
            self.assertFalse(partial.exists(), name)

    def test_messages_do_not_go_into_results(self):
        """Not even where standard error is closed, so that its number is free for a file."""
        path = self.folder / "apart.txt"
        self.call("tokenize", self.decoder, "--on-error", "skip", "-o", path, stdin=b"a\n\xff\nb\n", stderr=None,
                  preexec_fn=lambda: os.close(2))
        self.assertEqual(path.read_text(), "97\n\n98\n")

    def test_a_run_without_results_does_not_put_in_place_what_was_left(self):
        path, partial = self.folder / "no.txt", self.write("no.txt.partial", "left by an earlier run\n")
        self.call("tokenize", self.decoder, "-o", path)
        self.assertEqual((path.read_text(), partial.exists()), ("", False))


class Skips(StreamTest):
    LINES = b"a\n\xff\nb\n" + b"c" * 80 + b"\nd\n\xfe\n"

    def test_every_row_has_its_place(self):
        skip = ("--on-error", "skip", "--refuse-long")
        out, err = self.call("classify", self.classifier, "--json", *skip, stdin=self.LINES)
        lines = [json.loads(line) for line in out.splitlines()]
        self.assertEqual([line.get("line") for line in lines], [None, 2, None, 4, None, 6])
        self.assertIn("UTF-8", lines[1]["error"])
        self.assertIn("48", lines[3]["error"])
        said = err.splitlines()
        self.assertEqual(len(said), 4, err)
        for line, place in zip(said, ("line 2", "line 4", "line 6")):
            self.assertRegex(line, rf"\Atessera(?: classify)?: standard input, {place}: .*: skipped\Z")
        self.assertRegex(said[3], r"3 of 6 texts were skipped\Z")
        plain, _ = self.call("classify", self.classifier, *skip, stdin=self.LINES)
        self.assertEqual([bool(line) for line in plain.splitlines()], [True, False, True, False, True, False])
        _, err = self.call("classify", self.classifier, "--refuse-long", stdin=self.LINES, expect=1)
        self.assertIn("line 2", err)

    def test_vectors(self):
        path = self.folder / "skips.npy"
        self.call("embed", self.encoder, "--on-error", "skip", "-o", path, stdin=b"\xff\na\n\xff\nb\n\xff\n")
        self.assertEqual([math.isnan(row[0]) for row in rows_of(read_npy(path))], [True, False, True, False, True])
        path = self.folder / "skips.csv"
        self.call("embed", self.encoder, "--on-error", "skip", "-o", path, "--format", "jsonl",
                  stdin=b'{"id": 1, "text": "a"}\n{"id": 2, "text": 3}\n{"id": 3, "text": "b"}\n')
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        self.assertEqual([row[0] for row in rows], ["id", "1", "2", "3"])
        self.assertEqual(set(rows[2][1:]), {""})

    def test_tables_and_batches(self):
        table = b'id,t\n1,a\n2\n3,"b"x\n4,c\n'
        out, err = self.call("tokenize", self.decoder, "--format", "csv", "--column", "t", "--on-error", "skip", stdin=table)
        self.assertEqual(out, "1\t97\n\n\n4\t99\n")
        self.assertIn("line 3", err)
        self.assertIn("line 4", err)
        batch = ("run", self.decoder, "--batch", "-", "--max-tokens", 2, "--on-error", "skip")
        out, err = self.call(*batch, "--json", stdin=b"a\n\nb\n\xff\n")
        self.assertEqual(["error" in json.loads(line) for line in out.splitlines()], [False, True, False, True])
        self.assertIn("2 of 4 prompts were skipped", err)
        self.assertIn("--- prompt 2, skipped ---\n", self.call(*batch, stdin=b"a\n\nb\n")[0])
        out, _ = self.call("rerank", self.masked, "--query", "a", "--on-error", "skip", stdin=b"\xff\nb\na\n")
        self.assertEqual([line.split()[1] for line in out.splitlines()], ["3", "2"])

    def test_when_nothing_is_left(self):
        _, err = self.call("tokenize", self.decoder, "--on-error", "skip", stdin=b"\xff\n\xfe\n", expect=1)
        self.assertIn("all 2 were skipped", err)
        _, err = self.call("run", self.decoder, "--batch", "-", "--on-error", "skip", stdin=b"\xff\n", expect=1)
        self.assertIn("all 1 were skipped", err)
        self.assert_usage("embed", self.encoder, "--on-error", "x", says=["--on-error", '"x"'])
        _, err = self.call("tokenize", self.decoder, "--on-error", "skip", "--format", "csv", "--column", "z",
                           stdin=b"a,b\n1,2\n", expect=1)
        self.assertIn('"z"', err)


class Terminals(StreamTest):
    def terminal(self, columns=80):
        outside, inside = pty.openpty()
        fcntl.ioctl(outside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        return outside, inside

    def shown(self, outside):
        """All that was written to a terminal whose inside is closed."""
        text = b""
        while True:
            try:
                piece = os.read(outside, 65536)
            except OSError:
                return text.decode()
            if not piece:
                return text.decode()
            text += piece

    def screen(self, text):
        """The lines that are left, where a terminal knows carriage return, line feed and erasing to the end."""
        lines, column = [""], 0
        for piece in re.findall(r"\033\[K|\r|\n|[^\033\r\n]+", text):
            if piece == "\033[K":
                lines[-1] = lines[-1][:column]
            elif piece == "\r":
                column = 0
            elif piece == "\n":
                lines.append("")
            else:
                lines[-1] = lines[-1][:column] + piece + lines[-1][column + len(piece):]
                column += len(piece)
        return lines

    def on_terminal(self, *arguments, columns=80, stdin=b""):
        outside, inside = self.terminal(columns)
        process = self.start(*arguments, stdin=subprocess.PIPE, stdout=inside, stderr=inside)
        os.close(inside)
        process.stdin.write(stdin)
        process.stdin.close()
        text = self.shown(outside)
        os.close(outside)
        self.assertEqual(process.wait(SECONDS), 0, text)
        return text

    def test_progress_makes_room_for_results(self):
        texts = b"a fox and a hen\n" * 1500
        for verb, model, *more in (("classify", self.classifier), ("embed", self.encoder, "--dimensions", 2),
                                   ("run", self.decoder, "--batch", "-", "--format", "ids", "--max-tokens", 2, "--greedy")):
            with self.subTest(verb):
                stdin = b"97,98\n" * 40 if verb == "run" else texts
                expected, _ = self.call(verb, model, *more, stdin=stdin)
                text = self.on_terminal(verb, model, *more, stdin=stdin)
                lines = self.screen(text)
                count = len(expected.splitlines())
                self.assertEqual(lines[:count], expected.splitlines())
                self.assertRegex(lines[count], r"\A\[")

    def test_narrow_terminals(self):
        texts = b"a fox and a hen\n" * 1500
        text = self.on_terminal("classify", self.classifier, "-o", self.folder / "x", columns=20, stdin=texts)
        drawn = re.findall(r"\r\033\[K([^\r\n]*)", text)
        self.assertTrue(any("classifying" in line for line in drawn), text)
        for line in drawn[:-1]:  # the last one is the report
            self.assertLess(len(line), 20, line)

    def test_a_terminal_that_is_resized(self):
        outside, inside = self.terminal(100)
        process = self.start("classify", self.classifier, "-o", self.folder / "y", stdin=subprocess.PIPE, stderr=inside)
        os.close(inside)
        os.set_blocking(process.stdin.fileno(), False)

        def feed_until(mark):
            text = b""
            deadline = time.monotonic() + SECONDS
            while not re.search(mark, text):
                self.assertLess(time.monotonic(), deadline, text[-1000:])
                readable, writable, _ = select.select([outside], [process.stdin], [], 1)
                if writable:
                    os.write(process.stdin.fileno(), b"a fox and a hen\n" * 200)
                if readable:
                    text += os.read(outside, 65536)
            return text

        feed_until(rb"texts/s")
        fcntl.ioctl(outside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 16, 0, 0))
        feed_until(rb"\r\033\[Kclassifying: [^\r/]{1,4}\r")  # what was under way is over
        text = feed_until(rb"(classifying[^\r]*\r[^\r]*){3}")
        for line in re.findall(rb"\033\[K([^\r]*)\r", text):
            self.assertLess(len(line), 16, line)
        process.kill()
        process.communicate()
        os.close(outside)


    def test_a_terminal_that_goes_away(self):
        """It does not cost the results."""
        path = self.folder / "unseen.npy"
        outside, inside = self.terminal()
        process = self.start("embed", self.encoder, "-o", path, stdin=subprocess.PIPE, stderr=inside)
        os.close(inside)
        process.stdin.write(b"a fox\n")
        process.stdin.flush()
        read_until_holds(outside, b"embedding")
        os.close(outside)
        process.stdin.write(b"a hen\n" * 500)
        process.stdin.close()
        process.stdout.close()
        self.assertEqual(process.wait(SECONDS), 0)
        self.assertEqual(read_npy(path)[0], 501)


def read_until_holds(terminal, mark):
    shown = b""
    deadline = time.monotonic() + 60
    while mark not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"waited for {mark!r}, the terminal shows {shown!r}"
        shown += os.read(terminal, 4096)
    return shown


class Turns(Terminals):
    """run at a terminal, with the terminal's own lines and with libedit's."""

    test_progress_makes_room_for_results = test_narrow_terminals = test_a_terminal_that_is_resized = None
    test_a_terminal_that_goes_away = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.small = checkpoints.make_decoder(cls.folder / "small", context=512)
        for model in (cls.decoder, cls.small):
            checkpoints.write_json(model, "tokenizer_config.json", {"chat_template": CHATML, "eos_token": "<none>"})
        linked = subprocess.run(["ldd", BINARY], capture_output=True, text=True).stdout
        cls.kinds = ("dumb", "xterm") if "libedit" in linked else ("dumb",)

    def talk(self, *arguments, kind, model=None, tokens=6):
        outside, inside = self.terminal()
        environment = dict(os.environ, TERM=kind, XDG_STATE_HOME=str(self.folder / "state"))
        process = self.start("run", model or self.decoder, "--max-tokens", tokens, "--greedy", *arguments, stdin=inside,
                             stderr=inside, env=environment, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(inside)
        read_until(outside, b"> ")
        return process, outside

    def say(self, outside, text):
        os.write(outside, text)
        return read_until(outside, b"> ").decode()

    def leave(self, process, outside, text=b"\x04", expect=0):
        os.write(outside, text)
        rest = self.shown(outside)
        out, _ = process.communicate(timeout=SECONDS)
        os.close(outside)
        self.assertEqual(process.returncode, expect, rest)
        return out.decode(errors="replace")

    def test_commands(self):
        for kind in self.kinds:
            with self.subTest(kind):
                process, outside = self.talk("--chat", kind=kind)
                said = self.say(outside, b"/help\n")
                for command in ("/help", "/reset", "/quit", "Ctrl-C"):
                    self.assertIn(command, said)
                self.assertIn("no command /frobnicate", self.say(outside, b"/frobnicate\n"))
                self.assertIn("6 tokens", self.say(outside, b"/usr/bin is a folder\n"))
                self.say(outside, b"/reset\n")
                self.leave(process, outside, b"/quit\n")

    def test_pasted_lines_are_one_message(self):
        for kind in self.kinds:
            with self.subTest(kind):
                process, outside = self.talk("--chat", kind=kind)
                said = self.say(outside, b"one\ntwo\nthree\n")
                while "[6 tokens" not in said:
                    said += read_until(outside, b"> ").decode()
                self.assertEqual(said.count("[6 tokens"), 1, said)
                time.sleep(0.2)
                ready, _, _ = select.select([outside], [], [], 0)
                self.assertFalse(ready)  # nothing follows but the prompt
                self.leave(process, outside)

    def test_interrupts(self):
        for kind in self.kinds:
            with self.subTest(kind):
                process, outside = self.talk("--ignore-end", kind=kind, tokens=100000)
                os.write(outside, b"A fox\n")
                process.stdout.read(1)
                os.write(outside, b"\x03")  # stops the text
                said = read_until(outside, b"> ").decode()
                self.assertIn("token", said)
                said = self.say(outside, b"\x03")
                self.assertIn("once more", said)
                self.leave(process, outside, b"\x03", expect=130)

    def test_one_interrupt_at_the_prompt_does_not_leave(self):
        for kind in self.kinds:
            with self.subTest(kind):
                process, outside = self.talk(kind=kind)
                self.say(outside, b"half\x03")
                self.assertIn("6 tokens", self.say(outside, b"A hen\n"))
                self.say(outside, b"\x03")
                self.leave(process, outside)

    def test_an_input_that_cannot_be_read(self):
        """As in the background of its terminal, where the signal is ignored that would stop the program."""
        starter = ("import fcntl, os, signal, subprocess, sys, termios\n"
                   "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
                   "for each in (signal.SIGTTIN, signal.SIGTTOU): signal.signal(each, signal.SIG_IGN)\n"
                   "sys.exit(subprocess.call(sys.argv[1:], preexec_fn=os.setpgrp))\n")
        for kind in self.kinds:
            with self.subTest(kind):
                outside, inside = self.terminal()
                environment = dict(os.environ, TERM=kind, XDG_STATE_HOME=str(self.folder / "state"))
                process = subprocess.Popen([sys.executable, "-c", starter, BINARY, "run", str(self.decoder)], stdin=inside,
                                           stdout=subprocess.DEVNULL, stderr=inside, env=environment, start_new_session=True)
                os.close(inside)
                read_until(outside, b"> ")
                os.write(outside, b"A fox\n")
                read_until_holds(outside, b"tessera run: cannot read standard input: ")
                self.shown(outside)
                os.close(outside)
                self.assertEqual(process.wait(SECONDS), 1)

    def test_a_full_context(self):
        for kind in self.kinds:
            with self.subTest(kind):
                process, outside = self.talk("--chat", kind=kind, model=self.small)
                said = ""
                for _ in range(60):
                    said += self.say(outside, b"x" * 60 + b"\n")
                    if "is full" in said:
                        break
                self.assertRegex(said, r"the context of \d+ tokens is full: the oldest messages are left out")
                self.assertIn("at most", self.say(outside, b"x" * 3000 + b"\n"))
                self.assertIn("6 tokens", self.say(outside, b"y\n"))
                self.leave(process, outside)

    def test_history(self):
        if len(self.kinds) == 1:
            self.skipTest("built without libedit")
        for arrow in (b"\033[A", b"\033OA"):
            process, outside = self.talk(kind="xterm")
            self.say(outside, "Häns and the fox\n".encode())
            self.leave(process, outside)
            history = self.folder / "state" / "tessera" / "history"
            self.assertEqual(history.stat().st_mode & 0o77, 0)
            process, outside = self.talk(kind="xterm")
            os.write(outside, arrow)
            self.assertIn("Häns and the fox", read_until_holds(outside, b"fox").decode())
            self.assertIn("6 tokens", self.say(outside, b"\n"))
            self.leave(process, outside)
            history.unlink()

    def test_editing(self):
        if len(self.kinds) == 1:
            self.skipTest("built without libedit")
        process, outside = self.talk("--chat", kind="xterm")
        os.write(outside, b"hlp\033[D\033[De\x01/\n")  # left, left, e, to the begin, /
        read_until(outside, b"> ", read_until_holds(outside, b"twice"))
        self.leave(process, outside)


if __name__ == "__main__":
    run_tests()
