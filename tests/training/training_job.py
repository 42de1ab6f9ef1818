"""Trains small models, for tests: `training_job.py curves|kills FOLDER`, alone or under torchrun, with or without FSDP2.

curves: metrics.jsonl of each configuration. kills: each of several short runs is ended after every step in turn and
resumed; kills.json compares steps and weights with those of an undisturbed run.
"""

import json
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.utils import logging

from hflm.core import configure_logging
from hflm.data import toy
from hflm.models import add_adapter, build_model, patch_loss
from hflm.preprocessing import collate, pack_documents, train_tokenizer
from hflm.recipe import PRESETS
from hflm.training import StageSettings, TrainingData, start_processes, train_model, trainer

BASE = {"per_device_train_batch_size": 4, "learning_rate": 3e-3, "logging_steps": 5, "eval_steps": 25, "max_steps": 50}
CURVES = {
    "adamw": {},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "muon": {"optim": "muon", "learning_rate": 1e-2},
    "lora": {},
}
# 14 rows of 4 a step are 4 steps an epoch: some runs end within an epoch, some at its border.
KILLS = {
    "steps": {"max_steps": 3, "save_steps": 1, "lr_scheduler_type": "constant"},
    "border": {"max_steps": 4, "save_steps": 2, "lr_scheduler_type": "constant"},
    "accumulated": {
        "max_steps": 3,
        "save_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    },
    "epochs": {"num_train_epochs": 1, "max_steps": -1, "save_strategy": "epoch", "lr_scheduler_type": "constant"},
}


class Killed(Exception):
    pass


class KillAfter(TrainerCallback):
    """Ends the process' training after a step: before its checkpoint is written, or after."""

    def __init__(self, step: int, saved: bool) -> None:
        self.step, self.saved = step, saved

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step and not self.saved:
            raise Killed

    def on_save(self, args, state, control, **_):
        if state.global_step == self.step and self.saved:
            raise Killed


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    logging.set_verbosity_error()
    configure_logging()
    state = start_processes(timeout_seconds=120)
    texts = [row["text"] for row in toy.rows("stories", "train", 300)]
    tokenizer = train_tokenizer(texts, vocab_size=500)
    train, validation = pack_documents(texts[:240], tokenizer, 64), pack_documents(texts[240:], tokenizer, 64)

    def fit(name: str, args: dict, rows, eval_rows, shape: dict, adapter: bool = False):
        set_seed(0)
        dropouts = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
        config = {**PRESETS["gpt2-nano"], **shape, **dropouts, "n_positions": 64}
        model = patch_loss(build_model(config, tokenizer))
        if adapter:
            model = add_adapter(model, {"type": "lora", "r": 4})
        # The recipe's batch: the same rows a step on one and on two processes.
        data = TrainingData(rows, partial(collate, pad_token_id=tokenizer.pad_token_id), eval_rows)
        batch = args["per_device_train_batch_size"] * args.get("gradient_accumulation_steps", 1)
        return train_model(
            model,
            data,
            folder / name,
            args,
            StageSettings("pretrain", 0, 64, train.tokens_per_row, batch_tokens=batch * 64),
            save_to=folder / name / "model",
        )

    if mode == "curves":
        for name, more in CURVES.items():
            args = {**BASE, **more, "save_strategy": "no"}
            if name == "accumulation" and state.num_processes == 2:
                args |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
            fit(name, args, train.rows, validation.rows, {}, adapter=name == "lora")
        return

    tiny, rows = {"n_layer": 1, "n_embd": 32, "n_head": 2}, train.rows[:18]
    plain, table = trainer.StageTrainer, []
    for name, more in KILLS.items():
        args = {"per_device_train_batch_size": 4, "learning_rate": 3e-2, "save_total_limit": 1, **more}
        asked = fit(f"{name}-whole", args, rows, None, tiny).steps
        expected = load_file(folder / f"{name}-whole" / "model" / "model.safetensors")
        for step in range(1, asked + 1):
            for saved in (False, True):
                output = f"{name}-{step}-{saved}"

                def killed(*positional, callbacks, step=step, saved=saved, **options):
                    return plain(*positional, callbacks=[*callbacks, KillAfter(step, saved)], **options)

                trainer.StageTrainer = killed
                try:
                    fit(output, args, rows, None, tiny)
                except Killed:
                    pass
                trainer.StageTrainer = plain
                state.wait_for_everyone()
                trained = fit(output, args, rows, None, tiny)
                weights = load_file(folder / output / "model" / "model.safetensors")
                same = all(torch.equal(weights[key], expected[key]) for key in expected)
                table.append(
                    {
                        "run": name,
                        "step": step,
                        "saved": saved,
                        "same_weights": same,
                        "steps": trained.steps,
                        "asked": asked,
                    }
                )
    if state.is_main_process:
        (folder / "kills.json").write_text(json.dumps(table, indent=1))
    state.wait_for_everyone()


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)
    main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
