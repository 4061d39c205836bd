#!/usr/bin/env python3
"""Tests of an installed Tessera, from a fresh prefix and away from the source tree.

    install_test.py prefix                              install the build, into a prefix that is then moved
    install_test.py headers|enums|designated|c|cmake|pkgconfig|symbols     what a user does with it

The environment says what to test: TESSERA_BUILD (a build folder), TESSERA_WORK (where the prefix goes), CMAKE, CXX,
CXXFLAGS (those of the build, so that a sanitizer is linked into the examples as well) and GENERATOR.
Exit code 77 when a test is skipped.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ["TESSERA_BUILD"])
WORK = pathlib.Path(os.environ["TESSERA_WORK"])
SHARED = os.environ.get("TESSERA_SHARED", "")
CMAKE = os.environ.get("CMAKE", "cmake")
CXX = os.environ.get("CXX", "g++")
CXXFLAGS = os.environ.get("CXXFLAGS", "").split()
PREFIX = WORK / "prefix"
STRICT = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
SKIPPED = 77


def call(*command, **options):
    """Its standard output; says what failed and how."""
    command = [str(part) for part in command]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def check(condition, message):
    if not condition:
        sys.exit(message)


def environment(**more):
    """Nothing of the build tree's, and the prefix found as one that the system does not know is."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return kept | more


def libraries():
    found = [path.parent for path in PREFIX.rglob("libtessera.*")]
    check(found, f"expected libtessera in {PREFIX}, found none")
    return found[0]


def prefix():
    shutil.rmtree(WORK, ignore_errors=True)
    call(CMAKE, "--install", BUILD, "--prefix", WORK / "elsewhere")
    (WORK / "elsewhere").rename(PREFIX)  # nothing may remember where it was
    installed = {str(path.relative_to(PREFIX)) for path in PREFIX.rglob("*") if path.is_file()}
    for name in ("bin/tessera", "include/tessera/tessera.h", "share/doc/tessera/LICENSE",
                 "share/doc/tessera/docs/library.md", "share/doc/tessera/examples/generate.cc",
                 "share/man/man1/tessera.1", "share/man/man1/tessera-run.1",
                 "share/bash-completion/completions/tessera", "share/zsh/site-functions/_tessera",
                 "share/fish/vendor_completions.d/tessera.fish"):
        check(name in installed, f"expected {name} among what is installed, found {sorted(installed)}")
    foreign = [name for name in installed if re.search(r"\.(a|so.*)$", name) and not re.search(r"libtessera(_tune)?\.", name)]
    check(not foreign, f"expected no libraries but Tessera's own, found {foreign} as well")
    for path in PREFIX.rglob("*"):
        if path.suffix in (".cmake", ".pc"):
            for folder in (WORK, ROOT, BUILD):
                check(str(folder) not in path.read_text(), f"{path.name}: expected no absolute path, found {folder}")
    said = call(PREFIX / "bin/tessera", "--version", env=environment())
    version = "\n".join(re.findall(r"#define TESSERA_VERSION_\w+ (\d+)", (ROOT / "include/tessera/version.h").read_text()))
    check(re.match(rf"tessera {re.escape(version.replace(chr(10), '.'))}[ \n]", said),
          f"expected the version of version.h, found {said}")
    if (BUILD / "lib/libtessera_tune.so").exists():
        tune = [PREFIX / "bin/tessera", "tune", "no-model", "-o", WORK / "tuned", "--task", "causal-lm", "--text", "no-text"]
        said = subprocess.run([str(part) for part in tune], capture_output=True, text=True, env=environment(), check=False).stderr
        check("no-model" in said and "libtorch" not in said, f"expected training to be found, and no model, found {said}")


def headers():
    """Each public header alone, with every warning, for each compiler that is here."""
    compilers = {CXX} | {path for path in map(shutil.which, ("g++", "clang++")) if path}
    names = sorted(path.name for path in (PREFIX / "include/tessera").iterdir())
    check(names == sorted(path.name for path in (ROOT / "include/tessera").iterdir()), f"installed headers: {names}")
    for compiler in sorted(compilers):
        for name in names:
            call(compiler, *STRICT, "-fsyntax-only", "-x", "c++", "-I", PREFIX / "include", "-",
                 input=f"#include <tessera/{name}>\n#include <tessera/{name}>\n")
        print(f"{compiler}: {len(names)} headers")


def structs():
    """The structs of the public headers with the names of their members: [(struct, [member, ...])]."""
    found = []
    for path in sorted((PREFIX / "include/tessera").glob("*.h")):
        text = re.sub(r"//.*", "", path.read_text())
        for match in re.finditer(r"^struct (?:TESSERA_API )?(\w+)(?: : (\w+))? \{\n(.*?)^\};", text, re.MULTILINE | re.DOTALL):
            body = re.sub(r"^  struct \w+ \{\n(?:    .*\n)*  \};\n", "", match[3], flags=re.MULTILINE)
            body = re.sub(r"enum class \w+ \{[^}]*\}", "int", body)
            members = re.findall(r"^  [\w:][^()]*?(?:<[^;]*>)? (\w+)(?: = [^;]*)?;", body, re.MULTILINE)
            found.append((match[1], match[2], members))
    return found


def designated():
    """A struct of which only some members are named gives no warning with -Wextra."""
    lines = ["#include <tessera/tessera.h>"]
    found = structs()
    check(len(found) > 50, f"expected the structs of the public headers, found {len(found)}")
    for name, base, members in found:
        check(members and not base, f"{name}: expected members and no base class, found {members} and {base}")
        for member in {members[0], members[-1]}:
            lines.append(f"[[maybe_unused]] static const tessera::{name} {name}_{member}{{.{member} = {{}}}};")
    call(CXX, *STRICT, "-fsyntax-only", "-x", "c++", "-I", PREFIX / "include", "-", input="\n".join(lines) + "\n")
    # What the test would find.
    bare = "#include <string>\nstruct A { int x = 0; std::string text; };\nA a{.x = 1};\n"
    found = subprocess.run([CXX, *STRICT, "-fsyntax-only", "-x", "c++", "-"], input=bare, capture_output=True, text=True)
    check(found.returncode != 0, "expected a warning where a member has no initializer, found none")
    print(f"{len(lines) - 1} initializers")


def enums():
    """Every public enum has a name for each of its values."""
    text = "\n".join(re.sub(r"//.*", "", path.read_text()) for path in (PREFIX / "include/tessera").glob("*.h"))
    names = {name.split("::")[-1] + ("::" if "::" in name else ""): re.findall(r'"[^"]+"', listed)
             for name, listed in re.findall(r"names_of\(([\w:]+)\) \{\s*return enum_names\(([^;]*)\);", text)}
    found = re.findall(r"^( *)enum class (\w+) \{(.*?)\}", text, re.MULTILINE | re.DOTALL)
    check(len(found) > 30, f"expected the public enums, found {len(found)}")
    for indent, name, values in found:
        own = names.get(name + ("::" if indent else ""), [])
        count = len(re.findall(r"\bk\w+", values))
        check(len(own) == count == len(set(own)), f"{name}: expected {count} different names, found {own}")
    print(f"{len(found)} enums")


def c():
    """The C interface from C99 and from Python."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or "-fsanitize" in " ".join(CXXFLAGS):
        print("skipped: there is no C compiler, or the library needs a sanitizer's")
        sys.exit(SKIPPED)
    library = libraries()
    if not (library / "libtessera.so").exists():
        print("skipped: this build is static, which a C program links with a C++ compiler")
        sys.exit(SKIPPED)
    env = environment(LD_LIBRARY_PATH=str(library))
    flags = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-I", PREFIX / "include"]
    links = ["-L", library, "-ltessera", "-lm"]
    tales = ROOT / "models/tales"
    with tempfile.TemporaryDirectory() as folder:
        for source in (ROOT / "tests/install/c_test.c", ROOT / "examples/embed.c"):
            call(compiler, *flags, source, "-o", pathlib.Path(folder) / source.stem, *links, env=env)
        sys.path.insert(0, str(ROOT / "tests/e2e"))
        from tasks_test import make_model  # what the tests of the program make models with
        classifier = make_model(pathlib.Path(folder) / "classifier", "SequenceClassification", ["no", "yes"])
        story = call(pathlib.Path(folder) / "c_test", tales, classifier, env=env)
        check(len(story) > 20, f"expected a story, found {story!r}")
        prompt = "Once upon a time"
        expected = json.loads(call(PREFIX / "bin/tessera", "embed", tales, prompt, "--json", env=environment()))["embedding"]
        for command in ([pathlib.Path(folder) / "embed", tales, prompt],
                        [sys.executable, ROOT / "examples/embed_ctypes.py", library / "libtessera.so", tales, prompt]):
            found = [float(line) for line in call(*command, env=env).split()]
            check(len(found) == len(expected) and all(abs(f - e) <= 5e-6 * abs(e) for f, e in zip(found, expected)),
                  f"{command[0]}: expected {expected[:4]}, found {found[:4]}")
        missing = subprocess.run([sys.executable, ROOT / "examples/embed_ctypes.py", library / "libtessera.so", "nowhere", "x"],
                                 capture_output=True, text=True, env=env)
        check(missing.returncode == 1 and "nowhere" in missing.stderr, f"a missing model: found {missing}")
    print("C99 and Python agree with the program")


def run_examples(folder, env):
    """The examples against the installed program."""
    program = PREFIX / "bin/tessera"
    tales = ROOT / "models/tales"
    prompt = "Once upon a time"
    expected = json.loads(call(program, "run", tales, "--prompt", prompt, "--greedy", "--max-tokens", "40", "--json",
                               env=environment()))["text"]
    found = call(folder / "generate", tales, prompt, env=env)
    check(len(expected) > 40 and found == expected + "\n", f"generate: expected {expected!r}, found {found!r}")
    models = [tales]
    if (pathlib.Path(SHARED) / "models/all-MiniLM-L6-v2/config.json").exists() and SHARED:
        models.append(pathlib.Path(SHARED) / "models/all-MiniLM-L6-v2")
    for model in models:
        expected = json.loads(call(program, "embed", model, prompt, "--json", env=environment()))["embedding"]
        found = [float(line) for line in call(folder / "embed", model, prompt, env=env).split()]
        # The example prints six digits.
        equal = len(found) == len(expected) and all(abs(f - e) <= 5e-6 * abs(e) for f, e in zip(found, expected))
        check(equal, f"embed {model}: expected {expected[:4]}..., found {found[:4]}...")
    with tempfile.TemporaryDirectory() as made:
        said = call(folder / "compress", tales, pathlib.Path(made) / "small", ROOT / "examples/texts/calibrate.txt", env=env)
        before, after = map(int, re.findall(r"\d+", said.splitlines()[0]))
        check(after < before and (pathlib.Path(made) / "small/config.json").exists(), f"compress: found {said!r}")
    failed = subprocess.run([folder / "embed", tales / "nothing", prompt], capture_output=True, text=True, env=env)
    check(failed.returncode == 1 and "nothing" in failed.stderr, f"a missing model: found {failed}")
    print(f"generate, embed and compress agree with the program on {', '.join(model.name for model in models)}")


def cmake():
    with tempfile.TemporaryDirectory() as folder:
        source = shutil.copytree(ROOT / "examples", pathlib.Path(folder) / "examples")
        build = pathlib.Path(folder) / "build"
        call(CMAKE, "-S", source, "-B", build, "-G", os.environ.get("GENERATOR", "Ninja"), f"-DCMAKE_PREFIX_PATH={PREFIX}",
             f"-DCMAKE_CXX_COMPILER={CXX}", f"-DCMAKE_CXX_FLAGS={' '.join(CXXFLAGS)} -Wall -Wextra -Werror",
             env=environment())
        call(CMAKE, "--build", build, env=environment())
        run_examples(build, environment())


def pkgconfig():
    if shutil.which("pkg-config") is None:
        print("skipped: there is no pkg-config")
        sys.exit(SKIPPED)
    env = environment(PKG_CONFIG_PATH=str(libraries() / "pkgconfig"), LD_LIBRARY_PATH=str(libraries()))
    flags = call("pkg-config", "--cflags", "--libs", "tessera", env=env).split()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("generate", "embed", "compress"):
            call(CXX, *CXXFLAGS, *STRICT, ROOT / f"examples/{name}.cc", "-o", pathlib.Path(folder) / name, *flags, env=env)
        run_examples(pathlib.Path(folder), env)


def symbols():
    """What the shared library shows is what the public headers declare."""
    library = libraries() / "libtessera.so"
    if not library.exists() or "-fsanitize" in " ".join(CXXFLAGS):
        print("skipped: this build is static, or a sanitizer adds symbols of its own")
        sys.exit(SKIPPED)
    version = re.findall(r"#define TESSERA_VERSION_\w+ (\d+)", (PREFIX / "include/tessera/version.h").read_text())
    soname = f"libtessera.so.{version[0]}.{version[1]}"
    check(f"[{soname}]" in call("readelf", "-d", library), f"expected SONAME {soname}")
    text = "\n".join(path.read_text() for path in (PREFIX / "include/tessera").iterdir())
    public = set(re.findall(r"\w+", re.sub(r"//.*", "", text)))
    lines = call("nm", "-DC", "--defined-only", library).splitlines()
    for line in lines:
        name = line.split(" ", 2)[2]
        match = re.match(r"(?:(?:typeinfo|vtable|typeinfo name) for )?(?:tessera::(\w+)(?:::~?(\w+))?|(tessera_\w+)$)", name)
        check(match and all(part is None or part in public for part in match.groups()),
              f"expected symbols that the public headers declare, found {name}")
    check(len(lines) > 10, f"expected the public functions, found {lines}")
    print(f"{len(lines)} symbols, all public")


if __name__ == "__main__":
    {"prefix": prefix, "headers": headers, "cmake": cmake, "pkgconfig": pkgconfig, "symbols": symbols,
     "designated": designated, "enums": enums, "c": c}[sys.argv[1]]()
