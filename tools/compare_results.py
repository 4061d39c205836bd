#!/usr/bin/env python3
"""Says whether two builds of tessera compute the same bits.

    tools/compare_results.py record build/release/bin/tessera before.json --models DIRECTORY...
    tools/compare_results.py compare before.json after.json

`record` runs every model over its cases at each weight type, type of cache, number of threads and
instruction set, and keeps a hash of every tensor. Cases are those of the model's golden.json where
it has one, and random ids long enough that every member of the team has rows of its own. `compare`
names each run with a tensor that is not the same to the bit, and exits with 1 if there is one.
"""

import argparse
import concurrent.futures
import hashlib
import itertools
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

DTYPES = ["auto", "f32", "bf16", "int8", "int4", "w8", "w4"]
CACHES = ["f32", "bf16", "int8"]
CASE_KEYS = {"name", "input_ids", "attention_mask", "token_type_ids", "new_tokens", "beams"}


def cases_of(model, config):
    """The cases of a model as `tessera dump` reads them."""
    cases = []
    golden = model / "golden.json"
    if golden.exists():
        for case in json.loads(golden.read_text()).get("cases", []):
            cases.append({key: case[key] for key in CASE_KEYS & case.keys()})
    vocabulary = config["vocab_size"]
    positions = config.get("max_position_embeddings") or config.get("n_positions") or 512
    length = min(200, positions - 2)
    draw = random.Random(7)
    ids = [[draw.randrange(5, vocabulary) for _ in range(length)] for _ in range(3)]
    cases.append({"name": "random_long", "input_ids": ids})
    if golden.exists() and any("new_tokens" in case for case in cases):
        for beams in (1, 3):
            cases.append(
                {
                    "name": f"random_beams_{beams}",
                    "input_ids": [ids[0][: min(70, length // 2)]],
                    "new_tokens": 8,
                    "beams": beams,
                }
            )
    return {"cases": cases}


def tensor_hashes(path):
    """Name of each tensor of a safetensors file with the hash of its bytes."""
    data = pathlib.Path(path).read_bytes()
    (header_bytes,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + header_bytes])
    body = data[8 + header_bytes :]
    hashes = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        hashes[name] = hashlib.sha256(body[begin:end]).hexdigest()[:16]
    return hashes


def run(program, model, cases, options, isa):
    """Hashes of what one run writes, or the sentence with which it refuses."""
    environment = dict(os.environ)
    if isa:
        environment["TESSERA_ISA"] = isa
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "out.safetensors")
        command = [program, "dump", str(model), "--cases", cases, "-o", output, *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            return {"refused": done.stderr.strip()[-300:]}
        return tensor_hashes(output)


def record(arguments):
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(
        arguments.jobs
    ) as pool:
        waiting = {}
        for model in map(pathlib.Path, arguments.models):
            config = json.loads((model / "config.json").read_text())
            cases = os.path.join(folder, f"{len(waiting)}.json")
            content = cases_of(model, config)
            pathlib.Path(cases).write_text(json.dumps(content))
            decoder = any("new_tokens" in case for case in content["cases"])
            for dtype, cache, threads, isa in itertools.product(
                DTYPES, CACHES if decoder else CACHES[:1], arguments.threads, arguments.isas
            ):
                options = ["--dtype", dtype, "--cache", cache, "--threads", str(threads)]
                key = " ".join([model.name, *options, "--isa", isa or "best"])
                waiting[key] = pool.submit(run, arguments.program, model, cases, options, isa)
        results = {key: each.result() for key, each in waiting.items()}
    pathlib.Path(arguments.output).write_text(json.dumps(results, indent=0, sort_keys=True))
    refused = sum("refused" in each for each in results.values())
    print(f"{len(results)} runs recorded, {refused} of them refused")
    return 0


def compare(arguments):
    before, after = (
        json.loads(pathlib.Path(path).read_text()) for path in (arguments.before, arguments.after)
    )
    differences = 0
    for key in sorted(before.keys() | after.keys()):
        one, other = before.get(key), after.get(key)
        if one == other:
            continue
        differences += 1
        if one is None or other is None:
            print(f"{key}: only in one of the two")
            continue
        names = [name for name in sorted(one | other) if one.get(name) != other.get(name)]
        print(f"{key}: {len(names)} of {len(one | other)} tensors differ, first {names[0]}")
    print(f"{len(before)} runs compared, {differences} differ")
    return 1 if differences else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("record", help="run a program over models and keep hashes")
    verb.add_argument("program")
    verb.add_argument("output")
    verb.add_argument("--models", nargs="+", required=True, metavar="DIRECTORY")
    verb.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    verb.add_argument("--isas", nargs="+", default=["", "avx2"])
    verb.add_argument("--jobs", type=int, default=os.cpu_count())
    verb.set_defaults(call=record)
    verb = verbs.add_parser("compare", help="compare two recordings")
    verb.add_argument("before")
    verb.add_argument("after")
    verb.set_defaults(call=compare)
    arguments = parser.parse_args()
    return arguments.call(arguments)


if __name__ == "__main__":
    sys.exit(main())
