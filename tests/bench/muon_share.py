"""Muon's part of an optimizer step: `python tests/bench/muon_share.py`.

gpt2-nano at 1,024 tokens a step and gpt2-mini at 2,048 (rows of 256, V = 4,096), in the number formats that
hflm.core.arithmetic chooses here. Prints one JSON line: for each model the medians over the steps of the seconds of
the forward and backward pass and of the optimizer, and `ratio`, the optimizer's part of their sum.
"""

import json
import statistics

import torch

from hflm.core import arithmetic
from hflm.models import architecture
from hflm.planning import calibration, cost
from hflm.recipe import CONFIG_DEFAULTS, PRESETS

STEPS = {"gpt2-nano": (4, 60), "gpt2-mini": (8, 12)}  # rows of a step, steps
DROPOUTS = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}


def main() -> None:
    chosen = arithmetic.choose(torch.device("cpu"), {})
    measured = {}
    for preset, (rows, steps) in STEPS.items():
        config = {**CONFIG_DEFAULTS, **PRESETS[preset], **DROPOUTS, "vocab_size": 4096, "n_positions": 256}
        shape = architecture.of(config)
        load = cost.Load(rows, 256, optim="muon", mixed=chosen.autocast != "fp32")
        passes, updates = calibration.time_steps(config, shape.n_layer, rows, load, chosen, steps)
        both, update = statistics.median(passes), statistics.median(updates)
        measured[preset] = {
            "ratio": round(update / (both + update), 4),
            "passes_seconds": round(both, 4),
            "optimizer_seconds": round(update, 4),
        }
    print(json.dumps({**measured, "arithmetic": str(chosen)}))


if __name__ == "__main__":
    main()
