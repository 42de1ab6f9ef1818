"""Accuracy, macro F1 and Matthews correlation over labels written as words, with scikit-learn's definitions.

They are computed from summed counts, which scikit-learn's functions do not take. A prediction outside the labels is
wrong, whatever it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hflm.core import DataError
from hflm.evaluation.metrics.summed import References, SummedMetric, Values


class _Classification(SummedMetric):
    """`labels` are the allowed words; None takes those that the references hold."""

    AS_SKLEARN = ""

    def __init__(self, labels: Sequence[str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.labels = labels

    def statistics(self, predictions: Sequence[str], references: Sequence[References]) -> np.ndarray:
        """(n, 3L + 1) for L labels: right, expected and predicted in one-hot form, the last for any other word."""
        expected = [refs[0] for refs in references]
        labels = sorted(set(expected)) if self.labels is None else list(self.labels)
        if unknown := sorted(set(expected) - set(labels)):
            raise DataError(f"references outside the labels {labels}: {unknown[:10]}")
        position = {label: i for i, label in enumerate(labels)}
        truth = np.array([position[word] for word in expected])
        guess = np.array([position.get(word, len(labels)) for word in predictions])
        statistics = np.zeros((len(expected), 3 * len(labels) + 1))
        rows = np.arange(len(expected))
        statistics[rows, truth] = truth == guess
        statistics[rows, len(labels) + truth] = 1
        statistics[rows, 2 * len(labels) + guess] = 1
        self.signature = f"{self.AS_SKLEARN}, {len(labels)} labels"
        return statistics

    def aggregate(self, sums: np.ndarray) -> Values:
        count = (sums.shape[1] - 1) // 3
        return {self.NAMES[0]: self._value(sums[:, :count], sums[:, count : 2 * count], sums[:, 2 * count :])}

    def _value(self, right: np.ndarray, expected: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """The metric (R,) of counts by label: (R, L), (R, L) and, with one column for other words, (R, L + 1)."""
        raise NotImplementedError


class Accuracy(_Classification):
    """The fraction of right predictions."""

    NAMES = ("accuracy",)
    DESCRIPTION = "Accuracy, 0 to 1."
    AS_SKLEARN = "scikit-learn's accuracy_score"

    def _value(self, right: np.ndarray, expected: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return right.sum(axis=1) / expected.sum(axis=1)


class MacroF1(_Classification):
    """The mean of F1 = 2 right / (expected + predicted) over the labels that are expected or predicted at all."""

    NAMES = ("macro_f1",)
    DESCRIPTION = "Macro-averaged F1, 0 to 1."
    AS_SKLEARN = "scikit-learn's f1_score(average='macro')"

    def _value(self, right: np.ndarray, expected: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        either = expected + predicted[:, :-1]
        f1 = np.divide(2 * right, either, out=np.zeros_like(right), where=either > 0)
        return f1.sum(axis=1) / (either > 0).sum(axis=1)


class Mcc(_Classification):
    """Matthews correlation for any number of labels (Gorodkin 2004); 0 where one label is all there is.

    (c n - t . p) / sqrt((n^2 - p . p)(n^2 - t . t)), for c right of n, t expected and p predicted a label.
    """

    NAMES = ("mcc",)
    DESCRIPTION = "Matthews correlation coefficient, -1 to 1."
    AS_SKLEARN = "scikit-learn's matthews_corrcoef"

    def _value(self, right: np.ndarray, expected: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        n = expected.sum(axis=1)
        covariance = right.sum(axis=1) * n - (expected * predicted[:, :-1]).sum(axis=1)
        spread = np.sqrt((n**2 - (predicted**2).sum(axis=1)) * (n**2 - (expected**2).sum(axis=1)))
        return np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)
