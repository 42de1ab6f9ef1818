"""The answers of all processes, kept as they come: a benchmark that was stopped continues with the rows left over."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from hflm.core import atomic_write_text, read_json_lines

# (row numbers, places among them that have an answer already) -> (places, answers) by batches
Answer = Callable[[list[int], set[int]], Iterator[tuple[list[int], list[Any]]]]


def collect_answers(
    name: str, order: Iterable[int], answer: Answer, folder: Path | None, key: list[Any]
) -> list[Any] | None:
    """The answer to each of the rows in `order`, by row number; None on processes other than the first.

    Under n processes each takes every n-th row. Each batch becomes a line of this process's file in `folder`; what an
    earlier, stopped benchmark of the same `key` answered is read from there. Without a folder nothing is kept.
    """
    state = PartialState()
    own = list(order)[state.process_index :: state.num_processes]
    answers = _answer_here(answer, own) if folder is None else _answer_and_keep(name, answer, own, folder, key)
    everything = dict(gather_object(list(answers.items())))
    return [everything[row] for row in range(len(everything))] if state.is_main_process else None


def _answer_here(answer: Answer, own: list[int]) -> dict[int, Any]:
    answers: dict[int, Any] = {}
    for places, batch in answer(own, set()):
        answers |= zip([own[place] for place in places], batch, strict=True)
    return answers


def _answer_and_keep(name: str, answer: Answer, own: list[int], folder: Path, key: list[Any]) -> dict[int, Any]:
    """The answers to this process's rows, by number: earlier ones from `folder`, and new ones written there."""
    state = PartialState()
    earlier: dict[int, Any] = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines: list[Any] = read_json_lines(path)
        if lines and lines[0] == key:
            for rows, values in lines[1:]:
                earlier |= dict(zip(rows, values, strict=True))
    state.wait_for_everyone()
    answers = {row: earlier[row] for row in own if row in earlier}
    path = folder / f"{state.process_index}.jsonl"
    # Written anew, so that an incomplete last line does not spoil the next one.
    atomic_write_text(path, "".join(json.dumps(line) + "\n" for line in (key, [list(answers), list(answers.values())])))
    done = {place for place, row in enumerate(own) if row in answers}
    with _progress_bar(name, len(own), len(answers)) as progress, open(path, "a", encoding="utf-8") as file:
        for places, batch in answer(own, done):
            rows = [own[place] for place in places]
            file.write(json.dumps([rows, batch]) + "\n")
            file.flush()
            answers |= dict(zip(rows, batch, strict=True))
            progress.update(len(batch))
    return answers


def _progress_bar(name: str, total: int, done: int) -> tqdm:
    visible = PartialState().is_main_process and sys.stderr.isatty()
    return tqdm(
        total=total, initial=done, desc=f"benchmark {name}", unit="row", disable=not visible, dynamic_ncols=True
    )
