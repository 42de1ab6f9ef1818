"""The quickstart's training, shortened, on a CPU whose AVX-512 and bf16 units are hidden, against the same without.

    python tests/bench/slow_cpu.py

oneDNN and ATen are limited by their documented environment variables to no more than AVX2, so that a machine with wide
registers computes as most laptops do. Prints one JSON line: `ratio` is the seconds of both training stages with the
limit over those without it, each the faster of two runs. Exits with 1 above 2.5: then something computes in a number
format that the CPU does not have. On a CPU that has no more than AVX2 the ratio is about 1.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).parents[2]
LIMIT = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
MOST = 2.5
STEPS = ("pretrain.args.max_steps=30", "finetune.args.max_steps=30", "benchmark.tasks=[sentiment]")


def main() -> int:
    seconds: dict[str, list[float]] = {"limited": [], "free": []}
    formats = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            for name, limit in (("limited", LIMIT), ("free", {})):
                stages = train(Path(folder), f"{name}{number}", limit)
                seconds[name].append(sum(stages[stage]["seconds"] for stage in ("pretrain", "finetune")))
                formats[name] = stages["pretrain"]["arithmetic"]["autocast"]
    ratio = min(seconds["limited"]) / min(seconds["free"])
    print(json.dumps({"ratio": round(ratio, 3), "seconds": seconds, "formats": formats}))
    return int(ratio > MOST)


def train(folder: Path, name: str, limit: dict[str, str]) -> dict:
    """environment.json's record of the stages of a shortened quickstart."""
    command = [sys.executable, "-m", "hflm", "run", "quickstart", "--output", name]
    for change in (*STEPS, "tasks.sentiment.limit=20"):
        command += ["--set", change]
    environment = {**os.environ, "PYTHONPATH": str(HOME), **limit}
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    return json.loads((folder / name / "environment.json").read_text())["stages"]


if __name__ == "__main__":
    sys.exit(main())
