"""An evaluation of a task during training, against the benchmark of the same rows: `python tests/bench/evaluation_in_training.py`.

Trains a few steps, measures 200 validation rows after each of them, and benchmarks the same rows with the weights of the
last step. Prints one JSON line: for each task the seconds of both, their ratio and whether the scores are the same. The
first evaluation imports the metrics.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPE = """
name: run
tokenizer: {train: {vocab_size: 2000}}
model: {preset: gpt2-nano, n_layer: 6, n_embd: 384, n_head: 6, n_positions: 256}
pretrain:
  data: {path: toy, name: stories, size: 400}
  evaluate: {tasks: [TASK], limit: ROWS}
  args: {max_steps: 4, eval_steps: 1, per_device_train_batch_size: 4, save_strategy: "no"}
tasks:
  sentiment:
    {data: {path: toy, name: sentiment}, labels: [negative, neutral, positive], splits: {validation: validation, test: validation}, limit: ROWS}
  qa: {data: {path: toy, name: qa}, splits: {validation: validation, test: validation}, max_new_tokens: 16, limit: ROWS}
benchmark: {tasks: [TASK], contamination: false}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["sentiment", "qa"])
    parser.add_argument("--rows", type=int, default=200)
    chosen = parser.parse_args()
    found = {}
    for task in chosen.tasks:
        with tempfile.TemporaryDirectory() as folder:
            found[task] = measure(Path(folder), task, chosen.rows)
    worst = max(found.values(), key=lambda each: each["ratio"])
    print(json.dumps({"ratio": worst["ratio"], "rows": chosen.rows, **found}))


def measure(folder, task, rows):
    (folder / "recipe.yaml").write_text(RECIPE.replace("TASK", task).replace("ROWS", str(rows)))
    command = [sys.executable, "-m", "hflm", "run", "recipe.yaml", "--output", "run"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    lines = map(json.loads, (folder / "run" / "pretrain" / "metrics.jsonl").read_text().splitlines())
    evaluations = [line for line in lines if "eval_runtime" in line]
    environment = json.loads((folder / "run" / "environment.json").read_text())
    results = json.loads((folder / "run" / "benchmark" / "results.json").read_text())["tasks"][task]["metrics"]
    first, last = evaluations[0]["eval_runtime"], evaluations[-1]["eval_runtime"]
    bench = environment["stages"][f"benchmark/{task}"]["seconds"]
    return {
        "ratio": round(last / bench, 2),
        "seconds_more_than_the_benchmark": round(last - bench, 2),
        "seconds": {
            "first_evaluation": round(first, 2),
            "last_evaluation": round(last, 2),
            "benchmark": round(bench, 2),
        },
        "same_scores": all(evaluations[-1][f"eval_{task}_{name}"] == each["value"] for name, each in results.items()),
    }


if __name__ == "__main__":
    main()
