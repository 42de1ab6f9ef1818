"""Runs compared on the rows that all of them answered: differences, and whether they are due to chance.

    runs --read--> rows by id --pair--> statistics (n, k) of each run --metrics.paired--> Difference

The first run is the reference, "A"; every other one is compared with it (hflm.evaluation.compare_task).
"""

import string
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hflm.core import UserError
from hflm.evaluation.compare_task import TEXT, ComparedTask, TaskComparison, compare_task
from hflm.evaluation.prediction_files import read_predictions
from hflm.evaluation.results import Results, read_results, tasks_of_other_weights

LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Comparison:
    """`runs` maps letters to the runs' names, the reference first; `notes` are warnings for the reader."""

    runs: dict[str, str]
    tasks: dict[str, TaskComparison]
    notes: tuple[str, ...]
    resamples: int
    seed: int


def compare_runs(
    runs: Sequence[str | Path], tasks: Sequence[str] = (), resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare the run folders `runs` (the first is the reference) on `tasks`, or on all that they have in common.

    Every note is also a warning. Raises UserError: fewer than two runs or more than 26, one of them twice, a folder
    without results, no common task, predictions that are missing or malformed, rows whose references differ.
    """
    folders = [Path(run) for run in runs]
    if not 2 <= len(folders) <= len(LETTERS):
        raise UserError(f"hflm compare takes 2 to {len(LETTERS)} run folders, not {len(folders)}.")
    repeated = [str(run) for run, count in Counter(run.resolve() for run in folders).items() if count > 1]
    if repeated:
        raise UserError(f"{repeated[0]} is given twice. Give each run once.")
    names = dict(zip(LETTERS, run_names(folders), strict=False))
    notes: list[str] = []
    results, problems = [], []
    for run, name in zip(folders, names.values(), strict=True):
        try:
            results.append(_results_of(run, name, tasks, notes))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    compared = {}
    for name in common_tasks(names, results, tasks):
        measured = [one.tasks[name] for one in results]
        rows = [
            read_predictions(run / "benchmark" / "predictions" / f"{name}.jsonl", one.kind == TEXT)
            for run, one in zip(folders, measured, strict=True)
        ]
        comparison = compare_task(ComparedTask(name, list(names), measured, notes), rows, resamples, seed)
        if comparison is not None:
            compared[name] = comparison
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if not compared:
        raise UserError("nothing can be compared: the runs have no metric in common on any row.")
    return Comparison(names, compared, tuple(notes), resamples, seed)


def _results_of(run: Path, name: str, selected: Sequence[str], notes: list[str]) -> Results:
    """The results of a run, without those of other weights than it has, which a note names.

    Raises UserError for one that was selected. Results of an earlier hflm that did not record the weights count.
    """
    found = read_results(run / "benchmark" / "results.json")
    stale = [each for each in tasks_of_other_weights(run, found) if found.tasks[each].model_revision is not None]
    if not stale:
        return found
    problem = f"{name}: its scores of {', '.join(stale)} are of other weights than those in its model/"
    advice = f"measure them again: hflm run {run / 'recipe.yaml'} --output {run}"
    if len(stale) == len(found.tasks) or set(stale) & set(selected):
        raise UserError(f"{problem}. To compare the run, {advice}")
    notes.append(f"{problem} and are left out; {advice}")
    return replace(found, tasks={each: task for each, task in found.tasks.items() if each not in stale})


def run_names(runs: list[Path]) -> list[str]:
    """The shortest last parts of the paths that tell the runs apart: a/x/1, b/x/1 -> a/x/1, b/x/1; a, b -> a, b."""
    parts = [run.resolve().parts for run in runs]
    length = 1
    while len({path[-length:] for path in parts}) < len(parts):
        length += 1
    return ["/".join(path[-length:]) for path in parts]


def common_tasks(names: dict[str, str], results: list[Results], selected: Sequence[str]) -> list[str]:
    common = [task for task in results[0].tasks if all(task in one.tasks for one in results)]
    if unknown := [task for task in selected if task not in common]:
        raise UserError(f"task {unknown[0]} is not in every run. Tasks of all runs: {', '.join(common) or 'none'}.")
    if not common:
        lists = [
            f"  {name}: {', '.join(one.tasks) or 'none'}" for name, one in zip(names.values(), results, strict=True)
        ]
        raise UserError("\n".join(["the runs have no task in common. Their tasks are", *lists]))
    return [task for task in common if task in selected or not selected]
