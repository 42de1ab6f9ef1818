"""ROUGE (Lin 2004) by rouge-score: mean F score over the examples, 0 to 100; the best of several references."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from rouge_score import tokenizers
from rouge_score.rouge_scorer import RougeScorer

from hflm.core import is_english, split_words
from hflm.evaluation.metrics.summed import References, SummedMetric, Values

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class UnicodeTokenizer(tokenizers.Tokenizer):
    """Lower-cased words of any script with their combining marks (hflm.core.scripts); no stemming."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


class Rouge(SummedMetric):
    """ROUGE of the given types. rougeLsum reads sentences as lines, as rouge-score does.

    rouge-score's own tokenizer drops every character but a-z and 0-9, which would cut "Männer" to "m nner" and leave
    nothing of Hindi: it reads English references only.
    """

    NAMES = TYPES
    DESCRIPTION = "ROUGE F scores, 0 to 100, by rouge-score."

    def __init__(self, types: Sequence[str] = TYPES, **options: Any) -> None:
        self.NAMES = tuple(types)
        super().__init__(**options)

    def statistics(self, predictions: Sequence[str], references: Sequence[References]) -> np.ndarray:
        english = is_english(text for texts in references for text in texts)
        tokens = "Porter stemmer, a-z0-9 words" if english else "no stemmer, Unicode words, NFC, unspaced by character"
        self.signature = f"rouge-score {version('rouge-score')}, F, {tokens}"
        scorer = RougeScorer(self.NAMES, use_stemmer=True, tokenizer=None if english else UnicodeTokenizer())
        rows = []
        for prediction, texts in zip(predictions, references, strict=True):
            scores = scorer.score_multi(texts, prediction)
            rows.append([*(scores[name].fmeasure for name in self.NAMES), 1])
        return np.array(rows, dtype=float)

    def aggregate(self, sums: np.ndarray) -> Values:
        return {name: 100 * sums[:, i] / sums[:, -1] for i, name in enumerate(self.NAMES)}
