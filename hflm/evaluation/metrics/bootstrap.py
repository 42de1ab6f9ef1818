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


def sum_clusters(statistics: np.ndarray, clusters: np.ndarray | None) -> np.ndarray:
    """The sums of `statistics` (n, k) over the rows of each cluster: (number of clusters, k).

    clusters: one integer a row (n,), equal for rows that share a passage, a document or a user; None: rows are
    independent, and stay as they are. Resampling these sums resamples whole clusters, since rows of one cluster are no
    independent draws (Miller 2024, arXiv 2411.00640, section 2.2). A single cluster leaves its rows as they are.

    >>> sum_clusters(np.array([[1.0], [2.0], [4.0]]), np.array([7, 9, 7])).tolist()
    [[5.0], [2.0]]
    """
    if clusters is None:
        return statistics
    numbers, places = np.unique(clusters, return_inverse=True)
    if len(numbers) == 1:
        return statistics
    sums = np.zeros((len(numbers), statistics.shape[1]))
    np.add.at(sums, places, statistics)
    return sums


def interval(values: np.ndarray, value: float) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrapped `values`; (value, value) if they are all the same."""
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return (value, value) if np.isclose(low, high, rtol=1e-12, atol=1e-12) else (low, high)
