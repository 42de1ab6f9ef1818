"""The results of a benchmark, as frozen dataclasses and as results.json.

    {"schema_version": 1, "model": "runs/quickstart",
     "tasks": {"sentiment": {"kind": "sentiment", "n": 872,
                             "metrics": {"accuracy": {"value": 0.83, "ci95": [0.80, 0.85], "signature": "..."}},
                             "baselines": {"majority": {"accuracy": 0.51}}, ...}}}

It also holds the units of each metric and the main metrics of each kind of task, for terminal, model card and plots.
"""

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hflm.core import UserError, atomic_write_text, fingerprint_model, plain_text
from hflm.recipe import LOWER_IS_BETTER, kind_metrics

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from rich.table import Table

SCHEMA_VERSION = 1

MAIN = {
    "translation": ("bleu", "chrf"),
    "summarization": ("rouge1", "rougeL"),
    "sentiment": ("accuracy", "macro_f1"),
    "choice": ("accuracy", "macro_f1"),
    "qa": ("f1", "exact_match"),
    "chat": ("rougeL", "perplexity"),
    "language_modeling": ("perplexity", "bits_per_byte"),
}
UNITS = {
    "accuracy": "0 to 1",
    "macro_f1": "0 to 1",
    "mcc": "-1 to 1",
    "perplexity": "per token",
    "bits_per_byte": "bits per byte",
}  # every other metric runs from 0 to 100


@dataclass(frozen=True)
class Score:
    """One metric over a whole task, with its 95 % interval; `signature` names exactly how it was computed."""

    value: float
    ci95: tuple[float, float]
    signature: str


@dataclass(frozen=True)
class Bin:
    """The answers whose confidence is above `low` and at most `high`: their number, mean confidence and accuracy.

    All but `count` run from 0 to 1.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far a model's confidence is from its accuracy (`metrics.calibration`); `bins` are those with answers."""

    expected_calibration_error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Slice:
    """One metric over `n` rows of a task: those whose `by` ("label", "answer", "prompt length") is `name`."""

    by: str
    name: str
    n: int
    metric: str
    score: Score


@dataclass(frozen=True)
class Contamination:
    """How much of a task occurs in the training text (hflm.evaluation.contamination), and its scores without that.

    Of `n` examples (`of: "examples"`) or lines of one running text (`of: "lines"`), `contaminated` have `words` words in
    a row in common with the text that the stages `against` ("pretrain", "finetune") read, and `near_copies` have 40 %
    of their words in such runs; `overlap` is the mean fraction of such words, 0 to 1. `short_copies` more are shorter
    than that and occur there as a whole. `clean` are the scores of the examples that are neither, empty where fewer
    than ten are left or the parts are lines.
    """

    of: str
    n: int
    words: int
    contaminated: int
    near_copies: int
    overlap: float
    against: tuple[str, ...]
    clean: dict[str, Score]
    short_copies: int = 0

    @property
    def fraction(self) -> float:
        return self.contaminated / self.n


@dataclass(frozen=True)
class TaskResult:
    """One task of a benchmark.

    `data` is where the rows were read ("toy sentiment [test]"), `n` how many were scored, `truncated` how many of
    them were cut to fit the model, `skipped` how many unusable rows were left out; `baselines` maps a baseline's
    name to its metrics. With the metrics' signatures, `prompt_hash`, `data_fingerprint`, `decoding`, `shots` and
    `model_revision` define exactly what was measured. Tasks that choose among labels have a `calibration`; `slices` are
    scores of parts of the rows; `contamination` is None where no training text is known; `clusters` is how many groups of
    rows the intervals resample, None where each row is a draw of its own.
    """

    kind: str
    n: int
    metrics: dict[str, Score]
    baselines: dict[str, dict[str, float]]
    data: str
    prompt_hash: str
    decoding: str
    truncated: int
    skipped: int
    shots: int = 0
    data_fingerprint: str | None = None
    model_revision: str | None = None
    calibration: Calibration | None = None
    slices: tuple[Slice, ...] = ()
    contamination: Contamination | None = None
    clusters: int | None = None

    def main(self) -> tuple[str, ...]:
        """The main metrics of this task, best known first: those of MAIN that it has, else its first."""
        return main_metrics(self.kind, self.metrics)

    def shown(self) -> tuple[str, ...]:
        """The metrics in the terminal's table and the plot: the main ones, or all where the recipe chose them."""
        chosen = set(self.metrics) != set(kind_metrics(self.kind))
        return tuple(dict.fromkeys([*self.main(), *self.metrics])) if chosen else self.main()


def main_metrics(kind: str, metrics: Iterable[str]) -> tuple[str, ...]:
    """The main ones of `metrics` (names, in order) for a task of this kind.

    >>> main_metrics("sentiment", ["mcc", "accuracy"]), main_metrics("generation", ["rougeL", "chrf"])
    (('accuracy',), ('rougeL',))
    """
    metrics = tuple(metrics)
    return tuple(name for name in MAIN.get(kind, ()) if name in metrics) or metrics[:1]


@dataclass(frozen=True)
class Results:
    """A whole benchmark: `model` is what the user asked for, `tasks` are in the recipe's order."""

    model: str
    tasks: dict[str, TaskResult]


@functools.cache
def _adapter() -> "TypeAdapter[Results]":
    from pydantic import TypeAdapter

    return TypeAdapter(Results)


def write_results(results: Results, path: str | Path) -> None:
    """Write `results` to `path`, whole or not at all. A value that is not finite is a bug of ours: ValueError."""
    for name, task in results.tasks.items():
        for metric, score in task.metrics.items():
            if not all(map(math.isfinite, (score.value, *score.ci95))):
                raise ValueError(f"{name}: {metric} is not a finite number: {score}")
    content = {"schema_version": SCHEMA_VERSION, **asdict(results)}
    atomic_write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_results(path: str | Path) -> Results:
    """The benchmark in the results.json at `path`; UserError if it is not one, or has another schema version.

    Files of an earlier hflm may lack the fields that have a default.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_finite)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. A benchmark (`hflm run` or `hflm bench`) writes it.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a results.json: {error}") from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise UserError(f"{path}: not a results.json: it has no schema_version.")
    if content["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version is {content['schema_version']!r}, this hflm reads {SCHEMA_VERSION}. "
            "Run the benchmark again, or use the hflm that wrote the file."
        )
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a results.json: {place}: {first['msg']}") from None


def _not_finite(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def format_value(metric: str, value: float) -> str:
    """`value` with as many digits as its metric warrants.

    >>> format_value("accuracy", 0.83456), format_value("bleu", 31.27), format_value("perplexity", 12.345)
    ('0.835', '31.3', '12.35')
    """
    if metric == "perplexity":
        return f"{value:,.2f}"
    return f"{value:.3f}" if metric in UNITS else f"{value:.1f}"


def format_interval(metric: str, score: Score) -> str:
    """A score's 95 % interval: `format_interval("accuracy", Score(0.83, (0.8, 0.85), ""))` -> '0.800 to 0.850'."""
    return f"{format_value(metric, score.ci95[0])} to {format_value(metric, score.ci95[1])}"


def format_baselines(task: TaskResult, metric: str) -> str:
    """The baselines' values of `metric`: 'majority 0.510, random 0.498', or '' if none has it."""
    return ", ".join(
        f"{name} {format_value(metric, values[metric])}" for name, values in task.baselines.items() if metric in values
    )


def describe_clusters(task: TaskResult) -> str | None:
    """What the intervals resample where that is not rows, or None."""
    if task.clusters is None:
        return None
    return (
        f"the intervals resample the {task.clusters:,} clusters of the {task.n:,} rows, which are no independent draws"
    )


def unbeaten_baselines(task: TaskResult) -> list[str]:
    """Which main scores are no better than a baseline's: 'accuracy 0.501 is not above majority 0.510'."""
    found = []
    for metric in task.main():
        lower = metric in LOWER_IS_BETTER
        value = task.metrics[metric].value
        rivals = {name: values[metric] for name, values in task.baselines.items() if metric in values}
        if not rivals:
            continue
        best = (min if lower else max)(rivals, key=lambda name: rivals[name])
        if value >= rivals[best] if lower else value <= rivals[best]:
            side = "below" if lower else "above"
            values = format_value(metric, value), format_value(metric, rivals[best])
            found.append(f"{metric} {values[0]} is not {side} the baseline {best}, {values[1]}")
    return found


def tasks_of_other_weights(run: Path, found: Results) -> tuple[str, ...]:
    """The tasks of a run's results that were measured on other weights than those in its model/, or on unknown ones.

    A run without model/ measured a model that is elsewhere: none of its tasks.
    """
    if not found.tasks or not (run / "model" / "config.json").is_file():
        return ()
    weights = fingerprint_model(run)
    return tuple(name for name, task in found.tasks.items() if task.model_revision != weights)


def results_table(results: Results) -> "Table":
    """The terminal's summary: metrics, intervals and baselines; below them what is contaminated or below a baseline."""
    from rich.table import Table

    table = Table()
    for heading in ("task", "n", "metric", "value", "95 % interval", "baselines"):
        table.add_column(heading, justify="right" if heading in ("n", "value", "95 % interval") else "left")
    for name, task in results.tasks.items():
        for row, metric in enumerate(task.shown()):
            score = task.metrics[metric]
            first = ("", "") if row else (name, f"{task.n:,}")
            values = (format_value(metric, score.value), format_interval(metric, score), format_baselines(task, metric))
            table.add_row(*map(plain_text, (*first, metric, *values)))
    contaminated = [line for name, task in results.tasks.items() if (line := _format_contamination(name, task))]
    notes = ["Contaminated by training text, and the scores without that:", *contaminated] if contaminated else []
    for name, task in results.tasks.items():
        notes += [f"{name}: {line}" for line in unbeaten_baselines(task)]
        notes += [f"{name}: {line}" for line in [describe_clusters(task)] if line]
    if notes:
        table.caption = plain_text("\n".join(notes))
        table.caption_justify = "left"
    return table


def _format_contamination(name: str, task: TaskResult) -> str:
    """'summarization: 45.0 % of 400 examples; clean: rouge1 31.2, rougeL 28.0', or '' where nothing is contaminated."""
    check = task.contamination
    if check is None or not check.contaminated + check.short_copies:
        return ""
    short = f", {check.short_copies:,} shorter ones as a whole" if check.short_copies else ""
    clean = ", ".join(
        f"{metric} {format_value(metric, check.clean[metric].value)}"
        for metric in task.shown()
        if metric in check.clean
    )
    return f"{name}: {100 * check.fraction:.1f} % of {check.n:,} {check.of}{short}" + (
        f"; clean: {clean}" if clean else ""
    )
