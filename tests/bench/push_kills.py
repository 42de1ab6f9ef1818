"""A push that is killed (kill -9) at random moments and then repeated: is the result that of one clean push?

    python tests/bench/push_kills.py [--kills 10] [--megabytes 8] [--seed 0]

A clean push is timed first. Then, with Xet and without, each of `kills` pushes to a fresh Hub is killed at a random
moment between its first request and the time that the clean one took (the Hub answers slowly, so that every part of a
push is hit), and repeated until it ends. Prints one JSON line: how many ended in the clean push's files, commits and
tag, and how far the killed ones had come.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from push_faults import QUICK, ROOT, Hub, finished, pushed

DELAY = 0.05  # seconds before each answer


def killed(run, hub, home, moment):
    """Kill a push `moment` seconds after its first request. Returns whether it was still running."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **hub.environment(home)}
    process = subprocess.Popen(
        [sys.executable, "-c", QUICK, "push", str(run)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not hub.arrived.wait(0.01):
        if process.poll() is not None:
            raise SystemExit("the push ended before it asked anything")
    time.sleep(moment)
    running = process.poll() is None
    process.kill()
    process.wait()
    return running


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    same, reached, running = 0, Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        finished(run, asked.megabytes)
        for xet in (True, False):
            with Hub(xet=xet, delay=DELAY) as hub:
                pushed(run, hub, Path(folder) / f"clean-{xet}")
                clean, lasted = hub.repositories["you/bench"].state(), hub.lasted()
            for number in range(asked.kills):
                home = Path(folder) / f"home-{xet}-{number}"
                with Hub(xet=xet, delay=DELAY) as hub:
                    running += killed(run, hub, home, draw.uniform(0, lasted))
                    reached[hub.log[-1][1].split("/")[-2] if hub.log else "nothing"] += 1
                    code, _ = pushed(run, hub, home)
                    same += code == 0 and hub.repositories["you/bench"].state() == clean
    print(
        json.dumps(
            {
                "same_as_clean": same,
                "of": 2 * asked.kills,
                "still_running_when_killed": running,
                "last_answers": dict(reached),
                "megabytes": asked.megabytes,
                "seed": asked.seed,
            }
        )
    )


if __name__ == "__main__":
    main()
