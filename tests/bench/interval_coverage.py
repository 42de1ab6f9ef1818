"""How often our 95 % bootstrap interval holds the true value (bar: 93 to 97 %).

A pool of 20,000 simulated rows is the world: a metric of the whole pool is the truth. Each of 1,000 trials draws 500
rows of it, as a test set is drawn, and asks for the interval. Accuracy has a true value of exactly 0.7.

    python tests/bench/interval_coverage.py
"""

import json
import random

import numpy as np

from hflm.evaluation import metrics
from hflm.evaluation.metrics.bootstrap import sum_clusters

POOL, N, TRIALS, RESAMPLES = 20_000, 500, 1_000, 1_000
WORDS = [f"w{number}" for number in range(200)]


def corrupted(words, share, source):
    """The words as one text, each lost or replaced with probability `share`."""
    kept = [source.choice(["", source.choice(WORDS)]) if source.random() < share else word for word in words]
    return " ".join(word for word in kept if word)


def pools():
    """{metric: (predictions, references)} of the simulated world."""
    source = random.Random(1)
    right = [row < 0.7 * POOL for row in range(POOL)]
    labels = [source.choice(["good", "bad", "mixed"]) for _ in right]
    wrong = {"good": "mixed", "mixed": "bad", "bad": "good"}
    predicted = [label if fine else wrong[label] for label, fine in zip(labels, right, strict=True)]
    sentences = [[source.choice(WORDS) for _ in range(source.randint(5, 25))] for _ in range(POOL)]
    translated = [corrupted(sentence, source.betavariate(1, 2), source) for sentence in sentences]
    answers = [sentence[: source.randint(1, 5)] for sentence in sentences]
    answered = [corrupted(answer, source.betavariate(0.5, 0.5), source) for answer in answers]
    texts = [(" ".join(sentence),) for sentence in sentences]
    return {
        "accuracy": (predicted, [(label,) for label in labels]),
        "macro_f1": (predicted, [(label,) for label in labels]),
        "f1": (answered, [(" ".join(answer),) for answer in answers]),
        "bleu": (translated, texts),
    }


def clusters():
    """Coverage for 50 clusters of 10 rows with a correlation of 0.3 within a cluster, resampled as clusters and as rows."""
    generator = np.random.default_rng(3)
    numbers = np.repeat(np.arange(N // 10), 10)
    held = dict.fromkeys(("coverage", "coverage_of_rows"), 0)
    for trial in range(TRIALS):
        shared = generator.normal(size=(N // 10, 1)) * 0.3**0.5
        values = (shared + generator.normal(size=(N // 10, 10)) * 0.7**0.5).reshape(-1, 1)
        for name, own in (("coverage", numbers), ("coverage_of_rows", None)):
            sums = metrics.resampled_sums(sum_clusters(values, own), RESAMPLES, trial)[:, 0]
            low, high = metrics.interval(sums, values.sum())
            held[name] += bool(low <= 0 <= high)
    return {name: count / TRIALS for name, count in held.items()}


def main():
    generator = np.random.default_rng(2)
    found = {}
    for name, (predictions, references) in pools().items():
        read = metrics.measure([name], predictions, references)
        (metric,), (statistics,) = read.metrics, read.statistics
        truth = metric.aggregate(statistics.sum(axis=0, keepdims=True))[name][0]
        held = 0
        for trial in range(TRIALS):
            drawn = statistics[generator.integers(POOL, size=N)]
            values = metric.aggregate(metrics.resampled_sums(drawn, RESAMPLES, trial))[name]
            low, high = metrics.interval(values, metric.aggregate(drawn.sum(axis=0, keepdims=True))[name][0])
            held += bool(low <= truth <= high)
        found[name] = {"truth": round(float(truth), 4), "coverage": held / TRIALS}
    found["clusters"] = clusters()
    print(json.dumps({"measures": "interval_coverage", "trials": TRIALS, "n": N, "bar": [0.93, 0.97], **found}))


if __name__ == "__main__":
    main()
