"""Recipes compared over several seeds each: is a difference more than the luck of training, and of the test rows?

    groups of runs --read--> scores of each seed --seeds--> means, spreads, Welch's interval of the difference
                             rows, summed over seeds --metrics.paired--> the interval of the same rows drawn anew

The first group is the reference, "A". A folder of `hflm run --seeds` is a group, any other run a group of one.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hflm.core import UserError, read_json
from hflm.evaluation import metrics
from hflm.evaluation.compare import LETTERS, common_tasks, run_names
from hflm.evaluation.compare_task import (
    TEXT,
    ComparedTask,
    check_same_rows,
    common_metrics,
    row_clusters,
    row_statistics,
)
from hflm.evaluation.metrics import paired
from hflm.evaluation.metrics.bootstrap import sum_clusters
from hflm.evaluation.prediction_files import read_predictions
from hflm.evaluation.results import Results, read_results
from hflm.evaluation.seeds import SeedDifference, Spread, seed_difference, spread

SEEDS_FILE = "seeds.json"


@dataclass(frozen=True)
class SeedScores:
    """One metric: the Spread of each group, by letter, and what the others have more than the reference.

    `by_seed` is judged against the spread of the seeds, `by_row` holds the 95 % interval of the paired bootstrap of the
    rows, all seeds of a group together.
    """

    spreads: dict[str, Spread]
    by_seed: dict[str, SeedDifference]
    by_row: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class SeedComparison:
    """`groups` maps letters to names; `tasks` is {task: {metric: SeedScores}}; `notes` are warnings for the reader."""

    groups: dict[str, str]
    tasks: dict[str, dict[str, SeedScores]]
    rows: dict[str, int]
    notes: tuple[str, ...]


def seed_runs(folder: Path) -> list[Path]:
    """The runs in a folder of `hflm run --seeds`; [] for any other folder."""
    seeds = read_json(folder / SEEDS_FILE).get("seeds", ())
    return [folder / f"seed-{seed}" for seed in seeds]


def compare_seeds(
    folders: Sequence[Path], tasks: Sequence[str] = (), resamples: int = 10_000, seed: int = 0
) -> SeedComparison:
    """Compare folders of runs over seeds on `tasks`, or on all that they have in common.

    Every note is also a warning. Raises UserError: fewer than two folders, results or predictions that are missing.
    """
    if not 2 <= len(folders) <= len(LETTERS):
        raise UserError(f"hflm compare takes 2 to {len(LETTERS)} run folders, not {len(folders)}.")
    letters = list(LETTERS[: len(folders)])
    runs = {letter: seed_runs(each) or [each] for letter, each in zip(letters, folders, strict=True)}
    results = {
        letter: [read_results(run / "benchmark" / "results.json") for run in each] for letter, each in runs.items()
    }
    names = dict(zip(letters, run_names(list(folders)), strict=True))
    everyone = [one for each in results.values() for one in each]
    by_run = {f"{letter}{number}": name for letter, name in names.items() for number in range(len(runs[letter]))}
    notes: list[str] = []
    compared, rows = {}, {}
    for name in common_tasks(by_run, everyone, tasks):
        compared[name], rows[name] = _compare_task(name, runs, results, notes, resamples, seed)
    for note in dict.fromkeys(notes):
        warnings.warn(note, stacklevel=2)
    return SeedComparison(names, compared, rows, tuple(dict.fromkeys(notes)))


def _compare_task(
    name: str,
    runs: dict[str, list[Path]],
    results: dict[str, list[Results]],
    notes: list[str],
    resamples: int,
    seed: int,
) -> tuple[dict[str, SeedScores], int]:
    """The SeedScores of one task by metric, and how many rows were paired."""
    labels = [f"{letter}{number}" for letter, each in runs.items() for number in range(len(each))]
    measured = [one.tasks[name] for each in results.values() for one in each]
    task = ComparedTask(name, labels, measured, notes)
    read = [
        read_predictions(run / "benchmark" / "predictions" / f"{name}.jsonl", one.kind == TEXT)
        for run, one in zip([run for each in runs.values() for run in each], measured, strict=True)
    ]
    keys = [key for key in read[0] if all(key in each for each in read)]
    shared = common_metrics(task)
    if not keys or not shared:
        raise UserError(
            f"{name}: the runs have no {'metric' if keys else 'row'} in common. Name other tasks with --task"
        )
    rows = [[each[key] for key in keys] for each in read]
    check_same_rows(task, rows)
    kinds, statistics = row_statistics(shared, rows, task)
    values = [paired.values_of(kinds, [array.sum(axis=0, keepdims=True) for array in each]) for each in statistics]
    members = {letter: [n for n, label in enumerate(labels) if label[0] == letter] for letter in runs}
    summed = [
        [np.sum(arrays, axis=0) for arrays in zip(*(statistics[n] for n in each), strict=True)]
        for each in members.values()
    ]
    clusters = row_clusters(rows)  # rows of one passage are drawn together
    grouped = [[sum_clusters(array, clusters) for array in arrays] for arrays in summed]
    drawn = paired.differences(kinds, grouped, resamples, seed)
    found = {}
    for metric in shared:
        scores = {letter: [float(values[n][metric][0]) for n in each] for letter, each in members.items()}
        first, *others = scores
        by_seed = {letter: seed_difference(scores[first], scores[letter]) for letter in others}
        by_row = {
            letter: metrics.interval(each[metric], by_seed[letter].difference)
            for letter, each in zip(others, drawn, strict=True)
        }
        found[metric] = SeedScores({letter: spread(each) for letter, each in scores.items()}, by_seed, by_row)
    return found, len(keys)
