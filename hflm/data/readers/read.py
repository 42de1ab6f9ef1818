"""Read a file of any kind: its rows, or the texts of one column."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from hflm.core import DataError
from hflm.data.readers.arrow import read_arrow, read_parquet
from hflm.data.readers.base import (
    DAMAGE,
    HALF_PAIR,
    BadRow,
    Columns,
    Row,
    Rows,
    error_reason,
    is_text,
)
from hflm.data.readers.csv import read_csv
from hflm.data.readers.json import read_json
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
    return itertools.chain.from_iterable(_read(file, options, columns))


def read_texts(file: str, options: FileOptions, column: str) -> Iterator[str | BadRow]:
    """Yield each row's text of `column`, or a BadRow. Raises DataError as `read_rows`, and for an unknown column."""
    for row in read_rows(file, options, (column,)):
        if isinstance(row, BadRow):
            yield row
            continue
        value = row.get(column)
        if isinstance(value, str) and is_text(value):
            yield value
        else:
            yield _no_text(row, column, options)


def _no_text(row: Row, column: str, options: FileOptions) -> BadRow:
    file, mark, number = row.at
    value = row.get(column)
    if column not in row:
        names = f"no column '{column}'; it has: {', '.join(row)}"
        if not isinstance(options, JsonOptions):
            raise DataError(f"{file}: {names}")
        reason = f"has {names}"
    elif isinstance(value, str):
        reason = f"column '{column}' {HALF_PAIR}"
    else:
        shown = repr(value) if len(repr(value)) <= LONGEST_SHOWN else f"{repr(value)[:LONGEST_SHOWN]}..."
        reason = f"column '{column}' holds {shown}, not text"
    return BadRow(file, number, reason, mark)


def _read(file: str, options: FileOptions, columns: Columns) -> Rows:
    """The rows of a file; what its damage raises is a BadRow that ends it."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
    from pyarrow import ArrowException

    rows: list[Row | BadRow] = []

    def ended(error: Exception) -> list[Row | BadRow]:
        last = None if not rows else rows[-1].row if isinstance(rows[-1], BadRow) else rows[-1].at[2]
        mark = ":" if isinstance(options, TextOptions | JsonOptions | CsvOptions) else ", row "
        return [BadRow(file, last, f"cannot be read on from here: {error_reason(error)}", mark, rest=True)]

    try:
        if Path(file).is_file() and not Path(file).stat().st_size:
            yield [BadRow(file, None, "is empty", rest=True)]
            return
        for rows in _reader(file, options, columns):
            yield rows
    except (*DAMAGE, ArrowException) as error:
        yield ended(error)
    except FileNotFoundError:
        yield [BadRow(file, None, "is not there (any more)", rest=True)]
    except (OSError, HTTPError) as error:
        # A network that fails is not a bad row: nothing is skipped for it.
        if not Path(file).is_file():
            raise DataError(f"{file}: {error_reason(error)}") from error
        yield ended(error)


def _reader(file: str, options: FileOptions, columns: Columns) -> Rows:
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
