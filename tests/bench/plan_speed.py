"""The tokens per second that a run predicts, beside those that it then reaches, for the presets up to gpt2-mini.

    python tests/bench/plan_speed.py [--limited]

`--limited` hides AVX-512 and bf16 units (see slow_cpu.py). Prints one JSON line: `ratio` of predicted to measured
tokens per second for each preset, trained with its own optimizer, and the worst of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from slow_cpu import HOME, LIMIT

RECIPE = """\
name: speed
tokenizer: {{train: {{algorithm: bpe, vocab_size: 2048}}}}
model: {{preset: {preset}, n_positions: 256, attn_pdrop: 0.0, embd_pdrop: 0.0, resid_pdrop: 0.0}}
pretrain:
  data: {{path: toy, name: stories}}
  args: {{max_steps: {steps}, per_device_train_batch_size: {rows}, save_strategy: "no", logging_steps: 5}}
"""
SIZES = {"gpt2-nano": (60, 4), "gpt2-micro": (40, 8), "gpt2-mini": (15, 8)}  # steps, rows of a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limited", action="store_true")
    limit = LIMIT if parser.parse_args().limited else {}
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        for preset, (steps, rows) in SIZES.items():
            path = Path(folder) / f"{preset}.yaml"
            path.write_text(RECIPE.format(preset=preset, steps=steps, rows=rows))
            command = [sys.executable, "-m", "hflm", "run", path.name, "--output", preset]
            environment = {**os.environ, "PYTHONPATH": str(HOME), **limit}
            subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
            compared = json.loads((Path(folder) / preset / "environment.json").read_text())["stages"]["pretrain"][
                "plan"
            ]
            predicted, measured = (compared[side]["tokens_per_second"] for side in ("predicted", "measured"))
            ratios[preset] = {
                "ratio": round(predicted / measured, 3),
                "predicted": round(predicted),
                "measured": round(measured),
            }
    worst = max(abs(each["ratio"] - 1) for each in ratios.values())
    print(json.dumps({"worst": round(worst, 3), **ratios}))


if __name__ == "__main__":
    main()
