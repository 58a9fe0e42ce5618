#!/usr/bin/env python3
"""One model case of tests/golden/public through `sluiced forward`, compared with what HF transformers computed.

  golden_forward.py --sluiced BIN CASE_FOLDER

With --f32: every tensor of the golden file, layer by layer, within the case's `f32_compute`; greedy decode exact;
KV-cache decode equal to the full pass; loss with ignored labels. Without: logits of what ships, within
`f16_kv_cache` (float weights) or `quantised_activations`.
"""
import argparse
import json
import os

from forward_lib import Checks, Forward, log_softmax, np, read_safetensors

# In a golden file, but computed from the logits or given to the run.
NOT_TAPS = {"input_ids", "labels", "logits", "greedy_tokens", "greedy_logits", "greedy_top10_ids",
            "greedy_top10_logprobs", "recompute_logits", "token_loss"}


# A table whose BF16 prompts have float activations, and one that rounds them, on any machine.
FLOAT_PROMPTS, ROUNDED_PROMPTS = {"SLUICE_KERNELS": "scalar"}, {"SLUICE_KERNELS": "scalar_bf16"}


def in_layer_order(name):
    stem, _, layer = name.partition(".")
    order = ["rope_inv_freq", "hidden_last", "q_rope", "k_rope", "v", "attn_ctx", "attn_out", "router", "mlp_out"]
    place = next((i for i, s in enumerate(order) if stem.startswith(s)), len(order))
    return (int(layer or 0), place, name) if stem != "final_norm" else (1 << 30, 0, name)


def check_taps(checks, mine, golden, tolerance):
    for name in sorted(set(golden) - NOT_TAPS, key=in_layer_order):
        if name not in mine:
            checks.that(False, f"tap {name}: missing; the file has {sorted(mine)}")
        elif name.startswith("router_experts"):
            a, b = np.asarray(mine[name]), golden[name]
            checks.that(a.shape == b.shape and np.array_equal(a.astype(np.int64), b), f"tap {name}: the same experts")
        elif name == "rope_inv_freq":
            checks.close(f"tap {name} (relative)", np.divide(mine[name], golden[name]), np.ones_like(golden[name]), 1e-5)
        else:
            checks.close(f"tap {name}", mine[name], golden[name], tolerance["hidden"])


def check_loss(checks, mine, golden, case, tolerance):
    if "token_loss" not in mine:
        return checks.that(False, "token_loss: missing though --labels was given")
    labels = golden["labels"][1:]
    loss = np.asarray(mine["token_loss"], np.float64)
    checks.close("token_loss", loss, golden["token_loss"], tolerance["logprobs"])
    checks.that(not loss[labels < 0].any(), "token_loss: 0 where the label is -100")
    counted = int((labels >= 0).sum())
    checks.that(counted == case["loss"]["n_counted"], f"loss: {counted} labels counted")
    checks.close("loss, mean over counted", [loss.sum() / counted], [case["loss"]["mean"]], tolerance["loss"])
    checks.close("loss as written", mine["loss"], [case["loss"]["mean"]], tolerance["loss"])


def check_decode_rows(checks, name, rows, golden, limit):
    """Rows of a KV-cache decode over the golden's own greedy tokens: row n predicts greedy token n."""
    if "greedy_logits" in golden:  # quantised cases keep only the ten likeliest
        checks.close(f"{name}: logits", rows, golden["greedy_logits"], limit["logits"])
    checks.that(np.array_equal(rows.argmax(-1), golden["greedy_tokens"]), f"{name}: greedy tokens exact")
    top = np.take_along_axis(log_softmax(rows), golden["greedy_top10_ids"].astype(np.int64), -1)
    checks.close(f"{name}: top-10 log-probabilities", top, golden["greedy_top10_logprobs"], limit["logprobs"])


def check_reference(checks, forward, model, golden, case):
    """--f32 against the float32 goldens."""
    limit = case["tolerance"]["f32_compute"]
    ids, greedy = golden["input_ids"], golden["greedy_tokens"]
    dynamic = case["config"]["rope_parameters"]["rope_type"] == "dynamic"
    n = len(ids)

    full = forward(model, ids, "--f32", "--taps", labels=golden["labels"])
    check_taps(checks, full, golden, limit)
    checks.close("logits", full["logits"], golden["logits"], limit["logits"])
    check_loss(checks, full, golden, case, limit)

    for keep, tail in case["logits_to_keep"].items():   # "0" means all rows
        rows = forward(model, ids, "--f32", "--logits-to-keep", keep)["logits"]
        same = rows.shape[0] == tail["rows"] and np.array_equal(rows, full["logits"][n - len(rows):])
        checks.that(same, f"logits-to-keep {keep}: the last {tail['rows']} rows, bit for bit")

    # Teacher-forced over the golden's tokens: once every argmax agrees, free greedy decoding is the same run.
    seq = np.concatenate([ids, greedy[:-1]])
    decoded = forward(model, seq, "--f32", "--decode-from", n)["logits"]
    check_decode_rows(checks, "decode", decoded[n - 1:], golden, limit)
    whole = forward(model, seq, "--f32")["logits"]
    if dynamic:
        # HF recomputes the frequencies from the length of the whole call, while cached keys keep their rotation: one
        # pass over everything is another result than decoding, and both are golden.
        checks.close("one pass over prompt and answer: logits", whole[n - 1:], golden["recompute_logits"], limit["logits"])
        return
    checks.close("decode equals the full pass", decoded, whole, limit["logits"])
    for start in (1, n // 2):
        rows = forward(model, ids, "--f32", "--decode-from", start)["logits"]
        checks.close(f"decode from {start}: logits", rows, golden["logits"], limit["logits"])


def check_shipping(checks, forward, model, golden, case, env=None):
    """What ships: quantised activations where the weights are quantised, f16 KV."""
    ids, greedy = golden["input_ids"], golden["greedy_tokens"]
    n = len(ids)
    logits = forward(model, ids, env=env)["logits"]
    decoded = forward(model, np.concatenate([ids, greedy[:-1]]), "--decode-from", n, env=env)["logits"][n - 1:]
    # Prompts of BF16 weights may round their activations: which table says so is the machine's, unless it is named.
    rounded = case["weight_type"] == "BF16" and env != FLOAT_PROMPTS
    if case["weight_type"] in ("F32", "F16", "BF16", "F64") and not rounded:
        limit = case["tolerance"]["f16_kv_cache"]
        rows = [("prompt", logits, golden["logits"])]
        if "greedy_logits" in golden:
            rows.append(("decode", decoded, golden["greedy_logits"]))
        for name, mine, want in rows:
            checks.close(f"shipping {name}: logits", mine, want, limit["logits_max_abs"])
            checks.rel_rms(f"shipping {name}: logits", mine, want, limit["logits_rel_rms"])
        checks.that(np.array_equal(decoded.argmax(-1), greedy), "shipping decode: greedy tokens exact")
        return
    limit = case["tolerance"]["quantised_activations"]
    checks.rel_rms("shipping prompt: logits", logits, golden["logits"], limit["logits_rel_rms"])
    mine = np.concatenate([logits, decoded]).argmax(-1)
    want = np.concatenate([golden["logits"].argmax(-1), greedy])
    agree = float((mine == want).mean())
    checks.that(agree >= limit["argmax_agreement"], f"shipping: argmax agreement {agree:.3f} (limit {limit['argmax_agreement']})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sluiced", required=True)
    parser.add_argument("folder")
    args = parser.parse_args()
    golden = read_safetensors(os.path.join(args.folder, "golden.safetensors"))
    with open(os.path.join(args.folder, "case.json")) as f:
        case = json.load(f)
    model = os.path.join(args.folder, "model.gguf")
    checks, forward = Checks(), Forward(args.sluiced)
    check_reference(checks, forward, model, golden, case)
    check_shipping(checks, forward, model, golden, case)
    if case["weight_type"] == "BF16":
        for env in (FLOAT_PROMPTS, ROUNDED_PROMPTS):
            print(f"SLUICE_KERNELS={env['SLUICE_KERNELS']}")
            check_shipping(checks, forward, model, golden, case, env)
    checks.finish()


if __name__ == "__main__":
    main()
