"""Runs `sluiced forward` and reads what it writes. Shared by the golden and bit-equality tests; needs numpy only."""
import json
import os
import struct
import subprocess
import sys
import tempfile

SKIP = 77  # SKIP_RETURN_CODE of every test here


def skip(why, command):
    """Ends the test as skipped, aloud, with the command that would let it run."""
    print(f"SKIPPED: {why}\n  to run it: {command}", flush=True)
    sys.exit(SKIP)


try:
    import numpy as np
except ImportError:
    skip("numpy is missing", "scripts/test.sh  (or: python3 -m pip install numpy, and SLUICE_PYTHON=that python)")

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U32": "<u4", "U8": "u1"}


def read_safetensors(path):
    """name -> array. Checks what a writer can get wrong: header length, offsets, sizes, gaps."""
    with open(path, "rb") as f:
        data = f.read()
    (n,) = struct.unpack_from("<Q", data)
    assert 8 + n <= len(data), f"{path}: header of {n} bytes in a file of {len(data)}"
    header = json.loads(data[8:8 + n])
    body, out, spans = data[8 + n:], {}, []
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        dtype = np.dtype(DTYPES[info["dtype"]])
        count = int(np.prod(info["shape"], dtype=np.int64))
        assert 0 <= begin <= end <= len(body), f"{path}: {name} lies outside the file"
        assert end - begin == count * dtype.itemsize, f"{path}: {name} has {end - begin} bytes for shape {info['shape']}"
        out[name] = np.frombuffer(body, dtype, count, begin).reshape(info["shape"])
        spans.append((begin, end))
    spans.sort()
    assert all(a[1] == b[0] for a, b in zip(spans, spans[1:])), f"{path}: gaps or overlaps between tensors"
    return out


class Forward:
    """One daemon binary; each call is one process."""

    def __init__(self, sluiced):
        self.sluiced = sluiced
        self.tmp = tempfile.TemporaryDirectory(prefix="sluice-forward-")
        self.n_runs = 0

    def path(self, model, ids, *flags, labels=None, env=None, timeout=600):
        """Runs forward and returns the path of its safetensors file."""
        self.n_runs += 1
        base = os.path.join(self.tmp.name, str(self.n_runs))
        with open(base + ".ids.json", "w") as f:
            json.dump([int(i) for i in ids], f)
        out = base + ".safetensors"
        command = [self.sluiced, "forward", model, "--ids", f"@{base}.ids.json", "-o", out, *map(str, flags)]
        if labels is not None:
            with open(base + ".labels.json", "w") as f:
                json.dump([int(i) for i in labels], f)
            command += ["--labels", f"@{base}.labels.json"]
        done = subprocess.run(command, env={**os.environ, **(env or {})}, timeout=timeout, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            text = done.stdout.decode(errors="replace").strip()
            raise AssertionError(f"exit {done.returncode}: {' '.join(command)}\n{text}")
        return out

    def __call__(self, model, ids, *flags, **kw):
        out = self.path(model, ids, *flags, **kw)
        tensors = read_safetensors(out)
        os.remove(out)
        return tensors


class Checks:
    """Collects named comparisons, prints each, and says at the end whether all held."""

    def __init__(self):
        self.failed = 0
        self.done = 0

    def that(self, ok, text):
        self.done += 1
        self.failed += not ok
        print(("ok      " if ok else "FAILED  ") + text, flush=True)
        return bool(ok)

    def close(self, name, mine, golden, limit):
        """Same shape, finite, largest absolute difference <= limit."""
        mine, golden = np.asarray(mine), np.asarray(golden)
        if mine.shape != golden.shape:
            return self.that(False, f"{name}: shape {list(mine.shape)}, expected {list(golden.shape)}")
        if mine.size == 0:
            return self.that(False, f"{name}: nothing to compare")
        a, b = mine.astype(np.float64), golden.astype(np.float64)
        if not np.isfinite(a).all():
            return self.that(False, f"{name}: {int((~np.isfinite(a)).sum())} of {a.size} values are not finite")
        error = np.abs(a - b)
        worst = np.unravel_index(int(error.argmax()), error.shape)
        at = "" if error.max() <= limit else \
            f" at {[int(i) for i in worst]}: {a[worst]:.6g}, expected {b[worst]:.6g}"
        return self.that(error.max() <= limit, f"{name}: max error {error.max():.2e} (limit {limit:.0e}){at}")

    def rel_rms(self, name, mine, golden, limit):
        """rms(error) / std(golden) <= limit."""
        mine, golden = np.asarray(mine, np.float64), np.asarray(golden, np.float64)
        if mine.shape != golden.shape:
            return self.that(False, f"{name}: shape {list(mine.shape)}, expected {list(golden.shape)}")
        value = float(np.sqrt(np.mean((mine - golden) ** 2)) / golden.std())
        return self.that(value <= limit, f"{name}: relative RMS {value:.2e} (limit {limit:g})")  # NaN fails

    def finish(self):
        print(f"{self.done - self.failed} of {self.done} checks hold")
        assert self.done > 0, "nothing was checked"
        sys.exit(1 if self.failed else 0)


def log_softmax(logits):
    z = np.asarray(logits, np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))
