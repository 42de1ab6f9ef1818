"""Runs side by side: what each scores on the rows that all of them answered, and whether the difference is chance.

    runs --read--> rows by id --pair--> statistics (n, k) of each run --metrics.paired--> Difference

The first run is the reference, "A"; every other one is compared with it. All values are computed anew, from the
predictions and by the same metrics, so that runs of different versions stay comparable.
"""

import json
import math
import string
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hflm.core import UserError, redact
from hflm.evaluation import metrics, results
from hflm.evaluation.metrics import paired

LETTERS = string.ascii_uppercase
MOST_CHANGES = 5  # rows shown of those that got better, and of those that got worse
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
    """A row whose score changed; the pairs are (the reference's, the run's). A row of text has only an id and scores."""

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
    """One task: `n` rows are paired, `left_out` rows are not in every run, `pairs` has one entry a compared run."""

    n: int
    left_out: int
    main: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Comparison:
    """`runs` maps letters to the runs' names, the reference first; `notes` are what the reader must know."""

    runs: dict[str, str]
    tasks: dict[str, TaskComparison]
    notes: tuple[str, ...]
    resamples: int
    seed: int


def compare(runs, tasks=(), resamples=10_000, seed=0):
    """Compare the run folders `runs` (the first is the reference) on `tasks`, or on all that they share.

    Every note is also a warning. Raises UserError: fewer than two runs or more than 26, one of them twice, a folder
    without results, no shared task, predictions that are missing or malformed, rows whose references differ.
    """
    runs = [Path(run) for run in runs]
    if not 2 <= len(runs) <= len(LETTERS):
        raise UserError(f"hflm compare takes 2 to {len(LETTERS)} run folders, not {len(runs)}.")
    twice = [str(run) for run, count in Counter(run.resolve() for run in runs).items() if count > 1]
    if twice:
        raise UserError(f"{twice[0]} is given twice. Give each run once.")
    names = dict(zip(LETTERS, _names(runs), strict=False))
    found = [results.read(run / "benchmark" / "results.json") for run in runs]
    notes, compared = [], {}
    for task in _shared(names, found, tasks):
        asked = [one.tasks[task] for one in found]
        rows = [
            _rows(run / "benchmark" / "predictions" / f"{task}.jsonl", one.kind == TEXT)
            for run, one in zip(runs, asked, strict=True)
        ]
        comparison = _task(task, list(names), asked, rows, notes, resamples, seed)
        if comparison is not None:
            compared[task] = comparison
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if not compared:
        raise UserError("nothing can be compared: the runs share no metric on any row.")
    return Comparison(names, compared, tuple(notes), resamples, seed)


def _names(runs):
    """The shortest last parts of the paths that tell the runs apart: a/x/1, b/x/1 -> a/x/1, b/x/1; a, b -> a, b."""
    parts = [run.resolve().parts for run in runs]
    length = 1
    while len({path[-length:] for path in parts}) < len(parts):
        length += 1
    return ["/".join(path[-length:]) for path in parts]


def _shared(names, found, asked):
    shared = [task for task in found[0].tasks if all(task in one.tasks for one in found)]
    if unknown := [task for task in asked if task not in shared]:
        raise UserError(f"task {unknown[0]} is not in every run. The runs share: {', '.join(shared) or 'none'}.")
    if not shared:
        told = [f"  {name}: {', '.join(one.tasks) or 'none'}" for name, one in zip(names.values(), found, strict=True)]
        raise UserError("\n".join(["the runs share no task. Their tasks are", *told]))
    return [task for task in shared if task in asked or not asked]


def _rows(path, is_text):
    """The rows of a predictions file by (id, position among equal ids); UserError names the file and line."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run the benchmark again: it writes the predictions.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    rows, seen = {}, Counter()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from None
        if wrong := _wrong(row, is_text):
            raise UserError(f"{path}:{number}: not a line of predictions: {wrong}")
        rows[row["id"], seen[row["id"]]] = row
        seen[row["id"]] += 1
    return rows


def _wrong(row, is_text):
    """What is wrong with one line of predictions, or None."""
    if not isinstance(row, dict):
        return "it is no JSON object"
    kinds = {"nats": (int, float), "tokens": int, "bytes": int} if is_text else {"prompt": str, "prediction": str}
    for key, kind in {"id": str, **kinds}.items():
        if not isinstance(row.get(key), kind):
            return f"{key} is missing" if key not in row else f"{key} cannot be {json.dumps(row[key])[:60]}"
    if is_text:
        fit = math.isfinite(row["nats"]) and row["tokens"] > 0 and row["bytes"] >= 0
        return None if fit else "nats must be finite, tokens above 0 and bytes not below"
    references = row.get("references")
    if not isinstance(references, list) or not references or not all(isinstance(text, str) for text in references):
        return "references must be a list of texts"
    return None if isinstance(row.get("log_likelihoods", {}), dict) else "log_likelihoods must be an object"


def _task(task, letters, asked, rows, notes, resamples, seed):
    """The TaskComparison of one task, or None when no metric or row is shared; appends to `notes`."""
    first = asked[0]
    names = [name for name in dict.fromkeys([*first.main(), *first.metrics]) if all(name in a.metrics for a in asked)]
    if "bertscore" in names:  # its encoder is not kept with the run
        names.remove("bertscore")
        notes.append(f"{task}: bertscore is not compared")
    keys = [key for key in rows[0] if all(key in one for one in rows)]
    left_out = len(set().union(*rows)) - len(keys)
    if not names or not keys:
        notes.append(f"{task}: not compared, the runs share no {'row' if names else 'metric'}")
        return None
    if left_out:
        notes.append(f"{task}: {left_out:,} rows are left out, not every run has them; {len(keys):,} are compared")
    rows = [[one[key] for key in keys] for one in rows]
    is_text = first.kind == TEXT
    _check_same_rows(task, letters, rows, is_text)
    kinds, statistics = _measured(names, rows, is_text)
    _note_differences(task, letters, asked, names, notes)
    if is_text and len({tuple(row["tokens"] for row in one) for one in rows}) > 1:
        notes.append(f"{task}: the tokenizers differ, and perplexity is per token: compare bits_per_byte")
    values = [paired.values_of(kinds, [array.sum(axis=0, keepdims=True) for array in arrays]) for arrays in statistics]
    if not left_out:
        _note_recorded(task, letters, asked, names, values, notes)

    intervals = paired.differences(kinds, statistics, resamples, seed)
    p = [paired.p_values(kinds, statistics[0], arrays, resamples, seed) for arrays in statistics[1:]]
    adjusted = {name: paired.holm([each[name] for each in p]) for name in names}
    main = names[0]
    # A window may spell less than one byte; its perplexity is fine.
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = [
            next(kind.each(array)[main] for kind, array in zip(kinds, arrays, strict=True) if main in kind.NAMES)
            for arrays in statistics
        ]
    pairs = []
    for number, letter in enumerate(letters[1:], 1):
        differences = {}
        for name in names:
            reference, value = float(values[0][name][0]), float(values[number][name][0])
            difference = value - reference
            differences[name] = Difference(
                reference,
                value,
                difference,
                metrics.interval(intervals[number - 1][name], difference),
                p[number - 1][name],
                adjusted[name][number - 1] if len(letters) > 2 else None,
            )
        pairs.append(_pair(letter, differences, main, rows[0], rows[number], scores[0], scores[number]))
    return TaskComparison(len(keys), left_out, main, tuple(pairs))


def _check_same_rows(task, letters, rows, is_text):
    key = "bytes" if is_text else "references"
    for letter, one in zip(letters[1:], rows[1:], strict=True):
        for row, other in zip(rows[0], one, strict=True):
            if row[key] == other[key]:
                continue
            told = f"{task}, id {row['id']}: {key} are {_short(row[key])} in A and {_short(other[key])} in {letter}"
            why = (
                "the runs scored other text, or cut it into other windows"
                if is_text
                else "the runs answered different rows"
            )
            raise UserError(f"{told}: {why}, so they cannot be paired. Name the other tasks with --task.")


def _short(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _measured(names, rows, is_text):
    """(metric objects, the statistics of each run, a list of arrays (n, k))."""
    if is_text:
        from hflm.evaluation.metrics.likelihood import LanguageModeling

        kind = LanguageModeling()
        columns = [[[row[key] for row in one] for key in ("nats", "tokens", "bytes")] for one in rows]
        return [kind], [[kind.statistics(*each)] for each in columns]
    # Labels that only one run may answer change no value of another: where neither expected nor said, they do not count.
    labels = list(dict.fromkeys(label for one in rows for row in one for label in row.get("log_likelihoods", ())))
    references = [tuple(row["references"]) for row in rows[0]]
    found = [
        metrics.measure(names, [row["prediction"] for row in one], references, labels=labels or None) for one in rows
    ]
    return found[0].metrics, [one.statistics for one in found]


def _note_differences(task, letters, asked, names, notes):
    for what in ("prompt_hash", "decoding", "data"):
        if len({getattr(one, what) for one in asked}) > 1:
            told = ", ".join(
                f"{letter} {redact(getattr(one, what))}" for letter, one in zip(letters, asked, strict=True)
            )
            notes.append(f"{task}: the prompts differ" if what == "prompt_hash" else f"{task}: {what} differs: {told}")
    for name in names:
        signatures = [one.metrics[name].signature for one in asked]
        if len(set(signatures)) > 1:
            told = "; ".join(f"{letter} {signature}" for letter, signature in zip(letters, signatures, strict=True))
            notes.append(f"{task}: {name} was computed in different ways ({told}); here it is computed in one way")


def _note_recorded(task, letters, asked, names, values, notes):
    for letter, one, value in zip(letters, asked, values, strict=True):
        recorded = {name: one.metrics[name].value for name in names}
        computed = {name: float(value[name][0]) for name in names}
        odd = [name for name in names if not math.isclose(recorded[name], computed[name], rel_tol=1e-6, abs_tol=1e-9)]
        if odd:
            told = ", ".join(f"{name} {results.number(name, computed[name])}" for name in odd)
            before = ", ".join(results.number(name, recorded[name]) for name in odd)
            notes.append(
                f"{task}: the predictions of {letter} give {told}, but its results.json says {before}: "
                "a file was changed, or a metric was"
            )


def _pair(letter, differences, main, first, second, scores, others):
    gain = scores - others if main in results.LOWER_IS_BETTER else others - scores

    def change(number):
        pair = first[number], second[number]
        return Change(
            pair[0]["id"],
            tuple(pair[0].get("references", ())),
            tuple(row.get("prompt", "") for row in pair),
            tuple(row.get("prediction", "") for row in pair),
            (float(scores[number]), float(others[number])),
        )

    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    improved = [change(number) for number in np.argsort(-gain, kind="stable")[: min(better, MOST_CHANGES)]]
    worsened = [change(number) for number in np.argsort(gain, kind="stable")[: min(worse, MOST_CHANGES)]]
    return Pair(letter, differences, better, worse, len(gain) - better - worse, tuple(improved), tuple(worsened))
