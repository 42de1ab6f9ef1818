"""Exact match and F1 over words, 0 to 100; the best of the references.

English answers are normalised as SQuAD's official evaluation does (Rajpurkar et al. 2016): lower case, no ASCII
punctuation, no a/an/the, single spaces. All others as MLQA's (Lewis et al. 2020): no punctuation of any script, and no
articles of the language where the task names it. Words of scripts without spaces between them are those of
hflm.core.scripts, as in the evaluations of MLQA and CMRC 2018 (Chinese) and KorQuAD (Korean); spaces beside Chinese
characters do not count, as in MLQA's. Beyond these rules texts are in NFC.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from hflm.core import UNSEPARATED, is_english, nfc, separate_units
from hflm.evaluation.metrics.summed import References, SummedMetric, Values
from hflm.tasks import UNANSWERABLE

ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
TSHEG = re.compile("[\u0f0b\u0f0c]")  # between the syllables of Tibetan
SPACE_WITHIN_UNITS = re.compile(f"(?<=[{UNSEPARATED}]) | (?=[{UNSEPARATED}])")
ARTICLES = {  # as in mlqa_evaluation_v1.py
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\sال^|ال",
}


def normalise(answer: str, language: str | None = "en") -> str:
    """An answer as it is compared: SQuAD's rules for "en", else MLQA's; None: of no language that has articles.

    >>> normalise("The  Norman's Conquest!"), normalise("《红楼梦》，1791年。", None), normalise("„Das Haus“", "de")
    ('normans conquest', '红楼梦1791年', 'haus')
    """
    answer = nfc(answer.lower()).translate(ASCII_PUNCTUATION)
    if language != "en":
        answer = "".join(c for c in TSHEG.sub(" ", answer) if not unicodedata.category(c).startswith("P"))
    if language in ARTICLES:
        answer = re.sub(ARTICLES[language], " ", answer)
    answer = " ".join(answer.split())
    return answer if language == "en" else SPACE_WITHIN_UNITS.sub("", answer)


def exact_and_f1(prediction: str, reference: str, language: str | None = "en") -> tuple[float, float]:
    """(exact match, F1) of one prediction against one reference, each 0 to 1.

    >>> exact_and_f1("in the year 1066", "1066")
    (0.0, 0.5)
    """
    prediction, reference = normalise(prediction, language), normalise(reference, language)
    if not reference and prediction == UNANSWERABLE:
        prediction = ""  # the target in training of questions without an answer
    predicted, expected = _words(prediction, language), _words(reference, language)
    exact = float(prediction == reference)
    if not predicted or not expected:
        return exact, float(predicted == expected)  # as SQuAD 2.0's script: no answer matches only no answer
    common = sum((Counter(predicted) & Counter(expected)).values())
    if not common:
        return exact, 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return exact, 2 * precision * recall / (precision + recall)


def signature_language(signature: str) -> str | None:
    """The language that a task named, from the signature of its scores: "MLQA normalisation (de), ..." -> "de"."""
    found = re.match(r"MLQA normalisation \((\w+)\)", signature)
    return found[1] if found else None


class Squad(SummedMetric):
    """The two scores, each the best of an example's references. The reference "" means that there is no answer.

    `language` chooses the articles ("de", ...); without it English is recognised by its letters.
    """

    NAMES = ("exact_match", "f1")
    DESCRIPTION = "Exact match and F1 over words, 0 to 100, with SQuAD's or MLQA's normalisation."

    def __init__(self, language: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.language = language

    def statistics(self, predictions: Sequence[str], references: Sequence[References]) -> np.ndarray:
        language = self.language
        if language is None and is_english(text for texts in references for text in texts):
            language = "en"
        named = f" ({self.language})" if self.language else ""
        self.signature = (
            "SQuAD v1.1 normalisation, NFC"
            if language == "en"
            else f"MLQA normalisation{named}, words by script, {'' if language in ARTICLES else 'no articles, '}NFC"
        )
        rows = []
        for prediction, texts in zip(predictions, references, strict=True):
            pairs = [exact_and_f1(prediction, reference, language) for reference in texts]
            rows.append([max(exact for exact, _ in pairs), max(f1 for _, f1 in pairs), 1])
        return np.array(rows, dtype=float)

    def aggregate(self, sums: np.ndarray) -> Values:
        return {name: 100 * sums[:, i] / sums[:, -1] for i, name in enumerate(self.NAMES)}


def _words(text: str, language: str | None) -> list[str]:
    return (text if language == "en" else separate_units(text)).split()
