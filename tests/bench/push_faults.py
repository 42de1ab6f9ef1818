"""Pushes during which each request fails once: do they end complete, byte-equal, as one release without duplicates?

    python tests/bench/push_faults.py [--megabytes 8]

Each request of a push is answered 503, reset, or cut in the middle of its answer, once; with Xet and without, and
without it also in parts. Prints one JSON line: for each case the requests that failed, and whether what lies on the
Hub afterwards (files, commits, tag) is that of a push without faults; `as_clean` counts the cases that are.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hub import QUICK, Hub

RECIPE = "{name: bench, model: {from: org/base}, pretrain: {data: {path: text}}, push: {repo_id: you/bench}}"


def finished(run, megabytes):
    """A finished run with random weights of some megabytes in two shards."""
    draw = random.Random(0)
    content = {
        "model/config.json": b"{}",
        "model/model-00001-of-00002.safetensors": draw.randbytes(megabytes * 500_000),
        "model/model-00002-of-00002.safetensors": draw.randbytes(megabytes * 250_000) + bytes(megabytes * 250_000),
        "model/tokenizer.json": b"{}" * 5_000,
        "README.md": b"---\ntags: [hflm]\n---\n# bench\n",
        "recipe.yaml": RECIPE.encode(),
        "environment.json": b"{}",
        "plots/learning_curve.png": draw.randbytes(30_000),
    }
    for name, each in content.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(each)


def pushed(run, hub, home):
    """(exit code, seconds) of one push."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **hub.environment(home)}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", QUICK, "push", str(run)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    return done.returncode, time.monotonic() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=8)
    megabytes = parser.parse_args().megabytes
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        finished(run, megabytes)
        for xet, multipart in ((True, False), (False, False), (False, True)):
            clean = None
            for fault in (None, "503", "reset", "cut"):
                home = Path(folder) / f"home-{xet}-{multipart}-{fault}"
                with Hub(xet=xet, multipart=multipart, fail=fault) as hub:
                    hub.part_size = 1_000_000
                    code, seconds = pushed(run, hub, home)
                    repository = hub.repositories.get("you/bench")
                    state = repository and repository.state()
                if fault is None:
                    clean = state
                cases.append(
                    {
                        "xet": xet,
                        "multipart": multipart,
                        "fault": fault,
                        "exit": code,
                        "failed_requests": sum(status == fault for *_, status in hub.log),
                        "requests": len(hub.log),
                        "commits": len(repository.history()) - 1,
                        "tags": len(repository.tags),
                        "as_clean": code == 0 and state == clean,
                        "seconds": round(seconds, 1),
                    }
                )
    faulty = [case for case in cases if case["fault"]]
    print(
        json.dumps(
            {
                "megabytes": megabytes,
                "as_clean": sum(case["as_clean"] for case in faulty),
                "of": len(faulty),
                "failed_requests": sum(case["failed_requests"] for case in faulty),
                "cases": cases,
            }
        )
    )


if __name__ == "__main__":
    main()
