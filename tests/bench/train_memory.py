"""Peak memory of training at V = 50,257 beside transformers' own Trainer: `python tests/bench/train_memory.py`.

The same GPT-2 (6 layers x 384), rows (8 of 256 tokens) and optimizer, each in its own process. Prints one JSON line:
the ratio of the peaks of resident memory, in MB, whole processes; and the growth above what the imports take.
"""

import argparse
import json
import tempfile
from pathlib import Path

import training_setup as setup

PLAIN = """
import json, resource, sys
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)

before = peak()
vocab_size, length, batch, steps = map(int, sys.argv[1:])
torch.manual_seed(0)
config = GPT2Config(vocab_size=vocab_size, n_positions=length, n_layer=6, n_head=6, n_embd=384)
rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 256, (batch * steps, length))]
arguments = TrainingArguments(
    "plain", max_steps=steps, per_device_train_batch_size=batch, save_strategy="no", use_cpu=True, disable_tqdm=True
)
Trainer(GPT2LMHeadModel(config), arguments, train_dataset=rows).train()
print("PEAK", json.dumps([before, peak()]))
"""

OURS = """
import json, resource, sys

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

before = peak()
from hflm.recipe import load_recipe
from hflm.pipeline import run_recipe
run_recipe(load_recipe("recipe.yaml"), "run")
print("PEAK", json.dumps([before, peak()]))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--steps", type=int, default=4)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), chosen)))


def measure(folder, chosen):
    setup.prepare(folder, chosen.vocab, chosen.steps)
    sizes = [str(each) for each in (chosen.vocab, setup.LENGTH, setup.BATCH, chosen.steps)]
    peaks = {}
    for name, arguments in (("plain", ["-c", PLAIN, *sizes]), ("hflm", ["-c", OURS])):
        printed = setup.output(setup.start(arguments, folder, f"{name}.log"), folder, f"{name}.log")
        peaks[name] = json.loads(printed.split("PEAK")[1])
    return {
        "ratio": round(peaks["hflm"][1] / peaks["plain"][1], 3),
        "hflm_peak_mb": round(peaks["hflm"][1]),
        "trainer_peak_mb": round(peaks["plain"][1]),
        "ratio_above_imports": round(
            (peaks["hflm"][1] - peaks["hflm"][0]) / (peaks["plain"][1] - peaks["plain"][0]), 3
        ),
        "vocab_size": chosen.vocab,
    }


if __name__ == "__main__":
    main()
