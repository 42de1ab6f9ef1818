"""A machine that is lost again and again, its folder deleted, against a run that nothing disturbed.

    python tests/bench/from_hub_losses.py [--losses 5] [--seed 0] [--xet]

The recipe pretrains and fine-tunes (LoRA, dropout everywhere) with `push: {checkpoints: true}`, to a Hub on loopback.
The losses are spread over both stages. Each is a `kill -9` at a random moment of the second after a checkpoint has arrived
there, and the deletion of everything
that the machine had; `hflm run --from-hub` continues on an empty one. Prints one JSON line: whether the final weights are
those of the undisturbed run, byte for byte, from where each machine continued, and how often the kill came while an
upload was under way.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hub import Hub

PRETRAIN_STEPS, STEPS = 90, 180
ARGS = {"per_device_train_batch_size": 8, "learning_rate": 1e-3, "save_steps": 5, "save_total_limit": 1}
RECIPE = {
    "name": "lost",
    "tokenizer": {"train": {"vocab_size": 1000}},
    "model": {
        "preset": "gpt2-nano",
        "n_layer": 2,
        "n_embd": 128,
        "n_head": 2,
        "n_positions": 256,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
    },
    "pretrain": {
        "data": {"path": "toy", "name": "stories", "size": 3000},
        "average_checkpoints": 2,
        "args": {**ARGS, "max_steps": PRETRAIN_STEPS},
    },
    "tasks": {
        "sentiment": {
            "data": {"path": "toy", "name": "sentiment", "size": 600},
            "labels": ["negative", "neutral", "positive"],
        }
    },
    "finetune": {
        "tasks": ["sentiment"],
        "adapter": {"type": "lora", "r": 4, "lora_dropout": 0.1},
        "args": {**ARGS, "max_steps": STEPS - PRETRAIN_STEPS},
    },
    "push": {"repo_id": "you/lost", "checkpoints": True},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--xet", action="store_true")
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        with Hub(xet=asked.xet) as hub:
            ended(start(folder / "whole", hub, str(folder / "recipe.yaml")), folder / "whole")
        with Hub(xet=asked.xet, delay=0.02) as hub:
            lost = lose(folder, hub, asked.losses, random.Random(asked.seed))
        same = weights(folder / "machine") == weights(folder / "whole")
    result = {"ratio": float(same and len(lost) == asked.losses), "identical": same, "losses": len(lost)}
    result |= {"continued_from": [place for place, _ in lost], "killed_while_sending": sum(busy for _, busy in lost)}
    print(json.dumps({**result, "xet": asked.xet, "seed": asked.seed, "seconds": round(time.monotonic() - began)}))


def lose(folder, hub, losses, draw):
    """Run to the end, losing the machine so many times. Returns (from where it continued, whether it was sending)."""
    machine, found = folder / "machine", []
    process = start(machine, hub, str(folder / "recipe.yaml"))
    for number in range(losses):
        while progress(hub) < STEPS * (number + 1) / (losses + 1):
            if process.poll() is not None:
                raise SystemExit(f"the run ended after {len(found)} losses:\n{(machine / 'log').read_text()}")
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1))
        busy = (machine / "out" / ".upload").is_dir() and any((machine / "out" / ".upload").iterdir())
        process.kill()
        process.wait()
        shutil.rmtree(machine)
        found.append((place(hub), busy))
        print(f"lost {len(found)} of {losses}: {found[-1][0]} is on the Hub", file=sys.stderr)
        process = start(machine, hub, "--from-hub", "you/lost")
    ended(process, machine)
    return found


def place(hub):
    """What is on the branch: "pretrain 15"; None where there is nothing."""
    repository = hub.repositories.get("you/lost")
    commit = repository and repository.find("checkpoints")
    file = commit and commit.tree.get("hflm_checkpoint.json")
    if not file:
        return None
    content = json.loads(hub.content(file))
    return f"{content['stage']} {content['step']}"


def progress(hub):
    """Optimizer steps behind the checkpoint on the branch, of both stages."""
    stage, _, step = (place(hub) or "pretrain 0").partition(" ")
    return int(step) + (PRETRAIN_STEPS if stage == "finetune" else 0)


def start(machine, hub, *arguments):
    machine.mkdir()
    hidden = ("HF_", "HUGGING_FACE")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    environment = {**clean, "PYTHONPATH": str(ROOT), **hub.environment(machine / "hf")}
    with open(machine / "log", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "hflm", "run", *arguments, "--output", "out"],
            cwd=machine,
            env=environment,
            stdout=log,
            stderr=log,
        )


def ended(process, machine):
    if process.wait():
        raise SystemExit((machine / "log").read_text())


def weights(machine):
    return (machine / "out" / "model" / "model.safetensors").read_bytes()


if __name__ == "__main__":
    main()
