"""JSON: an object a line, one list of objects, or such a list under the key `field`."""

import io
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
    Numbered,
    error_reason,
    invalid_column,
    is_text,
    numbered_lines,
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


_DECODER = json.JSONDecoder(parse_float=Number, parse_int=_integer, parse_constant=Number)


def read_json(file: str, options: JsonOptions, columns: Columns) -> Numbered:
    """(number of the line, row) of JSON Lines; (number of the row, row) of a list."""
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


def json_mark(options: JsonOptions, file: str) -> str:
    """What separates the file from a row's number: lines are counted in JSON Lines, rows in lists."""
    return ", row " if options.field is not None or _begins_with_list(file, options) else ":"


def _lines(file: str, options: JsonOptions, columns: Columns) -> Numbered:
    decode = _DECODER.decode
    for number, line in numbered_lines(file, options.encoding, options.encoding_errors, "\n"):
        if line.isspace():
            continue
        try:
            if not (line.isascii() or is_text(line)):
                yield number, BadRow(file, number, NOT_UTF8, ":")
                continue
            row = decode(line)
            if "true" in line or "false" in line:
                row = with_booleans(row)
        except json.JSONDecodeError as error:
            yield number, BadRow(file, number, f"is not JSON: {error.msg} at column {error.colno}", ":")
        except RecursionError as error:  # a list in a list in a list ...
            yield number, BadRow(file, number, f"is not JSON that can be read: {error_reason(error)}", ":")
        else:
            # Only an escape can write half a surrogate pair, as the line is text.
            if type(row) is dict and "\\u" not in line:
                yield number, row
            else:
                yield number, _checked(file, number, row, columns, ":")


def _items(file: str, items: Iterator[Any], columns: Columns) -> Numbered:
    try:
        for number, row in enumerate(items, 1):
            yield number, _checked(file, number, with_booleans(row), columns, ", row ")
    except _NotList as error:
        yield None, BadRow(file, None, str(error), rest=True)
    except json.JSONDecodeError as error:
        reason = f"is not JSON: {error.msg} at column {error.colno}"
        yield error.lineno, BadRow(file, error.lineno, reason, ":", rest=True)
    except RecursionError as error:
        yield None, BadRow(file, None, f"is not JSON that can be read: {error_reason(error)}", rest=True)


class _NotList(ValueError):
    pass


def _field(file: str, options: JsonOptions) -> Iterator[Any]:
    """The items of the list under `field`."""
    lines = numbered_lines(file, options.encoding, options.encoding_errors, "\n")
    text = "".join(line for _, line in lines)
    _require_text(text)
    whole = _DECODER.decode(text)
    rows = whole.get(options.field) if isinstance(whole, dict) else None
    if not isinstance(rows, list):
        raise _NotList(f"holds no list of rows under the field {options.field!r}")
    yield from rows


def _list(file: str, options: JsonOptions) -> Iterator[Any]:
    """The items of a file that is one list, decoded one by one, so that memory holds a few of them."""
    window = _Window(numbered_lines(file, options.encoding, options.encoding_errors, "\n"))
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


class _Window:
    """A moving part of a JSON text; `position` is the next character in `text`."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
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
        for _, line in self.lines:
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
                value, end = _DECODER.raw_decode(self.text, self.position)
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


def _checked(file: str, number: int, row: Any, columns: Columns, mark: str) -> dict[str, Any] | BadRow:
    if not isinstance(row, dict):
        shown = {"str": "text", "NoneType": "null"}.get(type(row).__name__, type(row).__name__)
        return BadRow(file, number, f"is {shown}, not a JSON object with columns", mark)
    column = invalid_column(row, columns)
    return row if column is None else BadRow(file, number, f"column '{column}' {HALF_PAIR}", mark)
