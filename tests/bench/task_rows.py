"""How fast a task's rows are read from csv and jsonl, beside `datasets.load_dataset`, and in how much memory.

    python tests/bench/task_rows.py            # 1,000,000 rows; ROWS=100000 for fewer

Each reading is a process of its own, and ends when a task has seen every row once, which is what a user waits for: hflm
yields rows as it reads; load_dataset converts the file into its cache and then yields the rows of that. They take turns
REPEATS times. `ratio` is hflm's speed over load_dataset's, the median of the pairs: the figure to compare.

`ratio_to_conversion` leaves load_dataset's rows unread. It compares unlike things, rows as Python objects with columns in
a file, and shows what the conversion alone costs; `cpu_ratio` is the same in seconds of all cores. `growth_mb` is what
hflm's reading adds to the memory of the process, over the first tenth of the rows and over all of them: equal when it is
flat. Prints one JSON line.
"""

import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS = int(os.environ.get("ROWS", "1000000"))
REPEATS = int(os.environ.get("REPEATS", "3"))

READ = """
import json, resource, sys, time, warnings
path, how, cache = sys.argv[1:]
if how == "hflm":
    from hflm.data import load_rows, resolve_data
    from hflm.recipe import Data
    rows = load_rows(resolve_data(Data(path=path)), "train", {"text", "label"})
    next(iter(rows))
else:
    import datasets
    datasets.disable_progress_bars()
    builder = path.rsplit(".")[-1].replace("jsonl", "json")
converted = converted_cpu = 0.0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peaks, count, started, cpu = [], 0, time.perf_counter(), time.process_time()
if how == "hflm":
    for row in rows:
        count += 1
        if count == %d:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
else:
    dataset = datasets.load_dataset(builder, data_files=path, split="train", cache_dir=cache)
    converted, converted_cpu = time.perf_counter() - started, time.process_time() - cpu
    count = sum(1 for row in dataset)
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(json.dumps({"seconds": seconds, "cpu": cpu, "converted": converted, "converted_cpu": converted_cpu, "rows": count, "peaks": [peak // 1024 for peak in peaks]}))
"""


def write_files(folder: Path) -> dict[str, Path]:
    source = random.Random(0)
    words = [f"word{number}" for number in range(5000)]
    files = {kind: folder / f"train.{kind}" for kind in ("csv", "jsonl")}
    with open(files["csv"], "w", newline="") as table, open(files["jsonl"], "w") as lines:
        writer = csv.writer(table)
        writer.writerow(("id", "text", "label"))
        for number in range(ROWS):
            text = ", ".join(source.choices(words, k=12))
            writer.writerow((number, text, number % 2))
            lines.write(json.dumps({"id": number, "text": text, "label": number % 2}) + "\n")
    return files


def measure(file: Path, how: str) -> dict:
    with tempfile.TemporaryDirectory() as cache:
        code = READ % max(1, ROWS // 10)
        done = subprocess.run(
            [sys.executable, "-c", code, file, how, cache], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout)
    assert found["rows"] == ROWS, done.stderr
    return found


def _ratio(pairs: list[tuple[dict, dict]], theirs: str, ours: str) -> float:
    return round(statistics.median(other[theirs] / own[ours] for own, other in pairs), 2)


def main() -> None:
    result: dict = {"rows": ROWS}
    with tempfile.TemporaryDirectory() as folder:
        for kind, file in write_files(Path(folder)).items():
            pairs = [(measure(file, "hflm"), measure(file, "load_dataset")) for _ in range(REPEATS)]
            result[kind] = {
                "ratio": _ratio(pairs, "seconds", "seconds"),
                "ratio_to_conversion": _ratio(pairs, "converted", "seconds"),
                "cpu_ratio": _ratio(pairs, "converted_cpu", "cpu"),
                "seconds": [round(ours["seconds"], 2) for ours, _ in pairs],
                "load_dataset_seconds": [round(theirs["seconds"], 2) for _, theirs in pairs],
                "growth_mb": pairs[0][0]["peaks"],
            }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
