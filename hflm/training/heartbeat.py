"""A process that hangs without ending is noticed by the others: they name it and its step, and all end.

Each process writes how far it is into a file of the stage's folder, from a thread, and reads those of the others:

    heartbeat-3.json    {"beats": 512, "step": 41, "signs": 77, "host": "node7", "pid": 4711}

`beats` counts places in the loop that every process passes, `signs` grows as long as the process lives. A process hangs
when its file has not changed for the limit, or when it has passed no place for so long and is behind another: the others
wait for it in a collective operation. Where all wait at the same place, the timeout of that operation ends them.
"""

import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from transformers import TrainerCallback

from hflm.core import atomic_write_text

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

# Of the timeout of collective operations, whose own error names no process. A hang is seen up to two pauses after the limit,
# on a busy machine later.
FRACTION = 0.8
PAUSE = 1 / 40  # between two looks, as a fraction of the limit
MAX_PAUSE = 10.0  # seconds: less than what torch's elastic agent leaves a process after SIGTERM


@dataclass(frozen=True)
class Seen:
    """A process as another one sees it: what its file holds, and when (monotonic clock) it and `beats` changed last."""

    content: dict[str, Any]
    signed_at: float
    beat_at: float

    def updated(self, content: dict[str, Any], now: float) -> "Seen":
        beat_at = self.beat_at if content["beats"] == self.content["beats"] else now
        return Seen(content, self.signed_at if content == self.content else now, beat_at)


class Heartbeat(TrainerCallback):
    """Writes this process's file and watches the others while `with heartbeat:` runs. One process watches nothing.

    `timeout`: seconds, of collective operations; the limit is FRACTION of it.
    """

    def __init__(self, stage: str, folder: Path, process: int, processes: int, timeout: float) -> None:
        self.stage, self.folder, self.process, self.processes = stage, Path(folder), process, processes
        self.limit = FRACTION * timeout
        self.pause = min(MAX_PAUSE, PAUSE * self.limit)
        self.beats, self.step, self.signs = 0, 0, 0
        self.seen: dict[int, Seen] = {}
        self.looked_at = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self.processes > 1:
            self.looked_at = time.monotonic()
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._file(self.process).unlink(missing_ok=True)  # it has ended, and nobody waits for it

    def _beat(self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any) -> None:
        self.beats, self.step = self.beats + 1, state.global_step

    on_step_begin = on_substep_end = on_step_end = on_prediction_step = on_evaluate = on_save = _beat

    def _watch(self) -> None:
        while not self._ended.wait(self.pause):
            try:
                self._write()
            except OSError:  # a full disk: it cannot know of the others, nor they of it
                self.seen.clear()
                continue
            hung = self.hung(time.monotonic())
            if hung:
                self._end(hung)

    def _write(self) -> None:
        self.signs += 1
        content = {
            "beats": self.beats,
            "step": self.step,
            "signs": self.signs,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        atomic_write_text(self._file(self.process), json.dumps(content) + "\n")

    def hung(self, now: float) -> dict[int, Seen]:
        """The processes that hang, by their files and what was seen of them before. `now`: the monotonic clock."""
        if now - self.looked_at > self.limit / 2:
            self.seen.clear()  # this process was stopped itself, perhaps the whole machine
        self.looked_at = now
        for process in range(self.processes):
            try:
                content = json.loads(self._file(process).read_text())
            except (OSError, ValueError):  # it has ended, or not begun
                self.seen.pop(process, None)
                continue
            before = self.seen.get(process)
            self.seen[process] = before.updated(content, now) if before else Seen(content, now, now)
        furthest = max((each.content["beats"] for each in self.seen.values()), default=0)
        return {
            process: each
            for process, each in self.seen.items()
            if now - each.signed_at > self.limit
            or (each.content["beats"] < furthest and now - each.beat_at > self.limit)
        }

    def _end(self, hung: dict[int, Seen]) -> None:
        """End this process at once: its main thread waits in a collective operation, which nothing can interrupt."""
        if self.process == min(set(range(self.processes)) - hung.keys(), default=0):
            # Not through the logger, which is the first process's: it may be the one that hangs.
            print(f"{self.stage}: {describe(hung, time.monotonic())}", file=sys.stderr, flush=True)
        os._exit(1)

    def _file(self, process: int) -> Path:
        return self.folder / f"heartbeat-{process}.json"


def describe(hung: dict[int, Seen], now: float) -> str:
    """The message about processes that hang."""
    each = ", ".join(
        f"rank {process} (process {seen.content['pid']} on {seen.content['host']}) has been at step "
        f"{seen.content['step']:,} for {now - seen.beat_at:.0f} s"
        for process, seen in sorted(hung.items())
    )
    return (
        f"{each}. The others wait for it, so all end. The same command continues from the last checkpoint; "
        "args.ddp_timeout sets how long they wait"
    )
