"""What a benchmark found, as frozen dataclasses and as results.json.

    {"schema_version": 1, "model": "runs/quickstart",
     "tasks": {"sentiment": {"kind": "sentiment", "n": 872,
                             "metrics": {"accuracy": {"value": 0.83, "ci95": [0.80, 0.85], "signature": "..."}},
                             "baselines": {"majority": {"accuracy": 0.51}}, ...}}}

The units of each metric, and which of them come first, stand here too: the terminal, the model card and its
pictures all read them.
"""

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path

from hflm.core import UserError, atomic_write_text

SCHEMA_VERSION = 1

MAIN = {
    "translation": ("bleu", "chrf"),
    "summarization": ("rouge1", "rougeL"),
    "sentiment": ("accuracy", "macro_f1"),
    "choice": ("accuracy", "macro_f1"),
    "qa": ("f1", "exact_match"),
    "language_modeling": ("perplexity", "bits_per_byte"),
}
LOWER_IS_BETTER = {"ter", "perplexity", "bits_per_byte"}
UNITS = {
    "accuracy": "0 to 1",
    "macro_f1": "0 to 1",
    "mcc": "-1 to 1",
    "perplexity": "per token",
    "bits_per_byte": "bits per byte",
}  # every other metric runs from 0 to 100


@dataclass(frozen=True)
class Score:
    """One metric over a whole task, with its 95 % interval; `signature` says exactly how it was computed."""

    value: float
    ci95: tuple[float, float]
    signature: str


@dataclass(frozen=True)
class Bin:
    """The answers whose confidence is above `low` and at most `high`: how many, their mean confidence, how many right.

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
    """How much of a task stood in the training text (hflm.evaluation.contamination), and its scores without that.

    Of `n` examples (`of: "examples"`) or lines of one running text (`of: "lines"`), `contaminated` share `words` words
    in a row with the text that the stages `against` ("pretrain", "finetune") read, and `near_copies` have 40 %
    of their words there; `overlap` is the mean share of such words, 0 to 1. `clean` are the scores of the other examples,
    empty where fewer than ten are left or the parts are lines.
    """

    of: str
    n: int
    words: int
    contaminated: int
    near_copies: int
    overlap: float
    against: tuple[str, ...]
    clean: dict[str, Score]

    @property
    def share(self):
        return self.contaminated / self.n


@dataclass(frozen=True)
class TaskResult:
    """One task of a benchmark.

    `data` is where the rows were read ("toy sentiment [test]"), `n` how many were scored, `truncated` how many of
    them were cut to fit the model, `skipped` how many unusable rows were left out; `baselines` maps a baseline's
    name to its metrics. With the metrics' signatures, `prompt_hash`, `data_fingerprint`, `decoding`, `shots` and
    `model_revision` say what exactly was measured. Tasks that choose among labels have a `calibration`; `slices` are
    parts of the rows, scored alone; `contamination` is None where no training text is known.
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

    def main(self):
        """The metrics that speak for this task, best known first: those of MAIN that it has, else its first.

        >>> TaskResult("sentiment", 2, {"mcc": s, "accuracy": s}, {}, "", "", "", 0, 0, 0.0).main()   # doctest: +SKIP
        ('accuracy',)
        """
        return main(self.kind, self.metrics)


def main(kind, metrics):
    """Those of `metrics` (names, in order) that speak for a task of this kind.

    >>> main("sentiment", ["mcc", "accuracy"]), main("generation", ["rougeL", "chrf"])
    (('accuracy',), ('rougeL',))
    """
    return tuple(name for name in MAIN.get(kind, ()) if name in metrics) or tuple(metrics)[:1]


@dataclass(frozen=True)
class Results:
    """A whole benchmark: `model` is what the user asked for, `tasks` are in the recipe's order."""

    model: str
    tasks: dict[str, TaskResult]


def write(results, path):
    """Write `results` to `path`, whole or not at all. A value that is not finite is a bug of ours: ValueError."""
    for name, task in results.tasks.items():
        for metric, score in task.metrics.items():
            if not all(map(math.isfinite, (score.value, *score.ci95))):
                raise ValueError(f"{name}: {metric} is not a finite number: {score}")
    shape = {"schema_version": SCHEMA_VERSION, **asdict(results)}
    atomic_write_text(path, json.dumps(shape, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read(path) -> Results:
    """The benchmark in the results.json at `path`; UserError when it is none, or of another schema version."""
    path = Path(path)
    try:
        shape = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_finite)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. A benchmark (`hflm run` or `hflm bench`) writes it.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a results.json: {error}") from None
    if not isinstance(shape, dict) or "schema_version" not in shape:
        raise UserError(f"{path}: not a results.json: it has no schema_version.")
    if shape["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version is {shape['schema_version']!r}, this hflm reads {SCHEMA_VERSION}. "
            "Run the benchmark again, or use the hflm that wrote the file."
        )
    try:
        return Results(shape["model"], {name: _task(task) for name, task in shape["tasks"].items()})
    except KeyError as error:
        raise UserError(f"{path}: not a results.json: {error.args[0]!r} is missing.") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a results.json: {error}") from None


def keep_only(tasks, path):
    """Leave `tasks` in results.json, in this order: a recipe may have lost some since they were measured."""
    found = read(path)
    write(replace(found, tasks={name: found.tasks[name] for name in tasks}), path)


def _task(shape):
    # Files of an earlier hflm lack the fields that have a default.
    known = {f.name: shape[f.name] for f in fields(TaskResult) if f.name in shape or f.default is MISSING}
    known["metrics"] = {metric: _score(score) for metric, score in shape["metrics"].items()}
    known["baselines"] = {
        name: {metric: float(value) for metric, value in baseline.items()}
        for name, baseline in shape["baselines"].items()
    }
    if calibration := shape.get("calibration"):
        bins = tuple(Bin(**each) for each in calibration["bins"])
        known["calibration"] = Calibration(float(calibration["expected_calibration_error"]), bins)
    if contamination := shape.get("contamination"):
        clean = {metric: _score(score) for metric, score in contamination["clean"].items()}
        contamination = {**contamination, "against": tuple(contamination["against"]), "clean": clean}
        known["contamination"] = Contamination(**contamination)
    known["slices"] = tuple(Slice(**{**each, "score": _score(each["score"])}) for each in shape.get("slices", ()))
    return TaskResult(**known)


def _score(shape):
    return Score(float(shape["value"]), tuple(map(float, shape["ci95"])), shape["signature"])


def _not_finite(constant):
    raise ValueError(f"{constant} is no JSON number")


def number(metric, value):
    """`value` with the digits that its metric deserves.

    >>> number("accuracy", 0.83456), number("bleu", 31.27), number("perplexity", 12.345)
    ('0.835', '31.3', '12.35')
    """
    if metric == "perplexity":
        return f"{value:,.2f}"
    return f"{value:.3f}" if metric in UNITS else f"{value:.1f}"


def interval(metric, score):
    """A score's 95 % interval: `interval("accuracy", Score(0.83, (0.8, 0.85), ""))` -> '0.800 to 0.850'."""
    return f"{number(metric, score.ci95[0])} to {number(metric, score.ci95[1])}"


def beside(task, metric):
    """What the baselines reach on `metric`: 'majority 0.510, random 0.498', or '' when none has it."""
    return ", ".join(
        f"{name} {number(metric, values[metric])}" for name, values in task.baselines.items() if metric in values
    )


def table(results):
    """The terminal's summary, a rich.table.Table: main metrics, interval, baselines; below them what is contaminated."""
    from rich.table import Table
    from rich.text import Text

    summary = Table()
    for heading, justify in [
        ("task", "left"),
        ("n", "right"),
        ("metric", "left"),
        ("value", "right"),
        ("95 % interval", "right"),
        ("baselines", "left"),
    ]:
        summary.add_column(heading, justify=justify)
    for name, task in results.tasks.items():
        for row, metric in enumerate(task.main()):
            score = task.metrics[metric]
            first = ("", "") if row else (name, f"{task.n:,}")
            cells = (*first, metric, number(metric, score.value), interval(metric, score), beside(task, metric))
            summary.add_row(*map(Text, cells))  # Text: a name with [brackets] is no markup
    found = [line for name, task in results.tasks.items() if (line := _contaminated(name, task))]
    summary.caption = (
        Text("\n".join(["Contaminated by training text, and the scores without those:", *found])) if found else None
    )
    summary.caption_justify = "left"
    return summary


def _contaminated(name, task):
    """'summarization: 45.0 % of 400 examples; clean: rouge1 31.2, rougeL 28.0', or '' where nothing is contaminated."""
    found = task.contamination
    if found is None or not found.contaminated:
        return ""
    clean = ", ".join(f"{metric} {number(metric, found.clean[metric].value)}" for metric in task.main() if found.clean)
    return f"{name}: {100 * found.share:.1f} % of {found.n:,} {found.of}" + (f"; clean: {clean}" if clean else "")
