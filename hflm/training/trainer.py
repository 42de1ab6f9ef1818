"""One training stage through transformers' Trainer.

What differs from a plain Trainer: the batch of a step is the recipe's, however many processes it is divided among
(hflm.recipe.batch_size); a damaged or incomplete checkpoint is never resumed, and old ones are removed only after the
checksums of the new one are written (hflm.training.checkpoints); SIGTERM and Ctrl-C save at the next step that all ranks
agree on, a loss that diverges stops or rolls back (hflm.training.divergence); an out-of-memory repeats the step with a
smaller micro-batch (hflm.training.recovery); a process that hangs is named, and all end (hflm.training.heartbeat); every
log line is in metrics.jsonl once (hflm.training.metrics_log).
"""

import dataclasses
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Subset
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback

from hflm.core import UserError, arithmetic, logger
from hflm.recipe import Batch
from hflm.training import checkpoint_format, checkpoints, recovery
from hflm.training.arguments import (
    StageArguments,
    StageSettings,
    averaged_steps,
    set_batch,
    set_intervals,
    set_steps,
    total_steps,
    training_arguments,
)
from hflm.training.batch_source import BatchSource
from hflm.training.best_model import KeepBest, early_stopping
from hflm.training.divergence import Guard
from hflm.training.evaluation import TaskScorer, ValidationSet
from hflm.training.extension import Extension, ScheduleOfArguments, joining_checkpoint
from hflm.training.heartbeat import Heartbeat
from hflm.training.metrics_log import EvaluationCallback, MetricsLog, flops_per_token
from hflm.training.muon import MuonFactory
from hflm.training.outcome import Trained, finish
from hflm.training.processes import wait_for_all
from hflm.training.stage_trainer import StageTrainer, Tensors

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainingData:
    """Packed rows to train on, a sequence or a BatchSource; `collate` makes a batch of some rows.

    Each evaluation measures the loss of each of `validation`, by name ("" where there is only one), and the tasks of
    `scorer`.
    """

    rows: Sequence[Any] | BatchSource
    collate: Callable[[Sequence[Any]], Tensors]
    validation: Mapping[str, ValidationSet] = dataclasses.field(default_factory=dict)
    scorer: TaskScorer | None = None

    @property
    def eval_rows(self) -> int:
        """Rows of an evaluation, of validation data and tasks together."""
        return sum(len(each.rows) for each in self.validation.values()) + (self.scorer.rows if self.scorer else 0)


@dataclass(frozen=True)
class _Settled:
    """A training on these processes, before its first step: what the arguments, the data and the folder come to."""

    arguments: StageArguments
    arithmetic: arithmetic.Arithmetic
    batch: Batch
    data: TrainingData
    epoch_rows: int | None
    averaged: tuple[int, ...]
    keep: int | None
    resumed: recovery.Resumed


@arithmetic.restored_fp32_precision()
def train_model(
    model: "PreTrainedModel | PeftModel",
    data: TrainingData,
    folder: Path,
    args: Mapping[str, Any],
    stage: StageSettings,
    save_to: Path | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    extension: Extension | None = None,
    on_evaluation: Callable[[float, dict[str, float]], None] | None = None,
    on_checkpoint: Callable[[Sequence[Path]], None] | None = None,
) -> Trained:
    """Train `model` in `folder`, continuing from its newest valid checkpoint; every process calls it.

    `args` are TrainingArguments' own. The trained model (of an adapter, the adapter alone) is written to `save_to`,
    with `tokenizer`. With an `extension` the checkpoint is one of an earlier training with other `args`. `on_evaluation`
    receives the fraction of the steps that are done and the scores of each evaluation, in the first process; what it
    raises ends the training. `on_checkpoint` receives, there, each checkpoint that was written and checked, before older
    ones are removed; in front of it those that the end of the training needs, too (the best one, those to average).
    Raises UserError for values that TrainingArguments refuses, TrainingError when training
    cannot go on, Stopped after SIGTERM or Ctrl-C.
    """
    muon = args.get("optim") == "muon"
    settled = _settle(args, data, folder, stage, extension)
    arguments, data, resumed, averaged = settled.arguments, settled.data, settled.resumed, settled.averaged
    displayed = data.scorer.main if data.scorer else ()
    flops = flops_per_token(model, stage.row_tokens, stage.label_share)
    metrics = MetricsLog(stage.name, folder, stage.tokens_per_row, flops, settled.epoch_rows, displayed)
    optimizer = _muon(arguments, settled.arithmetic) if muon else None
    source = data.rows if isinstance(data.rows, BatchSource) else None
    _announce(settled, stage, source is not None)
    heartbeat = Heartbeat(
        stage.name, folder, arguments.process_index, arguments.world_size, timeout=arguments.ddp_timeout
    )
    began, signals = time.monotonic() - checkpoints.seconds_of(resumed.checkpoint), set()
    while True:
        skipped = set(resumed.skipped)
        guard = Guard(stage.name, folder, settled.keep, stage.on_spike, skipped, source, signals, averaged, began)
        guard.on_checkpoint = on_checkpoint
        _resume(guard, arguments, resumed.checkpoint)
        stop = stage.early_stopping
        early = early_stopping(stop, resumed.checkpoint) if stop else None
        trainer = _make_trainer(model, data, arguments, guard, [metrics, heartbeat], early, optimizer)
        if on_evaluation is not None:
            trainer.add_callback(EvaluationCallback(on_evaluation))
        # Where only complete steps are taken, other rows are left out each epoch.
        trainer.epoch_rows = settled.epoch_rows if stage.batch_tokens and source is None else None
        checkpoint = resumed.checkpoint and checkpoint_format.for_trainer(resumed.checkpoint, trainer)
        with heartbeat:
            ended = recovery.train_to_end(trainer, checkpoint)
        if ended:
            break
        trainer.accelerator.free_memory()
        signals = guard.signals
        resumed = recovery.read_resumed(folder, arguments)
    outcome = finish(trainer, save_to, tokenizer, averaged)
    return Trained(
        **outcome,
        tokens=metrics.tokens_at(trainer.state.global_step, arguments),
        seconds=time.monotonic() - began,
        speed=metrics.speed,
        skipped=tuple(sorted(resumed.skipped)),
        arithmetic=settled.arithmetic.as_dict(),
        averaged=averaged if save_to is not None else (),
    )


def _settle(
    args: Mapping[str, Any], data: TrainingData, folder: Path, stage: StageSettings, extension: Extension | None
) -> _Settled:
    own, chosen = _own_arguments(args, stage)
    arguments = training_arguments(folder, own, chosen, stage, evaluates=data.eval_rows > 0)
    keep, arguments.save_total_limit = arguments.save_total_limit, None  # rotated by the guard
    resumed = recovery.read_resumed(folder, arguments)
    batch = set_batch(arguments, stage, resumed.micro_rows, resumed.step_rows)
    set_steps(arguments, stage, batch)
    data, epoch_rows = _whole_steps(data, batch.rows, arguments, stage)
    set_intervals(arguments, own, epoch_rows, data.eval_rows, stage.early_stopping is not None)
    averaged = averaged_steps(arguments, epoch_rows, stage)
    if extension is not None:
        steps = total_steps(arguments, epoch_rows)
        resumed = _begin_extension(extension, resumed, folder, arguments, steps, averaged, stage.name)
    return _Settled(arguments, chosen, batch, data, epoch_rows, averaged, keep, resumed)


def _own_arguments(args: Mapping[str, Any], stage: StageSettings) -> tuple[dict[str, Any], arithmetic.Arithmetic]:
    """(`args` without those that hflm follows itself, the arithmetic)."""
    # Muon is hflm's own, which TrainingArguments does not know. Trainer's label smoothing takes the logits of a whole
    # batch; the model's own loss has it (hflm.models.patch_loss).
    own = {"label_smoothing_factor", *(["optim"] if args.get("optim") == "muon" else [])}
    args = {key: value for key, value in args.items() if key not in own}
    try:
        return args, arithmetic.choose(arithmetic.at_hand(), args, fp16=stage.on_spike != "rollback")
    except UserError as error:
        raise UserError(f"{stage.name}.{error}") from None


def _begin_extension(
    extension: Extension,
    resumed: recovery.Resumed,
    folder: Path,
    arguments: StageArguments,
    steps: int,
    averaged: Collection[int],
    stage: str,
) -> recovery.Resumed:
    """`resumed`, from the checkpoint at which the earlier training and this one join."""
    checkpoint = joining_checkpoint(folder, extension, arguments, steps, stage)
    removed = [step for step in averaged if not (folder / f"checkpoint-{step}").is_dir()]
    if any(step <= checkpoints.step_of(checkpoint) for step in removed):
        raise UserError(
            f"{stage} cannot be extended: average_checkpoints needs those of steps {', '.join(map(str, averaged))}, and not "
            "all of them were kept. Train for more steps"
        )
    if arguments.process_index == 0:
        extension.begin(checkpoint)
    wait_for_all()
    return dataclasses.replace(resumed, checkpoint=checkpoint)


def _resume(guard: Guard, arguments: StageArguments, checkpoint: Path | None) -> None:
    """Bring the guard and a BatchSource to where `checkpoint` left them, or to the beginning."""
    if checkpoint is not None:
        logger.info(f"{guard.stage}: continues from {checkpoint.name}")
        guard.resume(checkpoint)
    if guard.source is not None:
        guard.source.resume(
            arguments.process_index,
            arguments.world_size,
            arguments.dataloader_num_workers,
            arguments.train_batch_size,
            checkpoint,
        )
        arguments.ignore_data_skip = True  # Trainer would read everything from the beginning, and throw it away


def _make_trainer(
    model: "PreTrainedModel | PeftModel",
    data: TrainingData,
    arguments: StageArguments,
    guard: Guard,
    callbacks: Sequence[TrainerCallback],
    early: EarlyStoppingCallback | None,
    optimizer: tuple[type, dict[str, Any]] | None,
) -> StageTrainer:
    best = KeepBest(guard.folder) if arguments.load_best_model_at_end else None
    trainer = StageTrainer(
        guard,
        data.validation,
        data.scorer,
        early,
        best,
        model=model,
        args=arguments,
        optimizer_cls_and_kwargs=optimizer,
        train_dataset=data.rows,
        data_collator=data.collate,
        callbacks=[guard, *callbacks, ScheduleOfArguments(), *(each for each in (early, best) if each is not None)],
    )
    trainer.remove_callback(PrinterCallback)  # the metrics log displays what it would print
    _keep_fp32_outputs(trainer)
    return trainer


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


def _announce(settled: _Settled, stage: StageSettings, is_stream: bool) -> None:
    arguments = settled.arguments
    logger.info(f"{stage.name}: arithmetic: {settled.arithmetic}")
    slow = arithmetic.slow_setting(settled.arithmetic, arguments.device)
    if slow is not None:
        warnings.warn(f"{stage.name}: {slow}", stacklevel=3)
    gpus = torch.accelerator.device_count() if arguments.device.type != "cpu" else 0
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
    step_tokens = settled.batch.rows * stage.row_tokens
    logger.info(f"{stage.name}: {settled.batch} x {stage.row_tokens:,} tokens = {step_tokens:,} tokens a step")


def _keep_fp32_outputs(trainer: Trainer) -> None:
    """Under FSDP2 accelerate would return the loss in bf16 and sum gradients in it: three digits of a sum of 27,000."""
    plugin: Any = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    policy = plugin.mixed_precision_policy if plugin is not None and plugin.fsdp_version == 2 else None
    if policy is not None:
        policy = dataclasses.replace(policy, reduce_dtype=torch.float32, output_dtype=None)
        plugin.mixed_precision_policy = policy  # type: ignore[union-attr]


def _muon(arguments: StageArguments, chosen: arithmetic.Arithmetic) -> tuple[type[MuonFactory], dict[str, Any]]:
    """Trainer's `optimizer_cls_and_kwargs` for Muon."""
    return MuonFactory, {
        "lr": arguments.learning_rate,
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
        "weight_decay": arguments.weight_decay,
        "dtype": arithmetic.dtype_of(chosen.orthogonalization),
    }
