"""What the readers of all kinds of file have in common: a row, a bad row, opening, decompressing, limits.

A csv cell is the text between its delimiters. A JSON value is what was written: numbers keep their spelling, `true` and
`false` are these words when they are shown. Parquet and arrow keep their types.
"""

import bz2
import gzip
import io
import itertools
import lzma
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from hflm.core import DataError

# What a damaged archive or file raises, besides the OSErrors that say so in words.
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, UnicodeError)
DECOMPRESS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
COMPRESSED = (*DECOMPRESS, ".zst")
CHUNK = 1 << 20  # bytes
LINES_AT_ONCE, CHARACTERS_AT_ONCE = 256, 1 << 17
MOST_BYTES_IN_LINE = 1 << 28
# Text compresses 3 to 30 times, a log of equal lines 100 times; a decompression bomb 1,000 times and more.
MOST_EXPANSION, EXPANSION_CHECKED_FROM = 200, 1 << 27
NOT_UTF8 = "is not valid UTF-8. Save the file as UTF-8, or name its `encoding`"
HALF_PAIR = "holds half of a surrogate pair, which is no text"


class Location(NamedTuple):
    """Where a row is: `number` counts from 1, lines after ":", rows after ", row "."""

    file: str
    mark: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}{self.mark}{self.number}"


class Row(dict[str, Any]):
    """A row of a file, {column: value}, and where it is."""

    __slots__ = ("at",)
    at: tuple[str, str, int]  # a plain tuple, since it is made for every row

    @classmethod
    def of(cls, values: dict[str, Any], at: tuple[str, str, int]) -> Self:
        row = cls(values)
        row.at = at
        return row

    @property
    def location(self) -> Location:
        return Location(*self.at)


def located(rows: Iterable[Any], file: str, first: int) -> "list[Row | BadRow]":
    """Rows of columns and values that have a line each, from the line `first` on."""
    found: list[Row | BadRow] = []
    for number, values in enumerate(rows, first):
        row = Row(values)
        row.at = (file, ":", number)
        found.append(row)
    return found


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, or with `rest` all of a file from there on; `row` is None before the first.

    `source` is the recipe's key of the file's data, such as pretrain.data.0.

    >>> str(BadRow("a.jsonl", 3, "is not JSON", ":")), str(BadRow("a.parquet", 3, "holds no text"))
    ('a.jsonl:3 is not JSON', 'a.parquet, row 3 holds no text')
    """

    file: str
    row: int | None
    reason: str
    mark: str = ", row "
    rest: bool = False
    source: str | None = None

    def __str__(self) -> str:
        return f"{self.file}{'' if self.row is None else f'{self.mark}{self.row}'} {self.reason}"


Columns = Collection[str] | None
Rows = Iterator[list[Row | BadRow]]  # some at a time, since each step of an iterator costs as much as a short row


class TooLarge(OSError):
    """A line or an archive beyond all that data has, which would fill the memory."""


@contextmanager
def open_file(file: str) -> Iterator[IO[bytes]]:
    """The bytes of a local file or URL, decompressed as its name says. Truncated archives raise when they end."""
    with open(file, "rb") if Path(file).is_file() else _open_url(file) as raw:
        suffix = file_suffix(file)
        if suffix == ".zst":
            import pyarrow as pa  # zstandard's own reader accepts a truncated file

            with pa.CompressedInputStream(raw, "zstd") as plain:
                yield io.BufferedReader(_Expansion(plain, raw), CHUNK)
        elif suffix in DECOMPRESS:
            with DECOMPRESS[suffix](raw) as plain:
                yield io.BufferedReader(_Expansion(plain, raw), CHUNK)
        else:
            yield raw


def file_suffix(file: str) -> str:
    """'https://host/a.jsonl.GZ?token=x' -> '.gz'."""
    return Path(file.split("?")[0]).suffix.lower()


def _open_url(file: str) -> Any:
    if "://" not in file:
        raise FileNotFoundError(file)
    # Undocumented in datasets 5.2, and the only way that repeats requests of a network that fails for a moment.
    from datasets.utils.file_utils import xopen

    return xopen(file, "rb")


def line_batches(file: str, encoding: str | None, errors: str | None, newline: str | None) -> Iterator[list[str]]:
    """Lines with their ends, some at a time; bytes that are no text are lone surrogates, which no text holds.

    What a damaged file raises comes after the lines before the damage.
    """
    encoding = "utf-8-sig" if encoding in (None, "utf-8") else encoding
    errors = "surrogateescape" if errors in (None, "strict") else errors
    try:
        with (
            open_file(file) as raw,
            io.BufferedReader(_LineLimit(raw), CHUNK) as lines,
            io.TextIOWrapper(lines, encoding=encoding, errors=errors, newline=newline) as text,
        ):
            yield from _batches(text)
    except LookupError as error:
        raise DataError(f"{file}: `encoding` or `encoding_errors`: {error}. Name one that Python has") from error


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    lines = iter(lines)
    while True:
        batch: list[str] = []
        size, failure = 0, None
        try:
            while len(batch) < LINES_AT_ONCE and size < CHARACTERS_AT_ONCE:
                count = len(batch)
                # As many again as there are, so that a batch of long lines is one line; they stay where that raises.
                batch.extend(itertools.islice(lines, min(count or 1, LINES_AT_ONCE - count)))
                if len(batch) == count:
                    break
                size += sum(map(len, batch[count:]))
        except Exception as error:  # noqa: BLE001 - raised again below
            failure = error
        if batch:
            yield batch
        if failure is not None:
            raise failure
        if not batch:
            return


def numbered_lines(lines: Iterable[list[str]]) -> Iterator[tuple[int, str]]:
    return enumerate(itertools.chain.from_iterable(lines), 1)


class _Expansion(io.RawIOBase):
    """Decompressed bytes. Raises TooLarge where they outgrow the compressed ones more than any text does."""

    def __init__(self, plain: Any, compressed: Any) -> None:
        # One read at a time, so that what comes before a damaged part is read.
        self._read, self._compressed, self._count = plain.read1, compressed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._read(len(buffer))
        self._count += len(content)
        if self._count > EXPANSION_CHECKED_FROM and self._count > MOST_EXPANSION * self._compressed.tell():
            raise TooLarge(
                f"it expands to more than {MOST_EXPANSION} times its size, as decompression bombs do. If it is no such, "
                "decompress it yourself"
            )
        buffer[: len(content)] = content
        return len(content)


class _LineLimit(io.RawIOBase):
    """Bytes of text. Raises TooLarge at a line of more than MOST_BYTES_IN_LINE."""

    def __init__(self, plain: Any) -> None:
        self._read, self._length = getattr(plain, "read1", plain.read), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._read(len(buffer))
        end = content.rfind(b"\n")
        self._length = self._length + len(content) if end < 0 else len(content) - end
        if self._length > MOST_BYTES_IN_LINE:
            raise TooLarge(f"a line is longer than {MOST_BYTES_IN_LINE >> 20} MiB. Break it into several")
        buffer[: len(content)] = content
        return len(content)


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: it holds no lone surrogate."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def invalid_column(row: dict[str, Any], columns: Columns) -> str | None:
    """The first of `columns` (None: all) with a string that is no text, in lists and nested rows too; None without."""
    return next(
        (name for name, value in row.items() if (columns is None or name in columns) and not _is_valid(value)), None
    )


def _is_valid(value: Any) -> bool:
    if isinstance(value, str):
        return is_text(value)
    if isinstance(value, dict):
        return all(_is_valid(each) for pair in value.items() for each in pair)
    return not isinstance(value, list | tuple) or all(map(_is_valid, value))


def error_reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
