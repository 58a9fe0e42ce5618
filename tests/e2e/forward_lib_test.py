#!/usr/bin/env python3
"""The judge judged: comparisons of forward_lib fail on what they must, and pass on what they must."""
import contextlib
import io
import json
import os
import struct
import tempfile
import unittest

from forward_lib import Checks, log_softmax, np, read_safetensors


def verdict(method, *args):
    checks = Checks()
    with contextlib.redirect_stdout(io.StringIO()):
        getattr(checks, method)("x", *args)
    return checks.failed == 0


def write(header, body=b""):
    text = json.dumps(header).encode()
    f = tempfile.NamedTemporaryFile(suffix=".safetensors", delete=False)
    with f:
        f.write(struct.pack("<Q", len(text)) + text + body)
    return f.name


class ChecksTest(unittest.TestCase):
    def test_close(self):
        a = np.ones((2, 3), np.float32)
        self.assertTrue(verdict("close", a, a, 0.0))
        self.assertTrue(verdict("close", a, a + 1e-4, 2e-4))
        self.assertFalse(verdict("close", a, a + 1e-3, 2e-4))
        self.assertFalse(verdict("close", a, np.ones((3, 2)), 1.0))
        self.assertFalse(verdict("close", a * np.nan, a, 1.0))
        self.assertFalse(verdict("close", a * np.inf, a, 1.0))
        self.assertFalse(verdict("close", a[:0], a[:0], 1.0))  # nothing compared is not a pass

    def test_rel_rms(self):
        golden = np.random.default_rng(0).normal(size=1000)
        self.assertTrue(verdict("rel_rms", golden * 1.01, golden, 0.02))
        self.assertFalse(verdict("rel_rms", golden * 1.1, golden, 0.02))
        self.assertFalse(verdict("rel_rms", golden * np.nan, golden, 0.02))

    def test_log_softmax_sums_to_one(self):
        self.assertAlmostEqual(float(np.exp(log_softmax(np.array([900.0, 0.0, -900.0]))).sum()), 1.0)

    def test_reader_refuses_wrong_files(self):
        info = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        path = write({"a": info}, struct.pack("<2f", 1, 2))
        self.assertEqual(read_safetensors(path)["a"].tolist(), [1, 2])
        os.remove(path)
        for header, body in (({"a": info}, b"1234"), ({"a": {**info, "shape": [3]}}, b"12345678"),
                             ({"a": info, "b": info}, b"12345678")):
            path = write(header, body)
            with self.assertRaises(AssertionError):
                read_safetensors(path)
            os.remove(path)


if __name__ == "__main__":
    unittest.main()
