"""What a run prints, and its copy in run.log."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from hflm.core import logger

SLOW_SECONDS, AGAIN_SECONDS = 2.0, 30.0  # a phase is reported when it has taken so long, and again after so long


def is_first_process() -> bool:
    """Whether this is the only process or the first of several; known before the process group is."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def phase(what: str) -> Iterator[Callable[[float], None]]:
    """Report a phase that takes longer than two seconds, while it runs and at its end.

    Gives a function that takes the part of the work that is done, 0 to 1, which is reported, too.
    """
    ended, started, done = threading.Event(), time.monotonic(), 0.0

    def progress(fraction: float) -> None:
        nonlocal done
        done = fraction

    def report() -> None:
        pause = SLOW_SECONDS
        while not ended.wait(pause):
            pause = AGAIN_SECONDS
            part = f", {100 * done:.0f} %" if done else ""
            logger.info(f"{what} ... ({time.monotonic() - started:.0f} s{part})")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield progress
    finally:
        ended.set()
        reporter.join()
    if (seconds := time.monotonic() - started) > SLOW_SECONDS:
        logger.info(f"{what}: {seconds:.0f} s")


class RunLog:
    """Copies what is written to stderr, line by line with the time, and without progress bars.

    Lines are kept in memory until `open` names the file.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.file = stream, None
        self.kept: list[str] = []
        self.line = ""

    def open(self, path: Path) -> None:
        """Append to `path` from now on, beginning with the lines that were kept."""
        self.file = path.open("a", encoding="utf-8")
        self._add(*self.kept)
        self.kept.clear()

    def write(self, text: str) -> int:
        written = self.stream.write(text)
        *lines, self.line = (self.line + text).split("\n")
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self._add(*(f"{now} {line}\n" for line in lines if line.strip() and "\r" not in line))
        return written

    def _add(self, *lines: str) -> None:
        if self.file is None:
            self.kept += lines
        else:
            self.file.writelines(lines)
            self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


@contextmanager
def logged() -> Iterator[RunLog]:
    """Keep a copy of stderr in the first process; an error that ends the run is in it, too."""
    plain = sys.stderr
    log = RunLog(plain)
    if is_first_process():
        sys.stderr = log
    try:
        yield log
    except BaseException as error:
        log._add(*(f"{line}\n" for line in traceback.format_exception_only(error)))
        raise
    finally:
        sys.stderr = plain
        log.close()
