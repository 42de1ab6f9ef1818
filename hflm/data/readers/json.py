"""JSON: an object a line, one list of objects, or such a list under the key `field`."""

import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, Self

from hflm.data.readers.base import (
    CHUNK,
    HALF_PAIR,
    NOT_UTF8,
    BadRow,
    Columns,
    Row,
    Rows,
    error_reason,
    invalid_column,
    is_text,
    line_batches,
    located,
    open_file,
)
from hflm.data.readers.options import JsonOptions

_SPACE = re.compile(r"[ \t\n\r]*")
MOST_DIGITS = 4000  # of an int; Python refuses to parse 4,300


class Number(float):
    """A number that is shown as the file spells it.

    >>> f"{Number('1.10')}", Number("1.10") + 1
    ('1.10', 2.1)
    """

    def __new__(cls, text: str | float) -> Self:
        number = super().__new__(cls, text)
        number.text = str(text)
        return number

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__
    __slots__ = ("text",)
    text: str


class Boolean(int):
    """True or False that is shown as JSON spells it.

    >>> f"{Boolean(True)}", Boolean(False) == False
    ('true', True)
    """

    def __repr__(self) -> str:
        return "true" if self else "false"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def _integer(text: str) -> int | Number:
    return Number(text) if text == "-0" or len(text) > MOST_DIGITS else int(text)


class RepeatedKey(ValueError):
    """An object with a key twice: which of the two values holds is left to each reader of JSON (RFC 8259)."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKey(f"has the key {next(key for key in keys if keys.count(key) > 1)!r} twice. Remove one of them")
    return found


_BETWEEN_LINES = object()


def _constant(text: str) -> Any:
    return _BETWEEN_LINES if text == "-Infinity" else Number(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_int=_integer, parse_constant=Number)
# Of many lines at once; the second for those whose integers are all as Python writes them.
_LINES_DECODER, _SHORT_LINES_DECODER = (
    json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_int=parse_int, parse_constant=_constant)
    for parse_int in (_integer, None)
)
_END_DECODER = json.JSONDecoder(parse_int=str)  # finds the end of a value, whatever it is


def read_json(file: str, options: JsonOptions, columns: Columns) -> Rows:
    """Each row of JSON Lines at the number of its line, of a list at its own."""
    if options.field is not None:
        return _items(file, _field(file, options), columns)
    if _begins_with_list(file, options):
        return _items(file, _list(file, options), columns)
    return _lines(file, options, columns)


def with_booleans(value: Any) -> Any:
    """`value` with each bool in it, nested ones too, as a Boolean."""
    if isinstance(value, bool):
        return Boolean(value)
    if isinstance(value, dict):
        return {key: with_booleans(each) for key, each in value.items()}
    return [with_booleans(each) for each in value] if isinstance(value, list) else value


def _lines(file: str, options: JsonOptions, columns: Columns) -> Rows:
    first = 1
    for lines in line_batches(file, options.encoding, options.encoding_errors, "\n"):
        rows = _decode_all(lines, columns)
        if rows is not None:
            yield located(rows, file, first)
        else:
            yield [
                _decode(file, number, line, columns) for number, line in enumerate(lines, first) if not line.isspace()
            ]
        first += len(lines)


def _decode_all(lines: list[str], columns: Columns) -> list[dict[str, Any]] | None:
    """The objects of lines that are a good row each, decoded at once as one list; None where they may be anything else.

    A constant that no line holds is put between them. If each second value of the list is that constant, each line is
    one value: no list or object began in one line and ended in another, and no line holds two.
    """
    text = ",-Infinity,".join(lines)
    # Characters are counted much faster than words.
    has_minus = text.count("-") != len(lines) - 1
    if (has_minus and text.count("-Infinity") != len(lines) - 1) or not is_text(text):
        return None
    is_short = not (has_minus and "-0" in text) and len(max(lines, key=len)) < MOST_DIGITS
    try:
        found = (_SHORT_LINES_DECODER if is_short else _LINES_DECODER).decode(f"[{text}]")
        rows = found[::2]
        is_alternating = len(found) == 2 * len(lines) - 1 and found.count(_BETWEEN_LINES) == len(lines) - 1
        if not is_alternating or set(map(type, rows)) != {dict}:
            return None
        if "true" in text or "false" in text:
            rows = [with_booleans(row) for row in rows]
        # Only an escape can write half of a surrogate pair, as the lines are text.
        has_half = "\\" in text and "\\ud" in text.lower()
        is_valid = not has_half or all(invalid_column(row, columns) is None for row in rows)
    except (ValueError, RecursionError):
        return None
    return rows if is_valid else None


def _decode(file: str, number: int, line: str, columns: Columns) -> Row | BadRow:
    if not is_text(line):
        return BadRow(file, number, NOT_UTF8, ":")
    try:
        row = _DECODER.decode(line)
        if "true" in line or "false" in line:
            row = with_booleans(row)
    except json.JSONDecodeError as error:
        return BadRow(file, number, f"is not JSON: {error.msg} at column {error.colno}", ":")
    except RepeatedKey as error:
        return BadRow(file, number, str(error), ":")
    except RecursionError as error:  # a list in a list in a list ...
        return BadRow(file, number, f"is not JSON that can be read: {error_reason(error)}", ":")
    return _checked(file, number, row, columns, ":")


def _items(file: str, items: Iterator[Any], columns: Columns) -> Rows:
    number = 0
    try:
        for number, row in enumerate(items, 1):
            if isinstance(row, RepeatedKey):
                yield [BadRow(file, number, str(row))]
            else:
                yield [_checked(file, number, with_booleans(row), columns, ", row ")]
    except _NotList as error:
        yield [BadRow(file, None, str(error), rest=True)]
    except json.JSONDecodeError as error:
        reason = f"is not JSON: {error.msg} at column {error.colno}"
        yield [BadRow(file, error.lineno, reason, ":", rest=True)]
    except RecursionError as error:
        yield [BadRow(file, None, f"is not JSON that can be read: {error_reason(error)}", rest=True)]
    except RepeatedKey as error:
        yield [BadRow(file, None, f"holds an object that {error}", rest=True)]


class _NotList(ValueError):
    pass


def _field(file: str, options: JsonOptions) -> Iterator[Any]:
    """The items of the list under `field`."""
    lines = line_batches(file, options.encoding, options.encoding_errors, "\n")
    text = "".join(itertools.chain.from_iterable(lines))
    _require_text(text)
    whole = _DECODER.decode(text)
    rows = whole.get(options.field) if isinstance(whole, dict) else None
    if not isinstance(rows, list):
        raise _NotList(f"holds no list of rows under the field {options.field!r}")
    yield from rows


def _list(file: str, options: JsonOptions) -> Iterator[Any]:
    """The items of a file that is one list, decoded one by one, so that memory holds a few of them."""
    lines = line_batches(file, options.encoding, options.encoding_errors, "\n")
    window = _Window(itertools.chain.from_iterable(lines))
    window.expect("[")
    if window.peek() == "]":
        window.expect("]")
    else:
        while True:
            yield window.value()
            if window.peek() == "]":
                window.expect("]")
                break
            window.expect(",")
    if window.peek():
        raise window.error("Extra data", window.position)


def _decode_at(text: str, position: int) -> tuple[Any, int]:
    """(the value that begins there, or a RepeatedKey; its end)"""
    try:
        return _DECODER.raw_decode(text, position)
    except RepeatedKey as error:
        return error, _END_DECODER.raw_decode(text, position)[1]


class _Window:
    """A moving part of a JSON text; `position` is the next character in `text`."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.text, self.position = lines, "", 0
        self.passed = 0  # newlines before `text`
        self.complete = False

    def more(self) -> bool:
        """Read at least as much again as there is. False at the end of the file."""
        if self.complete:
            return False
        self.passed += self.text.count("\n", 0, self.position)
        parts, size = [self.text[self.position :]], 0
        self.position = 0
        wanted = max(CHUNK, len(parts[0]))
        for line in self.lines:
            parts.append(line)
            size += len(line)
            if size >= wanted:
                break
        else:
            self.complete = True
        new = "".join(parts[1:])
        _require_text(new)
        self.text = parts[0] + new
        return bool(new)

    def peek(self) -> str:
        """The next character that is no white space, '' at the end."""
        while True:
            self.position = _SPACE.match(self.text, self.position).end()  # type: ignore[union-attr] - matches always
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.more():
                return ""

    def expect(self, character: str) -> None:
        if self.peek() != character:
            raise self.error(f"Expecting '{character}'", self.position)
        self.position += 1

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = _decode_at(self.text, self.position)
            except json.JSONDecodeError as error:
                if not self.more():
                    raise self.error(error.msg, error.pos) from None
            else:
                if end < len(self.text) or not self.more():  # a number may go on after the window
                    self.position = end
                    return value

    def error(self, message: str, position: int) -> json.JSONDecodeError:
        error = json.JSONDecodeError(message, self.text, position)
        error.lineno += self.passed
        return error


def _require_text(text: str) -> None:
    if not is_text(text):
        raise UnicodeError(NOT_UTF8)


def _begins_with_list(file: str, options: JsonOptions) -> bool:
    with (
        open_file(file) as raw,
        io.TextIOWrapper(
            raw,
            encoding="utf-8-sig" if options.encoding in (None, "utf-8") else options.encoding,
            errors="replace",
        ) as text,
    ):
        return text.read(64).lstrip()[:1] == "["


def _checked(file: str, number: int, row: Any, columns: Columns, mark: str) -> Row | BadRow:
    if not isinstance(row, dict):
        shown = {"str": "text", "NoneType": "null"}.get(type(row).__name__, type(row).__name__)
        return BadRow(file, number, f"is {shown}, not a JSON object with columns", mark)
    column = invalid_column(row, columns)
    if column is not None:
        return BadRow(file, number, f"column '{column}' {HALF_PAIR}", mark)
    return Row.of(row, (file, mark, number))
