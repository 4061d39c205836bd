#!/usr/bin/env python3
"""Tests of how the program reads its inputs: formats, tokenizers, conversations, and what goes wrong.

    TESSERA_BINARY=build/bin/tessera tests/e2e/inputs_test.py [CLASS[.TEST] ...]
"""

import csv
import io
import json
import os
import pathlib
import pty
import re
import resource
import signal
import stat
import subprocess
import time
import unittest

import checkpoints
from cli_test import BINARY, NEEDED, SECONDS, SHARED, VERBS, CliTest, join, read_until, run_tests, wait_until_caught

CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
          "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


class Integers(CliTest):
    """Every option of every verb that takes an integer, as its help tells."""

    ZERO = {("run", "--seed"), ("run", "--top-k"), ("fill-mask", "--mask-id"), ("answer", "--overlap"), ("eval", "--seed"),
            ("eval", "--resamples")}
    LARGE = {("run", "--seed"), ("eval", "--seed")}

    def test_refuses_what_is_no_number_in_range(self):
        found = set()
        for verb in VERBS:
            out, _ = self.call(verb, "--help")
            for option in re.findall(r"^  (?:-\w, |    )(--[\w-]+) N(?:,N,\.\.\.)?(?: |$)", out, re.MULTILINE):
                if option != "--ids":
                    found.add((verb, option))
        for known in {("run", "--max-tokens"), ("tokenize", "--max-tokens"), ("bench", "--batch"),
                      *((verb, "--threads") for verb in VERBS)}:
            self.assertIn(known, found)
        for verb, option in sorted(found):
            values = ["-1", "abc", "", "1.5", "99999999999999999999"]
            values += ["0"] if (verb, option) not in self.ZERO else []
            values += ["2147483648", "9007199254740993"] if (verb, option) not in self.LARGE else []
            for value in values:
                with self.subTest(verb=verb, option=option, value=value):
                    self.assert_usage(verb, "model", *NEEDED.get(verb, ()), option, value,
                                      says=[option, f'found "{value}"'])


class Formats(CliTest):
    """Read through tokenize, whose ids are the bytes of the texts."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = checkpoints.make_decoder(cls.folder / "decoder")
        (cls.model / "model.safetensors").unlink()  # tokenize needs no weights

    def write(self, name, text):
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def texts(self, *arguments, **options):
        """The texts that were read, with their pairs."""
        lines = self.json_lines("tokenize", self.model, *arguments, **options)
        return ["".join(line["tokens"]).replace("\u0120", " ").replace("\u010a", "\n").replace("\u010d", "\r")
                for line in lines]

    def test_arguments(self):
        self.assertEqual(self.texts("a b", "", "[c]", "--", "-d", "--", "e"), ["a b", "", "[c]", "-d", "--", "e"])
        self.assertEqual(self.texts("a", "b", "--pair", "x", "--pair", "-y"), ["ax", "b-y"])
        self.assert_usage("tokenize", self.model, "a", "b", "--pair", "x", says=["--pair", "2", "1"])
        self.assert_usage("tokenize", self.model, "-x", says=["-x"])
        self.assert_usage("tokenize", self.model, "a", "--file", "b")
        self.assert_usage("tokenize", self.model, "a", "--format", "csv")
        self.assert_usage("tokenize", self.model, "a", "--decode")
        self.assert_usage("tokenize", self.model, "--ids", "1", says=["--ids"])
        self.assert_usage("tokenize", self.model, "--decode", "--max-tokens", "1", says=["--decode", "--max-tokens"])

    def test_lines(self):
        lines = ("--format", "lines", "--file")
        for text, expected in {"a\nb": ["a", "b"], "a\r\n\r\n b \n": ["a", "", " b "], "": [], "\n": [""],
                               "\ufeffa\nb": ["a", "b"]}.items():
            path = self.write("lines.txt", text)
            self.assertEqual(self.texts(*lines, path), expected)
            self.assertEqual(self.texts("--format", "lines", stdin=text.encode()), expected)

    def test_csv_is_read_as_python_does(self):
        rows = [["plain", "x"], ["with, comma", "y"], ['with "quotes"', ""], ["two\nlines", "z\r\nw"], ["", "empty"],
                [" spaced ", "q"]]
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        path = self.write("table.csv", text.getvalue())
        self.assertEqual(self.texts("--file", path), [row[0] for row in rows])
        self.assertEqual(self.texts("--file", path, "--column", "2"), [row[1] for row in rows])
        self.assertEqual(self.texts("--file", path, "--pair-column", "2"), [a + b for a, b in rows])
        self.assertEqual(self.texts("--format", "csv", stdin=path.read_bytes().replace(b"\r\n", b"\n")),
                         [row[0] for row in rows])
        named = self.write("named.csv", "\ufeffid,the text\n\n1,a\n2,\"b\"\n3,c \"d\"\n")
        self.assertEqual(self.texts("--file", named, "--column", "the text"), ["a", "b", 'c "d"'])
        self.assertEqual(self.texts("--file", named, "--column", "2", "--header"), ["a", "b", 'c "d"'])
        self.assertEqual(self.texts("--file", named, "--column", "the text", "--pair-column", "id"),
                         ["a1", "b2", 'c "d"3'])

    def test_a_row_of_names_that_nobody_called_one(self):
        path = self.write("HEADED.CSV", "Text,label\na,1\n")
        out, err = self.call("tokenize", self.model, "--file", path)
        self.assertEqual(len(out.splitlines()), 2)
        self.assertIn("--column NAME", err)
        for arguments in (("--column", "Text"), ("--header",), ("-q",)):
            self.assertEqual(self.call("tokenize", self.model, "--file", path, *arguments)[1], "")
        other = self.write("plain.csv", "a text,1\nb,2\n")
        self.assertEqual(self.call("tokenize", self.model, "--file", other)[1], "")

    def test_keys_that_no_line_has(self):
        lines = b'{"text": "a", "id": 1}\n{"text": "b"}\n'
        _, err = self.call("tokenize", self.model, "--json", "--keep-columns", "id,idd", stdin=lines)
        self.assertEqual(err.count("idd"), 1)
        self.assertEqual(self.call("tokenize", self.model, "--json", "--keep-columns", "id", stdin=lines)[1], "")

    def test_an_array_is_no_lines(self):
        array = b'[\n{"text": "a"},\n{"text": "b"}\n]\n'
        for more in ((), ("--on-error", "skip")):
            out, err = self.call("tokenize", self.model, "--json", *more, stdin=array, expect=1)
            self.assertEqual(out, "")
            self.assertIn("found an array", err)

    def test_utf16(self):
        path = self.write("wide.csv", "id,text\n1,a\n".encode("utf-16"))
        for arguments in (("--column", "text"), (), ("--column", "text", "--on-error", "skip")):
            self.assert_fails("tokenize", self.model, "--file", path, *arguments, says=["found UTF-16; save the file as UTF-8"])

    def test_ids_as_arguments(self):
        out, _ = self.call("tokenize", self.model, "--decode", "5,9", "3")
        self.assertEqual(out, self.call("tokenize", self.model, "--decode", "--ids", "5,9", "--ids", "3")[0])
        self.assert_usage("tokenize", self.model, "--decode", "some text", says=["token ids", "some text"])

    def test_tsv_knows_no_quotes(self):
        path = self.write("table.tsv", 'a\t"b\r\n\n"c\td\te\n')
        self.assertEqual(self.texts("--file", path, "--column", "2"), ['"b', "d"])
        self.assertEqual(self.texts("--format", "tsv", stdin=path.read_bytes()), ["a", '"c'])

    def test_json_lines(self):
        path = self.write("table.jsonl", '{"text": "a\\nb", "pair": null}\n\n \r\n{"pair": "d", "text": "c", "n": [1]}\n')
        self.assertEqual(self.texts("--file", path), ["a\nb", "cd"])
        self.assertEqual(self.texts(stdin=path.read_bytes()), ["a\nb", "cd"])  # --json reads what it writes
        self.assertEqual(self.texts("--file", self.write("keys.jsonl", '{"q": "a", "c": "b", "text": 3}'),
                                    "--column", "q", "--pair-column", "c"), ["ab"])

    def test_what_is_wrong_with_which_line(self):
        cases = {
            ("lines", "a\nb\n\xff\n".encode("latin-1")): ["line 3", "UTF-8", "0xFF", "offset 0"],
            ("lines", b"fine\n\xed\xa0\x80"): ["line 2", "UTF-8"],
            ("lines", b"\xf4\x90\x80\x80"): ["line 1", "UTF-8"],
            ("lines", b"\xc0\x80"): ["line 1", "UTF-8"],
            ("csv", b'a\n"b\nc'): ["line 2", "quote"],
            ("csv", b'a\n"b"c\n'): ["line 2", "quote", '"c"'],
            ("csv", b"a\n\"x\ny\"\n\xe9\n"): ["line 4", "UTF-8"],
            ("jsonl", b'{"text": "a"}\n{"text": 3}\n'): ["line 2", '"text"', "number"],
            ("jsonl", b'{"text": "a"}\n\n{"text": "b"\n'): ["line 3", "JSON"],
            ("jsonl", b"[]\n"): ["line 1", "object", "array"],
            ("jsonl", b"{}\n"): ["line 1", '"text"', "none"],
            ("jsonl", b'{"text": "a"} {"text": "b"}'): ["line 1", "byte"],
            ("jsonl", b'{"text": "\\ud800"}'): ["line 1"],
            ("jsonl", b'{"text": "a", "x": 1e999}'): ["line 1", "too large"],
            ("jsonl", b'{"text": "a", "pair": []}'): ["line 1", '"pair"', "array"],
            ("jsonl", b"[" * 1000000): ["line 1"],
        }
        for (form, text), says in cases.items():
            with self.subTest(text=text[:40]):
                self.assert_fails("tokenize", self.model, "--format", form, stdin=text, says=["standard input", *says])
                path = self.write("wrong", text)
                self.assert_fails("tokenize", self.model, "--format", form, "--file", path, says=[path, *says])
        narrow = self.write("narrow.csv", "x,y\n1,2\n3\n")
        self.assert_fails("tokenize", self.model, "--file", narrow, "--column", "y", says=["line 3", "2", "1"])
        self.assert_fails("tokenize", self.model, "--file", narrow, "--column", "z", says=["line 1", '"z"', "x, y"])
        self.assert_fails("tokenize", self.model, "--file", narrow, "--column", "0", says=["narrow.csv: ", '"0"'])
        for ids in (b'{"ids": "a"}', b'{"ids": [1.5]}', b'{"ids": [-1]}', b'{"ids": [2147483648]}', b'{"text": "a"}'):
            self.assert_fails("tokenize", self.model, "--decode", "--json", stdin=ids, says=["line 1", '"ids"'])
        self.assert_fails("tokenize", self.model, "--decode", stdin=b"1,2\n3,x\n", says=["line 2", '"x"'])
        self.assert_fails("tokenize", self.model, "--decode", stdin=b"1\n256\n", says=["line 2", "256"])
        self.assert_usage("tokenize", self.model, "--format", "xml", says=["--format", "xml", "csv"])
        self.assert_usage("tokenize", self.model, "--column", "x", says=["--column", "--format"])

    def test_records_before_a_wrong_one_are_answered(self):
        process = subprocess.run([BINARY, "tokenize", self.model], input=b"a\nb\n\xff\nc\n", capture_output=True)
        self.assertEqual((process.returncode, process.stdout), (1, b"97\n98\n"))
        process = subprocess.run([BINARY, "tokenize", self.model, "--decode"], input=b"97\n98\n256\n99\n",
                                 capture_output=True)
        self.assertEqual((process.returncode, process.stdout), (1, b"a\nb\n"))
        self.assertIn(b"line 3", process.stderr)

    def test_an_input_is_not_overwritten(self):
        path = self.write("both.txt", "a\nb\n")
        self.assert_fails("tokenize", self.model, "--file", path, "-o", path, says=["another file", path])
        with open(path, "rb") as file:
            process = subprocess.run([BINARY, "tokenize", self.model, "-o", path], stdin=file, capture_output=True)
        self.assertEqual(process.returncode, 1)
        self.assertEqual(pathlib.Path(path).read_text(), "a\nb\n")

    def test_many_chunks(self):
        texts = [f"text {i}" for i in range(30000)]
        out, _ = self.call("tokenize", self.model, stdin="\n".join(texts).encode())
        self.assertEqual([bytes(map(int, line.split(","))).decode() for line in out.splitlines()], texts)
        back, _ = self.call("tokenize", self.model, "--decode", "--threads", 2, stdin=out.encode())
        self.assertEqual(back.splitlines(), texts)

    def test_ways_out(self):
        out, _ = self.call("tokenize", self.model, "abc", "", "d")
        self.assertEqual(out, "97,98,99\n\n100\n")
        self.assertEqual(self.call("tokenize", self.model, "abc", "--max-tokens", 2)[0], "97,98\n")
        path = self.folder / "out.txt"
        self.assertEqual(self.call("tokenize", self.model, "abc", "-o", path)[0], "")
        self.assertEqual(path.read_text(), "97,98,99\n")
        self.assertEqual(self.json("tokenize", self.model, "h\u00e4 \U0001f600"),
                         {"ids": list("h\u00e4 \U0001f600".encode()), "type_ids": [0] * 8,
                          "tokens": list("h\u00c3\u00a4\u0120\u00f0\u0141\u013a\u0122"),
                          "offsets": [[0, 1], [1, 2], [1, 2], [2, 3]] + [[3, 4]] * 4})
        self.assertEqual(self.json("tokenize", self.model, "--decode", "--ids", "104,195,164"), {"text": "h\u00e4"})


@unittest.skipUnless(os.path.isdir(SHARED), "TESSERA_SHARED does not name a directory")
class TokenizerGoldens(CliTest):
    """All that the references give, through the verb."""

    FOLDER = pathlib.Path(SHARED) / "golden/tokenizers"

    def objects(self, directory, records, *options):
        lines = "".join(json.dumps(record) + "\n" for record in records).encode()
        return self.json_lines("tokenize", directory, *options, stdin=lines)

    def decoded(self, directory, ids, *options):
        return [line["text"] for line in self.objects(directory, [{"ids": each} for each in ids], "--decode", *options)]

    def test_all(self):
        models = pathlib.Path(SHARED) / "models"
        places = {"minilm": models / "all-MiniLM-L6-v2", "stories260K": models / "stories260K"}
        goldens = {path.parent.name: path for path in sorted(self.FOLDER.glob("*/golden.json"))}
        self.assertGreaterEqual(len(goldens), 13)
        runs = [(name, places.get(name, path.parent), path) for name, path in goldens.items()]
        runs.append(("gpt2-files", self.FOLDER / "gpt2-files", goldens["gpt2"]))
        for name, directory, path in runs:
            with self.subTest(name):
                golden = json.loads(path.read_text())
                self.compare(directory, golden)

    def compare(self, directory, golden):
        cases, pairs = golden["cases"], golden["pairs"]
        self.assertGreater(len(cases), 300)
        texts = [{"text": case["text"]} for case in cases]
        plain = self.objects(directory, texts, "--no-special")
        self.assertEqual([line["ids"] for line in plain], [case["ids_plain"] for case in cases])
        self.assertEqual(self.decoded(directory, [case["ids_plain"] for case in cases]),
                         [case["decoded"] for case in cases])
        for line, case in zip(plain, cases, strict=True):
            self.assertEqual(len(line["ids"]), len(line["offsets"]))
            self.assertEqual(len(line["ids"]), len(line["tokens"]))
            self.assertTrue(all(0 <= begin <= end <= len(case["text"]) for begin, end in line["offsets"]))
        if "ids" in cases[0]:
            self.assertEqual([line["ids"] for line in self.objects(directory, texts)], [case["ids"] for case in cases])
            self.assertEqual(self.decoded(directory, [case["ids"] for case in cases], "--no-special"),
                             [case["decoded_clean"] for case in cases])
        both = self.objects(directory, [{"text": pair["a"], "pair": pair["b"]} for pair in pairs])
        self.assertEqual([(line["ids"], line["type_ids"]) for line in both],
                         [(pair["ids"], pair["type_ids"]) for pair in pairs])


class Hostile(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.decoder = checkpoints.make_decoder(cls.folder / "decoder")
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder")

    def streaming(self):
        """Verbs that take any number of inputs."""
        return [("tokenize", self.decoder), ("embed", self.encoder),
                ("run", self.decoder, "--batch", "-", "--max-tokens", 3, "--json")]

    def test_nothing(self):
        for arguments in self.streaming():
            self.assertEqual(self.call(*arguments, stdin=b""), ("", ""))
            for form in ("csv", "tsv", "jsonl"):
                self.assertEqual(self.call(*arguments, "--format", form, stdin=b"\n\n")[0], "")

    def skip_without_limits(self):
        if b"__asan_init" in pathlib.Path(BINARY).read_bytes():
            self.skipTest("AddressSanitizer needs more addresses than a limit of memory leaves")

    def test_100_mb_on_one_line(self):
        self.skip_without_limits()

        def bound():
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

        text = b"the quick brown fox " * 5_000_000
        path = self.folder / "ids"
        start = time.monotonic()
        self.call("tokenize", self.decoder, "-o", path, stdin=text, preexec_fn=bound)
        self.assertLess(time.monotonic() - start, 120)
        with path.open("rb") as file:
            self.assertEqual(file.read(15), b"116,104,101,32,")
        self.assertEqual(path.stat().st_size,
                         5_000_000 * len(join(b"the quick brown fox ") + ","))
        path.unlink()
        self.assert_fails("tokenize", self.decoder, "--file", "/dev/zero", preexec_fn=bound,
                          says=["/dev/zero, line 1", "268435456"])

    def test_memory_does_not_grow_with_the_input(self):
        self.skip_without_limits()

        def bound():
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

        process = self.start("tokenize", self.decoder, "--threads", 1, stdin=subprocess.PIPE,
                             stdout=subprocess.DEVNULL, preexec_fn=bound)
        block = b"a short line\n" * 80_000
        for _ in range(100):  # 100 MB; their records alone would take more than is allowed
            process.stdin.write(block)
        process.stdin.close()
        err = process.stderr.read()
        process.stderr.close()
        self.assertEqual(process.wait(SECONDS), 0, err)

    def test_interrupts(self):
        for arguments in self.streaming():
            with self.subTest(arguments[0]):
                process = self.start(*arguments, stdin=subprocess.PIPE)
                wait_until_caught(process.pid, signal.SIGINT)
                process.stdin.write(b"a fox\n" * 9000)
                process.stdin.flush()
                line = process.stdout.readline()
                self.assertTrue(line.endswith(b"\n"))
                process.send_signal(signal.SIGINT)  # while it works or waits for more
                out = process.stdout.read()
                err = process.stderr.read()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        pass
                self.assertEqual(process.wait(SECONDS), 130, err)
                self.assertRegex(err, rb"\Atessera(?: \w+)?: interrupted after \d+(?: of \d+)? (?:texts|prompts)\n\Z")
                self.assertTrue(out == b"" or out.endswith(b"\n"), out[-100:])

    def test_a_reader_that_leaves(self):
        for arguments in self.streaming():
            with self.subTest(arguments[0]):
                process = self.start(*arguments, stdin=subprocess.PIPE)
                process.stdin.write(b"a fox\n" * 9000)  # less than a pipe holds, more than a chunk
                process.stdin.flush()
                process.stdout.readline()
                process.stdout.close()
                err = process.stderr.read()
                process.stderr.close()
                self.assertEqual((process.wait(SECONDS), err), (-signal.SIGPIPE, b""))
                process.stdin.close()

    def test_outputs_that_cannot_be_written(self):
        with open("/dev/full", "wb") as full:
            for arguments in self.streaming():
                self.assert_fails(*arguments, stdin=b"a fox\n" * 10, stdout=full, says=["No space left"])
        for verb, model in (("tokenize", self.decoder), ("embed", self.encoder)):
            self.assert_fails(verb, model, "a", "-o", "/dev/full", says=["/dev/full", "No space left"])
            self.assert_fails(verb, model, "a", "-o", "/proc/version", says=["/proc/version"])
            self.assert_fails(verb, model, "a", "-o", self.folder, says=[self.folder, "directory"])

    @unittest.skipIf(os.geteuid() == 0, "root may read everything")
    def test_a_model_that_may_not_be_read(self):
        for model, verb in ((checkpoints.make_decoder(self.folder / "secret"), "tokenize"),
                            (checkpoints.make_encoder(self.folder / "secret encoder"), "embed")):
            model.chmod(0)
            try:
                self.assert_fails(verb, model, "a", says=["Permission denied"])
            finally:
                model.chmod(stat.S_IRWXU)

    def test_inputs_that_cannot_be_read(self):
        for arguments in (("tokenize", self.decoder, "--file"), ("embed", self.encoder, "--file"),
                          ("run", self.decoder, "--batch")):
            self.assert_fails(*arguments, self.folder / "absent", says=["absent", "No such file"])
            self.assert_fails(*arguments, self.folder, says=[self.folder, "directory"])


class Chat(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = checkpoints.make_decoder(cls.folder / "decoder")
        checkpoints.write_json(cls.model, "tokenizer_config.json", {"chat_template": CHATML, "eos_token": "<none>"})

    def prompt(self, *arguments, **options):
        """What the model was given, as text: its ids are bytes."""
        return [bytes(line["prompt_ids"]).decode()
                for line in self.json_lines("run", self.model, "--max-tokens", 1, *arguments, **options)]

    def test_one_message(self):
        user = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        self.assertEqual(self.prompt("--chat", "--prompt", "Hi"), [user])
        self.assertEqual(self.prompt("--chat", stdin=b"Hi\n"), [user])
        self.assertEqual(self.prompt("--chat", "--prompt", "Hi", "--system", "Be kind."),
                         ["<|im_start|>system\nBe kind.<|im_end|>\n" + user])
        self.assertEqual(self.prompt("--prompt", "Hi"), ["Hi"])

    def test_conversations_in_a_file(self):
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
        lines = [{"messages": turns}, {"text": "plain"}, {"messages": [{"role": "system", "content": "s"}, turns[0]]},
                 {"ids": [65, 66]}]
        stdin = "".join(json.dumps(line) + "\n" for line in lines).encode()
        batch = ("--batch", "-", "--format", "jsonl")
        said = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
        with_system = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
        self.assertEqual(self.prompt(*batch, stdin=stdin),
                         [said + "<|im_start|>assistant\n", "plain", with_system, "AB"])
        self.assertEqual(self.prompt(*batch, "--chat", "--system", "t", stdin=stdin)[1:3],
                         ["<|im_start|>system\nt<|im_end|>\n<|im_start|>user\nplain<|im_end|>\n<|im_start|>assistant\n",
                          with_system])
        for wrong, says in {'{"messages": []}': "messages", '{"messages": [{"role": "user"}]}': "content",
                            '{"messages": [{"role": "assistant", "content": "x"}]}': "user",
                            '{"messages": [{"role": "tool", "content": "x"}]}': "tool"}.items():
            self.assert_fails("run", self.model, *batch, stdin=b'{"ids": [1]}\n' + wrong.encode(), says=["line 2", says])

    def test_the_end_of_a_turn_ends_the_answer(self):
        model = checkpoints.make_decoder(self.folder / "ends")
        first = self.json("run", model, "--prompt", "Hi", "--greedy", "--max-tokens", 9)["ids"]
        # Any text may be what ends a turn: the byte that the model gives third.
        checkpoints.write_json(model, "tokenizer_config.json", {"chat_template": CHATML})
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        answer = self.json("run", model, "--chat", "--prompt", "Hi", "--greedy", "--max-tokens", 9)["ids"]
        self.assertEqual((len(first), len(answer)), (9, 9))
        names = {place: token for token, place in tokenizer["model"]["vocab"].items()}
        checkpoints.write_json(model, "tokenizer_config.json", {"chat_template": CHATML, "eos_token": names[answer[2]]})
        ended = self.json("run", model, "--chat", "--prompt", "Hi", "--greedy", "--max-tokens", 9)
        self.assertEqual(ended["ids"], answer[:answer.index(answer[2]) + 1])
        self.assertEqual(ended["finish_reason"], "end")
        beyond = self.json("run", model, "--chat", "--prompt", "Hi", "--greedy", "--max-tokens", 9, "--ignore-end")
        self.assertEqual(beyond["ids"], answer)

    def test_turns_at_a_terminal(self):
        terminal, inside = pty.openpty()
        process = self.start("run", self.model, "--chat", "--max-tokens", 8, stdin=inside, stderr=inside)
        os.close(inside)
        read_until(terminal, b"> ")
        for line in (b"A fox\n", b"And then?\n", b"/new\n", b"A hen\n"):
            os.write(terminal, line)
            said = read_until(terminal, b"> ")
            self.assertEqual(b" tokens" in said or b" token" in said, line != b"/new\n", said)
        os.write(terminal, b"\x04")
        process.communicate(timeout=SECONDS)
        os.close(terminal)
        self.assertEqual(process.returncode, 0)

    def test_models_without_a_known_template(self):
        model = checkpoints.make_decoder(self.folder / "other")
        self.assert_fails("run", model, "--chat", "--prompt", "x", says=["no chat template"])
        (model / "chat_template.jinja").write_text("{{ messages | tojson }}")
        self.assert_fails("run", model, "--chat", "--prompt", "x", says=["known forms", "ChatML", "already formatted"])
        self.assertEqual(len(self.json("run", model, "--prompt", "x", "--max-tokens", 2)["ids"]), 2)
        self.assert_usage("run", model, "--system", "x", "--prompt", "y", says=["--system", "--chat"])
        self.assert_usage("run", model, "--chat", "--ids", "1", says=["--chat", "--ids"])
        self.assert_usage("run", model, "--format", "csv", "--prompt", "x", says=["--format", "--batch"])


class Batch(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = checkpoints.make_decoder(cls.folder / "decoder")

    def test_texts(self):
        prompts = [f"prompt {i}"[: 3 + i % 7] for i in range(150)]
        options = ("--greedy", "--max-tokens", 5)
        stdin = "\n".join(prompts).encode()
        lines = self.json_lines("run", self.model, "--batch", "-", *options, stdin=stdin)
        self.assertEqual([bytes(line["prompt_ids"]).decode() for line in lines], prompts)
        for i in (0, 77, 149):
            self.assertEqual(lines[i]["ids"], self.json("run", self.model, "--prompt", prompts[i], *options)["ids"])
        path = self.folder / "prompts.csv"
        path.write_text("id,prompt\n" + "".join(f"{i},{prompt}\n" for i, prompt in enumerate(prompts)))
        again = self.json_lines("run", self.model, "--batch", path, "--column", "prompt", *options)
        self.assertEqual([line["ids"] for line in again], [line["ids"] for line in lines])
        out, _ = self.call("run", self.model, "--batch", "-", *options, stdin=b"a\nb\n")
        self.assertRegex(out, r"\A--- prompt 1 ---\n(?s:.*)\n--- prompt 2 ---\n(?s:.*)\n\Z")

    def test_a_system_message_needs_a_conversation(self):
        self.assert_usage("run", self.model, "--batch", "prompts.txt", "--system", "a", says=["--system", "--chat"])

    def test_prompts_before_a_wrong_one_are_answered(self):
        process = subprocess.run([BINARY, "run", self.model, "--batch", "-", "--max-tokens", "2", "--json"],
                                 input=b"a\nb\n\nc\n", capture_output=True)
        self.assertEqual(process.returncode, 1)
        self.assertEqual(len(process.stdout.splitlines()), 2)
        self.assertIn(b"line 3", process.stderr)


if __name__ == "__main__":
    run_tests()
