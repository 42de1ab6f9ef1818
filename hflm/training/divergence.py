"""What stops a training stage, agreed by all ranks at a step's end: a signal, a loss that is not finite, a spike."""

import json
import math
import shutil
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from hflm.core import atomic_write_text, logger
from hflm.training.batch_source import BatchSource
from hflm.training.checkpoints import keep_checkpoints, write_checksums, write_seconds

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

WINDOW, MIN_LOSSES = 64, 32  # losses that a new one is compared with, and how many of them it takes
MIN_RISE, MIN_DEVIATIONS = 1.0, 10.0  # a spike rises by a nat and by ten times the median absolute deviation
MAX_ROLLBACKS = 3  # of one stage: a run that needs more has another cause
LOSSES, BATCH = "recent_losses.json", "batch.json"  # of a checkpoint; {"rows": 16}, of a step over all processes


class Diverged(Exception):
    """Training cannot go on: `step` (counted from 1) had this `loss`, or left weights that are not finite."""

    def __init__(self, step: int, loss: float | None, description: str) -> None:
        super().__init__(description)
        self.step, self.loss, self.description = step, loss, description


def is_spike(loss: float, recent: deque[float] | list[float]) -> bool:
    """Whether `loss` (nats) is far above the `recent` ones.

    >>> is_spike(5.6, [4.0, 4.1, 3.9] * 20), is_spike(4.9, [4.0, 4.1, 3.9] * 20)
    (True, False)
    """
    if len(recent) < MIN_LOSSES:
        return False
    median = statistics.median(recent)
    deviation = statistics.median(abs(each - median) for each in recent)
    return loss > median + max(MIN_RISE, MIN_DEVIATIONS * deviation)


@dataclass
class _Pending:
    """A step's [loss, SIGTERM received, SIGINT received], summed over ranks, on their way from the device."""

    step: int
    values: torch.Tensor
    event: torch.Event | None


class Guard(TrainerCallback):
    """Watches each step's loss and the stop signals, and writes the checksums of checkpoints whose weights are finite.

    On a CPU a step is judged at its own end. An accelerator runs ahead of Python, and reading from it would stop it:
    there a step is judged at the end of the next one, or at its own where a checkpoint, an evaluation or a log line waits
    for it.
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        keep: int | None,
        on_spike: str,
        skipped: set[int],
        source: BatchSource | None = None,
        signals: set[int] | None = None,
        averaged: Collection[int] = (),
        began: float | None = None,
    ) -> None:
        self.averaged = averaged  # the steps whose checkpoints stay until the end
        self.stage, self.folder, self.keep, self.on_spike = stage, Path(folder), keep, on_spike
        self.skipped, self.source = skipped, source
        self.signals = signals or set()  # received by this process
        self.on_checkpoint: Callable[[Sequence[Path]], None] | None = None
        self.began = time.monotonic() if began is None else began  # less what earlier attempts took
        self.stopped_by: signal.Signals | None = None  # agreed by all, before the last step
        self.was_finished = False  # resumed from a checkpoint of the last step
        self.writing: Path | None = None  # the checkpoint that is being written
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self._was_high = False
        self._loss: torch.Tensor | None = None
        self._pending: _Pending | None = None

    def on_signal(self, number: int, *_: Any) -> None:
        """The handler of SIGTERM and SIGINT: the current step ends first. A second Ctrl-C ends at once."""
        self.signals.add(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def add(self, loss: torch.Tensor) -> None:
        """The loss of one micro-batch, a scalar on the device, scaled as Trainer scales it."""
        self._loss = loss if self._loss is None else self._loss + loss

    def resume(self, checkpoint: Path) -> None:
        """Restore the losses that were known at a checkpoint."""
        self.recent.extend(json.loads((checkpoint / LOSSES).read_text()))

    def on_epoch_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any
    ) -> None:
        if self.was_finished:  # it is neither evaluated nor saved again
            control.should_log = control.should_evaluate = control.should_save = False

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any
    ) -> None:
        before, self._pending = self._pending, self._send(args, state)
        self._loss = None
        if before is not None:
            self._judge(before, args, state, control)
        last = state.global_step >= state.max_steps
        # An evaluation may save, too (KeepBest).
        awaited = control.should_save or control.should_evaluate or control.should_log
        if args.device.type == "cpu" or awaited or last:
            pending, self._pending = self._pending, None
            self._judge(pending, args, state, control)

    def _send(self, args: "TrainingArguments", state: "TrainerState") -> _Pending:
        assert self._loss is not None
        received = [torch.full_like(self._loss, number in self.signals) for number in (signal.SIGTERM, signal.SIGINT)]
        values = torch.stack([self._loss, *received]).float()
        if args.world_size > 1:
            torch.distributed.all_reduce(values)  # a queued operation on an accelerator: nobody waits
        if values.device.type == "cpu":
            return _Pending(state.global_step, values, None)
        values = values.to("cpu", non_blocking=True)
        event = torch.Event(args.device)
        event.record()
        return _Pending(state.global_step, values, event)

    def _judge(
        self, pending: _Pending, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl"
    ) -> None:
        if pending.event is not None:
            pending.event.synchronize()
        loss, terminated, interrupted = pending.values.tolist()
        if terminated or interrupted:
            if state.global_step < state.max_steps:
                self.stopped_by = signal.SIGTERM if terminated else signal.SIGINT
            control.should_save = control.should_training_stop = True
        if pending.step in self.skipped:
            return
        loss /= args.world_size
        if not math.isfinite(loss):
            raise Diverged(pending.step, loss, f"the loss of step {pending.step:,} is {loss}")
        high = is_spike(loss, self.recent)
        if high and not self._was_high:
            description = (
                f"the loss of step {pending.step:,} is {loss:.3f}, the median of the {len(self.recent)} before "
                f"{statistics.median(self.recent):.3f}"
            )
            if self.on_spike != "ignore":
                raise Diverged(pending.step, loss, description)
            logger.info(f"{self.stage}: {description}")
        self._was_high = high
        self.recent.append(loss)

    def on_save(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: torch.nn.Module,
        **_: Any,
    ) -> None:
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        if self.source is not None:
            self.source.save(checkpoint)
        # Of a sharded model each rank checks its own part.
        local = [each.to_local() if isinstance(each, DTensor) else each for each in model.parameters()]
        finite = torch.stack([each.detach().isfinite().all() for each in local]).all()
        if args.world_size > 1:
            finite = finite.int()
            torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)  # every rank has written its part
        if not finite:
            if state.is_world_process_zero:
                shutil.rmtree(checkpoint)
            description = f"step {state.global_step:,} left weights that are not finite"
            raise Diverged(state.global_step, None, description)
        if state.is_world_process_zero:
            atomic_write_text(checkpoint / LOSSES, json.dumps(list(self.recent)))
            write_seconds(checkpoint, time.monotonic() - self.began)
            rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
            atomic_write_text(checkpoint / BATCH, json.dumps({"rows": rows}))
            write_checksums(checkpoint)
            if self.on_checkpoint is not None:
                self.on_checkpoint([*self._needed(state), checkpoint])
            if self.averaged:
                keep_checkpoints(self.folder, self.keep, self.averaged)
            else:
                rotate_checkpoints(
                    output_dir=str(self.folder),
                    save_total_limit=self.keep,
                    best_model_checkpoint=state.best_model_checkpoint,
                    use_mtime=True,
                )
        self.writing = None

    def _needed(self, state: "TrainerState") -> list[Path]:
        """The earlier checkpoints that the end of the stage will need: those to average, and the best one."""
        steps = {*self.averaged, *([state.best_global_step] if state.best_global_step else [])}
        found = [self.folder / f"checkpoint-{step}" for step in sorted(steps) if step < state.global_step]
        return [each for each in found if each.is_dir()]
