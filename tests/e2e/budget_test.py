#!/usr/bin/env python3
"""The live budget of a real daemon: budget_test.py SLUICED MODEL.gguf SLUICE

INTERFACE 1.4, 2.4 and the budget rows of 3.2; RELIABILITY P4 to P6."""
import json
import os
import random
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from daemon_lib import Client, Daemon, events  # noqa: E402

SLUICED, MODEL, SLUICE = None, None, None
MIB = 1 << 20
LIMIT = 96 * MIB


def put(d, body):
    c = Client(d.socket)
    try:
        return c.request("PUT", "/sluice/v1/budget", body)
    finally:
        c.close()


def budget(d):
    status, doc, _ = d.get("/sluice/v1/budget")
    assert status == 200, doc
    return doc


def complete(d, n=60, model="demo"):
    return d.post("/v1/completions", {"model": model, "prompt": "Once upon a time", "max_tokens": n, "temperature": 0})


def text_of(d, n=60, model="demo"):
    status, doc, _ = complete(d, n, model)
    assert status == 200, doc
    return doc["choices"][0]["text"]


class Running:
    """A long generation, streamed."""

    def __init__(self, d, n=1500, **more):
        self.c = Client(d.socket)
        self.c.send("POST", "/v1/completions",
                    dict({"model": "demo", "prompt": "Once upon a time", "max_tokens": n, "temperature": 0,
                          "stream": True}, **more))
        _, self.headers = self.c.head()
        self.first = self.c.chunk().decode()

    def rest(self):
        data = self.first + self.c.body(self.headers).decode()
        self.c.close()
        return events(data)

    def text(self):
        out = self.rest()
        assert out[-1] == "[DONE]", out[-1]
        return "".join(json.loads(e)["choices"][0]["text"] for e in out[:-1])


class Budget(unittest.TestCase):
    def test_show_adds_up(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            text_of(d)
            b = budget(d)
            self.assertEqual(b["limit_bytes"], LIMIT)
            self.assertEqual(b["effective_bytes"], LIMIT)
            self.assertLessEqual(b["floor_bytes"], b["limit_bytes"])
            self.assertEqual(sum(b["accounted"].values()), b["used_bytes"])
            for name in ("weights_pinned", "weights_streamed", "kv", "activations", "arena", "http", "profile", "fixed"):
                self.assertIn(name, b["accounted"])
            self.assertGreater(b["accounted"]["weights_pinned"], 0)
            self.assertLessEqual(b["rss_bytes"], b["limit_bytes"])
            self.assertFalse(b["gap_is_defect"], b)
            self.assertEqual(d.get("/sluice/v1/status")[1]["budget"]["effective_bytes"], LIMIT)

    def test_bad_values_get_one_clear_line(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            for body in ({"ram_bytes": 0}, {"ram_bytes": -1}, {"ram_bytes": 1e30}, {"ram_bytes": "lots"}, {"ram_bytes": "0"},
                         {"ram_bytes": "-1"}, {"ram_bytes": "1e30"}, {"ram_bytes": "140%"}, {"ram_bytes": 1.5},
                         {"ram_bytes": True}, {"ram_bytes": "9" * 50}, {}, {"ram_bytes": "1G", "reset": True},
                         {"ram_bytes": "1G", "gpu_bytes": 1}, {"ram_bytes": "1G", "model": "demo"},
                         {"ram_bytes": "1G", "forse": True}, {"ram_bytes": "1G", "timeout_ms": -1}, [], "x"):
                status, doc, _ = put(d, body)
                self.assertEqual(status, 400, (body, doc))
                message = doc["error"]["message"]
                self.assertNotIn("\n", message)
                self.assertTrue(message, body)
            self.assertEqual(put(d, {"ram_bytes": "64M", "gpu_bytes": 0})[0], 200)
            self.assertEqual(put(d, {"ram_bytes": "40%", "dry_run": True})[0], 200)
            self.assertEqual(budget(d)["limit_bytes"], 64 * MIB)
            self.assertEqual(put(d, b"x" * 5000)[0], 413)

    def test_the_floor_that_is_named_is_the_one_that_works(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            want = text_of(d)
            status, doc, _ = put(d, {"ram_bytes": "1M"})
            self.assertEqual((status, doc["error"]["code"]), (409, "budget_below_floor"))
            self.assertIn("fixed", doc["error"]["holds"])
            self.assertEqual(budget(d)["limit_bytes"], LIMIT, "a refused change changes nothing")
            floor = int(doc["error"]["hint"].split()[-1][:-1])
            self.assertEqual(floor * MIB, budget(d)["floor_bytes"])
            self.assertEqual(put(d, {"ram_bytes": (floor - 1) * MIB})[0], 409)
            status, doc, _ = put(d, {"ram_bytes": floor * MIB})
            self.assertEqual(status, 200, doc)
            self.assertEqual(doc["evicted"][0]["kind"], "model", "an idle model is unloaded before a limit is refused")
            self.assertLessEqual(doc["used_bytes"], floor * MIB)
            self.assertEqual(put(d, {"ram_bytes": "96M"})[0], 200)
            self.assertEqual(text_of(d), want)

    def test_idle_pins_and_kept_kv_go_first(self):
        with Daemon(SLUICED, flags=["--budget", "96M", "--model", MODEL, "--name", "demo",
                                    "--model", MODEL, "--name", "older"]) as d:
            text_of(d, model="older")
            run = Running(d)
            used = budget(d)["used_bytes"]
            status, doc, _ = put(d, {"ram_bytes": used - 3 * MIB})
            self.assertEqual(status, 200, doc)
            self.assertEqual({e["model"] for e in doc["evicted"]}, {"older"}, doc["evicted"])
            self.assertTrue(all(e["idle"] for e in doc["evicted"]))
            self.assertTrue(run.text())

    def test_a_running_request_has_a_floor_and_force_breaks_it(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            want = text_of(d, 300)
            run = Running(d, 300)
            status, doc, _ = put(d, {"ram_bytes": "28M"})
            self.assertEqual(status, 409, doc)
            self.assertIn("running request r-", doc["error"]["message"])
            self.assertIn("KV", doc["error"]["holds"])
            self.assertIn("--force", doc["error"]["hint"])
            self.assertEqual(run.text(), want, "a refused change does not disturb")
            run = Running(d, 300)
            floor = budget(d)["floor_bytes"]
            status, doc, _ = put(d, {"ram_bytes": floor})
            self.assertEqual(status, 200, doc)
            self.assertEqual(run.text(), want, "at exactly the floor")
            self.assertEqual(put(d, {"ram_bytes": "96M"})[0], 200)
            run = Running(d, 1900)
            status, doc, _ = put(d, {"ram_bytes": "28M", "force": True})
            self.assertEqual(status, 200, doc)
            self.assertEqual(len(doc["cancelled"]), 1)
            self.assertLessEqual(doc["rss_bytes"], 28 * MIB)
            last = json.loads(run.rest()[-1])
            self.assertEqual(last["error"]["code"], "cancelled")
            status, doc, _ = put(d, {"ram_bytes": "2M", "force": True})
            self.assertEqual((status, doc["error"]["code"]), (409, "budget_below_floor"), "no force makes the process smaller")

    def test_flapping_changes_no_text_and_the_kernel_agrees(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            want = text_of(d, 400)
            stop = threading.Event()
            seen = []
            seed = random.randrange(1 << 30)

            def flap():
                rng = random.Random(seed)
                while not stop.is_set():
                    size = rng.randrange(34, 96) * MIB
                    status, doc, _ = put(d, {"ram_bytes": size})
                    seen.append((status, size, doc))
                    time.sleep(0.02)

            t = threading.Thread(target=flap)
            t.start()
            try:
                for _ in range(6):
                    self.assertEqual(Running(d, 400).text(), want, "seed %d" % seed)
            finally:
                stop.set()
                t.join()
            good = [(size, doc) for status, size, doc in seen if status == 200]
            self.assertGreater(len(good), 3)
            for size, doc in good:
                self.assertLessEqual(doc["used_bytes"], doc["limit_bytes"] + MIB, "seed %d" % seed)
                self.assertTrue(doc["kernel_confirmed"], doc)
                self.assertLessEqual(doc["rss_bytes"], size)
                self.assertLess(doc["elapsed_ms"], 1000)

    def test_a_deadline_that_a_slow_disk_misses_is_said_and_nobody_else_waits(self):
        os.environ["SLUICE_IOFAULT"] = "read:20:4s"
        try:
            with Daemon(SLUICED, flags=["--budget", "96M", "--model", MODEL, "--name", "demo",
                                        "--model", MODEL, "--name", "older",
                                        "--set", "stream.io_threads=4"]) as d:
                # Falls due in the middle of it all: while "older" reads what it may keep.
                d.post("/sluice/v1/models/older/load", {"keep_alive": "1s"})
                while d.get("/sluice/v1/requests")[1]["requests"]:
                    time.sleep(0.01)
                answer = []
                run = threading.Thread(target=lambda: answer.append(complete(d, 30)))
                run.start()
                while budget(d)["accounted"]["weights_pinned"] == 0:
                    time.sleep(0.01)
                time.sleep(0.3)
                t = time.monotonic()
                status, doc, _ = put(d, {"ram_bytes": budget(d)["floor_bytes"] + MIB, "timeout_ms": 300})
                self.assertLess(time.monotonic() - t, 1.5)
                self.assertEqual(status, 200, doc)
                self.assertTrue(doc["deadline_missed"], doc)
                self.assertEqual(doc["limit_bytes"], LIMIT, "not in force yet, and said so")
                while time.monotonic() - t < 1.5:       # older's second is over
                    time.sleep(0.05)
                    self.assertEqual(d.get("/health")[0], 200)
                    self.assertLess(time.monotonic() - t, 2.5)
                for path in ("/health", "/sluice/v1/budget", "/sluice/v1/status", "/sluice/v1/residency"):
                    t = time.monotonic()
                    self.assertEqual(d.get(path)[0], 200)
                    self.assertLess(time.monotonic() - t, 1, path)
                run.join(30)
                self.assertEqual(answer[0][0], 200, answer)
                end = time.monotonic() + 10
                while budget(d)["limit_bytes"] == LIMIT and time.monotonic() < end:
                    time.sleep(0.02)
                self.assertLess(budget(d)["limit_bytes"], LIMIT, "it goes on")
        finally:
            del os.environ["SLUICE_IOFAULT"]

    def test_history_is_bounded_and_names_who(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            c = Client(d.socket)
            for i in range(300):
                self.assertEqual(c.request("PUT", "/sluice/v1/budget", {"ram_bytes": (64 + i % 2) * MIB})[0], 200)
            c.close()
            changes = d.get("/sluice/v1/budget/history")[1]["changes"]
            self.assertEqual(len(changes), 256)
            self.assertEqual(changes[-1]["cause"], "user")
            self.assertEqual(changes[-1]["uid"], os.geteuid())
            self.assertEqual(changes[-1]["new_bytes"], 65 * MIB)
            self.assertLessEqual(changes[0]["at"], changes[-1]["at"])

    # ------------------------------------------------------------------ the client
    def sluice(self, d, *args):
        p = subprocess.run([SLUICE, "--host", d.socket] + list(args), capture_output=True, text=True, timeout=60)
        return p.returncode, p.stdout, p.stderr

    def test_client(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            text_of(d)
            code, out, _ = self.sluice(d, "budget", "show")
            self.assertEqual(code, 0)
            for word in ("96 MiB", "effective", "floor", "rss", "gap", "weights_pinned"):
                self.assertIn(word, out)
            code, out, _ = self.sluice(d, "--json", "budget", "show")
            self.assertEqual(json.loads(out)["schema"], "sluice.budget.v1")
            code, out, _ = self.sluice(d, "budget", "set", "64M")
            self.assertEqual(code, 0)
            self.assertRegex(out, r"^budget 96 MiB -> 64 MiB: .*in \d+ ms; running requests continue\n$")
            code, out, _ = self.sluice(d, "budget", "set", "34M", "--dry-run")
            self.assertEqual((code, budget(d)["limit_bytes"]), (0, 64 * MIB))
            self.assertRegex(out, r"would (drop|evict|unload)")
            code, out, err = self.sluice(d, "budget", "set", "2M")
            self.assertEqual((code, out), (6, ""))
            lines = err.splitlines()
            self.assertRegex(lines[0], r"^sluice: budget set failed: budget 2 MiB is below the floor.*\[budget_below_floor\]$")
            self.assertTrue(lines[1].startswith("  holds:  "), err)
            self.assertRegex(lines[2], r"^  try:    sluice budget set \d+M$")
            for bad in ("0", "1e30", "lots", "-1", ""):
                code, out, err = self.sluice(d, "budget", "set", bad)
                self.assertIn(code, (1, 2), (bad, err))
                self.assertTrue(err.startswith("sluice: "), err)
                self.assertLessEqual(len(err.splitlines()), 3, err)
            code, out, _ = self.sluice(d, "budget", "history")
            self.assertEqual(code, 0)
            self.assertIn("user", out)
            self.assertEqual(json.loads(self.sluice(d, "budget", "history", "--json")[1])["schema"],
                             "sluice.budget_history.v1")
            code, out, _ = self.sluice(d, "budget", "reset")
            self.assertEqual((code, budget(d)["limit_bytes"]), (0, LIMIT))
            code, out, _ = self.sluice(d, "status")
            self.assertIn("floor", out)
            self.assertIn("rss", out)

    def test_saved_budget_is_there_after_a_restart(self):
        with Daemon(SLUICED, MODEL) as d:
            before = budget(d)["limit_bytes"]
            code, out, _ = self.sluice(d, "budget", "set", "80M", "--save")
            self.assertEqual(code, 0)
            path = os.path.join(d.dir, "sluiced.toml.d", "90-budget.toml")
            self.assertIn(path, out)
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
            d.stop()
            d.start()
            self.assertEqual(budget(d)["limit_bytes"], 80 * MIB)
            self.assertEqual(put(d, {"ram_bytes": "90M"})[0], 200)
            self.assertEqual(put(d, {"reset": True})[1]["limit_bytes"], 80 * MIB)
            self.assertEqual(self.sluice(d, "budget", "reset", "--save")[0], 0)
            self.assertFalse(os.path.exists(path))
            self.assertEqual(budget(d)["limit_bytes"], before)

    def test_a_flag_wins_over_what_is_saved_and_that_is_said(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            code, out, err = self.sluice(d, "budget", "set", "80M", "--save")
            self.assertEqual(code, 0)
            self.assertIn("--budget", err)


if __name__ == "__main__":
    SLUICED, MODEL, SLUICE = sys.argv[1:4]
    unittest.main(argv=[sys.argv[0]] + sys.argv[4:])
