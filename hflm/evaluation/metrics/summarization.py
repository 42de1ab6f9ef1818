"""ROUGE (Lin 2004) by rouge-score: mean F score over the examples, 0 to 100; the best of several references."""

from importlib.metadata import version

import numpy as np
from rouge_score import tokenizers
from rouge_score.rouge_scorer import RougeScorer

from hflm.core import non_ascii_fraction, split_words
from hflm.evaluation.metrics.summed import SummedMetric

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
# rouge-score's own tokenizer drops every character but a-z and 0-9, which would cut "Männer" to "m nner". English
# texts have up to 0.1 % of other letters (names, "café"), German ones 2 %.
MOST_OTHER_LETTERS = 0.005


class UnicodeTokenizer(tokenizers.Tokenizer):
    """Lower-cased Unicode words, each CJK character a token; no stemming."""

    def tokenize(self, text):
        return split_words(text)


class Rouge(SummedMetric):
    """ROUGE of the given types. rougeLsum reads sentences as lines, as rouge-score does."""

    NAMES = TYPES
    DESCRIPTION = "ROUGE F scores, 0 to 100, by rouge-score."

    def __init__(self, types=TYPES, **options):
        self.NAMES = tuple(types)
        super().__init__(**options)

    def statistics(self, predictions, references):
        english = non_ascii_fraction(text for refs in references for text in refs) < MOST_OTHER_LETTERS
        tokens = "Porter stemmer, a-z0-9 words" if english else "no stemmer, Unicode words, CJK by character"
        self.signature = f"rouge-score {version('rouge-score')}, F, {tokens}"
        scorer = RougeScorer(self.NAMES, use_stemmer=True, tokenizer=None if english else UnicodeTokenizer())
        rows = []
        for prediction, refs in zip(predictions, references, strict=True):
            scores = scorer.score_multi(refs, prediction)
            rows.append([*(scores[name].fmeasure for name in self.NAMES), 1])
        return np.array(rows, dtype=float)

    def aggregate(self, sums):
        return {name: 100 * sums[:, i] / sums[:, -1] for i, name in enumerate(self.NAMES)}
