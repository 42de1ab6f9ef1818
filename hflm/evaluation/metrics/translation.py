"""BLEU, chrF and TER by sacreBLEU (Post 2018), on its own scale of 0 to 100; several references of any number.

The value of a sum of statistics is sacreBLEU's own `_compute_score_from_stats`, the function that its
significance tests call for each resample.
"""

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER

from hflm.core import bleu_tokenizer
from hflm.evaluation.metrics.summed import SummedMetric


class _SacreMetric(SummedMetric):
    def _scorer(self, references):
        """sacreBLEU's metric object for references (n tuples) of this script."""
        raise NotImplementedError

    def statistics(self, predictions, references):
        self.scorer = self._scorer(references)
        # sacreBLEU wants one stream for each rank of reference; None stands where an example has fewer.
        most = max(map(len, references))
        streams = [[refs[rank] if rank < len(refs) else None for refs in references] for rank in range(most)]
        statistics = self.scorer._extract_corpus_statistics(list(predictions), streams)
        self.signature = str(self.scorer.get_signature())
        return np.array(statistics, dtype=float)

    def aggregate(self, sums):
        return {self.NAMES[0]: _values(self.scorer, sums)}


class Bleu(_SacreMetric):
    """BLEU; "zh" or "char" tokens for Chinese or for Japanese and Korean references, else "13a"."""

    NAMES = ("bleu",)
    DESCRIPTION = "BLEU, 0 to 100, by sacreBLEU."

    def _scorer(self, references):
        # force: no advice on standard error about predictions that look tokenized.
        return BLEU(tokenize=bleu_tokenizer(text for refs in references for text in refs), force=True)

    def each(self, statistics):
        # A sentence of fewer than four words has no 4-grams: its effective order is its length.
        return {"bleu": _values(BLEU(effective_order=True), statistics)}


class ChrF(_SacreMetric):
    """chrF2 (Popović 2015): the F score of character 1- to 6-grams."""

    NAMES = ("chrf",)
    DESCRIPTION = "chrF2, 0 to 100, by sacreBLEU."

    def _scorer(self, references):
        return CHRF()


class Ter(_SacreMetric):
    """Translation edit rate (Snover et al. 2006), lower is better; Chinese and Japanese are edited by characters."""

    NAMES = ("ter",)
    DESCRIPTION = "Translation edit rate, 0 to 100 and above, lower is better, by sacreBLEU."

    def _scorer(self, references):
        asian = bleu_tokenizer(text for refs in references for text in refs) != "13a"
        return TER(normalized=asian, asian_support=asian)


def _values(scorer, sums):
    return np.array([scorer._compute_score_from_stats(list(row)).score for row in sums.tolist()])
