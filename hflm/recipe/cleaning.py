"""The section `pretrain.clean` of a recipe: which documents of a corpus are left out, and how text is normalized."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from hflm.recipe.section import KeyProblem, Section


class Range(Section):
    """At least `min` and at most `max`, both inclusive."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        low, high = raw.get("min"), raw.get("max")
        if low is None and high is None:
            yield (), "needs a `min`, a `max` or both"
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield ("max",), f"must be at least min {low:g}, got {high:g}"


class Length(Range):
    min: Annotated[int, Field(ge=0)] | None = None
    """At least."""
    max: Annotated[int, Field(gt=0)] | None = None
    """At most."""


class Fraction(Range):
    min: Annotated[float, Field(ge=0, le=1)] | None = None
    """At least, 0 to 1."""
    max: Annotated[float, Field(ge=0, le=1)] | None = None
    """At most, 0 to 1."""


class Clean(Section):
    """What hflm.data.cleaning does, in this order.

    `near_duplicates` is the least Jaccard similarity of two texts' word 3-grams: 0.4 finds copies of which one word in
    six was changed.
    """

    normalize: Literal["NFC", "NFKC"] | None = None
    """Unicode's composition of each text."""
    characters: Length | None = None
    """How long a document is."""
    words: Length | None = None
    """How many words; a character is one where no spaces are written."""
    letters: Fraction | None = None
    """The fraction of letters among the characters that are not white space."""
    digits: Fraction | None = None
    """The fraction of digits."""
    symbols: Fraction | None = None
    """The fraction of punctuation and symbols."""
    repetition: bool = False
    """Leave out documents that repeat themselves (MassiveText's rules)."""
    exact_duplicates: bool = False
    """Leave out texts that occur earlier, or in validation."""
    near_duplicates: Annotated[float, Field(ge=0.4, le=1)] | None = None
    """Leave out texts of at least this Jaccard similarity of word 3-grams to an earlier one, or to validation."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        if not any(raw.values()):
            yield (), f"names nothing to do. Set one of {', '.join(cls.model_fields)}, or remove the section"


DUPLICATES = ("exact_duplicates", "near_duplicates")


def cleaning_conflicts(pretrain: dict[str, Any]) -> Iterator[KeyProblem]:
    """Yields the keys of `clean` that exclude others of a raw `pretrain` section."""
    clean, data = pretrain.get("clean"), pretrain.get("data")
    if not isinstance(clean, dict):
        return
    asked = [key for key in Clean.model_fields if clean.get(key)]
    sources = data if isinstance(data, list) else [data]
    streamed = any(isinstance(source, dict) and source.get("streaming") is True for source in sources)
    for key in asked:
        if pretrain.get("rows") == "lines" and key != "normalize":
            yield ("clean", key), "works on documents; `rows: lines` is one running text. Remove one of them"
        elif streamed and key in DUPLICATES:
            text = (
                "duplicates are found among documents in memory, which a stream never holds. Remove it or `streaming`"
            )
            yield ("clean", key), text
