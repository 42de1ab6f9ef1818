"""The study of a sweep in Optuna's storage: where it is, which recipe made it, and how many workers divide its slots.

A sweep of N trials has N slots, "0" to "N-1": trials that wait in the study until a worker takes one. Optuna gives a
waiting trial to one worker only. A trial whose worker has ended is set to failed, and its slot gets another trial with
the same values, which continues in the same run folder. A slot ends with its first trial that is complete or pruned;
no other trial of it counts. So it does not matter when a worker is killed, or whether two of them add a slot at once.
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hflm.core import UserError, logger
from hflm.pipeline.run_folder import has_ended, is_abandoned
from hflm.pipeline.stage_keys import describe_changes
from hflm.pipeline.sweep_storage import GRACE_SECONDS

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

SLOT, WORKER, STOPPED, ENDED = "slot", "worker", "stopped", "ended"  # user attributes of trials
MADE_FROM = "made_from"  # of a study: what of the recipe its scores depend on
UNNAMED_SECONDS = 15  # within which a worker names itself in the trial that it has taken
MAX_KILLS = 10  # of one slot: what kills its worker so often is not chance


def open_study(
    storage: "BaseStorage",
    name: str,
    directions: "Sequence[Literal['minimize', 'maximize']]",
    made_from: Mapping[str, Any],
) -> "Study":
    """The study `name`, made where there is none. Raises UserError for one that another recipe made."""
    import optuna

    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    known = study.user_attrs.get(MADE_FROM)
    if known is None:
        if study.get_trials(deepcopy=False):
            raise UserError(f"the study {name} in the storage was not made by hflm. Set sweep.study to another name")
        study.set_user_attr(MADE_FROM, json.dumps(made_from))
    elif json.loads(known) != json.loads(json.dumps(made_from)):
        changes = describe_changes(json.loads(known), dict(made_from))
        raise UserError(
            f"the study {name} in the storage was made by another recipe: {changes}. Nothing was changed. Set sweep.study "
            "to another name (and --output to another folder), or restore the recipe"
        )
    return study


def ended_trials(study: "Study", slots: Sequence[str]) -> "dict[str, FrozenTrial]":
    """The trial that ended each slot, of those that have ended, in the order of `slots`."""
    from optuna.trial import TrialState

    first: dict[str, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        first.setdefault(trial.user_attrs.get(SLOT, ""), trial)
    return {slot: first[slot] for slot in slots if slot in first}


def is_superfluous(trials: "Sequence[FrozenTrial]", number: int, slots: Sequence[str]) -> bool:
    """Whether trial `number` belongs to no slot, or another trial of its slot has ended or comes before it."""
    from optuna.trial import TrialState

    slot = next(each.user_attrs.get(SLOT) for each in trials if each.number == number)
    if slot not in slots:
        return True
    others = [each for each in trials if each.user_attrs.get(SLOT) == slot and each.number != number]
    return any(
        each.state in (TrialState.COMPLETE, TrialState.PRUNED)
        or (each.state != TrialState.FAIL and each.number < number)
        for each in others
    )


class Slots:
    """The slots of a study, worked off by this worker and any number of others.

    `fixed` holds, by slot, the values that are known before a trial begins: all of a grid's, none of TPE's. `names` are
    the parameters of the space. `folder_of` gives a slot's run folder. `has_heartbeat`: whether the storage knows when a
    worker of another machine was last alive; a journal does not, there the lock of the run folder tells.
    """

    def __init__(
        self,
        study: "Study",
        has_heartbeat: bool,
        fixed: Mapping[str, Mapping[str, Any]],
        names: Sequence[str],
        folder_of: Callable[[str], Path],
    ) -> None:
        self.study, self.has_heartbeat = study, has_heartbeat
        self.fixed, self.names, self.folder_of = fixed, names, folder_of
        self.slots = list(fixed)
        self.reported_waiting = False

    def work(
        self,
        objective: Callable[..., Any],
        sampler: "Callable[[int], BaseSampler]",
        pruner: "BasePruner | None",
        deadline: float | None = None,
    ) -> None:
        """Take waiting trials until every slot has ended; after `deadline` (time.monotonic) begin no further one.

        `sampler` makes a sampler from the number of trials that have begun: on several machines none repeats another.
        """
        from optuna.trial import TrialState

        if pruner is not None:
            self.study.pruner = pruner
        while True:
            self._fail_abandoned()
            self._fill()
            trials = self.study.get_trials(deepcopy=False)
            waiting = any(
                each.state == TrialState.WAITING and not is_superfluous(trials, each.number, self.slots)
                for each in trials
            )
            in_time = deadline is None or time.monotonic() < deadline
            if waiting and in_time:
                begun = [each for each in trials if each.state != TrialState.WAITING]
                others = any(each.state == TrialState.RUNNING for each in begun)
                self.study.sampler = sampler(len(begun) + (os.getpid() << 20 if others else 0))
                self._run_one(objective)
            elif self._running(trials):
                self._wait()
            else:
                if not waiting:
                    # Two workers may have added a trial to one slot at once: the second one waits for nobody.
                    for _ in (each for each in trials if each.state == TrialState.WAITING):
                        self._run_one(objective)
                return

    def _run_one(self, objective: Callable[..., Any]) -> None:
        """Run one trial; what the objective raises, but for TrialPruned and Superfluous, ends the worker."""
        from optuna.exceptions import TrialPruned, UpdateFinishedTrialError

        begun: list[int] = []
        ended: list[bool] = []

        def run(trial: Any) -> Any:
            begun.append(trial.number)
            if is_superfluous(self.study.get_trials(deepcopy=False), trial.number, self.slots):
                raise Superfluous
            try:
                found = objective(trial)
            except (TrialPruned, UpdateFinishedTrialError):
                ended.append(True)
                raise
            ended.append(True)
            return found

        try:
            self.study.optimize(run, n_trials=1, catch=(Superfluous,), gc_after_trial=True)
        except (ValueError, UpdateFinishedTrialError):
            if not ended:
                raise
            # This process was out of reach for so long that another worker has taken the trial up.
            logger.info(f"trial {begun[0]}: another worker has taken it up; what was computed here is not counted")

    def _running(self, trials: "Sequence[FrozenTrial]") -> "list[FrozenTrial]":
        from optuna.trial import TrialState

        ended = ended_trials(self.study, self.slots)
        open_slots = set(self.slots) - ended.keys()
        return [each for each in trials if each.state == TrialState.RUNNING and each.user_attrs.get(SLOT) in open_slots]

    def _wait(self) -> None:
        if not self.reported_waiting:
            logger.info("sweep: waiting for the trials of other workers")
            self.reported_waiting = True
        time.sleep(1.0)

    def _fill(self) -> None:
        """Give each slot that has neither ended nor a trial under way or waiting one more trial."""
        from optuna.trial import TrialState

        by_slot: dict[str, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            by_slot.setdefault(trial.user_attrs.get(SLOT, ""), []).append(trial)
        for slot in self.slots:
            trials = by_slot.get(slot, [])
            if any(each.state != TrialState.FAIL for each in trials):
                continue
            if kills(trials) >= MAX_KILLS:
                continue
            params = next((each.params for each in reversed(trials) if set(self.names) <= each.params.keys()), None)
            self.study.enqueue_trial(dict(params or self.fixed[slot]), user_attrs={SLOT: slot})

    def _fail_abandoned(self) -> None:
        """Set trials to failed whose worker has ended: of this machine at once, of others when their time is up."""
        import optuna
        from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
        from optuna.trial import TrialState

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker, slot = trial.user_attrs.get(WORKER), trial.user_attrs.get(SLOT)
            if worker is None:
                ended = _age(trial) > UNNAMED_SECONDS
            else:
                silent = not self.has_heartbeat and _age(trial) > GRACE_SECONDS
                ended = has_ended(worker) or (silent and is_abandoned(self.folder_of(str(slot))))
            if ended:
                try:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                except (ValueError, UpdateFinishedTrialError):
                    continue  # another worker was faster
                logger.info(f"sweep: the worker of trial {slot} has ended; the trial is taken up again")


class Superfluous(Exception):
    """A trial that nobody needs: its slot has ended, or another worker has it."""


def kills(trials: "Sequence[FrozenTrial]") -> int:
    """How often the worker of a slot ended without a word, of the failed trials of the slot."""
    return sum(not each.user_attrs.get(STOPPED) and WORKER in each.user_attrs for each in trials)


def _age(trial: "FrozenTrial") -> float:
    """Seconds since the trial began."""
    from datetime import datetime

    return (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
