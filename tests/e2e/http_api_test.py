#!/usr/bin/env python3
"""The HTTP API of a real daemon with a real (small) model: http_api_test.py SLUICED MODEL.gguf

Shapes of INTERFACE 3.3, errors of 3.5, waiting, cancelling and slow readers of 3.4."""
import json
import os
import shutil
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from daemon_lib import Client, Daemon, events  # noqa: E402

SLUICED, MODEL = None, None
D = None
CHAT = "/v1/chat/completions"


def chat(text="Once upon a time", **more):
    return dict({"messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0}, **more)


def wait_for(what, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        v = what()
        if v:
            return v
        time.sleep(0.01)
    raise AssertionError("waited %.1f s in vain" % seconds)


def requests():
    return D.get("/sluice/v1/requests")[1]["requests"]


def idle():
    wait_for(lambda: not requests())


class Api(unittest.TestCase):
    def error(self, answer, status, code, param=None):
        self.assertEqual(answer[0], status, answer[1])
        e = answer[1]["error"]
        self.assertEqual(set(e) - {"file", "offset", "field"}, {"message", "type", "param", "code", "hint", "request_id"})
        self.assertEqual(e["code"], code, e)
        self.assertEqual(e["request_id"], answer[2]["x-request-id"])
        if param:
            self.assertEqual(e["param"], param)
        return e

    def stream(self, path, body):
        c = Client(D.socket)
        c.send("POST", path, dict(body, stream=True))
        status, headers, data = c.answer()
        c.close()
        self.assertEqual(status, 200, data)
        self.assertEqual(headers["content-type"], "text/event-stream")
        self.assertIn("sluice-request-id", headers)
        out = events(data.decode("utf-8"))
        self.assertEqual(out[-1], "[DONE]")
        return [json.loads(e) for e in out[:-1]]

    # ------------------------------------------------------------------ answers
    def test_chat_document(self):
        status, doc, headers = D.post(CHAT, chat())
        self.assertEqual(status, 200)
        self.assertTrue(headers["sluice-request-id"].startswith("r-"))
        self.assertEqual(doc["object"], "chat.completion")
        self.assertIs(type(doc["created"]), int)
        choice = doc["choices"][0]
        self.assertEqual(choice["index"], 0)
        self.assertEqual(set(choice["message"]), {"role", "content", "refusal"})
        self.assertIsNone(choice["message"]["refusal"])
        self.assertIsNone(choice["logprobs"])
        self.assertEqual(choice["finish_reason"], "length")
        u = doc["usage"]
        self.assertEqual(u["completion_tokens"], 12)
        self.assertEqual(u["total_tokens"], u["prompt_tokens"] + 12)
        self.assertIn("cached_tokens", u["prompt_tokens_details"])
        self.assertIn("decode_tps", doc["sluice"])

    def test_stream_equals_document(self):
        want = D.post(CHAT, chat(max_tokens=40))[1]
        chunks = self.stream(CHAT, chat(max_tokens=40, stream_options={"include_usage": True}))
        self.assertEqual({c["object"] for c in chunks}, {"chat.completion.chunk"})
        self.assertEqual(len({(c["id"], c["created"], c["model"]) for c in chunks}), 1)
        self.assertEqual(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
        self.assertEqual(text, want["choices"][0]["message"]["content"])
        finish = chunks[-2]["choices"][0]
        self.assertEqual(finish["delta"], {})
        self.assertEqual(finish["finish_reason"], want["choices"][0]["finish_reason"])
        self.assertIn("sluice", chunks[-2])
        self.assertEqual(chunks[-1]["choices"], [])
        for k in ("prompt_tokens", "completion_tokens", "total_tokens"):
            self.assertEqual(chunks[-1]["usage"][k], want["usage"][k])
        self.assertTrue(all(c["usage"] is None for c in chunks[:-1]))
        self.assertTrue(all(c["choices"][0]["finish_reason"] is None for c in chunks[:-2]))

    def test_stream_without_usage_has_none(self):
        self.assertTrue(all("usage" not in c for c in self.stream(CHAT, chat())))

    def test_stop_strings(self):
        full = D.post(CHAT, chat(max_tokens=40))[1]["choices"][0]["message"]["content"]
        # Every short piece of the text as a stop string: the text ends before its first occurrence.
        for at in range(3, len(full) - 4, 7):
            for n in (1, 3, 6):
                stop = full[at:at + n]
                for streamed in (False, True):
                    if streamed:
                        chunks = self.stream(CHAT, chat(max_tokens=40, stop=["\u2603", stop]))
                        got = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
                        finish = chunks[-1]["choices"][0]["finish_reason"]
                    else:
                        c = D.post(CHAT, chat(max_tokens=40, stop=stop))[1]["choices"][0]
                        got, finish = c["message"]["content"], c["finish_reason"]
                    self.assertEqual(got, full[:full.index(stop)], repr(stop))
                    self.assertEqual(finish, "stop")

    def test_seed_makes_it_reproducible(self):
        body = chat(temperature=1.5, seed=7, n=3, max_tokens=16)
        a, b = (D.post(CHAT, body)[1] for _ in range(2))
        texts = [c["message"]["content"] for c in a["choices"]]
        self.assertEqual(texts, [c["message"]["content"] for c in b["choices"]])
        self.assertEqual([c["index"] for c in a["choices"]], [0, 1, 2])
        self.assertGreater(len(set(texts)), 1, "choices must draw differently")
        self.assertEqual(a["usage"]["completion_tokens"], 48)
        # The first choice does not depend on how many were asked for.
        self.assertEqual(D.post(CHAT, dict(body, n=1))[1]["choices"][0]["message"]["content"], texts[0])
        others = {D.post(CHAT, chat(temperature=1.5, max_tokens=16))[1]["choices"][0]["message"]["content"] for _ in range(4)}
        self.assertGreater(len(others), 1, "without a seed answers differ")

    def test_choices_of_a_stream(self):
        chunks = self.stream(CHAT, chat(n=2, temperature=1, seed=1))
        for i in (0, 1):
            mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == i]
            self.assertEqual(mine[0]["delta"], {"role": "assistant", "content": ""})
            self.assertIn(mine[-1]["finish_reason"], ("stop", "length"))

    def test_chat_logprobs(self):
        c = D.post(CHAT, chat(logprobs=True, top_logprobs=3))[1]["choices"][0]
        tokens = c["logprobs"]["content"]
        self.assertEqual(len(tokens), 12)
        self.assertEqual(b"".join(bytes(t["bytes"]) for t in tokens).decode(), c["message"]["content"])
        for t in tokens:
            self.assertEqual(len(t["top_logprobs"]), 3)
            self.assertEqual(t["top_logprobs"][0]["token"], t["token"], "greedy picks the most likely")
            self.assertAlmostEqual(t["top_logprobs"][0]["logprob"], t["logprob"], 4)
            self.assertLessEqual(t["logprob"], 0)
        streamed = []
        for chunk in self.stream(CHAT, chat(logprobs=True, top_logprobs=3)):
            lp = chunk["choices"][0]["logprobs"]
            streamed += lp["content"] if lp else []
        self.assertEqual([t["token"] for t in streamed], [t["token"] for t in tokens])

    def test_completions(self):
        ids = D.post("/tokenize", {"content": "Once upon a time"})[1]["tokens"]
        by_text = D.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0})
        self.assertEqual(by_text[0], 200, by_text[1])
        self.assertEqual(by_text[1]["object"], "text_completion")
        by_ids = D.post("/v1/completions", {"prompt": ids, "max_tokens": 8, "temperature": 0})[1]
        text = by_text[1]["choices"][0]["text"]
        self.assertEqual(by_ids["choices"][0]["text"], text)
        many = D.post("/v1/completions", {"prompt": ["Once upon a time", "The"], "max_tokens": 8, "temperature": 0, "n": 2})[1]
        self.assertEqual([c["index"] for c in many["choices"]], [0, 1, 2, 3])
        self.assertEqual(many["choices"][1]["text"], text)
        self.assertEqual(many["usage"]["completion_tokens"], 32)
        arrays = D.post("/v1/completions", {"prompt": [ids, ids[:1]], "max_tokens": 8, "temperature": 0})[1]
        self.assertEqual(arrays["choices"][0]["text"], text)
        chunks = self.stream("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0})
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks), text)

    def test_completions_echo_and_logprobs(self):
        body = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 2}
        c = D.post("/v1/completions", body)[1]["choices"][0]
        self.assertTrue(c["text"].startswith("Once upon a time"))
        lp = c["logprobs"]
        self.assertEqual("".join(lp["tokens"]), c["text"])
        self.assertIsNone(lp["token_logprobs"][0])
        self.assertTrue(all(x < 0 for x in lp["token_logprobs"][1:]))
        self.assertTrue(all(len(t) in (2, 3) for t in lp["top_logprobs"][1:]))
        for token, at in zip(lp["tokens"], lp["text_offset"]):
            self.assertTrue(c["text"][at:].startswith(token))
        scored = D.post("/v1/completions", dict(body, max_tokens=0))[1]["choices"][0]
        self.assertEqual(scored["text"], "Once upon a time")
        n = len(scored["logprobs"]["tokens"])
        self.assertEqual(scored["logprobs"]["token_logprobs"], lp["token_logprobs"][:n])

    def test_logit_bias_bans_a_token(self):
        first = D.post(CHAT, chat(max_tokens=1, logprobs=True))[1]["choices"][0]["logprobs"]["content"][0]
        ids = D.post("/tokenize", {"content": bytes(first["bytes"]).decode()})[1]["tokens"]
        biased = D.post(CHAT, chat(max_tokens=1, logit_bias={str(ids[0]): -100}))[1]["choices"][0]["message"]["content"]
        self.assertNotEqual(biased, first["token"])
        self.error(D.post(CHAT, chat(logit_bias={"99999999": 1})), 400, "invalid_request")

    def test_harmless_parameters_are_named_in_a_warning(self):
        status, _, headers = D.post(CHAT, chat(user="u", metadata={"a": "b"}))
        self.assertEqual(status, 200)
        self.assertIn("user", headers["sluice-warning"])
        self.assertIn("metadata", headers["sluice-warning"])

    def test_text_routes(self):
        ids = D.post("/tokenize", {"content": "Hello, world"})[1]
        self.assertEqual(ids["count"], len(ids["tokens"]))
        pieces = D.post("/tokenize", {"text": "Hello, world", "with_pieces": True})[1]["tokens"]
        self.assertEqual([p["id"] for p in pieces], ids["tokens"])
        self.assertEqual(D.post("/detokenize", {"tokens": ids["tokens"]})[1]["content"], "Hello, world")
        self.error(D.post("/detokenize", {"tokens": [10 ** 9]}), 400, "invalid_request", "tokens")
        self.error(D.post("/tokenize", {"tokens": "x"}), 400, "invalid_request")
        self.error(D.post("/tokenize", {"content": "x", "model": "nope"}), 404, "model_not_found")
        prompt = D.post("/apply-template", {"messages": [{"role": "user", "content": "Marker"}]})[1]["prompt"]
        self.assertIn("Marker", prompt)

    def test_an_answer_goes_on_where_it_ended(self):
        """A call without new input: the last message is the assistant's and is written on."""
        opening = [{"role": "user", "content": "Tell me a story about a \"cat\". "}]
        whole = D.post(CHAT, chat(messages=opening, max_tokens=40))[1]["choices"][0]["message"]["content"]
        prompt = D.post("/apply-template", {"messages": opening})[1]["prompt"]
        for n in (5, 14, 29):
            first = D.post(CHAT, chat(messages=opening, max_tokens=n))[1]["choices"][0]["message"]["content"]
            messages = opening + [{"role": "assistant", "content": first}]
            rest = {"messages": messages, "continue_final_message": True}
            self.assertEqual(D.post("/apply-template", rest)[1]["prompt"], prompt + first)
            c = D.post(CHAT, chat(**rest, max_tokens=40 - n))[1]
            answer = c["choices"][0]["message"]["content"]
            if D.post("/tokenize", {"content": first})[1]["count"] == n:      # the same tokens when read again
                self.assertEqual(first + answer, whole)
            self.assertGreater(c["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        # Space at the end is the author's, an empty answer is begun, the end of a turn is not shown.
        for text in ("Once ", "", "two\nlines\n", "[end-of-message]"):
            messages = opening + [{"role": "assistant", "content": text}]
            got = D.post("/apply-template", {"messages": messages, "continue_final_message": True})[1]["prompt"]
            self.assertEqual(got, prompt + text)
        self.error(D.post(CHAT, chat(continue_final_message=True)), 400, "invalid_request", "continue_final_message")
        both = chat(messages=messages, continue_final_message=True, add_generation_prompt=True)
        self.error(D.post(CHAT, both), 400, "invalid_request", "continue_final_message")

    # ------------------------------------------------------------------ errors
    def test_bad_json_and_types(self):
        for raw in (b"{", b"", b"nul", b"[" * 70 + b"]" * 70, b"{\"messages\":\"\xff\"}", b"[]"):
            self.error(D.post(CHAT, raw), 400, "invalid_request")
        self.error(D.post(CHAT, chat(temperature="hot")), 400, "invalid_request", "temperature")
        self.error(D.post(CHAT, chat(max_tokens=0)), 400, "invalid_request", "max_tokens")
        self.error(D.post(CHAT, chat(response_format={"type": "json_object"})), 400, "unsupported_parameter", "response_format")
        e = self.error(D.post(CHAT, chat(temprature=1)), 400, "unsupported_parameter", "temprature")
        self.assertIn("temperature", e["hint"])
        self.error(D.post("/v1/completions", {"prompt": "a", "suffix": "b"}), 400, "unsupported_parameter", "suffix")

    def test_unknown_model_names_the_nearest(self):
        name = D.get("/v1/models")[1]["data"][0]["id"]
        e = self.error(D.post(CHAT, chat(model=name[:-1])), 404, "model_not_found")
        self.assertIn(name, e["hint"])
        self.error(D.get("/v1/models/nope"), 404, "model_not_found")
        e = self.error(D.post(CHAT, chat(model="x\x1b[31m\u202e")), 404, "model_not_found")
        self.assertNotIn("\x1b", e["message"])

    def test_prompt_too_long_gives_the_numbers(self):
        ctx = D.get("/sluice/v1/models")[1]["models"][0]["ctx"]
        e = self.error(D.post("/v1/completions", {"prompt": [5] * (ctx + 10)}), 400, "context_length_exceeded", "prompt")
        self.assertIn(str(ctx + 10), e["message"])
        self.assertIn(str(ctx), e["message"])
        self.error(D.post(CHAT, chat("word " * ctx)), 400, "context_length_exceeded", "messages")
        e = self.error(D.post(CHAT, chat("word " * (1 << 20))), 400, "context_length_exceeded", "messages")
        self.assertIn(str(5 << 20), e["message"])
        self.error(D.post(CHAT, chat(sluice={"ctx": ctx + 1})), 400, "invalid_request")
        # One token of room is enough, and no more than that comes.
        c = D.post("/v1/completions", {"prompt": [5] * 31, "sluice": {"ctx": 32}, "max_tokens": 5})[1]
        self.assertEqual((c["usage"]["completion_tokens"], c["choices"][0]["finish_reason"]), (1, "length"))
        self.error(D.post("/v1/completions", {"prompt": [5] * 32, "sluice": {"ctx": 32}}), 400, "context_length_exceeded")

    def test_unknown_paths_and_methods(self):
        e = self.error(D.get("/v1/chat/completion"), 404, "unknown_url")
        self.assertIn(CHAT, e["hint"])
        answer = D.get(CHAT)
        self.error(answer, 405, "method_not_allowed")
        self.assertEqual(answer[2]["allow"], "POST")

    def test_content_types(self):
        c = Client(D.socket)
        c.s.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}")
        self.assertEqual(c.answer()[0], 415)
        c.close()

    def test_expect_continue(self):
        body = json.dumps({"content": "Hello"}).encode()
        c = Client(D.socket)
        c.s.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body))
        self.assertEqual(c.head()[0], 100)
        c.s.sendall(body)
        self.assertEqual(c.answer()[0], 200)
        c.close()

    @unittest.skipUnless(os.geteuid() == 0, "needs root, to become another user")
    def test_another_user_is_turned_away(self):
        with Daemon(SLUICED, MODEL) as d:
            os.chmod(d.dir, 0o711)
            os.chmod(d.socket, 0o666)       # on purpose: the peer's uid must be enough
            r, w = os.pipe()
            child = os.fork()
            if child == 0:
                # The answer may come before the request was sent, and a reset after it.
                try:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                    c = Client(d.socket, 10)
                    try:
                        c.send("GET", "/sluice/v1/status")
                    except OSError:
                        pass
                    try:
                        while True:
                            c.more()
                    except (EOFError, OSError):
                        os.write(w, c.buf)
                finally:
                    os._exit(0)
            os.close(w)
            os.waitpid(child, 0)
            out = os.read(r, 65536)
            os.close(r)
            self.assertTrue(out.startswith(b"HTTP/1.1 403 "), out)
            self.assertEqual(json.loads(out.split(b"\r\n\r\n", 1)[1])["error"]["code"], "not_permitted")

    def test_slow_requests_time_out_with_408(self):
        head, body, drip = Client(D.socket), Client(D.socket), Client(D.socket)
        head.s.sendall(b"GET /health HTTP/1.1\r\n")
        body.s.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        drip.s.sendall(b"GET /health HTTP/1.1\r\nX: ")
        t = time.monotonic()
        try:
            while time.monotonic() - t < 6:
                drip.s.sendall(b"a")        # alive, but the head as a whole is late
                time.sleep(0.2)
        except (BrokenPipeError, ConnectionResetError):
            pass
        for c in (head, body, drip):
            status, headers, data = c.answer()
            self.assertEqual((status, json.loads(data)["error"]["code"]), (408, "request_timeout"))
            self.assertEqual(headers["connection"], "close")
            c.close()

    def test_idle_connections_make_room_and_busy_ones_do_not(self):
        idle()
        busy = self.long_stream(prompt=["a"] * 32)
        busy.head()
        idlers = [Client(D.socket) for _ in range(300)]
        self.assertEqual(D.get("/health")[0], 200)
        closed = 0
        for c in idlers:
            c.s.setblocking(False)
            try:
                closed += c.s.recv(1) == b""
            except BlockingIOError:
                pass
            c.close()
        self.assertTrue(40 <= closed <= 60, "256 of a user are kept: %d were closed" % closed)
        self.assertTrue(busy.chunk())
        busy.close()
        idle()

    def test_keep_alive_and_head(self):
        c = Client(D.socket)
        for _ in range(5):
            self.assertEqual(c.request("POST", CHAT, chat(max_tokens=1))[0], 200)
            self.assertEqual(c.request("POST", CHAT, b"{")[0], 400)
        c.send("HEAD", "/health")
        status, headers = c.head()
        self.assertEqual((status, c.buf), (200, b""))
        self.assertGreater(int(headers["content-length"]), 0)
        self.assertEqual(c.request("GET", "/health")[0], 200)
        c.close()

    # ------------------------------------------------------------------ native
    def test_native_documents(self):
        v = D.get("/sluice/v1/version")[1]
        self.assertEqual((v["schema"], v["api"]), ("sluice.version.v1", 1))
        s = D.get("/sluice/v1/status")[1]
        self.assertEqual(s["schema"], "sluice.status.v1")
        self.assertEqual(s["pid"], D.process.pid)
        self.assertEqual(s["socket"], D.socket)
        self.assertEqual(D.get("/sluice/v1/config")[1]["schema"], "sluice.config.v1")
        self.assertEqual(D.get("/health/ready")[0], 200)
        self.assertIn("sluice_build_info", D.get("/metrics")[1])
        self.error(D.delete("/sluice/v1/requests/r-9999"), 404, "request_not_found")

    def test_load_and_unload(self):
        name = D.get("/v1/models")[1]["data"][0]["id"]
        status, doc, _ = D.post("/sluice/v1/models/%s/load" % name, {"keep_alive": "-1"})
        self.assertEqual(status, 202, doc)
        self.assertTrue(doc["request_id"].startswith("r-"))
        # 202: it is loaded later, and until then an earlier request's time to unload may stand.
        loaded = wait_for(lambda: [m for m in D.get("/sluice/v1/status")[1]["models"] if m["expires_in_ms"] is None])
        self.assertEqual([m["name"] for m in loaded], [name])
        status, doc, _ = D.post("/sluice/v1/models/%s/unload" % name, {})
        self.assertEqual((status, doc["loaded"]), (200, False))
        self.assertEqual(D.get("/sluice/v1/status")[1]["models"], [])
        self.assertEqual(D.post(CHAT, chat(max_tokens=1, sluice={"keep_alive": 0}))[0], 200)
        self.assertEqual(D.get("/sluice/v1/status")[1]["models"], [], "keep_alive 0 unloads at once")
        self.assertEqual(D.post(CHAT, chat(max_tokens=1, sluice={"keep_alive": 0.3}))[0], 200)
        self.assertEqual(len(D.get("/sluice/v1/status")[1]["models"]), 1)
        wait_for(lambda: not D.get("/sluice/v1/status")[1]["models"], 5)

    def test_models_add_show_remove(self):
        path = os.path.join(D.dir, "Other-Model.gguf")
        shutil.copy(MODEL, path)
        status, doc, _ = D.post("/sluice/v1/models", {"path": path})
        self.assertEqual((status, doc["name"], doc["path"]), (201, "other-model", path))
        self.assertEqual(D.post("/sluice/v1/models", {"path": path})[:2], (200, doc))
        self.error(D.post("/sluice/v1/models", {"path": os.path.abspath(MODEL), "name": "other-model"}), 409, "name_taken")
        self.assertEqual(D.post(CHAT, chat(model="other-model", max_tokens=1))[0], 200)
        shown = D.get("/sluice/v1/models/other-model")[1]
        self.assertIn("general.architecture", shown["metadata"])
        self.assertEqual(sum(t["bytes"] > 0 for t in shown["tensors"]), len(shown["tensors"]))
        # The file changes under its name: an error that says how to go on, never other weights.
        D.post("/sluice/v1/models/other-model/unload", {})
        os.utime(path, (1, 1))
        e = self.error(D.post(CHAT, chat(model="other-model")), 422, "model_changed")
        self.assertIn("models add", e["hint"])
        self.assertEqual(D.post("/sluice/v1/models", {"path": path})[0], 200)
        self.assertEqual(D.post(CHAT, chat(model="other-model", max_tokens=1))[0], 200)
        # The list outlives the daemon.
        D.stop()
        D.start()
        self.assertIn("other-model", [m["name"] for m in D.get("/sluice/v1/models")[1]["models"]])
        status, gone, _ = D.delete("/sluice/v1/models/other-model", {"delete_file": True})
        self.assertEqual((status, gone["removed"], gone["file_deleted"]), (200, True, True))
        self.assertFalse(os.path.exists(path))
        self.error(D.get("/sluice/v1/models/other-model"), 404, "model_not_found")

    def test_bad_model_files(self):
        bad = os.path.join(D.dir, "bad.gguf")
        with open(MODEL, "rb") as f, open(bad, "wb") as out:
            out.write(f.read(2000))
        e = self.error(D.post("/sluice/v1/models", {"path": bad}), 422, D.post("/sluice/v1/models", {"path": bad})[1]["error"]["code"])
        self.assertTrue(e["code"].startswith("gguf."), e)
        self.assertEqual(e["file"], bad)
        self.assertIsInstance(e["offset"], int)
        self.error(D.post("/sluice/v1/models", {"path": "relative.gguf"}), 400, "invalid_request", "path")
        self.error(D.post("/sluice/v1/models", {"path": bad, "name": "../x"}), 400, "invalid_request", "name")
        for path in (D.dir, "/dev/zero", os.path.join(D.dir, "missing.gguf")):
            answer = D.post("/sluice/v1/models", {"path": path})
            self.assertEqual(answer[0], 422, answer[1])

    # ------------------------------------------------------------------ cancelling and waiting
    def long_stream(self, **more):
        c = Client(D.socket)
        c.send("POST", "/v1/completions", dict({"prompt": "Once upon a time", "stream": True, "n": 4, "max_tokens": 2000,
                                                "temperature": 1.0}, **more))
        return c

    def test_leaving_cancels_while_decoding_and_queued(self):
        idle()
        running = self.long_stream(prompt=["a"] * 32)
        wait_for(lambda: any(r["phase"] == "decode" for r in requests()))
        queued = [self.long_stream() for _ in range(3)]
        wait_for(lambda: len(requests()) == 4)
        self.assertEqual(sorted(r["position"] for r in requests()), [0, 1, 2, 3])
        queued[1].close()
        wait_for(lambda: len(requests()) == 3, 1.0)
        running.close()
        queued[0].close()
        queued[2].close()
        wait_for(lambda: not requests(), 1.0)

    def test_leaving_cancels_a_plain_request_too(self):
        idle()
        c = Client(D.socket)
        c.send("POST", "/v1/completions", {"prompt": ["a"] * 32, "n": 4, "max_tokens": 2000, "temperature": 1})
        wait_for(requests)
        c.close()
        wait_for(lambda: not requests(), 1.0)

    def test_leaving_cancels_in_prefill(self):
        idle()
        ctx = D.get("/sluice/v1/models")[1]["models"][0]["ctx"]
        # Different prompts, so that none is in the KV already.
        prompts = [[5 + (i * 7 + k) % 300 for k in range(ctx - 2)] for i in range(32)]
        for stream in (False, True):
            c = Client(D.socket)
            c.send("POST", "/v1/completions", {"prompt": prompts, "max_tokens": 1, "stream": stream})
            wait_for(lambda: any(r["phase"] == "prefill" for r in requests()))
            c.close()
            wait_for(lambda: not requests(), 1.0)

    def test_half_close_does_not_cancel(self):
        c = Client(D.socket)
        c.send("POST", "/v1/completions", {"prompt": "Once", "max_tokens": 30, "stream": True})
        c.s.shutdown(socket.SHUT_WR)
        status, _, data = c.answer()
        self.assertEqual((status, events(data.decode())[-1]), (200, "[DONE]"))
        c.close()

    def test_cancel_by_id(self):
        idle()
        c = self.long_stream(prompt=["a"] * 32)
        status, headers = c.head()
        self.assertEqual(status, 200)
        rid = headers["sluice-request-id"]
        self.assertEqual(D.delete("/sluice/v1/requests/" + rid)[0], 200)
        out = events(c.body(headers).decode())
        self.assertEqual(json.loads(out[-1])["error"]["code"], "cancelled")
        self.assertNotIn("[DONE]", out)
        c.close()

    def test_full_queue_says_when_to_come_back(self):
        idle()
        running = self.long_stream(prompt=["a"] * 32)
        wait_for(lambda: any(r["state"] == "running" for r in requests()))
        waiting = []
        try:
            for _ in range(8):
                waiting.append(self.long_stream())
            wait_for(lambda: len(requests()) == 9)
            answer = D.post(CHAT, chat())
            self.error(answer, 429, "queue_full")
            self.assertTrue(1 <= int(answer[2]["retry-after"]) <= 120)
            self.assertEqual(D.get("/health")[0], 200)
        finally:
            for c in waiting + [running]:
                c.close()
        idle()

    def test_slow_reader_pauses_its_generation_only(self):
        idle()
        c = self.long_stream(prompt=["Once"] * 32)
        c.head()
        wait_for(lambda: any(r["phase"] == "decode" for r in requests()))

        def stalled():
            a = [r["done"] for r in requests()]
            time.sleep(0.5)
            return a == [r["done"] for r in requests()]
        wait_for(stalled, 90)     # some 5 s; ten times that under a sanitizer
        t = time.monotonic()
        self.assertEqual(D.get("/health")[0], 200)
        self.assertLess(time.monotonic() - t, 1.0)
        # Reading on, it goes on.
        before = requests()[0]["done"]
        got = 0
        while got < 600000:
            got += len(c.chunk())
        self.assertTrue(requests() == [] or requests()[0]["done"] != before)
        c.close()
        wait_for(lambda: not requests(), 1.0)

    def test_many_at_once_get_their_own_answers(self):
        idle()
        words = ["apple", "river", "stone", "cloud", "tiger", "piano"]
        want = {w: D.post(CHAT, chat(w))[1]["choices"][0]["message"]["content"] for w in words}
        got, errors = {}, []

        def go(w):
            try:
                got[w] = D.post(CHAT, chat(w))[1]["choices"][0]["message"]["content"]
            except Exception as e:  # noqa: BLE001
                errors.append(e)
        threads = [threading.Thread(target=go, args=(w,)) for w in words]
        [t.start() for t in threads]
        [t.join() for t in threads]
        self.assertEqual((errors, got), ([], want))


class Waiting(unittest.TestCase):
    """What a client hears while it waits, with the clocks turned up."""

    def setUp(self):
        flags = []
        for setting in ("http.early_headers=200ms", "http.heartbeat=100ms", "http.pad_json=200ms", "http.write_timeout=1s"):
            flags += ["--set", setting]
        self.daemon = Daemon(SLUICED, MODEL, flags=flags).__enter__()
        self.addCleanup(self.daemon.__exit__, None, None, None)
        self.running = Client(self.daemon.socket)
        self.addCleanup(self.running.close)
        self.running.send("POST", "/v1/completions", {"prompt": ["Once"] * 32, "n": 4, "max_tokens": 4000, "temperature": 1})
        wait_for(lambda: any(r["state"] == "running" for r in self.requests()))

    def requests(self):
        return self.daemon.get("/sluice/v1/requests")[1]["requests"]

    def waiting_client(self, body):
        c = Client(self.daemon.socket)
        self.addCleanup(c.close)
        c.send("POST", CHAT, body)
        return c

    def test_stream_gets_its_head_early_and_heartbeats(self):
        t = time.monotonic()
        c = self.waiting_client(chat(stream=True))
        status, headers = c.head()
        self.assertEqual(status, 200)
        self.assertGreater(time.monotonic() - t, 0.15, "errors must have their time to be a status")
        self.assertIn("position=1;eta=", headers["sluice-queue"])
        for _ in range(3):
            self.assertEqual(c.chunk(), b": sluice queued 1\n\n")
        self.running.close()
        data = c.body(headers).decode()
        self.assertEqual(events(data)[-1], "[DONE]")

    def test_plain_answer_is_padded_with_space(self):
        c = self.waiting_client(chat())
        status, headers = c.head()
        self.assertEqual((status, headers["transfer-encoding"]), (200, "chunked"))
        self.assertEqual([c.chunk(), c.chunk()], [b" ", b" "])
        self.running.close()
        self.assertEqual(json.loads(c.body(headers))["object"], "chat.completion")
        self.assertEqual(c.request("GET", "/health")[0], 200, "the connection lives on")

    def test_late_failure_breaks_the_body_off_and_tells_the_truth_the_second_time(self):
        body = chat("remember me")
        c = self.waiting_client(body)
        _, headers = c.head()
        rid = headers["sluice-request-id"]
        self.assertEqual(self.daemon.delete("/sluice/v1/requests/" + rid)[0], 200)
        with self.assertRaises(EOFError):
            c.body(headers)
        t = time.monotonic()
        status, doc, headers = self.daemon.post(CHAT, body)
        self.assertLess(time.monotonic() - t, 0.15)
        self.assertEqual((status, doc["error"]["code"]), (499, "cancelled"))
        self.assertEqual(headers["x-should-retry"], "false")

    def test_early_failure_keeps_its_status(self):
        for stream in (False, True):
            c = self.waiting_client(chat(stream=stream))
            rid = wait_for(lambda: [r["id"] for r in self.requests() if r["state"] == "queued"])[0]
            self.daemon.delete("/sluice/v1/requests/" + rid)
            status, headers, data = c.answer()
            self.assertEqual((status, json.loads(data)["error"]["code"]), (499, "cancelled"))

    def test_a_reader_that_never_reads_is_given_up(self):
        self.running.close()
        c = self.waiting_client(chat(stream=True, max_tokens=100000, logprobs=True, top_logprobs=20, n=4, temperature=1))
        c.head()
        wait_for(self.requests)
        wait_for(lambda: not self.requests(), 20)
        with self.assertRaises((EOFError, ConnectionResetError)):
            while True:
                c.more()
                c.buf = b""


class Lifetime(unittest.TestCase):
    """Daemons of their own."""

    def test_drain_finishes_what_runs(self):
        with Daemon(SLUICED, MODEL, flags=("--set", "daemon.drain=100s")) as d:     # a sanitizer's build is slow
            c = Client(d.socket)
            c.send("POST", "/v1/completions", {"prompt": "Once", "max_tokens": 200, "stream": True, "n": 4, "temperature": 1})
            _, headers = c.head()
            d.process.terminate()
            data = c.body(headers).decode()
            self.assertEqual(events(data)[-1], "[DONE]")
            self.assertEqual(d.process.wait(15), 0)
            c.close()

    def test_drain_ends_in_an_error_event_when_its_time_is_up(self):
        with Daemon(SLUICED, MODEL) as d:
            c = Client(d.socket)
            c.send("POST", "/v1/completions", {"prompt": ["Once"] * 32, "max_tokens": 2000, "stream": True, "n": 4, "temperature": 1})
            _, headers = c.head()
            reading = threading.Thread(target=lambda: out.append(c.body(headers).decode()))
            out = []
            reading.start()
            self.assertEqual(d.post("/sluice/v1/shutdown", {"drain_ms": 300})[0], 202)
            reading.join(10)
            last = json.loads(events(out[0])[-1])
            self.assertEqual(last["error"]["code"], "shutting_down")
            self.assertEqual(d.process.wait(10), 0)
            c.close()

    def test_draining_refuses_work_and_says_so(self):
        with Daemon(SLUICED, MODEL) as d:
            c = Client(d.socket)
            c.send("POST", "/v1/completions", {"prompt": ["Once"] * 32, "max_tokens": 2000, "stream": True, "n": 4})
            c.head()
            d.process.terminate()
            time.sleep(0.2)
            status, doc, _ = d.get("/health")
            self.assertEqual((status, doc["status"]), (503, "draining"))
            status, doc, headers = d.post(CHAT, chat())
            self.assertEqual((status, doc["error"]["code"]), (503, "shutting_down"))
            self.assertIn("retry-after", headers)
            t = time.monotonic()
            d.process.terminate()       # the second one ends at once
            self.assertEqual(d.process.wait(10), 143)
            self.assertLess(time.monotonic() - t, 3)
            c.close()

    def test_idle_exit(self):
        with Daemon(SLUICED, MODEL, flags=["--idle-exit", "1s"]) as d:
            self.assertEqual(d.post(CHAT, chat(max_tokens=1))[0], 200)
            self.assertEqual(d.process.wait(10), 0)


if __name__ == "__main__":
    SLUICED, MODEL = sys.argv[1:3]
    rest = sys.argv[3:]
    with Daemon(SLUICED, MODEL) as D:
        program = unittest.main(argv=[sys.argv[0]] + rest, exit=False, verbosity=1)
        alive = D.process.poll() is None
    if not alive:
        print("the daemon died")
    sys.exit(0 if program.result.wasSuccessful() and alive else 1)
