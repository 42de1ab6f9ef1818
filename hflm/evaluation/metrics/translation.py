"""BLEU, chrF and TER by sacreBLEU (Post 2018), on its own scale of 0 to 100; several references of any number.

Texts are compared in NFC. Scripts without spaces between words are cut as in hflm.core.scripts: sacreBLEU's
tokenizers for Thai, Khmer, Lao, Burmese and Tibetan (`flores200`, `spm`) need a download, `char` does not.

All go through sacreBLEU's public interface: the statistics of a sentence are in what `sentence_score` returns (chrF's
are counted here, its score does not keep them), and `compute_bleu` turns their sums into BLEU.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.helpers import extract_all_char_ngrams
from sacrebleu.metrics.ter import TER

from hflm.core import bleu_tokenizer, is_cjk, nfc
from hflm.evaluation.metrics.summed import References, SummedMetric, Values

ORDER = 4  # BLEU's n-grams


class _SacreMetric(SummedMetric):
    def statistics(self, predictions: Sequence[str], references: Sequence[References]) -> np.ndarray:
        predictions = [nfc(text) for text in predictions]
        references = [tuple(map(nfc, texts)) for texts in references]
        counts = {len(texts) for texts in references}
        rows, signature = self._rows(predictions, references)
        self.signature = f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}|{signature}|norm:NFC"
        return np.array(rows, dtype=float)

    def _rows(
        self, predictions: Sequence[str], references: Sequence[References]
    ) -> tuple[Sequence[Sequence[float]], str]:
        """(the statistics of each example, sacreBLEU's signature without `nrefs`)."""
        raise NotImplementedError


class Bleu(_SacreMetric):
    """BLEU, with the tokenizer of the references' script: "zh", "char" or "13a"."""

    NAMES = ("bleu",)
    DESCRIPTION = "BLEU, 0 to 100, by sacreBLEU."

    def _rows(
        self, predictions: Sequence[str], references: Sequence[References]
    ) -> tuple[Sequence[Sequence[float]], str]:
        # The effective order changes a sentence's score, not its statistics; without it sacreBLEU logs advice.
        scorer = BLEU(tokenize=bleu_tokenizer(_texts(references)), effective_order=True)
        found = [scorer.sentence_score(each, texts) for each, texts in zip(predictions, references, strict=True)]
        rows = [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in found]
        return rows, _signature(BLEU(tokenize=bleu_tokenizer(_texts(references))))

    def aggregate(self, sums: np.ndarray) -> Values:
        return {"bleu": _bleu(sums, effective_order=False)}

    def each(self, statistics: np.ndarray) -> Values:
        # A sentence of fewer than four words has no 4-grams: its effective order is its length.
        return {"bleu": _bleu(statistics, effective_order=True)}


class ChrF(_SacreMetric):
    """chrF2 (Popović 2015): the F score of character 1- to 6-grams, white space left out."""

    NAMES = ("chrf",)
    DESCRIPTION = "chrF2, 0 to 100, by sacreBLEU."

    def _rows(
        self, predictions: Sequence[str], references: Sequence[References]
    ) -> tuple[Sequence[Sequence[float]], str]:
        rows = []
        for prediction, texts in zip(predictions, references, strict=True):
            counted = np.array([_chrf_counts(prediction, text) for text in texts], dtype=float)
            rows.append(counted[np.argmax(_chrf(counted))].tolist())  # the first of the best references
        return rows, _signature(CHRF())

    def aggregate(self, sums: np.ndarray) -> Values:
        return {"chrf": _chrf(sums)}


class Ter(_SacreMetric):
    """Translation edit rate (Snover et al. 2006), lower is better; scripts without spaces are edited by characters."""

    NAMES = ("ter",)
    DESCRIPTION = "Translation edit rate, 0 to 100 and above, lower is better, by sacreBLEU."

    def _rows(
        self, predictions: Sequence[str], references: Sequence[References]
    ) -> tuple[Sequence[Sequence[float]], str]:
        unspaced = bleu_tokenizer(_texts(references)) != "13a"
        asian = unspaced and is_cjk(_texts(references))  # sacreBLEU cuts these itself
        scorer, tokens = TER(normalized=asian, asian_support=asian), "|tok:char" if unspaced and not asian else ""
        if tokens:
            predictions = [" ".join(text) for text in predictions]
            references = [tuple(" ".join(text) for text in texts) for texts in references]
        found = [scorer.sentence_score(each, texts) for each, texts in zip(predictions, references, strict=True)]
        return [[score.num_edits, score.ref_length] for score in found], _signature(scorer) + tokens

    def aggregate(self, sums: np.ndarray) -> Values:
        edits, length = sums.T
        # As sacreBLEU: 100 for an empty reference of a text, 0 where both are empty.
        return {"ter": 100 * np.divide(edits, length, out=(edits > 0).astype(float), where=length > 0)}


def _texts(references: Iterable[References]) -> list[str]:
    return [text for texts in references for text in texts]


def _signature(scorer: BLEU | CHRF | TER) -> str:
    scorer.corpus_score(["a"], [["a"]])  # it has no signature before it has scored a corpus
    parts = str(scorer.get_signature()).split("|")
    return "|".join(part for part in parts if not part.startswith("nrefs:"))


def _bleu(sums: np.ndarray, effective_order: bool) -> np.ndarray:
    def value(row: list[float]) -> float:
        counts, totals = row[2 : 2 + ORDER], row[2 + ORDER :]
        score = BLEU.compute_bleu(
            counts,  # pyright: ignore[reportArgumentType]  (a mean of several bootstrap sums is no whole number)
            totals,  # pyright: ignore[reportArgumentType]
            int(row[0]),
            int(row[1]),
            smooth_method="exp",
            effective_order=effective_order,
        )
        return score.score

    return np.array([value(row) for row in sums.tolist()])


def _chrf_counts(prediction: str, reference: str) -> list[int]:
    """For each n: the n-grams of the prediction (where the reference has any), of the reference, and of both."""
    counts = []
    pairs = zip(*(extract_all_char_ngrams(text, CHRF.CHAR_ORDER) for text in (prediction, reference)), strict=True)
    for predicted, expected in pairs:
        common = sum(min(count, expected[gram]) for gram, count in predicted.items() if gram in expected)
        counts += [predicted.total() if expected else 0, expected.total(), common]
    return counts


def _chrf(sums: np.ndarray) -> np.ndarray:
    """sacreBLEU's chrF of sums (R, 3 * CHAR_ORDER): F of the mean precision and recall over the orders that both have."""
    predicted, expected, common = np.moveaxis(sums.reshape(len(sums), CHRF.CHAR_ORDER, 3), 2, 0)
    both = (predicted > 0) & (expected > 0)
    orders = np.maximum(1, both.sum(axis=1))
    precision = np.divide(common, predicted, out=np.zeros_like(common), where=both).sum(axis=1) / orders
    recall = np.divide(common, expected, out=np.zeros_like(common), where=both).sum(axis=1) / orders
    weight = CHRF.BETA**2
    below = weight * precision + recall
    return 100 * np.divide((1 + weight) * precision * recall, below, out=np.zeros_like(below), where=below > 0)
