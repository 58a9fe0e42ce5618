#!/usr/bin/env python3
"""What a budget would buy: plan_test.py SLUICED SLUICE MODEL.gguf

POST /sluice/v1/plan, `sluice plan`, and the speeds that are measured, learned and kept for it."""
import json
import os
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from daemon_lib import Daemon  # noqa: E402

SLUICED, SLUICE, MODEL = None, None, None
D = None
PLAN = "/sluice/v1/plan"
MiB = 1 << 20


def sluice(*args, check=0, daemon=None):
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8",
           "SLUICE_HOST": "unix://" + (daemon or D).socket}
    done = subprocess.run([SLUICE, *args], capture_output=True, text=True, env=env, timeout=120, cwd="/")
    assert done.returncode == check, (args, done.returncode, done.stdout, done.stderr)
    return done


def measurements(daemon):
    return os.path.join(daemon.dir, "state", "measurements.json")


def measured(daemon):
    with open(measurements(daemon)) as f:
        return json.load(f)


class Http(unittest.TestCase):
    def plan(self, **body):
        status, doc, _ = D.post(PLAN, dict({"model": "demo"}, **body))
        self.assertEqual(status, 200, doc)
        return doc

    def test_rows_carry_every_term(self):
        floor = self.plan()["floor"]["floor_bytes"]
        budgets = [floor, floor + MiB, floor + 64 * MiB, "40%", 1000]
        doc = self.plan(budgets=budgets, ctx=256, kv_type="f16", prompt_tokens=64)
        self.assertEqual(doc["schema"], "sluice.plan.v1")
        self.assertEqual((doc["model"], doc["ctx"], doc["kv_type"], doc["prompt_tokens"]), ("demo", 256, "f16", 64))
        self.assertEqual(len(doc["rows"]), len(budgets))
        for row in doc["rows"][:3]:
            self.assertTrue(row["fits"])
            used = sum(row[k] for k in ("kv_bytes", "ring_bytes", "activations_bytes", "fixed_bytes", "headroom_bytes", "pinned_bytes"))
            self.assertLessEqual(used, row["budget_bytes"])
            for key in ("tok_per_s", "ttft_ms", "load_ms"):
                r = row[key]
                self.assertLessEqual(r["low"], r["likely"])
                self.assertLessEqual(r["likely"], r["high"])
            self.assertGreater(row["tok_per_s"]["low"], 0)
            self.assertIn(row["limited_by"], ("disk", "compute", "memory bandwidth"))
        self.assertEqual(doc["rows"][2]["streamed_bytes_per_token"], 0)
        self.assertEqual(doc["rows"][2]["pinned_ratio"], 1)
        self.assertGreaterEqual(doc["rows"][0]["streamed_bytes_per_token"], doc["rows"][1]["streamed_bytes_per_token"])
        below = doc["rows"][4]
        self.assertFalse(below["fits"])
        self.assertIsNone(below["tok_per_s"])
        f = doc["floor"]
        parts = sum(v for k, v in f.items() if k != "floor_bytes")
        self.assertLess(abs(parts - f["floor_bytes"]), 2 * MiB)
        for name in ("disk_bytes_per_s", "decode_compute_ms", "prompt_token_ms"):
            i = doc["inputs"][name]
            self.assertGreater(i["value"], 0)
            self.assertIn(i["source"], ("probe", "runs"))
            self.assertGreaterEqual(i["age_ms"], 0)

    def test_nothing_is_loaded_or_registered(self):
        self.plan()
        other = os.path.join(D.dir, "other.gguf")
        shutil.copy(MODEL, other)
        doc = self.plan(model=other)
        self.assertEqual((doc["model"], doc["path"]), ("other", other))
        self.assertEqual(D.get("/sluice/v1/status")[1]["models"], [])
        self.assertEqual([m["name"] for m in D.get("/sluice/v1/models")[1]["models"]], ["demo"])

    def test_the_ladder_goes_from_the_floor_to_all_resident(self):
        doc = self.plan()
        rows = doc["rows"]
        self.assertEqual(rows[0]["budget_bytes"], doc["floor"]["floor_bytes"])
        self.assertEqual(rows[-1]["budget_bytes"], doc["resident_budget_bytes"])
        self.assertEqual(rows[-1]["streamed_bytes_per_token"], 0)
        self.assertTrue(all(r["fits"] for r in rows))

    def test_measured_once_and_kept(self):
        self.plan()
        self.assertEqual(measured(D)["schema"], "sluice.measurements.v1")
        self.assertEqual(os.stat(measurements(D)).st_mode & 0o777, 0o600)
        before = self.plan()["inputs"]["disk_bytes_per_s"]
        self.assertEqual(self.plan()["inputs"]["disk_bytes_per_s"]["value"], before["value"])
        anew = self.plan(measure_disk=True)["inputs"]["disk_bytes_per_s"]
        self.assertEqual(anew["source"], "probe")
        self.assertLess(anew["age_ms"], 5000)

    def test_what_a_load_found_out_about_the_drivers_is_kept(self):
        D.post("/v1/completions", {"model": "demo", "prompt": "a", "max_tokens": 1})
        hosts = measured(D)["drivers"]
        self.assertEqual(len(hosts), 1, hosts)
        for widths in list(hosts.values())[0].values():
            self.assertIn(widths["row_tokens"], range(-1, 5))
            self.assertTrue(widths["tile_tokens"] == -1 or 16 <= widths["tile_tokens"] <= 64, widths)

    def test_bad_input_is_one_clear_400(self):
        for body, param in (({"budgets": ["lots"]}, "budgets"), ({"budgets": [0]}, "budgets"), ({"budgets": [-1]}, "budgets"),
                            ({"budgets": [1e30]}, "budgets"), ({"budgets": "1G"}, "budgets"), ({"budgets": [1] * 65}, "budgets"),
                            ({"ctx": 0}, "ctx"), ({"ctx": 1 << 40}, "ctx"), ({"ctx": 1 << 30}, "ctx"), ({"kv_type": "q4_0"}, "kv_type"),
                            ({"prompt_tokens": 1 << 20}, "prompt_tokens"), ({"model": 7}, "model"), ({"model": "a\0b"}, "model"),
                            ({"budget": ["1G"]}, "budget"), ({"measure_disk": 1}, "measure_disk")):
            status, doc, _ = D.post(PLAN, dict({"model": "demo"}, **body))
            self.assertEqual(status, 400, (body, doc))
            self.assertEqual(doc["error"]["param"], param, body)
            self.assertTrue(doc["error"]["message"])

    def test_models_that_are_not_there(self):
        self.assertEqual(D.post(PLAN, {"model": "dmo"})[1]["error"]["code"], "model_not_found")
        status, doc, _ = D.post(PLAN, {"model": "/nowhere/at/all.gguf"})
        self.assertEqual((status, doc["error"]["code"]), (422, "io.open"))
        status, doc, _ = D.post(PLAN, {"model": "/etc/passwd"})
        self.assertEqual(status, 422, doc)
        self.assertTrue(doc["error"]["code"].startswith("gguf."), doc)

    def test_under_a_budget_runs_teach(self):
        with Daemon(SLUICED, MODEL, flags=["--budget", "200M"]) as d:
            first = d.post(PLAN, {"model": "demo"})[1]
            self.assertEqual(first["limit_bytes"], 200 * MiB)
            self.assertEqual(first["inputs"]["runs"], 0)
            self.assertEqual(d.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 40})[0], 200)
            taught = d.post(PLAN, {"model": "demo"})[1]["inputs"]
            self.assertEqual(taught["runs"], 1)
            self.assertEqual(taught["decode_compute_ms"]["source"], "runs")
            self.assertEqual(d.stop(), 0)
            self.assertEqual(list(measured(d)["models"].values())[0]["runs"], 1)
            # A file that is damaged costs a measurement, nothing else.
            with open(measurements(d), "w") as f:
                f.write('{"models":')
            d.start()
            again = d.post(PLAN, {"model": "demo"})
            self.assertEqual((again[0], again[1]["inputs"]["runs"]), (200, 0))
            self.assertIn("measured speeds are ignored", d.log_text())
            measured(d)


class Cli(unittest.TestCase):
    def test_the_table(self):
        out = sluice("plan", "demo", "--budget", "10M,100M", "--budget", "1G").stdout
        lines = out.splitlines()
        self.assertRegex(lines[0], r"^demo  \S+  \d+ blocks  \d+ MiB   ctx \d+   disk [\d.]+ [MG]iB/s \((measured|seen in runs) .*\)$")
        self.assertRegex(lines[1], r"^BUDGET +FLOOR\? +PINNED +STREAMED/TOK +PREDICTED TOK/S +LIMITED BY$")
        self.assertRegex(lines[2], r"^10 MiB +below")
        self.assertRegex(lines[3], r"^100 MiB +ok +100% +0 +[\d.]+ \([\d.]+-[\d.]+\) +(compute|memory bandwidth)$")
        self.assertRegex(lines[4], r"^1\.0 GiB +ok")
        self.assertRegex(lines[5], r"^floor \d+ MiB = \d+ KV \+ \d+ ring \+ \d+ activations \+ \d+ fixed \+ \d+ headroom\.  "
                                   r"Next step that pays: \d+ MiB \(all resident\)\.$")
        self.assertEqual(len(lines), 6)

    def test_json_is_the_daemons_document(self):
        doc = json.loads(sluice("plan", "demo", "--json", "--ctx", "128", "--budget", "64M").stdout)
        self.assertEqual((doc["schema"], doc["ctx"], len(doc["rows"])), ("sluice.plan.v1", 128, 1))
        self.assertEqual(doc["rows"][0]["budget_bytes"], 64 * MiB)

    def test_kv_of_eight_bits_takes_little_more_than_half(self):
        whole, half = (json.loads(sluice("plan", "demo", "--ctx", "1024", "--kv", t, "--json").stdout) for t in ("f16", "q8_0"))
        self.assertEqual((whole["kv_type"], half["kv_type"]), ("f16", "q8_0"))
        ratio = half["rows"][-1]["kv_bytes"] / whole["rows"][-1]["kv_bytes"]
        self.assertAlmostEqual(ratio, 34 / 64, delta=0.02)

    def test_a_path_is_planned_and_not_registered(self):
        other = os.path.join(D.dir, "by path.gguf")
        shutil.copy(MODEL, other)
        self.assertIn("by-path  ", sluice("plan", other).stdout)
        self.assertNotIn("by-path", sluice("models", "ls").stdout)

    def test_errors(self):
        self.assertIn("budgets[0]", sluice("plan", "demo", "--budget", "lots", check=1).stderr)
        sluice("plan", "nobody", check=5)
        sluice("plan", "demo", "--ctx", "0", check=2)
        sluice("plan", "demo", "--kv", "q4_0", check=2)
        sluice("plan", check=2)
        self.assertIn("model's own context", sluice("plan", "demo", "--ctx", "99999999", check=1).stderr)


if __name__ == "__main__":
    SLUICED, SLUICE, MODEL = (os.path.abspath(a) for a in sys.argv[1:4])
    with Daemon(SLUICED, MODEL) as D:
        program = unittest.main(argv=[sys.argv[0]] + sys.argv[4:], exit=False, verbosity=1)
        alive = D.process.poll() is None
    if not alive:
        print("the daemon died")
    sys.exit(0 if program.result.wasSuccessful() and alive else 1)
