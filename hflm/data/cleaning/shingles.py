"""Texts as hashed words and word n-grams, in NumPy: the units of near-duplicates, repetition and contamination.

A word is a run of letters and digits, lower-cased; punctuation only separates. Where a script writes no spaces
(Chinese, Japanese, Thai, Lao, Khmer, Burmese) each character is a word of its own, so that word n-grams are character
n-grams there, also inside a text of several languages.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from hflm.core import UNSEPARATED

EMOJI = "\U0001f000-\U0001faff"
MOST_WORDS = 500_000
BATCH = 1 << 20  # characters whose n-grams are in memory together


@dataclass(frozen=True)
class Words:
    """The words of D texts, one after the other: `hashes` and `lengths` (characters), shape (W,), uint64 and int64.

    `starts` (D + 1,) int64: text d holds the words from starts[d] up to starts[d + 1].
    """

    hashes: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray

    def ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(hashes, begins) of all n-grams within one text, (G,) each: the first word of n-gram g is begins[g].

        Equal n-grams have equal hashes everywhere; the hash of an n-gram is a polynomial in its words, mixed.
        """
        count = max(0, len(self.hashes) - n + 1)
        mixed = np.zeros(count, np.uint64)
        for offset in range(n):
            mixed *= _FACTOR
            mixed += self.hashes[offset : offset + count]
        mixed ^= mixed >> _HALF  # the highest bits of the words must reach the lowest of the n-gram
        mixed *= _FACTOR
        mixed ^= mixed >> _HALF
        last = np.repeat(self.starts[1:], np.diff(self.starts))  # (W,): where the text of each word ends
        begins = np.flatnonzero(np.arange(n, count + n) <= last[:count])
        return mixed[begins], begins


_FACTOR, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)


def split_words(text: str) -> list[str]:
    """The words of a text.

    >>> split_words("Don't panic: 42!"), split_words("我爱 Python")
    (['don', 't', 'panic', '42'], ['我', '爱', 'python'])
    """
    return _pattern().findall(text.lower())


def hash_words(texts: Iterable[str], most_words: int = MOST_WORDS) -> Words:
    """The Words of some texts. Between calls the hashes of up to about `most_words` are kept, 100 MB by default.

    >>> hash_words(["a b", "", "b c"]).starts.tolist()
    [0, 2, 2, 4]
    """
    words = [split_words(text) for text in texts]
    starts = np.cumsum([0, *map(len, words)])
    total = int(starts[-1])
    if len(_HASHES) > most_words:
        _HASHES.clear()
    hashes = np.fromiter(map(_HASHES.__getitem__, chain.from_iterable(words)), np.uint64, total)
    lengths = np.fromiter(map(len, chain.from_iterable(words)), np.int64, total)
    return Words(hashes, lengths, starts)


def batch_texts(texts: Iterable[str], characters: int = BATCH) -> Iterator[list[str]]:
    """Lists of consecutive texts, of so many characters or a little more each."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text) + 1
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Hashes(dict[str, int]):
    """word -> its hash of 64 bits, the same on every machine (Python's own hash is not)."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = int.from_bytes(digest, "little")
        return self[word]


_HASHES = _Hashes()


@functools.cache
def _pattern() -> re.Pattern[str]:
    # Not \w+: combining marks are neither letters nor digits there, but belong to the words of many scripts.
    # re looks up the characters below 0x10000 at once and tries ranges above one by one: those are few.
    categories = ((char, unicodedata.category(char)) for char in map(chr, range(0x10000)))
    between = "".join(char for char, kind in categories if kind[0] in "PSZ" or kind in ("Cc", "Cf"))
    return re.compile(f"[{UNSEPARATED}]|[^{re.escape(between)}{EMOJI}{UNSEPARATED}]+")
