#!/usr/bin/env python3
"""What must hold of the repository itself, so that a clone stands alone.   repo_check.py ROOT | --self-test

Files: none above 8 MiB; no path of somebody's machine in them; no merge marker; source has no note of work left, CRLF, tab or
trailing blank, and ends with a newline; every .cc is named in a CMake file; Python and shell scripts parse; links, paths
and tests that README.md and ARCHITECTURE.md name exist; ARCHITECTURE.md has at most 200 lines.
"""
import ast
import os
import re
import subprocess
import sys
import tempfile

MAX_BYTES = 8 << 20
SOURCE = (".h", ".cc", ".inc", ".py", ".sh", ".cmake", "CMakeLists.txt")
MACHINE_PATH = re.compile(r"(?<![\w.$}*-])/(?:work|root|home/\w+|Users/\w+)/[\w.]")
LATER = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
MERGE = re.compile(r"^(?:<{7} |>{7} |={7}$)", re.M)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
# `storage/ring.cc`: a path between backticks; braces, stars and blanks make it something else.
NAMED_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)`")
# `Ring.HeldSliceIsNeverOverwritten`: a test.
NAMED_TEST = re.compile(r"`([A-Z]\w+)\.([A-Z]\w+)`")
TEST = re.compile(r"\bTEST(?:_F|_P)?\(\s*(\w+)\s*,\s*(\w+)\s*\)")


def tracked(root):
    command = ["git", "-c", "safe.directory=*", "-C", root, "ls-files", "-z"]
    try:
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
        names = [n for n in out.decode().split("\0") if n]
    except (OSError, subprocess.CalledProcessError):
        names = []   # not a git checkout: every file but what builds leave
    if not names:
        for folder, dirs, files in os.walk(root):
            dirs[:] = [d for d in dirs if d not in (".git", "build", ".cache", "__pycache__")]
            names += [os.path.relpath(os.path.join(folder, f), root) for f in files]
    return sorted(n for n in names if os.path.isfile(os.path.join(root, n)))


def complaints_about(name, data):
    if len(data) > MAX_BYTES:
        yield f"{len(data)} bytes, allowed are {MAX_BYTES}"
    if b"\0" in data[:8192]:
        return
    text = data.decode("utf-8", errors="replace")
    lines = text.split("\n")
    for i, line in enumerate(lines, 1):
        if MACHINE_PATH.search(line):
            yield f"line {i}: path of one machine: {line.strip()[:80]}"
    if MERGE.search(text):
        yield "merge marker"
    if not name.endswith(SOURCE):
        return
    for i, line in enumerate(lines, 1):
        if LATER.search(line):
            yield f"line {i}: left for later: {line.strip()[:80]}"
        if line.rstrip() != line:
            yield f"line {i}: blank or CR at the end"
        if "\t" in line:
            yield f"line {i}: tab"
    if data and not data.endswith(b"\n"):
        yield "no newline at the end"
    if name.endswith(".py"):
        try:
            ast.parse(text)
        except SyntaxError as e:
            yield f"line {e.lineno}: {e.msg}"


def complaints(root):
    """Yields one line each."""
    names = tracked(root)
    build_text, tests = "", set()
    for name in names:
        with open(os.path.join(root, name), "rb") as f:
            data = f.read()
        if name.endswith((".cmake", "CMakeLists.txt")):
            build_text += data.decode()
        if name.startswith("tests/") and name.endswith(".cc"):
            tests.update(TEST.findall(data.decode()))
        for why in complaints_about(name, data):
            yield f"{name}: {why}"
        if name.endswith(".sh") or data.startswith((b"#!/bin/sh", b"#!/usr/bin/env bash", b"#!/bin/bash")):
            check = subprocess.run(["bash", "-n", os.path.join(root, name)], stderr=subprocess.PIPE)
            if check.returncode != 0:
                yield f"{name}: {check.stderr.decode(errors='replace').strip()[:200]}"
    for name in names:
        if name.endswith(".cc") and not re.search(rf"(?<![\w.-]){re.escape(os.path.basename(name)[:-3])}(?![\w-])", build_text):
            yield f"{name}: no CMake file names it"
    for name in ("README.md", "ARCHITECTURE.md"):
        path = os.path.join(root, name)
        if not os.path.exists(path):
            yield f"{name}: missing"
            continue
        with open(path, encoding="utf-8") as f:
            text = f.read()
        for target in LINK.findall(text) + NAMED_PATH.findall(text):
            if target.startswith("build/") or os.path.exists(os.path.join(root, target)):
                continue
            stem = os.path.join(root, target)   # `storage/ring` stands for ring.h and ring.cc
            if not any(os.path.exists(stem + end) for end in (".h", ".cc", ".py")):
                yield f"{name}: {target} does not exist"
        for suite, case in NAMED_TEST.findall(text):
            if (suite, case) not in tests:
                yield f"{name}: there is no test {suite}.{case}"
        if name == "ARCHITECTURE.md" and text.count("\n") > 200:
            yield f"{name}: {text.count(chr(10))} lines, allowed are 200"


def self_test():
    good = {"README.md": "see [x](base/a.h) and `base/a`\n", "ARCHITECTURE.md": "short\n", "base/a.h": "int x;\n",
            "base/a.cc": "int y;\n", "base/CMakeLists.txt": "add_library(b a.cc)\n"}

    def find(files):
        with tempfile.TemporaryDirectory() as root:
            for name, text in {**good, **files}.items():
                os.makedirs(os.path.dirname(os.path.join(root, name)) or root, exist_ok=True)
                with open(os.path.join(root, name), "wb") as f:
                    f.write(text if isinstance(text, bytes) else text.encode())
            return list(complaints(root))

    assert find({}) == [], find({})
    named = {"ARCHITECTURE.md": "`Ring.Holds`\n", "tests/a_test.cc": "TEST(Ring, Holds) {}\n", "tests/t.cmake": "a_test.cc\n"}
    assert find(named) == [], find(named)
    home = "/ho" + "me/somebody/x"
    planted = {"big.bin": b"x" * (MAX_BYTES + 1), "a.md": f"see {home}\n", "b.py": "def f(:\n", "c.sh": "if true\n",
               "base/lonely.cc": "int z;\n", "base/c.h": "int z;", "base/d.h": "int z; \n", "base/e.h": "\tint z;\n",
               "base/f.h": "// TO" + "DO: all of it\n", "base/g.h": "int z;\r\n", "e.txt": "<" * 7 + " mine\n",
               "README.md": "[x](gone.md)\n", "ARCHITECTURE.md": "x\n" * 201}
    for name, text in [*planted.items(), ("ARCHITECTURE.md", "`Ring.Leaks`\n")]:
        found = find({name: text})
        assert len(found) == 1 and found[0].startswith(name + ":"), (name, found)
    print(f"{len(planted) + 1} planted faults found")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    found = list(complaints(sys.argv[1]))
    print("\n".join(found) or "clean")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
