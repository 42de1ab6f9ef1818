"""Training killed at random moments and resumed, against one that ran through: `python tests/bench/resume_kills.py`.

Each kill is a `kill -9` at a moment drawn from the whole time of a run (starting, training, saving), one run a kill.
Prints one JSON line: in how many runs the final weights are the same, byte for byte, and how often the kill came while
a checkpoint was being written. The model has dropout, so that the state of the random numbers counts too.

With --fsdp2 the model is divided among two processes (tests/fsdp2_on_cpu.py), of which a random one is killed. The line
also has how long the others took to end (the bar is 60 s), and in how many runs the log names the process and its cause.
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

import psutil
import training_setup as setup

SMALL = ["model.n_layer=2", "model.n_embd=64", "model.n_head=2", "model.attn_pdrop=0.1", "model.resid_pdrop=0.1"]
SAVING = ["pretrain.args.save_strategy=steps", "pretrain.args.save_steps=3"]

SHIM = Path(__file__).parents[1] / "fsdp2_on_cpu.py"
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SHIM), "hflm"]
HANG = 60  # seconds that the other processes may take to end


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fsdp2", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), chosen)))


def measure(folder, chosen):
    setup.prepare(folder, 300, chosen.steps)
    sets = [part for each in (*SMALL, *SAVING) for part in ("--set", each)]
    launch = TWO_PROCESSES if chosen.fsdp2 else ["-m", "hflm"]
    os.environ |= {"OMP_NUM_THREADS": "1"} if chosen.fsdp2 else {}

    def start(run):
        return setup.start([*launch, "run", "recipe.yaml", "--output", run, *sets], folder, f"{run}.log")

    def weights(run):
        return (folder / run / "model" / "model.safetensors").read_bytes()

    whole, began = start("whole"), time.monotonic()
    wait_for_training(whole, folder / "whole")
    starting = time.monotonic() - began
    setup.output(whole, folder, "whole.log")
    training = setup.stage(folder, "whole")["seconds"]
    expected, draw = weights("whole"), random.Random(chosen.seed)
    identical = unsealed = killed = hangs = named = 0
    took = []
    for number in range(chosen.kills):
        run = f"run{number}"
        process = start(run)
        wait_for_training(process, folder / run)
        time.sleep(draw.uniform(0, training))
        ranks = ranks_of(process) if chosen.fsdp2 else {}
        victim = draw.choice(sorted(ranks)) if ranks else None
        (ranks[victim] if ranks else process).send_signal(signal.SIGKILL)
        seconds = ended_within(process, list(ranks.values()), HANG)
        took.append(seconds or HANG)
        hangs += seconds is None
        killed += process.returncode != 0
        log = (folder / f"{run}.log").read_text()
        named += f"rank      : {victim} " in log and "Signal 9 (SIGKILL)" in log
        checkpoints = list((folder / run / "pretrain").glob("checkpoint-*"))
        unsealed += any(not (each / "checksums.json").is_file() for each in checkpoints)
        setup.output(start(run), folder, f"{run}.log")
        identical += weights(run) == expected
        print(f"{identical} of {number + 1} runs end in the same weights", file=sys.stderr)
        shutil.rmtree(folder / run)
    return {
        "ratio": identical / chosen.kills,
        "identical": identical,
        "runs": chosen.kills,
        "killed_before_the_end": killed,
        "killed_while_saving": unsealed,
        "seconds": {"starting": round(starting, 1), "training": round(training, 1)},
        **({"hangs": hangs, "cause_named": named, "others_ended_after": round(max(took), 1)} if chosen.fsdp2 else {}),
    }


def wait_for_training(process, run):
    while not (run / "pretrain").is_dir() and process.poll() is None:
        time.sleep(0.02)


def ranks_of(launcher):
    """{rank: process} of a torchrun process; empty when it has ended."""
    try:
        return {int(child.environ()["RANK"]): child for child in psutil.Process(launcher.pid).children()}
    except (psutil.Error, KeyError):
        return {}


def ended_within(process, ranks, limit):
    """The seconds until the launcher and all `ranks` have ended; None, and all are killed, where they do not."""
    began = time.monotonic()
    _, running = psutil.wait_procs(ranks, timeout=limit)
    try:
        process.wait(max(0.1, began + limit - time.monotonic()))
    except subprocess.TimeoutExpired:
        running.append(psutil.Process(process.pid))
    for each in running:
        each.kill()
    process.wait()
    return None if running else time.monotonic() - began


if __name__ == "__main__":
    main()
