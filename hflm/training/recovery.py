"""What a training stage does when a step fails: a smaller micro-batch, or back to the last valid checkpoint.

Both leave a file in the stage's folder, so that a run that is killed afterwards continues in the same way:
`micro_batch.json` {"rows": 4} and `skipped.json` {"57": {"loss": "nan", "rows": [...]}}.
"""

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.utils import broadcast_object_list
from accelerate.utils.memory import should_reduce_batch_size

from hflm.core import SettingsError, Stopped, TrainingError, atomic_write_text, logger, read_json
from hflm.training import checkpoints
from hflm.training.divergence import BATCH, MAX_ROLLBACKS, Diverged, Guard

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hflm.training.stage_trainer import StageTrainer

MICRO_BATCH, SKIPPED = "micro_batch.json", "skipped.json"
MAX_LISTED_ROWS = 16  # of a batch, in a message


@dataclass(frozen=True)
class Resumed:
    """What earlier attempts left in a stage's folder.

    checkpoint: the newest valid one. step_rows: the rows of its steps, over all processes; None for version 0.1.
    micro_rows: the rows of a forward pass after an out-of-memory. skipped: the steps (from 1) whose batch a rollback
    left out.
    """

    checkpoint: Path | None
    step_rows: int | None
    micro_rows: int | None
    skipped: frozenset[int]


def read_resumed(folder: Path, arguments: "TrainingArguments") -> Resumed:
    """What there is to resume, as the first process sees it: on a disk that lags the others may see something else."""
    found: list[Resumed | None] = [None]
    if arguments.process_index == 0:
        checkpoint = checkpoints.newest_valid_checkpoint(folder)
        found = [
            Resumed(
                checkpoint=checkpoint,
                step_rows=read_json(checkpoint / BATCH).get("rows") if checkpoint else None,
                micro_rows=read_json(folder / MICRO_BATCH).get("rows"),
                skipped=frozenset(int(step) for step in read_json(folder / SKIPPED)),
            )
        ]
    if arguments.world_size > 1:
        broadcast_object_list(found)
    assert found[0] is not None
    return found[0]


def train_to_end(trainer: "StageTrainer", checkpoint: Path | None) -> bool:
    """Train to the last step: True. False where the stage shall start again from its newest valid checkpoint."""
    guard = trainer.guard
    try:
        with _stop_signals(guard):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Diverged as diverged:
        _roll_back(trainer, diverged)
        return False
    except Exception as error:
        if guard.writing is not None and (failed := checkpoints.write_error(guard.writing, error)) is not None:
            raise failed from error
        if should_reduce_batch_size(error):
            # Of the optimizer or a checkpoint: forward and backward passes recover by themselves.
            raise _too_large(guard.stage, error) from error
        raise
    if guard.stopped_by is not None:
        raise Stopped(
            f"{guard.stage}: stopped by {guard.stopped_by.name}, a checkpoint is saved; the same command continues it",
            exit_code=128 + guard.stopped_by,
        )
    return True


def halve_micro_batch(trainer: "StageTrainer", error: RuntimeError, rows: int) -> int:
    """Half of `rows`, the rows of a forward pass, after the out-of-memory `error`; kept in the folder for a restart.

    Raises `error` when it is another one, TrainingError where a smaller micro-batch does not help or, on several
    processes, where the others wait in this step for a gradient that will not come.
    """
    if not should_reduce_batch_size(error):
        raise error
    arguments, stage = trainer.args, trainer.guard.stage
    if rows == 1:
        raise _too_large(stage, error)
    half = rows // 2
    atomic_write_text(trainer.guard.folder / MICRO_BATCH, json.dumps({"rows": half}) + "\n")
    if arguments.world_size > 1:
        raise TrainingError(
            f"{stage}: {_out_of_memory(error)}. The same command continues with {half} row(s) at a time "
            "(torchrun --max-restarts does it by itself)"
        )
    logger.info(
        f"{stage}: {_out_of_memory(error)}: continues with {half} row(s) at a time, the batch of a step stays the same"
    )
    return half


def free_memory(model: torch.nn.Module) -> None:
    """Drop the gradients of a step that failed. Called outside of the handler, whose error holds on to its tensors."""
    model.zero_grad()
    release_memory()


def release_memory() -> None:
    """Return what torch keeps of an accelerator's memory, so that the next step finds it in one piece."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def split_batch(inputs: dict[str, torch.Tensor], rows: int) -> list[dict[str, torch.Tensor]]:
    """A batch of (B, ...) tensors in parts of at most `rows` rows."""
    size = len(inputs["input_ids"])
    if size <= rows:
        return [inputs]
    return [{name: each[start : start + rows] for name, each in inputs.items()} for start in range(0, size, rows)]


def _roll_back(trainer: "StageTrainer", diverged: Diverged) -> None:
    """Note the step as one to skip, or raise TrainingError when the recipe or the limit of rollbacks demands it."""
    guard, folder = trainer.guard, trainer.guard.folder
    rows = trainer.rows_of(diverged.step)
    listed = ", ".join(map(str, rows[:MAX_LISTED_ROWS]))
    more = f" and {len(rows) - MAX_LISTED_ROWS} more" if len(rows) > MAX_LISTED_ROWS else ""
    description = f"{guard.stage}: {diverged.description} (packed rows {listed}{more})"
    checkpoint = read_resumed(folder, trainer.args).checkpoint
    if guard.on_spike != "rollback":
        advice = f"Lower {guard.stage}.args.learning_rate, or set {guard.stage}.on_spike: rollback to skip such a batch"
    elif checkpoint is None:
        advice = f"There is no checkpoint to go back to: lower {guard.stage}.args.save_steps or the learning rate"
    elif len(guard.skipped) >= MAX_ROLLBACKS:
        advice = f"It went back {MAX_ROLLBACKS} times already: lower {guard.stage}.args.learning_rate"
    else:
        entry = {"loss": diverged.loss if diverged.loss is None else str(diverged.loss), "rows": rows}
        if trainer.is_world_process_zero():
            skipped = {**read_json(folder / SKIPPED), diverged.step: entry}
            atomic_write_text(folder / SKIPPED, json.dumps(skipped) + "\n")
        logger.info(f"{description}: back to {checkpoint.name}, and past that batch")
        return
    last = f"The last valid checkpoint is {checkpoint.name}. " if checkpoint else ""
    raise SettingsError(f"{description}. {last}{advice}")


@contextlib.contextmanager
def _stop_signals(guard: Guard) -> Iterator[None]:
    previous = {number: signal.signal(number, guard.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _out_of_memory(error: Exception) -> str:
    return f"out of memory ({' '.join(str(error).split())[:200]})"


def _too_large(stage: str, error: Exception) -> SettingsError:
    return SettingsError(
        f"{stage}: {_out_of_memory(error)}, which a smaller micro-batch cannot help. Take a smaller model, a shorter "
        f"{stage}.block_size, or {stage}.args.activation_checkpointing: true"
    )
