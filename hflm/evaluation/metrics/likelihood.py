"""Perplexity and bits per byte from summed negative log-likelihoods."""

from collections.abc import Sequence

import datasets
import numpy as np

from hflm.evaluation.metrics.summed import SummedMetric, Values


class LanguageModeling(SummedMetric):
    """perplexity = exp(nats / tokens), per token; bits_per_byte = nats / ln 2 / bytes, whatever the tokenizer.

    `compute(nats=[...], tokens=[...], bytes=[...])`, one number a document or window: its summed negative
    log-likelihood in nats, the number of predicted tokens and the UTF-8 bytes they spell.
    """

    NAMES = ("perplexity", "bits_per_byte")
    DESCRIPTION = "Perplexity per token and bits per byte of text."
    FEATURES = datasets.Features(
        nats=datasets.Value("float64"), tokens=datasets.Value("int64"), bytes=datasets.Value("int64")
    )

    def statistics(  # pyright: ignore[reportIncompatibleMethodOverride]  (numbers, not texts)
        self, nats: Sequence[float], tokens: Sequence[int], bytes: Sequence[int]
    ) -> np.ndarray:
        self.signature = "exp(nats / tokens); nats / ln 2 / UTF-8 bytes; resampled by document"
        return np.column_stack([nats, tokens, bytes]).astype(float)

    def aggregate(self, sums: np.ndarray) -> Values:
        nats, tokens, bytes = sums.T
        # exp(700) is about the largest number there is; a model that bad has no perplexity worth more digits.
        return {"perplexity": np.exp(np.minimum(nats / tokens, 700)), "bits_per_byte": nats / np.log(2) / bytes}

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, nats: Sequence[float], tokens: Sequence[int], bytes: Sequence[int]
    ) -> dict[str, float]:
        sums = self.statistics(nats, tokens, bytes).sum(axis=0, keepdims=True)
        return {name: float(values[0]) for name, values in self.aggregate(sums).items()}
