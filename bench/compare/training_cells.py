"""Trainings of Tessera beside those of torch: the same checkpoint, data, batches and settings."""

import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys

from common import CACHE, compressed, make_checkpoint, say

TORCH = pathlib.Path(__file__).resolve().parent / "engines" / "torch_training.py"
STEPS, WARMUP, DECAY = 50, 0.1, 0.01
TASKS = {"CausalLM": "causal_lm", "LMHeadModel": "causal_lm", "MaskedLM": "masked_lm", "SequenceClassification": "classification",
         "TokenClassification": "token_classification", "QuestionAnswering": "question_answering"}


class TrainingError(Exception):
    pass


def config_of(directory):
    return json.loads((pathlib.Path(directory) / "config.json").read_text())


def task_of(directory):
    architecture = config_of(directory)["architectures"][0]
    return next((task for ending, task in TASKS.items() if architecture.endswith(f"For{ending}") or
                 (ending == "LMHeadModel" and architecture.endswith(ending))), "embeddings")


def labels_of(directory):
    return list(config_of(directory).get("id2label", {"0": 0, "1": 1}).values())


def write_words(directory, target):
    """A copy with a tokenizer whose words are w5, w6 ..., each a token, where the checkpoint has none; its words."""
    target.mkdir(parents=True)
    for one in pathlib.Path(directory).resolve().iterdir():
        (target / one.name).symlink_to(one)
    if (target / "tokenizer.json").exists():
        vocabulary = json.loads((target / "tokenizer.json").read_text())["model"]["vocab"]
        return [word for word in vocabulary if word.isascii() and word.isalpha()]
    config = config_of(target)
    padding = config.get("pad_token_id") or 0
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special.insert(min(padding, len(special)), "[PAD]")
    words = [f"w{i}" for i in range(len(special), config["vocab_size"])]
    begin, text, end, second = ({"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}})
    tokenizer = {
        "added_tokens": [{"id": i, "content": word, "special": True} for i, word in enumerate(special)],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing", "single": [begin, text, end], "pair": [begin, text, end, second, end],
                           "special_tokens": {word: {"id": word, "ids": [special.index(word)], "tokens": [word]}
                                              for word in ("[CLS]", "[SEP]")}},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": {word: i for i, word in enumerate(special + words)}},
    }
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    (target / "tokenizer_config.json").write_text(json.dumps(
        {f"{word[1:-1].lower()}_token": word for word in special}))
    return words


def write_data(path, task, words, labels, lengths, rows):
    """Random words, in texts of so many, from the least to the most."""
    draw = random.Random(1)

    def text():
        return " ".join(draw.choices(words, k=draw.randint(*lengths)))

    def row():
        if task in ("causal_lm", "masked_lm"):
            return {"text": text()}
        if task == "classification":
            return {"text": text(), "label": draw.choice(labels)}
        if task == "embeddings":
            return {"text": text(), "positive": text(), "value": round(draw.uniform(-0.5, 1), 3)}
        if task == "token_classification":
            tokens = text().split()
            return {"tokens": tokens, "labels": draw.choices(labels, k=len(tokens))}
        context = text().split()
        begin = draw.randrange(len(context))
        answer = " ".join(context[begin:begin + 3])
        return {"question": " ".join(draw.choices(words, k=5)), "context": " ".join(context), "answers":
                [{"text": answer, "answer_start": len(" ".join(context[:begin])) + (1 if begin else 0)}]}

    path.write_text("".join(json.dumps(row()) + "\n" for _ in range(rows)))


class Case:
    """A checkpoint, data for its task, and how many steps and tokens are trained."""

    def __init__(self, args, name, directory, lengths, batch, rate, steps=STEPS):
        self.args, self.name, self.batch, self.rate, self.steps = args, name, batch, rate, steps
        self.folder = CACHE / "training" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.model = self.folder / "model"
        words = write_words(directory, self.model)
        self.task = task_of(self.model)
        self.data = self.folder / "data.jsonl"
        write_data(self.data, self.task, words, labels_of(self.model), lengths, 4 * batch)
        self.max_tokens = lengths[1] + (10 if self.task == "question_answering" else 2)
        self.batches = self.folder / "batches.jsonl"
        tool = pathlib.Path(args.tessera).resolve().with_name("tune_batches")
        done = subprocess.run([*map(str, (tool, self.model, self.task, self.data, steps, batch, 1 << 20, self.max_tokens))],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise TrainingError(done.stderr.strip())
        self.batches.write_text(done.stdout)

    def tessera(self, model=None, name="tuned"):
        """The lines of a training's log, and the most memory it had."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        command = [self.args.tessera, "tune", model or self.model, "-o", target, "--task", self.task.replace("_", "-"), "--data",
                   self.data, "--steps", self.steps, "--batch", self.batch, "--batch-tokens", 1 << 20, "--max-tokens",
                   self.max_tokens, "--learning-rate", self.rate, "--warmup", WARMUP, "--weight-decay", DECAY, "--threads",
                   self.args.threads, "--checkpoint-every", 10 ** 6, "-q"]
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        message = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)  # which alone tells the memory of one child
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise TrainingError(message.strip().splitlines()[0])
        lines = [json.loads(line) for line in (target / "training.jsonl").read_text().splitlines()]
        shutil.rmtree(target)
        return {"losses": [line["loss"] for line in lines], "norms": [line["gradient_norm"] for line in lines],
                "seconds": [line["seconds"] for line in lines], "tokens": [line["tokens"] for line in lines],
                "peak_bytes": 1024 * usage.ru_maxrss}

    def torch(self, process):
        answer = process.ask({"model": str(self.model), "task": self.task, "batches": str(self.batches), "steps": self.steps,
                              "threads": self.args.threads, "learning_rate": self.rate, "weight_decay": DECAY, "warmup": WARMUP})
        if "error" in answer:
            raise TrainingError(f"transformers: {answer['error']}")
        return answer


class TorchProcess:
    """Loads torch once, for one training or several."""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, str(TORCH)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        return self

    def ask(self, question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"torch: the process ended with {self.process.wait()}")
        return json.loads(line)

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def difference(ours, theirs):
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs))


def equality(args, directory, process):
    """Losses of every step, ours and those of torch."""
    name = pathlib.Path(directory).name
    row = {"model": name, "type": config_of(directory)["model_type"], "task": task_of(directory)}
    say(f"{name}, {row['task']}: {STEPS} steps")
    try:
        case = Case(args, name, directory, (5, 30), 4, args.rate)
        ours, theirs = case.tessera(), case.torch(process)
    except TrainingError as error:
        return row | {"error": str(error)}
    return row | {"first_loss": ours["losses"][0], "last_loss": ours["losses"][-1], "torch": theirs["torch"],
                  "transformers": theirs["transformers"],
                  "difference": difference(ours["losses"], theirs["losses"]),
                  "norm_difference": difference(ours["norms"], theirs["norms"])}


def median(found):
    """Seconds of a step, without the first one, in which libraries and caches begin."""
    return statistics.median(found["seconds"][1:])


def speed(args, name, sequences, lengths):
    """Steps of dense and of pruned models and of torch, in turns, each in a process of its own."""
    label = f"{sequences} × {lengths[1]}" if lengths[0] == lengths[1] else f"{sequences} × {lengths[0]} to {lengths[1]}"
    special = 2  # tokens around a text
    case = Case(args, f"{name} {label}", make_checkpoint(name), [length - special for length in lengths], sequences // 2, 1e-5,
                steps=args.steps)
    ways = {"torch": None, "dense": None}
    for share in args.shares:
        ways[f"{share:.0%} of tiles pruned"] = compressed(args.tessera, case.model, case.folder / f"pruned-{share}",
                                                          "--prune-tiles", share)
    found = {way: [] for way in ways}
    for turn in range(args.rounds):
        for way in ways if turn % 2 == 0 else reversed(ways):
            if way == "torch":
                with TorchProcess() as process:
                    found[way].append(case.torch(process))
            else:
                found[way].append(case.tessera(ways[way]))
        say(f"{name}, {label}, turn {turn + 1} of {args.rounds}: " +
            ", ".join(f"{way} {1e3 * median(runs[-1]):.0f} ms" for way, runs in found.items()))
    rows = [{"way": way, "step_ms": 1e3 * statistics.median(map(median, runs)),
             "of_torch": statistics.median(median(peer) / median(run) for run, peer in zip(runs, found["torch"])),
             "of_dense": statistics.median(median(run) / median(dense) for run, dense in zip(runs, found["dense"])),
             "peak_bytes": max(run["peak_bytes"] for run in runs)} for way, runs in found.items()]
    tokens = statistics.median(found["dense"][0]["tokens"][1:])
    return {"model": name, "case": label, "tokens": tokens, "rows": rows, "torch": found["torch"][0]["torch"],
            "transformers": found["torch"][0]["transformers"]}
