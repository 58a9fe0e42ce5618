#!/usr/bin/env python3
"""SLUICE_KERNELS that names no variant is refused where a process starts: kernel_choice_test.py SLUICED SLUICE_BENCH MODEL.gguf"""
import os
import re
import subprocess
import sys
import tempfile


def run(value, *argv):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLUICED_", "SLUICE_KERNELS"))}
    if value is not None:
        env["SLUICE_KERNELS"] = value
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def main():
    sluiced, bench, model = sys.argv[1:4]
    with tempfile.TemporaryDirectory(prefix="sluice-kernels-") as tmp:
        out = os.path.join(tmp, "out.safetensors")
        listen = ("--listen", "unix://" + os.path.join(tmp, "s.sock"), "--state-dir", os.path.join(tmp, "state"),
                  "--config", os.path.join(tmp, "none.toml"))
        open(os.path.join(tmp, "none.toml"), "w").close()
        forward = (sluiced, "forward", model, "--ids", "1,2,3", "-o", out)
        measure = (bench, "--model", model, "--prompt", "4", "--gen", "1", "--threads", "1")
        for name, argv, prefix in (("sluiced", (sluiced, *listen), "sluiced: start failed: "), ("forward", forward, "sluice: "),
                                   ("sluice-bench", measure, "sluice: ")):
            for value in ("sse9", "AVX2", "scalar,avx2", "\x1b[2J"):
                code, text, error = run(value, *argv)
                assert code == 2, (name, value, code, error)
                line = re.fullmatch(re.escape(prefix) + r"env SLUICE_KERNELS: '(.*)' is no kernel variant of this CPU; "
                                    r"allowed: (scalar(?:, \w+)*) +\[invalid_config\]\n", error)
                assert line, (name, value, error)
                assert "\x1b" not in error and text == "", (name, value, text, error)
        assert os.listdir(tmp) == ["none.toml"], os.listdir(tmp)   # refused before anything is made
        allowed = line.group(2).split(", ")
        for value in (None, "", *allowed):
            for name, argv in (("forward", forward), ("sluice-bench", measure)):
                code, _, error = run(value, *argv)
                assert code == 0, (name, value, code, error)
        print("refused by sluiced, forward and sluice-bench; allowed here:", ", ".join(allowed))


if __name__ == "__main__":
    main()
