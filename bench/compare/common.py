"""What the comparisons share: where things lie, the environment with the peers, checkpoints, the machine's limits."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "bench"))
CACHE = ROOT / "build" / "compare"


def say(text):
    print(text, file=sys.stderr, flush=True)


def call(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(map(str, command))}\nfailed with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def enter_environment():
    """Starts this program again inside the virtual environment, which is made if it is not there."""
    venv = pathlib.Path(os.environ.get("TESSERA_COMPARE_VENV", CACHE / "venv"))
    python, wanted = venv / "bin/python", (HERE / "requirements.txt").read_text()
    if pathlib.Path(sys.prefix).resolve() == venv.resolve():
        return
    stamp = venv / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"Installing {', '.join(wanted.split())} in {venv}; compiling llama.cpp takes some minutes")
        try:
            import ensurepip  # noqa: F401  Debian keeps it in a package of its own
        except ImportError:
            sys.exit("This Python cannot make a virtual environment: apt-get install python3-venv")
        call(sys.executable, "-m", "venv", venv)
        os.environ.setdefault("CMAKE_ARGS", "-DGGML_NATIVE=ON")
        call(python, "-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", "-r",
             HERE / "requirements.txt")
        stamp.write_text(wanted)
    os.execv(python, [str(python), *sys.argv])


def make_checkpoint(shape):
    directory = CACHE / shape
    if not (directory / "config.json").exists():
        say(f"Making {directory}")
        call(sys.executable, ROOT / "tools/make_random_checkpoint.py", shape, directory)
    return directory


def measure_machine(args):
    """Peak and bandwidth for each number of threads."""
    machine = {"gflops": {}, "gb_per_s": {}}
    table = json.loads(call(args.tessera, "machine", "--threads", ",".join(map(str, args.threads)), "--no-keep", "--json",
                            *(["--quick"] if args.quick else [])))
    machine["cpu"] = table["cpu"]
    for speeds in table["speeds"]:
        machine["gflops"][str(speeds["threads"])] = speeds["peak_gflops"]["f32"]
        machine["gb_per_s"][str(speeds["threads"])] = speeds["read_gb_per_s"]
    machine["summary"] = "; ".join(
        f"{t} thread{'s' if t > 1 else ''} {machine['gflops'][str(t)]:.0f} GFLOP/s f32, {machine['gb_per_s'][str(t)]:.1f} GB/s"
        for t in args.threads)
    return machine
