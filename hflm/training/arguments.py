"""TrainingArguments from a recipe's `args`, and what follows from the data and the processes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import TrainingArguments

from hflm.core import UserError, logger
from hflm.core.arithmetic import Arithmetic, at_hand
from hflm.recipe import Batch, derive_batch, greater_is_better, keep_batch
from hflm.training.best_model import EarlyStop

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
FEW_STEPS = 10  # a run of fewer logs each
MAX_EVALUATIONS, EVALUATION_FRACTION = 10, 0.1  # by default: how often, and of the time of training
FORWARD_FRACTION = 1 / 3  # of the FLOPs of a training step; the rest is the backward pass


@dataclass(frozen=True)
class StageSettings:
    """What a recipe says about a stage beside `args`.

    row_tokens: the longest row. tokens_per_row: their mean length. batch_tokens: tokens of one optimizer step over all
    processes, in complete rows. average_checkpoints: the stage's model is the mean of so many of the last checkpoints.
    tokens: how many to train on, in place of `args`' steps. label_share: the labels as a fraction of the tokens.
    """

    name: str
    seed: int
    row_tokens: int
    tokens_per_row: float
    batch_tokens: int | None = None
    on_spike: Literal["ignore", "stop", "rollback"] = "ignore"
    average_checkpoints: int | None = None
    early_stopping: EarlyStop | None = None
    tokens: float | None = None
    label_share: float = 1.0


class StageArguments(TrainingArguments):
    """TrainingArguments that never make Trainer take DataParallel, its choice for one process and several GPUs.

    DataParallel is slower than one process a GPU, and copies the model without its patched loss.
    """

    @property
    def n_gpu(self) -> int:
        return min(1, super().n_gpu)


def training_arguments(
    folder: Path, args: Mapping[str, Any], chosen: Arithmetic, stage: StageSettings, evaluates: bool
) -> StageArguments:
    """The arguments of a stage: `args` over DEFAULTS, in the Arithmetic `chosen`.

    Raises UserError for a value that TrainingArguments refuses, or that cannot work on these processes.
    """
    accelerated = at_hand().type != "cpu"
    own: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": stage.seed,
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
        raise UserError(f"{stage.name}.args.eval_strategy: there is no validation data to evaluate on")
    if stage.early_stopping is not None:
        args = {"metric_for_best_model": "loss", **args}
    if isinstance(metric := args.get("metric_for_best_model"), str):
        own["greater_is_better"] = greater_is_better(metric)
    if args.get("fsdp"):
        _require_shards(stage.name)
    try:
        return StageArguments(**{**DEFAULTS, **own, **args})
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{stage.name}.args: {' '.join(str(error).split())[:400]}") from error


def _require_shards(stage: str) -> None:
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    state = PartialState()
    if state.num_processes == 1:
        raise UserError(
            f"{stage}.args.fsdp: it divides a model among several processes, and one was started. Use `accelerate launch "
            "--config_file recipes/launch/fsdp2.yaml -m hflm run ...`, or remove it"
        )
    if state.distributed_type in (DistributedType.MULTI_CPU, DistributedType.NO):
        raise UserError(f"{stage}.args.fsdp: accelerate divides models only on accelerators, these are CPUs. Remove it")


def set_batch(
    arguments: TrainingArguments, stage: StageSettings, micro_rows: int | None = None, step_rows: int | None = None
) -> Batch:
    """Set the Batch of a step: the recipe's, with the rows of a forward pass that an earlier out-of-memory left.

    step_rows: of a step of the run that is continued, perhaps on another number of processes.
    """
    most, processes = arguments.per_device_train_batch_size, arguments.world_size
    if stage.batch_tokens:
        batch = derive_batch(stage.batch_tokens, stage.row_tokens, processes, most, stage.name)
    else:
        batch = Batch(most, arguments.gradient_accumulation_steps, processes)
        if step_rows is not None and step_rows != batch.rows:
            batch = keep_batch(step_rows, processes, most, stage.name)
    while micro_rows is not None and batch.per_device > micro_rows and (half := batch.halved()) is not None:
        batch = half
    arguments.per_device_train_batch_size = batch.per_device
    arguments.gradient_accumulation_steps = batch.accumulation
    return batch


def set_steps(arguments: TrainingArguments, stage: StageSettings, batch: Batch) -> None:
    """Set the steps that the stage's `tokens` take."""
    if stage.tokens is not None:
        arguments.max_steps = math.ceil(stage.tokens / (batch.rows * stage.tokens_per_row))
        logger.info(f"{stage.name}: {stage.tokens:,.0f} tokens are {arguments.max_steps:,} steps")


def set_intervals(
    arguments: TrainingArguments,
    args: Mapping[str, Any],
    rows_per_epoch: int | None,
    eval_rows: int,
    stops_early: bool = False,
) -> None:
    """Set how often to log and evaluate where `args` do not: every step of a short run; evaluations in a tenth of the time.

    eval_rows: packed rows of validation data and rows of tasks. One takes a third of the FLOPs of a row of training. At
    least one evaluation is made, at the end. stops_early: evaluations are counted, so that the data set no interval.
    """
    rows = arguments.per_device_train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    steps, _ = _steps(arguments, rows_per_epoch)
    if "logging_steps" not in args and steps < FEW_STEPS:
        arguments.logging_steps = 1
    chooses_best = stops_early or arguments.load_best_model_at_end or arguments.save_strategy == "best"
    if "eval_steps" in args or arguments.eval_strategy != "steps" or not eval_rows or chooses_best:
        return
    affordable = EVALUATION_FRACTION * steps * rows / (FORWARD_FRACTION * eval_rows)
    evaluations = min(MAX_EVALUATIONS, max(1, int(affordable)))
    arguments.eval_steps = math.ceil(steps / evaluations)


def averaged_steps(arguments: TrainingArguments, rows_per_epoch: int | None, stage: StageSettings) -> tuple[int, ...]:
    """The steps whose checkpoints are averaged: the last regular ones; () where none are.

    Checkpoints that a signal saved between them do not count: the model is the same however often a run was stopped.
    Raises UserError where fewer checkpoints are written.
    """
    number = stage.average_checkpoints
    if number is None:
        return ()
    steps, per_epoch = _steps(arguments, rows_per_epoch)
    every = arguments.save_steps if arguments.save_steps >= 1 else arguments.save_steps * steps
    if arguments.save_strategy == "epoch" and per_epoch is not None:
        every = per_epoch
    interval = math.ceil(every)
    saved = [*range(interval, steps, interval), steps]
    if len(saved) < number:
        raise UserError(
            f"{stage.name}.average_checkpoints: {number}, but only {len(saved)} checkpoint(s) are written in {steps:,} "
            f"steps. Set {stage.name}.args.save_steps to at most {max(1, steps // number):,}"
        )
    return tuple(saved[-number:])


def total_steps(arguments: TrainingArguments, rows_per_epoch: int | None) -> int:
    """The optimizer steps of the stage: `max_steps`, or those of its epochs."""
    steps, _ = _steps(arguments, rows_per_epoch)
    return steps


def _steps(arguments: TrainingArguments, rows_per_epoch: int | None) -> tuple[int, int | None]:
    """Optimizer steps of (the stage, an epoch): as Trainer counts them; the latter is None for a stream."""
    per_epoch = None
    if rows_per_epoch is not None:
        batches = math.ceil(rows_per_epoch / (arguments.per_device_train_batch_size * arguments.world_size))
        per_epoch = max(1, math.ceil(batches / arguments.gradient_accumulation_steps))
    if arguments.max_steps > 0:
        return arguments.max_steps, per_epoch
    assert per_epoch is not None
    return math.ceil(arguments.num_train_epochs * per_epoch), per_epoch
