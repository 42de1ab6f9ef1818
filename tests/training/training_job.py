"""Trains small models, for tests: `training_job.py MODE FOLDER`, alone or under torchrun, with or without FSDP2.

curves: metrics.jsonl of each configuration. kills: each of several short runs is ended after every step in turn and
resumed; kills.json compares steps and weights with those of an undisturbed run. scores: a run with and one without an
evaluation of tasks; scores.json compares their weights, and has the kept step.
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
from hflm.evaluation import TrainingScores
from hflm.models import add_adapter, build_model, patch_loss
from hflm.pipeline.reading import TaskRows
from hflm.preprocessing import collate, pack_documents, train_tokenizer
from hflm.recipe import PRESETS
from hflm.tasks import LanguageModeling, Qa, Sentiment, read_examples
from hflm.training import EarlyStop, StageSettings, TrainingData, ValidationSet, start_processes, train_model, trainer

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


def task_rows() -> dict[str, TaskRows]:
    """The rows of a task of each way of answering: text, labels, likelihood. A character of a story is the answer."""
    data = {"path": "toy", "name": "stories"}
    tasks = {
        "qa": Qa(data=data, max_new_tokens=4, prompt="{{ context }}"),
        "beams": Qa(data=data, max_new_tokens=4, prompt="{{ context }}", generation={"num_beams": 2}),
        "mood": Sentiment(data=data, labels=["the", "a"]),
        "held": LanguageModeling(data=data),
    }
    texts = [row["text"] for row in toy.rows("stories", "validation", 15)]
    rows = [
        {
            "text": text,
            "label": number % 2,
            "context": text[:60],
            "question": "And then?",
            "answers": {"text": [text[60:75]]},
        }
        for number, text in enumerate(texts)
    ]
    return {
        name: TaskRows(task, read_examples(task, rows, "rows")[0], [], 0, "rows", "sha256:0")
        for name, task in tasks.items()
    }


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    logging.set_verbosity_error()
    configure_logging()
    state = start_processes(timeout_seconds=120)
    texts = [row["text"] for row in toy.rows("stories", "train", 300)]
    tokenizer = train_tokenizer(texts, vocab_size=500)
    train, validation = pack_documents(texts[:240], tokenizer, 64), pack_documents(texts[240:], tokenizer, 64)

    def fit(name: str, args: dict, rows, eval_rows, shape: dict, adapter: bool = False, scorer=None, stop=None):
        set_seed(0)
        dropouts = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
        config = {**PRESETS["gpt2-nano"], **shape, **dropouts, "n_positions": 64}
        model = patch_loss(build_model(config, tokenizer))
        if adapter:
            model = add_adapter(model, {"type": "lora", "r": 4})
        # The recipe's batch: the same rows a step on one and on two processes.
        validation = {"": ValidationSet(eval_rows)} if eval_rows is not None else {}
        data = TrainingData(rows, partial(collate, pad_token_id=tokenizer.pad_token_id), validation, scorer)
        batch = args["per_device_train_batch_size"] * args.get("gradient_accumulation_steps", 1)
        return train_model(
            model,
            data,
            folder / name,
            args,
            StageSettings("pretrain", 0, 64, train.tokens_per_row, batch_tokens=batch * 64, early_stopping=stop),
            save_to=folder / name / "model",
        )

    if mode == "curves":
        for name, more in CURVES.items():
            args = {**BASE, **more, "save_strategy": "no"}
            if name == "accumulation" and state.num_processes == 2:
                args |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
            fit(name, args, train.rows, validation.rows, {}, adapter=name == "lora")
        return

    if mode == "scores":
        args = {**BASE, "learning_rate": 1e-2, "save_steps": 10, "eval_steps": 10}
        best = {"load_best_model_at_end": True, "metric_for_best_model": "qa_f1"}
        scorer = TrainingScores(tokenizer, task_rows(), 64)
        fit("without", args, train.rows, None, {})
        fit("with", args, train.rows, None, {}, scorer=scorer)
        trained = fit("best", {**args, **best}, train.rows, None, {}, scorer=scorer, stop=EarlyStop(2))
        if state.is_main_process:
            without, scored = (load_file(folder / name / "model" / "model.safetensors") for name in ("without", "with"))
            same = all(torch.equal(without[key], scored[key]) for key in without)
            kept = trained.kept and [trained.kept.step, trained.kept.value]
            (folder / "scores.json").write_text(json.dumps({"same": same, "kept": kept, "steps": trained.steps}))
        state.wait_for_everyone()
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
