"""Engines that take turns, and whether somebody else was on the cores meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# The share of the cores' time that others may use while an engine is measured; the kernel counts in ticks of 10 ms.
OTHERS_ALLOWED = 0.03
TRIES = 4


class EngineError(Exception):
    pass


def busy_ticks():
    """Of all cores since the start, stolen ones included."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = list(map(int, file.readline().split()[1:9]))
    return sum(fields) - fields[3] - fields[4]


def process_ticks(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return sum(map(int, fields[11:15]))  # own and of children that ended


class Watch:
    """The share of the cores that others than this program and the measured process took."""

    def __init__(self, pid=None):
        self.pids = [os.getpid()] + ([pid] if pid else [])
        self.begin = time.perf_counter(), busy_ticks(), sum(map(process_ticks, self.pids))

    def others(self):
        wall = time.perf_counter() - self.begin[0]
        own = sum(map(process_ticks, self.pids)) - self.begin[2]
        others = busy_ticks() - self.begin[1] - own
        return max(0.0, others / TICKS_PER_SECOND / (wall * os.cpu_count()))


class Peer:
    """A worker process, asleep while it is not its turn, so that its threads do not spin."""

    def __init__(self, name, command):
        self.name, self.command, self.process = name, command, None

    def ask(self, question):
        if self.process is None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.DEVNULL, text=True)
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            code, self.process = self.process.wait(), None
            raise EngineError(f"{self.name}: the process ended with {code}")
        os.kill(self.process.pid, signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(f"{self.name}: {answer['error']}")
        return answer

    def time(self, case, seconds, samples):
        self.ask({"case": case["name"], "seconds": 0, "samples": 0})
        for attempt in range(TRIES):
            watch = Watch(self.process.pid)
            answer = self.ask({"case": case["name"], "seconds": seconds, "samples": samples})
            answer["others"] = watch.others()
            if answer["others"] <= OTHERS_ALLOWED:
                break
            print(f"  {self.name}: others took {answer['others']:.0%} of the cores, again ({attempt + 1} of {TRIES})",
                  file=sys.stderr)
        return answer

    def result(self, case, path):
        import numpy as np
        answer = self.ask({"case": case["name"], "output": str(path)})
        return None if "skipped" in answer else np.load(path)

    def close(self):
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None


class Tessera:
    """The program, a fresh process each turn: it loads in a moment."""

    def __init__(self, program, checkpoint, threads, cache, name="tessera", options=("--dtype", "f32")):
        self.program, self.checkpoint, self.threads, self.cache = program, checkpoint, threads, cache
        self.name, self.options = name, options
        self.version = self.call("--version").split()[-1]

    def call(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EngineError(f"tessera {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def common(self):
        return ["--threads", self.threads, *self.options]

    def bench_arguments(self, case):
        lengths = [len(ids) for ids in case["ids"]]
        if case["kind"] == "encode":
            return ["--ragged", ",".join(map(str, lengths))]
        return ["--batch", len(lengths), "--prompt-tokens", lengths[0], "--new-tokens", case.get("new_tokens", 1)]

    def time(self, case, seconds, samples):
        for attempt in range(TRIES):
            watch = Watch()
            answer = json.loads(self.call("bench", self.checkpoint, *self.bench_arguments(case), "--seconds", seconds,
                                          "--repeat", samples, "--json", *self.common()))
            others = watch.others()
            if others <= OTHERS_ALLOWED:
                break
            print(f"  {self.name}: others took {others:.0%} of the cores, again ({attempt + 1} of {TRIES})", file=sys.stderr)
        found = [result for result in answer["results"] if result["what"] == case["kind"]]
        return {"version": self.version, "milliseconds": found[0]["samples_ms"], "others": others}

    def result(self, case, path):
        import numpy as np
        from safetensors.numpy import load_file
        cases, output = self.cache / "tessera.json", self.cache / "tessera.safetensors"
        longest = max(map(len, case["ids"]))
        own = {"name": "case", "input_ids": [ids + [0] * (longest - len(ids)) for ids in case["ids"]],
               "attention_mask": [[1] * len(ids) + [0] * (longest - len(ids)) for ids in case["ids"]]}
        if case["kind"] == "decode":
            own["new_tokens"] = case["new_tokens"]
        cases.write_text(json.dumps({"cases": [own]}))
        self.call("dump", self.checkpoint, "--cases", cases, "-o", output, *self.common())
        tensors = load_file(output)
        output.unlink()
        if case["kind"] == "decode":
            return tensors["case.ids"]
        if case["kind"] == "prefill":
            return tensors["case.logits"][:, -1]
        last = max((name for name in tensors if ".hidden." in name), key=lambda name: int(name.rsplit(".", 1)[1]))
        return np.concatenate([h[:len(ids)] for h, ids in zip(tensors[last], case["ids"])])

    def close(self):
        pass
