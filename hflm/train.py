"""One training stage through transformers' Trainer, with its edges mended.

Mended here: a checkpoint is sealed by checksums and a damaged or half-written one is never resumed; old checkpoints go
only after the new one is sealed; SIGTERM saves at the next step boundary that all ranks agree on; progress tells loss,
tokens per second and time left; every log line lands in metrics.jsonl, once.
"""

import hashlib
import json
import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from hflm import stream
from hflm.errors import Stopped, UserError
from hflm.muon import Muon
from hflm.results import write_text

SEAL = "checksums.json"
# Where these differ from TrainingArguments' own defaults: GPT-3's and nanoGPT's schedule, betas and decay.
DEFAULTS = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "logging_steps": 10,
    "eval_steps": 0.1,
    "save_total_limit": 2,
}


@dataclass(frozen=True)
class Trained:
    """What one stage did; `loss` is the mean over the stage, in nats per learnt token."""

    steps: int
    tokens: int
    seconds: float
    loss: float | None
    eval_loss: float | None


def train(model, rows, folder, args, *, stage, seed, collate, eval_rows=None, tokens_per_row):
    """Train `model` on packed `rows` in `folder`, continuing from its newest sound checkpoint; returns Trained.

    `args` are TrainingArguments' own; `rows` is a sequence of rows or a stream.PackedStream; `tokens_per_row` is their
    mean length. Raises UserError for values that TrainingArguments refuses, Stopped after SIGTERM.
    """
    muon = args.get("optim") == "muon"  # ours, so TrainingArguments would not know it
    args = {key: value for key, value in args.items() if not (muon and key == "optim")}
    arguments = training_arguments(folder, args, seed, evaluates=eval_rows is not None, stage=stage)
    keep = arguments.save_total_limit
    arguments.save_total_limit = None  # rotated below, after the seal
    follower = Follower(stage, folder, tokens_per_row, keep)
    optimizer = None
    if muon:
        optimizer = Muon(
            model,
            arguments.learning_rate,
            (arguments.adam_beta1, arguments.adam_beta2),
            arguments.adam_epsilon,
            arguments.weight_decay,
        )
    trainer = Trainer(
        model=model,
        args=arguments,
        optimizers=(optimizer, None),
        train_dataset=rows,
        eval_dataset=eval_rows,
        data_collator=collate,
        callbacks=[follower],
    )
    trainer.remove_callback(PrinterCallback)  # the follower shows what it would print
    checkpoint = newest_sound_checkpoint(folder)
    if checkpoint is not None:
        follower.say(f"continues from {checkpoint.name}")
    if isinstance(rows, stream.PackedStream):
        stream.feed(trainer, rows, checkpoint)
    previous = signal.signal(signal.SIGTERM, follower.stop)
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        signal.signal(signal.SIGTERM, previous)
    if follower.stopping:
        raise Stopped(f"{stage}: stopped by SIGTERM, a checkpoint is saved; the same command continues it")
    history = trainer.state.log_history
    return Trained(
        steps=trainer.state.global_step,
        tokens=follower.tokens_at(trainer.state.global_step, arguments),
        seconds=time.monotonic() - started,
        loss=next((entry["loss"] for entry in reversed(history) if "loss" in entry), None),
        eval_loss=next((entry["eval_loss"] for entry in reversed(history) if "eval_loss" in entry), None),
    )


def training_arguments(folder, args, seed, evaluates, stage):
    """TrainingArguments from a recipe's `args`, over DEFAULTS. Raises UserError for a value it refuses."""
    accelerated = torch.accelerator.is_available()
    own = {
        "output_dir": str(folder),
        "seed": seed,
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "disable_tqdm": True,
        "use_cpu": not accelerated,
        "dataloader_pin_memory": accelerated,
        "eval_strategy": "steps" if evaluates else "no",
    }
    if not evaluates and args.get("eval_strategy", "no") != "no":
        raise UserError(f"{stage}.args.eval_strategy: there is no validation data to evaluate on")
    try:
        return TrainingArguments(**{**DEFAULTS, **own, **args})
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{stage}.args: {' '.join(str(error).split())[:400]}") from error


class Follower(TrainerCallback):
    """Shows progress, writes metrics.jsonl, seals checkpoints and stops at a step boundary on SIGTERM."""

    def __init__(self, stage, folder, tokens_per_row, keep):
        self.stage, self.folder, self.tokens_per_row, self.keep = stage, Path(folder), tokens_per_row, keep
        self.signalled = self.stopping = False
        self.bar = None
        self.shown = {}

    def say(self, text):
        if int(os.environ.get("RANK", "0")) == 0:
            tqdm.write(f"{self.stage}: {text}", file=sys.stderr)

    def stop(self, *_):
        self.signalled = True

    def tokens_at(self, step, args):
        """Tokens seen after `step` optimizer steps."""
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return round(step * rows * self.tokens_per_row)

    def on_train_begin(self, args, state, control, **_):
        self.first_step, self.begun = state.global_step, time.monotonic()
        if not state.is_world_process_zero:
            return
        self.metrics = self.folder / "metrics.jsonl"
        kept = _entries_until(self.metrics, state.global_step)
        write_text(self.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))
        # A bar where somebody watches, a line now and then in a log file.
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.stage,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def on_step_end(self, args, state, control, **_):
        if self.bar is not None:
            self.bar.update(1)
        signalled = self.signalled
        if args.world_size > 1:
            # Ranks get the signal at different steps; they must leave at the same one.
            flag = torch.tensor(float(signalled), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            signalled = flag.item() > 0
        if signalled:
            self.stopping = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **_):
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        seconds = time.monotonic() - self.begun
        entry = {"step": state.global_step, **logs, "seconds": round(seconds, 3)}
        entry.pop("total_flos", None)
        steps = state.global_step - self.first_step
        if "loss" in logs and steps:
            entry["tokens"] = self.tokens_at(state.global_step, args)
            new = entry["tokens"] - self.tokens_at(self.first_step, args)
            entry["tokens_per_second"] = round(new / seconds)
            left = (state.max_steps - state.global_step) * seconds / steps
        with open(self.metrics, "a") as lines:
            lines.write(json.dumps(entry) + "\n")
        for key, text in (("loss", "loss {:.3f}"), ("eval_loss", "val {:.3f}"), ("tokens_per_second", "{:,} tok/s")):
            if key in entry:
                self.shown[key] = text.format(entry[key])
        words = "  ".join(self.shown.values())
        self.bar.set_postfix_str(words)
        if self.bar.disable and "loss" in logs and steps:
            print(f"{self.stage} {state.global_step}/{state.max_steps}  {words}  {clock(left)} left", file=sys.stderr)

    def on_save(self, args, state, control, train_dataloader=None, **_):
        if isinstance(train_dataloader, stream.Loader):
            train_dataloader.save(self.folder / f"checkpoint-{state.global_step}")
        if args.world_size > 1:
            torch.distributed.barrier()  # every rank has written its part
        if state.is_world_process_zero:
            seal(self.folder / f"checkpoint-{state.global_step}")
            rotate_checkpoints(
                output_dir=str(self.folder),
                save_total_limit=self.keep,
                best_model_checkpoint=state.best_model_checkpoint,
                use_mtime=True,
            )

    def on_train_end(self, args, state, control, **_):
        if self.bar is not None:
            self.bar.close()


def seal(checkpoint):
    """Write the checksum of every file of a checkpoint beside them: from now on it may be trusted."""
    sums = {str(file.relative_to(checkpoint)): _sum(file) for file in sorted(checkpoint.rglob("*")) if file.is_file()}
    write_text(checkpoint / SEAL, json.dumps(sums, indent=1))


def newest_sound_checkpoint(folder):
    """The newest `checkpoint-N` whose files are all there and unchanged, or None; warns about each damaged one."""
    numbered = [path for path in Path(folder).glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    for checkpoint in sorted(numbered, key=lambda path: -int(path.name.split("-")[1])):
        reason = _damage(checkpoint)
        if reason is None:
            return checkpoint
        warnings.warn(f"{checkpoint} is not used: {reason}", stacklevel=2)
    return None


def clock(seconds):
    """4000 -> '1:06:40', 75 -> '1:15'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _damage(checkpoint):
    try:
        sums = json.loads((checkpoint / SEAL).read_text())
    except (OSError, ValueError):
        return "it was not written to its end"
    for name, expected in sums.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if _sum(checkpoint / name) != expected:
            return f"{name} has changed since it was written"
    return None


def _sum(file):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _entries_until(metrics, step):
    """The lines of metrics.jsonl up to `step`: what a resumed run repeats must not stand there twice."""
    if not step or not metrics.is_file():
        return []
    entries = [json.loads(line) for line in metrics.read_text().splitlines() if line.endswith("}")]
    return [entry for entry in entries if entry["step"] <= step]
