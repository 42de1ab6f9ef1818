"""Repetition inside a document: the rules of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1).

They compare a text only with itself, so they hold for every language. Unlike in the paper, an n-gram counts only when
it occurs at least twice: the rules were made for pages of 50 words and more, and would leave out every short sentence.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from hflm.data.cleaning.shingles import Words

# The most that may be repeated. Top n-gram: the characters of all occurrences of the most frequent one.
# Duplicate n-grams: the characters of all that occurred before, each character counted once.
MOST_DUPLICATE = {
    "lines": 0.30,
    "paragraphs": 0.30,
    "characters in lines": 0.20,
    "characters in paragraphs": 0.20,
}
MOST_TOP_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}
MOST_DUPLICATE_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
CHARACTERS_OF_A_WORD = 2  # in a text that is mostly of a script without spaces


Fractions = tuple[str, float, np.ndarray]


def repeated_fractions(texts: Sequence[str], words: Words) -> Iterator[Fractions]:
    """Yield (what is counted, the most allowed, its fraction in each of D texts (D,)) for every rule.

    `words` are the words of the texts.
    """
    yield from _repeated_lines(texts)
    yield from _repeated_ngrams(words)


def _repeated_lines(texts: Sequence[str]) -> Iterator[Fractions]:
    """Lines and paragraphs that occurred before, and their characters."""
    rows = []
    for text in texts:
        row = []
        for parts in (text.split("\n"), text.split("\n\n")):
            parts = [part.strip() for part in parts if part.strip()]
            counts = Counter(parts)
            repeats = sum(count - 1 for count in counts.values())
            characters = sum((count - 1) * len(part) for part, count in counts.items())
            row += [repeats / max(1, len(parts)), characters / max(1, sum(map(len, parts)))]
        rows.append(row)
    fractions = np.array(rows).reshape(-1, 4).T[[0, 2, 1, 3]]
    for (rule, most), fraction in zip(MOST_DUPLICATE.items(), fractions, strict=True):
        yield f"repeated {rule}", most, fraction


def _repeated_ngrams(words: Words) -> Iterator[Fractions]:
    """The words' characters in repeated n-grams."""
    counts = np.diff(words.starts)
    texts, text_of = len(counts), np.repeat(np.arange(len(counts)), counts)
    ends = np.concatenate([[0], np.cumsum(words.lengths)])
    total = np.maximum(1, ends[words.starts[1:]] - ends[words.starts[:-1]])
    scales = np.where(total < 2 * counts, CHARACTERS_OF_A_WORD, 1)
    for n in range(2, 11):
        hashes, begins, sizes = _scaled_ngrams(words, n, scales, text_of)
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        if n in MOST_TOP_NGRAM:
            first, counts = first[counts > 1], counts[counts > 1]
            lengths = ends[begins[first] + sizes[first]] - ends[begins[first]]
            tops = np.zeros(texts, np.int64)
            # The most frequent, and of these the longest, in one number.
            np.maximum.at(tops, text_of[begins[first]], (counts << 32) + lengths)
            yield f"in the most frequent {n} words", MOST_TOP_NGRAM[n], (tops >> 32) * (tops & (1 << 32) - 1) / total
        else:
            repeats = np.ones(len(begins), bool)
            repeats[first] = False
            depth = np.zeros(len(words.hashes) + 1, np.int64)
            np.add.at(depth, begins[repeats], 1)
            np.add.at(depth, begins[repeats] + sizes[repeats], -1)
            covered = np.where(np.cumsum(depth[:-1]) > 0, words.lengths, 0)
            yield f"in repeated {n} words", MOST_DUPLICATE_NGRAMS[n], np.bincount(text_of, covered, texts) / total


def _scaled_ngrams(
    words: Words, n: int, scales: np.ndarray, text_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hashes, first words, numbers of words) of each text's n-grams; `scales` (D,) are words that count as one.

    The same n-gram in another text has another hash.
    """
    parts = []
    for scale in np.unique(scales).tolist():
        hashes, begins = words.ngrams(n * scale)
        own = scales[text_of[begins]] == scale
        parts.append((hashes[own], begins[own], np.full(own.sum(), n * scale)))
    hashes, begins, sizes = map(np.concatenate, zip(*parts, strict=True))
    hashes ^= text_of[begins].astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
    return hashes, begins, sizes
