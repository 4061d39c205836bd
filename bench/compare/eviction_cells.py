"""Perplexities and times of policies that bound a decoder's cache, of both engines."""

import hashlib
import json
import math
import pathlib
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass

import numpy as np

from checkpoint import Checkpoint
from common import CACHE, ROOT, call, make_checkpoint, say
from engines import openvino_graph
from programs import digest
from turns import OTHERS_ALLOWED, TRIES, Watch

DECAY = 0.9  # of 1, 0.97, 0.9, 0.8, 0.5 and 0.1 the best for tales on another text than the one that is measured
ENGINE = pathlib.Path(__file__).resolve().parent / "engines" / "openvino_genai_engine.py"
GRAPHS = ENGINE.with_name("openvino_graph.py")
PAGE, BLOCK = 64, 32  # tokens of a page of Tessera's cache, and of a block of OpenVINO's


@dataclass(frozen=True)
class Policy:
    engine: str
    name: str
    budget: int  # tokens a layer; 0: dense
    schedule: str | None  # JSON: Tessera's schedule or OpenVINO's areas

    def settings(self):
        return json.loads(self.schedule) if self.schedule else None

    def key(self):
        return [self.engine, self.budget, self.schedule]


def policies(budgets):
    made = [Policy("tessera", "dense", 0, None)]
    for budget in budgets:
        first, newest = areas(budget)
        half = {"protect": {"first": 4, "newest": budget // 2}}
        for name, schedule in (
                ("sums alone", {"protect": {"newest": 0}}),
                ("first 4, newest half", half),
                ("first 4, newest half, decay", half | {"decay": DECAY}),
                ("first 4, newest half, decay, prompts whole", half | {"decay": DECAY, "prefill": "score"}),
                (f"first {first}, newest {newest}, decay", {"protect": {"first": first, "newest": newest}, "decay": DECAY}),
                ("no sums: first 4, newest others", {"protect": {"first": 4, "newest": budget - 4}})):
            made.append(Policy("tessera", name, budget, json.dumps({"tokens": budget} | schedule)))
    made.append(Policy("openvino", "dense", 0, None))
    for budget in budgets:
        first, newest = areas(budget)
        for sums, window in (("NORM_SUM", 8), ("SUM", 8), ("SUM", 0)):
            name = f"first {first}, newest {newest}, {sums}, " + (f"SnapKV of {window}" if window else "no SnapKV")
            made.append(Policy("openvino", name, budget, json.dumps(
                {"start": first, "recent": newest, "most": budget, "sums": sums, "window": window})))
    return made


def areas(budget):
    """First and newest tokens, as OpenVINO can have them."""
    return 32, 32 if budget < 256 else 128


def tessera(args, *arguments, schedule=None):
    """What the program prints, under a schedule, as JSON; a sentence where it fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(schedule or "")
        file.flush()
        command = [args.tessera, *arguments, "--threads", args.threads, "--dtype", "f32", "--json",
                   *(["--pruning", file.name] if schedule else [])]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr.strip()}


def openvino(args, **question):
    done = subprocess.run([sys.executable, str(ENGINE)], input=json.dumps(question | {"threads": args.threads}),
                          capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"error": f"the process ended with {done.returncode}"}
    return json.loads(lines[-1])


class Model:
    """A checkpoint, the ids that it reads, and OpenVINO's graphs of it."""

    def __init__(self, args, name, shape):
        self.args, self.name = args, name
        self.positions, self.prompt, self.budgets = shape
        if args.quick:
            self.budgets = self.budgets[:1]
        self.directory = ROOT / "models/tales" if name == "tales" else make_checkpoint(name)
        self.checkpoint = Checkpoint(self.directory)
        self.ids = self.text_ids() if name == "tales" else self.random_ids()
        self.folder = CACHE / "eviction" / name

    def text_ids(self):
        """As `tessera eval` reads them: the text as a whole, windows that overlap by half."""
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.write(json.dumps({"text": self.args.text.read_text(encoding="utf-8")}) + "\n")
            file.flush()
            line = call(self.args.tessera, "tokenize", self.directory, "--file", file.name, "--format", "jsonl")
        needed = self.prompt * (self.args.windows + 1)
        ids = [int(one) for one in line.split(",")][:needed]
        if len(ids) < needed:
            sys.exit(f"{self.args.text}: expected a text of at least {needed} tokens, found {len(ids)}")
        return ids

    def random_ids(self):
        return np.random.default_rng(0).integers(3, self.checkpoint.vocabulary, self.prompt).tolist()

    def graph(self, kind):
        """The folder of a graph that generates, or that reads the ids."""
        reads = kind == "reading"
        decides = [GRAPHS.read_text(), self.ids if reads else []]
        folder = self.folder / f"{kind}-{hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]}"
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write = openvino_graph.write_reading if reads else openvino_graph.write_generating
            write(self.checkpoint, *([self.ids] if reads else []), folder / "openvino_model.xml")
            self.checkpoint.release()
            (folder / "config.json").write_text(json.dumps({"model_type": self.checkpoint.kind}))
        return str(folder)

    def bytes_per_token(self):
        """Of keys and values in one layer."""
        return 2 * 4 * self.checkpoint.kv_heads * self.checkpoint.head_size


def kept(args, key, measure):
    """What was measured before with this key and these programs, or is now; failures are not kept."""
    programs = [digest(args.tessera), ENGINE.read_text(), GRAPHS.read_text()]
    name = hashlib.sha256(json.dumps([programs, args.threads, key]).encode()).hexdigest()[:16]
    path = CACHE / "eviction" / "cells" / f"{name}.json"
    if path.exists() and not args.fresh:
        return json.loads(path.read_text())
    found = measure()
    text = json.dumps(found)
    if '"error":' not in text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return found


class Perplexity:
    def __init__(self, args, model):
        self.args, self.model = args, model

    def measure(self, policy):
        found = self.of_openvino(policy) if policy.engine == "openvino" else self.of_tessera(policy)
        say(f"{self.model.name}, {policy.engine}, {policy.name}, {policy.budget}: {found.get('perplexity', found.get('error'))}")
        return found

    def of_tessera(self, policy):
        # A budget of every position keeps all, and has the same tokens predicted as the others have.
        schedule = policy.schedule or json.dumps({"tokens": self.model.positions})
        found = tessera(self.args, "eval", self.model.directory, "--task", "perplexity", "--data", self.args.text, "--window",
                        self.model.positions, "--max-examples", self.args.windows, "--resamples", "0", schedule=schedule)
        return found if "error" in found else {"perplexity": found["metrics"][0]["value"]}

    def of_openvino(self, policy):
        half = self.model.prompt
        begins = [window * half for window in range(self.args.windows)]
        found = openvino(self.args, model=self.model.graph("reading"), batch=4, new_tokens=self.model.positions - half,
                         prompts=[list(range(b, b + half)) for b in begins], eviction=policy.settings())
        if "error" in found:
            return found
        if found["ids"] != [list(range(b + half, b + self.model.positions)) for b in begins]:
            return {"error": "it left the text that it was to read"}
        logs = [openvino_graph.SOFTENED * log for window in found["log_probabilities"] for log in window]
        return {"perplexity": math.exp(-sum(logs) / len(logs)), "version": found["version"]}

    def result(self, policy):
        return kept(self.args, ["perplexity", self.model.name, self.model.ids, policy.key()], lambda: self.measure(policy))


class Speed:
    """One prompt and what follows, in turns."""

    def __init__(self, args, model):
        self.args, self.model, self.new = args, model, model.positions - model.prompt
        self.prompt = model.ids[:model.prompt]

    def run(self, policy, *options):
        if policy.engine == "openvino":
            found = openvino(self.args, model=self.model.graph("generating"), prompts=[self.prompt], batch=1,
                             new_tokens=self.new, eviction=policy.settings())
            if "error" in found:
                return found
            return {"prompt_ms": 1e3 * found["seconds"][0], "ids": found["ids"][0], "version": found["version"],
                    "tokens_per_second": (self.new - 1) / sum(found["seconds"][1:]), "blocks": found["blocks"]}
        found = tessera(self.args, "run", self.model.directory, "--ids", ",".join(map(str, self.prompt)), "--greedy",
                        "--ignore-end", "-n", self.new, *options, schedule=policy.schedule)
        if "error" in found:
            return found
        return {"prompt_ms": 1e3 * found["prompt_seconds"], "ids": found["ids"],
                "tokens_per_second": found["tokens_per_second"]}

    def holding(self, policy, blocks):
        """Keys that a layer holds, on average over the layers, and bytes of all."""
        layers, size = self.model.checkpoint.layers, self.model.bytes_per_token()
        if policy.engine == "openvino":
            # Of all layers alike; whole blocks leave, so that the last one is as full as the text makes it.
            steps = [[BLOCK * count - -(self.model.prompt + step) % BLOCK] * layers for step, count in enumerate(blocks)]
            places = [BLOCK * layers * count for count in blocks]
        else:
            steps = kept(self.args, ["trace", self.model.name, self.prompt, policy.key()], lambda: self.traced(policy))
            places = [sum(-(-keys // PAGE) * PAGE for keys in step) for step in steps]
        means = [sum(step) / layers for step in steps]
        # From the second generated token on: OpenVINO evicts behind the first.
        return {"keys": {"prompt": means[0], "least": min(means[2:]), "most": max(means[2:])},
                "layers": {"prompt": steps[0], "second": steps[2], "last": steps[-1]},
                "bytes": {"most": max(places) * size, "last": places[-1] * size}}

    def traced(self, policy):
        with tempfile.TemporaryDirectory() as folder:
            trace = pathlib.Path(folder, "trace.jsonl")
            self.run(policy, "--trace", trace)
            steps = {}
            with trace.open(encoding="utf-8") as lines:
                next(lines)
                for line in lines:
                    record = json.loads(line)
                    steps.setdefault(record["step"], []).append(len(record["tokens"]))
        return [steps[step] for step in sorted(steps)]

    def round(self, listed, number):
        order = listed if number % 2 == 0 else listed[::-1]
        for _ in range(TRIES):
            watch = Watch()
            found = {policy: self.run(policy) for policy in order}
            others = watch.others()
            say(f"{self.model.name}: round {number + 1} of {self.args.rounds}, others took {others:.0%} of the cores")
            if others <= OTHERS_ALLOWED:
                break
        return {"turns": [found[policy] for policy in listed], "others": others}

    def measure(self, listed):
        rounds = [kept(self.args, ["round", number, self.model.name, self.prompt, [policy.key() for policy in listed]],
                       lambda number=number: self.round(listed, number)) for number in range(self.args.rounds)]
        turns = {policy: [found["turns"][i] for found in rounds] for i, policy in enumerate(listed)}
        return {policy: self.summary(policy, turns) for policy in listed}, max(found["others"] for found in rounds)

    def summary(self, policy, turns):
        own = turns[policy]
        if wrong := [turn["error"] for turn in own if "error" in turn]:
            return {"error": wrong[0]}
        dense = turns[next(other for other in turns if other.engine == policy.engine and other.budget == 0)]
        rates, base = ([turn.get("tokens_per_second", np.nan) for turn in one] for one in (own, dense))
        return {"prompt_ms": float(np.median([turn["prompt_ms"] for turn in own])),
                "tokens_per_second": float(np.median(rates)), "of_dense": float(np.median(np.divide(rates, base))),
                "ids": own[-1]["ids"], "version": own[-1].get("version")} | self.holding(policy, own[-1].get("blocks"))


def measured(args, model):
    """A cell: all policies of a model."""
    listed = policies(model.budgets)
    quality = {}
    if model.name == "tales":
        quality = {policy: Perplexity(args, model).result(policy) for policy in listed}
    speed, others = Speed(args, model).measure(listed) if args.rounds else ({}, 0.0)
    rows = [asdict(policy) | {"schedule": policy.settings()} | speed.get(policy, {}) | quality.get(policy, {})
            for policy in listed]
    agreement = dense_agreement([row for row in rows if row["budget"] == 0])
    for row in rows:
        row.pop("ids", None)
    return {"model": model.name, "prompt": model.prompt, "new_tokens": model.positions - model.prompt, "others": others,
            "windows": args.windows if quality else 0, "dense": agreement, "rows": rows}


def dense_agreement(rows):
    """Greedy tokens that are the same, and one perplexity over the other, where both engines ran."""
    ids = [row.get("ids", []) for row in rows]
    perplexities = [row["perplexity"] for row in rows if "perplexity" in row]
    return {"tokens": min(map(len, ids)), "same": sum(a == b for a, b in zip(*ids)),
            "perplexity_ratio": perplexities[0] / perplexities[1] if len(perplexities) == 2 else None}
