"""Which stages a run has to do, and why."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from hflm.core import UserError
from hflm.pipeline.extension import check_extension, is_extension
from hflm.pipeline.stage_keys import Dependencies, changed_names, describe_changes
from hflm.pipeline.stage_state import StageState, aside_path

TRAINING = ("pretrain", "finetune")


@dataclass(frozen=True)
class Scheduled:
    """One stage of a run.

    `due`: whether it has to run; `again`: although it is finished, because of `reason`; `extends`: from a checkpoint of
    an earlier training with other settings.
    """

    stage: str
    due: bool
    again: bool
    reason: str
    extends: bool = False

    def __str__(self) -> str:
        does = "is extended" if self.extends else "runs" if self.due else "is skipped"
        return f"{self.stage}: {does}, {self.reason}"


def schedule(
    stages: Mapping[str, Dependencies], state: StageState, fresh: bool = False, extend: bool = False
) -> list[Scheduled]:
    """What has to be done of `stages`, in their order, given what is finished.

    With `extend` a training stage whose settings have changed goes on from a checkpoint. Raises UserError for one that
    cannot.
    """
    scheduled: list[Scheduled] = []
    for stage, dependencies in stages.items():
        each = _scheduled(stage, dependencies, state, fresh)
        if extend and stage in TRAINING and each.due and (state.folder / stage).exists():
            each = _extended(each, dependencies, state, [earlier.stage for earlier in scheduled if earlier.due])
        scheduled.append(each)
    return scheduled


def _extended(each: Scheduled, dependencies: Dependencies, state: StageState, due: Collection[str]) -> Scheduled:
    """A stage that goes on with other settings; one that starts from an extended model is trained anew."""
    stage = each.stage
    if state.is_begun(stage, dependencies) and stage not in state.keys:
        return each  # stopped before its end
    before = state.known(stage)
    if before is None:
        raise UserError(
            f"{stage} cannot be extended: an earlier version of hflm did not record what it was trained with"
        )
    if "pretrain" in due and "pretrain" in changed_names(before, dependencies):
        return each
    check_extension(stage, before, dependencies)
    if not list((state.folder / stage).glob("checkpoint-*")):
        raise UserError(f"{stage} cannot be extended: it has kept no checkpoint. {stage}.args.save_strategy is `no`?")
    return replace(each, again=False, extends=True, reason=describe_changes(before, dependencies))


def _scheduled(stage: str, dependencies: Dependencies, state: StageState, fresh: bool) -> Scheduled:
    if fresh:
        return Scheduled(stage, True, False, "because of --fresh")
    if state.is_finished(stage, dependencies):
        return Scheduled(stage, False, False, "it is finished and nothing that it depends on has changed")
    if stage in state.keys:
        return Scheduled(stage, True, True, f"although it is finished: {state.changes(stage, dependencies)}")
    if stage in TRAINING and (state.folder / stage).exists():
        if state.is_begun(stage, dependencies):
            return Scheduled(stage, True, False, "it was stopped before its end: it continues")
        reason = f"it was stopped before its end and begins anew: {state.changes(stage, dependencies)}"
        return Scheduled(stage, True, False, reason)
    return Scheduled(stage, True, False, "it has not run yet")


def retrained(scheduled: list[Scheduled], state: StageState, stages: Mapping[str, Dependencies]) -> list[str]:
    """A line for each finished training stage that would be trained again."""
    lines = []
    for each in scheduled:
        if not (each.again and each.stage in TRAINING):
            continue
        before = state.known(each.stage)
        hint = ""
        if before is not None and is_extension(each.stage, before, stages[each.stage]):
            hint = " (--extend trains on from its last checkpoint instead)"
        lines.append(
            f"{each.stage}: it is finished and would be trained again: {each.reason.partition(': ')[2]}{hint}. "
            f"The finished {each.stage} moves to {aside_path(state.folder / each.stage)}"
        )
    return lines
