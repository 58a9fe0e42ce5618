"""What the client tests share: a private home for one daemon, the client in it, and a terminal to type into."""
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import time

SLOW = 60  # seconds a busy machine may need for what takes one


class World:
    """A user of their own: runtime, state and config folders, no daemon at first."""

    def __init__(self, sluice, sluiced, model, slow=False):
        self.root = tempfile.mkdtemp(prefix='sl-')
        self.bin = os.path.join(self.root, 'bin')
        os.mkdir(self.bin)
        # Beside each other, as they are installed: the client finds sluiced next to itself.
        self.sluice = shutil.copy2(sluice, self.bin)
        self.sluiced = shutil.copy2(sluiced, self.bin)
        self.model = shutil.copy2(model, os.path.join(self.root, 'demo.gguf'))
        os.chmod(self.model, 0o600)
        keep = ('PATH', 'LD_LIBRARY_PATH', 'ASAN_OPTIONS', 'UBSAN_OPTIONS', 'LSAN_OPTIONS', 'TSAN_OPTIONS', 'SLUICE_KERNELS')
        self.env = {k: v for k, v in os.environ.items() if k in keep}
        self.env.update(HOME=self.root, TERM='xterm', LANG='C.UTF-8', XDG_RUNTIME_DIR=self.root + '/run',
                        XDG_STATE_HOME=self.root + '/state', XDG_CONFIG_HOME=self.root + '/config')
        if slow:  # the portable kernels: a generation lasts long enough to be interrupted
            self.env['SLUICE_KERNELS'] = 'scalar'
        os.mkdir(self.root + '/run', 0o700)
        self.socket = self.root + '/run/sluice/sluice.sock'
        self.children = []

    def run(self, *args, stdin=b'', env=None, check=None, timeout=SLOW, program=None):
        full = dict(self.env, **(env or {}))
        done = subprocess.run([program or self.sluice, *args], input=stdin, capture_output=True, env=full, timeout=timeout,
                              cwd=self.root)
        done.out, done.err = done.stdout.decode('utf-8', 'replace'), done.stderr.decode('utf-8', 'replace')
        if check is not None and done.returncode != check:
            raise AssertionError(f'sluice {args}: exit {done.returncode}, expected {check}\n{done.out}\n{done.err}{self.log()}')
        return done

    def daemon(self, *args, check=None, timeout=SLOW):
        return self.run(*args, check=check, timeout=timeout, program=self.sluiced)

    def popen(self, *args, program=None, **kw):
        kw.setdefault('stdin', subprocess.DEVNULL)
        child = subprocess.Popen([program or self.sluice, *args], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 cwd=self.root, **kw)
        self.children.append(child)
        return child

    def json(self, *args, check=0, **kw):
        done = self.run(*args, '--json', check=check, **kw)
        return json.loads(done.out)

    def start(self, *args):
        self.run('daemon', 'start', '--log-level', 'debug', *args, check=0)
        return self.status()['pid']

    def status(self):
        return self.json('status')

    def up(self):
        return self.run('status', '-q').returncode == 0

    def stop(self):
        self.run('daemon', 'stop', '--drain', '1s')

    def log(self):
        try:
            with open(self.root + '/state/sluice/sluiced.log', errors='replace') as f:
                return '\n--- daemon log\n' + f.read()[-3000:]
        except OSError:
            return ''

    def end(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
            for stream in (child.stdout, child.stderr):
                if stream:
                    stream.close()
        lock = self.root + '/state/sluice/sluiced.lock'
        if os.path.exists(lock):
            with open(lock) as f:
                pid = f.read().strip()
            # The pid may be an old one of a daemon that has gone: only a sluiced of this world is ended.
            try:
                if pid and os.readlink(f'/proc/{pid}/exe').startswith(self.root):
                    os.kill(int(pid), signal.SIGKILL)
            except OSError:
                pass
        shutil.rmtree(self.root, ignore_errors=True)


def wait_for(condition, seconds=SLOW, what='condition'):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f'{what} did not come true in {seconds} s')


class Terminal:
    """A client on a pseudo-terminal."""

    def __init__(self, world, *args, env=None):
        self.text = ''
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(world.root)
            os.execve(world.sluice, ['sluice', *args], dict(world.env, **(env or {})))
        self.status = None

    def pump(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b''
        if not data:
            self.ended = True
            time.sleep(0.01)
        self.text += data.decode('utf-8', 'replace')

    def plain(self):
        return re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', self.text).replace('\r', '')

    def expect(self, pattern, seconds=SLOW):
        """Waits for `pattern` after what was expected last; returns the match."""
        end = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.plain()[getattr(self, 'seen', 0):])
            if found:
                self.seen = getattr(self, 'seen', 0) + found.end()
                return found
            if time.monotonic() > end:
                raise AssertionError(f'{pattern!r} did not appear in {self.plain()[-2000:]!r}')
            self.pump(0.1)

    def type(self, text):
        """Types once the line editor has the terminal (it turns echo off just after it printed its prompt)."""
        wait_for(lambda: not termios.tcgetattr(self.fd)[3] & termios.ECHO, what='raw mode')
        self.signal(text)

    def signal(self, text):
        os.write(self.fd, text.encode())

    def wait(self, seconds=SLOW):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pump(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f'the client did not end: {self.plain()[-2000:]!r}')
