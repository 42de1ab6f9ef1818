"""Measure texts by named metrics: scores with intervals, and values of each example."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from hflm.core import DataError, ModelError
from hflm.evaluation.metrics.bootstrap import interval, resampled_sums, sum_clusters
from hflm.evaluation.results import Score

if TYPE_CHECKING:
    from hflm.evaluation.metrics.summed import References, SummedMetric

# By module, the class of each metric. A module is imported when one of its metrics is asked for: rouge-score imports
# nltk, which takes longer than many a benchmark.
CLASSES = {
    "translation": {"bleu": "Bleu", "chrf": "ChrF", "ter": "Ter"},
    "classification": {"accuracy": "Accuracy", "macro_f1": "MacroF1", "mcc": "Mcc"},
    "qa": {"exact_match": "Squad", "f1": "Squad"},
    "summarization": dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), "Rouge"),
    "bertscore": {"bertscore": "BertScore"},
}


NOT_FINITE = "the model's likelihoods are not finite numbers: it diverged in training, or its dtype overflows"


@dataclass(frozen=True)
class Measured:
    """The texts of n examples, read once by the named metrics: from their statistics come all values below.

    `statistics` holds one array (n, k) for each of `metrics`, the objects that the names need. `clusters` (n,): whole
    clusters of rows are resampled, see bootstrap.sum_clusters.
    """

    names: tuple[str, ...]
    metrics: "tuple[SummedMetric, ...]"
    statistics: tuple[np.ndarray, ...]
    clusters: np.ndarray | None = None

    def scores(self, rows: Any = None, *, resamples: int = 1000, seed: int = 0) -> dict[str, Score]:
        """{name: Score} with 95 % percentile-bootstrap intervals, over all examples or those at the indices `rows`.

        The same number of rows and seed give the same resamples. A part of the examples is scored as the whole is:
        with the same tokenizer and labels.
        """
        statistics = [array if rows is None else array[rows] for array in self.statistics]
        clusters = self.clusters if self.clusters is None or rows is None else self.clusters[rows]
        return _scores(self.names, self.metrics, statistics, resamples, seed, clusters)

    def each(self) -> dict[str, list[float]]:
        """The value of each metric on each example alone, n numbers a metric (BLEU with effective n-gram order)."""
        found = {}
        for metric, array in zip(self.metrics, self.statistics, strict=True):
            found |= {name: values.tolist() for name, values in metric.each(array).items()}
        return {name: found[name] for name in self.names}


def measure(
    names: Iterable[str],
    predictions: "Sequence[str]",
    references: "Sequence[References]",
    *,
    labels: Sequence[str] | None = None,
    bertscore_model: str | None = None,
    language: str | None = None,
    clusters: Sequence[str] | None = None,
) -> Measured:
    """Read n predictions and their references. DataError when there are none, or no metric is called so.

    `labels` are the allowed words of the classification metrics (None: those found in the references),
    `bertscore_model` is the folder of bertscore's encoder, `language` that of exact match and F1 (see `qa`). `clusters`
    names the cluster of each row, for the intervals.

    >>> measure(["accuracy"], ["good", "bad"], [("good",), ("good",)]).each()
    {'accuracy': [1.0, 0.0]}
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if not len(predictions):
        raise DataError("there are no predictions to score")
    names = tuple(names)
    metrics = _metrics(names, labels, bertscore_model, language)
    statistics = tuple(metric.statistics(predictions, references) for metric in metrics)
    numbered = None if clusters is None else np.unique(np.array(clusters), return_inverse=True)[1]
    return Measured(names, tuple(metrics), statistics, numbered)


def measure_all(
    names: Iterable[str],
    predictions: "Sequence[str]",
    references: "Sequence[References]",
    likelihood: np.ndarray | None = None,
    clusters: Sequence[str] | None = None,
    **options: Any,
) -> Measured:
    """`measure`, where some of the names may be perplexity and bits_per_byte.

    likelihood: (nats, tokens, bytes) of each example (n, 3); None where no such metric is named.
    """
    if likelihood is None:
        return measure(names, predictions, references, clusters=clusters, **options)
    from hflm.evaluation.metrics.likelihood import LanguageModeling

    names, metric = tuple(names), LanguageModeling()
    texts = [name for name in names if name not in metric.NAMES]
    found = measure(texts, predictions, references, **options) if texts else Measured((), (), ())
    statistics = metric.statistics(*likelihood.T)
    if not np.isfinite(statistics).all():
        raise ModelError(NOT_FINITE)
    numbered = None if clusters is None else np.unique(np.array(clusters), return_inverse=True)[1]
    return Measured(names, (*found.metrics, metric), (*found.statistics, statistics), numbered)


def score(
    names: Iterable[str],
    predictions: "Sequence[str]",
    references: "Sequence[References]",
    *,
    resamples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> dict[str, Score]:
    """`measure` and its scores, for those who need nothing else.

    >>> score(["accuracy"], ["good", "bad"], [("good",), ("good",)])["accuracy"].value
    0.5
    """
    return measure(names, predictions, references, **options).scores(resamples=resamples, seed=seed)


def language_modeling(nats: Any, tokens: Any, bytes: Any, *, resamples: int = 1000, seed: int = 0) -> dict[str, Score]:
    """perplexity and bits_per_byte of documents or windows, with intervals from resampling them.

    Three arrays (n,): the summed negative log-likelihood in nats, the predicted tokens, their UTF-8 bytes.
    Raises DataError when there is nothing to score, ModelError for likelihoods that are not finite.
    """
    from hflm.evaluation.metrics.likelihood import LanguageModeling

    if not len(nats):
        raise DataError("there is no text to score")
    if not np.isfinite(nats).all():
        raise ModelError(NOT_FINITE)
    metric = LanguageModeling()
    return _scores(metric.NAMES, [metric], [metric.statistics(nats, tokens, bytes)], resamples, seed)


def _metrics(
    names: Sequence[str], labels: Sequence[str] | None, bertscore_model: str | None, language: str | None
) -> "list[SummedMetric]":
    """One metric object for each class that the names need."""
    known = [name for classes in CLASSES.values() for name in classes]
    if not names or set(names) - set(known):
        missing = ", ".join(sorted(set(names) - set(known)))
        raise DataError(f"no metric is called {missing}; there are {', '.join(known)}")
    options: dict[str, dict[str, Any]] = {
        "classification": {"labels": labels},
        "qa": {"language": language},
        "summarization": {"types": [name for name in CLASSES["summarization"] if name in names]},
        "bertscore": {"model": bertscore_model},
    }
    metrics: list[SummedMetric] = []
    for module, classes in CLASSES.items():
        if needed := dict.fromkeys(classes[name] for name in classes if name in names):
            imported = import_module(f"hflm.evaluation.metrics.{module}")
            metrics += [getattr(imported, each)(**options.get(module, {})) for each in needed]
    return metrics


def _scores(
    names: Sequence[str],
    metrics: "Sequence[SummedMetric]",
    statistics: Sequence[np.ndarray],
    resamples: int,
    seed: int,
    clusters: np.ndarray | None = None,
) -> dict[str, Score]:
    # One set of resamples for all metrics, side by side.
    sums = resampled_sums(sum_clusters(np.hstack(statistics), clusters), resamples, seed)
    ends = np.cumsum([array.shape[1] for array in statistics])[:-1]
    scores = {}
    for metric, array, resampled in zip(metrics, statistics, np.split(sums, ends, axis=1), strict=True):
        values, intervals = metric.aggregate(array.sum(axis=0, keepdims=True)), metric.aggregate(resampled)
        for name in metric.NAMES:
            value = float(values[name][0])
            scores[name] = Score(value, interval(intervals[name], value), metric.signature)
    return {name: scores[name] for name in names}
