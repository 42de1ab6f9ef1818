"""Near-duplicates: MinHash signatures from rensa, banded into buckets (LSH), each suspected pair checked exactly.

Two texts are near-duplicates when the Jaccard similarity of their sets of word 3-grams (hflm.data.cleaning.shingles)
reaches a threshold. A text with every tenth word changed keeps about 0.9^3 = 73 % of its 3-grams, which is a similarity
of 0.73 / (2 - 0.73) = 0.57; texts that have only their subject in common stay below 0.1.

Broder 1997 (MinHash), Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, chapter 3 (banding): with BANDS bands
of ROWS values a pair of similarity s is suspected with probability 1 - (1 - s^ROWS)^BANDS: 0.98 at s = 0.4, 0.06 at
s = 0.1, 0.0005 at s = 0.02.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from hflm.core import progress
from hflm.data.cleaning.shingles import batch_texts, hash_words

SHINGLE = 3  # words
BANDS, ROWS = 60, 3
MOST_IN_BUCKET = 100  # texts that a later one is compared with; only texts of one template fill a bucket further


def find_near_duplicates(texts: Sequence[str], similarity: float, keep: int = 0) -> dict[int, int]:
    """{number of a text: number of an earlier text that it is a near-duplicate of}.

    `similarity` is the least Jaccard similarity (0.4 to 1) of near-duplicates. The first `keep` texts always stay. A
    text that has a near-duplicate among the earlier ones that stay does not stay itself, so each group's first stays
    and everything removed has a twin left. A text of fewer than SHINGLE words has no near-duplicates. Memory: about
    1 kB a text.

    >>> find_near_duplicates(["the cat sat on the mat today", "a dog ran", "The cat sat on the mat, today!"], 0.5)
    {2: 0}
    """
    numbers, signatures = _signatures(texts)
    buckets = _buckets(signatures)
    # An estimate this far below the threshold is none of its texts' true similarity (three standard deviations).
    least = similarity - 3 * np.sqrt(similarity * (1 - similarity) / (BANDS * ROWS))
    offsets = np.arange(BANDS, dtype=np.uint64) << np.uint64(32)

    @lru_cache(maxsize=10_000)
    def ngrams(row: int) -> np.ndarray:
        return np.unique(hash_words([texts[int(numbers[row])]]).ngrams(SHINGLE)[0])

    duplicates: dict[int, int] = {}
    filled: dict[int, list[int]] = {}
    suspects = np.flatnonzero(_in_common_buckets(buckets)).tolist()
    for row in progress(suspects, "near-duplicates: comparing", "documents", len(suspects), step=10):
        keys = (offsets + buckets[row]).tolist()
        if numbers[row] >= keep:
            candidates = np.array(sorted({other for key in keys for other in filled.get(key, ())}), np.int64)
            twin = _first_twin(row, candidates, signatures, ngrams, similarity, least)
            if twin is not None:
                duplicates[int(numbers[row])] = int(numbers[twin])
                continue
        for key in keys:
            bucket = filled.setdefault(key, [])
            if len(bucket) < MOST_IN_BUCKET:
                bucket.append(row)
    return duplicates


def _in_common_buckets(buckets: np.ndarray) -> np.ndarray:
    """(N,) bool: the texts that are in a bucket with another one."""
    suspects = np.zeros(len(buckets), bool)
    for band in buckets.T:
        _, inverse, counts = np.unique(band, return_inverse=True, return_counts=True)
        suspects |= counts[inverse] > 1
    return suspects


def _first_twin(
    row: int,
    candidates: np.ndarray,
    signatures: np.ndarray,
    ngrams: Callable[[int], np.ndarray],
    similarity: float,
    least: float,
) -> int | None:
    """The candidate with the highest estimate that is similar enough, checked exactly; `least` bounds the estimates."""
    estimates = (signatures[candidates] == signatures[row]).mean(axis=1)
    for index in np.argsort(-estimates, kind="stable"):
        if estimates[index] < least:
            return None
        other = int(candidates[index])
        if _jaccard(ngrams(row), ngrams(other)) >= similarity:
            return other
    return None


def _jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Of two sorted arrays without repetition."""
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


def _signatures(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of the N texts that have shingles, their MinHash signatures (N, BANDS * ROWS) uint16)."""
    from rensa import RMinHash  # type: ignore[attr-defined] - a compiled module without stubs

    numbers, signatures, before = [np.zeros(0, np.int64)], [np.zeros((0, BANDS * ROWS), np.uint16)], 0
    for batch in progress(batch_texts(texts), "near-duplicates: signatures", "batches"):
        words = hash_words(batch)
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


def _buckets(signatures: np.ndarray) -> np.ndarray:
    """(N, BANDS) uint32: what each band of a signature hashes to."""
    factor = np.uint64(0x9E3779B97F4A7C15)
    hashes = np.zeros((len(signatures), BANDS), np.uint64)
    for row in range(ROWS):
        hashes = (hashes + signatures[:, row::ROWS]) * factor
    return (hashes >> np.uint64(32)).astype(np.uint32)
