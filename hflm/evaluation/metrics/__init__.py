"""Metrics with 95 % intervals, each an `evaluate.Metric` that works without a network.

    predictions, references --statistics--> array (n, k) --sum--> (k,) --aggregate--> value
                                                --resampled_sums--> (R, k) --aggregate--> R values --> interval

| name | class | scale |
| --- | --- | --- |
| bleu, chrf, ter | translation.Bleu, ChrF, Ter | 0-100; ter: lower is better, may exceed 100 |
| rouge1, rouge2, rougeL, rougeLsum | summarization.Rouge | 0-100 |
| accuracy, macro_f1, mcc | classification.Accuracy, MacroF1, Mcc | 0-1, 0-1, -1 to 1 |
| exact_match, f1 | qa.Squad | 0-100 |
| bertscore | bertscore.BertScore | 0-100; needs the extra and a model's folder |
| perplexity, bits_per_byte | likelihood.LanguageModeling | from 1, from 0; lower is better |

The classes import evaluate (and with it torch: 10 s and more), so they are imported when something is scored.
"""

from dataclasses import dataclass

import numpy as np

from hflm.core import DataError, ModelError
from hflm.evaluation.results import Score

MOST_WEIGHTS = 4_000_000  # of one chunk of the bootstrap: 32 MB


@dataclass(frozen=True)
class Measured:
    """The texts of n examples, read once by the named metrics: from their statistics come all values below.

    `statistics` holds one array (n, k) for each of `metrics`, the objects that the names need.
    """

    names: tuple[str, ...]
    metrics: tuple
    statistics: tuple

    def scores(self, rows=None, *, resamples=1000, seed=0) -> dict[str, Score]:
        """{name: Score} with 95 % percentile-bootstrap intervals, over all examples or those at the indices `rows`.

        The same number of rows and seed give the same resamples. A part of the examples is scored as the whole is:
        with the same tokenizer and labels.
        """
        statistics = [array if rows is None else array[rows] for array in self.statistics]
        return _scores(self.names, self.metrics, statistics, resamples, seed)

    def each(self) -> dict[str, list[float]]:
        """The value of each metric on each example alone, n numbers a metric (BLEU with effective n-gram order)."""
        found = {}
        for metric, array in zip(self.metrics, self.statistics, strict=True):
            found |= {name: values.tolist() for name, values in metric.each(array).items()}
        return {name: found[name] for name in self.names}


def measure(
    names, predictions: list[str], references: list[tuple[str, ...]], *, labels=None, bertscore_model=None
) -> Measured:
    """Read n predictions and their references. DataError when there are none, or no metric is called so.

    `labels` are the allowed words of the classification metrics (None: those found in the references),
    `bertscore_model` is the folder of bertscore's encoder.

    >>> measure(["accuracy"], ["good", "bad"], [("good",), ("good",)]).each()
    {'accuracy': [1.0, 0.0]}
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if not len(predictions):
        raise DataError("there are no predictions to score")
    metrics = _metrics(names, labels, bertscore_model)
    statistics = tuple(metric.statistics(predictions, references) for metric in metrics)
    return Measured(tuple(names), tuple(metrics), statistics)


def score(names, predictions, references, *, resamples=1000, seed=0, **options) -> dict[str, Score]:
    """`measure` and its scores, for those who need nothing else.

    >>> score(["accuracy"], ["good", "bad"], [("good",), ("good",)])["accuracy"].value
    0.5
    """
    return measure(names, predictions, references, **options).scores(resamples=resamples, seed=seed)


def per_example(names, predictions, references, **options) -> dict[str, list[float]]:
    """`measure` and its value on each example alone."""
    return measure(names, predictions, references, **options).each()


def language_modeling(nats, tokens, bytes, *, resamples=1000, seed=0) -> dict[str, Score]:
    """perplexity and bits_per_byte of documents or windows, with intervals from resampling them.

    Three arrays (n,): the summed negative log-likelihood in nats, the predicted tokens, their UTF-8 bytes.
    Raises DataError when there is nothing to score, ModelError for likelihoods that are not finite.
    """
    from hflm.evaluation.metrics.likelihood import LanguageModeling

    if not len(nats):
        raise DataError("there is no text to score")
    if not np.isfinite(nats).all():
        raise ModelError(
            "the model's likelihoods are not finite numbers: it diverged in training, or its dtype overflows"
        )
    metric = LanguageModeling()
    return _scores(metric.NAMES, [metric], [metric.statistics(nats, tokens, bytes)], resamples, seed)


def resampled_sums(statistics, resamples, seed):
    """Sums of `statistics` (n, k) over bootstrap samples of the n examples: (resamples, k).

    Equal n and seed draw equal samples, so two systems on the same examples are resampled in pairs
    (Efron & Tibshirani 1993, chapter 13; for BLEU: Koehn 2004).
    """
    n = len(statistics)
    generator = np.random.default_rng(seed)
    step = max(1, MOST_WEIGHTS // n)
    sums = []
    for start in range(0, resamples, step):
        drawn = generator.integers(n, size=(min(step, resamples - start), n))
        weights = np.stack([np.bincount(row, minlength=n) for row in drawn])
        sums.append(weights.astype(float) @ statistics)
    return np.concatenate(sums)


def interval(values, value):
    """The 95 % percentile interval of bootstrapped `values`; (value, value) if they are all the same."""
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return (value, value) if np.isclose(low, high, rtol=1e-12, atol=1e-12) else (low, high)


def _metrics(names, labels, bertscore_model):
    """One metric object for each class that the names need."""
    from hflm.evaluation.metrics.classification import Accuracy, MacroF1, Mcc
    from hflm.evaluation.metrics.qa import Squad
    from hflm.evaluation.metrics.summarization import TYPES, Rouge
    from hflm.evaluation.metrics.translation import Bleu, ChrF, Ter

    known = [Bleu, ChrF, Ter, Accuracy, MacroF1, Mcc, Squad]
    metrics = [
        kind(labels=labels) if kind in (Accuracy, MacroF1, Mcc) else kind()
        for kind in known
        if set(kind.NAMES) & set(names)
    ]
    if types := [name for name in TYPES if name in names]:
        metrics.append(Rouge(types))
    if "bertscore" in names:
        from hflm.evaluation.metrics.bertscore import BertScore

        metrics.append(BertScore(bertscore_model))
    missing = set(names) - {name for metric in metrics for name in metric.NAMES}
    if missing:
        everything = [*(name for kind in [*known, Rouge] for name in kind.NAMES), "bertscore"]
        raise DataError(f"no metric is called {', '.join(sorted(missing))}; there are {', '.join(everything)}")
    return metrics


def _scores(names, metrics, statistics, resamples, seed):
    # One set of resamples for all metrics, side by side.
    sums = resampled_sums(np.hstack(statistics), resamples, seed)
    ends = np.cumsum([array.shape[1] for array in statistics])[:-1]
    scores = {}
    for metric, array, resampled in zip(metrics, statistics, np.split(sums, ends, axis=1), strict=True):
        values, intervals = metric.aggregate(array.sum(axis=0, keepdims=True)), metric.aggregate(resampled)
        for name in metric.NAMES:
            value = float(values[name][0])
            scores[name] = Score(value, interval(intervals[name], value), metric.signature)
    return {name: scores[name] for name in names}
