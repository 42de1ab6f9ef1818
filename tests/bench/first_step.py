"""From the command to the end of the first optimizer step, beside a minimal Trainer script that imports the same
libraries: `python tests/bench/first_step.py`.

The model and the rows are tiny, so that what is measured is starting. The two run in turn. Prints one JSON line: the
median ratio, and the seconds of each.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import training_setup as setup

PLAIN = """
import time
import datasets, evaluate, peft, tokenizers, torch, transformers
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

class First(TrainerCallback):
    def on_step_end(self, *_, **__):
        print("FIRST", time.time())

config = GPT2Config(vocab_size=300, n_positions=64, n_layer=1, n_head=2, n_embd=32)
rows = datasets.Dataset.from_list([{"input_ids": [1] * 64, "labels": [1] * 64}] * 8)
arguments = TrainingArguments("plain", max_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True)
Trainer(GPT2LMHeadModel(config), arguments, train_dataset=rows, callbacks=[First()]).train()
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), chosen)))


def measure(folder, chosen):
    setup.prepare(folder, 300, steps=1, every=1)
    tiny = ["--set", "model.n_layer=1", "--set", "model.n_embd=32", "--set", "model.n_head=2"]
    seconds = {"hflm": [], "plain": []}
    for pair in range(chosen.pairs + 1):  # the first pair fills the caches of the disk
        metrics = folder / f"run{pair}" / "pretrain" / "metrics.jsonl"
        began = time.time()
        process = setup.start(["-m", "hflm", "run", "recipe.yaml", "--output", f"run{pair}", *tiny], folder, "hflm.log")
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.02)
        ours = metrics.stat().st_mtime - began  # its first line is written when the first step has ended
        setup.output(process, folder, "hflm.log")
        began = time.time()
        printed = setup.output(setup.start(["-c", PLAIN], folder, "plain.log"), folder, "plain.log")
        if pair:
            seconds["hflm"].append(round(ours, 2))
            seconds["plain"].append(round(float(printed.split("FIRST")[1].split()[0]) - began, 2))
    return {
        "ratio": round(statistics.median(a / b for a, b in zip(*seconds.values(), strict=True)), 3),
        "hflm_seconds": seconds["hflm"],
        "trainer_seconds": seconds["plain"],
    }


if __name__ == "__main__":
    main()
