"""What the comparisons share: where things lie, the environment with the peers, checkpoints, the machine's limits."""

import hashlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys

import amx

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


def enter_environment(requirements):
    """Starts this program again inside the virtual environment of these requirements, which is made if it is not there."""
    venv = pathlib.Path(os.environ.get("TESSERA_COMPARE_VENV", CACHE / requirements.replace("requirements", "venv")))
    python, wanted = venv / "bin/python", (HERE / f"{requirements}.txt").read_text()
    if pathlib.Path(sys.prefix).resolve() == venv.resolve():
        return
    stamp = venv / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        minutes = "; compiling llama.cpp takes some minutes" if "llama-cpp" in wanted else ""
        say(f"Installing {', '.join(wanted.split())} in {venv}{minutes}")
        try:
            import ensurepip  # noqa: F401  Debian keeps it in a package of its own
        except ImportError:
            sys.exit("This Python cannot make a virtual environment: apt-get install python3-venv")
        call(sys.executable, "-m", "venv", venv)
        os.environ.setdefault("CMAKE_ARGS", "-DGGML_NATIVE=ON")
        call(python, "-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", "-r",
             HERE / f"{requirements}.txt")
        stamp.write_text(wanted)
    os.execv(python, [str(python), *sys.argv])


def add_measuring_options(parser, output, seconds):
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=seconds, help=f"of a turn, at least (default: {seconds:g})")
    parser.add_argument("--samples", type=int, default=3, help="of a turn, at least (default: 3)")
    parser.add_argument("--quick", action="store_true", help="small models and cases, short turns")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--kept", action="store_true", help="measure nothing: a report of the cells that are done")
    parser.add_argument("--no-amx", action="store_true", help="every engine is told that the system refuses AMX")
    parser.add_argument("--tessera", default=str(ROOT / "build/release/bin/tessera"), help="the program to measure")
    parser.add_argument("--output", default=str(ROOT / "docs/results" / output),
                        help="the report; JSON and plots beside it; - for the table on standard output")


def check_program(parser, args):
    if not os.access(args.tessera, os.X_OK):
        parser.error(f"--tessera: expected a program, found none at {args.tessera}; ./quickstart builds it")


def split_lists(parser, args, **allowed):
    """Options that are lists of names become lists."""
    for name, words in allowed.items():
        given = [one for one in getattr(args, name).split(",") if one]
        if wrong := [one for one in given if one not in words]:
            parser.error(f"--{name}: expected some of {', '.join(words)}, found {', '.join(wrong)}")
        setattr(args, name, given)


def begin(args, requirements="requirements"):
    """Before anything is measured: the environment, the folder, and whether there is AMX."""
    CACHE.mkdir(parents=True, exist_ok=True)
    enter_environment(requirements)
    if args.no_amx:
        amx.refuse()
    # So that a program that is ended ends its engines.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def write_report(path, report, text):
    """The report at `path`, what it is made of as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    path.write_text(text)
    say(f"Wrote {path}")


def compressed(program, checkpoint, target, *options):
    if not target.exists():
        call(program, "compress", checkpoint, "-o", target, *options, "--no-measure")
    return target


def make_checkpoint(shape):
    directory = CACHE / shape
    if not (directory / "config.json").exists():
        say(f"Making {directory}")
        call(sys.executable, ROOT / "tools/make_random_checkpoint.py", shape, directory)
    return directory


def linked_checkpoint(directory, *inputs):
    """A trained model under the cache, where engines' own files may lie beside it; another one for other inputs."""
    directory = pathlib.Path(directory).resolve()
    decides = [(str(path), path.stat().st_size, path.stat().st_mtime) for path in
               [directory / "model.safetensors", *(pathlib.Path(one).resolve() for one in inputs)]]
    target = CACHE / "trained" / hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12] / directory.name
    target.mkdir(parents=True, exist_ok=True)
    for one in directory.iterdir():
        if not (target / one.name).exists():
            (target / one.name).symlink_to(one)
    return target


def measure_machine(args):
    """Peak and bandwidth for each number of threads."""
    machine = {"gflops": {}, "gb_per_s": {}, "instruction_sets": amx.instruction_sets(args.no_amx)}
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
