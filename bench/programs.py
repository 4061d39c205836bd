"""What decides what a program of ours does: its own bytes and those of libtessera, where it is shared."""

import hashlib
import pathlib
import subprocess


def digest(program):
    parts = [pathlib.Path(program)]
    linked = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    parts += [pathlib.Path(line.split("=>")[1].split("(")[0].strip()) for line in linked.splitlines() if "libtessera" in line]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
