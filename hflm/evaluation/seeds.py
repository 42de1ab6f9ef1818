"""Scores over several seeds: their mean, their spread, and differences judged against the luck of training."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The scores of `n` seeds: mean, standard deviation, and the 95 % interval of the mean (Student's t).

    `sd` and `ci95` are None for one score.
    """

    n: int
    mean: float
    sd: float | None
    low: float
    high: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class SeedDifference:
    """The difference of two means, its 95 % interval and two-sided p by Welch's t-test, None where they are unknown."""

    difference: float
    ci95: tuple[float, float] | None
    p: float | None


def spread(values: Sequence[float]) -> Spread:
    """The Spread of at least one score.

    >>> spread([0.5, 0.6, 0.7]).mean, spread([0.5]).ci95
    (0.6, None)
    """
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Spread(1, mean, None, values[0], values[0], None)
    from scipy.stats import t

    sd = statistics.stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
    return Spread(len(values), mean, sd, min(values), max(values), (mean - half, mean + half))


def seed_difference(reference: Sequence[float], values: Sequence[float]) -> SeedDifference:
    """`values` less `reference`, the scores of two recipes over their seeds (Welch 1947).

    Where all scores of a side are equal, or it has one only, training's luck is unknown.
    """
    difference = statistics.fmean(values) - statistics.fmean(reference)
    if min(len(reference), len(values)) < 2 or statistics.pvariance(reference) + statistics.pvariance(values) == 0:
        return SeedDifference(difference, None, None)
    from scipy.stats import ttest_ind

    test: Any = ttest_ind(values, reference, equal_var=False)
    interval = test.confidence_interval(0.95)
    return SeedDifference(difference, (float(interval.low), float(interval.high)), float(test.pvalue))
