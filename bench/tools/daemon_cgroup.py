#!/usr/bin/env python3
"""sluiced itself in a memory cgroup whose limit IS its budget: start, load, a prompt of about 2,000 tokens, a lower budget while
an answer is written, and back. Printed per budget: peak charged, reclaim events, OOM kills, speeds, and whether the greedy text
is that of the first budget. A second run has 256 MiB of room: its peak must not pass the budget either.

Needs root (cgroups, drop_caches). The page cache is dropped before each run.
  daemon_cgroup.py --sluiced build/release/bin/sluiced --model M.gguf --budgets 1000M,800M,600M,400M
"""
import argparse, os, stat, sys, tempfile, threading, time
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path[:0] = [str(here), str(here.parents[1] / "tests" / "e2e")]
import daemon_lib
from versus import Cgroup, drop_caches, parse_size

STORY = ("The keeper of the lighthouse wrote down the wind, the tide and every sail that passed, and he never once asked who would "
         "read it. In winter the lamp burned for sixteen hours, and the oil was counted drop by drop. ")
REQUEST = {"prompt": STORY * 48 + "\nIn one sentence, the keeper", "temperature": 0, "max_tokens": 24}


def set_budget(d, n_bytes):
    c = daemon_lib.Client(d.socket)
    status, doc, _ = c.request("PUT", "/sluice/v1/budget", {"ram_bytes": n_bytes})
    c.close()
    return status, doc


def run(a, budget, limit):
    drop_caches()
    group, notes = Cgroup(limit), []
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "sluiced-in-cgroup"
        start.write_text(f"#!/bin/sh\necho $$ > {group.dir}/cgroup.procs\nexec {os.path.abspath(a.sluiced)} \"$@\"\n")
        start.chmod(start.stat().st_mode | stat.S_IXUSR)
        texts, speeds = [], []
        with daemon_lib.Daemon(str(start), a.model, flags=["--budget", str(budget)]) as d:
            name = d.get("/v1/models")[1]["data"][0]["id"]

            def answer():
                begin = time.monotonic()
                c = daemon_lib.Client(d.socket, timeout=900)
                status, doc, _ = c.request("POST", "/v1/completions", {"model": name, **REQUEST})
                c.close()
                if status != 200:
                    notes.append(f"{status} {doc['error']['message'][:160]}")
                    return
                texts.append(doc["choices"][0]["text"])
                speeds.append(time.monotonic() - begin)
                notes.append(f"{doc['usage']['prompt_tokens']} tokens, {speeds[-1]:.1f} s")

            answer()
            lower = int(budget * a.cut)
            t = threading.Thread(target=answer)
            t.start()
            time.sleep(0.5)
            begin = time.monotonic()
            status, doc = set_budget(d, lower)
            notes.append(f"cut to {lower >> 20} MiB: {status}, {1000 * (time.monotonic() - begin):.0f} ms"
                         if status == 200 else f"cut to {lower >> 20} MiB: {status} {doc['error']['message'][:120]}")
            t.join()
            set_budget(d, budget)
            answer()
    row = {"peak": group.peak(), "reclaims": group.reclaims(), "oom": group.oom_kills(), "texts": texts, "notes": notes}
    group.close()
    return row


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sluiced", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--budgets", required=True)
    p.add_argument("--cut", type=float, default=0.8, help="the lower budget, as a share")
    a = p.parse_args()
    first = None
    for text in a.budgets.split(","):
        budget = parse_size(text)
        for room in (0, 256 << 20):
            r = run(a, budget, budget + room)
            first = first or (r["texts"] or [None])[0]
            same = bool(r["texts"]) and all(t == first for t in r["texts"])
            print(f"budget {text} limit +{room >> 20} MiB: peak {r['peak'] / 2**20:.0f} MiB, reclaims {r['reclaims']}, oom {r['oom']}, "
                  f"{len(r['texts'])} answers, text {'same' if same else 'DIFFERS'};  " + "; ".join(r["notes"]), flush=True)


if __name__ == "__main__":
    main()
