#!/usr/bin/env python3
"""Bad days of the disk and the model's file, seen by a client: bad_days_test.py SLUICED MODEL.gguf

RELIABILITY P7, P8 and table (b): an error ends the generation that needed those bytes, with a code; the daemon and the others
go on; no text from wrong weights. The budget is the floor, so that every token reads the file."""
import json
import os
import re
import shutil
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from daemon_lib import Client, Daemon, events  # noqa: E402

SLUICED, MODEL = None, None
MODES = ("direct", "buffered", "mmap")


class Faulty(Daemon):
    """A daemon over a copy of the model, with faults, that streams all it can."""

    def __init__(self, faults="", io="direct", threads=1):
        self.folder = tempfile.mkdtemp(prefix="sluice-bad-days-")
        self.file = os.path.join(self.folder, "demo.gguf")
        shutil.copy(MODEL, self.file)
        self.faults = faults
        super().__init__(SLUICED, self.file, flags=["--budget", "96M", "--io", io, "--set", "stream.io_threads=%d" % threads])

    def start(self):
        os.environ["SLUICE_IOFAULT"] = self.faults
        try:
            super().start()
        finally:
            del os.environ["SLUICE_IOFAULT"]

    def __exit__(self, *what):
        super().__exit__(*what)
        shutil.rmtree(self.folder, ignore_errors=True)

    def put(self, n_bytes):
        c = Client(self.socket)
        status, doc, _ = c.request("PUT", "/sluice/v1/budget", {"ram_bytes": n_bytes})
        c.close()
        assert status == 200, doc

    def to_the_floor(self):
        """The smallest budget that the model says it works with: hardly anything stays pinned."""
        self.put(self.get("/sluice/v1/budget")[1]["floor_bytes"])
        status, doc, _ = self.complete(1)
        if status != 200:
            assert doc["error"]["code"] == "model_does_not_fit", doc
            self.put((int(re.search(r"budget of (\d+)M", doc["error"]["hint"]).group(1)) + 3) << 20)      # 3 MiB of KV

    def complete(self, n=24, **more):
        return self.post("/v1/completions", dict({"prompt": "Once upon a time", "max_tokens": n, "temperature": 0}, **more))

    def stream(self, n=400):
        c = Client(self.socket)
        c.send("POST", "/v1/completions", {"prompt": "Once upon a time", "max_tokens": n, "temperature": 0, "stream": True})
        _, headers = c.head()
        first = c.chunk().decode()
        return c, headers, first

    def rest(self, stream):
        c, headers, first = stream
        data = first + c.body(headers).decode()
        c.close()
        return events(data)

    def alive(self):
        start = time.monotonic()
        status = self.get("/health")[0]
        return status == 200 and time.monotonic() - start < 1 and self.process.poll() is None


class BadDays(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with Daemon(SLUICED, MODEL) as d:
            ask = lambda n: d.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": n, "temperature": 0})[1]
            cls.text = ask(24)["choices"][0]["text"]
            cls.long_text = ask(90)["choices"][0]["text"]

    def same(self, answer):
        self.assertEqual(answer[0], 200, answer[1])
        self.assertEqual(answer[1]["choices"][0]["text"], self.text)

    def test_every_mode_streams_the_same_text(self):
        for io in MODES:
            with Faulty(io=io) as d:
                self.same(d.complete())
                d.to_the_floor()
                for _ in range(2):
                    self.same(d.complete())
                self.assertEqual(d.stop(), 0)

    def test_three_failures_in_a_minute_close_the_model_and_the_next_request_opens_it(self):
        with Faulty("read:*:EIO") as d:
            loaded = lambda: d.get("/sluice/v1/models")[1]["models"][0]["loaded"]
            for still in (True, True, False):
                status, doc = d.complete()[:2]
                self.assertEqual((status, doc["error"]["code"]), (500, "io.read"))
                self.assertEqual(loaded(), still)
            d.complete()
            self.assertTrue(loaded())
            self.assertTrue(d.alive())

    def test_small_faults_are_not_seen(self):
        for faults in ("read:*:short", "read:3:EIO,read:9:EIO,read:30:EINTR,read:31:EAGAIN", "read:5:200ms"):
            with Faulty(faults, threads=3) as d:
                self.same(d.complete())
                d.to_the_floor()
                self.same(d.complete())

    def test_a_dead_disk_ends_the_request_and_a_repaired_one_serves_again(self):
        for io in MODES:
            # Sixty reads fail, those that are waited for among them; then the disk is well again.
            with Faulty(",".join("read:%d:EIO" % n for n in range(2, 62)), io=io) as d:
                status, doc, _ = d.complete()
                self.assertEqual((status, doc["error"]["code"]), (500, "io.read"), doc)
                self.assertIn("demo.gguf", doc["error"]["message"])
                self.assertTrue(d.alive())
                for _ in range(60):
                    answer = d.complete()
                    if answer[0] == 200:
                        break
                self.same(answer)

    def test_errors_in_a_stream_are_events(self):
        with Faulty("read:30+:EIO") as d:
            d.complete(1)
            d.to_the_floor()
            out = self.try_until_failure(d)
            self.assertIn("io.read", out)
            self.assertTrue(d.alive())

    def try_until_failure(self, d):
        for _ in range(20):
            status, doc, _ = d.complete(40)
            if status != 200:
                return doc["error"]["code"]
        self.fail("the disk never failed")

    def test_a_stalled_disk_stalls_its_request_only(self):
        with Faulty("read:20+:5s") as d:
            c = Client(d.socket)
            c.send("POST", "/v1/completions", {"prompt": "Once upon a time", "max_tokens": 50, "stream": True})
            time.sleep(1)
            self.assertTrue(d.alive())
            self.assertEqual(len(d.get("/sluice/v1/requests")[1]["requests"]), 1)
            c.close()
            start = time.monotonic()
            while d.get("/sluice/v1/requests")[1]["requests"]:
                self.assertLess(time.monotonic() - start, 1.0, "a client that left must cancel, the disk's stall or not")
                time.sleep(0.02)
            self.assertTrue(d.alive())

    def test_a_file_cut_off_while_it_is_read(self):
        size = os.path.getsize(MODEL)
        for io in MODES:
            for length in (0, size // 2 // 4096 * 4096, size // 2 + 77, size - 1):
                with Faulty(io=io) as d:
                    d.complete(1)
                    d.to_the_floor()
                    stream = d.stream(1500)
                    os.truncate(d.file, length)
                    start = time.monotonic()
                    out = d.rest(stream)
                    self.assertLess(time.monotonic() - start, 5)
                    self.assertIn("error", json.loads(out[-1]), (io, length))
                    self.assertIn(json.loads(out[-1])["error"]["code"], ("io.changed", "io.read"))
                    self.assertTrue(d.alive(), (io, length))
                    self.assertGreaterEqual(d.complete()[0], 400)
                    self.assertTrue(d.alive())

    def test_a_file_overwritten_in_place(self):
        for io in MODES:
            for keep_time in (False, True):
                with Faulty(io=io) as d:
                    d.complete(1)
                    d.to_the_floor()
                    stream = d.stream(1500)
                    before = os.stat(d.file)
                    with open(d.file, "r+b") as f:
                        f.seek(before.st_size // 3)
                        f.write(os.urandom(before.st_size // 3))
                    if keep_time:
                        os.utime(d.file, ns=(before.st_atime_ns, before.st_mtime_ns))
                    out = d.rest(stream)
                    self.assertEqual(json.loads(out[-1])["error"]["code"], "io.changed", (io, keep_time))
                    self.assertTrue(d.alive())

    def test_a_file_replaced_or_gone_is_read_to_the_end(self):
        for io in MODES:
            for replace in (True, False):
                with Faulty(io=io) as d:
                    d.complete(1)
                    d.to_the_floor()
                    stream = d.stream(90)
                    if replace:
                        shutil.copy(d.file, d.file + ".new")
                        os.rename(d.file + ".new", d.file)
                    else:
                        os.unlink(d.file)
                    out = d.rest(stream)
                    self.assertEqual(out[-1], "[DONE]")
                    self.assertEqual("".join(json.loads(e)["choices"][0]["text"] for e in out[:-1]), self.long_text)

    def test_a_flipped_bit_is_found(self):
        with Faulty("read:400+:flip") as d:
            self.same(d.complete())
            d.to_the_floor()
            self.assertEqual(self.try_until_failure(d), "io.changed")


if __name__ == "__main__":
    SLUICED, MODEL = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
