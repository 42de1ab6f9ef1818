"""Contamination: DialogSum's known near-copies found, and how fast training text is read past a benchmark.

Bar: each of the 6 validation dialogues whose letters and digits are those of a dialogue of the 2,500 training rows is
found. DATA is the folder of the data sets (summarization_dialogsum, qa_squad, lm_wikitext2).

    DATA=../shared/data python tests/bench/contamination.py
"""

import json
import os
import time
from pathlib import Path

from hflm.evaluation import contamination

DATA = Path(os.environ["DATA"])


def column(file, *names):
    with open(DATA / file, encoding="utf-8") as lines:
        return ["\n".join(json.loads(line)[name] for name in names) for line in lines]


def letters(text):
    return "".join(char for char in text.lower() if char.isalnum())


def dialogsum():
    train = column("summarization_dialogsum/train.jsonl", "dialogue")
    copied = {letters(text) for text in train}
    found = {}
    for split in ("validation", "test"):
        rows = column(f"summarization_dialogsum/{split}.jsonl", "dialogue")
        index = contamination.Index(rows, [()] * len(rows))
        contamination.scan_texts([index], train)
        overlap = index.overlap(("finetune",))
        known = [number for number, text in enumerate(rows) if letters(text) in copied]
        found[split] = {
            "rows": len(rows),
            "words": overlap.n,
            "known": len(known),
            "known_found": int((overlap.fractions[known] >= contamination.NEAR_COPY).sum()),
            "near_copies": overlap.near_copies,
            "contaminated": int(overlap.contaminated.sum()),
        }
    return found


def speed():
    """MB of text per second, beside the same text only split into words and hashed."""
    rows = column("qa_squad/validation.jsonl", "context", "question")
    index = contamination.Index(rows, [()] * len(rows))
    text = (DATA / "lm_wikitext2" / "train.txt").read_text(encoding="utf-8").split("\n")
    size = sum(len(line.encode()) for line in text) / 1e6
    times = []
    for _ in range(5):
        started = time.perf_counter()
        contamination.scan_texts([index], text)
        times.append(time.perf_counter() - started)
    return {
        "rows": len(rows),
        "ngrams": len(index.hashes),
        "mb": round(size, 1),
        "mb_per_s": round(size / min(times), 1),
    }


if __name__ == "__main__":
    print(json.dumps({"measures": "contamination", "bar": {"known_found": 6}, **dialogsum(), "scan": speed()}))
