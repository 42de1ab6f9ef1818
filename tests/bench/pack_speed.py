"""Tokens per second of tokenize + pack, against the tokenizer alone and against `Dataset.map` as run_clm.py does it.

`python tests/bench/pack_speed.py [TEXT]`: a text file, one document a line; without one, toy stories of `--megabytes`.
Prints one JSON line. `against_encode_batch` and `against_map` are the medians of the ratios of `--rounds` rounds, in
which the three are timed one after the other; `kept_seconds` is a second pass over text that was encoded before.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

import datasets

from hflm.data import toy
from hflm.preprocessing import load_tokenizer, pack_documents, train_tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--tokenizer", help="a folder or Hub id; without one, it is trained on the text")
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block-size", type=int, default=1024)
    print(json.dumps(measure(parser.parse_args())))


def measure(chosen):
    texts = documents(chosen.text, chosen.megabytes * 1e6)
    tokenizer = (
        load_tokenizer(chosen.tokenizer) if chosen.tokenizer else train_tokenizer(texts[:20000], vocab_size=16384)
    )
    characters = sum(map(len, texts))
    dataset = datasets.Dataset.from_dict({"text": texts})
    with tempfile.TemporaryDirectory() as kept:
        ways = {
            "encode_batch": lambda: sum(
                len(one) for one in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
            ),
            "hflm": lambda: pack_documents(texts, tokenizer, chosen.block_size).tokens,
            "map": lambda: as_run_clm(dataset, tokenizer, chosen.block_size),
        }
        pack_documents(texts[:1000], tokenizer, chosen.block_size)  # warm, and the tokenizer set
        seconds, tokens = {name: [] for name in ways}, {}
        for _ in range(chosen.rounds):
            for name, way in ways.items():
                seconds[name].append(timed(way, tokens, name))
        first = timed(lambda: pack_documents(texts, tokenizer, chosen.block_size, cache=kept), {}, "")
        again = timed(lambda: pack_documents(texts, tokenizer, chosen.block_size, cache=kept), {}, "")

    def against(other):
        # A document has two tokens more in hflm; the ratio is of the same text, so of the time alone.
        return round(statistics.median(b / a for a, b in zip(seconds["hflm"], seconds[other], strict=True)), 3)

    return {
        "against_encode_batch": against("encode_batch"),
        "against_map": against("map"),
        "tokens_per_second": round(tokens["hflm"] / statistics.median(seconds["hflm"])),
        "megabytes": round(characters / 1e6, 1),
        "documents": len(texts),
        "first_seconds": round(first, 2),
        "kept_seconds": round(again, 2),
        "cores": len(os.sched_getaffinity(0)),
    }


def timed(way, tokens, name):
    began = time.perf_counter()
    tokens[name] = way()
    return time.perf_counter() - began


def documents(path, size):
    if path is not None:
        return [line for line in path.read_text().split("\n") if line.strip()]
    texts, length, seed = [], 0, 0
    while length < size:
        for row in toy.rows("stories", "train", seed=seed):
            texts.append(row["text"])
            length += len(row["text"])
        seed += 1
    return texts


def as_run_clm(dataset, tokenizer, block_size):
    """transformers/examples/pytorch/language-modeling/run_clm.py: tokenize, then group_texts; nothing from its cache."""

    def group_texts(examples):
        concatenated = {key: [each for one in examples[key] for each in one] for key in examples}
        total = len(concatenated["input_ids"]) // block_size * block_size
        result = {
            key: [values[start : start + block_size] for start in range(0, total, block_size)]
            for key, values in concatenated.items()
        }
        result["labels"] = result["input_ids"].copy()
        return result

    tokenized = dataset.map(
        lambda examples: tokenizer(examples["text"]),
        batched=True,
        remove_columns=["text"],
        load_from_cache_file=False,
        new_fingerprint=f"tokenized-{time.monotonic_ns()}",
    )
    grouped = tokenized.map(
        group_texts, batched=True, load_from_cache_file=False, new_fingerprint=f"grouped-{time.monotonic_ns()}"
    )
    return len(grouped) * block_size


if __name__ == "__main__":
    main()
