"""Until something is on the screen, and `hflm run` of a finished recipe: `python tests/bench/start_up.py [--repeats 5]`.

On a pseudo-terminal, as a user sees it, with bytecode that is compiled. Prints one JSON line of medians: the seconds from
the start of the process to its first character for commands that train, load or look, and to the end of a finished run;
`ratio` is the latter by the start of Python itself.
"""

import argparse
import json
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
name: small
tokenizer: {train: {vocab_size: 400}}
model: {preset: gpt2-nano, n_layer: 1, n_embd: 32, n_head: 2, n_positions: 64}
pretrain: {data: {path: toy, name: stories, size: 60}, args: {max_steps: 3}}
tasks: {sentiment: {data: {path: toy, name: sentiment, size: 20}, labels: [negative, neutral, positive]}}
finetune: {tasks: [sentiment], args: {max_steps: 2}}
benchmark: {tasks: [sentiment], resamples: 20}
"""
FINISHED = ["run", "small.yaml"]
STARTED = {
    "run": ["run", "small.yaml", "--output", "new"],
    "run of a finished recipe": FINISHED,
    "validate": ["validate", "small.yaml"],
    "plan": ["plan", "small.yaml"],
    "generate": ["generate", "runs/small", "Once", "--max-new-tokens", "1"],
    "help": ["--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), repeats)))


def measure(folder: Path, repeats: int) -> dict:
    (folder / "small.yaml").write_text(RECIPE)
    hflm = [sys.executable, "-m", "hflm"]
    subprocess.run([*hflm, *FINISHED], cwd=folder, check=True, capture_output=True)
    first = {
        name: statistics.median(until(hflm + arguments, folder, end=False) for _ in range(repeats))
        for name, arguments in STARTED.items()
    }
    finished = statistics.median(until(hflm + FINISHED, folder, end=True) for _ in range(repeats))
    python = statistics.median(until([sys.executable, "-c", "print(1)"], folder, end=True) for _ in range(repeats))
    return {
        "ratio": round(finished / python, 1),
        "finished_run_seconds": round(finished, 2),
        "first_output_seconds": {name: round(seconds, 2) for name, seconds in first.items()},
        "python_seconds": round(python, 3),
    }


def until(command: list[str], folder: Path, end: bool) -> float:
    """Seconds until the first character on the terminal, or until the process has ended; it is killed after that."""
    terminal, side = pty.openpty()
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdin=side, stdout=side, stderr=side) as process:
        os.close(side)
        try:
            while os.read(terminal, 4096) and end:
                pass
        except OSError:  # its end, on Linux
            pass
        if end:
            process.wait()
        seconds = time.perf_counter() - started
        process.kill()
    os.close(terminal)
    return seconds


if __name__ == "__main__":
    main()
