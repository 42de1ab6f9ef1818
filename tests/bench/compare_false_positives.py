"""How often `hflm compare` calls two samples of one and the same system different, at p < 0.05 (bar: 3 to 7 %).

Each of 1,000 trials draws two independent predictions for every row from the same source: 500 rows with a chance of
their own to be right (accuracy), and 100 sentences with 20 equally likely translations each (corpus BLEU).

    python tests/bench/compare_false_positives.py
"""

import json
import random

import numpy as np

from hflm.evaluation import metrics
from hflm.evaluation.metrics import paired

TRIALS, RESAMPLES, VARIANTS = 1_000, 1_000, 20
WORDS = [f"w{number}" for number in range(200)]


def corrupted(words, source):
    """The words as one text, each replaced with the same probability, which is drawn for the text."""
    share = source.betavariate(1, 2)
    return " ".join(source.choice(WORDS) if source.random() < share else word for word in words)


def labels(source):
    """(metric name, references, predictions of each row, equally likely) for accuracy."""
    references = [source.choice(["good", "bad"]) for _ in range(500)]
    variants = []
    for reference in references:
        chance = source.betavariate(2, 1)
        other = "bad" if reference == "good" else "good"
        variants.append([reference if source.random() < chance else other for _ in range(VARIANTS)])
    return "accuracy", references, variants


def translations(source):
    """The same for BLEU."""
    references = [[source.choice(WORDS) for _ in range(source.randint(5, 25))] for _ in range(100)]
    variants = [[corrupted(words, source) for _ in range(VARIANTS)] for words in references]
    return "bleu", [" ".join(words) for words in references], variants


def main():
    source, generator = random.Random(1), np.random.default_rng(2)
    found = {}
    for name, references, variants in (labels(source), translations(source)):
        rows = len(references)
        predictions = [variant for each in variants for variant in each]
        repeated = [(reference,) for reference in references for _ in range(VARIANTS)]
        read = metrics.measure([name], predictions, repeated)
        kinds, (statistics,) = read.metrics, read.statistics
        statistics = statistics.reshape(rows, VARIANTS, -1)
        significant = 0
        for trial in range(TRIALS):
            first, second = (statistics[np.arange(rows), generator.integers(VARIANTS, size=rows)] for _ in "ab")
            significant += paired.p_values(kinds, [first], [second], RESAMPLES, trial)[name] < 0.05
        found[name] = {"n": rows, "share": significant / TRIALS}
    print(json.dumps({"measures": "compare_false_positives", "trials": TRIALS, "bar": [0.03, 0.07], **found}))


if __name__ == "__main__":
    main()
