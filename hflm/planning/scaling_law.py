"""The loss of a family of models as a function of parameters and tokens, fitted to runs: L = E + A / N^alpha + B / D^beta.

Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3 and appendix D.3: their third approach, a Huber loss on log L from
several starts. The starts are the best of a grid of exponents, for which the other constants are linear.

N counts the parameters that a token passes in matrix products: the blocks and the output layer, which is the embedding
where they are tied, without a table of positions. So 6 N is about the FLOPs a token, for small models too, whose
vocabulary is a large part of them (Pearce & Song 2024, arXiv 2406.12907, on what leaving it out does to a fit).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hflm.models.architecture import Shape

HUBER = 1e-3  # Hoffmann et al.'s delta, of log L
FLOPS_PER_WEIGHT = 6  # of training, a token: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1
EXPONENTS = (0.02, 2.0)
GRID = np.geomspace(*EXPONENTS, 12)  # exponents to start from


@dataclass(frozen=True)
class ScalingLaw:
    """The five constants; losses are in nats per token."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """L(N, D).

        >>> ScalingLaw(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28).loss(70e9, 1.4e12)    # Chinchilla
        1.936...
        """
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) with the lowest loss of all that cost `flops` = 6 N D: the paper's equation 4."""
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * (flops / FLOPS_PER_WEIGHT) ** (self.beta / (self.alpha + self.beta))
        return parameters, flops / FLOPS_PER_WEIGHT / parameters


@dataclass(frozen=True)
class Fit:
    """The law of some runs, and those of resampled runs.

    `scatter` is the standard deviation of log L about the law, from `freedom` runs more than the law has constants.
    """

    law: ScalingLaw
    scatter: float
    freedom: int
    resampled: tuple[ScalingLaw, ...]

    def interval(self, parameters: float, tokens: float, seed: int = 0) -> tuple[float, float]:
        """The 95 % interval of the loss of one run: of the resampled laws, with the scatter of runs about them.

        The scatter is itself estimated from few runs, so that it is drawn from Student's t distribution.
        """
        losses = np.array([law.loss(parameters, tokens) for law in self.resampled])
        noise = self.scatter * np.random.default_rng(seed).standard_t(self.freedom, (20, len(losses)))
        low, high = np.quantile(losses * np.exp(noise), [0.025, 0.975])
        return float(low), float(high)

    def optimum_interval(self, flops: float) -> tuple[float, float]:
        """The 95 % interval of the best number of parameters for a compute budget."""
        low, high = np.quantile([law.optimum(flops)[0] for law in self.resampled], [0.025, 0.975])
        return float(low), float(high)


def weights_of(shape: Shape) -> int:
    """N of a model: the parameters of its blocks and of its output layer."""
    return shape.n_layer * (shape.block + 2 * shape.norm + shape.head_norms) + shape.vocab_size * shape.n_embd


def fit_law(
    parameters: Sequence[float], tokens: Sequence[float], losses: Sequence[float], resamples: int = 200, seed: int = 0
) -> Fit:
    """The Fit of runs with these N, D and losses, one entry a run.

    The interval is of a bootstrap over the runs; a resample needs three sizes and two numbers of tokens. Raises
    ValueError for fewer than six runs, three sizes or two numbers of tokens: five constants would follow from them freely.
    """
    points = np.array([parameters, tokens, losses], float)
    if points.shape[1] < 6 or not _determined(points):
        raise ValueError("a law of five constants needs six runs with three sizes and two numbers of tokens or more")
    law = _best(points, starts=5)
    count = points.shape[1]
    residuals = np.log(points[2]) - np.log([law.loss(n, d) for n, d in points[:2].T])
    freedom = count - 5
    scatter = math.sqrt(float(np.square(residuals).sum()) / freedom)
    draws, found = np.random.default_rng(seed), []
    while len(found) < resamples:
        drawn = points[:, draws.integers(0, count, count)]
        if _determined(drawn):
            found.append(_best(drawn, starts=1))
    return Fit(law, scatter, freedom, tuple(found))


def _determined(points: np.ndarray) -> bool:
    return len(set(points[0])) >= 3 and len(set(points[1])) >= 2


def _middle(points: np.ndarray) -> np.ndarray:
    """The geometric means of N and D: constants beside them are of the losses' own size."""
    return np.exp(np.log(points[:2]).mean(1))


def _starts(points: np.ndarray, count: int) -> list[np.ndarray]:
    """(log E, log A', alpha, log B', beta) to start from, where A' and B' are the parts at the middle."""
    from scipy.optimize import nnls

    (middle_n, middle_d), losses = _middle(points), points[2]
    found = []
    for alpha, beta in itertools.product(GRID, GRID):
        columns = np.stack([np.ones_like(losses), (points[0] / middle_n) ** -alpha, (points[1] / middle_d) ** -beta])
        parts, error = nnls((columns / losses).T, np.ones_like(losses))  # relative errors, as those of log L
        e, a, b = np.log(np.maximum(parts, 1e-5 * losses.min()))
        found.append((error, np.array([e, a, alpha, b, beta])))
    found.sort(key=lambda each: each[0])
    return [start for _, start in found[:count]]


def _best(points: np.ndarray, starts: int) -> ScalingLaw:
    """The constants with the least Huber loss of log L, from the best of the starts."""
    from scipy.optimize import minimize

    middle_n, middle_d = _middle(points)
    n, d, target = np.log(points[0] / middle_n), np.log(points[1] / middle_d), np.log(points[2])

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        parts = np.stack([np.full_like(n, x[0]), x[1] - x[2] * n, x[3] - x[4] * d])
        predicted = np.logaddexp.reduce(parts)
        error = (predicted - target) / HUBER
        small = np.abs(error) <= 1
        value = np.where(small, error**2 / 2, np.abs(error) - 0.5).sum()
        slope = np.clip(error, -1, 1) / HUBER
        share = np.exp(parts - predicted) * slope  # of E, of A / N^alpha, of B / D^beta
        return float(value), np.array(
            [share[0].sum(), share[1].sum(), -(share[1] * n).sum(), share[2].sum(), -(share[2] * d).sum()]
        )

    least, most = math.log(points[2].min()), math.log(points[2].max())
    bounds = [(least - 12, least), (least - 12, most), EXPONENTS, (least - 12, most), EXPONENTS]
    found = [
        minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in _starts(points, starts)
    ]
    e, a, alpha, b, beta = min(found, key=lambda each: each.fun).x
    return ScalingLaw(*map(float, (np.exp(e), np.exp(a) * middle_n**alpha, alpha, np.exp(b) * middle_d**beta, beta)))
