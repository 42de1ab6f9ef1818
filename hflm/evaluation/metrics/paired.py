"""Two runs on the same examples: intervals of their difference, and p-values by approximate randomisation.

Both work on the summed statistics of any metric, so BLEU and accuracy go through the same lines.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hflm.evaluation.metrics.bootstrap import MAX_WEIGHTS, resampled_sums

if TYPE_CHECKING:
    from hflm.evaluation.metrics.summed import SummedMetric, Values

Arrays = Sequence[np.ndarray]  # the statistics (n, k) of a run, one array a metric


def values_of(kinds: "Sequence[SummedMetric]", sums: Arrays) -> "Values":
    """{name: values (R,)} of all metrics, for the sums (R, k) of each."""
    found = {}
    for kind, array in zip(kinds, sums, strict=True):
        found |= kind.aggregate(array)
    return found


def _split(arrays: Arrays, joined: np.ndarray) -> list[np.ndarray]:
    """`joined` (R, all k) cut into the columns of each metric, as `arrays` (n, k) has them."""
    return np.split(joined, np.cumsum([array.shape[1] for array in arrays])[:-1], axis=1)


def differences(
    kinds: "Sequence[SummedMetric]", statistics: Sequence[Arrays], resamples: int, seed: int
) -> "list[Values]":
    """Bootstrapped differences to the first of m runs: a list of m - 1 {name: values (resamples,)}.

    `kinds` are metric objects, `statistics` holds for each run a list of their arrays (n, k). A resample draws the
    same rows for every run (Efron & Tibshirani 1993, chapter 13; for BLEU: Koehn 2004).
    """
    sums = resampled_sums(np.hstack([np.hstack(arrays) for arrays in statistics]), resamples, seed)
    first, *others = [values_of(kinds, _split(statistics[0], own)) for own in np.split(sums, len(statistics), axis=1)]
    return [{name: values - first[name] for name, values in other.items()} for other in others]


def p_values(
    kinds: "Sequence[SummedMetric]", first: Arrays, second: Arrays, resamples: int, seed: int
) -> dict[str, float]:
    """Two-sided p of each metric's difference by paired approximate randomisation: {name: p}.

    `first` and `second` are lists of arrays (n, k), one a metric object. Each of R shufflings swaps the two systems'
    statistics of every row with probability 1/2; p = (c + 1) / (R + 1) for the c shufflings whose difference is at
    least as large as the real one (Noreen 1989, Riezler & Maxwell 2005; sacreBLEU's paired-ar, which does not count
    ties). Where many rows are equal, as in accuracy, ties are frequent, and without them the test finds too much.
    """
    one, other = np.hstack(first), np.hstack(second)
    total, change = (one + other).sum(axis=0), one - other
    changed = change[change.any(axis=1)]  # swapping equal rows changes nothing
    swapped = _signed_sums(changed, resamples, seed)

    def distance(sums: np.ndarray) -> "Values":
        left = values_of(kinds, _split(first, (total + sums) / 2))
        right = values_of(kinds, _split(first, (total - sums) / 2))
        return {name: np.abs(left[name] - right[name]) for name in left}

    real, shuffled = distance(change.sum(axis=0, keepdims=True)), distance(swapped)
    # The margin is for sums that are equal but for the order in which they were added.
    return {
        name: (int((values >= real[name] * (1 - 1e-9) - 1e-12).sum()) + 1) / (resamples + 1)
        for name, values in shuffled.items()
    }


def _signed_sums(change: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums of `change` (n, k) with a random sign for each row: (resamples, k)."""
    generator = np.random.default_rng(seed)
    step = max(1, MAX_WEIGHTS // max(1, len(change)))
    sums = []
    for start in range(0, resamples, step):
        drawn = generator.integers(2, size=(min(step, resamples - start), len(change)), dtype=np.int8)
        sums.append((2.0 * drawn - 1) @ change)
    return np.concatenate(sums)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in their order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.array(p)[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()
