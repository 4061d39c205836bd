#!/usr/bin/env python3
"""Checks that the documentation keeps up with the program and the headers.

    TESSERA_BINARY=build/bin/tessera tests/docs/docs_test.py

Every verb has a page, every option of a verb stands in its page or, where all verbs have it, in docs/cli.md, no page names an option that the program does not
have, links lead somewhere, and every public header is in the tour of the library.
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TESSERA_BINARY", str(ROOT / "build/release/bin/tessera"))
OPTION = re.compile(r"--[a-z][a-z0-9-]*")
# Options of other programs that the pages mention.
FOREIGN = {"--build", "--cflags", "--install", "--libs", "--preset", "--prefix", "--config"}


def help_of(*arguments):
    return subprocess.run([BINARY, *arguments, "--help"], capture_output=True, text=True, check=True,
                          env=os.environ | {"COLUMNS": "200"}).stdout


def options_of(verb):
    """The long names of the lines that declare an option."""
    return set(re.findall(r"^  (?:-\w, |    )(--[a-z0-9-]+)", help_of(verb), re.MULTILINE))


def verbs():
    listed = help_of().split("Verbs:\n", 1)[1].split("\n\n", 1)[0]
    return [line.split()[0] for line in listed.splitlines()]


def absent_models(text):
    named = set(re.findall(r"(?<![\w/])models/([\w.-]*\w)", text))
    return sorted(model for model in named if not (ROOT / "models" / model).exists())


def same_beginning(block, example):
    return block.splitlines()[:1] == example.read_text(encoding="utf-8").splitlines()[:1]


def complaints():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs/verbs").glob("*.md")}
    names = verbs()
    common = (ROOT / "docs/cli.md").read_text(encoding="utf-8")  # what all verbs share
    known = {"--help", "--version"}
    for verb in names:
        options = options_of(verb)
        yield from (f"tessera {verb} --help: a clone has no models/{model}" for model in absent_models(help_of(verb)))
        known |= options
        if verb not in pages:
            yield f"docs/verbs/{verb}.md: expected a page for this verb, found none"
            continue
        for option in sorted(options):
            if re.search(rf"^\| `(?:-\w, )?{option}\b", common, re.MULTILINE):
                continue
            if not re.search(re.escape(option) + r"(?![a-z0-9-])", pages[verb]):
                yield f"docs/verbs/{verb}.md: expected {option}, found nothing about it"
        yield from (f"docs/verbs/{verb}.md: {option} is no option of {verb}"
                    for option in re.findall(r"^\| `(?:-\w, )?(--[a-z0-9-]+)", pages[verb], re.MULTILINE)
                    if option not in options)
    yield from (f"docs/verbs/{page}.md: no such verb" for page in sorted(set(pages) - set(names)))
    documents = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
    for document in documents:
        text = document.read_text(encoding="utf-8")
        name = document.relative_to(ROOT)
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
            if not (document.parent / link).exists():
                yield f"{name}: {link} leads nowhere"
        # Results name the commands of the benchmarks that made them.
        if name.parts[0] == "docs" and name.parts[1] not in ("decisions", "results"):
            for option in sorted(set(OPTION.findall(text)) - known - FOREIGN):
                yield f"{name}: the program has no {option}"
        # Nor has a clone other models.
        if name.parts[0] == "README.md" or name.parts[:2] in (("docs", "verbs"), ("docs", "howto")):
            yield from (f"{name}: a clone has no models/{model}" for model in absent_models(text))
        yield from (f"{name}: the code is not that of examples/{example.name}"
                    for example in sorted((ROOT / "examples").glob("*.c*"))
                    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
                    if same_beginning(block, example) and block != example.read_text(encoding="utf-8"))
    tour = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    for header in sorted((ROOT / "include/tessera").glob("*.h")):
        if f"tessera/{header.name}" not in tour:
            yield f"docs/library.md: expected tessera/{header.name}, found nothing about it"


def main():
    found = list(complaints())
    print("\n".join(found) or "the pages keep up with the program")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
