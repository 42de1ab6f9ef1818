"""A run killed at each of 30 consecutive moments around its last two checkpoints and its end, and resumed.

    python tests/bench/kill_moments.py [--processes 2] [--moments 4 34]

A moment is a change of the run's folder by the first process: a file that is opened for writing, renamed or removed, a
folder that is made or removed. They are counted from the beginning of the last checkpoint but one, and the process ends
itself by SIGKILL just before that change; the other process is then killed, too, as torchrun does. Prints one JSON line:
how many resumed runs have the weights of an undisturbed run, byte for byte, and how many took more steps than asked.
The model has dropout, so that the state of the random numbers counts too.

Each run is `hflm run` in processes that are forked from this one, so that the libraries are imported once.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import training_setup as setup

STEPS, SAVED_EVERY = 12, 3
SMALL = ["model.n_layer=2", "model.n_embd=64", "model.n_head=2", "model.attn_pdrop=0.1", "model.resid_pdrop=0.1"]
ARGS = {
    "save_strategy": "steps",
    "save_steps": SAVED_EVERY,
    "save_total_limit": 1,  # so that each checkpoint removes the one before
    "logging_steps": 1,
    "lr_scheduler_type": "constant",  # a step too many would change the weights
    "per_device_train_batch_size": 2,
}
IMPORTED = ["torch", "transformers", "datasets", "peft", "accelerate", "matplotlib.pyplot"]
IMPORTED += [
    "hflm.cli",
    "hflm.pipeline.run",
    "hflm.training.trainer",
    "hflm.models.build",
    "hflm.preprocessing.packing",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--moments", type=int, nargs=2, default=(4, 34), metavar=("FIRST", "END"))
    chosen = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "true"}
    for name in IMPORTED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), chosen.processes, range(*chosen.moments))))


def measure(folder: Path, processes: int, moments: range) -> dict[str, Any]:
    setup.prepare(folder, 300, STEPS)
    run = folder / "run"

    def weights() -> bytes:
        return (run / "model" / "model.safetensors").read_bytes()

    assert start(folder, processes, changed=write_change) == 0, (folder / "log").read_text()[-3000:]
    changes, expected = (folder / "changes").read_text().splitlines(), weights()
    rows = []
    for moment in moments:
        shutil.rmtree(run)
        assert start(folder, processes, changed=kill_at(moment)) == -signal.SIGKILL, f"a run has no moment {moment}"
        assert start(folder, processes) == 0, (folder / "log").read_text()[-3000:]
        row = {"moment": moment, "before": changes[moment], "same": weights() == expected}
        rows.append({**row, "steps": setup.stage(folder, "run")["steps"]})
        print(rows[-1], file=sys.stderr, flush=True)
    same = sum(row["same"] for row in rows)
    return {
        "ratio": same / len(rows),
        "processes": processes,
        "identical": same,
        "runs": len(rows),
        "more_steps_than_asked": sum(row["steps"] > STEPS for row in rows),
        "moments_of_a_run": len(changes),
        "different": [row for row in rows if not row["same"] or row["steps"] != STEPS],
    }


def start(folder: Path, processes: int, changed: Callable[[int, str], None] | None = None) -> int:
    """Run the recipe in `processes`; returns the first one's exit code. `changed` is called in it before each change."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pids = []
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            if processes > 1:
                os.environ |= {name: str(value) for name, value in variables.items()}
            run_hflm(folder, changed if rank == 0 else None)
        pids.append(pid)
    first, *others = pids
    _, status = os.waitpid(first, 0)
    for pid in others:
        if status:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def run_hflm(folder: Path, changed: Callable[[int, str], None] | None) -> None:
    """`hflm run` in this process, which ends with it."""
    from hflm import cli

    code = 1
    try:
        os.chdir(folder)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sets = SMALL + [f"pretrain.args.{key}={value}" for key, value in ARGS.items()]
        sys.argv = ["hflm", "run", "recipe.yaml", "--output", "run", *(f"--set={each}" for each in sets)]
        if changed is not None:
            sys.addaudithook(Changes(folder / "run", changed))
        cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001  # reported, and the process ends
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


class Changes:
    """An audit hook that reports the changes of a folder, from the beginning of the last checkpoint but one."""

    def __init__(self, folder: Path, changed: Callable[[int, str], None]) -> None:
        self.inside, self.changed, self.number = f"{folder}{os.sep}", changed, 0
        self.first = f"checkpoint-{STEPS - SAVED_EVERY}"

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            changes = isinstance(arguments[1], str) and arguments[1][0] in "wxa"
        else:
            changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
        if not changes or isinstance(arguments[0], int):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        nothing = os.path.exists(path) if event == "os.mkdir" else event != "open" and not os.path.exists(path)
        if nothing or not path.startswith(self.inside) or (self.number == 0 and self.first not in path):
            return
        self.changed(self.number, f"{event} {path.removeprefix(self.inside)}")
        self.number += 1


def write_change(number: int, change: str) -> None:
    with open("changes", "a") as file:
        file.write(f"{change}\n")


def kill_at(moment: int) -> Callable[[int, str], None]:
    def changed(number: int, change: str) -> None:
        if number == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    return changed


if __name__ == "__main__":
    main()
