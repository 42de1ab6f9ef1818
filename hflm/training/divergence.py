"""What stops a training stage, agreed by all ranks at a step's end: SIGTERM, a loss that is not finite, a spike."""

import json
import math
import shutil
import statistics
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from hflm.core import atomic_write_text
from hflm.training.checkpoints import seal

WINDOW, ENOUGH = 64, 32  # losses that a new one is compared with, and how many of them it takes
RISE, SPREAD = 1.0, 10.0  # a spike rises by a nat and by ten times the losses' usual distance from their median
ROLLBACKS = 3  # of one stage: a run that needs more has another illness
LOSSES = "recent_losses.json"


class Unsound(Exception):
    """Training cannot go on from here: `step` (counted from 1) had this `loss`, or left weights that are not finite."""

    def __init__(self, step, loss, what):
        super().__init__(what)
        self.step, self.loss, self.what = step, loss, what


def is_spike(loss, recent):
    """Whether `loss` (nats) lies far above the `recent` ones.

    >>> is_spike(5.6, [4.0, 4.1, 3.9] * 20), is_spike(4.9, [4.0, 4.1, 3.9] * 20)
    (True, False)
    """
    if len(recent) < ENOUGH:
        return False
    median = statistics.median(recent)
    distance = statistics.median(abs(each - median) for each in recent)
    return loss > median + max(RISE, SPREAD * distance)


@dataclass
class _Sent:
    """A step's values on their way from the device."""

    step: int
    values: torch.Tensor
    arrived: object


class Guard(TrainerCallback):
    """Watches each step's loss and the stop signal, and seals the checkpoints whose weights are finite.

    On a CPU a step is judged at its own end. An accelerator runs ahead of Python, and reading from it would stop it:
    there a step is judged at the end of the next one, or at its own where a checkpoint or a log line waits for it.
    """

    def __init__(self, stage, folder, keep, on_spike, skipped, say, signalled=False):
        self.stage, self.folder, self.keep, self.on_spike, self.skipped = stage, Path(folder), keep, on_spike, skipped
        self.say = say
        self.signalled = signalled
        self.stopping = self.stepping = self.high = self.was_finished = False
        self.recent = deque(maxlen=WINDOW)
        self.loss = self.sent = None

    def signal(self, *_):
        """The handler of SIGTERM: the step at hand ends first."""
        self.signalled = True

    def add(self, loss):
        """The loss of one micro-batch, a scalar on the device, scaled as Trainer scales it."""
        self.loss = loss if self.loss is None else self.loss + loss

    def continues(self, checkpoint):
        """Take up what was known at a checkpoint."""
        self.recent.extend(json.loads((checkpoint / LOSSES).read_text()))

    def on_pre_optimizer_step(self, *_, **__):
        self.stepping = True

    def on_optimizer_step(self, *_, **__):
        self.stepping = False

    def on_epoch_end(self, args, state, control, **_):
        if self.was_finished:  # a run that had ended is neither evaluated nor saved again
            control.should_log = control.should_evaluate = control.should_save = False

    def on_step_end(self, args, state, control, **_):
        before, self.sent = self.sent, self._send(args, state)
        self.loss = None
        if before is not None:
            self._judge(before, args, state, control)
        last = state.global_step >= state.max_steps
        if args.device.type == "cpu" or control.should_save or control.should_log or last:
            now, self.sent = self.sent, None
            self._judge(now, args, state, control)

    def _send(self, args, state):
        values = torch.stack([self.loss, torch.full_like(self.loss, self.signalled)]).float()
        if args.world_size > 1:
            torch.distributed.all_reduce(values)  # a queued operation on an accelerator: nobody waits
        if values.device.type == "cpu":
            return _Sent(state.global_step, values, None)
        values = values.to("cpu", non_blocking=True)
        arrived = torch.Event(args.device)
        arrived.record()
        return _Sent(state.global_step, values, arrived)

    def _judge(self, sent, args, state, control):
        if sent.arrived is not None:
            sent.arrived.synchronize()
        loss, signalled = sent.values.tolist()
        if signalled:
            self.stopping = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True
        if sent.step in self.skipped:
            return
        loss /= args.world_size
        if not math.isfinite(loss):
            raise Unsound(sent.step, loss, f"the loss of step {sent.step:,} is {loss}")
        high = is_spike(loss, self.recent)
        if high and not self.high:
            median = statistics.median(self.recent)
            what = f"the loss of step {sent.step:,} is {loss:.3f}, the median of the {len(self.recent)} before {median:.3f}"
            if self.on_spike != "ignore":
                raise Unsound(sent.step, loss, what)
            self.say(what)
        self.high = high
        self.recent.append(loss)

    def on_save(self, args, state, control, model, **_):
        # Of a sharded model each rank looks at its own part.
        own = [each.to_local() if isinstance(each, DTensor) else each for each in model.parameters()]
        finite = torch.stack([each.detach().isfinite().all() for each in own]).all()
        if args.world_size > 1:
            finite = finite.int()
            torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)  # every rank has written its part
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        if not finite:
            if state.is_world_process_zero:
                shutil.rmtree(checkpoint)
            raise Unsound(state.global_step, None, f"step {state.global_step:,} left weights that are not finite")
        if state.is_world_process_zero:
            atomic_write_text(checkpoint / LOSSES, json.dumps(list(self.recent)))
            seal(checkpoint)
            rotate_checkpoints(
                output_dir=str(self.folder),
                save_total_limit=self.keep,
                best_model_checkpoint=state.best_model_checkpoint,
                use_mtime=True,
            )
