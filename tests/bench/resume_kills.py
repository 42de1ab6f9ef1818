"""Training killed at random moments and resumed, against one that ran through: `python tests/bench/resume_kills.py`.

Each kill is a `kill -9` at a moment drawn from the whole time of a run (starting, training, saving), one run a kill.
Prints one JSON line: in how many runs the final weights are the same, byte for byte, and how often the kill came while
a checkpoint was being written. The model has dropout, so that the state of the random numbers counts too.
"""

import argparse
import json
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import training_setup as setup

SMALL = ["model.n_layer=2", "model.n_embd=64", "model.n_head=2", "model.attn_pdrop=0.1", "model.resid_pdrop=0.1"]
SAVING = ["pretrain.args.save_strategy=steps", "pretrain.args.save_steps=3"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), chosen)))


def measure(folder, chosen):
    setup.prepare(folder, 300, chosen.steps)
    sets = [part for each in (*SMALL, *SAVING) for part in ("--set", each)]

    def start(run):
        return setup.start(["-m", "hflm", "run", "recipe.yaml", "--output", run, *sets], folder, f"{run}.log")

    def weights(run):
        return (folder / run / "model" / "model.safetensors").read_bytes()

    whole = start("whole")
    began = time.monotonic()
    while not (folder / "whole" / "pretrain").is_dir() and whole.poll() is None:
        time.sleep(0.02)
    starting = time.monotonic() - began
    setup.output(whole, folder, "whole.log")
    training = setup.stage(folder, "whole")["seconds"]
    expected, draw = weights("whole"), random.Random(chosen.seed)
    identical = unsealed = killed = 0
    for number in range(chosen.kills):
        run = f"run{number}"
        process = start(run)
        while not (folder / run / "pretrain").is_dir() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, training))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        checkpoints = list((folder / run / "pretrain").glob("checkpoint-*"))
        unsealed += any(not (each / "checksums.json").is_file() for each in checkpoints)
        setup.output(start(run), folder, f"{run}.log")
        identical += weights(run) == expected
        shutil.rmtree(folder / run)
    return {
        "ratio": identical / chosen.kills,
        "identical": identical,
        "runs": chosen.kills,
        "killed_before_the_end": killed,
        "killed_while_saving": unsealed,
        "seconds": {"starting": round(starting, 1), "training": round(training, 1)},
    }


if __name__ == "__main__":
    main()
