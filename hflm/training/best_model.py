"""Which checkpoint a stage keeps: every new best one is saved, the best valid one is loaded at the end."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from transformers import EarlyStoppingCallback, TrainerCallback

from hflm.training import checkpoints

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

STATE = "trainer_state.json"


@dataclass(frozen=True)
class EarlyStop:
    """Stop after `patience` evaluations in a row that are not better than the best by more than `min_delta`."""

    patience: int
    min_delta: float = 0.0


@dataclass(frozen=True)
class Kept:
    """Why a stage kept the checkpoint of `step`: the best `value` of `metric` among those that were saved."""

    step: int
    metric: str
    value: float


class KeepBest(TrainerCallback):
    """Saves a checkpoint at each new best evaluation; at the end lets Trainer load the best whose files are unchanged.

    Trainer saves every `save_steps` only: a better model between two of them would be lost. And it loads what it
    recorded as the best, whatever has become of its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.kept: Kept | None = None

    def on_evaluate(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        value = metrics.get(_metric_of(args))
        if value is not None and _is_better(value, state.best_metric, bool(args.greater_is_better)):
            control.should_save = True

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "train_runtime" not in logs:
            return  # Trainer's last line comes before it loads the best checkpoint
        found: list[Kept | None] = [None]
        if state.is_world_process_zero:
            found = [best_valid(self.folder, state.log_history, _metric_of(args), bool(args.greater_is_better))]
        if args.world_size > 1:
            broadcast_object_list(found)
        self.kept = found[0]
        if self.kept is None:
            state.best_model_checkpoint = state.best_global_step = None
            return
        state.best_global_step, state.best_metric = self.kept.step, self.kept.value
        state.best_model_checkpoint = str(self.folder / f"checkpoint-{self.kept.step}")


def best_valid(folder: Path, history: Sequence[Mapping[str, Any]], metric: str, greater_is_better: bool) -> Kept | None:
    """The best evaluation in a log whose checkpoint is complete and unchanged; the first of equals.

    Warns of each damaged one. None where no evaluated model was saved.
    """
    values = {entry["step"]: entry[metric] for entry in history if metric in entry and not math.isnan(entry[metric])}
    saved = {step: folder / f"checkpoint-{step}" for step in values if (folder / f"checkpoint-{step}").is_dir()}
    for step in sorted(saved, key=lambda step: (-values[step] if greater_is_better else values[step], step)):
        damage = checkpoints.damage_of(saved[step])
        if damage is None:
            return Kept(step, metric, values[step])
        warnings.warn(f"{saved[step]}, the best by {metric}, is not used: {damage}", stacklevel=2)
    return None


def early_stopping(stop: EarlyStop, checkpoint: Path | None) -> EarlyStoppingCallback:
    """transformers' callback, with the evaluations that it had counted at a checkpoint.

    Trainer restores it only together with all other callbacks and its own control, which would stop a resumed run.
    """
    saved = json.loads((checkpoint / STATE).read_text())["stateful_callbacks"] if checkpoint else {}
    if EarlyStoppingCallback.__name__ in saved:
        return EarlyStoppingCallback.from_state(saved[EarlyStoppingCallback.__name__])
    return EarlyStoppingCallback(stop.patience, stop.min_delta)


def has_stopped(callback: EarlyStoppingCallback | None) -> bool:
    """Whether training was already stopped when the checkpoint was saved from which it is resumed."""
    return callback is not None and callback.early_stopping_patience_counter >= callback.early_stopping_patience


def _metric_of(args: "TrainingArguments") -> str:
    metric = args.metric_for_best_model or "loss"
    return metric if metric.startswith("eval_") else f"eval_{metric}"


def _is_better(value: float, best: float | None, greater_is_better: bool) -> bool:
    return best is None or (value > best if greater_is_better else value < best)
