#!/usr/bin/env python3
"""The unmodified openai clients over the socket: openai_clients_test.py SLUICED MODEL.gguf

Starts a daemon and runs this file again with each Python given by SLUICE_OPENAI2_PYTHON (openai 2.x, httpx) and
SLUICE_OPENAI3_PYTHON (openai 3.x, httpx2). Exit 77 (skipped) when neither is set."""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def outer():
    sys.path.insert(0, HERE)
    from daemon_lib import Daemon
    pythons = [(major, os.environ.get("SLUICE_OPENAI%d_PYTHON" % major)) for major in (2, 3)]
    missing = [major for major, python in pythons if not python]
    for major in missing:
        print("SKIPPED openai %d.x: set SLUICE_OPENAI%d_PYTHON to a Python that has it "
              "(python3 -m venv V && V/bin/pip install 'openai>=%d,<%d')" % (major, major, major, major + 1))
    if len(missing) == 2:
        return 77
    code = 0
    for major, python in pythons:
        if not python:
            continue
        with Daemon(sys.argv[1], sys.argv[2]) as d:
            code |= subprocess.call([python, os.path.abspath(__file__), "--inner", d.socket, str(major)])
    return code or (77 if missing else 0)


def inner(sock, major):
    import time
    import unittest

    import openai
    assert int(openai.__version__.split(".")[0]) == major, openai.__version__
    if major >= 3:
        import httpx2 as httpx
        make_http = openai.DefaultHttpx2Client
    else:
        import httpx
        make_http = openai.DefaultHttpxClient
    client = openai.OpenAI(base_url="http://localhost/v1", api_key="-", max_retries=0,
                           http_client=make_http(transport=httpx.HTTPTransport(uds=sock)))
    raw = httpx.Client(transport=httpx.HTTPTransport(uds=sock), base_url="http://localhost")
    model = client.models.list().data[0].id
    ask = dict(model=model, messages=[{"role": "user", "content": "Once upon a time"}], max_tokens=12, temperature=0)

    class Clients(unittest.TestCase):
        def test_models(self):
            self.assertEqual(client.models.retrieve(model).id, model)
            self.assertIs(type(client.models.list().data[0].created), int)
            with self.assertRaises(openai.NotFoundError):
                client.models.retrieve("org/none:q4")

        def test_chat(self):
            r = client.chat.completions.create(**ask)
            self.assertEqual(r.object, "chat.completion")
            self.assertIs(type(r.created), int)
            self.assertEqual(r.choices[0].finish_reason, "length")
            self.assertTrue(r.choices[0].message.content)
            self.assertEqual(r.usage.completion_tokens, 12)
            self.assertGreaterEqual(r.usage.prompt_tokens_details.cached_tokens, 0)
            self.assertTrue(r._request_id)

        def test_stream_equals_document(self):
            want = client.chat.completions.create(**ask).choices[0].message.content
            text, finish, usage = "", None, None
            for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ask):
                if chunk.choices:
                    text += chunk.choices[0].delta.content or ""
                    finish = chunk.choices[0].finish_reason or finish
                usage = chunk.usage or usage
            self.assertEqual((text, finish, usage.completion_tokens), (want, "length", 12))

        def test_stream_helper(self):
            # The helper wants an answer that ended by itself.
            text = client.chat.completions.create(**ask).choices[0].message.content
            with client.chat.completions.stream(stop=[text[8:12]], **ask) as s:
                deltas = [e.delta for e in s if e.type == "content.delta"]
                final = s.get_final_completion()
            self.assertEqual(final.choices[0].message.content, text[:text.index(text[8:12])])
            self.assertEqual("".join(deltas), final.choices[0].message.content)

        def test_n_seed_stop_logprobs(self):
            more = dict(ask, n=2, seed=11, temperature=1.2, logprobs=True, top_logprobs=2)
            a, b = (client.chat.completions.create(**more) for _ in range(2))
            self.assertEqual([c.message.content for c in a.choices], [c.message.content for c in b.choices])
            self.assertEqual(len(a.choices[0].logprobs.content[0].top_logprobs), 2)
            full = client.chat.completions.create(**ask).choices[0].message.content
            cut = client.chat.completions.create(stop=[full[4:7]], **ask).choices[0]
            self.assertEqual((cut.message.content, cut.finish_reason), (full[:full.index(full[4:7])], "stop"))

        def test_completions(self):
            r = client.completions.create(model=model, prompt=["Once", "The"], max_tokens=4, temperature=0, logprobs=2, echo=True)
            self.assertEqual([c.index for c in r.choices], [0, 1])
            self.assertTrue(r.choices[0].text.startswith("Once"))
            self.assertEqual(len(r.choices[0].logprobs.tokens), len(r.choices[0].logprobs.token_logprobs))
            text = "".join(c.choices[0].text for c in
                           client.completions.create(model=model, prompt="Once", max_tokens=4, temperature=0, stream=True))
            self.assertEqual("Once" + text, r.choices[0].text)

        def test_errors_become_the_clients_exceptions(self):
            with self.assertRaises(openai.NotFoundError) as e:
                client.chat.completions.create(**dict(ask, model="nope"))
            self.assertEqual(e.exception.code, "model_not_found")
            self.assertTrue(e.exception.request_id)
            with self.assertRaises(openai.BadRequestError) as e:
                client.chat.completions.create(**dict(ask, temperature=3))
            self.assertEqual((e.exception.code, e.exception.param), ("invalid_request", "temperature"))
            with self.assertRaises(openai.BadRequestError) as e:
                client.chat.completions.create(**dict(ask, messages=[{"role": "user", "content": "word " * 20000}]))
            self.assertEqual(e.exception.code, "context_length_exceeded")
            with self.assertRaises(openai.BadRequestError) as e:
                client.chat.completions.create(response_format={"type": "json_object"}, **ask)
            self.assertEqual(e.exception.code, "unsupported_parameter")

        def test_closing_a_stream_cancels(self):
            s = client.completions.create(model=model, prompt=["Once"] * 32, n=4, max_tokens=1000, temperature=1, stream=True)
            next(iter(s))
            s.close()
            end = time.monotonic() + 1.0
            while raw.get("/sluice/v1/requests").json()["requests"]:
                self.assertLess(time.monotonic(), end, "the generation goes on")
                time.sleep(0.02)

        def test_cancelled_stream_raises(self):
            s = client.completions.create(model=model, prompt=["Once"] * 32, n=4, max_tokens=1000, temperature=1, stream=True)
            it = iter(s)
            next(it)
            rid = raw.get("/sluice/v1/requests").json()["requests"][0]["id"]
            self.assertEqual(raw.request("DELETE", "/sluice/v1/requests/" + rid).status_code, 200)
            with self.assertRaises(openai.APIError):
                for _ in it:
                    pass

        def test_full_queue_is_a_rate_limit(self):
            streams = []
            try:
                for _ in range(12):
                    streams.append(self.hold())
                with self.assertRaises(openai.RateLimitError):
                    client.with_options(timeout=20).chat.completions.create(**ask)
            finally:
                for c in streams:
                    c.close()

        def hold(self):
            import json
            import socket
            body = json.dumps({"model": model, "prompt": ["Once"] * 32, "n": 4, "max_tokens": 1000, "stream": True}).encode()
            c = socket.socket(socket.AF_UNIX)
            c.connect(sock)
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.02)
            return c

    print("openai", openai.__version__, httpx.__name__, httpx.__version__)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Clients)
    result = unittest.TextTestRunner(verbosity=1).run(suite)
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(inner(sys.argv[2], int(sys.argv[3])) if sys.argv[1] == "--inner" else outer())
