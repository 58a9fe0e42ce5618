#!/usr/bin/env python3
"""Several clients and several models in a real daemon: serving_test.py SLUICED MODEL.gguf SLUICE

Models share one budget by use."""
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from daemon_lib import Client, Daemon  # noqa: E402

SLUICED, MODEL, SLUICE = None, None, None
MIB = 1 << 20


def complete(d, n=60, model="demo", **more):
    status, doc, _ = d.post("/v1/completions", dict({"model": model, "prompt": "Once upon a time", "max_tokens": n,
                                                     "temperature": 0}, **more))
    assert status == 200, doc
    return doc["choices"][0]["text"]


def put(d, size):
    c = Client(d.socket)
    try:
        return c.request("PUT", "/sluice/v1/budget", {"ram_bytes": size})
    finally:
        c.close()


def status(d):
    return d.get("/sluice/v1/status")[1]


class SeveralModels(unittest.TestCase):
    @staticmethod
    def larger_model(folder):
        """34 MiB of random weights with the demo's tokenizer: pins come and go in steps of 2 MiB."""
        path = os.path.join(folder, "larger.gguf")
        tool = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "make_synthetic_gguf.py")
        made = subprocess.run([sys.executable, tool, "--preset", "nano", "--type", "Q8_0", "--tokenizer-from", MODEL, "--out", path],
                              capture_output=True, text=True)
        if made.returncode != 0:
            raise unittest.SkipTest("no model to try it with: " + made.stderr[-300:])
        return path

    def test_what_is_used_most_gains(self):
        with tempfile.TemporaryDirectory() as folder:
            self.share(self.larger_model(folder))

    def share(self, path):
        with Daemon(SLUICED, path) as d:
            want = complete(d, 200, "larger")
        with Daemon(SLUICED, flags=["--budget", "192M", "--model", path, "--name", "a", "--model", path, "--name", "b"]) as d:
            self.assertEqual(complete(d, 200, "a"), want)
            self.assertEqual(complete(d, 200, "b"), want)

            def pinned():
                return {m["name"]: m["pinned_bytes"] for m in status(d)["models"]}
            most = pinned()["a"]
            self.assertEqual(pinned(), {"a": most, "b": most}, "where there is room for both, both have all")
            # Room for one and a half.
            stop, over = threading.Event(), []

            def watch():
                while not stop.is_set():
                    b = d.get("/sluice/v1/budget")[1]
                    if b["used_bytes"] > b["limit_bytes"] or b["rss_bytes"] > b["limit_bytes"]:
                        over.append(b)
                    time.sleep(0.05)
            limit = d.get("/sluice/v1/budget")[1]["used_bytes"] - most // 2
            code, doc, _ = put(d, limit)
            self.assertEqual(code, 200, doc)
            watcher = threading.Thread(target=watch)
            watcher.start()
            try:
                # In turn: shared alike, but for the quarter that is not worth moving (5/8 of the room) and a huge page.
                end = time.monotonic() + 60
                while True:
                    self.assertEqual(complete(d, 200, "a"), want)
                    self.assertEqual(complete(d, 200, "b"), want)
                    now = pinned()
                    self.assertEqual(sorted(now), ["a", "b"])
                    if max(now.values()) <= 0.625 * sum(now.values()) + 2 * MIB and min(now.values()) > most // 2:
                        break
                    self.assertLess(time.monotonic(), end, (now, most))
                # Only one: it has what it can use before long, but for the quarter that the other may keep too much.
                end = time.monotonic() + 60
                while pinned()["b"] < 0.8 * most:
                    self.assertEqual(complete(d, 200, "b"), want)
                    self.assertLess(time.monotonic(), end, (pinned(), most))
                self.assertLess(pinned()["a"], most)
                # And back again.
                end = time.monotonic() + 60
                while pinned()["a"] < 0.8 * most:
                    self.assertEqual(complete(d, 200, "a"), want)
                    self.assertLess(time.monotonic(), end, (pinned(), most))
                # At the same time.
                got = []
                threads = [threading.Thread(target=lambda m=m: got.append(complete(d, 200, m))) for m in "abab"]
                for t in threads:
                    t.start()
                for t in threads:
                    t.join(60)
                self.assertEqual(got, [want] * 4)
            finally:
                stop.set()
                watcher.join()
            self.assertEqual(over, [], "never above the budget, by the ledger and by the kernel")
            self.assertEqual(len(status(d)["models"]), 2, "nobody was unloaded for it")
            # Alone again: no share to keep to.
            d.post("/sluice/v1/models/a/unload", {})
            end = time.monotonic() + 60
            while pinned()["b"] < most:
                self.assertEqual(complete(d, 200, "b"), want)
                self.assertLess(time.monotonic(), end, (pinned(), most))


if __name__ == "__main__":
    SLUICED, MODEL, SLUICE = sys.argv[1:4]
    unittest.main(argv=[sys.argv[0]] + sys.argv[4:])
