#!/usr/bin/env python3
"""Interleaved pairs: Sluice and peers on the same file, with the same threads, everything in memory.

Each round runs every contender once, in an order that turns round by round; reported are medians and, for
Sluice over the best peer, the median of the paired ratios with a 95 % bootstrap interval. "Best" is the peer
with the higher median. Peers are llama.cpp-style `llama-bench` binaries, with flags of their own where wanted.

  pairs.py --model M.gguf [--prompt 512] [--gen 64] [--rounds 10] [--threads 2] [--kv f16|q8_0]
           --sluice build/release/bin/sluice-bench [--budget 2G] --peer ik=PATH/llama-bench
           [--peer "ik repacked=PATH/llama-bench -rtr 1"]
           [--first-token] [--run-with "chrt -r 10"] [--json FILE]

--gen counts tokens after the prompt with --at-prompt-end (decode at that depth), else from an empty context.
--first-token: wall time of a process that loads the file and computes one token, instead of speeds.
"""
import argparse, json, random, shlex, statistics, subprocess, sys, time


def run(command):
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout, time.monotonic() - start


def sluice(o):
    prefill = decode = None
    budget = ["--budget", o.budget] if o.budget else []
    base = o.run_with + [o.sluice, "--model", o.model, "--threads", str(o.threads), "--kv", o.kv, "--json", *budget]
    if o.first_token:
        return {"first token s": run(base + ["--prompt", "0", "--gen", "1"])[1]}
    if o.at_prompt_end:
        doc = json.loads(run(base + ["--prompt", str(o.prompt), "--gen", str(o.gen)])[0])
        return {"prefill": doc["prefill"]["tok_per_s"], "decode": doc["decode"]["tok_per_s"]}
    if o.prompt > 0:
        prefill = json.loads(run(base + ["--prompt", str(o.prompt), "--gen", "0"])[0])["prefill"]["tok_per_s"]
    if o.gen > 0:
        decode = json.loads(run(base + ["--prompt", "0", "--gen", str(o.gen)])[0])["decode"]["tok_per_s"]
    return {"prefill": prefill, "decode": decode}


def peer(o, path):
    base = o.run_with + [*shlex.split(path), "-m", o.model, "-t", str(o.threads), "-r", "1", "-o", "json", "-fa", "1",
                         "-ctk", o.kv, "-ctv", o.kv]
    if o.first_token:
        return {"first token s": run(base + ["-p", "0", "-n", "1"])[1]}
    if o.at_prompt_end:
        # Prompt and answer in one test: the answer's share is what the prompt alone does not take.
        docs = json.loads(run(base + ["-p", str(o.prompt), "-n", "0", "-pg" if o.pg else "-gp", f"{o.prompt},{o.gen}"])[0])
        prompt = next(d for d in docs if d["n_gen"] == 0)
        both = next(d for d in docs if d["n_gen"] > 0)
        decode = both["avg_ts"]
        if o.pg:
            seconds = (o.prompt + o.gen) / both["avg_ts"] - o.prompt / prompt["avg_ts"]
            decode = o.gen / max(seconds, 1e-9)
        return {"prefill": prompt["avg_ts"], "decode": decode}
    docs = json.loads(run(base + ["-p", str(o.prompt), "-n", str(o.gen)])[0])
    return {"prefill": next((d["avg_ts"] for d in docs if d["n_gen"] == 0), None),
            "decode": next((d["avg_ts"] for d in docs if d["n_gen"] > 0), None)}


def interval(ratios):
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(4000))
    return medians[100], medians[3899]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", required=True)
    ap.add_argument("--prompt", type=int, default=512)
    ap.add_argument("--gen", type=int, default=64)
    ap.add_argument("--rounds", type=int, default=10)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--kv", default="f16", choices=["f16", "q8_0"])
    ap.add_argument("--sluice", required=True)
    ap.add_argument("--budget", default="")
    ap.add_argument("--peer", action="append", default=[], metavar="NAME=PATH")
    ap.add_argument("--at-prompt-end", action="store_true")
    ap.add_argument("--pg", action="store_true", help="peers know -pg instead of -gp")
    ap.add_argument("--first-token", action="store_true")
    ap.add_argument("--run-with", default="", type=shlex.split)
    ap.add_argument("--json")
    o = ap.parse_args()
    o.run_with = o.run_with or []
    contenders = [("sluice", lambda: sluice(o))]
    contenders += [(p.split("=", 1)[0], lambda path=p.split("=", 1)[1]: peer(o, path)) for p in o.peer]
    seen = {name: [] for name, _ in contenders}
    for i in range(o.rounds):
        for name, measure in contenders[i % len(contenders):] + contenders[:i % len(contenders)]:
            seen[name].append(measure())
    result = {"model": o.model.rsplit("/", 1)[-1], "rounds": o.rounds, "kv": o.kv, "prompt": o.prompt, "gen": o.gen}
    for what in seen["sluice"][0]:
        if seen["sluice"][0][what] is None:
            continue
        medians = {name: statistics.median(r[what] for r in rows) for name, rows in seen.items()}
        spread = {name: (min(r[what] for r in rows), max(r[what] for r in rows)) for name, rows in seen.items()}
        line = "  ".join(f"{n} {m:.1f} ({spread[n][0]:.1f}..{spread[n][1]:.1f})" if m >= 10 else
                         f"{n} {m:.2f} ({spread[n][0]:.2f}..{spread[n][1]:.2f})" for n, m in medians.items())
        result[what] = {"median": medians, "spread": spread}
        peers = [n for n in medians if n != "sluice"]
        if peers:
            lower_is_better = what == "first token s"
            best = (min if lower_is_better else max)(peers, key=medians.get)
            ratios = [a[what] / b[what] for a, b in zip(seen["sluice"], seen[best])]
            low, high = interval(ratios)
            result[what]["over"] = {"peer": best, "ratio": statistics.median(ratios), "low": low, "high": high}
            line += f"  | over {best} {statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]"
        print(f"{result['model']} {o.kv} {what}: {line}", flush=True)
    if o.json:
        with open(o.json, "a", encoding="utf-8") as f:
            f.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
