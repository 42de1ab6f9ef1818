"""`hflm plan` beside what is measured: parameters, peak memory and FLOPs of training steps, over eight configurations.

    python tests/bench/plan_accuracy.py [NAME...]

Each configuration trains for three steps in a process of its own, through hflm.training.trainer, on rows of two
documents. Memory is the peak of that process's resident memory above what it holds after a first, minute model has been
trained the same way (libraries, kernels' buffers). glibc gives freed blocks of 128 kB and more back at once
(hflm.core.hardware.tune_malloc), so that resident memory is what torch holds and not what waits to be used again;
`memory_as_run` is the same figure as `hflm run` has it. FLOPs are FlopCounterMode's of one step.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

RECIPE = """
name: accuracy
tokenizer: {train: {algorithm: bpe, vocab_size: 4096}}
model: {preset: gpt2-micro, n_positions: 256, attn_pdrop: 0.0, embd_pdrop: 0.0, resid_pdrop: 0.0}
tasks:
  sentiment: {data: {path: toy, name: sentiment}, labels: [negative, neutral, positive]}
"""
STAGE = {"pretrain": {"data": {"path": "toy", "name": "stories"}}, "finetune": {"tasks": ["sentiment"]}}
DROPOUT = {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1}
CONFIGURATIONS = {  # name: (stage, vocabulary, keys of the model, keys of the stage, args)
    "micro": ("pretrain", 4096, {}, {}, {}),
    "micro_dropout": ("pretrain", 4096, DROPOUT, {"block_size": 128}, {"optim": "adamw_torch"}),
    "mini_muon": (
        "pretrain", 8192, {"preset": "gpt2-mini", "activation_function": "gelu_pytorch_tanh"}, {},
        {"optim": "muon", "per_device_train_batch_size": 4},
    ),
    "micro_vocabulary": ("pretrain", 32768, {}, {"block_size": 128}, {"per_device_train_batch_size": 4}),
    "mini_checkpointing": (
        "pretrain", 8192, {"preset": "gpt2-mini"}, {}, {"activation_checkpointing": True, "optim": "adafactor"},
    ),
    "micro_bf16_accumulated": (
        "pretrain", 4096, {}, {}, {"bf16": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 16},
    ),
    "micro_lora": ("finetune", 4096, {}, {"adapter": {"type": "lora", "r": 16, "target_modules": "all-linear"}}, {}),
    "mini_dora": (
        "finetune", 8192, {"preset": "gpt2-mini"}, {"adapter": {"type": "lora", "r": 8, "use_dora": True}},
        {"per_device_train_batch_size": 4},
    ),
}  # fmt: skip


def recipe_of(name):
    """(Recipe, its training stage) of a configuration."""
    import yaml

    from hflm import recipe

    stage, vocabulary, model, keys, args = CONFIGURATIONS[name]
    tree = yaml.safe_load(RECIPE)
    tree["tokenizer"]["train"]["vocab_size"] = vocabulary
    tree["model"] |= model
    tree[stage] = {**STAGE[stage], **keys, "args": args}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return recipe.load_recipe(str(path)), stage


class Vocabulary:
    """As much of a tokenizer as building a model needs."""

    bos_token_id = eos_token_id = pad_token_id = 0

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size


def train(config, vocabulary, section, adapter, length, steps):
    """Train a fresh model for some steps; returns it."""
    import numpy as np

    from hflm.models import add_adapter, build_model, patch_loss
    from hflm.preprocessing import collate
    from hflm.training import StageSettings, TrainingData, train_model

    model = patch_loss(build_model(config, Vocabulary(vocabulary)))
    if adapter is not None:
        model = add_adapter(model, adapter)
    batch = section.args.get("per_device_train_batch_size", 8) * section.args.get("gradient_accumulation_steps", 1)
    draw = np.random.default_rng(0)
    rows, half = [], length // 2
    for _ in range(batch * steps):
        ids = draw.integers(1, vocabulary, length)
        labels = ids.copy()
        labels[[0, half]] = -100
        positions = np.concatenate([np.arange(half), np.arange(length - half)])
        rows.append({"input_ids": ids, "labels": labels, "position_ids": positions})
    with tempfile.TemporaryDirectory() as folder:
        train_model(
            model,
            TrainingData(rows, partial(collate, pad_token_id=0)),
            Path(folder),
            {**section.args, "max_steps": steps, "save_strategy": "no"},
            StageSettings("pretrain", seed=1, row_tokens=length, tokens_per_row=length),
        )
    return model


def resident(field):
    """Bytes of VmRSS (now) or VmHWM (the most so far) of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(name, spare):
    """What the training of a configuration takes in this process."""
    import gc
    from unittest import mock

    from hflm.core import hardware

    if spare:
        tune = hardware.tune_malloc
        mock.patch.object(hardware, "tune_malloc", lambda spare: tune(True)).start()

    from torch.utils.flop_counter import FlopCounterMode

    warnings.simplefilter("ignore")
    recipe, stage = recipe_of(name)
    section = getattr(recipe, stage)
    adapter = section.adapter if stage == "finetune" else None
    vocabulary, config = recipe.tokenizer.train.vocab_size, recipe.model.config
    length = section.block_size or config["n_positions"]
    train({**config, "n_layer": 1, "n_embd": 16, "n_head": 1}, 64, section, adapter, 16, 1)
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    model = train(config, vocabulary, section, adapter, length, 3)
    most = resident("VmHWM") - before
    counted = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    counts = []
    for steps in (1, 2):  # their difference leaves out what is done once
        with FlopCounterMode(display=False) as counter:
            train(config, vocabulary, section, adapter, length, steps)
        counts.append(counter.get_total_flops())
    batch = section.args.get("per_device_train_batch_size", 8) * section.args.get("gradient_accumulation_steps", 1)
    flops = (counts[1] - counts[0]) / batch / length
    if adapter is None and not section.args.get("bf16"):
        # torch does not count addmm_, by which hflm.models.loss sums the output layer's gradient.
        flops += 2 * config["n_embd"] * vocabulary * (length - 2) / length
    return {"parameters": [counted, trained], "memory": most, "flops": flops}


def predict(name):
    """The same from hflm's arithmetic."""
    from hflm.core import hardware
    from hflm.models import architecture as shape
    from hflm.planning import cost, speed
    from hflm.planning import inputs as plan_source

    recipe, stage = recipe_of(name)
    size = plan_source.read_model_config(recipe, []).shape
    load = speed.step_load(
        recipe, stage, size, 1, hardware.Device("this CPU", 0, None, None, 1, gpu=False, format="fp32")
    )
    load = replace(load, labelled=(load.length - 2) / load.length)
    counted = shape.total_parameters(size)
    added = shape.adapter_parameters(size, load.adapter) if load.adapter else 0
    return {
        "parameters": [counted + added, added or counted],
        "memory": cost.peak(size, load).bytes,
        "moments": cost.memory(size, load),
        "flops": sum(cost.flops_per_token(size, load).values()),
    }


def main(names):
    ratios, exact = {}, True
    for name in names:
        predicted = predict(name)
        command = [sys.executable, __file__, "--one", name]
        measured, as_run = (
            json.loads(
                subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            for more in (["--spare"], [])
        )
        exact &= predicted["parameters"] == measured["parameters"]
        ratios[name] = {
            "parameters": predicted["parameters"] == measured["parameters"],
            "memory": round(predicted["memory"] / measured["memory"], 3),
            "memory_as_run": round(predicted["memory"] / as_run["memory"], 3),
            "memory_mb": round(measured["memory"] / 1e6),
            "flops": round(predicted["flops"] / measured["flops"], 4),
        }
        print(name, ratios[name], file=sys.stderr)
    worst = {key: max(abs(ratio[key] - 1) for ratio in ratios.values()) for key in ("memory", "flops")}
    print(
        json.dumps({"parameters_exact": exact, **{f"worst_{k}": round(v, 4) for k, v in worst.items()}, "all": ratios})
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], "--spare" in sys.argv)))
    else:
        main(sys.argv[1:] or CONFIGURATIONS)
