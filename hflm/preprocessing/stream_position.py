"""How far a stream has been trained on, so that any number of processes continues it with the very next row.

A stream is divided once, among the readers of the run that begins it: a process each, or a DataLoader worker each. Their
rows have one order, in which every batch of every process has its place. A checkpoint keeps that division, the number
of rows that are done, and the position of each reader; a run with other processes or workers takes its rows by their
number in the same order, from the same readers.

    process 0    reader 0: rows 0 1    reader 0: rows 4 5
    process 1    reader 1: rows 2 3    reader 1: rows 6 7      two processes, no workers, batches of two rows
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hflm.core import UserError, atomic_write_text

Position = dict[str, Any]  # of one reader, as hflm.preprocessing.streaming describes it; written to JSON
START: Position = {"pass": 0, "dataset": None, "block": 0, "used": 0, "row": 0, "texts": 0, "cut": 0, "rows": 0}


@dataclass(frozen=True)
class Division:
    """What a stream was divided among when it began; `workers` of each process, 1 without DataLoader workers.

    batch_rows: of a micro-batch of one process. split: a strategy of datasets' split_dataset_by_node.
    """

    processes: int
    workers: int
    batch_rows: int
    split: Literal["auto", "shards", "examples"]

    @property
    def readers(self) -> int:
        return self.processes * self.workers

    def locate(self, row: int) -> tuple[int, int]:
        """The reader that has row number `row` of all, and how many of its rows come before.

        >>> [Division(2, 1, 2, "shards").locate(row) for row in (0, 1, 2, 5)]
        [(0, 0), (0, 1), (1, 0), (0, 3)]
        """
        batch, within = divmod(row, self.batch_rows)
        turn, process = divmod(batch, self.processes)
        # A DataLoader asks its workers in turn.
        turn, worker = divmod(turn, self.workers)
        return process * self.workers + worker, turn * self.batch_rows + within


@dataclass
class StreamProgress:
    """What the processes have trained on: `stream-N.json` of a checkpoint, one of each process.

    done: rows of all processes. positions: of the readers that this process has read, after its last row of each.
    rows, tokens: of this process; what an earlier run trained on counts for the first one.
    """

    division: Division
    done: int = 0
    positions: dict[int, Position] = field(default_factory=dict)
    rows: int = 0
    tokens: int = 0

    def add(self, positions: dict[int, Position], rows: int, tokens: int, processes: int) -> None:
        """Count a batch of this process; the others have one of as many rows in the same step."""
        self.positions |= positions
        self.done += rows * processes
        self.rows += rows
        self.tokens += tokens


def merge(positions: Iterable[dict[int, Position]]) -> dict[int, Position]:
    """The furthest position of each reader: several processes may have read its rows in turn."""
    furthest: dict[int, Position] = {}
    for each in positions:
        for reader, position in each.items():
            if reader not in furthest or position["rows"] > furthest[reader]["rows"]:
                furthest[reader] = position
    return furthest


def shared_readers(division: Division, processes: int, workers: int, batch_rows: int) -> int:
    """How many readers' rows go to several of `processes` x `workers`, each of which reads all of them.

    >>> began = Division(2, 1, 8, "shards")
    >>> shared_readers(began, 1, 1, 8), shared_readers(began, 4, 1, 4)
    (0, 2)
    """
    cycle = math.lcm(division.readers * division.batch_rows, processes * workers * batch_rows)
    consumers: dict[int, set[tuple[int, int]]] = {}
    for row in range(0, cycle, math.gcd(division.batch_rows, batch_rows)):
        turn, process = divmod(row // batch_rows, processes)
        consumers.setdefault(division.locate(row)[0], set()).add((process, turn % workers))
    return sum(len(each) > 1 for each in consumers.values())


def save(progress: StreamProgress, checkpoint: Path, process: int) -> None:
    atomic_write_text(checkpoint / f"stream-{process}.json", json.dumps(asdict(progress)) + "\n")


def load(checkpoint: Path, process: int) -> StreamProgress:
    """The progress that a checkpoint holds, for one process of any number. Raises UserError when it holds none."""
    files = sorted(checkpoint.glob("stream-*.json"))
    if not files:
        raise UserError(
            f"{checkpoint}: it has no position in the stream. Start again with --fresh, which sets the earlier run aside"
        )
    saved = [_read(file) for file in files]
    return StreamProgress(
        division=saved[0].division,
        done=saved[0].done,
        positions=merge(each.positions for each in saved),
        rows=sum(each.rows for each in saved) if process == 0 else 0,
        tokens=sum(each.tokens for each in saved) if process == 0 else 0,
    )


def _read(file: Path) -> StreamProgress:
    saved = json.loads(file.read_text())
    if "division" not in saved:
        return _of_earlier_version(saved)
    saved["division"] = Division(**saved["division"])
    saved["positions"] = {int(reader): position for reader, position in saved["positions"].items()}
    return StreamProgress(**saved)


def _of_earlier_version(saved: dict[str, Any]) -> StreamProgress:
    """Of version 0.1: {"process", "processes", "workers", "places": [of each worker], "batches", "rows", "tokens"}."""
    workers, batches = len(saved["places"]), saved["batches"]
    rows = saved["rows"] // batches
    division = Division(saved["processes"], workers, rows, saved.get("split") or "auto")
    positions = {
        saved["process"] * workers + worker: {**place, "rows": len(range(worker, batches, workers)) * rows}
        for worker, place in enumerate(saved["places"])
    }
    return StreamProgress(division, saved["rows"] * saved["processes"], positions, saved["rows"], saved["tokens"])
