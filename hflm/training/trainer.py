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
from safetensors.torch import load_file
from torch.utils.data import Subset
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback

from hflm.core import UserError, arithmetic, atomic_folder, logger
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
from hflm.training.best_model import KeepBest, Kept, early_stopping, has_stopped
from hflm.training.divergence import Guard
from hflm.training.evaluation import TaskScorer, ValidationSet
from hflm.training.extension import Extension, ScheduleOfArguments, joining_checkpoint
from hflm.training.heartbeat import Heartbeat
from hflm.training.metrics_log import EvaluationCallback, MetricsLog, flops_per_token
from hflm.training.muon import MuonFactory
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
class Trained:
    """What one stage did; `loss` is the mean over the steps of a log line, in nats per label.

    The losses are those at `kept_step`, whose weights are the stage's model: the last step, or with
    load_best_model_at_end the best one, for the reason in `kept`. `stopped_early`: before the last step, because the
    evaluations were no longer better. Where checkpoints are averaged, `averaged` are their steps and `eval_loss` is that
    of the mean (None for a sharded model).

    `speed` is hflm.training.metrics_log's medians; `skipped` are the steps (from 1) whose batch a rollback left out.
    """

    steps: int
    kept_step: int
    kept: Kept | None
    stopped_early: bool
    tokens: int
    seconds: float
    loss: float | None
    eval_loss: float | None
    speed: dict[str, Any]
    skipped: tuple[int, ...]
    arithmetic: dict[str, Any]
    averaged: tuple[int, ...] = ()


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
) -> Trained:
    """Train `model` in `folder`, continuing from its newest valid checkpoint; every process calls it.

    `args` are TrainingArguments' own. The trained model (of an adapter, the adapter alone) is written to `save_to`,
    with `tokenizer`. With an `extension` the checkpoint is one of an earlier training with other `args`. `on_evaluation`
    receives the fraction of the steps that are done and the scores of each evaluation, in the first process; what it
    raises ends the training. Raises UserError for values that TrainingArguments refuses, TrainingError when training
    cannot go on, Stopped after SIGTERM or Ctrl-C.
    """
    muon = args.get("optim") == "muon"  # hflm's own, which TrainingArguments does not know
    # Trainer's smoothing takes the logits of a whole batch; the model's own loss has it (hflm.models.patch_loss).
    own = {"label_smoothing_factor", *(["optim"] if muon else [])}
    args = {key: value for key, value in args.items() if key not in own}
    try:
        chosen = arithmetic.choose(arithmetic.at_hand(), args, fp16=stage.on_spike != "rollback")
    except UserError as error:
        raise UserError(f"{stage.name}.{error}") from None
    arguments = training_arguments(folder, args, chosen, stage, evaluates=data.eval_rows > 0)
    keep, arguments.save_total_limit = arguments.save_total_limit, None  # rotated by the guard
    resumed = recovery.read_resumed(folder, arguments)
    batch = set_batch(arguments, stage, resumed.micro_rows, resumed.step_rows)
    set_steps(arguments, stage, batch)
    data, epoch_rows = _whole_steps(data, batch.rows, arguments, stage)
    set_intervals(arguments, args, epoch_rows, data.eval_rows, stage.early_stopping is not None)
    averaged = averaged_steps(arguments, epoch_rows, stage)
    if extension is not None:
        steps = total_steps(arguments, epoch_rows)
        resumed = _begin_extension(extension, resumed, folder, arguments, steps, averaged, stage.name)
    displayed = data.scorer.main if data.scorer else ()
    flops = flops_per_token(model, stage.row_tokens)
    metrics = MetricsLog(stage.name, folder, stage.tokens_per_row, flops, epoch_rows, displayed)
    optimizer = _muon(arguments, chosen) if muon else None
    source = data.rows if isinstance(data.rows, BatchSource) else None
    _announce(arguments, stage, chosen, batch, source is not None)
    heartbeat = Heartbeat(
        stage.name, folder, arguments.process_index, arguments.world_size, timeout=arguments.ddp_timeout
    )
    began, signals = time.monotonic() - checkpoints.seconds_of(resumed.checkpoint), set()
    while True:
        guard = Guard(stage.name, folder, keep, stage.on_spike, set(resumed.skipped), source, signals, averaged, began)
        _resume(guard, arguments, resumed.checkpoint)
        stop = stage.early_stopping
        early = early_stopping(stop, resumed.checkpoint) if stop else None
        trainer = _make_trainer(model, data, arguments, guard, [metrics, heartbeat], early, optimizer)
        if on_evaluation is not None:
            trainer.add_callback(EvaluationCallback(on_evaluation))
        # Where only complete steps are taken, other rows are left out each epoch.
        trainer.epoch_rows = epoch_rows if stage.batch_tokens and source is None else None
        checkpoint = resumed.checkpoint and checkpoint_format.for_trainer(resumed.checkpoint, trainer)
        with heartbeat:
            ended = recovery.train_to_end(trainer, checkpoint)
        if ended:
            break
        trainer.accelerator.free_memory()
        signals = guard.signals
        resumed = recovery.read_resumed(folder, arguments)
    if save_to is not None:
        _save_trained(trainer, save_to, tokenizer, [folder / f"checkpoint-{step}" for step in averaged])
        trainer.accelerator.wait_for_everyone()
    if arguments.process_index == 0:
        checkpoint_format.remove_translated(folder)
    outcome = _outcome(trainer)
    if save_to is not None and averaged:
        outcome["eval_loss"] = _loss_of_saved(trainer, save_to)
        logger.info(
            f"{stage.name}: the weights are the mean of the checkpoints of steps {', '.join(map(str, averaged))}"
        )
    return Trained(
        **outcome,
        tokens=metrics.tokens_at(trainer.state.global_step, arguments),
        seconds=time.monotonic() - began,
        speed=metrics.speed,
        skipped=tuple(sorted(resumed.skipped)),
        arithmetic=chosen.as_dict(),
        averaged=averaged if save_to is not None else (),
    )


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


def _outcome(trainer: StageTrainer) -> dict[str, Any]:
    """What a Trained says of the steps and their losses."""
    state, kept = trainer.state, trainer.best.kept if trainer.best else None
    history = [entry for entry in state.log_history if kept is None or entry.get("step", 0) <= kept.step]
    if kept is not None:
        best = f"its {kept.metric} {kept.value:.4g} is the best"
        logger.info(f"{trainer.guard.stage}: the model of step {kept.step:,} is kept: {best}")
    return {
        "steps": state.global_step,
        "kept_step": kept.step if kept else state.global_step,
        "kept": kept,
        "stopped_early": has_stopped(trainer.early) and state.global_step < state.max_steps,
        "loss": next((entry["loss"] for entry in reversed(history) if "loss" in entry), None),
        "eval_loss": next((entry["eval_loss"] for entry in reversed(history) if "eval_loss" in entry), None),
    }


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


def _announce(
    arguments: StageArguments, stage: StageSettings, chosen: arithmetic.Arithmetic, batch: Batch, is_stream: bool
) -> None:
    logger.info(f"{stage.name}: arithmetic: {chosen}")
    slow = arithmetic.slow_setting(chosen, arguments.device)
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
    step_tokens = batch.rows * stage.row_tokens
    logger.info(f"{stage.name}: {batch} x {stage.row_tokens:,} tokens = {step_tokens:,} tokens a step")


def _keep_fp32_outputs(trainer: Trainer) -> None:
    """Under FSDP2 accelerate would return the loss in bf16 and sum gradients in it: three digits of a sum of 27,000."""
    plugin: Any = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    policy = plugin.mixed_precision_policy if plugin is not None and plugin.fsdp_version == 2 else None
    if policy is not None:
        policy = dataclasses.replace(policy, reduce_dtype=torch.float32, output_dtype=None)
        plugin.mixed_precision_policy = policy  # type: ignore[union-attr]


def _loss_of_saved(trainer: StageTrainer, folder: Path) -> float | None:
    """The evaluation loss of the weights in `folder`; None without validation data, and for a sharded model."""
    if not trainer.validation or trainer.is_fsdp_enabled:
        return None
    model = trainer.accelerator.unwrap_model(trainer.model)
    for file in sorted(folder.glob("*.safetensors")):
        model.load_state_dict(load_file(file), strict=False)  # tied weights are saved once
    return trainer.evaluation_losses()["eval_loss"]


def _save_trained(
    trainer: Trainer, folder: Path, tokenizer: "PreTrainedTokenizerBase | None", averaged: Sequence[Path]
) -> None:
    """Write the trained weights, or the mean of the `averaged` checkpoints, so that `folder` appears complete or not at
    all. Every process takes part.
    """
    if not trainer.is_world_process_zero():
        trainer.save_model(str(folder))  # parts of a sharded model are gathered; only the first process writes
        return
    try:
        with atomic_folder(folder) as partial:
            trainer.save_model(str(partial))
            (partial / "training_args.bin").unlink()  # a pickle, which nobody should load
            if averaged:
                checkpoints.average_weights(averaged, partial)
            if tokenizer is not None:
                tokenizer.save_pretrained(partial)
    except Exception as error:
        failed = checkpoints.write_error(folder, error)
        if failed is None:
            raise
        raise failed from error


def _muon(arguments: StageArguments, chosen: arithmetic.Arithmetic) -> tuple[type[MuonFactory], dict[str, Any]]:
    """Trainer's `optimizer_cls_and_kwargs` for Muon."""
    return MuonFactory, {
        "lr": arguments.learning_rate,
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
        "weight_decay": arguments.weight_decay,
        "dtype": arithmetic.dtype_of(chosen.orthogonalization),
    }
