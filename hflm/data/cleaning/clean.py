"""Clean a corpus as `pretrain.clean` says: normalize its text, leave documents out, and report which and why.

normalize         Unicode's canonical (NFC) or compatibility (NFKC) composition
characters, words how long a document is; words as hflm.data.cleaning.shingles splits them
letters, digits, symbols    their fraction of the characters that are not white space; symbols are punctuation and
                  symbols, letters include combining marks
repetition        see hflm.data.cleaning.repetition
exact_duplicates  equal texts, after normalization; also of a validation text
near_duplicates   see hflm.data.cleaning.near_duplicates; also of a validation text

In this order; a document is counted where it first fails. The first of a group of duplicates stays, and so does the
order of the documents. Held-out text that a recipe names itself is normalized and otherwise left as it is.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hflm.core import DataError, progress
from hflm.data.cleaning.filters import find_failures, normalize_texts
from hflm.data.cleaning.near_duplicates import find_near_duplicates
from hflm.data.cleaning.report import CleaningReport, RemovalCounter
from hflm.data.cleaning.shingles import batch_texts

if TYPE_CHECKING:
    from datasets import IterableDataset

    from hflm.recipe.cleaning import Clean


def select_documents(
    texts: Sequence[str], section: "Clean", held_out: Sequence[str] = ()
) -> tuple[list[int], list[str], CleaningReport]:
    """Clean a list of texts: (the numbers of the texts that stay, those texts normalized, report).

    `section` is a recipe's Clean; `held_out` are normalized texts that the corpus must hold no near-duplicate of.
    Raises DataError when none stays.

    >>> select_documents(["a b c", "", "a b c"], Clean(words={"min": 1}, exact_duplicates=True))[:2]    # doctest: +SKIP
    ([0], ['a b c'])
    """
    removed, kept, changed = RemovalCounter(), [], 0
    filtered = progress(_filtered(texts, section), "cleaning", "documents", len(texts), step=100)
    for number, (before, text, failure) in enumerate(filtered):
        changed += text is not before and text != before
        if failure is None:
            kept.append((number, text))
        else:
            removed.add(failure[0], text, why=failure[1])
    if section.exact_duplicates:
        kept = _without_exact_duplicates(kept, held_out, removed)
    if section.near_duplicates is not None:
        kept = _without_near_duplicates(kept, held_out, section.near_duplicates, removed)
    settings = section.model_dump(mode="json", exclude={"normalize"}, exclude_none=True)
    report = CleaningReport(len(texts), len(kept), changed, removed.steps(settings))
    if not kept:
        raise DataError(f"pretrain.clean leaves none of {len(texts):,} documents: {report}")
    return [number for number, _ in kept], [text for _, text in kept], report


def clean_stream(dataset: "IterableDataset", section: "Clean") -> "IterableDataset":
    """An IterableDataset of {"text": ...} that is cleaned row by row as it is read.

    Its position can be saved and restored as before. Nothing is counted: a stream has no end to report on.
    """
    if section.normalize is not None:
        dataset = dataset.map(lambda row: {"text": normalize_texts([row["text"]], section)[0]})
    return dataset.filter(lambda row: find_failures([row["text"]], section)[0] is None)


def _filtered(texts: Sequence[str], section: "Clean") -> Iterator[tuple[str, str, tuple[str, str] | None]]:
    """(text, normalized text, failure) of each text."""
    for batch in batch_texts(texts):
        normalized = normalize_texts(batch, section)
        yield from zip(batch, normalized, find_failures(normalized, section), strict=True)


def _without_exact_duplicates(
    kept: list[tuple[int, str]], held_out: Sequence[str], removed: RemovalCounter
) -> list[tuple[int, str]]:
    held_out_digests, seen, different = set(map(_digest, held_out)), set(), []
    for number, text in kept:
        digest = _digest(text)
        if digest in held_out_digests:
            removed.add("exact_duplicates", text, why="also in validation")
        elif digest in seen:
            removed.add("exact_duplicates", text, why="repeats an earlier text")
        else:
            seen.add(digest)
            different.append((number, text))
    return different


def _without_near_duplicates(
    kept: list[tuple[int, str]], held_out: Sequence[str], similarity: float, removed: RemovalCounter
) -> list[tuple[int, str]]:
    texts = [*held_out, *(text for _, text in kept)]
    duplicates = find_near_duplicates(texts, similarity, keep=len(held_out))
    for duplicate, twin in duplicates.items():
        key = "like in validation" if twin < len(held_out) else "like"
        removed.add("near_duplicates", texts[duplicate], **{key: texts[twin]})
    return [row for index, row in enumerate(kept, len(held_out)) if index not in duplicates]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
