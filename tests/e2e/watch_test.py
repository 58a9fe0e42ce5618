#!/usr/bin/env python3
"""Residency map and events of a real daemon: watch_test.py SLUICED MODEL.gguf SLUICE   (INTERFACE 3.6, 3.7)"""
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from daemon_lib import Client, Daemon  # noqa: E402

SLUICED, MODEL, SLUICE = None, None, None
MIB = 1 << 20


def complete(d, n=60, **more):
    return d.post("/v1/completions", dict({"prompt": "Once upon a time", "max_tokens": n, "temperature": 0}, **more))


def put(d, size):
    c = Client(d.socket)
    try:
        return c.request("PUT", "/sluice/v1/budget", {"ram_bytes": size})
    finally:
        c.close()


class Stream:
    """Events as they come, on a thread of their own."""

    def __init__(self, d, query="", headers=()):
        self.c = Client(d.socket, timeout=30)
        self.c.send("GET", "/sluice/v1/events" + query, headers=headers)
        self.status, self.headers = self.c.head()
        self.all, self.ended = [], False
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        text = ""
        try:
            while True:
                piece = self.c.chunk()
                if not piece:
                    break
                text += piece.decode()
                while "\n\n" in text:
                    block, text = text.split("\n\n", 1)
                    if block.startswith(":"):
                        continue
                    m = re.match(r"id: (\d+)\nevent: (\S+)\ndata: (\{.*\})$", block)
                    assert m, block
                    e = json.loads(m.group(3))
                    assert e["type"] == m.group(2)
                    self.all.append(e)
        except (OSError, EOFError):
            return
        self.ended = True

    def types(self):
        return [e["type"] for e in self.all]

    def wait(self, kind, seconds=10):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for e in list(self.all):
                if e["type"] == kind:
                    return e
            time.sleep(0.01)
        raise AssertionError("no %s in %s" % (kind, self.types()))

    def close(self):
        self.c.close()


class Watch(unittest.TestCase):
    def test_residency_adds_up(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            status, doc, _ = d.get("/sluice/v1/residency")
            self.assertEqual((status, doc["loaded"], doc["blocks"]), (200, False, []))
            complete(d)
            status, doc, headers = d.get("/sluice/v1/residency?model=demo")
            self.assertEqual(status, 200)
            self.assertEqual(doc["schema"], "sluice.residency.v1")
            kinds = [b["kind"] for b in doc["blocks"]]
            self.assertEqual(kinds[-1], "output")
            self.assertEqual(kinds.count("layer"), d.get("/sluice/v1/models")[1]["models"][0]["blocks"])
            for b in doc["blocks"]:
                self.assertLessEqual(b["resident_bytes"], b["bytes"])
                self.assertIn(b["state"], ("disk", "loading", "partial", "ram"))
                if b["kind"] != "embed":
                    self.assertEqual(b["state"], "ram", "all fits")
                    self.assertTrue(b["pinned"])
                    self.assertGreater(b["hits"], b["misses"])
                    self.assertGreaterEqual(b["read_bytes_total"], b["bytes"])
            c = Client(d.socket)
            c.send("GET", "/sluice/v1/residency", headers=[("If-None-Match", headers["etag"])])
            self.assertEqual(c.head()[0], 304)
            c.close()
            # A shrink shows: what is left is what the ledger says.
            floor = d.get("/sluice/v1/budget")[1]["used_bytes"]
            put(d, floor - 3 * MIB)
            doc = d.get("/sluice/v1/residency")[1]
            self.assertGreater(sum(b["evictions"] for b in doc["blocks"]), 0)
            self.assertIn("partial", [b["state"] for b in doc["blocks"]] + (["partial"] if not doc["loaded"] else []))
            complete(d)
            self.assertNotEqual(d.get("/sluice/v1/residency")[2]["etag"], headers["etag"])
            self.assertEqual(d.get("/sluice/v1/residency?model=nobody")[0], 404)

    def test_a_generation_and_a_budget_change_are_told_in_order(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            s = Stream(d)
            self.assertEqual(s.headers["content-type"], "text/event-stream")
            self.assertEqual(s.wait("hello")["type"], "hello")
            complete(d, 200)
            s.wait("model.idle")
            load = s.wait("block.load")
            self.assertEqual(load["bytes"], sum(b["bytes"] for b in load["blocks"]))
            for b in load["blocks"]:
                self.assertIn(b["reason"], ("demand", "prefetch", "pin"))
                self.assertGreater(b["ms"], 0)
            put(d, "64M")
            self.assertEqual(s.wait("budget")["limit"], 64 * MIB)
            d.post("/sluice/v1/models/demo/unload", {})
            s.wait("model.unloaded")
            seqs = [e["seq"] for e in s.all[1:]]
            self.assertEqual(seqs, sorted(set(seqs)))
            order = [t for t in s.types() if t.startswith(("request.", "model.")) and t != "request.progress"]
            self.assertEqual(order, ["request.queued", "request.started", "model.loading", "model.loaded", "model.idle",
                                     "request.finished", "model.unloaded"], order)
            # Again from the middle, by Last-Event-ID and by ?since=; only some types.
            for query, headers in (("?types=budget,model&since=%d" % seqs[2], ()),
                                   ("?types=budget,model", (("Last-Event-ID", str(seqs[2])),))):
                again = Stream(d, query, headers)
                again.wait("model.unloaded")
                self.assertTrue(all(t.startswith(("budget", "model.", "hello")) for t in again.types()))
                self.assertEqual([e["seq"] for e in again.all[1:]],
                                 [e["seq"] for e in s.all[1:] if e["seq"] > seqs[2] and e["type"].startswith(("budget", "model"))])
                again.close()
            s.close()
            self.assertEqual(d.get("/sluice/v1/events?since=x")[0], 400)

    def test_progress_is_told_now_and_then(self):
        os.environ["SLUICE_KERNELS"] = "scalar"     # long enough to be watched
        try:
            with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
                s = Stream(d, "?types=request")
                t = time.monotonic()
                complete(d, 1900)
                took = time.monotonic() - t
                s.wait("request.finished")
                told = [e for e in s.all if e["type"] == "request.progress"]
                self.assertEqual(len({e["id"] for e in told}), 1)
                self.assertGreaterEqual(len(told), 1, "took %.1f s" % took)
                self.assertLessEqual(len(told), took / 0.5 + 1, "at most two a second")
                decode = [e for e in told if e["phase"] == "decode"]
                self.assertEqual([e["done"] for e in decode], sorted(e["done"] for e in decode))
                for e in decode:
                    self.assertTrue(0 < e["done"] <= e["total"], e)
                self.assertEqual(len({e["total"] for e in decode}), 1)
                s.close()
        finally:
            del os.environ["SLUICE_KERNELS"]

    def test_a_stall_names_its_request(self):
        os.environ["SLUICE_IOFAULT"] = "read:3+:60ms"
        try:
            with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
                s = Stream(d)
                s.wait("hello")
                complete(d, 1500)
                e = s.wait("stall")
                self.assertGreaterEqual(e["ms"], 1)
                self.assertEqual(e["request"], s.wait("request.started")["id"])
                s.close()
        finally:
            del os.environ["SLUICE_IOFAULT"]

    def test_log_lines_and_reloads_are_events(self):
        with Daemon(SLUICED, MODEL) as d:
            s = Stream(d, "?types=log,config")
            s.wait("hello")
            put(d, "80M")
            e = s.wait("log")
            self.assertEqual(e["level"], "info")
            self.assertIn("budget cause=user", e["msg"])
            config = os.path.join(d.dir, "sluiced.toml")
            with open(config, "w") as f:
                f.write("[log]\nlevel = \"warn\"\n[queue]\nmax = 5\n")
            d.process.send_signal(signal.SIGHUP)
            e = s.wait("config.reloaded")
            self.assertEqual((e["config"], e["log_level"], e["needs_restart"]), (config, "warn", ["queue.max"]))
            before = len(s.all)
            with open(config, "w") as f:
                f.write("[queue]\nmax = lots\n")
            d.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 10
            while time.monotonic() < end and not any(e["type"] == "log" and "settings kept" in e["msg"] for e in s.all[before:]):
                time.sleep(0.02)
            self.assertEqual([e["type"] for e in s.all[before:]], ["log"], "a bad file reloads nothing, and says so")
            s.close()

    def test_residency_deltas(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            def look(since=None):
                status, doc, _ = d.get("/sluice/v1/residency?model=demo" + ("" if since is None else "&since=%d" % since))
                self.assertEqual(status, 200, doc)
                return doc
            empty = look()
            self.assertEqual((empty["full"], empty["since"], empty["blocks"]), (True, None, []))
            complete(d)
            whole = look(empty["seq"])
            self.assertEqual((whole["full"], whole["since"]), (True, empty["seq"]), "loaded meanwhile: all of it")
            have = {b["id"]: b for b in whole["blocks"]}
            self.assertEqual([b["next_use_in_blocks"] for b in whole["blocks"]], list(range(len(have))), "nothing runs")
            for b in whole["blocks"]:
                self.assertEqual(b["refs"], 0)
                if b["kind"] != "embed":
                    self.assertLess(b["last_use_ms_ago"], 60_000)
                    self.assertGreater(b["load_ms_p50"], 0)
                    self.assertEqual(b["pin_reason"], "plan")
            same = look(whole["seq"])
            self.assertEqual((same["full"], same["blocks"], same["seq"]), (False, [], whole["seq"]))
            # A smaller budget takes pins of some blocks: those rows come, and with them the map is whole again.
            used = d.get("/sluice/v1/budget")[1]["used_bytes"]
            self.assertEqual(put(d, used - 3 * MIB)[0], 200)
            before = -1
            while before != (before := look()["seq"]):      # what was unpinned is read ahead for the next pass
                time.sleep(0.2)
            delta = look(whole["seq"])
            self.assertFalse(delta["full"])
            self.assertTrue(0 < len(delta["blocks"]), delta)
            have.update({b["id"]: b for b in delta["blocks"]})
            steady = ("id", "name", "bytes", "state", "resident_bytes", "pin_bytes", "hits", "misses", "evictions",
                      "read_bytes_total")
            self.assertEqual([[have[b["id"]][k] for k in steady] for b in look()["blocks"]],
                             [[b[k] for k in steady] for b in look()["blocks"]])
            # While one runs, the pass is somewhere and ages grow only from there.
            c = Client(d.socket)
            c.send("POST", "/v1/completions", {"prompt": "Once", "max_tokens": 1500, "temperature": 0, "stream": True})
            c.head()
            c.chunk()
            seen = {b["id"]: b["next_use_in_blocks"] for b in look()["blocks"]}
            self.assertEqual(sorted(seen.values()), list(range(len(seen))))
            c.close()
            self.assertEqual(d.get("/sluice/v1/residency?since=x")[0], 400)
            self.assertTrue(look(whole["seq"] + 10**9)["full"], "a number nobody gave out")
            self.assertTrue(look(1)["full"], "of an earlier daemon")

    def test_an_idle_model_gives_its_pins_back_and_takes_them_again(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M", "--set", "models.idle_trim=1s"]) as d:
            s = Stream(d)
            want = complete(d)[1]["choices"][0]["text"]
            ended = time.monotonic()
            model = d.get("/sluice/v1/status")[1]["models"][0]
            pinned = model["pinned_bytes"]
            self.assertGreater(pinned, 0)
            self.assertFalse(model["trimmed"])
            self.assertFalse(d.get("/sluice/v1/residency")[1]["trimmed"])
            e = s.wait("model.trimmed")
            self.assertGreater(time.monotonic() - ended, 0.8, "not before its time")
            self.assertEqual((e["model"], e["bytes"], e["reason"]), ("demo", pinned, "idle"))
            self.assertEqual(s.wait("block.evict")["reason"], "idle")
            model = d.get("/sluice/v1/status")[1]["models"][0]
            self.assertEqual((model["state"], model["pinned_bytes"], model["trimmed"]), ("idle", 0, True))
            doc = d.get("/sluice/v1/residency")[1]
            self.assertEqual((doc["loaded"], doc["trimmed"]), (True, True))
            self.assertEqual(sum(b["pin_bytes"] for b in doc["blocks"]), 0)
            self.assertEqual(d.get("/sluice/v1/budget")[1]["accounted"]["weights_pinned"], 0)
            p = subprocess.run([SLUICE, "--host", d.socket, "status"], capture_output=True, text=True, timeout=60)
            self.assertIn("idle, pins given back", p.stdout)
            # A larger budget is no use of it.
            self.assertEqual(put(d, "128M")[0], 200)
            time.sleep(1.5)
            model = d.get("/sluice/v1/status")[1]["models"][0]
            self.assertEqual((model["pinned_bytes"], model["trimmed"]), (0, True))
            self.assertEqual(put(d, "96M")[0], 200)
            # Next use fills them again, without a load, and changes no text.
            self.assertEqual(complete(d)[1]["choices"][0]["text"], want)
            model = d.get("/sluice/v1/status")[1]["models"][0]
            self.assertEqual((model["pinned_bytes"], model["trimmed"]), (pinned, False))
            self.assertEqual(s.types().count("model.loaded"), 1)
            s.close()
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M", "--set", "models.idle_trim=-1"]) as d:
            complete(d)
            time.sleep(1.5)
            self.assertGreater(d.get("/sluice/v1/status")[1]["models"][0]["pinned_bytes"], 0, "never")

    def test_readers_are_bounded_and_hold_nothing_up(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            silent = []
            for _ in range(32):         # they never read
                c = Client(d.socket)
                c.send("GET", "/sluice/v1/events?since=0")
                silent.append(c)
            deadline = time.monotonic() + 5
            while True:
                status, doc, _ = d.get("/sluice/v1/events")  if len(silent) == 32 else (0, 0, 0)
                if status == 503 or time.monotonic() > deadline:
                    break
            self.assertEqual((status, doc["error"]["code"]), (503, "overloaded"))
            c = Client(d.socket)
            for i in range(3000):
                self.assertEqual(c.request("PUT", "/sluice/v1/budget", {"ram_bytes": (64 + i % 2) * MIB})[0], 200)
            c.close()
            t = time.monotonic()
            self.assertEqual(d.get("/health")[0], 200)
            self.assertLess(time.monotonic() - t, 1)
            self.assertEqual(complete(d)[0], 200)
            for c in silent:
                c.close()
            # Places come back.
            for _ in range(100):
                s = Stream(d, "?since=0&types=budget")
                if s.status == 200:
                    break
                s.close()
                time.sleep(0.05)
            self.assertEqual(s.status, 200)
            s.wait("budget")
            s.close()

    def test_a_laggard_is_told(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            c = Client(d.socket)
            for i in range(4200):
                self.assertEqual(c.request("PUT", "/sluice/v1/budget", {"ram_bytes": (64 + i % 2) * MIB})[0], 200)
            c.close()
            s = Stream(d, "?since=0")
            self.assertGreaterEqual(s.wait("dropped")["count"], 104)
            s.close()

    def test_readers_neither_keep_the_daemon_nor_its_end(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M", "--idle-exit", "1s"]) as d:
            s = Stream(d)
            s.wait("hello")
            self.assertEqual(d.process.wait(10), 0)
            s.thread.join(5)
            self.assertTrue(s.ended, "the stream ends in order")
        with Daemon(SLUICED, MODEL) as d:
            s = Stream(d)
            s.wait("hello")
            t = time.monotonic()
            self.assertEqual(d.stop(), 0)
            self.assertLess(time.monotonic() - t, 3)
            s.close()

    def test_client(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            def sluice(*args):
                p = subprocess.run([SLUICE, "--host", d.socket] + list(args), capture_output=True, text=True, timeout=60)
                return p.returncode, p.stdout, p.stderr
            self.assertIn("not loaded", sluice("residency")[1])
            complete(d)
            code, out, _ = sluice("residency")
            self.assertEqual(code, 0)
            self.assertIn("blk.0", out)
            self.assertEqual(json.loads(sluice("residency", "demo", "--json")[1])["schema"], "sluice.residency.v1")
            self.assertEqual(sluice("residency", "nobody")[0], 5)
            code, out, _ = sluice("events", "--type", "model")
            self.assertEqual(code, 0)
            lines = [json.loads(x) for x in out.splitlines()]
            self.assertEqual([e["type"] for e in lines][:2], ["model.loading", "model.loaded"])
            self.assertEqual(lines[0]["schema"], "sluice.event.v1")
            self.assertEqual(sluice("events", "--type", "nothing"), (0, "", ""))
            self.assertIn("sluice_budget_effective_bytes", sluice("metrics")[1])


if __name__ == "__main__":
    SLUICED, MODEL, SLUICE = sys.argv[1:4]
    unittest.main(argv=[sys.argv[0]] + sys.argv[4:])
