#!/usr/bin/env python3
"""Every interaction of tests/tools/http_abuse.py against a daemon of its own: http_abuse_test.py SLUICED MODEL.gguf"""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from daemon_lib import Daemon  # noqa: E402

if __name__ == "__main__":
    with Daemon(sys.argv[1], sys.argv[2]) as d:
        code = subprocess.call([sys.executable, os.path.join(HERE, "..", "tools", "http_abuse.py"), d.socket,
                                "--pid", str(d.process.pid)] + sys.argv[3:])
        if d.process.poll() is not None:
            print("the daemon died")
            code = 1
    sys.exit(code)
