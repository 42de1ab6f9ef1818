"""A stage that is trained for longer, or with another learning rate: where the further steps may begin.

The steps that were taken are kept only if the schedule of the longer training has the learning rate at which they ended:
a constant rate has it at every checkpoint, warmup_stable_decay at those before the decay, a cosine at none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, get_scheduler

from hflm.core import UserError
from hflm.training import checkpoints

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

SCHEDULER = "scheduler.pt"  # Trainer's name


@dataclass(frozen=True)
class Extension:
    """Training that goes on from a checkpoint of an earlier, finished or stopped one.

    keeps_schedule: whether the type of the schedule is the earlier one, so that both have to agree at the checkpoint.
    begin: called by the first process with the checkpoint, before anything in the stage's folder changes.
    """

    keeps_schedule: bool
    begin: Callable[[Path], None]


def joining_checkpoint(
    folder: Path, extension: Extension, arguments: "TrainingArguments", steps: int, stage: str
) -> Path:
    """The newest checkpoint in `folder` from which `steps` steps in all can be reached; every process calls it.

    Raises UserError where there is none.
    """
    found: list[Any] = [None, None]
    if arguments.process_index == 0:
        try:
            found[0] = _joining_checkpoint(folder, extension, arguments, steps, stage)
        except UserError as error:
            found[1] = str(error)
    if arguments.world_size > 1:
        broadcast_object_list(found)
    if found[1] is not None:
        raise UserError(found[1])
    return found[0]


def _joining_checkpoint(
    folder: Path, extension: Extension, arguments: "TrainingArguments", steps: int, stage: str
) -> Path:
    valid = list(checkpoints.valid_checkpoints(folder))
    if not valid:
        raise UserError(f"{stage} cannot be extended: no valid checkpoint is left in {folder}")
    taken = checkpoints.step_of(valid[0])
    if taken >= steps:
        raise UserError(
            f"{stage} cannot be extended: {taken:,} steps have been taken, and the recipe asks for {steps:,}. Raise "
            f"{stage}.args.max_steps, num_train_epochs or tokens"
        )
    if not extension.keeps_schedule:
        return valid[0]
    for checkpoint in valid:
        if _agrees(checkpoint, arguments, steps):
            return checkpoint
    listed = ", ".join(f"{checkpoints.step_of(each):,}" for each in reversed(valid))
    raise UserError(
        f"{stage} cannot be extended: at none of its checkpoints (steps {listed}) does the learning rate of the schedule "
        f"{arguments.lr_scheduler_type} over {steps:,} steps continue the earlier one. It needs a checkpoint before the "
        f"decay (keep more of them by {stage}.args.save_total_limit), or another {stage}.args.lr_scheduler_type for the "
        "further steps"
    )


def _agrees(checkpoint: Path, arguments: "TrainingArguments", steps: int) -> bool:
    """Whether the schedule over `steps` has at a checkpoint the fraction of the peak that the earlier one had there."""
    earlier = torch.load(checkpoint / SCHEDULER, weights_only=True)
    if "base_lrs" not in earlier or "_last_lr" not in earlier:
        return True  # a schedule that follows the loss goes on from its state
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    options: Any = arguments.lr_scheduler_kwargs
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        arguments.get_warmup_steps(steps),
        steps,
        options,
    )
    if not isinstance(schedule, LambdaLR):
        return True
    peak, last = earlier["base_lrs"][0], earlier["_last_lr"][0]
    return abs(last - peak * schedule.lr_lambdas[0](earlier["last_epoch"])) <= 1e-9 * peak


class ScheduleOfArguments(TrainerCallback):
    """After a checkpoint is loaded, the learning rate is that of the arguments; the checkpoint has the earlier one."""

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        if not state.global_step or not isinstance(lr_scheduler, LambdaLR):
            return
        peak, factors = args.learning_rate, lr_scheduler.lr_lambdas
        rates = [peak * factor(lr_scheduler.last_epoch) for factor in factors]
        lr_scheduler.load_state_dict(
            {**lr_scheduler.state_dict(), "base_lrs": [peak] * len(factors), "_last_lr": rates}
        )
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["initial_lr"], group["lr"] = peak, rate
