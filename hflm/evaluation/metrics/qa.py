"""Exact match and F1 over words as SQuAD's official evaluation computes them, 0 to 100; the best of the references.

Normalisation is SQuAD's (Rajpurkar et al. 2016): lower case, no ASCII punctuation, no a/an/the, single spaces.
Chinese, Japanese and Korean need two more steps (as in CMRC 2018's evaluation): all their punctuation goes, and each
character is a word. A text without such characters is treated exactly as by the official script.
"""

import re
import string
import unicodedata
from collections import Counter

import numpy as np

from hflm.core import CJK_CHARACTER, separate_cjk
from hflm.evaluation.metrics.summed import SummedMetric
from hflm.tasks import UNANSWERABLE

ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
CJK_PUNCTUATION = re.compile("[\u3000-\u303f\uff00-\uff65]")


def normalise(answer):
    """An answer as it is compared.

    >>> normalise("The  Norman's Conquest!"), normalise("《红楼梦》，1791年。")
    ('normans conquest', '红楼梦1791年')
    """
    answer = answer.lower()
    if CJK_CHARACTER.search(answer) or CJK_PUNCTUATION.search(answer):
        answer = "".join(" " if c.isspace() else c for c in answer if not unicodedata.category(c).startswith("P"))
    answer = re.sub(r"\b(a|an|the)\b", " ", answer.translate(ASCII_PUNCTUATION))
    return " ".join(answer.split())


def exact_and_f1(prediction, reference):
    """(exact match, F1) of one prediction against one reference, each 0 to 1.

    >>> exact_and_f1("in the year 1066", "1066")
    (0.0, 0.5)
    """
    prediction, reference = normalise(prediction), normalise(reference)
    if not reference and prediction == UNANSWERABLE:
        prediction = ""  # the word that training gives to questions without an answer
    said, wanted = separate_cjk(prediction).split(), separate_cjk(reference).split()
    exact = float(prediction == reference)
    if not said or not wanted:
        return exact, float(said == wanted)  # as SQuAD 2.0's script: no answer matches only no answer
    common = sum((Counter(said) & Counter(wanted)).values())
    if not common:
        return exact, 0.0
    precision, recall = common / len(said), common / len(wanted)
    return exact, 2 * precision * recall / (precision + recall)


class Squad(SummedMetric):
    """SQuAD's two scores, each the best of an example's references. The reference "" says that there is no answer."""

    NAMES = ("exact_match", "f1")
    DESCRIPTION = "Exact match and F1 over words, 0 to 100, with SQuAD's normalisation."

    def statistics(self, predictions, references):
        self.signature = "SQuAD v1.1 normalisation, CJK by character"
        rows = []
        for prediction, refs in zip(predictions, references, strict=True):
            pairs = [exact_and_f1(prediction, reference) for reference in refs]
            rows.append([max(exact for exact, _ in pairs), max(f1 for _, f1 in pairs), 1])
        return np.array(rows, dtype=float)

    def aggregate(self, sums):
        return {name: 100 * sums[:, i] / sums[:, -1] for i, name in enumerate(self.NAMES)}
