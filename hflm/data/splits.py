"""What a recipe calls a split: `train[10:20%]+test` are some rows of one split and all rows of another."""

import re


def parts(split):
    """'train[:9] + test' -> ['train[:9]', 'test']."""
    return re.split(r" *\+ *", split)


def name(part):
    """'train[:2000]' -> 'train'."""
    return bounds(part)[0]


def bounds(part):
    """'train[10:20%]' -> ('train', '10', '20%'); a bound that is not said is ''."""
    found = re.fullmatch(r"([^\[]+)(?:\[([^:]*):([^\]]*)\])?(?:\(\w+\))?", part)
    return found[1], (found[2] or "").replace("_", ""), (found[3] or "").replace("_", "")


def row(bound, length):
    """'-10' or '20%' of `length` rows -> the number of a row; None for ''. A plain number needs no length."""
    if not bound:
        return None
    number = round(length * int(bound[:-1]) / 100) if bound.endswith("%") else int(bound)
    return max(0, number + length) if number < 0 else number
