"""One task of several runs, row by row: the difference of each metric, and the rows that changed.

All values are computed anew, from the predictions and by the same metrics, so that runs of different versions stay
comparable.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hflm.core import UserError, redact
from hflm.evaluation import metrics
from hflm.evaluation.metrics import paired
from hflm.evaluation.metrics.bootstrap import sum_clusters
from hflm.evaluation.prediction_files import Row
from hflm.evaluation.results import TaskResult, format_value
from hflm.recipe import LOWER_IS_BETTER
from hflm.tasks import LIKELIHOOD

MAX_CHANGES = 5  # rows shown of those that got better, and of those that got worse
TEXT = "language_modeling"


@dataclass(frozen=True)
class Difference:
    """One metric of a run against the reference: `difference` is `value - reference`, with its 95 % interval.

    `p` is two-sided; `p_holm` is adjusted for the number of runs compared with the reference (None if there is one).
    """

    reference: float
    value: float
    difference: float
    ci95: tuple[float, float]
    p: float
    p_holm: float | None


@dataclass(frozen=True)
class Change:
    """A row whose score changed; the pairs are (the reference's, the run's). A row of text has
    its text as prompt, and no references and predictions.
    """

    id: str
    references: tuple[str, ...]
    prompts: tuple[str, str]
    predictions: tuple[str, str]
    scores: tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """One run against the reference on one task; `better`, `worse` and `same` count rows by `TaskComparison.main`."""

    run: str
    metrics: dict[str, Difference]
    better: int
    worse: int
    same: int
    improved: tuple[Change, ...]
    worsened: tuple[Change, ...]


@dataclass(frozen=True)
class TaskComparison:
    """One task: `n` rows are paired, `left_out` rows are not in every run, `pairs` has one entry a compared run.

    `clusters` of rows are resampled, and swapped in tests, as a whole; None: each row is.
    """

    n: int
    left_out: int
    main: str
    pairs: tuple[Pair, ...]
    clusters: int | None = None


@dataclass(frozen=True)
class ComparedTask:
    """One task of the runs `letters`: its results in each run; `notes` collects warnings for the reader."""

    name: str
    letters: list[str]
    results: list[TaskResult]
    notes: list[str]

    @property
    def is_text(self) -> bool:
        return self.results[0].kind == TEXT

    def note(self, text: str) -> None:
        self.notes.append(f"{self.name}: {text}")

    def by_run(self, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        return zip(self.letters, values, strict=True)


def compare_task(task: ComparedTask, by_key: list[dict[Any, Row]], resamples: int, seed: int) -> TaskComparison | None:
    """The TaskComparison of one task, or None when the runs have no metric or row of it in common."""
    names = common_metrics(task)
    keys = [key for key in by_key[0] if all(key in one for one in by_key)]
    left_out = len(set().union(*by_key)) - len(keys)
    if not names or not keys:
        task.note(f"not compared, the runs have no {'row' if names else 'metric'} in common")
        return None
    if left_out:
        task.note(f"{left_out:,} rows are left out, not every run has them; {len(keys):,} are compared")
    rows = [[one[key] for key in keys] for one in by_key]
    check_same_rows(task, rows)
    _note_differences(task, names)
    if task.is_text and len({tuple(row["tokens"] for row in one) for one in rows}) > 1:
        task.note("the tokenizers differ, and perplexity is per token: rows are ranked by bits_per_byte")
        names.sort(key=lambda name: name != "bits_per_byte")
    kinds, statistics = row_statistics(names, rows, task)
    clusters = row_clusters(rows)
    values = [paired.values_of(kinds, [array.sum(axis=0, keepdims=True) for array in arrays]) for arrays in statistics]
    if not left_out:
        _note_recorded(task, names, values)
    main = names[0]
    grouped: list[Sequence[Any]] = [[sum_clusters(array, clusters) for array in arrays] for arrays in statistics]
    differences = _differences(names, kinds, grouped, values, resamples, seed)
    scores = _row_scores(main, kinds, statistics)
    pairs = tuple(
        _pair(letter, own, main, rows[0], rows[number], scores[0], scores[number])
        for number, (letter, own) in enumerate(zip(task.letters[1:], differences, strict=True), 1)
    )
    return TaskComparison(len(keys), left_out, main, pairs, None if clusters is None else len(set(clusters.tolist())))


def common_metrics(task: ComparedTask) -> list[str]:
    """The metrics that all runs have, the main ones first."""
    first = task.results[0]
    order = dict.fromkeys([*first.main(), *first.metrics])
    names = [name for name in order if all(name in one.metrics for one in task.results)]
    if "bertscore" in names:  # its encoder is not kept with the run
        names.remove("bertscore")
        task.note("bertscore is not compared")
    return names


def row_clusters(rows: list[list[Row]]) -> np.ndarray | None:
    """The cluster of each row as an integer, where the predictions of a run name them: rows of one passage."""
    named = ([row.get("cluster") for row in one] for one in rows)
    names = next((names for names in named if None not in names), None)
    if names is None or len(set(names)) == 1:
        return None
    return np.unique(np.array(names), return_inverse=True)[1]


def check_same_rows(task: ComparedTask, rows: list[list[Row]]) -> None:
    key = "bytes" if task.is_text else "references"
    for letter, one in zip(task.letters[1:], rows[1:], strict=True):
        for row, other in zip(rows[0], one, strict=True):
            if row[key] == other[key]:
                continue
            values = f"{key} are {_short(row[key])} in A and {_short(other[key])} in {letter}"
            reason = (
                "the runs scored other text, or cut it into other windows"
                if task.is_text
                else "the runs answered different rows"
            )
            raise UserError(
                f"{task.name}, id {row['id']}: {values}: {reason}, so they cannot be paired. "
                "Name the other tasks with --task."
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def row_statistics(
    names: list[str], rows: list[list[Row]], task: ComparedTask
) -> tuple[Sequence[Any], list[Sequence[Any]]]:
    """(metric objects, the statistics of each run, a list of arrays (n, k))."""
    if task.is_text:
        from hflm.evaluation.metrics.likelihood import LanguageModeling

        metric = LanguageModeling()
        columns = [[[row[key] for row in one] for key in ("nats", "tokens", "bytes")] for one in rows]
        return [metric], [[metric.statistics(*each)] for each in columns]
    # A label that occurs in no reference and no prediction changes no value.
    labels = list(dict.fromkeys(label for one in rows for row in one for label in row.get("log_likelihoods", ())))
    references = [tuple(row["references"]) for row in rows[0]]
    from hflm.evaluation.metrics.qa import signature_language

    languages = (signature_language(score.signature) for score in task.results[0].metrics.values())
    options = {"labels": labels or None, "language": next(filter(None, languages), None)}
    numbers = [None] * len(rows)
    if set(names) & set(LIKELIHOOD):
        numbers = [np.array([[row[key] for key in ("nats", "tokens", "bytes")] for row in one], float) for one in rows]
    measured = [
        metrics.measure_all(names, [row["prediction"] for row in one], references, likelihood, **options)
        for one, likelihood in zip(rows, numbers, strict=True)
    ]
    return measured[0].metrics, [one.statistics for one in measured]


def _differences(
    names: list[str],
    kinds: Sequence[Any],
    statistics: list[Sequence[Any]],
    values: list[dict[str, Any]],
    resamples: int,
    seed: int,
) -> list[dict[str, Difference]]:
    """The Difference of each metric, for each run but the first."""
    intervals = paired.differences(kinds, statistics, resamples, seed)
    p = [paired.p_values(kinds, statistics[0], arrays, resamples, seed) for arrays in statistics[1:]]
    adjusted = {name: paired.holm([each[name] for each in p]) for name in names}
    differences = []
    for number in range(len(p)):
        own = {}
        for name in names:
            reference, value = float(values[0][name][0]), float(values[number + 1][name][0])
            difference = value - reference
            interval = metrics.interval(intervals[number][name], difference)
            p_holm = adjusted[name][number] if len(p) > 1 else None
            own[name] = Difference(reference, value, difference, interval, p[number][name], p_holm)
        differences.append(own)
    return differences


def _row_scores(main: str, kinds: Sequence[Any], statistics: list[Sequence[Any]]) -> list[np.ndarray]:
    """The main metric of each row alone, for each run."""
    # A window may spell less than one byte; its perplexity is fine.
    with np.errstate(divide="ignore", invalid="ignore"):
        return [
            next(kind.each(array)[main] for kind, array in zip(kinds, arrays, strict=True) if main in kind.NAMES)
            for arrays in statistics
        ]


def _note_differences(task: ComparedTask, names: list[str]) -> None:
    if len({one.prompt_hash for one in task.results}) > 1:
        task.note("the prompts differ")
    for field in ("decoding", "data"):
        values = [getattr(one, field) for one in task.results]
        if len(set(values)) > 1:
            task.note(
                f"{field} differs: {', '.join(f'{letter} {redact(each)}' for letter, each in task.by_run(values))}"
            )
    for name in names:
        signatures = [one.metrics[name].signature for one in task.results]
        if len(set(signatures)) > 1:
            each = "; ".join(f"{letter} {signature}" for letter, signature in task.by_run(signatures))
            task.note(f"{name} was computed in different ways ({each}); here it is computed in one way")


def _note_recorded(task: ComparedTask, names: list[str], values: list[dict[str, Any]]) -> None:
    for letter, one, value in zip(task.letters, task.results, values, strict=True):
        recorded = {name: one.metrics[name].value for name in names}
        computed = {name: float(value[name][0]) for name in names}
        odd = [name for name in names if not math.isclose(recorded[name], computed[name], rel_tol=1e-6, abs_tol=1e-9)]
        if odd:
            now = ", ".join(f"{name} {format_value(name, computed[name])}" for name in odd)
            before = ", ".join(format_value(name, recorded[name]) for name in odd)
            task.note(
                f"the predictions of {letter} give {now}, but its results.json has {before}: "
                "a file was changed, or a metric was"
            )


def _shown_text(row: Row) -> str:
    """A row's prompt, or the text of language modelling (files of an earlier hflm have none)."""
    return row.get("prompt") or row.get("text", "")


def _pair(
    letter: str,
    differences: dict[str, Difference],
    main: str,
    first: list[Row],
    second: list[Row],
    scores: np.ndarray,
    others: np.ndarray,
) -> Pair:
    gain = scores - others if main in LOWER_IS_BETTER else others - scores

    def change(number: int) -> Change:
        pair = first[number], second[number]
        return Change(
            pair[0]["id"],
            tuple(pair[0].get("references", ())),
            (_shown_text(pair[0]), _shown_text(pair[1])),
            (pair[0].get("prediction", ""), pair[1].get("prediction", "")),
            (float(scores[number]), float(others[number])),
        )

    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    improved = [change(number) for number in np.argsort(-gain, kind="stable")[: min(better, MAX_CHANGES)]]
    worsened = [change(number) for number in np.argsort(gain, kind="stable")[: min(worse, MAX_CHANGES)]]
    return Pair(letter, differences, better, worse, len(gain) - better - worse, tuple(improved), tuple(worsened))
