"""csv and tsv: every cell is the text between its delimiters."""

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hflm.core import DataError
from hflm.data.readers.base import (
    LINES_AT_ONCE,
    MOST_BYTES_IN_LINE,
    NOT_UTF8,
    BadRow,
    Columns,
    Row,
    Rows,
    invalid_column,
    is_text,
    line_batches,
    located,
)
from hflm.data.readers.options import CsvOptions

# (first line, last line, fields or what is wrong, whether all of it is text) of a row
Record = tuple[int, int, list[str] | csv.Error, bool]
Parser = Callable[[Iterable[str]], Iterator[list[str]]]


@dataclass(frozen=True)
class OneLineRows:
    """Rows of text that have a line each; `first` is the number of the first line."""

    first: int
    fields: list[list[str]]

    def records(self) -> list[Record]:
        return [(number, number, fields, True) for number, fields in enumerate(self.fields, self.first)]


def read_csv(file: str, options: CsvOptions, columns: Columns) -> Rows:
    """Each row, at the number of its first line. Raises DataError for options that Python's csv does not know."""
    names, header = options.names, options.names is None or options.header == 0
    for batch in _records(file, options):
        is_plain = isinstance(batch, OneLineRows)
        if is_plain and names and not header and set(map(len, batch.fields)) == {len(names)}:
            yield located(map(zip, itertools.repeat(names), batch.fields), file, batch.first)
            continue
        records = batch.records() if isinstance(batch, OneLineRows) else batch
        rows: list[Row | BadRow] = []
        for first, last, fields, valid in records:
            if not fields:
                continue  # a blank line
            if isinstance(fields, csv.Error):
                lost = f" (lines {first:,} to {last:,})" if last > first else ""
                hint = "" if options.quoting == csv.QUOTE_NONE else _quote_hint(fields)
                rows.append(BadRow(file, first, f"is not csv: {fields}{lost}{hint}", ":"))
            elif header:
                header, names = False, names or tuple(fields)
                _check_header(file, names, columns)
            else:
                rows.append(_row(file, names or (), first, fields, valid, columns))
        if rows:
            yield rows


def _row(
    file: str, names: tuple[str, ...], number: int, fields: list[str], valid: bool, columns: Columns
) -> Row | BadRow:
    if len(fields) != len(names):
        trailing = len(fields) > len(names) and not fields[-1]
        hint = " (the last is empty: does each row end in a delimiter?)" if trailing else ""
        return BadRow(file, number, f"has {len(fields)} fields, the header {len(names)}{hint}", ":")
    row = Row.of(dict(zip(names, fields)), (file, ":", number))
    invalid = None if valid else invalid_column(row, columns)
    return row if invalid is None else BadRow(file, number, f"column '{invalid}' {NOT_UTF8}", ":")


def _quote_hint(error: csv.Error) -> str:
    quoted = "expected after" in str(error) or "unexpected end" in str(error)
    return ". Where quotes are plain characters, say `quoting: 3`" if quoted else ""


def _check_header(file: str, names: tuple[str, ...], columns: Columns) -> None:
    repeated = {name for name in names if name and names.count(name) > 1 and (columns is None or name in columns)}
    if repeated:
        raise DataError(f"{file}: its header names the column '{min(repeated)}' twice. Rename one of them")


def _records(file: str, options: CsvOptions) -> Iterator[OneLineRows | list[Record]]:
    """The rows of a file, some at a time: at once where each has a line, else one after the other."""
    batches = line_batches(file, options.encoding, options.encoding_errors, "\n")
    parse = _parser(file, options)
    number, terminator, is_plain = 1, "", True
    for lines in batches:
        if number <= (options.skiprows or 0):
            skipped = min(len(lines), (options.skiprows or 0) - number + 1)
            number, lines = number + skipped, lines[skipped:]
        terminator = terminator or (lines[0][-2:] if lines else "")
        fields = _one_line_rows(lines, parse, terminator) if is_plain else None
        if fields is not None:
            yield OneLineRows(number, fields)
            number += len(lines)
            continue
        is_plain = True
        for records in _parse_each(number, itertools.chain([lines], batches), parse, terminator, options):
            is_plain = is_plain and all(first == last for first, last, _, _ in records)
            number = records[-1][1] + 1
            yield records


def _parser(file: str, options: CsvOptions) -> Parser:
    def parse(lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(
            lines,
            delimiter=options.sep,
            quotechar=options.quotechar,
            quoting=options.quoting,  # type: ignore[arg-type] - checked by csv itself
            escapechar=options.escapechar,
            doublequote=options.doublequote,
            skipinitialspace=options.skipinitialspace,
            strict=True,  # else a quote that is never closed makes the rest of the file one field
        )

    try:
        parse(())
    except TypeError as error:  # pandas knows separators of several characters, Python's csv does not
        raise DataError(f"{file}: csv is read row by row: {error}. Change it, or convert the file") from error
    return parse


def _one_line_rows(lines: list[str], parse: Parser, terminator: str) -> list[list[str]] | None:
    """The fields of lines that are text and a row each, else None."""
    text = "".join(lines)
    returns = text.count("\r")
    usual_ends = not returns or (
        terminator == "\r\n" and returns == len(lines) and [line[-2:] for line in lines].count("\r\n") == returns
    )
    if not usual_ends or not is_text(text):
        return None
    try:
        with _long_fields():
            fields = list(parse(lines))
    except csv.Error:
        return None
    return fields if len(fields) == len(lines) else None  # a row has at least one line


def _parse_each(
    number: int, batches: Iterable[list[str]], parse: Parser, terminator: str, options: CsvOptions
) -> Iterator[list[Record]]:
    """The rows of the first batch of lines, and of those that follow until a batch ends with a row; one at least."""
    source = _Lines(number - 1, batches, parse)
    end: Exception | None = None
    while end is None:
        records: list[Record] = []
        with _long_fields():
            while len(records) < LINES_AT_ONCE and end is None:
                first = source.last + 1
                try:
                    fields = source.next_row()
                except Exception as error:  # noqa: BLE001 - the end of the file, or a damaged one, after the rows before it
                    end = error
                    break
                line = source.row[-1]
                usual_end = line[-2:] == "\r\n" == terminator and line[-3:-2] != "\r"
                if not usual_end and "\r" in line[-2:] and not isinstance(fields, csv.Error):
                    fields = _with_carriage_returns(line, terminator, fields, options)
                records.append((first, source.last, fields, all(map(is_text, source.row))))
                if not source.left:
                    end = StopIteration()
        if records:
            yield records
    if not isinstance(end, StopIteration):
        raise end


class _Lines:
    """Lines that are parsed row by row: `last` is the number of the last one, `row` are those of the last row.

    `left` is how many of a batch were not parsed yet.
    """

    def __init__(self, last: int, batches: Iterable[list[str]], parse: Parser) -> None:
        self.last, self.left, self.row, self._parse = last, 0, [""], parse
        self._lines = self._each(batches)
        self._reader = parse(self._lines)

    def _each(self, batches: Iterable[list[str]]) -> Iterator[str]:
        for lines in batches:
            self.left = len(lines)
            for line in lines:
                self.last += 1
                self.left -= 1
                self.row.append(line)
                yield line

    def next_row(self) -> list[str] | csv.Error:
        """The fields of the next row, or what is wrong with it."""
        self.row = []
        try:
            return next(self._reader)
        except csv.Error as error:
            if any("\r" in line for line in self.row):
                # A carriage return outside quotes. The row may end some lines later: what a quote holds is no row.
                lines = itertools.chain(list(self.row), self._lines)
                with suppress(csv.Error):
                    next(self._parse(map(_without_carriage_returns, lines)))
            return error


def _without_carriage_returns(line: str) -> str:
    """The line with a letter for each carriage return but those of its end."""
    text = line.rstrip("\r\n")
    return text.replace("\r", "x") + line[len(text) :]


def _with_carriage_returns(line: str, terminator: str, fields: list[str], options: CsvOptions) -> list[str]:
    """The fields of the row that `line` ends, with the carriage returns that csv takes for a part of the line's end.

    In a file whose lines end in LF, or beyond the one of CR LF, they belong to the last field, if it is not quoted.
    """
    content = line.removesuffix("\n")
    text = content.rstrip("\r")
    # An escaped one is in the field already.
    count = len(content) - len(text) - (terminator == "\r\n") - _ends_in_escape(text, options)
    is_quoted = options.quoting != csv.QUOTE_NONE and text.endswith(options.quotechar)
    if count < 1 or (is_quoted and not _ends_in_escape(text[:-1], options)):
        return fields
    return [*fields[:-1], (fields[-1] if fields else "") + "\r" * count]


def _ends_in_escape(text: str, options: CsvOptions) -> bool:
    """Whether the character after `text` is escaped."""
    escape = options.escapechar
    return escape is not None and (len(text) - len(text.rstrip(escape))) % 2 == 1


@contextmanager
def _long_fields() -> Iterator[None]:
    """csv's longest field is a setting of the process: raised while rows are parsed, and put back."""
    before = csv.field_size_limit(MOST_BYTES_IN_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)
