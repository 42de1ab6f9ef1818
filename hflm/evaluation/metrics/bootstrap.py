"""The bootstrap: sums of statistics over resampled examples, and percentile intervals."""

import numpy as np

MAX_WEIGHTS = 4_000_000  # of one chunk: 32 MB


def resampled_sums(statistics: np.ndarray, resamples: int, seed: int, max_weights: int = MAX_WEIGHTS) -> np.ndarray:
    """Sums of `statistics` (n, k) over bootstrap samples of the n examples: (resamples, k).

    Equal n and seed draw equal samples, so two systems on the same examples are resampled in pairs
    (Efron & Tibshirani 1993, chapter 13; for BLEU: Koehn 2004). At most `max_weights` numbers are drawn at a time.
    """
    n = len(statistics)
    generator = np.random.default_rng(seed)
    step = max(1, max_weights // n)
    sums = []
    for start in range(0, resamples, step):
        drawn = generator.integers(n, size=(min(step, resamples - start), n))
        weights = np.stack([np.bincount(row, minlength=n) for row in drawn])
        sums.append(weights.astype(float) @ statistics)
    return np.concatenate(sums)


def interval(values: np.ndarray, value: float) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrapped `values`; (value, value) if they are all the same."""
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return (value, value) if np.isclose(low, high, rtol=1e-12, atol=1e-12) else (low, high)
