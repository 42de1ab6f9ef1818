"""The filters that judge one document by itself: its length, its kinds of characters, its repetition."""

import functools
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hflm.data.cleaning.repetition import repeated_fractions
from hflm.data.cleaning.shingles import hash_words

if TYPE_CHECKING:
    from hflm.recipe.cleaning import Clean, Range


def normalize_texts(texts: Sequence[str], section: "Clean") -> list[str]:
    """The texts in the Unicode form that the recipe asks for."""
    if section.normalize is None:
        return list(texts)
    return [unicodedata.normalize(section.normalize, text) for text in texts]


def find_failures(texts: Sequence[str], section: "Clean") -> list[tuple[str, str] | None]:
    """For each text None, or (step, why) of the first filter that leaves it out.

    >>> find_failures(["too short"], Clean(words={"min": 3}))                                   # doctest: +SKIP
    [('words', '2 words')]
    """
    failures: list[tuple[str, str] | None] = [None] * len(texts)

    def fail(step: str, failed: np.ndarray, why: Callable[[int], str]) -> None:
        for number in np.flatnonzero(failed).tolist():
            failures[number] = failures[number] or (step, why(number))

    if section.characters is not None:
        lengths = np.array([len(text) for text in texts])
        fail("characters", _outside(section.characters, lengths), lambda number: f"{lengths[number]:,} characters")
    words = hash_words(texts) if section.words is not None or section.repetition else None
    if section.words is not None and words is not None:
        counts = np.diff(words.starts)
        fail("words", _outside(section.words, counts), lambda number: f"{counts[number]:,} words")
    if any((section.letters, section.digits, section.symbols)):
        for kind, fractions in _character_fractions(texts).items():
            limits = getattr(section, kind)
            if limits is not None:
                describe = functools.partial(_percentage, fractions, kind)
                fail(kind, _outside(limits, fractions), describe)
    if section.repetition and words is not None:
        for rule, most, fractions in repeated_fractions(texts, words):
            describe = functools.partial(_percentage, fractions, f"{rule}, at most {100 * most:.0f} %")
            fail("repetition", fractions > most, describe)
    return failures


def _outside(limits: "Range", values: np.ndarray) -> np.ndarray:
    low, high = limits.min, limits.max  # type: ignore[attr-defined] - Range's subclasses declare them
    outside = np.zeros(len(values), bool)
    if low is not None:
        outside |= values < low
    if high is not None:
        outside |= values > high
    return outside


def _percentage(fractions: np.ndarray, what: str, number: int) -> str:
    return f"{100 * fractions[number]:.0f} % {what}"


@functools.cache
def _character_kinds() -> np.ndarray:
    """A table from a character's code to its kind: 0 letter, 1 digit, 2 symbol, 3 other, 4 white space."""
    kinds = {"L": 0, "M": 0, "N": 1, "P": 2, "S": 2}
    characters = map(chr, range(sys.maxunicode + 1))
    return np.array(
        [4 if char.isspace() else kinds.get(unicodedata.category(char)[0], 3) for char in characters], np.uint8
    )


def _character_fractions(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """{"letters": ..., "digits": ..., "symbols": ...}, each (D,): fractions of what is not white space, 0 where nothing is."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds, ends = _character_kinds()[codes], np.cumsum([0, *map(len, texts)])
    numbers = np.repeat(np.arange(len(texts)), np.diff(ends))
    counts = np.bincount(numbers * 5 + kinds, minlength=5 * len(texts)).reshape(-1, 5)
    fractions = counts[:, :3] / np.maximum(1, counts[:, :4].sum(axis=1, keepdims=True))
    return dict(zip(("letters", "digits", "symbols"), fractions.T, strict=True))
