"""The best checkpoint of a run that overfits, killed and resumed: `python tests/bench/best_checkpoint_kills.py`.

Fine-tunes on a few rows until the score on other rows falls, and stops early. Each run is killed several times (`kill
-9`) at moments drawn from the time that is left, and resumed. Prints one JSON line: in how many runs the same step was
kept, with the same score, and the same weights byte for byte, as in a run that was left alone.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
name: run
tokenizer: {train: {vocab_size: 1000}}
model: {preset: gpt2-nano, n_layer: 2, n_embd: 128, n_head: 4, n_positions: 128, resid_pdrop: 0.1, attn_pdrop: 0.1}
tasks:
  sentiment:
    data: {path: toy, name: sentiment}
    labels: [negative, neutral, positive]
    splits: {train: "train[:48]", validation: validation}
finetune:
  tasks: [sentiment]
  evaluate: {tasks: [sentiment], limit: 200}
  early_stopping: {patience: 8}
  args:
    max_steps: 400
    per_device_train_batch_size: 4
    learning_rate: 2.0e-3
    lr_scheduler_type: constant
    eval_steps: 5
    save_steps: 10
    logging_steps: 5
    load_best_model_at_end: true
    metric_for_best_model: METRIC
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=5, help="of each run")
    parser.add_argument("--metric", default="sentiment_accuracy", help="or loss")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), chosen)))


def measure(folder, chosen):
    (folder / "recipe.yaml").write_text(RECIPE.replace("METRIC", chosen.metric))

    def start(run):
        command = [sys.executable, "-m", "hflm", "run", "recipe.yaml", "--output", run]
        with open(folder / f"{run}.log", "a") as log:
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ})

    def finish(run):
        process = start(run)
        assert process.wait() == 0, (folder / f"{run}.log").read_text()[-2000:]
        spent = json.loads((folder / run / "environment.json").read_text())["stages"]["finetune"]
        weights = (folder / run / "model" / "model.safetensors").read_bytes()
        return spent["kept"], spent["steps"], weights

    def logged(run):
        path = folder / run / "finetune" / "metrics.jsonl"
        return path.read_text() if path.exists() else ""

    kept, steps, weights = finish("whole")
    training = json.loads(logged("whole").splitlines()[-1])["seconds"]
    draw = random.Random(chosen.seed)
    same = identical = kills = 0
    for number in range(chosen.runs):
        run = f"run{number}"
        for left in range(chosen.kills, 0, -1):
            before, process = logged(run), start(run)
            while process.poll() is None and logged(run) == before:
                time.sleep(0.02)  # until it trains: its first line, or one less after a resume
            time.sleep(draw.uniform(0, training / left))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        found = finish(run)
        same += found[:2] == (kept, steps)
        identical += found[2] == weights
        shutil.rmtree(folder / run)
    return {
        "ratio": same / chosen.runs,
        "same_step_and_score": same,
        "same_weights": identical,
        "runs": chosen.runs,
        "kills_while_it_ran": kills,
        "kept": kept,
        "stopped_at": steps,
        "seconds_of_training": training,
    }


if __name__ == "__main__":
    main()
