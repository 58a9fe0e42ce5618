#!/usr/bin/env python3
"""A real model as it ships, against HF float32 on its dequantised weights (tests/golden/real/*.json).

  golden_real.py --sluiced BIN GOLDEN.json

Mean NLL of each text within 1 %, top-1 agreement >= 95 % over all positions, and the greedy tokens of each chat equal
until the first position whose margin is below 0.3. Skips aloud where the model is absent.
"""
import argparse
import json
import os

from forward_lib import Checks, Forward, log_softmax, np, skip

SMALL_MARGIN = 0.3


def find_model(name):
    folder = os.environ.get("SLUICE_MODELS") or os.path.expanduser("~/.cache/sluice-models")
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        skip(f"{path} is not there", f"python3 tests/tools/fetch_models.py {name.removesuffix('.gguf')}")
    return path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sluiced", required=True)
    parser.add_argument("golden")
    args = parser.parse_args()
    with open(args.golden) as f:
        golden = json.load(f)
    model = find_model(golden["model"])
    checks, forward = Checks(), Forward(args.sluiced)

    agree = total = 0
    for name, text in golden["texts"].items():
        ids = np.array(text["ids"])
        logits = forward(model, ids)["logits"]
        nll = -log_softmax(logits[:-1])[np.arange(len(ids) - 1), ids[1:]].mean()
        off = abs(nll / text["mean_nll"] - 1)
        checks.that(off <= 0.01, f"{name}: mean NLL {nll:.4f}, expected {text['mean_nll']:.4f} ({off:.2%}, limit 1 %)")
        same = logits.argmax(-1) == np.array(text["top_ids"])[:, 0]
        print(f"        {name}: top-1 agrees at {same.sum()} of {len(same)} positions")
        agree, total = agree + int(same.sum()), total + len(same)
    checks.that(agree >= 0.95 * total, f"top-1 agreement {agree}/{total} = {agree / total:.3f} (limit 0.95)")

    for i, chat in enumerate(golden["chats"]):
        ids, greedy, margins = chat["ids"], chat["greedy"], chat["margins"]
        # The token at the first small margin may differ; all before it must not.
        n_exact = next((k for k, m in enumerate(margins) if m < SMALL_MARGIN), len(greedy))
        rows = forward(model, ids + greedy[:-1], "--decode-from", len(ids))["logits"][len(ids) - 1:]
        mine = rows.argmax(-1)
        differ = [k for k in range(n_exact) if mine[k] != greedy[k]]
        checks.that(len(rows) == len(greedy) and not differ, f"chat {i}: {n_exact} greedy tokens before the first margin < "
                    f"{SMALL_MARGIN} are equal" + (f"; differ at {differ}" if differ else ""))
        print(f"        chat {i}: {int((mine == np.array(greedy)).sum())} of {len(greedy)} equal in all")
    checks.finish()


if __name__ == "__main__":
    main()
