"""How far a model's confidence in its labels is from its accuracy.

log-likelihoods (n, L) --softmax--> confidence in the chosen label (n,) --equal-width bins--> ECE
"""

from collections.abc import Sequence

import numpy as np

from hflm.core import DataError, ModelError
from hflm.evaluation.results import Bin, Calibration


def calibration(log_likelihoods: Sequence[Sequence[float]], right: Sequence[bool], bins: int = 15) -> Calibration:
    """The expected calibration error (Guo et al. 2017) of n answers chosen among L labels, and its bins.

    `log_likelihoods` (n, L) in nats, `right` (n,) whether the chosen label is the right one. The confidence is the
    largest probability of the softmax over the labels; a bin is above its lower edge and at most its upper one, and

        ECE = sum over bins of  count / n * |accuracy - mean confidence|        (0 to 1, lower is better)

    A few hundred rows leave few to a bin, which makes the error look larger than it is. Raises DataError without
    answers, ModelError for likelihoods that are not finite.

    >>> calibration([[0.0, 0.0], [0.0, 0.0]], [True, True], bins=2)
    Calibration(expected_calibration_error=0.5, bins=(Bin(low=0.0, high=0.5, count=2, confidence=0.5, accuracy=1.0),))
    """
    scores, correct = np.asarray(log_likelihoods, dtype=float), np.asarray(right, dtype=bool)
    if not len(correct):
        raise DataError("there are no answers to calibrate")
    if not np.isfinite(scores).all():
        raise ModelError(
            "the model's likelihoods are not finite numbers: it diverged in training, or its dtype overflows"
        )
    # The largest exponent is 0, so the largest probability is 1 / their sum.
    confidence = 1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges, confidence, side="left") - 1
    filled = tuple(
        Bin(
            low=float(edges[each]),
            high=float(edges[each + 1]),
            count=int((place == each).sum()),
            confidence=float(confidence[place == each].mean()),
            accuracy=float(correct[place == each].mean()),
        )
        for each in np.unique(place)
    )
    error = sum(each.count * abs(each.accuracy - each.confidence) for each in filled) / len(correct)
    return Calibration(error, filled)
