"""Peak memory above the start while a small and a large corpus are streamed, read and packed as a run does it.

    python tests/bench/stream_memory.py [--small 2e9] [--large 8e9] [--folder DIR]

Each corpus is generated (shards of jsonl.gz, about 64 MB of text each; the text repeats, its size is what counts) and
read to its end in a process of its own. Prints one JSON line; MB are 10^6 bytes of resident memory.
"""

import argparse
import gzip
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SHARD = 64_000_000
WORDS = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi", "nu", "ra", "so", "ti") for b in ("dan", "fer", "gol", "hum", "")]


def generate(folder, size):
    """Shards with about `size` bytes of text in documents of 200 to 20,000 bytes."""
    rng = random.Random(size)
    words = " ".join(rng.choices(WORDS, k=400_000))
    for number in range(-(-int(size) // SHARD)):
        room = min(SHARD, size - number * SHARD)
        with gzip.open(folder / f"{number:05}.jsonl.gz", "wt", compresslevel=1) as file:
            while room > 0:
                begin, length = rng.randrange(len(words) - 20_000), rng.randrange(200, 20_000)
                text = words[begin : begin + length]
                file.write(json.dumps({"text": text, "id": f"{number}/{room}"}) + "\n")
                room -= len(text)


def read(folder):
    """{tokens, peak_above_start_mb} of one pass over the folder in this process."""
    from hflm import data
    from hflm.preprocessing import PackedStream, train_tokenizer
    from hflm.recipe import Data

    sources = data.Sources(
        (data.resolve_data(Data.model_validate({"path": str(folder), "streaming": True})),), on_bad_row="skip"
    )
    texts = data.stream_documents(sources, Path(folder).parent / "skipped_rows.jsonl", held_out=0.005)
    begun = data.sample_stream(sources, 0.005)
    trained = train_tokenizer(begun.texts, "bpe", 2048)
    # The stream goes on and on: one pass of it.
    rows = (
        row
        for row, place in itertools.takewhile(
            lambda pair: pair[1]["pass"] == 0, PackedStream(texts, trained, 1024).read(0, 1)
        )
    )
    tokens = len(next(rows)["input_ids"])  # the libraries are imported, the buffers filled
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for row in rows:
        tokens += len(row["input_ids"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"tokens": tokens, "start_mb": round(start / 1e3), "peak_above_start_mb": round((peak - start) / 1e3)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", type=float, default=2e9)
    parser.add_argument("--large", type=float, default=8e9)
    parser.add_argument("--folder", default=None, help="where the corpora are generated; 1/4 of their size is needed")
    parser.add_argument("--read", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(arguments.read)))
        return
    found = {}
    for name, size in (("small", arguments.small), ("large", arguments.large)):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            shards = Path(folder) / "shards"
            shards.mkdir()
            generate(shards, size)
            done = subprocess.run(
                [sys.executable, __file__, "--read", str(shards)], capture_output=True, text=True, check=True
            )
            found[name] = {"bytes": int(size), **json.loads(done.stdout.splitlines()[-1])}
    difference = found["large"]["peak_above_start_mb"] - found["small"]["peak_above_start_mb"]
    print(json.dumps({"benchmark": "stream_memory", **found, "difference_mb": difference}))


if __name__ == "__main__":
    main()
