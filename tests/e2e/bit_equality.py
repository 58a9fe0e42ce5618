#!/usr/bin/env python3
"""The same ids through different circumstances must give the same bytes: threads, chunks, decode or prefill, kernels.

  bit_equality.py --sluiced BIN MODEL.gguf...      (vocabularies and lengths are drawn from --seed)

DESIGN section 7: the text never depends on the circumstances. Compared are whole safetensors files.
"""
import argparse
import filecmp
import os

from forward_lib import Checks, Forward, np, read_safetensors

# Variant: what the CPU must have for it, as /proc/cpuinfo names it. Those of one list follow the same definitions,
# prompts included, the slowest first; those of two agree where no token is a prompt's, and with --f32.
AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
DEFINITIONS = [
    {"scalar": set(), "avx2": AVX2, "avxvnni": AVX2 | {"avx_vnni"}, "avx512": AVX512},
    {"scalar_bf16": set(), "avx512_bf16": AVX512 | {"avx512_bf16"}},
    {"scalar_bf16_tiles": set()},
]


def cpu_flags():
    try:
        with open("/proc/cpuinfo") as f:
            return set(next((line for line in f if line.startswith("flags")), "").split())
    except OSError:
        return set()


CPU = cpu_flags()
# Tiles that multiply BF16 have a definition of their own.
DEFINITIONS[2 if "amx_bf16" in CPU else 1]["amx"] = AVX512 | {"avx512_bf16", "amx_tile", "amx_int8"}
KERNELS = {name: flags for variants in DEFINITIONS for name, flags in variants.items()}


def cpu_has(name):
    return KERNELS[name] <= CPU


def best(variants):
    return [name for name in variants if cpu_has(name)][-1]


def describe(a, b):
    x, y = read_safetensors(a), read_safetensors(b)
    out = [f"only in one: {sorted(set(x) ^ set(y))}"] if set(x) != set(y) else []
    for name in sorted(set(x) & set(y)):
        if x[name].shape != y[name].shape:
            out.append(f"{name}: shape {x[name].shape} and {y[name].shape}")
        elif x[name].tobytes() != y[name].tobytes():
            rows = [i for i in range(len(x[name])) if x[name][i].tobytes() != y[name][i].tobytes()]
            with np.errstate(all="ignore"):
                worst = np.nanmax(np.abs(x[name].astype(np.float64) - y[name].astype(np.float64)))
            out.append(f"{name}: {len(rows)} rows differ, first {rows[:4]}, by up to {worst:.2e}")
    return "; ".join(out[:3]) or "file headers differ"


def check_model(checks, forward, model, args, rng):
    n = int(rng.integers(args.min_tokens, args.max_tokens + 1))
    ids = rng.integers(0, args.vocab, n)
    name = os.path.basename(os.path.dirname(os.path.abspath(model))) if os.path.basename(model) == "model.gguf" \
        else os.path.basename(model)

    def same(what, base, *flags, env=None):
        other = forward.path(model, ids, *flags, env=env)
        equal = filecmp.cmp(base, other, shallow=False)
        checks.that(equal, f"{name}, {n} tokens: {what}" + ("" if equal else f": {describe(base, other)}"))
        os.remove(other)

    for mode in ([], ["--f32"]):
        label = "f32" if mode else "shipping"
        taps = mode + ["--taps"]
        base = forward.path(model, ids, *taps, "--threads", 1)
        for threads in (2, 3, 5):
            same(f"{label}: {threads} threads = 1", base, *taps, "--threads", threads)
        plain = forward.path(model, ids, *mode, "--threads", 1)
        # Fed one by one, tokens follow the row definition: so must the prompt that they are compared with.
        row = {"SLUICE_KERNELS": best(DEFINITIONS[0])}
        rows = forward.path(model, ids, *mode, "--threads", 2, env=row)
        for chunk in args.chunks:
            same(f"{label}: chunks of {chunk} = one pass", plain, *mode, "--chunk", chunk, "--threads", 2)
        if args.decode:
            for start in sorted({1, int(rng.integers(1, n))}):
                same(f"{label}: decode from {start} = one pass", rows, *mode, "--decode-from", start, "--threads", 2, env=row)
            same(f"{label}: decode from 1 = one pass, default kernels", rows, *mode, "--decode-from", 1)
        decoded = forward.path(model, ids, *mode, "--decode-from", n // 2, "--threads", 1)
        same(f"{label}: decode with 3 threads = 1", decoded, *mode, "--decode-from", n // 2, "--threads", 3)
        same(f"{label}: decode after chunks of 5 = after one pass", decoded, *mode, "--decode-from", n // 2, "--chunk", 5)
        default = 0
        for variants in DEFINITIONS[:1] if mode else DEFINITIONS:
            first = {"SLUICE_KERNELS": best(variants)}
            want = forward.path(model, ids, *taps, "--threads", 2, env=first)
            want_decoded = forward.path(model, ids, *mode, "--decode-from", n // 2, env=first)
            default += filecmp.cmp(want, base, shallow=False) and filecmp.cmp(want_decoded, decoded, shallow=False)
            for kernels in variants:
                if not cpu_has(kernels):
                    print(f"SKIPPED: {kernels}: this CPU lacks it")
                    continue
                env = {"SLUICE_KERNELS": kernels}
                same(f"{label}: SLUICE_KERNELS={kernels}", want, *taps, env=env)
                same(f"{label}: decode, SLUICE_KERNELS={kernels}", want_decoded, *mode, "--decode-from", n // 2, env=env)
            os.remove(want)
            os.remove(want_decoded)
        checks.that(default > 0, f"{label}: the kernels chosen follow a definition of prompts")
        for path in (base, plain, rows, decoded):
            os.remove(path)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sluiced", required=True)
    parser.add_argument("--seed", type=int, default=None, help="default: drawn, and printed")
    parser.add_argument("--vocab", type=int, default=500, help="ids are drawn below this")
    parser.add_argument("--min-tokens", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=150, help="beyond one KV page of 64")
    parser.add_argument("--chunks", type=lambda s: [int(c) for c in s.split(",")], default=[1, 7, 64])
    parser.add_argument("--no-decode", dest="decode", action="store_false",
                        help="leave out decode = prefill, which dynamic NTK does not promise")
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}   (repeat with --seed {seed})")
    checks, forward = Checks(), Forward(args.sluiced)
    for model in args.models:
        check_model(checks, forward, model, args, np.random.default_rng(seed))
    checks.finish()


if __name__ == "__main__":
    main()
