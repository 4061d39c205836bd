#!/usr/bin/env python3
"""Which tests a change can affect, by the arrows of tools/check_includes.py.

    tools/changed_tests.py [REV]      what differs from REV (HEAD) in the tree, new files included: prints the targets
                                      to build on a line and a pattern of ctest's names on the next, or "everything"
    tools/changed_tests.py --self-test

A file that no rule knows affects everything.
"""

import pathlib
import re
import subprocess
import sys

import check_includes

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What runs the program; its tests see every folder.
PROGRAM = {"tessera_cli": r"e2e\.|install\.|structure\."}


def families(root=ROOT):
    return sorted(path.parent.name for path in (root / "src/kernels").glob("*/table.inc"))


def tests_of_folder(folder):
    """Everything that links a folder: the tests of those that reach it, and the tests of the whole."""
    found = {f"{name}_test" for name in check_includes.ARROWS if folder in check_includes.reach(name)}
    found.discard("kernels_test")
    if folder in check_includes.reach("kernels"):
        found |= {f"kernel_{family}_test" for family in families()}
    return found | {"golden_test", "fuzz", "tessera_cli"}


def families_on(family):
    """The family and those that build on it."""
    found = {family}
    for name, others in check_includes.FAMILY_ARROWS.items():
        if family in others:
            found |= families_on(name)
    return found


def tests_of_family(family):
    """All that link kernels, and of the families and of tests below them those that include it."""
    found = {name for name in tests_of_folder("kernels") if not name.startswith("kernel_")}
    found |= {f"kernel_{name}_test" for name in families_on(family)}
    for path in (ROOT / "src").rglob("*test*.*"):
        if f'#include "kernels/{family}/' in path.read_text(encoding="utf-8"):
            parts = path.relative_to(ROOT / "src").parts
            if parts[0] == "kernels" and len(parts) == 2:  # what the tests of many families share
                return tests_of_folder("kernels")
            found.add(f"kernel_{parts[1]}_test" if parts[0] == "kernels" else f"{parts[0]}_test")
    return found


def affected(path):
    """The tests of a changed file; None: all of them."""
    parts = pathlib.PurePosixPath(path).parts
    if parts[0] == "src" and len(parts) > 2 and parts[1] in check_includes.ARROWS:
        if parts[1] != "kernels":
            return {f"{parts[1]}_test"} if parts[-1].endswith("_test.cc") else tests_of_folder(parts[1])
        if len(parts) == 3 or parts[2] not in families():
            return None
        return {f"kernel_{parts[2]}_test"} if parts[-1] == "test.cc" else tests_of_family(parts[2])
    if parts[:2] == ("include", "tessera") and parts[-1] in check_includes.PUBLIC:
        return tests_of_folder(check_includes.PUBLIC[parts[-1]])
    if parts[:2] == ("tests", "golden"):
        return {"golden_test"}
    if parts[0] == "fuzz":
        return {"fuzz"}
    if parts[0] in ("apps", "docs", "examples", "models", "tests") or path.endswith(".md"):
        return {"tessera_cli"}
    return None


def selection(paths):
    """Targets and a pattern, or None for everything."""
    found = set()
    for path in paths:
        tests = affected(path)
        # A CMakeLists.txt of a folder decides what is compiled, and how.
        if tests is None or path.endswith("CMakeLists.txt"):
            return None
        found |= tests
    found = {name for name in found if name in ("fuzz", "tessera_cli", "golden_test") or has_tests(name)}
    targets, patterns = [], [r"structure\."]
    for name in sorted(found):
        if name == "fuzz":
            targets += [f"fuzz_corpus_{path.stem}" for path in sorted((ROOT / "fuzz").glob("*.cc"))]
            patterns.append(r"fuzz_corpus\.")
        else:
            targets.append(name)
            patterns.append(PROGRAM.get(name, name + r"\."))
    if "tessera_cli" not in targets:
        targets.append("tessera_cli")  # structure.docs asks it
    return targets, "^(" + "|".join(patterns) + ")"


def has_tests(target):
    folder = target.removesuffix("_test")
    if folder.startswith("kernel_"):
        return (ROOT / "src/kernels" / folder.removeprefix("kernel_") / "test.cc").exists()
    return any((ROOT / "src" / folder).rglob("*_test.cc"))


def changed(revision):
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")

    # Both names of a file that was moved count.
    names = git("diff", "--no-renames", "--name-only", "-z", revision)
    return sorted({name for name in names + git("ls-files", "--others", "--exclude-standard", "-z") if name})


def self_test():
    def targets(*paths):
        chosen = selection(paths)
        return None if chosen is None else set(chosen[0])

    assert targets("tools/build.sh") is None and targets("src/CMakeLists.txt") is None
    assert targets("src/kernels/testing.h") is None and targets("CMakeLists.txt", "README.md") is None
    assert targets("README.md") == {"tessera_cli"}
    assert targets("src/runtime/engine_test.cc") == {"runtime_test", "tessera_cli"}
    assert "kernel_norm_test" in targets("src/formats/tiles.cc") and "base_test" not in targets("src/formats/tiles.cc")
    product = targets("src/kernels/matmul/avx2.cc")
    assert {"kernel_matmul_test", "kernel_int8_matmul_test", "linear_test", "golden_test"} <= product
    assert "kernel_norm_test" not in product and "io_test" not in product
    assert {"kernel_norm_test", "kernel_matmul_test"} <= targets("src/kernels/activation/avx2.cc")
    compress = targets("include/tessera/compress.h")
    assert "compress_test" in compress and "runtime_test" not in compress
    assert re.match(selection(["src/base/team.cc"])[1], "base_test.Team.Runs")
    assert not re.match(selection(["src/plot/plot.cc"])[1], "runtime_test.Engine.Runs")
    print("a change affects those that can reach it")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    chosen = selection(changed(sys.argv[1] if len(sys.argv) > 1 else "HEAD"))
    if chosen is None:
        print("everything")
    else:
        print(" ".join(chosen[0]), chosen[1], sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
