#!/usr/bin/env python3
"""Runs `sluiced check` over every variant that tests/tools/gguf_mutator.py makes of a valid model.

  check_corpus.py --sluiced BIN [--seed N] [--base MODEL.gguf]... [--keep DIR]

Without --base the mutator's own tiny model is the base. Fails when a file kills the check or hangs it, when a file
that must be refused is accepted, when a refusal takes longer or more memory than it may, is not one line of the
agreed form, or when fewer than 95 % of the refusals name an offset. Prints a summary, and every finding.
"""
import argparse
import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MUTATOR = os.path.join(HERE, "..", "tools", "gguf_mutator.py")
LINE = re.compile(r"^sluice: (?P<file>.*?): (?:offset (?P<offset>\d+): )?(?:(?P<field>.+?): )?(?P<what>.*) \[(?P<code>[a-z_.]+)\]$")
HANG_S = 20


def run(binary, path, limit):
    """-> (exit status, stdout, stderr, seconds of processor time)"""
    def limits():
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start = time.monotonic()
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    p = subprocess.Popen([binary, "check", path], stdin=subprocess.DEVNULL, stdout=out, stderr=err, preexec_fn=limits)
    hung = False
    while True:
        pid, status, usage = os.wait4(p.pid, os.WNOHANG)
        if pid:
            break
        if not hung and time.monotonic() - start > HANG_S:
            hung = True
            p.kill()
        time.sleep(0.001)
    p.returncode = 0   # reaped here, so that its own resource usage is known
    seconds = usage.ru_utime + usage.ru_stime   # what else the machine does is not its fault
    texts = []
    for f in (out, err):
        f.seek(0)
        texts.append(f.read())
        f.close()
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return ("hang" if hung else code), texts[0], texts[1], seconds


def address_space_of(binary, base):
    """Bytes of address space in which a valid model can just be checked, to 1 MiB. 0: a sanitizer's build, which
    reserves terabytes."""
    low, high = 1 << 20, 1 << 30
    if run(binary, base, high)[0] != 0:
        return 0
    while high - low > 1 << 20:
        middle = (low + high) // 2
        if run(binary, base, middle)[0] == 0:
            high = middle
        else:
            low = middle
    return high


class Findings:
    def __init__(self):
        self.list = []

    def add(self, name, what, detail=b""):
        self.list.append(name)
        print("  %s: %s %s" % (name, what, detail[:300].decode("utf-8", "backslashreplace").strip()))


def judge(entry, path, result, find, sanitizer):
    """-> (accepted, has offset, names the manifest's field)"""
    status, out, err, seconds = result
    name, must = entry["file"], entry["expected"] == "reject"
    if status == "hang":
        find.add(name, "hang")
        return None
    if status not in (0, 1):
        find.add(name, "died with %s" % status, err[-600:])
        return None
    if seconds > (10 if sanitizer else 1):
        find.add(name, "took %.2f s" % seconds)
    for text in (out, err):
        try:
            clean = not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text.decode("utf-8"))
        except UnicodeDecodeError:
            clean = False
        if not clean:
            find.add(name, "unescaped text", text)
    if status == 0:
        if must:
            find.add(name, "must be refused, was accepted: " + entry["description"], out)
        return (True, False, False)
    text = err.decode("utf-8", "replace")
    if text.count("\n") != 1 or not text.endswith("\n") or out:
        find.add(name, "a refusal is one line", err)
    m = LINE.match(text.rstrip("\n"))
    if not m or path not in text:
        find.add(name, "not an error line", err)
        return (False, False, False)
    if len(text) > 4096:
        find.add(name, "%d bytes of error line" % len(text))
    offset = m.group("offset")
    if offset is not None and int(offset) > entry["size"] and int(offset) > 24:
        find.add(name, "offset outside the file", err)
    # Random noise has a place, not a field.
    field = entry["field"] or ""
    named = field.startswith("byte ") or field in text or field in ("", "metadata")
    return (False, offset is not None, named)


def corpus(binary, base, seed, folder, verbose):
    spec = importlib.util.spec_from_file_location("gguf_mutator", MUTATOR)
    mutator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutator)
    with open(base, "rb") as f:
        data = f.read()
    manifest = mutator.write(mutator.Corpus(data, seed), folder, False, os.path.basename(base))
    needed = address_space_of(binary, base)
    sanitizer = needed == 0
    find = Findings()
    accepted = refused = offsets = fields = 0
    slowest = (0.0, "")
    for entry in manifest["variants"]:
        path = os.path.join(folder, entry["file"])
        # The manifest's rule for memory: 16 MiB more than a valid model takes, or 4 times the file.
        result = run(binary, path, 0 if sanitizer else needed + max(16 << 20, 4 * entry["size"]))
        slowest = max(slowest, (result[3], entry["file"]))
        verdict = judge(entry, path, result, find, sanitizer)
        os.unlink(path)
        if verdict is None:
            continue
        if verdict[0]:
            accepted += 1
            continue
        refused += 1
        offsets += verdict[1]
        fields += verdict[2]
        if not verdict[1]:
            print("  no offset: %s %s" % (entry["file"], result[2].decode("utf-8", "replace").strip()))
        if verbose and not verdict[2]:
            print("  field %r not named: %s: %s" % (entry["field"], entry["file"], result[2].decode("utf-8", "replace").strip()))
    share = 100.0 * offsets / max(refused, 1)
    named = 100.0 * fields / max(refused, 1)
    print("%s, seed %d: %d variants, %d must be refused; refused %d (%.1f %% with an offset, %.1f %% naming the field), "
          "accepted %d; %d MiB of address space; slowest %.3f s of CPU (%s); findings %d"
          % (os.path.basename(base), seed, manifest["count"], manifest["reject"], refused, share, named, accepted,
             needed >> 20, slowest[0], slowest[1], len(find.list)))
    if share < 95:
        find.add("all", "%.1f %% of refusals name an offset, 95 %% are needed" % share)
    if named < 95:
        find.add("all", "%.1f %% of refusals name the manifest's field, 95 %% are needed" % named)
    return not find.list


def special_paths(binary, folder):
    """Paths that are no regular file: refused at once, by one line."""
    paths = {"folder": folder, "missing": os.path.join(folder, "missing"), "device": "/dev/zero"}
    paths["fifo"] = os.path.join(folder, "fifo")
    os.mkfifo(paths["fifo"])
    paths["loop"] = os.path.join(folder, "loop")
    os.symlink(paths["loop"], paths["loop"])
    find = Findings()
    for what, path in paths.items():
        status, _, err, _ = run(binary, path, 0)
        if status != 1 or err.count(b"\n") != 1 or path.encode() not in err:
            find.add(what, "status %s" % status, err)
    print("%d paths that are no regular file; findings %d" % (len(paths), len(find.list)))
    return not find.list


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--sluiced", required=True)
    ap.add_argument("--seed", type=int, action="append")
    ap.add_argument("--base", action="append", default=[])
    ap.add_argument("--verbose", action="store_true", help="also list refusals that do not name the manifest's field")
    a = ap.parse_args()
    work = tempfile.mkdtemp(prefix="sluice-corpus-")
    try:
        bases = a.base
        if not bases:
            bases = [os.path.join(work, "base.gguf")]
            subprocess.run([sys.executable, MUTATOR, "--make-base", bases[0]], check=True, stdout=subprocess.DEVNULL)
        good = special_paths(a.sluiced, work)
        for base in bases:
            for seed in a.seed or [1]:
                folder = os.path.join(work, "corpus")
                good = corpus(a.sluiced, base, seed, folder, a.verbose) and good
                shutil.rmtree(folder)
    finally:
        shutil.rmtree(work)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
