"""A private sluiced for one test, and a small HTTP client over its socket. Standard library only."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time


class Daemon:
    """Starts sluiced in a new folder; a context manager that stops it and leaves nothing behind."""

    def __init__(self, sluiced, *models, flags=()):
        self.sluiced, self.models, self.flags = sluiced, models, list(flags)

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="sluice-test-")
        os.chmod(self.dir, 0o700)
        self.socket = os.path.join(self.dir, "s.sock")
        self.start()
        return self

    def start(self):
        argv = [self.sluiced, "--listen", "unix://" + self.socket, "--state-dir", os.path.join(self.dir, "state"),
                "--config", os.path.join(self.dir, "sluiced.toml")]
        for m in self.models:
            argv += ["--model", os.path.abspath(m)]
        with open(os.path.join(self.dir, "sluiced.toml"), "a"):     # nobody else's settings
            pass
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICED_")}
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen(argv + self.flags, stdout=log, stderr=log, env=env)
        end = time.monotonic() + 60
        while True:
            try:
                if get(self.socket, "/health")[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise SystemExit("sluiced did not start:\n" + self.log_text())
            time.sleep(0.02)

    def log_text(self):
        with open(os.path.join(self.dir, "log"), errors="replace") as f:
            return f.read()

    def stop(self, sig=signal.SIGTERM, timeout=30):
        self.process.send_signal(sig)
        return self.process.wait(timeout)

    def __exit__(self, kind, *rest):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if kind is not None:
            sys.stderr.write(self.log_text()[-4000:])
        shutil.rmtree(self.dir, ignore_errors=True)

    # Shorthands.
    def get(self, path):
        return get(self.socket, path)

    def post(self, path, body, **kw):
        return post(self.socket, path, body, **kw)

    def delete(self, path, body=None):
        return delete(self.socket, path, body)


class Client:
    """One connection."""

    def __init__(self, path, timeout=60):
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.s.settimeout(timeout)
        try:
            self.s.connect(path)
        except OSError:
            self.s.close()
            raise
        self.buf = b""

    def close(self):
        self.s.close()

    def send(self, method, path, body=None, headers=()):
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        lines = ["%s %s HTTP/1.1" % (method, path), "Host: x"] + ["%s: %s" % h for h in headers]
        if body is not None:
            lines += ["Content-Type: application/json", "Content-Length: %d" % len(body)]
        self.s.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    def more(self):
        d = self.s.recv(65536)
        if not d:
            raise EOFError("the daemon closed the connection; so far: %r" % self.buf[:200])
        self.buf += d

    def head(self):
        while b"\r\n\r\n" not in self.buf:
            self.more()
        top, self.buf = self.buf.split(b"\r\n\r\n", 1)
        lines = top.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            k, v = line.split(":", 1)
            headers[k.strip().lower()] = v.strip()
        return int(re.match(r"HTTP/1\.1 (\d{3})", lines[0]).group(1)), headers

    def chunk(self):
        """The next chunk; b'' at the end of the body."""
        while b"\r\n" not in self.buf:
            self.more()
        size, self.buf = self.buf.split(b"\r\n", 1)
        n = int(size, 16)
        while len(self.buf) < n + 2:
            self.more()
        data, self.buf = self.buf[:n], self.buf[n + 2:]
        return data

    def body(self, headers):
        if headers.get("transfer-encoding") == "chunked":
            out = b""
            while True:
                c = self.chunk()
                if not c:
                    return out
                out += c
        n = int(headers["content-length"])
        while len(self.buf) < n:
            self.more()
        data, self.buf = self.buf[:n], self.buf[n:]
        return data

    def answer(self):
        status, headers = self.head()
        return status, headers, self.body(headers)

    def request(self, method, path, body=None, headers=()):
        self.send(method, path, body, headers)
        status, h, data = self.answer()
        text = data.decode("utf-8")     # every answer is UTF-8
        if h["content-type"].startswith("application/json"):
            return status, json.loads(text), h
        return status, text, h


def get(path, url):
    c = Client(path)
    try:
        return c.request("GET", url)
    finally:
        c.close()


def delete(path, url, body=None):
    c = Client(path)
    try:
        return c.request("DELETE", url, body)
    finally:
        c.close()


def post(path, url, body, headers=()):
    c = Client(path)
    try:
        return c.request("POST", url, body, headers)
    finally:
        c.close()


def events(text):
    """The data of each event of an SSE body, comments dropped; checks the framing."""
    assert text.endswith("\n\n") or not text, repr(text[-40:])
    out = []
    for block in text.split("\n\n")[:-1]:
        lines = block.split("\n")
        assert len(lines) == 1 and (lines[0].startswith("data: ") or lines[0].startswith(":")), block
        if lines[0].startswith("data: "):
            out.append(lines[0][6:])
    return out
