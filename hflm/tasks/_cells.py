"""Reading one row's columns: the text, references or label that a task needs, or a BadValue.

One rule for all tasks. A column that the task names must hold text: a null, missing or empty value makes a bad row
(`on_bad_row`). A prompt may show any column: there a null or missing value is the empty text, like an empty one.
"""

import math
import numbers
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hflm.core import nfc
from hflm.tasks._kind import Row

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


class BadValue(Exception):
    """A column of this row cannot be used; the message names the column, the value and what was expected."""


def is_null(value: Any) -> bool:
    """Whether a value is null: None, or the NaN that typed tables hold in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def written(value: Any) -> Any:
    """A number or a truth value as text, as JSON writes it; other values unchanged.

    >>> written(5), written(True), written(None)
    ('5', 'true', None)
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, numbers.Number) and not is_null(value) else value


def text(row: Row, column: str) -> str:
    """The text of a column, stripped.

    >>> text({"sentence": " good film "}, "sentence")
    'good film'
    """
    value = cell(row, column)
    if is_null(value):
        raise BadValue(f"{column} is null")
    found = written(value)
    if not isinstance(found, str):
        raise BadValue(f"{column} is {shown(value)}, not text")
    if not found.strip():
        raise BadValue(f"{column} is empty")
    return found.strip()


def texts(row: Row, column: str) -> tuple[str, ...]:
    """One or several texts of a column, stripped: a string, or a list of them.

    >>> texts({"de": ["Hallo ", "Guten Tag"]}, "de")
    ('Hallo', 'Guten Tag')
    """
    value = cell(row, column)
    if not isinstance(value, list | tuple):
        return (text(row, column),)
    if not value:
        raise BadValue(f"{column} is an empty list")
    return tuple(text({f"{column}[{i}]": one}, f"{column}[{i}]") for i, one in enumerate(value))


def references(row: Row, columns: str | Sequence[str]) -> tuple[str, ...]:
    """The texts of one column, or of several columns, of which some may be null, missing or empty, but not all.

    >>> references({"first": "Hallo", "second": "", "third": "Guten Tag"}, ["first", "second", "third"])
    ('Hallo', 'Guten Tag')
    """
    if isinstance(columns, str):
        return texts(row, columns)
    filled = [column for column in columns if not _is_blank(row.get(column))]
    if not filled:
        raise BadValue(f"{', '.join(columns)} are all empty")
    return tuple(each for column in filled for each in texts(row, column))


def label(row: Row, column: str, labels: Sequence[str]) -> str:
    """The label's word: the column holds the word itself, or its number from 0 (as a number or as digits).

    Where labels are numbers themselves (`labels: ["1", "2", "3"]`) the column holds the word: a position would make 0
    and 1 the same label. A truth value is the word true or false.

    >>> label({"label": 1}, "label", ("negative", "positive"))
    'positive'
    """
    value = cell(row, column)
    numbered = any(NUMBER.fullmatch(each) for each in labels)
    expected = f"expected one of {listed(labels)}" + ("" if numbered else f", or a number from 0 to {len(labels) - 1}")
    if not isinstance(value, str | numbers.Integral):
        raise BadValue(f"{column} is {'null' if is_null(value) else shown(value)}; {expected}")
    word = str(written(value)).strip()
    if word in labels:
        return word
    if composed := [each for each in labels if nfc(each) == nfc(word)]:
        return composed[0]
    digits = word.isascii() and word.isdigit()
    if digits and not numbered and int(word) < len(labels):
        return labels[int(word)]
    hint = ". This split seems to have no labels" if word == "-1" else ""
    if digits and numbered:
        hint = ". Labels that are numbers are the column's own; for its numbers counted from 0 write words (one, two)"
    if alike := [each for each in labels if each.casefold() == word.casefold()]:
        hint = f". Labels are compared with their case: did you mean {alike[0]}?"
    raise BadValue(f"{column} is {shown(value)}; {expected}{hint}")


def cell(row: Row, column: str) -> Any:
    if column not in row:
        raise BadValue(f"{column} is missing")
    return row[column]


def shown(value: Any) -> str:
    shortened = repr(value)
    return shortened if len(shortened) <= 60 else shortened[:57] + "..."


def listed(names: Iterable[object]) -> str:
    """'a, b, c', at most 20 of them; names with white space around them, or that cannot be printed, as Python spells them."""
    words = [name if name and name == name.strip() and name.isprintable() else repr(name) for name in map(str, names)]
    return ", ".join(words[:20]) + (f" ... ({len(words)} in all)" if len(words) > 20 else "")


def _is_blank(value: Any) -> bool:
    return is_null(value) or not (value.strip() if isinstance(value, str) else value or isinstance(value, int | float))
