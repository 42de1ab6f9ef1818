"""What each source of a corpus contributed, and which rows were left out of it, for a run's record.

environment.json reports for each source its documents, characters, tokens and fraction of all tokens, and how many rows
were left out; `skipped_rows.jsonl` in the run's folder lists those, a JSON object a line.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hflm.core import atomic_write_text, logger, read_json_lines
from hflm.data.readers import BadRow

MOST_ROWS_SHOWN = 10
SKIPPED_ROWS = "skipped_rows.jsonl"  # in a run's folder: the rows that were left out
# A source's tokens are its characters times the tokens per character of the first so many; of all of them, mostly.
COUNTED_CHARACTERS = 10_000_000
TEXTS_PER_BATCH = 64  # encodings take much more memory than their texts


@dataclass(frozen=True)
class SourceStats:
    """How many documents (or parts of running text) a source has, their characters, and some of them as text."""

    key: str
    documents: int
    characters: int
    sample: tuple[str, ...]


class SourceCounter:
    """Counts the documents of several sources."""

    def __init__(self, keys: Sequence[str], counted_characters: int = COUNTED_CHARACTERS) -> None:
        self.keys = keys
        self.documents, self.characters = [0] * len(keys), [0] * len(keys)
        self.samples: list[list[str]] = [[] for _ in keys]
        self._uncounted = [counted_characters] * len(keys)

    def add(self, text: str, source: int) -> None:
        self.documents[source] += 1
        self.characters[source] += len(text)
        if self._uncounted[source] > 0:
            self.samples[source].append(text)
            self._uncounted[source] -= len(text)

    def statistics(self) -> tuple[SourceStats, ...]:
        return tuple(map(SourceStats, self.keys, self.documents, self.characters, map(tuple, self.samples)))


def token_statistics(
    statistics: Iterable[SourceStats], encode: Callable[[list[str]], Sequence[Sequence[int]]]
) -> dict[str, dict[str, Any]]:
    """{key: {documents, characters, tokens, share}} of each source; `share` is its fraction of all tokens, 0 to 1.

    `encode` returns the token ids of a list of texts. Beyond COUNTED_CHARACTERS tokens are extrapolated in proportion.
    """
    statistics, tokens = list(statistics), []
    for each in statistics:
        counted = sum(map(len, each.sample))
        batches = (
            each.sample[begin : begin + TEXTS_PER_BATCH] for begin in range(0, len(each.sample), TEXTS_PER_BATCH)
        )
        ids = sum(len(ids) for texts in batches for ids in encode(list(texts)))
        tokens.append(round(ids * each.characters / counted) if counted else 0)
    total = max(sum(tokens), 1)
    return {
        each.key: {
            "documents": each.documents,
            "characters": each.characters,
            "tokens": count,
            "share": round(count / total, 6),
        }
        for each, count in zip(statistics, tokens, strict=True)
    }


def read_skipped(path: Path) -> tuple[BadRow, ...]:
    """The rows in a file of skipped rows, each once, though several processes and passes may have met it."""
    return tuple(dict.fromkeys(BadRow(**row) for row in read_json_lines(path)))


def append_skipped(bad: Sequence[BadRow], path: Path) -> None:
    """Append bad rows to a file of skipped rows, a JSON object a line."""
    if bad:
        with open(path, "a", encoding="utf-8") as lines:
            lines.write(_json_lines(bad))


def write_skipped(bad: Iterable[BadRow], path: Path) -> None:
    """Write bad rows to a file of skipped rows, in place of what it held."""
    atomic_write_text(path, _json_lines(bad))


def _json_lines(bad: Iterable[BadRow]) -> str:
    return "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in bad)


_reported: set[BadRow] = set()


def record_skipped(bad: BadRow, path: Path) -> None:
    """Append a row that is left out, and report the first MOST_ROWS_SHOWN ones."""
    append_skipped([bad], path)
    if len(_reported) < MOST_ROWS_SHOWN and bad not in _reported:
        _reported.add(bad)
        logger.warning("left out: %s", bad)
