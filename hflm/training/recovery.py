"""What a training stage does when a step goes wrong: a smaller micro-batch, or back to the last sound checkpoint.

Both leave a file in the stage's folder, so that a run that is killed afterwards goes on as this one would have:
`micro_batch.json` {"rows": 4} and `skipped.json` {"57": {"loss": "nan", "rows": [...]}}.
"""

import json
import signal
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size

from hflm.core import Stopped, TrainingError, atomic_write_text, read_json
from hflm.recipe import Batch, derive_batch
from hflm.training import checkpoints
from hflm.training.divergence import ROLLBACKS, Unsound

MICRO_BATCH, SKIPPED = "micro_batch.json", "skipped.json"
SHOWN_ROWS = 16  # of a batch, in a message


def ended(trainer, checkpoint, progress):
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
        # Of the optimizer, an evaluation or a checkpoint: forward and backward passes recover by themselves.
        raise _too_large(trainer.guard.stage, error) from error
    finally:
        signal.signal(signal.SIGTERM, previous)
    if trainer.guard.stopping:
        raise Stopped(
            f"{trainer.guard.stage}: stopped by SIGTERM, a checkpoint is saved; the same command continues it"
        )
    return True


def batch_of(arguments, folder, batch_tokens, row_tokens, stage):
    """The Batch of a step: the recipe's, with the micro-batch that an earlier out-of-memory left."""
    most, processes = arguments.per_device_train_batch_size, arguments.world_size
    if batch_tokens:
        batch = derive_batch(batch_tokens, row_tokens, processes, most, stage)
    else:
        batch = Batch(most, arguments.gradient_accumulation_steps, processes)
    fits = read_json(Path(folder) / MICRO_BATCH).get("rows", batch.per_device)
    while batch.per_device > fits:
        batch = batch.halved()
    return batch


def share_out(arguments, batch):
    arguments.per_device_train_batch_size = batch.per_device
    arguments.gradient_accumulation_steps = batch.accumulation


def halve(trainer, error, rows):
    """Half of `rows`, the rows of a forward pass, after the out-of-memory `error`; kept in the folder for a restart.

    Raises `error` when it is another one, TrainingError where a smaller micro-batch does not help or, on several
    processes, where the other ones wait in this step for a gradient that will not come.
    """
    if not should_reduce_batch_size(error):
        raise error
    arguments, stage = trainer.args, trainer.guard.stage
    what = f"out of memory ({' '.join(str(error).split())[:200]})"
    if rows == 1:
        raise _too_large(stage, error)
    half = rows // 2
    atomic_write_text(Path(arguments.output_dir) / MICRO_BATCH, json.dumps({"rows": half}) + "\n")
    if arguments.world_size > 1:
        raise TrainingError(
            f"{stage}: {what}. The same command continues with {half} row(s) at a time (torchrun --max-restarts does it "
            "by itself)"
        )
    arguments.per_device_eval_batch_size = max(1, arguments.per_device_eval_batch_size // 2)
    trainer.guard.say(f"{what}: continues with {half} row(s) at a time, the batch of a step stays the same")
    return half


def _too_large(stage, error):
    return TrainingError(
        f"{stage}: out of memory ({' '.join(str(error).split())[:200]}), which a smaller micro-batch cannot help. Take a "
        f"smaller model, a shorter {stage}.block_size, or {stage}.args.activation_checkpointing: true"
    )


def free_memory(model):
    model.zero_grad()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def split(inputs, rows):
    """A batch of (B, ...) tensors in parts of at most `rows` rows."""
    size = len(inputs["input_ids"])
    if size <= rows:
        return [inputs]
    return [{name: each[start : start + rows] for name, each in inputs.items()} for start in range(0, size, rows)]


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
            atomic_write_text(folder / SKIPPED, json.dumps({**read_json(folder / SKIPPED), found.step: entry}) + "\n")
        if trainer.args.world_size > 1:
            torch.distributed.barrier()
        progress.say(f"{what}: back to {sound.name}, and past that batch")
        return
    raise TrainingError(
        f"{guard.stage}: {what}. {'The last sound checkpoint is ' + sound.name + '. ' if sound else ''}{advice}"
    )


def skipped(folder):
    """The steps whose batch a rollback left out."""
    return {int(step) for step in read_json(Path(folder) / SKIPPED)}
