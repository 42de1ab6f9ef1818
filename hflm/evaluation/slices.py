"""Scores of parts of a task's rows: where a model is strong and where it is weak.

label             choice and sentiment: the accuracy among the rows of each right label, which is its recall
answer            qa: the questions that have an answer, and those that have none
prompt length     quartiles of the prompts' characters
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hflm import tasks
from hflm.evaluation.results import Slice, main_metrics

if TYPE_CHECKING:
    from hflm.evaluation.metrics import Measured
    from hflm.recipe import Task
    from hflm.tasks import Example

MIN_ROWS = 10  # of a slice


def score_slices(
    task: "Task",
    examples: "Sequence[Example]",
    measured: "Measured",
    lengths: Sequence[int],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Slice, ...]:
    """The task's first main metric, with a 95 % interval, on each part of n examples that has MIN_ROWS rows.

    `measured` are the n predictions, `lengths` the characters of the n prompts.

    >>> score_slices(task, examples, measured, [12, 80, ...])[0]                              # doctest: +SKIP
    Slice(by='label', name='negative', n=428, metric='accuracy', score=Score(value=0.79, ci95=(0.75, 0.83), ...))
    """
    metric = main_metrics(task.kind, measured.names)[0]
    return tuple(
        Slice(by, name, len(rows), metric, measured.scores(rows, resamples=resamples, seed=seed)[metric])
        for by, parts in _divisions(task, examples, metric, lengths).items()
        if sum(map(bool, parts.values())) > 1  # a single part would repeat the whole task's score
        for name, rows in parts.items()
        if len(rows) >= MIN_ROWS
    )


def _divisions(
    task: "Task", examples: "Sequence[Example]", metric: str, lengths: Sequence[int]
) -> dict[str, dict[str, list[int]]]:
    """{"label": {"negative": row numbers, ...}, ...}"""
    divisions = {}
    if metric == "accuracy":  # macro F1 and MCC compare labels with each other: one alone has none
        divisions["label"] = {label: _rows_of(examples, label) for label in tasks.choices(task) or ()}
    if task.kind == "qa":
        none = set(_rows_of(examples, ""))
        divisions["answer"] = {"answerable": sorted(set(range(len(examples))) - none), "unanswerable": sorted(none)}
    sizes = np.asarray(lengths)
    quarters = np.searchsorted(np.quantile(sizes, [0.25, 0.5, 0.75]), sizes, side="left")
    divisions["prompt length"] = {
        f"{sizes[rows].min():,} to {sizes[rows].max():,} characters": rows.tolist()
        for rows in (np.flatnonzero(quarters == quarter) for quarter in range(4))
        if len(rows)
    }
    return divisions


def _rows_of(examples: "Sequence[Example]", reference: str) -> list[int]:
    return [row for row, example in enumerate(examples) if example.references == (reference,)]
