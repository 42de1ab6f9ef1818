"""One training stage through transformers' Trainer.

What differs from a plain Trainer: the batch of a step is the recipe's, however many processes it is divided among
(hflm.recipe.batch_size); a damaged or incomplete checkpoint is never resumed, and old ones are removed only after the
checksums of the new one are written (hflm.training.checkpoints); SIGTERM and Ctrl-C save at the next step that all ranks
agree on, a loss that diverges stops or rolls back (hflm.training.divergence); an out-of-memory repeats the step with a
smaller micro-batch (hflm.training.recovery); every log line is in metrics.jsonl once (hflm.training.metrics_log).
"""

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.data_loader import get_sampler
from torch.utils.data import DataLoader, RandomSampler, Subset
from transformers import PrinterCallback, Trainer

from hflm.core import UserError, arithmetic, atomic_folder, logger
from hflm.recipe import Batch
from hflm.training import checkpoints, recovery
from hflm.training.arguments import StageArguments, StageSettings, set_batch, set_intervals, training_arguments
from hflm.training.batch_source import BatchSource
from hflm.training.divergence import Guard
from hflm.training.metrics_log import MetricsLog, flops_per_token
from hflm.training.muon import MuonFactory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Tensors = dict[str, torch.Tensor]  # a batch, (B, T) each


@dataclass(frozen=True)
class TrainingData:
    """Packed rows to train on, a sequence or a BatchSource, and to evaluate on; `collate` makes a batch of some rows."""

    rows: Sequence[Any] | BatchSource
    collate: Callable[[Sequence[Any]], Tensors]
    eval_rows: Sequence[Any] | None = None


@dataclass(frozen=True)
class Trained:
    """What one stage did; `loss` is the mean over the last log line's steps, in nats per label.

    `speed` is hflm.training.metrics_log's medians; `skipped` are the steps (from 1) whose batch a rollback left out.
    """

    steps: int
    tokens: int
    seconds: float
    loss: float | None
    eval_loss: float | None
    speed: dict[str, Any]
    skipped: tuple[int, ...]
    arithmetic: dict[str, Any]


def train_model(
    model: "PreTrainedModel",
    data: TrainingData,
    folder: Path,
    args: Mapping[str, Any],
    stage: StageSettings,
    save_to: Path | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> Trained:
    """Train `model` in `folder`, continuing from its newest valid checkpoint; every process calls it.

    `args` are TrainingArguments' own. The trained model (of an adapter, the adapter alone) is written to `save_to`,
    with `tokenizer`. Raises UserError for values that TrainingArguments refuses, TrainingError when training cannot go
    on, Stopped after SIGTERM or Ctrl-C.
    """
    muon = args.get("optim") == "muon"  # hflm's own, which TrainingArguments does not know
    args = {key: value for key, value in args.items() if not (muon and key == "optim")}
    try:
        chosen = arithmetic.choose(arithmetic.at_hand(), args, fp16=stage.on_spike != "rollback")
    except UserError as error:
        raise UserError(f"{stage.name}.{error}") from None
    arguments = training_arguments(folder, args, chosen, stage, evaluates=data.eval_rows is not None)
    keep, arguments.save_total_limit = arguments.save_total_limit, None  # rotated by the guard
    resumed = recovery.read_resumed(folder, arguments)
    batch = set_batch(arguments, stage, resumed.micro_rows)
    data, epoch_rows = _whole_steps(data, batch.rows, arguments, stage)
    set_intervals(arguments, args, epoch_rows, len(data.eval_rows or ()))
    metrics = MetricsLog(stage.name, folder, stage.tokens_per_row, flops_per_token(model, stage.row_tokens), epoch_rows)
    source = data.rows if isinstance(data.rows, BatchSource) else None
    _announce(arguments, stage, chosen, batch, source is not None)
    started, signals = time.monotonic(), set()
    while True:
        guard = Guard(stage.name, folder, keep, stage.on_spike, set(resumed.skipped), source, signals)
        trainer = StageTrainer(
            guard,
            # Where only complete steps are taken, other rows are left out each epoch.
            epoch_rows if stage.batch_tokens and source is None else None,
            model=model,
            args=arguments,
            optimizer_cls_and_kwargs=_muon(arguments, chosen) if muon else None,
            train_dataset=data.rows,
            eval_dataset=data.eval_rows,
            data_collator=data.collate,
            callbacks=[guard, metrics],
        )
        trainer.remove_callback(PrinterCallback)  # the metrics log displays what it would print
        _keep_fp32_outputs(trainer)
        if resumed.checkpoint is not None:
            logger.info(f"{stage.name}: continues from {resumed.checkpoint.name}")
            guard.resume(resumed.checkpoint)
        if source is not None:
            workers = arguments.dataloader_num_workers
            source.resume(arguments.process_index, arguments.world_size, workers, resumed.checkpoint)
            arguments.ignore_data_skip = True  # Trainer would read everything from the beginning, and throw it away
        if recovery.train_to_end(trainer, resumed.checkpoint):
            break
        trainer.accelerator.free_memory()
        signals = guard.signals
        resumed = recovery.read_resumed(folder, arguments)
    if save_to is not None:
        _save_trained(trainer, save_to, tokenizer)
    history = trainer.state.log_history
    return Trained(
        steps=trainer.state.global_step,
        tokens=metrics.tokens_at(trainer.state.global_step, arguments),
        seconds=time.monotonic() - started,
        loss=next((entry["loss"] for entry in reversed(history) if "loss" in entry), None),
        eval_loss=next((entry["eval_loss"] for entry in reversed(history) if "eval_loss" in entry), None),
        speed=metrics.speed,
        skipped=tuple(sorted(resumed.skipped)),
        arithmetic=chosen.as_dict(),
    )


def _whole_steps(
    data: TrainingData, step_rows: int, arguments: StageArguments, stage: StageSettings
) -> tuple[TrainingData, int | None]:
    """The data, and the rows of an epoch: with `batch_tokens` those of complete steps; None for a BatchSource."""
    if isinstance(data.rows, BatchSource):
        return data, None
    if not stage.batch_tokens:
        at_once = arguments.per_device_train_batch_size * arguments.world_size
        dropped = len(data.rows) % at_once if arguments.dataloader_drop_last else 0
        return data, len(data.rows) - dropped
    epoch_rows = len(data.rows) // step_rows * step_rows
    if not epoch_rows:
        raise UserError(
            f"{stage.name}.batch_tokens: a step takes {step_rows} rows, the data has {len(data.rows)}. Lower it"
        )
    if arguments.train_sampling_strategy == "sequential":
        data = dataclasses.replace(data, rows=Subset(data.rows, range(epoch_rows)))  # type: ignore[arg-type]
    return data, epoch_rows


def _announce(
    arguments: StageArguments, stage: StageSettings, chosen: arithmetic.Arithmetic, batch: Batch, is_stream: bool
) -> None:
    logger.info(f"{stage.name}: arithmetic: {chosen}")
    slow = arithmetic.slow_setting(chosen, arguments.device)
    if slow is not None:
        warnings.warn(f"{stage.name}: {slow}", stacklevel=3)
    gpus = torch.accelerator.device_count()
    if gpus > arguments.world_size == 1:
        logger.info(
            f"{stage.name}: 1 of {gpus} GPUs is used; `torchrun --nproc_per_node {gpus} -m hflm run ...` uses all"
        )
    config: Any = arguments.accelerator_config
    if is_stream and (config.dispatch_batches is not None or config.split_batches):
        warnings.warn(
            f"{stage.name}.args.accelerator_config: dispatch_batches and split_batches are ignored for a stream, each "
            "process reads its own part of it",
            stacklevel=3,
        )
    step_tokens = batch.rows * stage.row_tokens
    logger.info(f"{stage.name}: {batch} x {stage.row_tokens:,} tokens = {step_tokens:,} tokens a step")


def _keep_fp32_outputs(trainer: Trainer) -> None:
    """Under FSDP2 accelerate would return the loss in bf16 and sum gradients in it: three digits of a sum of 27,000."""
    plugin: Any = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    policy = plugin.mixed_precision_policy if plugin is not None and plugin.fsdp_version == 2 else None
    if policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(policy, reduce_dtype=torch.float32, output_dtype=None)


def _save_trained(trainer: Trainer, folder: Path, tokenizer: "PreTrainedTokenizerBase | None") -> None:
    """Write the trained weights so that `folder` appears complete or not at all. Every process takes part."""
    if not trainer.is_world_process_zero():
        trainer.save_model(str(folder))  # parts of a sharded model are gathered; only the first process writes
        return
    try:
        with atomic_folder(folder) as partial:
            trainer.save_model(str(partial))
            (partial / "training_args.bin").unlink()  # a pickle, which nobody should load
            if tokenizer is not None:
                tokenizer.save_pretrained(partial)
    except Exception as error:
        failed = checkpoints.write_error(folder, error)
        if failed is None:
            raise
        raise failed from error


class StageTrainer(Trainer):
    """Trainer whose steps are watched by a Guard, skipped after a rollback and repeated after an out-of-memory.

    `epoch_rows`: an epoch takes only so many of the rows, chosen anew each time.
    """

    def __init__(self, guard: Guard, epoch_rows: int | None, **options: Any) -> None:
        super().__init__(**options)
        self.guard, self.epoch_rows = guard, epoch_rows
        self.micro_rows = self.args.train_batch_size  # rows of a forward pass
        self.eval_micro_rows = self.args.eval_batch_size
        self.step_batches: list[Tensors] = []  # the micro-batches of the current optimizer step
        self.done = 0  # how many of them have their gradients

    # Data

    def get_train_dataloader(self) -> Any:
        args = self.args
        options = {
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory,
            "persistent_workers": args.dataloader_persistent_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
        }
        if self.guard.source is not None:
            options.pop("num_workers")  # known from `resume`
            collate: Any = self.data_collator
            return self.guard.source.batches(args.train_batch_size, collate, **options)
        if self.epoch_rows is None or args.train_sampling_strategy != "random":
            return super().get_train_dataloader()
        sampler = RandomSampler(self.train_dataset, num_samples=self.epoch_rows)  # type: ignore[arg-type]
        loader = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            args.train_batch_size,
            sampler=sampler,
            collate_fn=self.data_collator,
            drop_last=args.dataloader_drop_last,
            **options,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Tensors], num_batches: int, device: torch.device
    ) -> tuple[list[Tensors], Any]:
        if self.state.global_step >= self.state.max_steps:
            # Resumed from the checkpoint of the last step: Trainer compares the number of steps only after one more.
            self.control.should_training_stop = self.guard.was_finished = True
            return [], None
        self.step_batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.done = 0
        return self.step_batches, num_items

    def rows_of(self, step: int) -> list[int]:
        """The row numbers of the batch of `step` (from 1); of a stream, their place in it."""
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if self.guard.source is not None:
            return list(range((step - 1) * per_step, step * per_step))
        loader: Any = self.callback_handler.train_dataloader
        per_epoch = -(-len(loader) // self.args.gradient_accumulation_steps)
        epoch, place = divmod(step - 1, per_epoch)
        sampler = get_sampler(loader)
        loader.set_epoch(epoch)
        return [int(row) for row in sampler][place * per_step : (place + 1) * per_step]

    # Steps

    def training_step(self, model: torch.nn.Module, inputs: Tensors, num_items_in_batch: Any = None) -> torch.Tensor:
        if self.state.global_step + 1 in self.guard.skipped:
            loss = torch.zeros((), device=self.args.device)  # no gradients, so that the optimizer changes nothing
        else:
            loss = self._step_within_memory(model, inputs, num_items_in_batch)
        self.guard.add(loss)
        return loss

    def _step_within_memory(self, model: torch.nn.Module, inputs: Tensors, num_items_in_batch: Any) -> torch.Tensor:
        """The loss of a micro-batch after its backward pass; after an out-of-memory, of its rows in smaller parts.

        The pass that failed may have left some gradients: those of the whole optimizer step are computed again.
        """
        pending = [inputs]
        while True:
            try:
                losses = [self._step_in_parts(model, each, num_items_in_batch) for each in pending]
                break
            except RuntimeError as error:
                self.micro_rows = recovery.halve_micro_batch(self, error, self.micro_rows)
                self.eval_micro_rows = max(1, self.eval_micro_rows // 2)
            recovery.free_memory(model)
            pending = [*self.step_batches[: self.done], inputs]
        self.done += 1
        return losses[-1]

    def _step_in_parts(self, model: torch.nn.Module, inputs: Tensors, num_items_in_batch: Any) -> torch.Tensor:
        losses = []
        for part in recovery.split_batch(inputs, self.micro_rows):
            losses.append(super().training_step(model, part, num_items_in_batch))
        return torch.stack(losses).sum()

    # Evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """{"eval_loss": the mean of -log p over all labels}, exactly, with any batch size and number of processes.

        Trainer's own is a mean of the batches' means, which depends on both.
        """
        started = time.monotonic()
        self.model.eval()
        while True:
            try:
                nll, labels = self._sum_nll(self.eval_micro_rows)
                break
            except RuntimeError as error:
                self.eval_micro_rows = recovery.halve_micro_batch(self, error, self.eval_micro_rows)
        if self.args.world_size > 1:
            total = torch.tensor([nll, labels], dtype=torch.float64, device=self.args.device)
            torch.distributed.all_reduce(total)
            nll, labels = total.tolist()
        metrics = {"eval_loss": nll / max(labels, 1), "eval_runtime": round(time.monotonic() - started, 3)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _sum_nll(self, rows_at_once: int) -> tuple[float, int]:
        """(the sum of -log p, the number of labels) of this process's rows of the validation data."""
        rows: Any = self.eval_dataset
        process, processes = self.args.process_index, self.args.world_size
        sums, labels = [], 0
        for start in range(0, len(rows), rows_at_once * processes):
            group = rows[start : start + rows_at_once * processes]
            batch = self.data_collator(group[process::processes] or group[:1])
            if len(group) <= process:
                batch["labels"].fill_(-100)  # as many forward passes as the others, of nothing
            labels += int((batch["labels"][:, 1:] != -100).sum())
            batch = {name: each.to(self.args.device) for name, each in batch.items()}
            with torch.no_grad():
                sums.append(self.model(**batch, num_items_in_batch=1).loss)
        return torch.stack(sums).cpu().double().sum().item(), labels

    # Checkpoints

    def save_model(self, output_dir: str | None = None, *args: Any, **options: Any) -> None:
        """As Trainer's; a checkpoint begins with it, and Guard.on_save ends it."""
        self.guard.writing = Path(output_dir or self.args.output_dir)
        super().save_model(output_dir, *args, **options)


def _muon(arguments: StageArguments, chosen: arithmetic.Arithmetic) -> tuple[type[MuonFactory], dict[str, Any]]:
    """Trainer's `optimizer_cls_and_kwargs` for Muon."""
    return MuonFactory, {
        "lr": arguments.learning_rate,
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
        "weight_decay": arguments.weight_decay,
        "dtype": arithmetic.dtype_of(chosen.orthogonalization),
    }
