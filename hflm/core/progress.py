"""Progress of work that takes longer than two seconds."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

DELAY = 2  # seconds; shorter work shows nothing
INTERVAL, INTERVAL_IN_LOGS = 0.1, 2  # seconds between two updates, in a terminal and elsewhere


def progress(items: Iterable[Item], label: str, unit: str, total: int | None = None, step: int = 1) -> Iterator[Item]:
    """Iterate over `items`, with a line of progress on standard error where that takes longer than DELAY seconds.

    `label` says what is done ("reading train.jsonl"), `unit` what is counted, `step` items at a time. Only the first of
    several processes shows it. In a terminal the line is cleared at the end.
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    with tqdm(
        desc=label,
        total=total,
        leave=not terminal,
        mininterval=INTERVAL if terminal else INTERVAL_IN_LOGS,
        unit=f" {unit}",
        unit_scale=True,
        delay=DELAY,
        disable=os.environ.get("RANK", "0") != "0",
    ) as bar:
        count = 0
        for count, item in enumerate(items, 1):
            yield item
            if count % step == 0:
                bar.update(step)
        bar.update(count % step)
