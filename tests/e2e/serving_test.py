#!/usr/bin/env python3
"""Several clients and several models in a real daemon: serving_test.py SLUICED MODEL.gguf SLUICE

Clients that do not read hold nobody up (INTERFACE 3.4), and models share one budget by use."""
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from daemon_lib import Client, Daemon, events  # noqa: E402

SLUICED, MODEL, SLUICE = None, None, None
MIB = 1 << 20


def complete(d, n=60, model="demo", **more):
    status, doc, _ = d.post("/v1/completions", dict({"model": model, "prompt": "Once upon a time", "max_tokens": n,
                                                     "temperature": 0}, **more))
    assert status == 200, doc
    return doc["choices"][0]["text"]


def put(d, size, **more):
    c = Client(d.socket)
    try:
        return c.request("PUT", "/sluice/v1/budget", dict({"ram_bytes": size}, **more))
    finally:
        c.close()


def status(d):
    return d.get("/sluice/v1/status")[1]


def stop_ids():
    """Of the demo model, by its header: banned, its texts go on."""
    with Daemon(SLUICED, MODEL) as d:
        metadata = d.get("/sluice/v1/models/demo")[1]["metadata"]
    return [v for k, v in metadata.items() if k.startswith("tokenizer.") and k.endswith(("eos_token_id", "eot_token_id",
                                                                                         "eom_token_id"))]


def stream_body(n=1000, **more):
    # Log-probabilities make events large, and two choices make many: buffers fill long before the end.
    if not hasattr(stream_body, "bias"):
        stream_body.bias = {str(i): -100 for i in stop_ids()}
    return dict({"model": "demo", "prompt": "Once upon a time", "max_tokens": n, "temperature": 0, "logprobs": 5, "n": 2,
                 "logit_bias": stream_body.bias, "stream": True}, **more)


class SlowReader:
    """A stream that is asked for and not read."""

    def __init__(self, d, n=1000, **more):
        self.c = Client(d.socket)
        self.c.send("POST", "/v1/completions", stream_body(n, **more))

    def read(self):
        code, headers = self.c.head()
        assert code == 200, code
        out = events(self.c.body(headers).decode())
        self.c.close()
        return out

    @staticmethod
    def choices_of(out):
        """By choice: its text, the log-probabilities of its tokens, and why it ended."""
        by = {}
        for e in out:
            if e == "[DONE]":
                continue
            doc = json.loads(e)
            assert "error" not in doc, doc
            for c in doc["choices"]:
                text, probs, why = by.setdefault(c["index"], ["", [], None])
                by[c["index"]][0] = text + c["text"]
                if c.get("logprobs"):
                    probs += c["logprobs"]["token_logprobs"]
                if c["finish_reason"]:
                    by[c["index"]][2] = c["finish_reason"]
        return by


def whole(d, body):
    """The same, as one document."""
    code, doc, _ = d.post("/v1/completions", dict(body, stream=False))
    assert code == 200, doc
    return {c["index"]: [c["text"], c["logprobs"]["token_logprobs"], c["finish_reason"]] for c in doc["choices"]}


def requests_of(d):
    return d.get("/sluice/v1/requests")[1]["requests"]


def wait_for(condition, seconds=30, what="condition"):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("%s did not come true" % what)


class SlowReaders(unittest.TestCase):
    def test_one_that_does_not_read_lets_others_run_and_gets_its_whole_text(self):
        for more in ({}, {"temperature": 0.9, "seed": 7, "presence_penalty": 0.5, "echo": True}):
            with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
                want = whole(d, stream_body(**more))
                others = complete(d, 40)
                slow = SlowReader(d, **more)
                # Its buffers fill: from then on it makes no progress, but still has its place.
                done = [-1, 0]

                def stands():
                    mine = [r for r in requests_of(d) if r["state"] == "running"]
                    done[0], done[1] = done[1], mine[0]["done"] if mine else 0
                    time.sleep(0.3)
                    return done[1] > 0 and done[0] == done[1]
                wait_for(stands, 60, "a full buffer")
                for _ in range(3):
                    t = time.monotonic()
                    self.assertEqual(complete(d, 40), others)
                    self.assertLess(time.monotonic() - t, 10)
                wait_for(lambda: [r["state"] for r in requests_of(d)] == ["paused"], 10, "only the one that does not read")
                got = SlowReader.choices_of(slow.read())
                self.assertEqual(got, want, "complete and the same, log-probabilities included")
                wait_for(lambda: requests_of(d) == [], 5, "its end, a moment after its text's")
                types = d.get("/sluice/v1/events?since=0&end=1&types=request")[1]
                self.assertIn("request.paused", types)
                self.assertIn("request.resumed", types)

    @staticmethod
    def paused(d):
        slow = SlowReader(d)
        wait_for(lambda: complete(d, 10) and [r["state"] for r in requests_of(d)] == ["paused"], 60, "a paused one")
        return slow

    def test_the_model_of_a_paused_one_stays(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M", "--set", "models.keep_alive=0"]) as d:
            want = whole(d, stream_body())
            wait_for(lambda: status(d)["models"] == [], 10, "nothing kept")
            slow = self.paused(d)

            def loads():
                return d.get("/sluice/v1/events?since=0&end=1&types=model")[1].count("event: model.loaded")
            before = loads()
            for _ in range(3):
                complete(d, 10)
                time.sleep(0.2)
                self.assertEqual([(m["name"], m["state"]) for m in status(d)["models"]], [("demo", "running")])
            self.assertEqual(SlowReader.choices_of(slow.read()), want)
            self.assertEqual(loads(), before, "never loaded again")
            wait_for(lambda: status(d)["models"] == [], 10, "its stay ends with the last one")
            slow = self.paused(d)
            slow.c.close()
            wait_for(lambda: status(d)["models"] == [], 10, "also when that one leaves")

    def test_a_paused_one_has_its_floor_and_force_breaks_it(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            want = whole(d, stream_body())
            slow = self.paused(d)
            floor = d.get("/sluice/v1/budget")[1]["floor_bytes"]
            code, doc, _ = put(d, floor - MIB)
            self.assertEqual((code, doc["error"]["code"]), (409, "budget_below_floor"), doc)
            self.assertIn("KV", doc["error"]["holds"])
            self.assertIn("--force", doc["error"]["hint"])
            code, doc, _ = put(d, floor)
            self.assertEqual(code, 200, doc)
            self.assertEqual([m["name"] for m in status(d)["models"]], ["demo"])
            self.assertEqual(d.get("/sluice/v1/budget")[1]["floor_bytes"], floor)
            # What it may come to need is more than what it needs now.
            self.assertEqual(put(d, floor + 4 * MIB)[0], 200)
            self.assertEqual(SlowReader.choices_of(slow.read()), want)
            self.assertEqual(put(d, "96M")[0], 200)
            slow = self.paused(d)
            code, doc, _ = put(d, floor - MIB, force=True)
            self.assertEqual((code, len(doc["cancelled"])), (200, 1), doc)
            self.assertEqual(requests_of(d), [])
            code, headers = slow.c.head()
            self.assertEqual(code, 200)
            self.assertEqual(json.loads(events(slow.c.body(headers).decode())[-1])["error"]["code"], "cancelled")
            slow.c.close()

    def test_two_that_do_not_read_and_one_that_does(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            want = whole(d, stream_body(temperature=0.8, seed=3))
            slow = [SlowReader(d, temperature=0.8, seed=3) for _ in range(2)]
            others = complete(d, 40)
            wait_for(lambda: [r["state"] for r in requests_of(d)].count("paused") >= 1, 60, "a paused one")
            self.assertEqual(complete(d, 40), others)
            got = [None, None]

            def read(i):
                got[i] = SlowReader.choices_of(slow[i].read())
            threads = [threading.Thread(target=read, args=(i,)) for i in range(2)]
            for t in threads:
                t.start()
            for t in threads:
                t.join(60)
            self.assertEqual(got, [want, want])

    def test_one_that_never_reads_is_left_after_write_timeout(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M", "--set", "http.write_timeout=2s"]) as d:
            slow = SlowReader(d)
            wait_for(lambda: any(r["done"] > 100 for r in requests_of(d)), 60, "its first tokens")
            t = time.monotonic()
            complete(d, 40)
            wait_for(lambda: requests_of(d) == [], 20, "the end of the one that does not read")
            self.assertGreater(time.monotonic() - t, 0.5)
            types = d.get("/sluice/v1/events?since=0&end=1&types=request")[1]
            self.assertIn("request.cancelled", types)
            self.assertIn("client_too_slow", types)
            self.assertEqual(complete(d, 40), complete(d, 40))
            slow.c.close()

    def test_one_that_leaves_while_it_is_paused_frees_its_place(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            slow = SlowReader(d)
            complete(d, 40)
            wait_for(lambda: complete(d, 10) and [r["state"] for r in requests_of(d)] == ["paused"], 60, "a paused one")
            p = subprocess.run([SLUICE, "--host", d.socket, "ps"], capture_output=True, text=True, timeout=60)
            self.assertRegex(p.stdout, r"r-\d+ +demo +paused +\d+/\d+")
            slow.c.close()
            t = time.monotonic()
            wait_for(lambda: requests_of(d) == [], 10, "its end")
            self.assertLess(time.monotonic() - t, 2)

    def test_those_that_do_not_read_are_bounded(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M", "--set", "queue.per_user=2"]) as d:
            slow = []
            for i in range(2):
                slow.append(SlowReader(d))
                wait_for(lambda: any(r["done"] > 100 for r in requests_of(d)), 60)
                complete(d, 10)
                wait_for(lambda: [r["state"] for r in requests_of(d)].count("paused") == i + 1, 60)
            code, doc, headers = d.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
            self.assertEqual((code, doc["error"]["code"]), (429, "queue_full"))
            self.assertIn("does not read", doc["error"]["message"])
            self.assertIn("retry-after", headers)
            slow[0].read()
            complete(d, 10)
            slow[1].c.close()


class Ledger(unittest.TestCase):
    """What connections hold is in the budget."""

    def http(self, d):
        return d.get("/sluice/v1/budget")[1]["accounted"]["http"]

    def head(self, d, length):
        c = Client(d.socket)
        c.s.sendall(("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n" %
                     ("Transfer-Encoding: chunked" if length is None else "Content-Length: %d" % length)).encode())
        return c

    def test_a_body_is_charged_as_it_comes_and_given_back(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            kept = self.http(d)
            self.assertEqual(kept, MIB)
            c = self.head(d, 4 * MIB)
            time.sleep(0.3)
            self.assertEqual(self.http(d), kept, "a claim takes nothing")
            c.s.sendall(b"x" * MIB)
            wait_for(lambda: self.http(d) >= 3 * MIB, 10, "the charge")     # the body and what is made of it
            self.assertLess(self.http(d), 6 * MIB, "for what came, and a step ahead")
            c.close()
            wait_for(lambda: self.http(d) == kept, 10, "what was charged")
            body = json.dumps({"prompt": "x" * (2 * MIB), "max_tokens": 1}).encode()
            self.assertEqual(d.post("/v1/completions", body)[0], 400, "too long for the context, but it was read")
            wait_for(lambda: self.http(d) == kept, 10, "what was charged")

    def test_a_body_without_room_is_refused_and_nobody_else_is_disturbed(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "96M"]) as d:
            want = complete(d, 1500)

            def held():
                return [(m["name"], m["pinned_bytes"]) for m in status(d)["models"]]
            # It could not be had if the idle model were unloaded: that one keeps what it has.
            _, doc, _ = put(d, MIB)
            code, doc, _ = put(d, int(doc["error"]["hint"].split()[3][:-1]) * MIB + 17 * MIB)
            self.assertEqual(code, 200, doc)
            before = None
            while before != (before := held()):
                time.sleep(0.2)
            self.assertGreater(before[0][1], 0)
            c = self.head(d, 7 * MIB)
            code, _, body = c.answer()
            self.assertEqual((code, json.loads(body)["error"]["code"]), (503, "budget_exceeded"))
            c.close()
            self.assertEqual(held(), before)
            self.assertEqual(put(d, "96M")[0], 200)
            got = []
            run = threading.Thread(target=lambda: got.append(complete(d, 1500)))
            run.start()
            wait_for(lambda: any(r["done"] > 5 for r in requests_of(d)), 30, "the first tokens")
            code, doc, _ = put(d, d.get("/sluice/v1/budget")[1]["floor_bytes"] + 4 * MIB)
            self.assertEqual(code, 200, doc)
            c = self.head(d, 7 * MIB)
            code, headers, body = c.answer()
            error = json.loads(body)["error"]
            self.assertEqual((code, error["code"]), (503, "budget_exceeded"), error)
            self.assertIn("http", error["message"])
            self.assertIn("retry-after", headers)
            self.assertEqual(headers["connection"], "close")
            c.close()
            # One that does not say how long it is: refused when it has become too long.
            c = self.head(d, None)
            piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
            try:
                for _ in range(100):
                    c.s.sendall(piece)
            except OSError:
                pass            # refused in the middle
            code, _, body = c.answer()
            self.assertEqual((code, json.loads(body)["error"]["code"]), (503, "budget_exceeded"))
            c.close()
            run.join(60)
            self.assertEqual(got, [want])
            self.assertLessEqual(self.http(d), MIB)
            self.assertEqual(put(d, "96M")[0], 200)
            c = self.head(d, 7 * MIB)
            c.s.sendall(b" " * (7 * MIB - 1))
            wait_for(lambda: self.http(d) >= 21 * MIB - 3, 10, "room again")
            c.close()


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
