"""Which rows are answered together: groups of prompts that begin alike, and batches that hold a budget of tokens."""

import os
from collections import Counter


def grouped(ids):
    """Group rows that begin alike, where running that beginning once saves tokens: (group of each row, head lengths).

    The head of a group is what its rows share; each row keeps a token of its own. In the order of their ids, a row
    joins the group before it when the head's tokens that it spares are more than those that the shorter head costs the
    others.

    >>> grouped([[7, 8, 9, 1], [5, 5], [7, 8, 9, 2, 2]])
    ([1, 0, 1], [1, 3])
    """
    groups, heads, size = [0] * len(ids), [], 0
    previous = []
    for row in sorted(range(len(ids)), key=ids.__getitem__):
        common = min(len(os.path.commonprefix([previous, ids[row]])), len(ids[row]) - 1)
        if size and size * (heads[-1] - common) < common:
            heads[-1], size = min(heads[-1], common), size + 1
        else:
            heads.append(len(ids[row]) - 1)
            size = 1
        groups[row], previous = len(heads) - 1, ids[row][: heads[-1]]
    return groups, heads


def heads(ids, groups, head_lengths):
    """The tokens of each row that run once for its group in this batch; None where that spares no padded tokens.

    A row that is alone in the batch is cut where the others' tails begin, which costs it nothing.
    """
    rows = Counter(groups)
    tails = [len(row) - head_lengths[group] for row, group in zip(ids, groups, strict=True) if rows[group] > 1]
    if not tails:
        return None
    tail, found = max(tails), []
    for row, group in zip(ids, groups, strict=True):
        found.append(head_lengths[group] if rows[group] > 1 else max(0, len(row) - tail))
    shared = len(rows) * max(found) + len(ids) * max(len(row) - head for row, head in zip(ids, found, strict=True))
    return found if shared < len(ids) * max(map(len, ids)) else None


def batches(lengths, budget, groups):
    """Row numbers, longest first, in batches that hold at most `budget` tokens when padded (or a single row).

    Rows of a group stay together, where its longest row stands.

    >>> list(batches([2, 9, 3, 8], budget=16, groups=[0, 1, 2, 3]))
    [[1], [3, 2], [0]]
    """
    longest_of = {}
    for length, group in zip(lengths, groups, strict=True):
        longest_of[group] = max(length, longest_of.get(group, 0))
    batch, longest = [], 0
    order = [
        (-longest_of[group], group, -length, number) for number, (length, group) in enumerate(zip(lengths, groups))
    ]
    for *_, number in sorted(order):
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch = []
        longest = longest if batch else longest_of[groups[number]]
        batch.append(number)
    if batch:
        yield batch
