"""Steady tokens per second of `hflm run` against a minimal hand-written loop: `python tests/bench/train_speed.py`.

GPT-2 6 layers x 384, rows of 256 tokens, 8 a step, V = 4,096, fp32 on a CPU and bf16 on a GPU; train_loop.py is the
loop. The two run in turn, so that a machine whose speed changes treats them alike. Prints one JSON line: the median
ratio of the pairs, both speeds, and the FLOP/s that hflm reached as a part of the machine's rate of matrix products: as
it computes them, and as torch does by itself, which on AMD's CPUs is less (hflm.models.onednn).
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import training_setup as setup

RATE = """
import torch
from hflm.training.metrics_log import peak
print(peak(torch.device("cpu"), False).flops_per_second)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--compile", action="store_true", help="hflm compiled against the loop in eager mode")
    parser.add_argument("--compile-loop", action="store_true", help="the loop compiled too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), chosen)))


def measure(folder, chosen):
    setup.prepare(folder, chosen.vocab, chosen.steps, compiled=chosen.compile)
    loop = [str(Path(__file__).with_name("train_loop.py")), "--vocab", str(chosen.vocab), "--steps", str(chosen.steps)]
    loop += ["--compile"] if chosen.compile_loop else []
    ours, theirs, of_peak, of_torch = [], [], [], []
    for pair in range(chosen.pairs):
        process = setup.start(["-m", "hflm", "run", "recipe.yaml", "--output", f"run{pair}"], folder, "hflm.log")
        setup.output(process, folder, "hflm.log")
        record = setup.stage(folder, f"run{pair}")
        ours.append(record["tokens_per_second"])
        of_peak.append(record.get("mfu"))
        if "measured" in record.get("peak_source", ""):
            rate = float(setup.output(setup.start(["-c", RATE], folder, "rate.log"), folder, "rate.log"))
            of_torch.append(round(record["flops_per_second"] / rate, 4))
        theirs.append(float(setup.output(setup.start(loop, folder, "loop.log"), folder, "loop.log").split()[0]))
    return {
        "ratio": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3),
        "hflm_tokens_per_second": [round(each) for each in ours],
        "loop_tokens_per_second": [round(each) for each in theirs],
        "of_matrix_product_rate": of_peak,
        "of_torch_matrix_product_rate": of_torch,
        "peak_source": record.get("peak_source"),
        "compiled": {"hflm": chosen.compile, "loop": chosen.compile_loop},
    }


if __name__ == "__main__":
    main()
