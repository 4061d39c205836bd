#!/usr/bin/env python3
"""Measures Tessera beside ONNX Runtime and OpenVINO on one BERT-shaped f32 checkpoint.

    ./quickstart && python3 bench/compare/compare.py            bert-base, 1x128, 2 threads
    python3 bench/compare/compare.py --shape minilm --batch 8 --torch-python ~/venv/bin/python --json

Makes what it needs in build/compare: a virtual environment with the peers at the versions of
requirements.txt, and a checkpoint of random weights. First every engine's last hidden state is compared
with that of ONNX Runtime; then the engines are timed in turns, a fresh process each turn, so that the
machine's moods meet all of them. A column is the median over the rounds of that round's statistic; the
ratio is the median over the rounds of engine / fastest peer in the same round. Exit code 1 when outputs
differ or, with --at-most X, when Tessera's ratio is above X.
"""

import argparse
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / "build" / "compare"
PEERS = ["onnxruntime", "onnxruntime-fused", "openvino"]
# Each engine's own rounding over all layers stays well below; a wrong operator does not.
TOLERANCE = 1e-4


def run(*command):
    """The command's standard output; ends the program with the command's own words if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(map(str, command))}\nfailed with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def say(text):
    print(text, file=sys.stderr, flush=True)


def enter_environment():
    """Starts this program again inside the virtual environment, which is made if it is not there."""
    python, wanted = CACHE / "venv/bin/python", (HERE / "requirements.txt").read_text()
    if pathlib.Path(sys.prefix).resolve() == (CACHE / "venv").resolve():
        return
    stamp = CACHE / "venv/installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"Installing {', '.join(wanted.split())} in {CACHE / 'venv'}")
        try:
            import ensurepip  # noqa: F401  Debian keeps it in a package of its own
        except ImportError:
            sys.exit("This Python cannot make a virtual environment: apt-get install python3-venv")
        run(sys.executable, "-m", "venv", CACHE / "venv")
        run(python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt")
        stamp.write_text(wanted)
    os.execv(python, [str(python), str(HERE / "compare.py"), *sys.argv[1:]])


def prepare(args):
    """The checkpoint and the cases file with one batch of random ids."""
    checkpoint = CACHE / args.shape
    if not (checkpoint / "config.json").exists():
        say(f"Making {checkpoint}")
        run(sys.executable, ROOT / "tools/make_random_checkpoint.py", args.shape, checkpoint)
    import numpy as np
    vocabulary = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    ids = np.random.default_rng(args.seed).integers(0, vocabulary, (args.batch, args.length))
    cases = CACHE / "cases.json"
    cases.write_text(json.dumps({"cases": [{"name": "case", "input_ids": ids.tolist()}]}))
    return checkpoint, cases


class Engines:
    def __init__(self, args, checkpoint, cases):
        self.args, self.checkpoint, self.cases = args, checkpoint, cases
        self.names = ["tessera", *PEERS, *(["torch"] if args.torch_python else [])]
        self.versions = {"tessera": run(args.tessera, "--version").split()[-1]}

    def hidden(self, name):
        import numpy as np
        from safetensors.numpy import load_file
        output = CACHE / f"{name}.npy"
        if name != "tessera":
            self.peer(name, 1, "--output", output)
            return np.load(output)
        output = CACHE / "tessera.safetensors"
        run(self.args.tessera, "dump", self.checkpoint, "--cases", self.cases, "-o", output, "--dtype", "f32")
        states = {int(key.rsplit(".", 1)[1]): value for key, value in load_file(output).items() if ".hidden." in key}
        return states[max(states)]

    def peer(self, name, samples, *more):
        python = self.args.torch_python if name == "torch" else sys.executable
        answer = json.loads(run(python, HERE / "peers.py", name, self.checkpoint, self.cases, "--threads",
                                self.args.threads, "--samples", samples, *more))
        self.versions[name] = answer["version"]
        return answer["milliseconds"]

    def time(self, name):
        """Median, p10 and p90 in milliseconds."""
        if name == "tessera":
            answer = json.loads(run(
                self.args.tessera, "bench", self.checkpoint, "--batch", self.args.batch, "--length", self.args.length,
                "--threads", self.args.threads, "--repeat", self.args.samples, "--dtype", "f32", "--json"))
            return [answer["results"][0][key] for key in ("median_ms", "p10_ms", "p90_ms")]
        import numpy as np
        return np.quantile(self.peer(name, self.args.samples), [0.5, 0.1, 0.9]).tolist()


def differences(engines):
    """max|difference| / max|value| of each engine's last hidden state against ONNX Runtime's."""
    import numpy as np
    hidden = {name: engines.hidden(name) for name in engines.names}
    expected = hidden["onnxruntime"]
    for name, found in hidden.items():
        if found.shape != expected.shape:
            sys.exit(f"{name}: expected a hidden state of shape {expected.shape}, found {found.shape}")
    return {name: float(np.abs(found - expected).max() / np.abs(expected).max()) for name, found in hidden.items()}


def measure(engines, rounds):
    times = {name: [] for name in engines.names}
    for i in range(rounds):
        # Every second round goes backwards, so that no engine always follows the same one.
        for name in engines.names if i % 2 == 0 else reversed(engines.names):
            say(f"round {i + 1} of {rounds}: {name}")
            times[name].append(engines.time(name))
    return times


def summary(engines, times, apart):
    import numpy as np
    peer_names = [name for name in engines.names if name != "tessera"]
    fastest = np.min([[round_[0] for round_ in times[name]] for name in peer_names], axis=0)
    rows = []
    for name in engines.names:
        median, p10, p90 = np.median(times[name], axis=0)
        ratio = np.median(np.array([round_[0] for round_ in times[name]]) / fastest)
        rows.append({"engine": name, "version": engines.versions[name], "median_ms": median, "p10_ms": p10,
                     "p90_ms": p90, "ratio_to_fastest_peer": float(ratio), "difference": apart[name]})
    return rows


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["minilm", "bert-base", "bert-large"], default="bert-base")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=30, help="runs timed each round, after warm-up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tessera", default=str(ROOT / "build/release/bin/tessera"), help="the program to measure")
    parser.add_argument("--torch-python", help="a Python that has torch, numpy and safetensors: adds torch to the peers")
    parser.add_argument("--at-most", type=float, help="the largest ratio of Tessera to the fastest peer that passes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not os.access(args.tessera, os.X_OK):
        parser.error(f"--tessera: expected a program, found none at {args.tessera}; ./quickstart builds it")
    return args


def main():
    args = parse()
    CACHE.mkdir(parents=True, exist_ok=True)
    enter_environment()
    engines = Engines(args, *prepare(args))
    say("Comparing outputs")
    apart = differences(engines)
    rows = summary(engines, measure(engines, args.rounds), apart)
    report = {"command": shlex.join(["bench/compare/compare.py", *sys.argv[1:]]), "shape": args.shape,
              "batch": args.batch, "length": args.length, "threads": args.threads, "rounds": args.rounds,
              "samples": args.samples, "cpu": cpu_name(), "cpus": os.cpu_count(),
              "load_average": os.getloadavg()[1], "results": rows}
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print(f"{report['command']}\n{args.shape} {args.batch}x{args.length} f32, {args.threads} threads, {args.rounds} "
              f"rounds of {args.samples}; {report['cpu']}, load average {report['load_average']:.1f}\n")
        print(f"{'':18} {'version':12} {'median ms':>10} {'p10':>8} {'p90':>8} {'ratio':>6} {'max diff':>9}")
        for row in rows:
            print(f"{row['engine']:18} {row['version']:12} {row['median_ms']:10.2f} {row['p10_ms']:8.2f} "
                  f"{row['p90_ms']:8.2f} {row['ratio_to_fastest_peer']:6.2f} {row['difference']:9.1e}")
    wrong = [row["engine"] for row in rows if not row["difference"] <= TOLERANCE]
    if wrong:
        sys.exit(f"outputs differ by more than {TOLERANCE:g}: {', '.join(wrong)}")
    if args.at_most is not None and rows[0]["ratio_to_fastest_peer"] > args.at_most:
        sys.exit(f"expected a ratio of at most {args.at_most}, found {rows[0]['ratio_to_fastest_peer']:.2f}")


if __name__ == "__main__":
    main()
