"""Near-duplicates: MB of text per second of one process, recall and precision on planted copies.

Bars: 5 MB/s, recall 0.95, precision 0.98, where the copies have 10 % of their words changed. The corpus is generated:
words drawn by Zipf's law, documents of 30 to 600 words, a tenth of them with one copy. DATASKETCH=1 also times
datasketch's MinHash on the first MB of the same text, for the choice between the two libraries.

    MB=50 python tests/bench/near_duplicates.py
"""

import json
import os
import random
import time

import numpy as np

from hflm.data.cleaning import hash_words, near_duplicates

VOCABULARY, SIMILARITY, CHANGED = 50_000, 0.4, 0.1


def corpus(size, seed=1):
    """(texts of about `size` bytes in a random order, {number of a copy: number of its original})."""
    generator, source = np.random.default_rng(seed), random.Random(seed)
    letters = "etaoinshrdlucmfwyp"
    words = ["".join(source.choices(letters, k=source.randint(2, 10))) for _ in range(VOCABULARY)]
    weights = 1 / np.arange(1, VOCABULARY + 1)
    cumulated = np.cumsum(weights / weights.sum())

    def draw(count):
        return [words[number] for number in np.searchsorted(cumulated, generator.random(count)).tolist()]

    texts, total = [], 0  # (text, number of its original or None)
    while total < size:
        document = draw(source.randint(30, 600))
        original = len(texts)
        texts.append((" ".join(document), None))
        total += len(texts[-1][0])
        if source.random() < 0.1:
            copy = list(document)
            places = source.sample(range(len(copy)), round(CHANGED * len(copy)))
            for place, word in zip(places, draw(len(places)), strict=True):
                copy[place] = word
            texts.append((" ".join(copy), original))
            total += len(texts[-1][0])
    order = list(range(len(texts)))
    source.shuffle(order)
    place_of = {number: place for place, number in enumerate(order)}
    twins = {place_of[number]: place_of[twin] for number, (_, twin) in enumerate(texts) if twin is not None}
    return [texts[number][0] for number in order], twins


def datasketch_speed(texts):
    """MB of text per second of datasketch's signatures alone, of the same shingles and as many permutations."""
    from datasketch import MinHash

    hashes = []
    for text in texts:
        found = hash_words([text]).ngrams(near_duplicates.SHINGLE)[0]
        hashes.append(found.astype(np.uint32))
    started = time.perf_counter()
    for found in hashes:
        MinHash(num_perm=near_duplicates.BANDS * near_duplicates.ROWS, hashfunc=int).update_batch(found.tolist())
    return sum(map(len, texts)) / 1e6 / (time.perf_counter() - started)


def main():
    texts, twins = corpus(float(os.environ.get("MB", "50")) * 1e6)
    size = sum(len(text) for text in texts) / 1e6  # ASCII: characters are bytes
    started, busy = time.perf_counter(), time.process_time()
    found = near_duplicates.find_near_duplicates(texts, SIMILARITY)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    # Of a pair the later one goes, whichever of the two was the original.
    planted = {max(pair): min(pair) for pair in twins.items()}
    right = len(found.items() & planted.items())
    figures = {
        "measures": "near_duplicates",
        "bar": {"mb_per_s": 5, "recall": 0.95, "precision": 0.98},
        "mb": round(size, 1),
        "texts": len(texts),
        "planted": len(planted),
        "mb_per_s": round(size / seconds, 2),
        "mb_per_cpu_s": round(size / busy, 2),
        "recall": round(right / len(planted), 4),
        "precision": round(right / len(found), 4),
    }
    if os.environ.get("DATASKETCH"):
        few = texts[: max(1, int(len(texts) / size))]
        started = time.perf_counter()
        near_duplicates._signatures(few)
        figures["signatures_of_1_mb"] = {
            "rensa_with_splitting_mb_per_s": round(sum(map(len, few)) / 1e6 / (time.perf_counter() - started), 2),
            "datasketch_mb_per_s": round(datasketch_speed(few), 2),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
