"""csv and tsv: every cell is the text between its delimiters."""

import csv
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from hflm.core import DataError
from hflm.data.readers.base import (
    MOST_BYTES_IN_LINE,
    NOT_UTF8,
    BadRow,
    Columns,
    Numbered,
    Row,
    invalid_column,
    is_text,
    numbered_lines,
)
from hflm.data.readers.options import CsvOptions

ROWS_AT_ONCE = 256


def read_csv(file: str, options: CsvOptions, columns: Columns) -> Numbered:
    """(number of its first line, row) of each row. Raises DataError for options that Python's csv does not know."""
    names, header = options.names, options.names is None or options.header == 0
    for first, last, fields, valid in itertools.chain.from_iterable(_records(file, options)):
        if not fields:
            continue  # a blank line
        if isinstance(fields, csv.Error):
            lost = f" (lines {first:,} to {last:,})" if last > first else ""
            hint = "" if options.quoting == csv.QUOTE_NONE else _quote_hint(fields)
            yield first, BadRow(file, first, f"is not csv: {fields}{lost}{hint}", ":")
        elif header:
            header, names = False, names or tuple(fields)
            _check_header(file, names, columns)
        elif names is not None and len(fields) != len(names):
            hint = (
                " (the last is empty: does each row end in a delimiter?)"
                if len(fields) > len(names) and not fields[-1]
                else ""
            )
            yield first, BadRow(file, first, f"has {len(fields)} fields, the header {len(names)}{hint}", ":")
        else:
            row = Row(zip(names or (), fields))
            if valid or (invalid := invalid_column(row, columns)) is None:
                yield first, row
            else:
                yield first, BadRow(file, first, f"column '{invalid}' {NOT_UTF8}", ":")


def _quote_hint(error: csv.Error) -> str:
    quoted = "expected after" in str(error) or "unexpected end" in str(error)
    return ". Where quotes are plain characters, say `quoting: 3`" if quoted else ""


def _check_header(file: str, names: tuple[str, ...], columns: Columns) -> None:
    repeated = {name for name in names if name and names.count(name) > 1 and (columns is None or name in columns)}
    if repeated:
        raise DataError(f"{file}: its header names the column '{min(repeated)}' twice. Rename one of them")


def _records(file: str, options: CsvOptions) -> Iterator[list[tuple[int, int, list[str] | csv.Error, bool]]]:
    """(first line, last line, fields or what is wrong, whether all of it is text) of each row, several at a time."""
    lines = numbered_lines(file, options.encoding, options.encoding_errors, "\n")
    last, valid = options.skiprows or 0, True
    for _ in range(last):
        next(lines, None)
    line = terminator = ""

    def texts() -> Iterator[str]:
        nonlocal last, valid, line, terminator
        for last, line in lines:
            if not line.isascii():
                valid = valid and is_text(line)
            terminator = terminator or line[-2:]
            yield line

    try:
        reader = csv.reader(
            texts(),
            delimiter=options.sep,
            quotechar=options.quotechar,
            quoting=options.quoting,  # type: ignore[arg-type] - checked by csv itself
            escapechar=options.escapechar,
            doublequote=options.doublequote,
            skipinitialspace=options.skipinitialspace,
            strict=True,  # else a quote that is never closed makes the rest of the file one field
        )
    except TypeError as error:  # pandas knows separators of several characters, Python's csv does not
        raise DataError(f"{file}: csv is read row by row: {error}. Change it, or convert the file") from error
    end: Exception | None = None
    while end is None:
        records: list[tuple[int, int, list[str] | csv.Error, bool]] = []
        with _long_fields():
            while len(records) < ROWS_AT_ONCE and end is None:
                first, valid = last + 1, True
                fields: list[str] | csv.Error
                try:
                    fields = next(reader)
                except csv.Error as error:
                    fields = error
                except Exception as error:  # noqa: BLE001 - the end of the file, or a damaged one, after the rows before it
                    end = error
                    break
                usual_end = line[-2:] == "\r\n" == terminator and line[-3:-2] != "\r"
                if not usual_end and "\r" in line[-2:] and not isinstance(fields, csv.Error):
                    fields = _with_carriage_returns(line, terminator, fields, options.quotechar)
                records.append((first, last, fields, valid))
        yield records
    if not isinstance(end, StopIteration):
        raise end


def _with_carriage_returns(line: str, terminator: str, fields: list[str], quote: str) -> list[str]:
    """The fields of the row that `line` ends, with the carriage returns that csv takes for a part of the line's end.

    In a file whose lines end in LF, or beyond the one of CR LF, they belong to the last field, if it is not quoted.
    """
    content = line.removesuffix("\n")
    if not content.endswith("\r"):
        return fields
    text = content.rstrip("\r")
    count = len(content) - len(text) - (terminator == "\r\n")
    if count < 1 or text.endswith(quote):
        return fields
    return [*fields[:-1], (fields[-1] if fields else "") + "\r" * count]


@contextmanager
def _long_fields() -> Iterator[None]:
    """csv's longest field is a setting of the process: raised while rows are parsed, and put back."""
    before = csv.field_size_limit(MOST_BYTES_IN_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)
