"""The client against the real daemon and the demo model: usage, exit codes, pipes, JSON, starting, dying, Ctrl-C.

usage: cli_test.py SLUICE SLUICED MODEL.gguf [unittest arguments]
Nothing here depends on what the model says, only on how it is said.
"""
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cli_support import SLOW, Terminal, World, wait_for  # noqa: E402

SLUICE, SLUICED, MODEL = (os.path.abspath(a) for a in sys.argv[1:4])
LONG = ('--raw', '-n', '900', '--temp', '1', '--seed', '3')  # near the demo model's context: as long as it gets


class WithWorld(unittest.TestCase):
    def setUp(self):
        self.w = World(SLUICE, SLUICED, MODEL)
        self.addCleanup(self.w.end)


class Usage(WithWorld):
    def test_unknown_verbs_flags_and_values_are_usage_errors_with_a_suggestion(self):
        for args, near in ((['stats'], 'status'), (['modles', 'ls'], 'models'), (['run', '--tmp', '1', 'm', 'x'], '--temp'),
                           (['models', 'lss'], 'ls'), (['ps', '--jsn'], '--json')):
            done = self.w.run(*args, check=2)
            self.assertIn(near, done.err, args)
            self.assertEqual(done.out, '', args)
            self.assertRegex(done.err, r'\Asluice: .* failed: .*   \[usage\]\n', args)

    def test_bad_values_are_usage_errors(self):
        for args in (['run', 'm', 'x', '--temp', '9'], ['run', 'm', 'x', '--temp', 'nan'], ['run', 'm', 'x', '-n', '0'],
                     ['run', 'm', 'x', '--seed', 'abc'], ['run', 'm', 'x', '--wait', 'soon'], ['run', 'm', 'x', '--priority', 'top'],
                     ['run', 'm', 'x', '--keep-alive', 'x'], ['run'], ['tokenize'], ['models'], ['requests', 'cancel'],
                     ['-H', 'http://example.org:1', 'ps'], ['-H', 'unix://rel', 'ps'], ['-H', '/' + 'a' * 120, 'ps'],
                     ['--connect-timeout', 'x', 'ps'], ['--color', 'pink', 'ps'], ['completion', 'tcsh'], ['api', 'nopath'],
                     ['detokenize', 'm', 'one'], ['run', 'm', 'x', '--raw', '--system', 's']):
            self.w.run(*args, '--no-autostart', check=2)

    def test_verbs_that_are_not_built_say_so(self):
        for verb in ('top', 'profile', 'bench', 'sessions', 'logs', 'embed'):
            self.assertIn('not part of this version', self.w.run(verb, check=2).err)

    def test_every_help_ends_with_examples(self):
        top = self.w.run('-h', check=0).out
        self.assertIn('Examples:', top)
        for verb in (['run'], ['chat'], ['models'], ['models', 'ls'], ['models', 'show'], ['models', 'add'], ['models', 'rm'],
                     ['load'], ['unload'], ['ps'], ['status'], ['tokenize'], ['detokenize'], ['requests'], ['requests', 'ls'],
                     ['requests', 'cancel'], ['api'], ['env'], ['daemon'], ['daemon', 'run'], ['daemon', 'start'],
                     ['daemon', 'stop'], ['daemon', 'restart'], ['config'], ['config', 'show'], ['completion'], ['version'],
                     ['doctor'], ['list'], ['stop'], ['serve'], ['plan']):
            text = self.w.run(*verb, '-h', check=0).out
            self.assertRegex(text, r'Examples:\n(  sluice .*\n|  .*sluice.*\n){1,3}', verb)

    def test_errors_as_json_are_one_line_on_stderr(self):
        for args, code in ((['ps'], 3), (['nope'], 2), (['run', 'm', 'x', '--no-autostart'], 3), (['run', 'm', '--temp', '9'], 2)):
            done = self.w.run(*args, '--json', check=code)
            self.assertEqual(done.out, '')
            error = json.loads(done.err)['error']
            for key in ('message', 'type', 'param', 'code', 'hint', 'request_id'):
                self.assertIn(key, error)


class WithoutADaemon(WithWorld):
    def test_nothing_running_is_exit_code_3_with_the_path(self):
        for args in (['ps'], ['status'], ['requests', 'ls'], ['daemon', 'stop'], ['unload', 'm'], ['run', 'm', 'x', '--no-autostart']):
            done = self.w.run(*args, check=3)
            self.assertIn(self.w.socket, done.err)
            self.assertIn('no such file', done.err)
            self.assertIn('try:    sluice daemon start', done.err)
        self.assertFalse(os.path.exists(self.w.socket))

    def test_a_named_host_is_never_started(self):
        other = self.w.root + '/other.sock'
        self.w.run('-H', 'unix://' + other, 'run', 'm', 'x', check=3)
        self.w.run('run', 'm', 'x', env={'SLUICE_HOST': other}, check=3)
        self.assertFalse(os.path.exists(other))

    def test_version_doctor_completion_and_config_need_none(self):
        self.assertIn('not running', self.w.run('version', check=0).out)
        document = self.w.json('version')
        self.assertEqual((document['schema'], document['daemon']), ('sluice.version.v1', None))
        document = self.w.json('doctor')
        self.assertEqual(document['schema'], 'sluice.doctor.v1')
        self.assertLessEqual({c['state'] for c in document['checks']}, {'ok', 'warn'})
        for shell in ('bash', 'zsh', 'fish'):
            self.assertIn('__complete', self.w.run('completion', shell, check=0).out)
        self.assertIn('status\n', self.w.run('__complete', check=0).out)
        self.assertIn('--origin\n', self.w.run('__complete', 'config', 'show', check=0).out)
        self.assertFalse(os.path.exists(self.w.socket), 'started a daemon')

    def test_bash_completes_without_expanding_names(self):
        script = 'eval "$(sluice completion bash)"; COMP_WORDS=(sluice mod); COMP_CWORD=1; _sluice; echo "${COMPREPLY[@]}"'
        done = subprocess.run(['bash', '-c', script], env=dict(self.w.env, PATH=self.w.bin + ':' + self.w.env['PATH']),
                              capture_output=True, text=True, timeout=SLOW)
        self.assertEqual((done.stdout, done.stderr), ('models\n', ''))

    def test_config_shows_checks_and_explains(self):
        path = self.w.run('config', 'path', check=0).out.strip()
        self.assertEqual(path, self.w.root + '/config/sluice/sluiced.toml')
        example = self.w.run('config', 'example', check=0).out
        self.w.run('config', 'check', check=0)
        os.makedirs(os.path.dirname(path))
        with open(path, 'w') as f:
            f.write(example.replace('[queue]\n', '[queue]\nmax = 5\n'))
        self.w.run('config', 'check', check=0)
        shown = self.w.run('config', 'show', '--origin', check=0, env={'SLUICED_LOG_LEVEL': 'warn'}).out
        self.assertRegex(shown, r'max = 5 +# .*sluiced\.toml:\d+:1')
        self.assertRegex(shown, r'level = "warn" +# env SLUICED_LOG_LEVEL')
        document = self.w.json('config', 'show')
        self.assertEqual((document['schema'], document['config']['queue']['max']['value']), ('sluice.config.v1', 5))
        with open(path, 'w') as f:
            f.write('[queue]\n  maxx = 5\n')
        for args in (['config', 'check'], ['config', 'check', path], ['config', 'show']):
            done = self.w.run(*args, check=2)
            self.assertIn(path + ':2:3:', done.err)
            self.assertIn('queue.max', done.err)
        os.remove(path)
        self.assertIn('unknown variable', self.w.run('config', 'show', env={'SLUICED_FOO': '1'}, check=2).err)

    def test_check_judges_a_file(self):
        self.w.run('check', self.w.model, check=0)
        bad = self.w.root + '/bad.gguf'
        with open(bad, 'wb') as f:
            f.write(b'GGUF' + b'\xff' * 60)
        done = self.w.run('check', bad, check=1)
        self.assertEqual(done.err.count('\n'), 1, done.err)
        self.assertIn('offset', done.err)

    def test_closed_streams_are_no_harm(self):
        for redirect in ('<&-', '2>&-', '<&- 2>&-'):
            done = subprocess.run(['bash', '-c', f'"$0" version {redirect}', self.w.sluice], env=self.w.env, capture_output=True,
                                  text=True, timeout=SLOW)
            self.assertEqual(done.returncode, 0, redirect)
            self.assertIn('not running', done.stdout)

    def test_a_bad_start_says_why_and_leaves_nothing(self):
        for args, why in ((['--budget', 'lots'], 'budget'), (['--budgt', '1G'], '--budget'), (['--set', 'queue.max=0'], 'queue.max')):
            done = self.w.run('daemon', 'start', *args)
            self.assertIn(done.returncode, (2, 3))
            self.assertIn(why, done.err)
        self.assertFalse(os.path.exists(self.w.socket))


class Daemon(WithWorld):
    def test_flags_that_cannot_work_are_exit_code_2(self):
        for budget in ('0', '-1', '1e30', 'lots', '', '101%'):
            done = self.w.daemon('--budget', budget, check=2)
            self.assertRegex(done.err, r'\Asluiced: config failed: .*   \[invalid_config\]\n')
        for args in (['--bogus'], ['nonsense'], ['--listen', 'unix://' + '/a' * 60], ['--listen', 'rel'], ['--name', 'x']):
            self.w.daemon(*args, check=2)
        self.assertIn('107', self.w.daemon('--listen', 'unix:///' + 'a' * 107, check=2).err)
        self.assertRegex(self.w.daemon('--version', check=0).out, r'\Asluiced \d+\.\d+\.\d+ \(')

    def test_the_socket_is_private_and_goes_with_the_daemon(self):
        pid = self.w.start()
        self.assertEqual(stat.S_IMODE(os.stat(self.w.socket).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(os.path.dirname(self.w.socket)).st_mode), 0o700)
        self.w.run('daemon', 'stop', check=0)
        self.assertFalse(os.path.exists(self.w.socket))
        self.assertFalse(os.path.exists(f'/proc/{pid}'))

    def test_a_second_daemon_names_the_first(self):
        pid = self.w.start()
        done = self.w.daemon('--listen', 'unix://' + self.w.socket, check=1)
        self.assertIn(f'pid {pid}', done.err)
        done = self.w.daemon('--listen', f'unix://{self.w.root}/other.sock', check=1)  # the same state folder
        self.assertIn(f'pid {pid}', done.err)
        self.assertEqual(self.w.status()['pid'], pid)
        self.assertIn(f'pid {pid}', self.w.run('daemon', 'start', check=0).out)

    def test_bad_listeners_are_refused(self):
        plain = self.w.root + '/plain'
        open(plain, 'w').close()
        self.assertIn('not a socket', self.w.daemon('--listen', 'unix://' + plain, check=4).err)
        os.symlink(self.w.root + '/nowhere', self.w.root + '/link')
        self.assertIn('symbolic link', self.w.daemon('--listen', f'unix://{self.w.root}/link', check=4).err)

    def test_sigterm_and_sighup(self):
        child = self.w.popen('--listen', 'unix://' + self.w.socket, program=self.w.sluiced)
        wait_for(self.w.up, what='start')
        os.makedirs(self.w.root + '/config/sluice')
        with open(self.w.root + '/config/sluice/sluiced.toml', 'w') as f:
            f.write('[queue]\nmaxx = 1\n')
        child.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        self.assertTrue(self.w.up())
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=SLOW)
        self.assertEqual(child.returncode, 0)
        self.assertIn(b'sluiced.toml:2:1', err)
        self.assertFalse(os.path.exists(self.w.socket))

    def test_socket_activation(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.w.root + '/act.sock')
        listener.listen(16)
        script = 'exec 3<&%d; export LISTEN_FDS=1; LISTEN_PID=$$ exec "$0" --listen fd://' % listener.fileno()
        child = subprocess.Popen(['bash', '-c', script, self.w.sluiced], env=self.w.env, pass_fds=[listener.fileno()],
                                 stderr=subprocess.DEVNULL)
        try:
            self.w.run('-H', self.w.root + '/act.sock', 'status', check=0)
        finally:
            child.terminate()
            child.wait(SLOW)
        self.assertEqual(child.returncode, 0)
        listener.close()


class Starting(WithWorld):
    def test_the_client_starts_a_daemon_and_says_so(self):
        done = self.w.run('models', 'ls', check=0)
        self.assertIn('started sluiced (stops after 15m idle)', done.err)
        pid = self.w.status()['pid']
        self.assertNotIn('started', self.w.run('models', 'ls', check=0).err)
        self.assertEqual(self.w.status()['pid'], pid)
        # It is no child of ours and holds no terminal: in a session of its own.
        self.assertNotEqual(os.getsid(pid), os.getsid(0))

    def test_racing_clients_share_one_daemon(self):
        codes, threads = [], []
        for _ in range(4):
            thread = threading.Thread(target=lambda: codes.append(self.w.run('models', 'ls').returncode))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        self.assertEqual(codes, [0] * 4, self.w.log())

    def test_kill_9_and_back(self):
        pid = self.w.start()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not os.path.exists(f'/proc/{pid}'))
        self.assertTrue(os.path.exists(self.w.socket))
        self.assertIn('stale', self.w.run('doctor', check=0).out)
        self.w.run('status', check=3)
        self.w.run('models', 'ls', check=0)
        self.assertNotEqual(self.w.status()['pid'], pid)

    def test_restart(self):
        pid = self.w.start()
        self.w.run('daemon', 'restart', check=0)
        self.assertNotEqual(self.w.status()['pid'], pid)
        self.w.stop()
        self.w.run('daemon', 'restart', check=0)


class WithModel(unittest.TestCase):
    slow = False

    @classmethod
    def setUpClass(cls):
        cls.w = World(SLUICE, SLUICED, MODEL, cls.slow)
        cls.addClassCleanup(cls.w.end)
        cls.pid = cls.w.start()
        cls.w.run('models', 'add', cls.w.model, '--name', 'demo', check=0)

    def tearDown(self):
        self.assertEqual(self.w.status()['pid'], self.pid, 'the daemon died' + self.w.log())

    def idle(self):
        return not self.w.json('requests', 'ls')['requests']


class Answers(WithModel):
    def ask(self, *args, **kw):
        return self.w.run('run', 'demo', '--temp', '0', '-n', '24', *args, check=0, **kw)

    def test_stdout_is_the_answer_and_nothing_else(self):
        done = self.ask('Tell me a story.')
        self.assertTrue(done.out)
        self.assertEqual(done.err, '')
        self.assertNotIn('\x1b', done.out)
        self.assertEqual(self.ask('Tell me a story.').out, done.out)
        self.assertEqual(self.ask('Tell', 'me', 'a', 'story.').out, done.out)
        self.assertEqual(self.ask('Tell me a story.', '--no-stream').out, done.out)

    def test_stdin_goes_before_the_prompt_with_a_blank_line(self):
        both = self.ask('--raw', 'and then', stdin=b'Once upon a time\n').out
        self.assertEqual(both, self.ask('--raw', 'Once upon a time\n\nand then').out)
        self.assertEqual(self.ask('--raw', stdin=b'Once upon a time').out, self.ask('--raw', 'Once upon a time').out)
        with open(self.w.root + '/prompt.txt', 'w') as f:
            f.write('Once upon a time')
        self.assertEqual(self.ask('--raw', '-f', self.w.root + '/prompt.txt').out, self.ask('--raw', 'Once upon a time').out)
        self.assertEqual(self.ask('--raw', '-f', '-', stdin=b'Once upon a time').out, self.ask('--raw', 'Once upon a time').out)
        self.w.run('run', 'demo', check=2)  # no prompt at all

    def test_sampling_flags_reach_the_model(self):
        seeded = [self.w.run('run', 'demo', 'Hi', '-n', '24', '--temp', '1.5', '--seed', str(s), check=0).out for s in (1, 1, 2, 3)]
        self.assertEqual(seeded[0], seeded[1])
        self.assertGreater(len(set(seeded)), 1)
        self.assertEqual(self.w.run('run', 'demo', 'Hi', '-n', '24', '--temp', '1.5', '--seed', '5', '--top-k', '1', check=0).out,
                         self.ask('Hi').out)
        whole = self.ask('Hi').out
        stop = whole[len(whole) // 2:][:3]
        self.assertEqual(self.ask('Hi', '--stop', stop).out, whole[:whole.index(stop)])

    def test_stats_go_to_stderr(self):
        done = self.ask('Hi', '--stats')
        self.assertRegex(done.err, r'\d+ prompt \(\d+ cached\).*\d+ out.*TTFT')
        self.assertEqual(done.out, self.ask('Hi').out)

    def test_json_streams_lines_that_add_up(self):
        plain = self.ask('Hi').out
        lines = [json.loads(line) for line in self.ask('Hi', '--json').out.splitlines()]
        self.assertEqual({d['schema'] for d in lines}, {'sluice.run.v1'})
        self.assertEqual(''.join(d['text'] for d in lines if d['type'] == 'delta'), plain)
        self.assertEqual((lines[-1]['type'], lines[-1]['text']), ('done', plain))
        self.assertIn(lines[-1]['finish_reason'], ('stop', 'length'))
        self.assertGreater(lines[-1]['usage']['completion_tokens'], 0)
        document = json.loads(self.ask('Hi', '--json', '--no-stream').out)
        self.assertEqual((document['schema'], document['text']), ('sluice.run.v1', plain))

    def test_a_path_is_registered_and_used(self):
        copy = self.w.root + '/other.gguf'
        with open(self.w.model, 'rb') as a, open(copy, 'wb') as b:
            b.write(a.read())
        by_path = self.w.run('run', './other.gguf', 'Hi', '--temp', '0', '-n', '24', check=0)
        self.assertEqual(by_path.out, self.ask('Hi').out)
        self.assertIn('other', [m['name'] for m in self.w.json('models', 'ls')['models']])
        self.w.run('models', 'rm', 'other', check=0)
        self.assertTrue(os.path.exists(copy))
        self.w.run('run', './missing.gguf', 'Hi', check=5)
        with open(copy, 'wb') as f:
            f.write(b'not a model')
        self.assertEqual(self.w.run('run', copy, 'Hi').returncode, 1)

    def test_unknown_models_are_exit_code_5_with_a_near_name(self):
        done = self.w.run('run', 'dmeo', 'Hi', check=5)
        self.assertIn('demo', done.err)
        self.assertIn('[model_not_found]', done.err)

    def test_a_prompt_that_is_too_long_names_the_numbers(self):
        done = self.w.run('run', 'demo', '--raw', 'word ' * 5000, check=1)
        self.assertIn('[context_length_exceeded]', done.err)
        self.assertRegex(done.err, r'\d{4}')

    def test_the_chat_reads_lines_from_a_pipe(self):
        done = self.w.run('chat', 'demo', '--temp', '0', '-n', '8', stdin=b'Hi\n/nope\n"""\ntwo\nlines\n"""\n/bye\n', check=0)
        self.assertTrue(done.out)
        self.assertIn('/nope', done.err)


class Documents(WithModel):
    def test_every_verb_has_a_schema(self):
        w = self.w
        w.run('load', 'demo', check=0)
        for args, schema in ((['ps'], 'ps'), (['status'], 'status'), (['requests', 'ls'], 'requests'), (['models', 'ls'], 'models'),
                             (['list'], 'models'), (['models', 'show', 'demo'], 'model'), (['version'], 'version'),
                             (['tokenize', 'demo', 'Hi'], 'tokenize'), (['detokenize', 'demo', '1', '2'], 'detokenize'),
                             (['env'], 'env'), (['api', '/health'], 'api'), (['doctor'], 'doctor'), (['config', 'path'], 'config'),
                             (['config', 'example'], 'config'), (['config', 'check'], 'config'), (['completion', 'bash'], 'completion'),
                             (['load', 'demo'], 'load'), (['daemon', 'start'], 'daemon'), (['unload', 'demo'], 'unload'),
                             (['models', 'add', w.model, '--name', 'demo'], 'model')):
            self.assertEqual(w.json(*args)['schema'], f'sluice.{schema}.v1', args)

    def test_load_and_unload_show_in_ps(self):
        w = self.w
        w.run('unload', '--all', check=0)
        self.assertEqual(w.json('ps')['models'], [])
        w.run('load', 'demo', '--keep-alive', '1h', check=0)
        loaded, = w.json('ps')['models']
        self.assertEqual(loaded['name'], 'demo')
        self.assertGreater(loaded['resident_bytes'], 0)
        self.assertGreater(loaded['expires_in_ms'], 1800_000)
        table = w.run('ps', check=0).out
        self.assertRegex(table, r'\AMODEL +STATE .*\ndemo ')
        self.assertIn('demo', w.run('status', check=0).out)
        w.run('unload', 'demo', check=0)
        self.assertEqual(w.json('ps')['models'], [])
        w.run('unload', check=2)
        w.run('unload', 'nosuch', check=5)

    def test_models_are_shown_in_parts(self):
        w = self.w
        self.assertIn('demo', w.run('models', 'ls', '-l', check=0).out)
        self.assertRegex(w.run('models', 'show', 'demo', check=0).out, r'architecture +qwen3')
        self.assertIn('general.architecture = qwen3', w.run('models', 'show', 'demo', '--metadata', check=0).out)
        self.assertIn('token_embd.weight', w.run('models', 'show', 'demo', '--tensors', check=0).out)
        self.assertIn('blk.0', w.run('models', 'show', 'demo', '--blocks', check=0).out)
        self.assertTrue(w.run('models', 'show', 'demo', '--template', check=0).out.strip())
        w.run('models', 'show', 'nosuch', check=5)
        w.run('models', 'rm', 'nosuch', check=5)

    def test_rm_deletes_the_file_only_when_told(self):
        copy = self.w.root + '/victim.gguf'
        with open(self.w.model, 'rb') as a, open(copy, 'wb') as b:
            b.write(a.read())
        for extra, left in (([], True), (['--delete-file'], False)):
            self.w.run('models', 'add', copy, '--name', 'victim', check=0)
            self.w.run('models', 'rm', 'victim', *extra, check=0)
            self.assertEqual(os.path.exists(copy), left)

    def test_tokens_go_both_ways(self):
        for text in ('Hello, world', ' two  spaces', 'caf\u00e9 \U0001F30A', 'a\nb'):
            ids = self.w.run('tokenize', 'demo', '--ids', text, check=0).out
            self.assertEqual(self.w.run('detokenize', 'demo', *ids.split(), check=0).out, text)
            self.assertEqual(self.w.run('detokenize', 'demo', stdin=ids.encode(), check=0).out, text)
            count = self.w.run('tokenize', 'demo', '--count', stdin=text.encode(), check=0).out
            self.assertEqual(int(count), len(ids.split()))
        self.assertEqual(self.w.run('detokenize', 'demo', '999999').returncode, 1)
        plain, templated = (int(self.w.run('tokenize', 'demo', '--count', *f, 'Hi', check=0).out) for f in ([], ['--template']))
        self.assertGreater(templated, plain)

    def test_api_is_raw_and_its_exit_code_tells(self):
        self.assertEqual(json.loads(self.w.run('api', '/health', check=0).out)['status'], 'ok')
        done = self.w.run('api', '/v1/nope', check=5)
        self.assertEqual(json.loads(done.out)['error']['code'], 'unknown_url')
        self.assertIn('404', done.err)
        body = self.w.root + '/body.json'
        with open(body, 'w') as f:
            json.dump({'model': 'demo', 'content': 'Hi'}, f)
        self.assertIn('tokens', json.loads(self.w.run('api', '/tokenize', '-d', '@' + body, check=0).out))
        self.w.run('api', '/tokenize', '-d', '{broken', check=1)
        self.assertEqual(self.w.json('api', '/health')['status'], 200)

    def test_env_gives_a_snippet_that_compiles(self):
        snippet = self.w.run('env', '--python', check=0).out
        compile(snippet, 'snippet', 'exec')
        self.assertIn(self.w.socket, snippet)
        self.w.run('env', check=1)  # no TCP listener: says so instead of printing something that cannot work

    def test_cancelling_nothing_is_exit_code_5(self):
        self.w.run('requests', 'cancel', 'r-9999', check=5)

    def test_completion_knows_the_models_names(self):
        self.assertIn('demo\n', self.w.run('__complete', 'run', check=0).out)

    def test_doctor_is_content(self):
        done = self.w.run('doctor')
        self.assertEqual(done.returncode, 0, done.out)
        self.assertRegex(done.out, r'ok +model demo')

    def test_ps_watches_until_its_pipe_closes(self):
        child = self.w.popen('ps', '-w', '100ms', '--json')
        lines = [json.loads(child.stdout.readline()) for _ in range(3)]
        self.assertEqual({d['schema'] for d in lines}, {'sluice.ps.v1'})
        child.stdout.close()
        self.assertEqual(child.wait(SLOW), 141)
        self.assertEqual(child.stderr.read(), b'')


class Endings(WithModel):
    slow = True

    def begin(self):
        child = self.w.popen('run', 'demo', *LONG, 'Once upon a time')
        self.assertTrue(child.stdout.read(1))
        return child

    def test_ctrl_c_cancels_and_is_130(self):
        child = self.begin()
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=SLOW)
        self.assertEqual((child.returncode, err), (130, b''))
        wait_for(self.idle, 5, 'the end of the request')

    def test_sigterm_is_143(self):
        child = self.begin()
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=SLOW)
        self.assertEqual(child.returncode, 143)
        wait_for(self.idle, 5, 'the end of the request')

    def test_a_closed_pipe_is_quiet_and_cancels(self):
        child = self.begin()
        child.stdout.close()
        self.assertEqual(child.wait(SLOW), 141)
        self.assertEqual(child.stderr.read(), b'')
        wait_for(self.idle, 5, 'the end of the request')

    def test_cancel_by_id_ends_the_other_client(self):
        child = self.begin()
        request, = self.w.json('requests', 'ls')['requests'] or [None]
        if request is None:
            self.skipTest('the generation was over too soon')
        done = self.w.run('requests', 'cancel', request['id'])
        child.communicate(timeout=SLOW)
        if done.returncode == 5:
            self.skipTest('the generation was over too soon')
        self.assertEqual(done.returncode, 0)
        self.assertNotEqual(child.returncode, 0)

    def test_waiting_ends_when_told(self):
        first = self.begin()
        done = self.w.run('run', 'demo', *LONG, 'Once', '--wait', '0')
        if first.poll() is not None and done.returncode == 0:
            self.skipTest('the generation was over too soon')
        self.assertEqual(done.returncode, 7, done.err)
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=SLOW)


class Dying(WithWorld):
    def setUp(self):
        self.w = World(SLUICE, SLUICED, MODEL, slow=True)
        self.addCleanup(self.w.end)

    def test_a_daemon_that_dies_in_the_middle_is_exit_code_8(self):
        pid = self.w.start()
        child = self.w.popen('run', self.w.model, *LONG, 'Once upon a time')
        head = child.stdout.read(1)
        self.assertTrue(head)
        os.kill(pid, signal.SIGKILL)
        _, err = child.communicate(timeout=SLOW)
        if child.returncode == 0:
            self.skipTest('the generation was over too soon')
        self.assertEqual(child.returncode, 8)
        self.assertIn(b'[connection_lost]', err)

    def test_an_absurd_server_is_survived(self):
        path = self.w.root + '/fake.sock'
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen(8)
        head = b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n'
        answers = [head + b'data: [1]\n\n', head + b'data: {"choices":3}\n\n', head + b'data: \xff\xfe\n\n', b'\0' * 100,
                   head + b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n', head + b'data: ' + b'[' * 100000 + b'\n\n',
                   b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]', b'HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad']

        def serve(answer):
            for _ in range(2):  # the look whether somebody is there, then the request
                peer, _ = server.accept()
                if peer.recv(65536):
                    peer.sendall(answer)
                peer.close()

        for answer in answers:
            thread = threading.Thread(target=serve, args=(answer,))
            thread.start()
            done = self.w.run('-H', path, 'run', 'm', 'x')
            thread.join()
            self.assertIn(done.returncode, (1, 8, 9), (answer[:80], done.err))
            self.assertRegex(done.err, r'\[\w+\]\n', answer[:80])
        server.close()


class OnATerminal(WithModel):
    slow = True

    def chat(self, *args, **kw):
        terminal = Terminal(self.w, 'run', 'demo', '--temp', '0', '-n', '12', *args, **kw)
        terminal.expect('>>> ')
        return terminal

    def test_a_conversation(self):
        t = self.chat()
        t.type('Tell me a story.\n')
        t.expect(r'Tell me a story\.\n')
        t.expect('>>> ')
        t.type('/show\n')
        t.expect('messages +2')
        t.type('/undo\n')
        t.expect('taken back')
        t.type('/set temp=0.5\n')
        t.expect('>>> ')
        t.type('/set tmep=1\n')
        t.expect('did you mean temp')
        t.type('/edit\n')
        t.expect('not part of this version')
        t.type('/hlep\n')
        t.expect('did you mean /help')
        t.type('"""\n')
        t.expect(r'\.\.\. ')
        t.type('two\n')
        t.expect(r'\.\.\. ')
        t.type('lines"""\n')
        t.expect('>>> ')
        t.type('/show\n')
        t.expect('messages +2')
        t.type('/bye\n')
        self.assertEqual(t.wait(), 0)
        history = self.w.root + '/state/sluice/history'
        self.assertEqual(stat.S_IMODE(os.stat(history).st_mode), 0o600)

    def test_the_budget_in_a_conversation(self):
        before = self.w.json('budget', 'show')['limit_bytes']
        t = self.chat()
        t.type('Tell me a story.\n')
        answer = t.expect(r'Tell me a story\.\n((?:.|\n)+?)>>> ').group(1)
        self.assertTrue(answer.strip())
        t.type('/budget\n')
        t.expect(r'budget +\S+ [KMG]iB  effective')
        t.expect(r'kernel +rss')
        t.type('/budget 120M\n')
        t.expect(r'budget .* -> 120 MiB: .*in \d+ ms; running requests continue')
        self.assertEqual(self.w.json('budget', 'show')['limit_bytes'], 120 << 20)
        t.type('/budget 1M\n')
        t.expect(r'sluice: budget set failed: budget 1 MiB is below the floor.*\[budget_below_floor\]')
        t.expect(r'try: +sluice budget set \d+M')
        t.type('/budget lots\n')
        t.expect(r'sluice: budget set failed: .*lots')
        self.assertEqual(self.w.json('budget', 'show')['limit_bytes'], 120 << 20)
        t.type('/plan x\n')
        t.expect('takes nothing')
        t.type('/plan\n')
        t.expect(r'BUDGET +FLOOR\? +PINNED')
        t.expect(r'floor \d+ MiB = ')
        t.expect('>>> ')
        t.type('/retry\n')     # the conversation is as it was, and so is the text
        self.assertEqual(t.expect(r'/retry\n((?:.|\n)+?)>>> ').group(1), answer)
        t.type('/show\n')
        t.expect('messages +2')
        t.type(f'/budget {before}\n')
        t.expect('running requests continue')
        t.type('/bye\n')
        self.assertEqual(t.wait(), 0)

    def test_ctrl_d_leaves(self):
        t = self.chat()
        t.type('\x04')
        self.assertEqual(t.wait(), 0)

    def test_ctrl_c_at_the_prompt(self):
        t = self.chat()
        t.type('half a li\x03')
        t.expect(r'\(Ctrl-D or /bye to leave\)')
        t.expect('>>> ')
        time.sleep(1.2)
        t.type('\x03')
        t.expect(r'\(Ctrl-D or /bye to leave\)')
        t.expect('>>> ')
        t.type('\x03')
        self.assertEqual(t.wait(), 130)

    def test_ctrl_c_stops_the_answer_only(self):
        t = Terminal(self.w, 'chat', 'demo', '--temp', '1', '--seed', '3', '-n', '900')
        t.expect('>>> ')
        t.type('Tell me a very long story.\n')
        t.expect(r'story\.\n.')
        t.signal('\x03')
        t.expect('>>> ')
        t.type('/show\n')
        t.expect('messages +2')  # what came stays
        t.type('/bye\n')
        self.assertEqual(t.wait(), 0)
        wait_for(self.idle, 5, 'the end of the request')

    def test_one_shot_ctrl_c_ends_the_line(self):
        t = Terminal(self.w, 'run', 'demo', *LONG, 'Once upon a time')
        t.expect('.')
        t.signal('\x03')
        self.assertEqual(t.wait(), 130)
        self.assertTrue(t.plain().endswith('\n'))

    def test_control_bytes_become_glyphs(self):
        ids = self.w.run('tokenize', 'demo', '--ids', '\x1b[31mred\x07', check=0).out.split()
        t = Terminal(self.w, 'detokenize', 'demo', *ids)
        self.assertEqual(t.wait(), 0)
        self.assertNotIn('\x1b', t.text)
        self.assertIn('\u241b[31mred\u2407', t.text)
        self.assertEqual(self.w.run('detokenize', 'demo', *ids, check=0).out, '\x1b[31mred\x07')  # a pipe gets the bytes

    def test_no_history_when_told(self):
        history = self.w.root + '/state/sluice/history'
        before = os.path.getsize(history) if os.path.exists(history) else None
        t = self.chat(env={'SLUICE_NOHISTORY': '1'})
        t.type('/show\n')
        t.expect('messages')
        t.type('\x04')
        self.assertEqual(t.wait(), 0)
        self.assertEqual(os.path.getsize(history) if os.path.exists(history) else None, before)


if __name__ == '__main__':
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2)
