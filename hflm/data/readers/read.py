"""Read a file of any kind: its rows, or the texts of one column."""

from collections.abc import Iterator
from pathlib import Path

from hflm.core import DataError
from hflm.data.readers.arrow import read_arrow, read_parquet
from hflm.data.readers.base import (
    DAMAGE,
    HALF_PAIR,
    BadRow,
    Columns,
    Numbered,
    Row,
    error_reason,
    is_text,
)
from hflm.data.readers.csv import read_csv
from hflm.data.readers.json import json_mark, read_json
from hflm.data.readers.options import (
    CsvOptions,
    FileOptions,
    JsonOptions,
    ParquetOptions,
    TextOptions,
)
from hflm.data.readers.text import read_text

LONGEST_SHOWN = 60  # characters of a value in a message


def read_rows(file: str, options: FileOptions, columns: Columns = None) -> Iterator[Row | BadRow]:
    """Yield each row of a path or URL as a Row or a BadRow.

    `columns` are the ones that will be used (None: all). What the others hold never makes a row bad, and parquet and
    arrow files are not decoded there. Raises DataError for options that cannot be followed, and where a network fails.
    """
    mark: str | None = None
    for number, values in _read(file, options, columns):
        if isinstance(values, BadRow):
            yield values
            continue
        mark = mark or _mark(file, options)
        row = values if type(values) is Row else Row(values)
        row.at = (file, mark, number or 0)
        yield row


def read_texts(file: str, options: FileOptions, column: str) -> Iterator[str | BadRow]:
    """Yield each row's text of `column`, or a BadRow. Raises DataError as `read_rows`, and for an unknown column."""
    mark: str | None = None
    for number, row in _read(file, options, (column,)):
        if isinstance(row, BadRow):
            yield row
            continue
        value = row.get(column)
        if isinstance(value, str) and is_text(value):
            yield value
            continue
        mark = mark or _mark(file, options)
        if column not in row:
            names = f"no column '{column}'; it has: {', '.join(row)}"
            if not isinstance(options, JsonOptions):
                raise DataError(f"{file}: {names}")
            yield BadRow(file, number, f"has {names}", mark)
        elif isinstance(value, str):
            yield BadRow(file, number, f"column '{column}' {HALF_PAIR}", mark)
        else:
            shown = repr(value) if len(repr(value)) <= LONGEST_SHOWN else f"{repr(value)[:LONGEST_SHOWN]}..."
            yield BadRow(file, number, f"column '{column}' holds {shown}, not text", mark)


def _read(file: str, options: FileOptions, columns: Columns) -> Numbered:
    """The rows of a file by number; what its damage raises is a BadRow that ends it."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
    from pyarrow import ArrowException

    last: int | None = None

    def ended(error: Exception) -> tuple[int | None, BadRow]:
        mark = ":" if isinstance(options, TextOptions | JsonOptions | CsvOptions) else ", row "
        return last, BadRow(file, last, f"cannot be read on from here: {error_reason(error)}", mark, rest=True)

    try:
        if Path(file).is_file() and not Path(file).stat().st_size:
            yield None, BadRow(file, None, "is empty", rest=True)
            return
        for number, row in _reader(file, options, columns):
            yield number, row
            last = number
    except (*DAMAGE, ArrowException) as error:
        yield ended(error)
    except FileNotFoundError:
        yield None, BadRow(file, None, "is not there (any more)", rest=True)
    except (OSError, HTTPError) as error:
        # A network that fails is not a bad row: nothing is skipped for it.
        if not Path(file).is_file():
            raise DataError(f"{file}: {error_reason(error)}") from error
        yield ended(error)


def _reader(file: str, options: FileOptions, columns: Columns) -> Numbered:
    match options:
        case TextOptions():
            return read_text(file, options, columns)
        case JsonOptions():
            return read_json(file, options, columns)
        case CsvOptions():
            return read_csv(file, options, columns)
        case ParquetOptions():
            return read_parquet(file, options, columns)
        case _:
            return read_arrow(file, options, columns)


def _mark(file: str, options: FileOptions) -> str:
    """What separates the file from a row's number in messages."""
    if isinstance(options, JsonOptions):
        return json_mark(options, file)
    return ":" if isinstance(options, TextOptions | CsvOptions) else ", row "
