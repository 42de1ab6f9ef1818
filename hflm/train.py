"""One training stage through transformers' Trainer, with its edges mended.

Mended here: the batch of a step is the recipe's, whatever number of processes shares it (hflm.batch); a damaged or
half-written checkpoint is never resumed, and old ones go only after the new one is sealed (hflm.checkpoints); SIGTERM
saves at the next step boundary that all ranks agree on, a loss that blows up stops or rolls back (hflm.guards); an
out-of-memory halves the micro-batch and keeps the batch; every log line lands in metrics.jsonl, once (hflm.progress).
"""

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.data_loader import get_sampler
from accelerate.utils.memory import should_reduce_batch_size
from torch.utils.data import RandomSampler
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from hflm import batch as batches
from hflm import checkpoints
from hflm.errors import Stopped, TrainingError, UserError
from hflm.guards import ROLLBACKS, Guard, Unsound
from hflm.muon import Muon
from hflm.progress import Progress, flops_per_token
from hflm.records import read_json
from hflm.results import write_text

# Where these differ from TrainingArguments' own defaults: GPT-3's and nanoGPT's schedule, betas and decay.
DEFAULTS = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "logging_steps": 10,
    "eval_steps": 0.1,
    "save_total_limit": 2,
    "logging_nan_inf_filter": False,  # it would hide what the guard looks for, and read every loss from the device
    "ddp_find_unused_parameters": False,  # a language model uses all of them at each step
}
MICRO_BATCH, SKIPPED = "micro_batch.json", "skipped.json"
SHOWN_ROWS = 16  # of a batch, in a message


@dataclass(frozen=True)
class Trained:
    """What one stage did; `loss` is the mean over the last log line's steps, in nats per learnt token.

    `speed` is hflm.progress' medians; `skipped` are the steps (from 1) whose batch a rollback left out.
    """

    steps: int
    tokens: int
    seconds: float
    loss: float | None
    eval_loss: float | None
    speed: dict
    skipped: tuple[int, ...]


def train(
    model,
    rows,
    folder,
    args,
    *,
    stage,
    seed,
    collate,
    eval_rows=None,
    tokens_per_row,
    row_tokens,
    batch_tokens=None,
    on_spike="ignore",
):
    """Train `model` on packed `rows` in `folder`, continuing from its newest sound checkpoint; returns Trained.

    `args` are TrainingArguments' own; `rows` is a list of rows or a torch IterableDataset; `tokens_per_row` is their
    mean length, `row_tokens` the longest. `batch_tokens`: tokens of one optimizer step over all processes, in whole
    rows. Raises UserError for values that TrainingArguments refuses, TrainingError when it cannot go on, Stopped after
    SIGTERM.
    """
    muon = args.get("optim") == "muon"  # ours, so TrainingArguments would not know it
    args = {key: value for key, value in args.items() if not (muon and key == "optim")}
    arguments = training_arguments(folder, args, seed, evaluates=eval_rows is not None, stage=stage)
    keep = arguments.save_total_limit
    arguments.save_total_limit = None  # rotated by the guard, after the seal
    progress = Progress(stage, folder, tokens_per_row, flops_per_token(model, row_tokens))
    if torch.accelerator.device_count() > arguments.world_size == 1:
        gpus = torch.accelerator.device_count()
        progress.say(f"1 of {gpus} GPUs is used; `torchrun --nproc_per_node {gpus} -m hflm run ...` uses all")
    batch = _batch(arguments, folder, batch_tokens, row_tokens, stage)
    _share_out(arguments, batch)
    progress.say(f"{batch} = {batch.rows:,} rows of {row_tokens:,} tokens a step")
    whole = None
    if batch_tokens and not isinstance(rows, torch.utils.data.IterableDataset):
        whole = len(rows) // batch.rows * batch.rows
        if not whole:
            raise UserError(f"{stage}.batch_tokens: a step takes {batch.rows} rows, the data has {len(rows)}. Lower it")
        if arguments.train_sampling_strategy == "sequential":
            rows = rows[:whole]
    started = time.monotonic()
    while True:
        skipped = _skipped(folder)
        guard = Guard(stage, folder, keep, on_spike, skipped, progress.say)
        trainer = _Trainer(
            guard,
            whole,
            model=model,
            args=arguments,
            optimizers=(_muon(model, arguments) if muon else None, None),
            train_dataset=rows,
            eval_dataset=eval_rows,
            data_collator=collate,
            callbacks=[guard, progress],
        )
        trainer.remove_callback(PrinterCallback)  # progress shows what it would print
        checkpoint = checkpoints.newest_sound(folder)
        if checkpoint is not None:
            progress.say(f"continues from {checkpoint.name}")
            guard.continues(checkpoint)
        if _ended(trainer, checkpoint, progress):
            break
        trainer.accelerator.free_memory()
    history = trainer.state.log_history
    return Trained(
        steps=trainer.state.global_step,
        tokens=progress.tokens_at(trainer.state.global_step, arguments),
        seconds=time.monotonic() - started,
        loss=next((entry["loss"] for entry in reversed(history) if "loss" in entry), None),
        eval_loss=next((entry["eval_loss"] for entry in reversed(history) if "eval_loss" in entry), None),
        speed=progress.speed,
        skipped=tuple(skipped),
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
        "bf16": accelerated and is_torch_bf16_gpu_available() and not args.get("fp16"),
        "eval_strategy": "steps" if evaluates else "no",
    }
    if not evaluates and args.get("eval_strategy", "no") != "no":
        raise UserError(f"{stage}.args.eval_strategy: there is no validation data to evaluate on")
    try:
        arguments = TrainingArguments(**{**DEFAULTS, **own, **args})
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{stage}.args: {' '.join(str(error).split())[:400]}") from error
    # With several GPUs and one process Trainer would take DataParallel: slower than one process a GPU, and it copies
    # the model without the mended loss.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


class _Trainer(Trainer):
    """Trainer with the guard's eyes on each loss, steps that are skipped, and `whole` rows (of all) an epoch."""

    def __init__(self, guard, whole, **options):
        super().__init__(**options)
        self.guard, self.whole = guard, whole

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.state.global_step + 1 in self.guard.skipped:
            loss = torch.zeros((), device=self.args.device)  # no gradients, so that the optimizer leaves all as it is
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.guard.add(loss)
        return loss

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if self.whole is not None and isinstance(sampler, RandomSampler):
            return RandomSampler(sampler.data_source, num_samples=self.whole)  # other rows are left out each epoch
        return sampler

    def evaluate(self, *_, **__):
        """{"eval_loss": the mean of -log p over all labels}, exactly, with any batch size and number of processes.

        Trainer's own is a mean of the batches' means, which depends on both.
        """
        args, rows, started = self.args, self.eval_dataset, time.monotonic()
        total = torch.zeros(2, dtype=torch.float64, device=args.device)
        self.model.eval()
        for start in range(0, len(rows), args.eval_batch_size * args.world_size):
            some = rows[start : start + args.eval_batch_size * args.world_size]
            batch = self.data_collator(some[args.process_index :: args.world_size] or some[:1])
            if len(some) <= args.process_index:
                batch["labels"].fill_(-100)  # as many forward passes as the others, of nothing
            with torch.no_grad():
                loss = self.model(**self._prepare_inputs(batch), num_items_in_batch=1).loss
            total += torch.stack([loss.double(), (batch["labels"][:, 1:] != -100).sum().to(total)])
        if args.world_size > 1:
            torch.distributed.all_reduce(total)
        nll, labels = total.tolist()
        metrics = {"eval_loss": nll / max(labels, 1), "eval_runtime": round(time.monotonic() - started, 3)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model, trial):
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            failed = checkpoints.unwritten(checkpoint, error)
            if failed is None:
                raise
            raise failed from error

    def rows_of(self, step):
        """The row numbers of the batch of `step` (from 1); of a stream, their place in it."""
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        loader = self.callback_handler.train_dataloader
        if isinstance(self.train_dataset, torch.utils.data.IterableDataset):
            return list(range((step - 1) * per_step, step * per_step))
        per_epoch = -(-len(loader) // self.args.gradient_accumulation_steps)
        epoch, place = divmod(step - 1, per_epoch)
        sampler = get_sampler(loader)
        loader.set_epoch(epoch)
        return [int(row) for row in sampler][place * per_step : (place + 1) * per_step]


def _ended(trainer, checkpoint, progress):
    """Train to the end: True. False where the stage shall begin again from its newest sound checkpoint."""
    previous = signal.signal(signal.SIGTERM, trainer.guard.signal)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Unsound as found:
        _roll_back(trainer, found, progress)
        return False
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        _halve(trainer, error, progress)
    else:
        if trainer.guard.stopping:
            raise Stopped(
                f"{trainer.guard.stage}: stopped by SIGTERM, a checkpoint is saved; the same command continues it"
            )
        return True
    finally:
        signal.signal(signal.SIGTERM, previous)
    # Outside of the handler, whose error holds on to the step's tensors.
    trainer.model.zero_grad()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    if trainer.state.global_step > (checkpoints.step(checkpoint) if checkpoint else 0):
        # No step was half taken: what it broke off in is a forward or a backward pass.
        trainer._save_checkpoint(trainer.model_wrapped, trial=None)
        trainer.guard.on_save(trainer.args, trainer.state, trainer.control, trainer.model)
    return False


def _batch(arguments, folder, batch_tokens, row_tokens, stage):
    """The Batch of a step: the recipe's, with the micro-batch that an earlier out-of-memory left."""
    most, processes = arguments.per_device_train_batch_size, arguments.world_size
    if batch_tokens:
        batch = batches.derive(batch_tokens, row_tokens, processes, most, stage)
    else:
        batch = batches.Batch(most, arguments.gradient_accumulation_steps, processes)
    fits = read_json(Path(folder) / MICRO_BATCH).get("rows", batch.per_device)
    while batch.per_device > fits:
        batch = batch.halved()
    return batch


def _share_out(arguments, batch):
    arguments.per_device_train_batch_size = batch.per_device
    arguments.gradient_accumulation_steps = batch.accumulation


def _halve(trainer, error, progress):
    """After an out-of-memory: half the micro-batch, twice the accumulation; kept in the folder for a restart."""
    arguments, stage = trainer.args, trainer.guard.stage
    what = f"{stage}: out of memory ({' '.join(str(error).split())[:200]})"
    batch = batches.Batch(
        arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps, arguments.world_size
    ).halved()
    if batch is None or trainer.guard.stepping:
        raise TrainingError(
            f"{what}, which a smaller micro-batch cannot mend. Take a smaller model, a shorter {stage}.block_size, "
            f"or {stage}.args.activation_checkpointing: true"
        )
    _share_out(arguments, batch)
    arguments.per_device_eval_batch_size = max(1, arguments.per_device_eval_batch_size // 2)
    write_text(Path(arguments.output_dir) / MICRO_BATCH, json.dumps({"rows": batch.per_device}) + "\n")
    if arguments.world_size > 1:
        # The other ranks wait in this step for a gradient that will not come.
        raise TrainingError(
            f"{what}. The same command continues with {batch} (torchrun --max-restarts does it by itself)"
        )
    progress.say(f"{what.removeprefix(stage + ': ')}: goes on with {batch}")


def _roll_back(trainer, found, progress):
    """Note the step of an Unsound as one to skip, or raise TrainingError when the recipe or the bound says stop."""
    guard, folder = trainer.guard, Path(trainer.args.output_dir)
    rows = trainer.rows_of(found.step)
    shown = ", ".join(map(str, rows[:SHOWN_ROWS])) + (
        f" and {len(rows) - SHOWN_ROWS} more" if rows[SHOWN_ROWS:] else ""
    )
    what = f"{found.what} (packed rows {shown})"
    sound = checkpoints.newest_sound(folder)
    if guard.on_spike != "rollback":
        advice = f"Lower {guard.stage}.args.learning_rate, or set {guard.stage}.on_spike: rollback to skip such a batch"
    elif sound is None:
        advice = f"There is no checkpoint to go back to: lower {guard.stage}.args.save_steps or the learning rate"
    elif len(guard.skipped) >= ROLLBACKS:
        advice = f"It went back {ROLLBACKS} times already: lower {guard.stage}.args.learning_rate"
    else:
        entry = {"loss": found.loss if found.loss is None else str(found.loss), "rows": rows}
        if trainer.is_world_process_zero():
            write_text(folder / SKIPPED, json.dumps({**read_json(folder / SKIPPED), found.step: entry}) + "\n")
        if trainer.args.world_size > 1:
            torch.distributed.barrier()
        progress.say(f"{what}: back to {sound.name}, and past that batch")
        return
    raise TrainingError(
        f"{guard.stage}: {what}. {'The last sound checkpoint is ' + sound.name + '. ' if sound else ''}{advice}"
    )


def _skipped(folder):
    """The steps whose batch a rollback left out."""
    return {int(step) for step in read_json(Path(folder) / SKIPPED)}


def _muon(model, arguments):
    return Muon(
        model,
        arguments.learning_rate,
        (arguments.adam_beta1, arguments.adam_beta2),
        arguments.adam_epsilon,
        arguments.weight_decay,
    )
