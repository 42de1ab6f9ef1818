"""Near-duplicates: MinHash signatures from rensa, banded into buckets (LSH), each suspected pair checked exactly.

Two texts are near-duplicates when the Jaccard similarity of their sets of word 3-grams (hflm.data.cleaning.shingles)
reaches a threshold. A text with every tenth word changed keeps about 0.9^3 = 73 % of its 3-grams, which is a similarity
of 0.73 / (2 - 0.73) = 0.57; texts that only share a subject stay below 0.1.

Broder 1997 (MinHash), Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, chapter 3 (banding): with BANDS bands
of ROWS values a pair of similarity s is suspected with probability 1 - (1 - s^ROWS)^BANDS: 0.98 at s = 0.4, 0.06 at
s = 0.1, 0.0005 at s = 0.02.
"""

from functools import lru_cache

import numpy as np

from hflm.data.cleaning import shingles

SHINGLE = 3  # words
BANDS, ROWS = 60, 3
MOST_IN_BUCKET = 100  # texts that a later one is compared with; more share a bucket only where texts are one template


def near(texts, similarity, keep=0):
    """{number of a text: number of an earlier text that it is a near-duplicate of}.

    `texts` is a list of D strings, `similarity` the least Jaccard similarity (0.4 to 1) of near-duplicates. The first
    `keep` texts always stay. A text that has a near-duplicate among the earlier ones that stay does not stay itself,
    so each group's first stays and everything removed has a twin left. A text of fewer than SHINGLE words has no
    near-duplicates. Memory: about 1 kB a text.

    >>> near(["the cat sat on the mat today", "a dog ran", "The cat sat on the mat, today!"], 0.5)
    {2: 0}
    """
    numbers, signatures = _signatures(texts)
    buckets = _buckets(signatures)
    suspects = np.zeros(len(numbers), bool)
    for band in buckets.T:
        _, inverse, counts = np.unique(band, return_inverse=True, return_counts=True)
        suspects |= counts[inverse] > 1
    # An estimate this far below the threshold is none of its texts' true similarity (three standard deviations).
    least = similarity - 3 * np.sqrt(similarity * (1 - similarity) / (BANDS * ROWS))
    offsets = np.arange(BANDS, dtype=np.uint64) << np.uint64(32)

    @lru_cache(maxsize=10_000)
    def grams(row):
        return np.unique(shingles.words([texts[numbers[row]]]).ngrams(SHINGLE)[0])

    found, filled = {}, {}
    for row in np.flatnonzero(suspects).tolist():
        keys = (offsets + buckets[row]).tolist()
        if numbers[row] >= keep:
            candidates = np.array(sorted({other for key in keys for other in filled.get(key, ())}), np.int64)
            estimates = (signatures[candidates] == signatures[row]).mean(axis=1)
            for place in np.argsort(-estimates, kind="stable"):
                if estimates[place] < least:
                    break
                other = int(candidates[place])
                if _jaccard(grams(row), grams(other)) >= similarity:
                    found[int(numbers[row])] = int(numbers[other])
                    break
            if numbers[row] in found:
                continue
        for key in keys:
            bucket = filled.setdefault(key, [])
            if len(bucket) < MOST_IN_BUCKET:
                bucket.append(row)
    return found


def _jaccard(first, second):
    """Of two sorted arrays without repetition."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def _signatures(texts):
    """(numbers of the N texts that have shingles, their MinHash signatures (N, BANDS * ROWS) uint16)."""
    from rensa import RMinHash

    numbers, signatures, before = [np.zeros(0, np.int64)], [np.zeros((0, BANDS * ROWS), np.uint16)], 0
    for batch in shingles.batches(texts):
        words = shingles.words(batch)
        hashes, _ = words.ngrams(SHINGLE)
        counts = np.maximum(0, np.diff(words.starts) - SHINGLE + 1)
        ends = np.cumsum(counts[counts > 0], dtype=np.uint64)
        if len(ends):
            starts = np.concatenate([np.zeros(1, np.uint64), ends])
            matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts, BANDS * ROWS, 42)
            signatures.append(np.array(matrix.to_rows(), np.uint32).astype(np.uint16))
            numbers.append(before + np.flatnonzero(counts))
        before += len(batch)
    return np.concatenate(numbers), np.concatenate(signatures)


def _buckets(signatures):
    """(N, BANDS) uint32: what each band of a signature hashes to."""
    factor = np.uint64(0x9E3779B97F4A7C15)
    hashes = np.zeros((len(signatures), BANDS), np.uint64)
    for row in range(ROWS):
        hashes = (hashes + signatures[:, row::ROWS]) * factor
    return (hashes >> np.uint64(32)).astype(np.uint32)
