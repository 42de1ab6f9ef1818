"""Trains small models, for tests: `training_job.py MODE FOLDER`, alone or under torchrun, with or without FSDP2.

curves: metrics.jsonl of each configuration. kills: each of several short runs is ended after every step in turn and
resumed; kills.json compares steps and weights with those of an undisturbed run. scores: a run with and one without an
evaluation of tasks; scores.json compares their weights, and has the kept step. whole: short runs, undisturbed. until-N:
the same runs, ended after step N, or continued up to it. bf16: in which formats FSDP2 sums, in formats.json.
"""

import contextlib
import json
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import datasets
import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.utils import logging

from hflm.core import configure_logging
from hflm.data import DocumentStream, toy
from hflm.evaluation import TrainingScores
from hflm.models import add_adapter, build_model, patch_loss
from hflm.pipeline.reading import TaskRows
from hflm.preprocessing import PackedStream, collate, pack_documents, train_tokenizer
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
# Four rows a step on any number of processes; 18 of them are four steps an epoch.
ELASTIC = {
    "rows": {},
    "muon": {"optim": "muon", "learning_rate": 1e-2},
    "lora": {},
    "stream": {},
    "without batch_tokens": {"per_device_train_batch_size": 2},  # on the two processes that begin
}
LAST = 12  # steps


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


class Setting(NamedTuple):
    """What all runs of a job share."""

    folder: Path
    texts: list[str]
    tokenizer: object
    train: object
    validation: object

    def fit(
        self, name, args, rows, eval_rows=None, shape=None, adapter=False, batch_tokens=True, scorer=None, stop=None
    ):
        set_seed(0)
        dropouts = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
        config = {**PRESETS["gpt2-nano"], **(shape or {}), **dropouts, "n_positions": 64}
        model = patch_loss(build_model(config, self.tokenizer))
        if adapter:
            model = add_adapter(model, {"type": "lora", "r": 4})
        validation = {"": ValidationSet(eval_rows)} if eval_rows is not None else {}
        data = TrainingData(rows, partial(collate, pad_token_id=self.tokenizer.pad_token_id), validation, scorer)
        # The recipe's batch: the same rows a step on any number of processes.
        batch = args["per_device_train_batch_size"] * args.get("gradient_accumulation_steps", 1)
        settings = StageSettings(
            "pretrain",
            0,
            64,
            self.train.tokens_per_row,
            batch_tokens=batch * 64 if batch_tokens else None,
            early_stopping=stop,
        )
        return train_model(model, data, self.folder / name, args, settings, save_to=self.folder / name / "model")


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    logging.set_verbosity_error()
    configure_logging()
    state = start_processes(timeout_seconds=120)
    texts = [row["text"] for row in toy.rows("stories", "train", 300)]
    tokenizer = train_tokenizer(texts, vocab_size=500)
    train, validation = pack_documents(texts[:240], tokenizer, 64), pack_documents(texts[240:], tokenizer, 64)
    setting = Setting(folder, texts, tokenizer, train, validation)
    if mode == "curves":
        curves(setting, state)
    elif mode == "kills":
        kills(setting, state)
    elif mode == "bf16":
        formats(setting, state)
    elif mode == "scores":
        scores(setting, state)
    else:
        elastic(setting, state, None if mode == "whole" else int(mode.removeprefix("until-")))


def scores(setting, state) -> None:
    args = {**BASE, "learning_rate": 1e-2, "save_steps": 10, "eval_steps": 10}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "qa_f1"}
    scorer, rows, folder = TrainingScores(setting.tokenizer, task_rows(), 64), setting.train.rows, setting.folder
    setting.fit("without", args, rows)
    setting.fit("with", args, rows, scorer=scorer)
    trained = setting.fit("best", {**args, **best}, rows, scorer=scorer, stop=EarlyStop(2))
    if state.is_main_process:
        without, scored = (load_file(folder / name / "model" / "model.safetensors") for name in ("without", "with"))
        same = all(torch.equal(without[key], scored[key]) for key in without)
        kept = trained.kept and [trained.kept.step, trained.kept.value]
        (folder / "scores.json").write_text(json.dumps({"same": same, "kept": kept, "steps": trained.steps}))
    state.wait_for_everyone()


def curves(setting, state) -> None:
    for name, more in CURVES.items():
        args = {**BASE, **more, "save_strategy": "no"}
        if name == "accumulation" and state.num_processes == 2:
            args |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
        setting.fit(name, args, setting.train.rows, setting.validation.rows, adapter=name == "lora")


@contextlib.contextmanager
def killed(step: int, saved: bool):
    """Training in this block ends at `step` as if the process were lost."""
    plain = trainer.StageTrainer

    def make(*positional, callbacks, **options):
        return plain(*positional, callbacks=[*callbacks, KillAfter(step, saved)], **options)

    trainer.StageTrainer = make
    try:
        yield
    except Killed:
        pass
    finally:
        trainer.StageTrainer = plain


def kills(setting, state) -> None:
    tiny, rows = {"n_layer": 1, "n_embd": 32, "n_head": 2}, setting.train.rows[:18]
    table = []
    for name, more in KILLS.items():
        args = {"per_device_train_batch_size": 4, "learning_rate": 3e-2, "save_total_limit": 1, **more}
        asked = setting.fit(f"{name}-whole", args, rows, shape=tiny).steps
        expected = load_file(setting.folder / f"{name}-whole" / "model" / "model.safetensors")
        for step in range(1, asked + 1):
            for saved in (False, True):
                output = f"{name}-{step}-{saved}"
                with killed(step, saved):
                    setting.fit(output, args, rows, shape=tiny)
                state.wait_for_everyone()
                trained = setting.fit(output, args, rows, shape=tiny)
                weights = load_file(setting.folder / output / "model" / "model.safetensors")
                same = all(torch.equal(weights[key], expected[key]) for key in expected)
                row = {"run": name, "step": step, "saved": saved, "same_weights": same}
                table.append({**row, "steps": trained.steps, "asked": asked})
    if state.is_main_process:
        (setting.folder / "kills.json").write_text(json.dumps(table, indent=1))
    state.wait_for_everyone()


def elastic(setting, state, until: int | None) -> None:
    """Every run of ELASTIC up to a step, where it has a checkpoint; without one undisturbed, on one process."""
    for name, more in ELASTIC.items():
        args = {"per_device_train_batch_size": 4, "learning_rate": 3e-3, "max_steps": LAST, "save_steps": 2}
        args |= {"logging_steps": 1, **more}
        whole = name != "without batch_tokens"
        if not whole and until is None:
            args |= {"gradient_accumulation_steps": 2}
        rows = stream(setting) if name == "stream" else setting.train.rows[: 18 if whole else 32]
        with killed(until, saved=True) if until not in (None, LAST) else contextlib.nullcontext():
            setting.fit(name, args, rows, adapter=name == "lora", batch_tokens=whole, shape={"n_layer": 2})
        state.wait_for_everyone()


def stream(setting):
    """The texts in four parts, which as many readers divide among them."""

    def documents(parts):
        for part in parts:
            yield from ({"text": text} for text in setting.texts[part::4])

    source = datasets.IterableDataset.from_generator(documents, gen_kwargs={"parts": [0, 1, 2, 3]})
    return PackedStream(DocumentStream(source, "texts"), setting.tokenizer, 64, shuffle_buffer=20).rows


class Formats(TrainerCallback):
    """The formats of the losses and of what blocks return, and whether gradients have digits that bf16 has not."""

    def __init__(self) -> None:
        self.seen = {"block": set(), "training loss": set(), "evaluation loss": set(), "gradients": set()}

    def on_train_begin(self, args, state, control, model, **_):
        def of_loss(module, _, output):
            self.seen["training loss" if module.training else "evaluation loss"].add(str(output.loss.dtype))

        model.register_forward_hook(of_loss)
        model.transformer.h[0].mlp.register_forward_hook(
            lambda _, __, output: self.seen["block"].add(str(output.dtype))
        )

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        for parameter in model.parameters():
            gradient = parameter.grad.to_local()
            finer = not torch.equal(gradient.bfloat16().float(), gradient)
            self.seen["gradients"].add("finer than bf16" if finer else "bf16")


def formats(setting, state) -> None:
    plain, keep, found = trainer.StageTrainer, trainer._keep_fp32_outputs, {}
    for name, own in (("hflm", keep), ("the library", lambda _: None)):
        seen = Formats()
        trainer._keep_fp32_outputs = own
        trainer.StageTrainer = lambda *given, callbacks, seen=seen, **options: plain(
            *given, callbacks=[*callbacks, seen], **options
        )
        # Without a limit of their norm, which would multiply the gradients.
        args = {"per_device_train_batch_size": 2, "max_steps": 3, "logging_steps": 1, "max_grad_norm": 0, "bf16": True}
        rows, eval_rows = setting.train.rows, setting.validation.rows[:4]
        shape = {"n_layer": 1, "n_embd": 32, "n_head": 2}
        setting.fit(name, {**args, "eval_steps": 1, "save_strategy": "no"}, rows, eval_rows, shape=shape)
        found[name] = {key: sorted(values) for key, values in seen.seen.items()}
    if state.is_main_process:
        (setting.folder / "formats.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)
    main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
