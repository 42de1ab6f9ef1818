"""A sweep with pruning against the same number of full runs, on the quickstart's small world.

    uv run python tests/bench/sweep_speed.py [--trials 24] [--steps 120]

Both search the same three keys of fine-tuning for the accuracy of one task, in one process each after the other. The full
search draws its values at random and runs the whole recipe for each: tokenizer, pretraining, fine-tuning, benchmark. The
sweep is `hflm sweep` with TPE and the median pruner. `ratio` is the sweep's time over the full search's; `within` is
whether its best score is inside the interval of the full search's best, or above it.
"""

import argparse
import contextlib
import json
import random
import tempfile
import time
from pathlib import Path

from hflm.evaluation import read_results
from hflm.pipeline import RunOptions, run_recipe, sweep_recipe
from hflm.recipe import load_varied_recipe

RECIPE = """
extends: quickstart
name: small
pretrain: {args: {max_steps: PRETRAIN}}
tasks:
  sentiment: {splits: {train: train, validation: "validation[:200]", test: "test[:400]"}}
finetune: {tasks: [sentiment], args: {max_steps: FINETUNE, eval_steps: 0.1, save_strategy: "no"}}
benchmark: {tasks: [sentiment], contamination: false}
sweep:
  space:
    finetune.args.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}
    finetune.args.weight_decay: {low: 0.0, high: 0.3, step: 0.1}
    finetune.args.adam_beta1: [0.8, 0.9, 0.95]
  metric: benchmark.sentiment.accuracy
  sampler: {type: tpe, n_startup_trials: 8}
  pruner: {type: median, n_startup_trials: 3}
  confirm: null
"""


def drawn(number: int) -> dict[str, float]:
    """The values of one point of the random search."""
    draw = random.Random(f"full {number}")
    return {
        "finetune.args.learning_rate": 10 ** draw.uniform(-4, -1),
        "finetune.args.weight_decay": draw.choice([0.0, 0.1, 0.2, 0.3]),
        "finetune.args.adam_beta1": draw.choice([0.8, 0.9, 0.95]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--steps", type=int, default=120, help="of fine-tuning; pretraining takes a third of them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        text = RECIPE.replace("PRETRAIN", str(options.steps // 3)).replace("FINETUNE", str(options.steps))
        Path("small.yaml").write_text(text)
        # Imports and kernels that are compiled once are no part of either.
        run_recipe(load_varied_recipe("small.yaml", ["finetune.args.max_steps=2"], {}), "warm", RunOptions())
        started = time.monotonic()
        for number in range(options.trials):
            run_recipe(
                load_varied_recipe("small.yaml", [], drawn(number)), f"full/{number}", RunOptions(last="benchmark")
            )
        full = time.monotonic() - started
        started = time.monotonic()
        sweep_recipe("small.yaml", [f"sweep.trials={options.trials}"], "sweep")
        swept = time.monotonic() - started
        scores = [
            read_results(f"full/{number}/benchmark/results.json").tasks["sentiment"].metrics["accuracy"]
            for number in range(options.trials)
        ]
        best = max(scores, key=lambda score: score.value)
        found = json.loads(Path("sweep/results.json").read_text())
        score = max(each["scores"][0] for each in found["trials"] if each["scores"])
    report = {
        "trials": options.trials,
        "full_seconds": round(full, 1),
        "sweep_seconds": round(swept, 1),
        "ratio": round(swept / full, 3),
        "full_best": best.value,
        "full_best_ci95": best.ci95,
        "sweep_best": score,
        "within": score >= best.ci95[0],
        "pruned": sum(not each["scores"] for each in found["trials"]),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
