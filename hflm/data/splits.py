"""What a recipe calls a split: `train[10:20%]+test` are some rows of one split and all rows of another."""

import re


def split_parts(split: str) -> list[str]:
    """'train[:9] + test' -> ['train[:9]', 'test']."""
    return re.split(r" *\+ *", split)


def split_name(part: str) -> str:
    """'train[:2000]' -> 'train'."""
    return split_bounds(part)[0]


def split_bounds(part: str) -> tuple[str, str, str]:
    """'train[10:20%]' -> ('train', '10', '20%'); '' for a bound that is left out."""
    found = re.fullmatch(r"([^\[]+)(?:\[([^:]*):([^\]]*)\])?(?:\(\w+\))?", part)
    assert found is not None  # a recipe's splits are checked when it is loaded
    return found[1], (found[2] or "").replace("_", ""), (found[3] or "").replace("_", "")


def needs_length(*bounds: str) -> bool:
    """Whether bounds count from the end or in percent, so that the number of rows must be known."""
    return any("-" in bound or "%" in bound for bound in bounds)


def bound_to_row(bound: str, length: int | None) -> int | None:
    """'-10' or '20%' of `length` rows -> the number of a row; None for ''. A plain number needs no length.

    >>> bound_to_row("-10", 100), bound_to_row("20%", 50), bound_to_row("7", None)
    (90, 10, 7)
    """
    if not bound:
        return None
    if not needs_length(bound):
        return int(bound)
    assert length is not None
    number = round(length * int(bound[:-1]) / 100) if bound.endswith("%") else int(bound)
    return max(0, number + length) if number < 0 else number
