"""One trial of a sweep: an ordinary run with values of the space in place, pruned by its evaluations, and its scores."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import FolderInUse, RecipeError, SettingsError, Stopped, UserError, logger, read_json, read_json_lines
from hflm.evaluation import read_results
from hflm.pipeline.run import RunOptions, run_recipe
from hflm.pipeline.run_folder import locked_folder, this_process
from hflm.pipeline.shared_stages import reuse_stages
from hflm.pipeline.sweep_study import ENDED, SLOT, STOPPED, WORKER
from hflm.recipe import Choices, Metric, Range, Recipe, SweepRecipe, load_varied_recipe

if TYPE_CHECKING:
    from optuna.trial import Trial

BUSY_SECONDS = 1.0  # between looks at a run folder that another process writes into


@dataclass(frozen=True)
class SweepPlan:
    """What is searched: the recipe as it is written, what of it the trials run, and the scores that are compared.

    `recipe` and `sets` are as the command names them. `metrics` are those of `sweep.metric`, in its order. `last` is
    the last stage of a trial, `seeds` how many runs a trial has.
    """

    recipe: str
    sets: tuple[str, ...]
    loaded: Recipe
    metrics: tuple[Metric, ...]
    folder: Path
    seeds: int

    @property
    def section(self) -> SweepRecipe:
        assert self.loaded.sweep is not None
        return self.loaded.sweep

    @property
    def last(self) -> str:
        stages = [metric.stage for metric in self.metrics]
        if "benchmark" in stages:
            return "benchmark"
        return "model" if "finetune" in stages or self.loaded.finetune is None else "pretrain"

    def trial_recipe(self, values: Mapping[str, Any], name: str) -> Recipe:
        """The recipe of a trial: these values, and of the benchmark what the sweep compares."""
        sets = [*self.sets, f"name={json.dumps(name)}", "push=null"]
        tasks = dict.fromkeys(metric.task for metric in self.metrics if metric.task is not None)
        if tasks:
            sets += [f"benchmark.tasks={json.dumps(list(tasks))}", "benchmark.contamination=false"]
        elif self.loaded.benchmark is not None:
            sets += ["benchmark=null"]
        return load_varied_recipe(self.recipe, sets, values)

    def trial_folder(self, slot: str) -> Path:
        return self.folder / "trials" / slot.zfill(4)


def suggest_values(trial: "Trial", section: SweepRecipe) -> dict[str, Any]:
    """The values of a trial by key path, from Optuna."""
    values = {}
    for key, dimension in section.dimensions.items():
        if isinstance(dimension, Choices):
            label: Any = trial.suggest_categorical(key, list(dimension.labels))
            values[key] = dimension.labels[label]
        else:
            values[key] = _number(trial, key, dimension)
    return values


def decode_values(params: Mapping[str, Any], section: SweepRecipe) -> dict[str, Any]:
    """The values of the recipe from what Optuna stored of a trial."""
    dimensions = section.dimensions
    values = {}
    for key in dimensions:
        dimension = dimensions[key]
        if key in params:
            values[key] = dimension.labels[params[key]] if isinstance(dimension, Choices) else params[key]
    return values


def _number(trial: "Trial", key: str, dimension: Range) -> int | float:
    low, high, step, log = dimension.low, dimension.high, dimension.step, dimension.log
    if dimension.is_whole:
        return trial.suggest_int(key, int(low), int(high), step=int(step or 1), log=log)
    return trial.suggest_float(key, low, high, step=step, log=log)


def run_trial(trial: "Trial", plan: SweepPlan, folder: Path, run: Callable[[], list[float]]) -> float | list[float]:
    """The score of `run`, or the list of two. Raises TrialPruned where the trial ends before.

    Values that the recipe refuses or that cannot be trained end the trial, not the sweep; so does any other fault that
    a user could mend, once a trial of the sweep was complete.
    """
    from optuna.exceptions import TrialPruned

    slot = trial.user_attrs[SLOT]
    trial.set_user_attr(WORKER, this_process())
    try:
        scores = run()
    except TrialPruned as pruned:
        trial.set_user_attr(ENDED, str(pruned))
        logger.info(f"trial {slot}: {pruned}")
        _remove_checkpoints(folder)
        raise
    except (RecipeError, SettingsError) as error:
        raise _ended(trial, error) from error
    except UserError as error:
        if _any_complete(trial):
            raise _ended(trial, error) from error
        trial.set_user_attr(STOPPED, True)
        raise
    except (Stopped, KeyboardInterrupt):
        trial.set_user_attr(STOPPED, True)  # says nothing about the trial
        raise
    named = zip(plan.section.metrics, scores, strict=True)
    logger.info(f"trial {slot}: " + ", ".join(f"{name} {score:.5g}" for name, score in named))
    return scores[0] if len(scores) == 1 else scores


def run_seeds(
    trial: "Trial", plan: SweepPlan, values: Mapping[str, Any], folder: Path, siblings: Callable[[], Iterable[Path]]
) -> list[float]:
    """The scores of a trial: the means over its seeds. The evaluations of each run may prune it."""
    pruning = Pruning(trial, plan)
    scores = [
        run_seed(plan, values, seed, folder if plan.seeds == 1 else folder / f"seed-{seed}", siblings, pruning)
        for seed in seeds_of(plan, values)
    ]
    return [sum(each) / len(each) for each in zip(*scores, strict=True)]


def seeds_of(plan: SweepPlan, values: Mapping[str, Any]) -> list[int]:
    """The seeds of a trial's runs."""
    first = int(values.get("seed", plan.loaded.seed))
    return [first + number for number in range(plan.seeds)]


def run_seed(
    plan: SweepPlan,
    values: Mapping[str, Any],
    seed: int,
    folder: Path,
    siblings: Callable[[], Iterable[Path]],
    pruning: "Pruning | None" = None,
) -> list[float]:
    """One run of a trial in `folder`, continued where it was stopped; returns its scores."""
    recipe = plan.trial_recipe({**values, "seed": seed}, f"{plan.loaded.name}-{folder.name}")
    on_evaluation = pruning.receive if pruning is not None and plan.section.pruner is not None else None
    waited = False
    while True:
        try:
            with locked_folder(folder):
                reuse_stages(recipe, folder, siblings())
            options = RunOptions(yes=True, last=plan.last, on_evaluation=on_evaluation, predict=False)
            run_recipe(recipe, folder, options)
            break
        except FolderInUse as error:  # its worker was out of reach, but is alive
            if not waited:
                logger.info(str(error))
            waited = True
            time.sleep(BUSY_SECONDS)
    return read_scores(folder, plan.metrics)


def read_scores(folder: Path, metrics: Sequence[Metric]) -> list[float]:
    """The scores of the finished run in `folder`. An evaluation's is that of the weights that the stage kept."""
    return [_benchmark_score(folder, each) if each.task is not None else _evaluated(folder, each) for each in metrics]


class Pruning:
    """Reports a trial's evaluations to Optuna, by the percentage of the stage that is done, and asks whether it ends.

    The score is the sweep's metric where the evaluations have it, else the validation loss, as a number that is better
    in the same direction.
    """

    def __init__(self, trial: "Trial", plan: SweepPlan) -> None:
        self.trial, self.metric = trial, plan.metrics[0]
        in_training = plan.loaded.finetune is not None
        self.stage = self.metric.stage if self.metric.task is None else ("finetune" if in_training else "pretrain")
        self.maximizes = plan.section.directions[0] == "maximize"
        self.last = -1

    def receive(self, stage: str, fraction: float, scores: dict[str, float]) -> None:
        from optuna.exceptions import TrialPruned

        percent = round(100 * fraction)
        name = self.metric.evaluated
        score = scores.get(name or "")
        if score is None and "eval_loss" in scores:
            score = -scores["eval_loss"] if self.maximizes else scores["eval_loss"]
        if stage != self.stage or percent <= self.last or score is None or not math.isfinite(score):
            return
        self.last = percent
        self.trial.report(score, percent)
        if percent < 100 and self.trial.should_prune():
            raise TrialPruned(f"pruned at {percent} %")


def _ended(trial: "Trial", error: Exception) -> Exception:
    from optuna.exceptions import TrialPruned

    slot, text = trial.user_attrs[SLOT], str(error)
    trial.set_user_attr(ENDED, text[:500])
    logger.warning(f"trial {slot}: it ends here: {text}")
    return TrialPruned(text)


def _any_complete(trial: "Trial") -> bool:
    from optuna.trial import TrialState

    return bool(trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _benchmark_score(folder: Path, metric: Metric) -> float:
    assert metric.task is not None
    return read_results(folder / "benchmark" / "results.json").tasks[metric.task].metrics[metric.name].value


def _evaluated(folder: Path, metric: Metric) -> float:
    recorded = read_json(folder / "environment.json").get("stages", {}).get(metric.stage, {})
    kept = recorded.get("kept_step", math.inf)
    found = [
        each[metric.name]
        for each in read_json_lines(folder / metric.stage / "metrics.jsonl")
        if metric.name in each and each["step"] <= kept
    ]
    if not found:
        raise UserError(
            f"{folder / metric.stage}: no evaluation has {metric.name}. Lower {metric.stage}.args.eval_steps"
        )
    return float(found[-1])


def _remove_checkpoints(folder: Path) -> None:
    """A pruned trial is not continued; what was logged stays."""
    for checkpoint in folder.glob("**/checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
