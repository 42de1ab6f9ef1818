"""One training stage through transformers' Trainer, with its edges mended.

Mended here: the batch of a step is the recipe's, whatever number of processes shares it (hflm.recipe.batch_size); a
damaged or half-written checkpoint is never resumed, and old ones go only after the new one is sealed
(hflm.training.checkpoints); SIGTERM saves at the next step boundary that all ranks agree on, a loss that blows up stops
or rolls back (hflm.training.divergence); an out-of-memory halves the micro-batch and keeps the batch
(hflm.training.recovery); every log line lands in metrics.jsonl, once (hflm.training.metrics_log).
"""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.data_loader import get_sampler
from torch.utils.data import RandomSampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from hflm.core import UserError, arithmetic
from hflm.training import checkpoints, recovery
from hflm.training.batch_source import BatchSource
from hflm.training.divergence import Guard
from hflm.training.metrics_log import Progress, flops_per_token
from hflm.training.muon import MuonFactory

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


@dataclass(frozen=True)
class Trained:
    """What one stage did; `loss` is the mean over the last log line's steps, in nats per learnt token.

    `speed` is hflm.training.metrics_log's medians; `skipped` are the steps (from 1) whose batch a rollback left out.
    """

    steps: int
    tokens: int
    seconds: float
    loss: float | None
    eval_loss: float | None
    speed: dict
    skipped: tuple[int, ...]
    arithmetic: dict


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

    `args` are TrainingArguments' own; `rows` is a sequence of rows or a BatchSource; `tokens_per_row` is their
    mean length, `row_tokens` the longest. `batch_tokens`: tokens of one optimizer step over all processes, in whole
    rows. Raises UserError for values that TrainingArguments refuses, TrainingError when it cannot go on, Stopped after
    SIGTERM.
    """
    muon = args.get("optim") == "muon"  # ours, so TrainingArguments would not know it
    args = {key: value for key, value in args.items() if not (muon and key == "optim")}
    chosen = arithmetic.choose(arithmetic.at_hand(), args, fp16=on_spike != "rollback")
    arguments = training_arguments(folder, args, chosen, seed, evaluates=eval_rows is not None, stage=stage)
    keep = arguments.save_total_limit
    arguments.save_total_limit = None  # rotated by the guard, after the seal
    progress = Progress(stage, folder, tokens_per_row, flops_per_token(model, row_tokens))
    progress.say(f"arithmetic: {chosen}")
    slow = arithmetic.slow_setting(chosen, arguments.device)
    if slow is not None:
        warnings.warn(f"{stage}: {slow}", stacklevel=2)
    if torch.accelerator.device_count() > arguments.world_size == 1:
        gpus = torch.accelerator.device_count()
        progress.say(f"1 of {gpus} GPUs is used; `torchrun --nproc_per_node {gpus} -m hflm run ...` uses all")
    batch = recovery.batch_of(arguments, folder, batch_tokens, row_tokens, stage)
    recovery.share_out(arguments, batch)
    progress.say(f"{batch} x {row_tokens:,} tokens = {batch.rows * row_tokens:,} tokens a step")
    whole = None
    if batch_tokens and not isinstance(rows, BatchSource):
        whole = len(rows) // batch.rows * batch.rows
        if not whole:
            raise UserError(f"{stage}.batch_tokens: a step takes {batch.rows} rows, the data has {len(rows)}. Lower it")
        if arguments.train_sampling_strategy == "sequential":
            rows = torch.utils.data.Subset(rows, range(whole))
    if not isinstance(rows, BatchSource):
        at_once = arguments.per_device_train_batch_size * arguments.world_size
        dropped = len(rows) % at_once if arguments.dataloader_drop_last else 0
        progress.rows_per_epoch = whole or len(rows) - dropped
    started, signalled = time.monotonic(), False
    while True:
        skipped = recovery.skipped(folder)
        guard = Guard(stage, folder, keep, on_spike, skipped, progress.say, signalled)
        trainer = _Trainer(
            guard,
            whole,
            model=model,
            args=arguments,
            optimizer_cls_and_kwargs=_muon(arguments, chosen) if muon else None,
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
        if isinstance(rows, BatchSource):
            config, workers = arguments.accelerator_config, arguments.dataloader_num_workers
            if config.dispatch_batches is not None or config.split_batches:
                warnings.warn(
                    f"{stage}.args.accelerator_config: dispatch_batches and split_batches are ignored, each process reads "
                    "its own part of a stream",
                    stacklevel=2,
                )
            rows.resume(arguments.process_index, arguments.world_size, workers, checkpoint)
            arguments.ignore_data_skip = True  # Trainer would read everything from the beginning, and throw it away
        if recovery.ended(trainer, checkpoint, progress):
            break
        trainer.accelerator.free_memory()
        signalled = guard.signalled
    history = trainer.state.log_history
    return Trained(
        steps=trainer.state.global_step,
        tokens=progress.tokens_at(trainer.state.global_step, arguments),
        seconds=time.monotonic() - started,
        loss=next((entry["loss"] for entry in reversed(history) if "loss" in entry), None),
        eval_loss=next((entry["eval_loss"] for entry in reversed(history) if "eval_loss" in entry), None),
        speed=progress.speed,
        skipped=tuple(skipped),
        arithmetic=chosen.as_dict(),
    )


def training_arguments(folder, args, chosen, seed, evaluates, stage):
    """TrainingArguments from a recipe's `args`, over DEFAULTS, in the Arithmetic `chosen`.

    Raises UserError for a value that TrainingArguments refuses.
    """
    accelerated = torch.accelerator.is_available()
    own = {
        "output_dir": str(folder),
        "seed": seed,
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "disable_tqdm": True,
        "use_cpu": not accelerated,
        "dataloader_pin_memory": accelerated,
        "bf16": chosen.autocast == "bf16",
        "fp16": chosen.autocast == "fp16",
        **({"tf32": True} if chosen.tf32 else {}),
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
        self.micro_rows = self.args.train_batch_size
        self.step_batches, self.done = [], 0  # the micro-batches of the optimizer step, and how many of them are done

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.state.global_step + 1 in self.guard.skipped:
            loss = torch.zeros((), device=self.args.device)  # no gradients, so that the optimizer leaves all as it is
        else:
            loss = self._step_within_memory(model, inputs, num_items_in_batch)
        self.guard.add(loss)
        return loss

    def _step_within_memory(self, model, inputs, num_items_in_batch):
        """The loss of a micro-batch after its backward pass; after an out-of-memory, of its rows in smaller parts.

        The pass that failed may have left some gradients: those of the whole optimizer step are computed again.
        """
        pending = [inputs]
        while True:
            try:
                losses = [self._step_in_parts(model, each, num_items_in_batch) for each in pending]
                break
            except RuntimeError as error:
                self.micro_rows = recovery.halve(self, error, self.micro_rows)
            # Outside of the handler, whose error holds on to the step's tensors.
            recovery.free_memory(model)
            pending = [*self.step_batches[: self.done], inputs]
        self.done += 1
        return losses[-1]

    def _step_in_parts(self, model, inputs, num_items_in_batch):
        losses = []
        for part in recovery.split(inputs, self.micro_rows):
            losses.append(super().training_step(model, part, num_items_in_batch))
        return torch.stack(losses).sum()

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
        sums, labels = [], 0
        self.model.eval()
        for start in range(0, len(rows), args.eval_batch_size * args.world_size):
            some = rows[start : start + args.eval_batch_size * args.world_size]
            batch = self.data_collator(some[args.process_index :: args.world_size] or some[:1])
            if len(some) <= args.process_index:
                batch["labels"].fill_(-100)  # as many forward passes as the others, of nothing
            labels += int((batch["labels"][:, 1:] != -100).sum())
            with torch.no_grad():
                sums.append(self.model(**self._prepare_inputs(batch), num_items_in_batch=1).loss)
        total = torch.tensor([torch.stack(sums).cpu().double().sum().item(), labels], dtype=torch.float64)
        if args.world_size > 1:
            total = total.to(args.device)
            torch.distributed.all_reduce(total)
        nll, labels = total.tolist()
        metrics = {"eval_loss": nll / max(labels, 1), "eval_runtime": round(time.monotonic() - started, 3)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics

    def get_train_dataloader(self):
        if not isinstance(self.train_dataset, BatchSource):
            return super().get_train_dataloader()
        args = self.args
        return self.train_dataset.batches(
            args.train_batch_size,
            self.data_collator,
            prefetch_factor=args.dataloader_prefetch_factor,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if self.state.global_step >= self.state.max_steps:
            # Resumed from the last checkpoint: Trainer would look at the number of steps only after one more.
            self.control.should_training_stop = self.guard.was_finished = True
            return [], None
        self.step_batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.done = 0
        return self.step_batches, num_items

    def _save_checkpoint(self, model, trial):
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if isinstance(self.train_dataset, BatchSource):
                self.train_dataset.save(checkpoint)
        except Exception as error:
            failed = checkpoints.unwritten(checkpoint, error)
            if failed is None:
                raise
            raise failed from error

    def rows_of(self, step):
        """The row numbers of the batch of `step` (from 1); of a stream, their place in it."""
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        loader = self.callback_handler.train_dataloader
        if isinstance(self.train_dataset, BatchSource):
            return list(range((step - 1) * per_step, step * per_step))
        per_epoch = -(-len(loader) // self.args.gradient_accumulation_steps)
        epoch, place = divmod(step - 1, per_epoch)
        sampler = get_sampler(loader)
        loader.set_epoch(epoch)
        return [int(row) for row in sampler][place * per_step : (place + 1) * per_step]


def _muon(arguments, chosen):
    """Trainer's `optimizer_cls_and_kwargs` for Muon."""
    return MuonFactory, {
        "lr": arguments.learning_rate,
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
        "weight_decay": arguments.weight_decay,
        "dtype": arithmetic.dtype_of(chosen.orthogonalization),
    }
