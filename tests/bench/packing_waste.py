"""Places of packed rows that are padded, and tokens that are lost: `DATA=folder python tests/bench/packing_waste.py`.

DATA holds train.txt as wikitext-2 has it (documents are its paragraphs); without it, toy stories. Prints one JSON line:
`waste` is (padded places + lost tokens) / all places, of a list of documents and of the same ones streamed, at several
block sizes; `split` is the share of documents that are longer than a row and so stand in several.
"""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets

from hflm import data
from hflm.data import toy
from hflm.preprocessing import PackedStream, encode_in_batches, pack_documents, train_tokenizer
from hflm.preprocessing import streaming as stream

BLOCKS = (256, 512, 1024)


def main():
    folder = os.environ.get("DATA")
    if folder:
        texts = [line for line in (Path(folder) / "train.txt").read_text().split("\n") if line.strip()]
    else:
        texts = [row["text"] for row in toy.rows("stories", "train")]
    tokenizer = train_tokenizer(texts, vocab_size=8192)
    tokens = sum(int(lengths.sum()) for _, lengths in encode_in_batches(texts, tokenizer))
    found = {}
    for block_size in BLOCKS:
        packed = pack_documents(texts, tokenizer, block_size)
        found[block_size] = {
            "list": waste(packed.counts(), tokens),
            "stream": streamed(texts, tokenizer, block_size),
            "split": round(packed.cut / packed.texts, 4),
        }
    worst = max(each[way] for each in found.values() for way in ("list", "stream"))
    print(json.dumps({"waste": worst, "tokens": tokens, "documents": len(texts), "by_block_size": found}))


def waste(counts, tokens):
    padded, lost = counts.padding, tokens - counts.tokens
    return round((padded + lost) / (counts.rows * counts.block_size), 5)


def streamed(texts, tokenizer, block_size):
    """Of three passes, so that groups of rows end where passes do not."""
    source = datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset()
    packed = PackedStream(data.DocumentStream(source, "texts"), tokenizer, block_size, shuffle_buffer=1000)
    rows = places = 0
    for row, place in packed.read(0, 1, stream.START):
        rows, places = rows + len(row["input_ids"]), places + block_size
        if place["pass"] == 3:
            break
    return round((places - rows) / places, 5)


if __name__ == "__main__":
    main()
