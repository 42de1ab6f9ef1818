"""Parts of a task's rows, scored alone: where a model is strong and where it is weak.

label             choice and sentiment: the accuracy among the rows of each right label, which is its recall
answer            qa: the questions that have an answer, and those that have none
prompt length     quartiles of the prompts' characters
"""

import numpy as np

from hflm import tasks
from hflm.evaluation import results
from hflm.evaluation.results import Slice

FEWEST_ROWS = 10


def slices(task, examples, measured, lengths, *, resamples=1000, seed=0) -> tuple[Slice, ...]:
    """The task's first main metric, with a 95 % interval, on each part of n examples that has FEWEST_ROWS rows.

    `measured` is the metrics.Measured of the n predictions, `lengths` are the characters of the n prompts.

    >>> slices(task, examples, measured, [12, 80, ...])[0]                                    # doctest: +SKIP
    Slice(by='label', name='negative', n=428, metric='accuracy', score=Score(value=0.79, ci95=(0.75, 0.83), ...))
    """
    metric = results.main(task.kind, measured.names)[0]
    return tuple(
        Slice(by, name, len(rows), metric, measured.scores(rows, resamples=resamples, seed=seed)[metric])
        for by, parts in _divisions(task, examples, metric, lengths).items()
        if sum(map(bool, parts.values())) > 1  # all rows in one part: it would say the whole task's score again
        for name, rows in parts.items()
        if len(rows) >= FEWEST_ROWS
    )


def _divisions(task, examples, metric, lengths):
    """{"label": {"negative": row numbers, ...}, ...}"""
    found = {}
    if metric == "accuracy":  # macro F1 and MCC compare labels with each other: one alone has none
        found["label"] = {label: _where(examples, label) for label in tasks.choices(task)}
    if task.kind == "qa":
        none = set(_where(examples, ""))
        found["answer"] = {"answerable": sorted(set(range(len(examples))) - none), "unanswerable": sorted(none)}
    lengths = np.asarray(lengths)
    quarters = np.searchsorted(np.quantile(lengths, [0.25, 0.5, 0.75]), lengths, side="left")
    found["prompt length"] = {
        f"{lengths[rows].min():,} to {lengths[rows].max():,} characters": rows.tolist()
        for rows in (np.flatnonzero(quarters == quarter) for quarter in range(4))
        if len(rows)
    }
    return found


def _where(examples, reference):
    return [row for row, example in enumerate(examples) if example.references == (reference,)]
