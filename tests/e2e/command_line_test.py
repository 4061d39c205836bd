#!/usr/bin/env python3
"""Tests of what all verbs share: help and tables at any width, answers to words that are not ours, the environment and
files of options, the version, completion scripts and manual pages.

    TESSERA_BINARY=build/bin/tessera tests/e2e/command_line_test.py [CLASS[.TEST] ...]

Exit code 77 when every test was skipped.
"""

import fcntl
import json
import os
import pathlib
import pty
import re
import shutil
import struct
import subprocess
import termios

import checkpoints
from cli_test import BINARY, CliTest, run_tests

PLAIN = {name: value for name, value in os.environ.items() if name != "COLUMNS" and not re.match("TESSERA_[A-Z]+_", name)}


def verbs():
    out = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True, env=PLAIN).stdout
    return [line.split()[0] for line in out.split("Verbs:\n")[1].split("\n\n")[0].splitlines()]


def at_terminal(columns, *arguments):
    """What the program shows on a terminal of so many columns."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([BINARY, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=inside,
                               stderr=subprocess.DEVNULL, env=PLAIN)
    os.close(inside)
    shown = b""
    try:
        while block := os.read(terminal, 1 << 16):
            shown += block
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(terminal)
    assert process.wait(60) == 0, shown
    return shown.decode().replace("\r\n", "\n")


def outside_examples(text):
    return re.sub(r"\nExamples:\n(  .*\n)*", "\n", text)


def words(text):
    """Without the marks of lines that go on."""
    return [word for word in text.split() if word != "\\"]


def too_wide(text, columns):
    """Lines beyond the width that have a place to break; examples need 30 columns at least and keep comments."""
    examples = [line for line in text.splitlines() if len(line) > max(columns, 80) and "#" not in line]
    return examples + [line for line in outside_examples(text).splitlines()
                       if len(line) > columns and len(line.split(maxsplit=1)) > 1 and not line.strip().startswith("-")]


class Help(CliTest):
    def test_widths(self):
        for verb in [None, *verbs()]:
            arguments = ["--help"] if verb is None else [verb, "--help"]
            piped, _ = self.call(*arguments, env=PLAIN)
            self.assertEqual(piped, at_terminal(80, *arguments))
            self.assertEqual(too_wide(piped, 80), [])
            for columns in (20, 40, 60, 120):
                with self.subTest(verb=verb, columns=columns):
                    shown = at_terminal(columns, *arguments)
                    self.assertEqual(too_wide(shown, columns), [])
                    # Nothing is lost on the way.
                    self.assertEqual(words(shown), words(piped))
            wished, _ = self.call(*arguments, env=PLAIN | {"COLUMNS": "60"})
            self.assertEqual(wished, at_terminal(60, *arguments))
            for nonsense in ("", "0", "-5", "wide", "99999999999"):
                self.assertEqual(self.call(*arguments, env=PLAIN | {"COLUMNS": nonsense})[0], piped)

    def test_every_line_is_a_sentence(self):
        for verb in verbs():
            out, _ = self.call(verb, "--help", env=PLAIN | {"COLUMNS": "1000"})
            lines = [line for line in out.splitlines() if re.match(r"  (-\w, |    )--", line)]
            self.assertGreater(len(lines), 4)
            for line in lines:
                text = re.sub(r"^ +(-\w, )?--[a-z0-9-]+( [^ ]+)?(  +|$)", "", line)
                if not text:  # the name was too long for its column
                    text = out.splitlines()[out.splitlines().index(line) + 1].strip()
                self.assertRegex(text, r"^[A-Z].*\.$", f"{verb}: {line}")
        listed = self.call("--help", env=PLAIN)[0].split("Verbs:\n")[1].split("\n\n")[0]
        for line in listed.splitlines():
            self.assertRegex(line, r"^  [a-z-]+ +[A-Z].*\.$")

    def test_groups(self):
        out, _ = self.call("run", "--help")
        headings = re.findall(r"^([A-Z]\w+):$", out, re.MULTILINE)
        self.assertEqual(headings, ["Input", "Generation", "Output", "Model", "General", "Examples"])

    def test_help_verb(self):
        self.assertEqual(self.call("help"), self.call("--help"))
        self.assertIn("143 after SIGTERM", " ".join(self.call("help")[0].split()))
        for verb in (*verbs(), "completion", "version"):
            self.assertEqual(self.call("help", verb), self.call(verb, "--help"))
        self.assert_usage("help", "rum", says=["did you mean run?"])

    def test_tables(self):
        model = checkpoints.make_decoder(self.folder / "decoder")
        wide = at_terminal(300, "inspect", model)
        piped, _ = self.call("inspect", model, env=PLAIN)
        self.assertEqual(wide, piped)
        for columns in (20, 50, 80, 120):
            shown = at_terminal(columns, "inspect", model)
            longest = max(map(len, shown.split()))
            self.assertLessEqual(max(map(len, shown.splitlines())), max(columns, longest + 8), shown)
            self.assertIn("layers", shown)
        self.assertIn("why", at_terminal(80, "inspect", model))


class Words(CliTest):
    """Words that are not ours."""

    def test_verbs(self):
        for word, meant in (("rum", "run"), ("embd", "embed"), ("fill_mask", "fill-mask"), ("tokenise", "tokenize"),
                            ("compres", "compress"), ("insp", "inspect")):
            self.assert_usage(word, says=[f'found "{word}"; did you mean {meant}?'])
        self.assert_usage("generate", says=["tessera run"])
        self.assert_usage("quantize", says=["tessera compress"])
        self.assert_usage(self.folder, says=["verb comes first"])
        self.assert_usage("--versoin", says=["did you mean --version?"])
        _, err = self.call("frobnicate", expect=2)
        self.assertNotIn("did you mean", err)

    def test_options(self):
        for verb, word, meant in (("run", "--temprature", "--temperature"), ("run", "--top_k", "--top-k"),
                                  ("run", "--jsn", "--json"), ("embed", "--dimension", "--dimensions"),
                                  ("bench", "--ragd", "--ragged"), ("compress", "--prune-tile", "--prune-tiles"),
                                  ("eval", "--on-eror", "--on-error"), ("run", "--max_tokens=5", "--max-tokens")):
            self.assert_usage(verb, "model", word,
                              says=[f"tessera {verb}: unknown option {word.split('=')[0]}; did you mean {meant}?\n"])
        _, err = self.call("run", "model", "--frobnicate", expect=2)
        self.assertEqual(err, "tessera run: unknown option --frobnicate\nTry: tessera run --help\n")
        self.assert_usage("embed", "model", "--beams", "4", says=["--beams; it is an option of run, eval\n"])
        # Another verb's own name for it goes before a name that is merely near.
        self.assert_usage("tokenize", "model", "--keep-tokens", "0.5", says=["--keep-tokens; it is an option of run, "])

    def test_values(self):
        for option, word, meant in (("--dtype", "bf61", "bf16"), ("--precompute-vo", "atuo", "auto"),
                                    ("--cache", "f23", "f32"), ("--format", "jsonlines", "jsonl")):
            self.assert_usage("run", "model", option, word, says=[option + ": expected", f"did you mean {meant}?"])
        self.assert_usage("tag", "model", "--aggregation", "frist", says=["did you mean first?"])
        self.assert_usage("embed", "model", "--key-bits", "", says=['8+4, 6+4, 8 or 4, found ""\n'])
        for option in ("--file", "--output", "--plan", "--pruning", "--trace"):
            self.assert_usage("embed", "model", option, "", says=[f'{option}: expected a file name, found ""'])
        self.assert_usage("explain", "model", "--html", "", says=['--html: expected a file name, found ""'])
        self.assert_usage("embed", "model", "--pooling", "mena", says=["--pooling", "did you mean mean?"])
        self.assert_usage("compress", "model", "-o", "x", "--scope", "gloabl", says=["did you mean global?"])
        self.assert_usage("eval", "model", "--task", "x", "--data", "x", "--split", "tset", says=["did you mean test?"])

    def test_options_of_other_tools(self):
        for words, ours in ((["--temp", "1"], "--temperature"), (["--n-predict", "5"], "--max-tokens"),
                            (["--max_new_tokens", "5"], "--max-tokens"), (["--num_beams=4"], "--beams"),
                            (["--repeat-penalty", "1.1"], "--repetition-penalty"), (["--load-in-8bit"], "--dtype"),
                            (["--num_return_sequences", "2"], "--num-sequences"), (["--system-prompt", "x"], "--system"),
                            (["--torch_dtype", "float16"], "--dtype"), (["--ignore-eos"], "--ignore-end"),
                            (["--kv-cache-dtype", "fp8"], "--cache"), (["--threads-batch", "2"], "--threads")):
            self.assert_usage("run", "model", *words, says=[f"Tessera calls it {ours}\n"])
        for words, sentence in ((["--model", "x"], "right after the verb"), (["-m", "x"], "right after the verb"),
                                (["-ngl", "99"], "runs on the CPU"), (["--ngl", "99"], "runs on the CPU"),
                                (["--device", "cuda"], "runs on the CPU"), (["--batch_size", "8"], "batch size"),
                                (["--trust-remote-code"], "no code"), (["-hf", "owner/name"], "hf download"),
                                (["--do_sample"], "--greedy"), (["--lora", "x"], "nothing like it")):
            self.assert_usage("run", "model", *words, says=[sentence])
            self.assert_usage("run", *words, says=[sentence])  # whatever else is missing
        self.assert_usage("embed", "model", "--device", "cpu", "x", says=["runs on the CPU"])
        self.assert_usage("embed", "model", "--normalize_embeddings", "x", says=["--normalize"])
        self.assert_usage("embed", "model", "--truncate_dim", "8", "x", says=["--dimensions"])
        self.assert_usage("embed", "model", "--precision", "int8", "x", says=["--dtype"])
        self.assert_usage("compress", "model", "-o", "x", "--sparsity", "0.5", says=["--prune-tiles"])
        self.assert_usage("compress", "model", "-o", "x", "--bits", "4", says=["--quantize"])
        self.assert_usage("run", "model", "--sparsity", "0.5", says=["tessera compress --prune-tiles"])
        self.assert_usage("bench", "model", "--ctx-size", "99", says=["--length"])
        self.assert_usage("compress", "model", "-o", "x", "--prune", "0.5", says=["calls it --prune-tiles\n"])
        self.assert_usage("compress", "model", "-o", "x", "--overwrite", says=["calls it --force\n"])

    def test_options_that_are_not_quite_ours(self):
        for verb, words, sentence in (("run", ["-c", "99"], "the model's own"), ("run", ["--max-model-len", "9"], "the model's own"),
                                      ("run", ["--presence-penalty", "1"], "neutral at 1"),
                                      ("run", ["--do-sample"], "without --greedy"), ("run", ["--mirostat", "2"], "the nearest"),
                                      ("run", ["--cache-dir", "x"], "HF_HUB_CACHE"),
                                      ("compress", ["-o", "x", "--nsamples", "9"], "tokens, not samples"),
                                      ("embed", ["--show-progress-bar"], "unless --quiet"),
                                      ("embed", ["--max-length", "9"], "cut where the model's own limit is"),
                                      ("classify", ["--function-to-apply", "none"], "--logits"),
                                      ("export", ["-o", "x", "--format", "gguf"], "format of transformers")):
            with self.subTest(words):
                _, err = self.call(verb, "model", *words, expect=2)
                self.assertIn(sentence, err)
                self.assertNotIn("Tessera calls it", err)

    def test_verbs_that_are_not_there(self):
        for verb, sentence in (("serve", "no server yet"), ("pull", "hf download"), ("download", "hf download"),
                               ("list", "hub's cache")):
            self.assert_usage(verb, says=[sentence])
        self.assert_usage("eval", "model", "--task", "perplexty", "--data", "x", says=["did you mean perplexity?"])

    def test_a_variable_without_a_verb(self):
        environment = PLAIN | {"TESSERA_THREADS": "2"}
        _, err = self.call("run", "absent", env=environment, expect=1)
        self.assertIn("TESSERA_THREADS; did you mean TESSERA_RUN_THREADS?", err)
        _, err = self.call("run", "absent", "-q", env=environment, expect=1)
        self.assertNotIn("TESSERA_THREADS", err)

    def test_data_types(self):
        for word, ours in (("w8a8", "int8"), ("float16", "bf16"), ("fp16", "bf16"), ("half", "bf16"),
                           ("bfloat16", "bf16"), ("q8_0", "w8"), ("q4_k_m", "w4"), ("Q4_K_M", "w4"), ("fp32", "f32"),
                           ("float32", "f32"), ("torch.bfloat16", "bf16"), ("nf4", "w4"), ("w4a16", "w4"), ("fp8", "int8"),
                           ("8bit", "int8"), ("4bit", "int4"), ("q5_k_m", "w8")):
            self.assert_usage("run", "model", "--dtype", word, says=[f'found "{word}"; ', f" {ours}\n"])
        for word, ours in (("w8a8", "int8"), ("q8_0", "w8"), ("q4_0", "w4"), ("w4a16", "w4"), ("int8_weight_only", "w8")):
            self.assert_usage("compress", "model", "-o", "x", "--quantize", word, says=[f'found "{word}"; ', f" {ours}\n"])
        self.assert_usage("export", "model", "-o", "x", "--dtype", "float16", says=["Tessera calls it f16\n"])
        self.assert_usage("run", "model", "--cache", "q8_0", says=["int8\n"])
        self.assert_usage("run", "model", "--cache", "int4", says=["int8\n"])

    def test_kinds_of_errors(self):
        for arguments, message in (
                (["run"], "expected MODEL, found none"),
                (["rerank", "m"], "expected --query TEXT, found none"),
                (["run", "m", "--prompt"], "--prompt: expected TEXT, found none"),
                (["run", "m", "--seed", "1", "--seed", "2"], "--seed: expected one value, found 2"),
                (["run", "m", "--prompt", "a", "--file", "b"], "expected --prompt or --file, found both"),
                (["run", "m", "text", "--prompt", "a"], "expected TEXT or --prompt, found both"),
                (["run", "m", "Once", "upon"], "expected one text after MODEL, found 2: put the text in quotes"),
                (["tag", "m", "--tokens", "x"], "--tokens: expected --json as well"),
                (["run", "m", "--logprobs"], "--logprobs: expected --json as well"),
                (["run", "m", "--json=x"], "--json: expected no value, found one"),
                (["inspect", "m", "x"], 'expected no more arguments, found "x"'),
                (["run", "m", "-q", "-v"], "expected --quiet or --verbose, found both"),
                (["run", "m", "-n", "x"], '--max-tokens: expected an integer from 1 to 2147483647, found "x"')):
            _, err = self.call(*arguments, expect=2)
            self.assertEqual(err, f"tessera {arguments[0]}: {message}\nTry: tessera {arguments[0]} --help\n")

    def test_nobody_reads_errors(self):
        for arguments in ([], ["rum"], ["run", "--bad"]):
            with open("/dev/full", "wb") as full:
                self.call(*arguments, expect=2, stderr=full)
            self.call(*arguments, expect=2, stderr=None, preexec_fn=lambda: os.close(2))


class Settings(CliTest):
    """The environment and --config."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = checkpoints.make_decoder(cls.folder / "decoder")
        cls.encoder = checkpoints.make_encoder(cls.folder / "encoder")

    def write(self, text):
        path = self.folder / "tessera.toml"
        path.write_text(text)
        return path

    def run_model(self, *arguments, **environment):
        out, _ = self.call("run", self.model, "--json", "--ids", "1,2", *arguments, env=PLAIN | environment)
        return json.loads(out)

    def test_order(self):
        config = self.write("max-tokens = 3\n[run]\nseed = 5\n")
        self.assertEqual(len(self.run_model("--config", config)["ids"]), 3)
        self.assertEqual(self.run_model("--config", config)["seed"], 5)
        self.assertEqual(len(self.run_model("--config", config, TESSERA_RUN_MAX_TOKENS="4")["ids"]), 4)
        both = self.run_model("--config", config, "-n", 2, TESSERA_RUN_MAX_TOKENS="4", TESSERA_RUN_SEED="6")
        self.assertEqual((len(both["ids"]), both["seed"]), (2, 6))
        self.assertEqual(self.run_model(TESSERA_RUN_CONFIG=str(config), TESSERA_RUN_MAX_TOKENS="1")["seed"], 5)
        # A section goes for its verb alone, and an empty variable is none.
        self.assertEqual(len(self.run_model("-n", 2, TESSERA_RUN_MAX_TOKENS="", TESSERA_EVAL_MAX_TOKENS="x")["ids"]), 2)

    def test_values(self):
        text = self.run_model("-n", 60, "--seed", 1)["text"]
        stop = next(c for i, c in enumerate(text) if i > 3 and re.match("[A-Za-z]", c) and text.index(c) == i)
        config = self.write(f"[run] # a comment\nstop = ['none # such', \"{stop}\"]\nmax_tokens = 60 # with _\n"
                            "greedy = false\n; another\nseed = 1\n")
        stopped = self.run_model("--config", config)
        self.assertEqual((stopped["text"], stopped["finish_reason"]), (text[:text.index(stop)], "stop_string"))
        config = self.write("[bench]\nbatch = [1, 2]\nlength = 4\nrepeat = 1\n")
        out, _ = self.call("bench", self.encoder, "--json", "--config", config)
        self.assertEqual([each["batch"] for each in json.loads(out)["results"]], [1, 2])
        greedy = self.run_model("--greedy", "-n", 8)["ids"]
        for yes in ("true", "1", "on", "yes"):
            self.assertEqual(self.run_model("-n", 8, TESSERA_RUN_GREEDY=yes)["ids"], greedy)
        self.assertEqual(self.run_model("-n", 8, "--seed", 3, TESSERA_RUN_GREEDY="false")["ids"],
                         self.run_model("-n", 8, "--seed", 3)["ids"])
        out, _ = self.call("run", self.model, "--json", "-n", 1, env=PLAIN | {"TESSERA_RUN_PROMPT": "[a, b]"})
        self.assertEqual(json.loads(out)["prompt_ids"], list(b"[a, b]"))

    def test_what_the_command_line_excludes(self):
        config = self.write("[run]\nprompt = \"from the file\"\n")
        for more, environment in ((("--config", config), {}), ((), {"TESSERA_RUN_PROMPT": "from outside"})):
            self.assertEqual(self.run_model("-n", 1, *more, **environment)["prompt_ids"], [1, 2])

    def refuse(self, *says, **environment):
        _, err = self.call("run", self.model, "--ids", 1, "--config", self.folder / "tessera.toml", expect=2,
                           env=PLAIN | environment)
        for text in says:
            self.assertIn(text, err)
        self.assertEqual(err.count("\n"), 2)

    def test_refusals(self):
        for text, *says in (("temprature = 1\n", "tessera.toml: unknown key temprature; did you mean temperature?"),
                            ("[run]\nquery = 'x'\n", "unknown key query"),
                            ("[rum]\nseed = 1\n", "unknown section [rum]; did you mean run?"),
                            ("[embed]\nsede = 1\n", "unknown key sede"),
                            ("[run]\nseed = x\n", "--seed", "found \"x\"", "--seed comes from", "tessera.toml"),
                            ("[run]\ngreedy = maybe\n", "true or false", "maybe"),
                            ("[run]\nsystem = Once upon a time\n", "system", "quotes"),
                            ("[run]\nstop = \"a\\n\"\n", "line 2", "\\"),
                            ("seed = \"1\n", "line 1", "closing quote"),
                            ("[run.x]\nseed = 1\n", "unknown section [run.x]\n"), ("\x02" * 90 + "=1\n", "key " + "?" * 40 + "...\n"),
                            ("[run]\nhelp = true\n", "help"), ("[run]\nconfig = 'x'\n", "config")):
            self.write(text)
            self.refuse(*says)
        self.write("")
        self.refuse("--seed", "found \"y\"", "(--seed comes from TESSERA_RUN_SEED)", TESSERA_RUN_SEED="y")
        self.refuse("TESSERA_RUN_GREEDY", "true or false", TESSERA_RUN_GREEDY="maybe")
        for missing in (self.folder / "absent.toml", self.folder):
            self.assert_usage("run", self.model, "--config", missing, says=["--config", str(missing)])
        _, err = self.call("run", self.model, expect=2, env=PLAIN | {"TESSERA_RUN_CONFIG": "/absent.toml"})
        self.assertIn("/absent.toml", err)

    def test_unknown_variables(self):
        _, err = self.call("run", self.model, "--ids", 1, "-n", 1, env=PLAIN | {"TESSERA_RUN_TEMPRATURE": "1"})
        self.assertIn("tessera run: unknown variable TESSERA_RUN_TEMPRATURE; did you mean TESSERA_RUN_TEMPERATURE?\n", err)
        _, err = self.call("run", self.model, "--ids", 1, "-n", 1, env=PLAIN | {"TESSERA_EVAL_X": "1", "TESSERA_RUN": "1"})
        self.assertNotIn("unknown", err)

    def test_keys_for_other_verbs(self):
        config = self.write("dimensions = 4\ntemperature = 0.5\n[eval]\nresamples = 10\n")
        self.assertEqual(len(self.run_model("--config", config, "-n", 2)["ids"]), 2)
        out, _ = self.call("embed", self.encoder, "a", "--json", "--config", config)
        self.assertEqual(len(json.loads(out)["embedding"]), 4)

    def test_verbosity(self):
        environment = PLAIN | {"TESSERA_RUN_MAX_TOKENS": "2"}
        _, usual = self.call("run", self.model, "--ids", "1", env=environment)
        self.assertRegex(usual, r"\A\[2 tokens, [^\n]*\]\n\Z")
        self.assertEqual(self.call("run", self.model, "--ids", "1", "-q", env=environment)[1], "")
        _, said = self.call("run", self.model, "--ids", "1", "-v", env=environment)
        self.assertIn("[--max-tokens comes from TESSERA_RUN_MAX_TOKENS]\n", said)
        self.assertRegex(said, r"\[loaded \S+ in [\d.]+ s: LlamaForCausalLM, ")
        _, one = self.call("run", self.model, "--ids", "1", "-n", 1)
        self.assertTrue(one.startswith("[1 token, "), one)
        _, cut = self.call("embed", self.encoder, "a " * 600)
        self.assertEqual(cut, "tessera embed: 1 of 1 text was cut to the model's limit\n")
        self.assertEqual(self.call("embed", self.encoder, "a " * 600, "-q")[1], "")
        self.assertRegex(self.call("run", self.folder / "absent", "-q", expect=1)[1], "^tessera run: ")

    def test_prompt_as_an_argument(self):
        expected = self.call("run", self.model, "--prompt", "A fox", "--greedy", "-n", 4)[0]
        for words in (("A fox", "--greedy", "-n", 4), ("--greedy", "-n4", "A fox"), ("-p", "A fox", "--greedy", "-n", 4),
                      ("--greedy", "-n", 4, "--", "A fox")):
            self.assertEqual(self.call("run", self.model, *words)[0], expected)
        dashes = json.loads(self.call("run", self.model, "-n", 1, "--json", "--", "-x")[0])
        self.assertEqual(dashes["prompt_ids"], list(b"-x"))
        for prompt in ("q=", "=", "a=b="):
            equals = json.loads(self.call("run", self.model, "-n", 1, "--json", f"--prompt={prompt}")[0])
            self.assertEqual(equals["prompt_ids"], list(prompt.encode()))

    def test_schedules_of_pruning(self):
        file = self.folder / "schedule.json"
        file.write_text('{"tokens": 0.5}')
        self.call("embed", self.encoder, "a fox", "--pruning", file)
        self.assert_usage("embed", self.encoder, "a", "--pruning", file, "--keep-tokens", 0.5,
                          says=["expected --keep-tokens or --pruning, found both"])
        for text in ('{"tokens": "x"}', '{"tokens": [1, 1, 1, 1, 1, 1, 1]}', "{", "\n"):
            file.write_text(text)
            self.assert_fails("embed", self.encoder, "a", "--pruning", file, says=[f"tessera embed: {file}: "])
        file.write_text("")
        self.assert_usage("embed", self.encoder, "a", "--pruning", file, says=[str(file), "empty"])
        self.assertEqual(self.call("embed", self.encoder, "a fox")[0],
                         self.call("embed", self.encoder, "a fox", "--pruning", "none")[0])
        self.assert_fails("embed", self.encoder, "a", "--pruning", "spatten-gpt2-small",
                          says=["spatten-gpt2-small: tokens: expected a share for each of the "])
        self.assert_usage("embed", self.encoder, "a", "--pruning", "spaten",
                          says=["expected a file or spatten-gpt2-small, spatten-gpt2-medium or none", "cannot open spaten"])

    def test_schedules_of_options(self):
        self.call("embed", self.encoder, "a fox", "--keep-tokens", 2, "--keep-heads", 1, "--keep-values", 1)
        for option, value, says in (
                ("--keep-tokens", "0", "an average share above 0 and up to 1, a number of tokens from 2 on"),
                ("--keep-tokens", "1,1,1,1,1,1,1", "a share for each of the "),
                ("--keep-heads", "1.5", "an average share above 0 and up to 1, or a list"),
                ("--keep-values", "threshold=2", "a number from 1e-06 to 1, found 2"),
                ("--value-bits", "6", "expected key_bits beside it, found none"),
                ("--refetch", "0.1", "expected key_bits of two planes")):
            self.assert_fails("embed", self.encoder, "a", option, value, says=[f"tessera embed: {option}", says])
        for option, value in (("--keep-tokens", "nan"), ("--keep-heads", "1,,1"), ("--keep-values", "threshold=x"),
                              ("--key-bits", "7"), ("--value-bits", "5"), ("--refetch", "8,width")):
            self.assert_usage("embed", self.encoder, "a", option, value, says=[option, f'found "{value}"'])


class Versions(CliTest):
    def test_version(self):
        out, err = self.call("--version", env=PLAIN)
        self.assertEqual(err, "")
        self.assertRegex(out, r"\Atessera \d+\.\d+\.\d+( \(commit [0-9a-f]{12}\))?\nCompiler: \S.*\nCPU: \S.*\n"
                              r"Kernels: \S(.|\n  )*\n\Z")
        for words in (["-V"], ["version"]):
            self.assertEqual(self.call(*words, env=PLAIN)[0], out)
        found = json.loads(self.call("--version", "--json")[0])
        self.assertEqual(set(found), {"version", "commit", "compiler", "cpu", "instruction_sets"})
        self.assertTrue(out.startswith("tessera " + found["version"]))
        capped = json.loads(self.call("--version", "--json", env=PLAIN | {"TESSERA_ISA": "ref"})[0])
        self.assertEqual(capped["instruction_sets"], [])

    def test_commit(self):
        root = pathlib.Path(__file__).resolve().parents[2]
        if shutil.which("git") is None or not (root / ".git").exists():
            self.skipTest("the tree is no git repository")
        commit = json.loads(self.call("--version", "--json")[0])["commit"]
        kind = subprocess.run(["git", "cat-file", "-t", str(commit)], cwd=root, capture_output=True, text=True)
        self.assertEqual(kind.stdout, "commit\n", f"{commit}: {kind.stderr}")


class Completion(CliTest):
    def complete(self, *words):
        """What bash offers when the last word is to be completed."""
        script = ("source <(\"$1\" completion bash); shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _tessera; "
                  "printf '%s\\n' \"${COMPREPLY[@]}\"")
        done = subprocess.run(["bash", "--norc", "-c", script, "bash", BINARY, *words], capture_output=True, text=True,
                              timeout=60, cwd=self.folder, check=True)
        self.assertEqual(done.stderr, "")
        return [word for word in done.stdout.splitlines() if word]

    def test_bash(self):
        self.assertEqual(self.complete("tessera", "tok"), ["tokenize"])
        self.assertEqual(set(self.complete("tessera", "")),
                         {*verbs(), "help", "completion", "version", "--help", "--version"})
        self.assertEqual(self.complete("tessera", "help", "emb"), ["embed"])
        self.assertEqual(self.complete("tessera", "run", "model", "--temp"), ["--temperature"])
        self.assertIn("--top-k", self.complete("tessera", "run", "model", "--to"))
        self.assertEqual(self.complete("tessera", "run", "model", "--dtype", "b"), ["bf16"])
        self.assertEqual(self.complete("tessera", "compress", "m", "--quantize", "w"), ["w8", "w4"])
        self.assertEqual(self.complete("tessera", "completion", "z"), ["zsh"])
        (self.folder / "prompts.txt").touch()
        (self.folder / "proud model").mkdir()
        self.assertEqual(set(self.complete("tessera", "run", "m", "--file", "pro")), {"prompts.txt", "proud model"})
        self.assertEqual(self.complete("tessera", "compress", "m", "-o", "pro"), ["proud model"])
        self.assertEqual(self.complete("tessera", "run", "m", "--prompt", "pro"), [])
        self.assertEqual(set(self.complete("tessera", "run", "pro")), {"prompts.txt", "proud model"})

    def test_all_options_in_all_shells(self):
        scripts = {shell: self.call("completion", shell)[0] for shell in ("bash", "zsh", "fish")}
        for verb in verbs():
            out, _ = self.call(verb, "--help", env=PLAIN)
            for option in re.findall(r"^  (?:-\w, |    )--([a-z0-9-]+)", out, re.MULTILINE):
                self.assertIn(f"--{option}", scripts["bash"])
                self.assertIn(f"--{option}[", scripts["zsh"])
                self.assertRegex(scripts["fish"], rf"seen_subcommand_from {verb}' -l {option} ")
        self.assert_usage("completion", "tcsh", says=["bash, zsh or fish"])
        self.assert_usage("completion", says=["SHELL"])

    def check_syntax(self, shell):
        if shutil.which(shell) is None:
            self.skipTest(f"{shell} is not here")
        script = self.folder / f"script.{shell}"
        script.write_text(self.call("completion", shell)[0])
        done = subprocess.run([shell, "-n", script], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_bash_reads_its_script(self):
        self.check_syntax("bash")

    def test_zsh_reads_its_script(self):
        self.check_syntax("zsh")

    def test_fish_reads_its_script(self):
        self.check_syntax("fish")

    def test_fish(self):
        if shutil.which("fish") is None:
            self.skipTest("fish is not here")
        (self.folder / "completions.fish").write_text(self.call("completion", "fish")[0])
        for line, offered in (("tessera tok", {"tokenize"}), ("tessera run m --temp", {"--temperature"}),
                              ("tessera run m --dtype b", {"bf16"}), ("tessera help emb", {"embed"}),
                              ("tessera completion z", {"zsh"})):
            done = subprocess.run(["fish", "--no-config", "-c", f"source completions.fish; complete -C '{line}'"],
                                  capture_output=True, text=True, timeout=60, cwd=self.folder)
            self.assertEqual(done.stderr, "")
            self.assertEqual({each.split("\t")[0] for each in done.stdout.splitlines()}, offered)


class Manual(CliTest):
    def test_pages(self):
        folder = self.folder / "man1"
        folder.mkdir()
        self.call("man", "-o", folder)
        pages = sorted(path.name for path in folder.iterdir())
        self.assertEqual(pages, sorted(["tessera.1", *(f"tessera-{verb}.1" for verb in verbs())]))
        self.assertEqual((folder / "tessera-run.1").read_text(), self.call("man", "run")[0])
        for verb in verbs():
            text = (folder / f"tessera-{verb}.1").read_text().replace("\\-", "-")
            self.assertIn("130 after an interrupt, 143 after SIGTERM", text)
            out, _ = self.call(verb, "--help", env=PLAIN)
            for option in re.findall(r"^  (?:-\w, |    )(--[a-z0-9-]+)", out, re.MULTILINE):
                self.assertIn(f"\\fB{option}\\fR", text)
                if option != "--help":
                    self.assertIn(f"TESSERA_{verb}_{option[2:]}.".replace("-", "_").upper(), text)
        self.assert_usage("man", "rum", says=["did you mean run?"])

    def test_lint(self):
        """Whichever of the checkers is here."""
        folder = self.folder / "lint"
        folder.mkdir()
        self.call("man", "-o", folder)
        checks = {"mandoc": ["mandoc", "-Tlint", "-Wwarning"], "groff": ["groff", "-man", "-ww", "-z"],
                  "man": ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8"]}
        there = {name: command for name, command in checks.items() if shutil.which(name)}
        if not there:
            self.skipTest("neither mandoc nor groff nor man is here")
        for path in sorted(folder.iterdir()):
            for name, command in there.items():
                done = subprocess.run([*command, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
                                      env=PLAIN | {"MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANROFFSEQ": ""})
                said = done.stderr + (done.stdout if name == "mandoc" else b"")
                self.assertEqual((done.returncode, said.decode()), (0, ""), f"{name} {path.name}")


if __name__ == "__main__":
    run_tests()
