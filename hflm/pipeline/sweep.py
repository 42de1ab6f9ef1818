"""`hflm sweep`: search the values of a recipe's `sweep.space` by the scores of its runs.

Optuna proposes the values, stops trials that are behind, and keeps the record in a storage that any number of workers
share: the same command on another machine joins the sweep. Trials are ordinary run folders; stages that the space does
not touch are computed once. A trial runs in the worker's own process: starting torch anew for each would cost more than
a small trial, and a worker that is killed loses no more than its steps since the last checkpoint.

    <sweep>/shared/           the stages that all trials have in common
    <sweep>/trials/0007/      the run of a trial
    <sweep>/confirm/7-seed-43/  the best trials with new seeds
    <sweep>/README.md, plots/, best.yaml, results.json
"""

import itertools
import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import FolderInUse, RecipeError, UserError, atomic_write_text, configure_logging, logger
from hflm.pipeline.inputs import resolve_inputs
from hflm.pipeline.run_folder import group_folder, locked_folder
from hflm.pipeline.shared_stages import common_stages, run_once
from hflm.pipeline.stage_keys import HARMLESS_ARGS, Dependencies, stage_dependencies
from hflm.pipeline.sweep_report import read_report, write_report
from hflm.pipeline.sweep_storage import has_heartbeat, open_storage, require_optuna, storage_errors
from hflm.pipeline.sweep_study import SLOT, Slots, ended_trials, open_study
from hflm.pipeline.sweep_trial import SweepPlan, decode_values, run_seed, run_seeds, run_trial, suggest_values
from hflm.recipe import Choices, Recipe, SweepRecipe, find_metric, load_recipe

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study

FILE = "sweep.json"


def sweep_recipe(recipe: str, sets: Sequence[str] = (), output: str | Path | None = None, seeds: int = 1) -> None:
    """Search the space of a recipe (a path or a shipped name, changed by `sets`) in `output`, or join a search.

    seeds: how many runs a trial has; its score is their mean. Raises UserError, Stopped.
    """
    configure_logging()
    loaded = load_recipe(recipe, sets)
    if loaded.sweep is None:
        raise UserError(f"{recipe}: it has no section `sweep`. Add one with `space` and `metric`")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "hflm sweep: a trial has one process. Start one worker for each device instead: the same command, each with "
            "its own CUDA_VISIBLE_DEVICES"
        )
    require_optuna()
    plan = _plan(recipe, sets, loaded, _sweep_folder(loaded, output), seeds)
    section, name = plan.section, plan.section.study or loaded.name
    _check_model(plan)
    made_from = _dependencies(plan)
    with open_storage(section.storage, plan.folder) as storage, storage_errors(section.storage):
        study = open_study(storage, name, section.directions, made_from)
        atomic_write_text(plan.folder / FILE, json.dumps({"study": name, "recipe": loaded.name}) + "\n")
        logger.info(f"{loaded.name}: {plan.folder}: {_progress(study, section)}")
        _run_shared(plan)
        _search(plan, study, storage)
        confirmed = _confirm(plan, study, storage, name, made_from)
        write_report(read_report(plan, study, best_slots(plan, study), confirmed))


def _plan(recipe: str, sets: Sequence[str], loaded: Recipe, folder: Path, seeds: int) -> SweepPlan:
    assert loaded.sweep is not None
    plain = loaded.model_dump(mode="json", by_alias=True)

    def at(*path: str) -> Any:
        value: Any = plain
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    found = [find_metric(at, name) for name in loaded.sweep.metrics]
    metrics = tuple(metric for metric in found if metric is not None)  # a loaded recipe has all of them
    return SweepPlan(recipe, tuple(sets), loaded, metrics, folder, seeds)


def _check_model(plan: SweepPlan) -> None:
    """Raise ModelError for a model that cannot be loaded, before the study records it: it would refuse another one."""
    from hflm.models import load_model

    model = plan.loaded.model
    searched = any(key.startswith("model.") for key in plan.section.dimensions)
    if model.from_ is not None and not searched and not (plan.folder / FILE).is_file():
        load_model(model.from_, model.revision, model.dtype or "auto")


def _sweep_folder(recipe: Recipe, output: str | Path | None) -> Path:
    begun = {"study.db", "shared", ".lock"}
    return group_folder(
        Path("runs") / f"{recipe.name}-sweep", output, FILE, begun.__contains__, "is no sweep of hflm's"
    )


def _progress(study: "Study", section: SweepRecipe) -> str:
    ended = len(ended_trials(study, _slots(section)))
    return f"{section.trial_count} trials" + (f", {ended} of them have ended" if ended else "")


def _slots(section: SweepRecipe) -> list[str]:
    return [str(number) for number in range(section.trial_count)]


def _dependencies(plan: SweepPlan) -> Dependencies:
    """What the scores of the trials depend on, apart from the values of the space."""
    recipe, section = plan.trial_recipe({}, plan.loaded.name), plan.section
    found: Dependencies = {}
    for each in stage_dependencies(recipe, resolve_inputs(recipe)).values():
        found |= {key: value for key, value in each.items() if "." in key or key == "seed"}
    for name in ("pretrain", "finetune"):
        stage = getattr(recipe, name)
        if stage is None:
            continue
        found |= {f"{name}.args.{key}": value for key, value in stage.args.items() if key not in HARMLESS_ARGS}
        if isinstance(getattr(stage, "validation", None), float):
            found[f"{name}.validation"] = stage.validation
        if stage.evaluate is not None:
            found[f"{name}.evaluate"] = stage.evaluate.model_dump(mode="json")
    space = {f"sweep.space.{key}": repr(each) for key, each in section.dimensions.items()}
    # The recipe's own value of a key that is searched is in no trial.
    found = {
        name: value
        for name, value in found.items()
        if not any(name == key or name.startswith(f"{key}.") for key in section.dimensions)
    }
    return {**found, **space, "sweep.metric": list(section.metrics), "seeds": plan.seeds}


def _siblings(folder: Path) -> Iterator[Path]:
    """The run folders of a sweep, those with the shared stages first."""
    for pattern in ("shared", "trials/*", "trials/*/seed-*", "confirm/*"):
        yield from sorted(path.parent for path in folder.glob(f"{pattern}/stages.json"))


def _run_shared(plan: SweepPlan) -> None:
    """Compute the stages that all trials have in common; of several workers one does, and the others wait."""
    variants = [plan.trial_recipe({}, f"{plan.loaded.name}-shared")]
    for key, dimension in plan.section.dimensions.items():
        values = dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.high)
        for value in values:
            try:
                variants.append(plan.trial_recipe({key: value}, plan.loaded.name))
            except RecipeError:  # allowed only together with other values
                continue
    stages = common_stages(variants)
    stages = stages[: stages.index(plan.last) + 1] if plan.last in stages else stages
    if not stages:
        return
    logger.info(f"sweep: all trials have {', '.join(stages)} in common")
    waited = False
    while True:
        try:
            with locked_folder(plan.folder):
                run_once(variants[0], plan.folder / "shared", stages[-1])
            return
        except FolderInUse:
            if not waited:
                logger.info("sweep: another worker computes the stages in common")
            waited = True
            time.sleep(1.0)


def _search(plan: SweepPlan, study: "Study", storage: "BaseStorage") -> None:
    """Work the trials off, together with other workers."""
    section = plan.section
    fixed = _grid(section) if section.sampler["type"] == "grid" else {slot: {} for slot in _slots(section)}

    def objective(trial: Any) -> float | list[float]:
        values = suggest_values(trial, section)
        slot = trial.user_attrs[SLOT]
        logger.info(f"trial {slot}: " + ", ".join(f"{key} {json.dumps(value)}" for key, value in values.items()))
        folder = plan.trial_folder(slot)
        return run_trial(
            trial, plan, folder, lambda: run_seeds(trial, plan, values, folder, lambda: _siblings(plan.folder))
        )

    deadline = None if section.timeout is None else time.monotonic() + section.timeout
    slots = Slots(study, has_heartbeat(storage), fixed, list(section.dimensions), plan.trial_folder)
    slots.work(objective, lambda begun: _sampler(plan, begun), _pruner(section), deadline)


def _confirm(
    plan: SweepPlan, study: "Study", storage: "BaseStorage", name: str, made_from: Dependencies
) -> dict[str, list[list[float]]]:
    """Train the best trials again with new seeds, in a study of its own; {slot: the scores of each run}."""
    confirm, section = plan.section.confirm, plan.section
    best = best_slots(plan, study)[: confirm.best if confirm else 0]
    if confirm is None or not best:
        return {}
    ended = ended_trials(study, _slots(section))
    values = {slot: decode_values(ended[slot].params, section) for slot in best}
    runs: dict[str, tuple[str, int]] = {}
    for slot in best:
        first = int(values[slot].get("seed", plan.loaded.seed)) + plan.seeds  # none that the search has seen
        runs |= {f"{slot}-seed-{seed}": (slot, seed) for seed in range(first, first + confirm.seeds)}

    def folder_of(run: str) -> Path:
        return plan.folder / "confirm" / run

    def objective(trial: Any) -> float | list[float]:
        run = trial.user_attrs[SLOT]
        slot, seed = runs[run]
        return run_trial(
            trial,
            plan,
            folder_of(run),
            lambda: run_seed(plan, values[slot], seed, folder_of(run), lambda: _siblings(plan.folder)),
        )

    logger.info(f"sweep: the best {len(best)} with {confirm.seeds} new seeds each")
    again = open_study(storage, f"{name} (confirmation)", section.directions, made_from)
    slots = Slots(again, has_heartbeat(storage), {run: {} for run in runs}, (), folder_of)
    slots.work(objective, lambda begun: _sampler(plan, begun), None)
    scores: dict[str, list[list[float]]] = {slot: [] for slot in best}
    for run, trial in ended_trials(again, list(runs)).items():
        if trial.state.name == "COMPLETE":
            scores[runs[run][0]].append(list(trial.values))
    return scores


def best_slots(plan: SweepPlan, study: "Study") -> list[str]:
    """The complete trials, best first; of two metrics those that no other is better in both of."""
    ended = ended_trials(study, _slots(plan.section))
    signs = [1 if each == "minimize" else -1 for each in plan.section.directions]
    costs = {
        slot: tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
        for slot, trial in ended.items()
        if trial.state.name == "COMPLETE"
    }
    front = [
        slot
        for slot, cost in costs.items()
        if not any(other != cost and all(a <= b for a, b in zip(other, cost, strict=True)) for other in costs.values())
    ]
    chosen = front if len(signs) == 2 else costs
    return sorted(chosen, key=lambda slot: costs[slot])


def _grid(section: SweepRecipe) -> dict[str, Mapping[str, Any]]:
    """All points of the space, or the first of them where `trials` says so."""

    axes = {
        key: list(dimension.labels) if isinstance(dimension, Choices) else list(dimension.grid or ())
        for key, dimension in section.dimensions.items()
    }
    points = itertools.product(*axes.values())
    return {slot: dict(zip(axes, point, strict=True)) for slot, point in zip(_slots(section), points, strict=False)}


def _sampler(plan: SweepPlan, begun: int) -> "BaseSampler":
    """Optuna's sampler, seeded by the recipe's seed and the number of trials that have begun."""
    from optuna import samplers

    section = plan.section
    options = {key: value for key, value in section.sampler.items() if key != "type"}
    seed = random.Random(f"{plan.loaded.seed} {begun}").randrange(2**32)
    match section.sampler["type"]:
        case "tpe":
            return samplers.TPESampler(seed=seed, **options)
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False, **options)
        case "nsgaii":
            # Optuna's 50 would make a search of fewer trials a random one.
            population = min(50, max(2, section.trial_count // 5))
            return samplers.NSGAIISampler(seed=seed, **{"population_size": population, **options})
    return samplers.RandomSampler(seed=seed)  # the points of a grid are fixed


def _pruner(section: SweepRecipe) -> "BasePruner":
    """Optuna's pruner; its steps are percentages of the training stage."""
    from optuna import pruners

    if section.pruner is None:
        return pruners.NopPruner()
    options = {key: value for key, value in section.pruner.items() if key != "type"}
    if section.pruner["type"] == "median":
        return pruners.MedianPruner(**options)
    return pruners.HyperbandPruner(**{"min_resource": 10, "max_resource": 100, **options})
