"""Reading one row's columns: the text, references or label that a task needs, or a BadValue that says what is there."""

import numbers
import re


class BadValue(Exception):
    """A column of this row cannot be used; the message names the column, the value and what was expected."""


def text(row, column):
    """The text of a column, stripped.

    >>> text({"sentence": " good film "}, "sentence")
    'good film'
    """
    value = cell(row, column)
    if not isinstance(value, str):
        raise BadValue(f"{column} is {shown(value)}, not text")
    if not value.strip():
        raise BadValue(f"{column} is empty")
    return value.strip()


def texts(row, column):
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


def label(row, column, labels):
    """The label's word: the column holds the word itself, or its number from 0 (as a number or as digits).

    Where labels are numbers themselves (`labels: ["1", "2", "3"]`) the column holds the word: a position would make 0
    and 1 the same label.

    >>> label({"label": 1}, "label", ("negative", "positive"))
    'positive'
    """
    value = cell(row, column)
    numbered = any(re.fullmatch(r"[+-]?\d+(\.\d+)?", each) for each in labels)
    expected = f"expected one of {listed(labels)}" + ("" if numbered else f", or a number from 0 to {len(labels) - 1}")
    if isinstance(value, bool) or not isinstance(value, str | numbers.Integral):
        raise BadValue(f"{column} is {shown(value)}; {expected}")
    word = str(value).strip()
    if word in labels:
        return word
    digits = word.isascii() and word.isdigit()
    if digits and not numbered and int(word) < len(labels):
        return labels[int(word)]
    hint = ". This split seems to have no labels" if word == "-1" else ""
    if digits and numbered:
        hint = ". Labels that are numbers are the column's own; for its numbers counted from 0 write words (one, two)"
    raise BadValue(f"{column} is {shown(value)}; {expected}{hint}")


def cell(row, column):
    if column not in row:
        raise BadValue(f"{column} is missing")
    return row[column]


def shown(value):
    written = repr(value)
    return written if len(written) <= 60 else written[:57] + "..."


def listed(names):
    """'a, b, c', at most 20 of them."""
    names = [str(name) for name in names]
    return ", ".join(names[:20]) + (f" ... ({len(names)} in all)" if len(names) > 20 else "")
