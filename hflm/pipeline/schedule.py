"""Which stages a run has to do, and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from hflm.pipeline.stage_keys import Dependencies
from hflm.pipeline.stage_state import StageState, aside_path

TRAINING = ("pretrain", "finetune")


@dataclass(frozen=True)
class Scheduled:
    """One stage of a run. `due`: whether it has to run; `again`: although it is finished, because of `reason`."""

    stage: str
    due: bool
    again: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.stage}: {'runs' if self.due else 'is skipped'}, {self.reason}"


def schedule(stages: Mapping[str, Dependencies], state: StageState, fresh: bool = False) -> list[Scheduled]:
    """What has to be done of `stages`, in their order, given what is finished."""
    return [_scheduled(stage, dependencies, state, fresh) for stage, dependencies in stages.items()]


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
        return Scheduled(stage, True, False, "it was stopped before its end, with other inputs: it begins anew")
    return Scheduled(stage, True, False, "it has not run yet")


def retrained(scheduled: list[Scheduled], state: StageState) -> list[str]:
    """A line for each finished training stage that would be trained again."""
    return [
        f"{each.stage}: it is finished and would be trained again: {each.reason.partition(': ')[2]}. "
        f"The finished {each.stage} moves to {aside_path(state.folder / each.stage)}"
        for each in scheduled
        if each.again and each.stage in TRAINING
    ]
