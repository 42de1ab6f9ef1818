"""Repetition inside a document: the rules of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1).

They compare a text only with itself, so they hold for every language. Unlike there, an n-gram counts only when it
stands at least twice: the rules were made for pages of 50 words and more, and would leave out every short sentence.
"""

from collections import Counter

import numpy as np

# The most that may be repeated. Top n-gram: the characters of the most frequent one, as often as it stands there.
# Duplicate n-grams: the characters of all that stood there before, each character counted once.
MOST_DUPLICATE = {
    "lines": 0.30,
    "paragraphs": 0.30,
    "characters in lines": 0.20,
    "characters in paragraphs": 0.20,
}
MOST_TOP_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}
MOST_DUPLICATE_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
CHARACTERS_OF_A_WORD = 2  # in a text that is mostly of a script without spaces


def shares(texts, words):
    """Yields (what is counted, the most allowed, its share in each of D texts (D,)) for every rule.

    `words` are the texts' shingles.Words.
    """
    yield from _lines(texts)
    yield from _ngrams(words)


def _lines(texts):
    """Yields (rule, most, shares (D,)) of lines and paragraphs, those that stood there before and their characters."""
    rows = []
    for text in texts:
        row = []
        for parts in (text.split("\n"), text.split("\n\n")):
            parts = [part.strip() for part in parts if part.strip()]
            counts = Counter(parts)
            again = sum(count - 1 for count in counts.values())
            characters = sum((count - 1) * len(part) for part, count in counts.items())
            row += [again / max(1, len(parts)), characters / max(1, sum(map(len, parts)))]
        rows.append(row)
    shares = np.array(rows).reshape(-1, 4).T[[0, 2, 1, 3]]
    for (rule, most), share in zip(MOST_DUPLICATE.items(), shares, strict=True):
        yield f"repeated {rule}", most, share


def _ngrams(words):
    """Yields (rule, most, shares (D,)) of the words' characters in repeated n-grams."""
    counts = np.diff(words.starts)
    texts, text_of = len(counts), np.repeat(np.arange(len(counts)), counts)
    ends = np.concatenate([[0], np.cumsum(words.lengths)])
    total = np.maximum(1, ends[words.starts[1:]] - ends[words.starts[:-1]])
    scales = np.where(total < 2 * counts, CHARACTERS_OF_A_WORD, 1)
    for n in range(2, 11):
        parts = []
        for scale in np.unique(scales).tolist():
            hashes, places = words.ngrams(n * scale)
            own = scales[text_of[places]] == scale
            parts.append((hashes[own], places[own], np.full(own.sum(), n * scale)))
        hashes, places, sizes = map(np.concatenate, zip(*parts, strict=True))
        # The same n-gram in another text is another one.
        hashes ^= text_of[places].astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        if n in MOST_TOP_NGRAM:
            first, counts = first[counts > 1], counts[counts > 1]
            lengths = ends[places[first] + sizes[first]] - ends[places[first]]
            tops = np.zeros(texts, np.int64)
            # The most frequent, and of these the longest, in one number.
            np.maximum.at(tops, text_of[places[first]], (counts << 32) + lengths)
            yield f"in the most frequent {n} words", MOST_TOP_NGRAM[n], (tops >> 32) * (tops & (1 << 32) - 1) / total
        else:
            repeats = np.ones(len(places), bool)
            repeats[first] = False
            depth = np.zeros(len(words.hashes) + 1, np.int64)
            np.add.at(depth, places[repeats], 1)
            np.add.at(depth, places[repeats] + sizes[repeats], -1)
            covered = np.where(np.cumsum(depth[:-1]) > 0, words.lengths, 0)
            yield f"in repeated {n} words", MOST_DUPLICATE_NGRAMS[n], np.bincount(text_of, covered, texts) / total
