"""`hflm run --extend`: what of a training stage may change while the steps that it has taken are kept."""

from typing import Any

from hflm.core import UserError
from hflm.pipeline.stage_keys import Dependencies, changed_names, describe_changes

LENGTH = ("tokens", "args.max_steps", "args.num_train_epochs")
TYPE, RATE = "args.lr_scheduler_type", "args.learning_rate"
SCHEDULE = (TYPE, RATE, "args.warmup_steps", "args.lr_scheduler_kwargs")
DEFAULT_TYPE = "cosine"  # hflm.training.arguments.DEFAULTS'
# Where a longer training has the same learning rate for the steps that were taken, at least up to some checkpoint.
JOINING = ("constant", "constant_with_warmup", "inverse_sqrt", "warmup_stable_decay", "reduce_lr_on_plateau", "greedy")
BY_LOSS = ("reduce_lr_on_plateau", "greedy")


def is_extension(stage: str, before: Dependencies, after: Dependencies) -> bool:
    """Whether nothing but a stage's length and learning rate has changed."""
    return not _others(stage, before, after)


def keeps_schedule(stage: str, before: Dependencies, after: Dependencies) -> bool:
    """Whether the type of the schedule is the same."""
    return _type(stage, before) == _type(stage, after)


def settings_of(stage: str, dependencies: Dependencies) -> dict[str, Any]:
    """What of `dependencies` an extension may change: {"pretrain.args.max_steps": 10}."""
    return {name: value for name, value in dependencies.items() if _may_change(stage, name)}


def check_extension(stage: str, before: Dependencies, after: Dependencies) -> None:
    """Raise UserError where a stage that was trained with `before` cannot go on with `after`."""
    refused = f"{stage} cannot be extended: "
    others = _others(stage, before, after)
    if others:
        kept, new = ({name: each[name] for name in others if name in each} for each in (before, after))
        raise UserError(
            f"{refused}{describe_changes(kept, new)}. Only its length (args.max_steps, args.num_train_epochs, tokens) and "
            "its learning rate and schedule may change. Take the change back, or run without --extend: the stage is "
            "trained anew and the earlier one set aside"
        )
    kind, changed = _type(stage, after), changed_names(before, after)
    if not keeps_schedule(stage, before, after):
        return
    if kind not in JOINING and changed & {f"{stage}.{name}" for name in LENGTH}:
        raise UserError(
            f"{refused}the learning rate of the schedule {kind} would have been another one at each step of a longer "
            f"training. Choose a schedule for the further steps, such as --set {stage}.{TYPE}=constant and a "
            f"{stage}.{RATE} below the earlier one. Trained with constant or warmup_stable_decay from the start, a stage "
            "can be extended as it is"
        )
    if kind in BY_LOSS and f"{stage}.{RATE}" in changed:
        raise UserError(f"{refused}{kind} chooses the learning rate by the loss. Leave {stage}.{RATE} as it was")


def _others(stage: str, before: Dependencies, after: Dependencies) -> list[str]:
    return sorted(name for name in changed_names(before, after) if not _may_change(stage, name))


def _may_change(stage: str, name: str) -> bool:
    keys = [f"{stage}.{key}" for key in (*LENGTH, *SCHEDULE)]
    return name in keys or any(name.startswith(f"{key}.") for key in keys)


def _type(stage: str, dependencies: Dependencies) -> str:
    return dependencies.get(f"{stage}.{TYPE}", DEFAULT_TYPE)
