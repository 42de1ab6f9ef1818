"""What each source of a corpus gave, and which rows were left out of it, for a run's record.

environment.json tells for each source its documents, characters, tokens and share of all tokens, and how many rows were
left out; `skipped_rows.jsonl` in the run's folder lists those, a JSON object a line.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass

from hflm.core import atomic_write_text, read_json_lines
from hflm.data import readers as rows

MOST_ROWS_SHOWN = 10
LISTED = "skipped_rows.jsonl"  # in a run's folder: the rows that were left out
# A source's text in tokens is its characters times the tokens per character of so many of them; all of them, mostly.
COUNTED_CHARACTERS = 10_000_000
ENCODED_AT_ONCE = 64  # texts; encodings take much more memory than their texts


@dataclass(frozen=True)
class Given:
    """What one source gave: how many documents (or pieces of running text), their characters, some of them as text."""

    key: str
    documents: int
    characters: int
    sample: tuple


class Counts:
    """Counts what each of several sources gives."""

    def __init__(self, keys):
        self.keys = keys
        self.documents, self.characters, self.samples = [0] * len(keys), [0] * len(keys), [[] for _ in keys]
        self.room = [COUNTED_CHARACTERS] * len(keys)

    def add(self, text, source):
        self.documents[source] += 1
        self.characters[source] += len(text)
        if self.room[source] > 0:
            self.samples[source].append(text)
            self.room[source] -= len(text)

    def given(self):
        return tuple(map(Given, self.keys, self.documents, self.characters, map(tuple, self.samples)))


def shares(given, encode):
    """{key: {documents, characters, tokens, share}} of each source; `share` is that of all tokens, 0 to 1.

    `encode` gives the token ids of a list of texts. Of more than COUNTED_CHARACTERS the tokens of the first so many
    stand for the rest, in proportion.
    """
    tokens = []
    for each in given:
        counted = sum(map(len, each.sample))
        some = (each.sample[begin : begin + ENCODED_AT_ONCE] for begin in range(0, len(each.sample), ENCODED_AT_ONCE))
        ids = sum(len(ids) for texts in some for ids in encode(list(texts)))
        tokens.append(round(ids * each.characters / counted) if counted else 0)
    total = max(sum(tokens), 1)
    return {
        each.key: {
            "documents": each.documents,
            "characters": each.characters,
            "tokens": count,
            "share": round(count / total, 6),
        }
        for each, count in zip(given, tokens, strict=True)
    }


def skipped(listed):
    """The rows.Bad in a file of skipped rows, each once, though several processes and passes may have met it."""
    return tuple(dict.fromkeys(rows.Bad(**row) for row in read_json_lines(listed)))


def list_skipped(bad, listed):
    """Append rows.Bad to the file `listed`, a JSON object a line."""
    if bad:
        with open(listed, "a", encoding="utf-8") as lines:
            lines.write(_lines(bad))


def write_skipped(bad, listed):
    """Write rows.Bad to the file `listed`, in place of what it held."""
    atomic_write_text(listed, _lines(bad))


def _lines(bad):
    return "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in bad)


_shown = set()


def leave_out(bad, listed):
    """Note a row that is left out, and tell the first ones."""
    list_skipped([bad], listed)
    if len(_shown) < MOST_ROWS_SHOWN and bad not in _shown and int(os.environ.get("RANK", "0")) == 0:
        _shown.add(bad)
        print(f"left out: {bad}", file=sys.stderr)
