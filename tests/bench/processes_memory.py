"""Memory of four processes that train on one corpus: `python tests/bench/processes_memory.py [--gigabytes 2]` (Linux).

A generated corpus is read, cleaned, tokenized and trained on by one process and by four; both again on a corpus of a few
kilobytes, which gives what three more processes take by themselves. Memory is the largest sum of the processes'
proportional set sizes (PSS, smaps_rollup), in which a page that several of them map counts once. Prints one JSON line:

    ratio       memory of the four / (memory of one + three bare processes)
    times_read  what all four read from files, beyond the same on the small corpus, in sizes of the corpus: the bytes are
                read once for their checksum and once as text
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import psutil

PROCESSES = 4
RECIPE = """
name: measured
tokenizer: {train: {vocab_size: 2048, data: {path: SAMPLE}}}
model: {preset: gpt2-nano, n_layer: 1, n_embd: 32, n_head: 2, n_positions: 256}
pretrain:
  data: {path: CORPUS}
  clean: {normalize: NFC, words: {min: 5}, exact_duplicates: true}
  validation: 0.05
  args: {max_steps: 60, per_device_train_batch_size: 2, logging_steps: 10, eval_strategy: "no", save_strategy: "no"}
"""
WORDS = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi", "nu", "ra", "so", "ti") for b in ("dan", "fer", "gol", "hum", "")]
SHARD = 1 << 26


def generate(folder: Path, size: int) -> int:
    """Files of jsonl with documents of 1 to 20 kB; returns their bytes."""
    rng = random.Random(0)
    words = " ".join(rng.choices(WORDS, k=400_000))
    folder.mkdir()
    written = number = 0
    while written < size:
        with open(folder / f"{number:04}.jsonl", "w") as file:
            while written < size and file.tell() < SHARD:
                begin = rng.randrange(len(words) - 20_000)
                written += file.write(json.dumps({"text": words[begin : begin + rng.randrange(1000, 20_000)]}) + "\n")
        number += 1
    return written


def run(folder: Path, corpus: Path, processes: int) -> dict[str, int]:
    """{pss, read}: the largest PSS of all processes together and the bytes that they read from files, of one run."""
    name = f"{corpus.name}-{processes}"
    (folder / f"{name}.yaml").write_text(RECIPE.replace("CORPUS", str(corpus)).replace("SAMPLE", str(folder / "small")))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    launcher = torchrun if processes > 1 else []
    environment = {**os.environ, "HF_HOME": str(folder / f"home-{name}"), "OMP_NUM_THREADS": "1"}
    with open(folder / f"{name}.log", "w") as log:
        command = [sys.executable, *launcher, "-m", "hflm", "run", f"{name}.yaml", "--output", name]
        started = psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    most, read = 0, {}
    while started.poll() is None:
        ranks = started.children() if processes > 1 else [started]
        most = max(most, sum(map(pss, ranks)))
        read |= {rank.pid: count for rank in ranks if (count := bytes_read(rank))}
        time.sleep(0.3)
    assert started.returncode == 0, (folder / f"{name}.log").read_text()
    return {"pss": most, "read": sum(read.values())}


def pss(process: psutil.Process) -> int:
    """Bytes of a process, each page divided by the processes that map it; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def bytes_read(process: psutil.Process) -> int:
    try:
        return process.io_counters().read_chars
    except psutil.Error:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument(
        "--folder", help="where three times as much is written (default: the folder of temporary files)"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        folder = Path(folder)
        generate(folder / "small", 1_000_000)
        size = generate(folder / "large", int(chosen.gigabytes * 1e9))
        small, small_four = (run(folder, folder / "small", count) for count in (1, PROCESSES))
        one, four = (run(folder, folder / "large", count) for count in (1, PROCESSES))
    bare = small_four["pss"] - small["pss"]
    found = {
        "ratio": round(four["pss"] / (one["pss"] + bare), 3),
        "times_read": round((four["read"] - small_four["read"]) / size, 2),
        "times_read_by_one": round((one["read"] - small["read"]) / size, 2),
        "gigabytes": round(size / 1e9, 2),
        "pss_gb": {"one": one["pss"] / 1e9, "four": four["pss"] / 1e9, "three_bare": bare / 1e9},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
